"""Signals -> an orderly end: Ctrl-C (SIGINT), SIGTERM, and the loss of the terminal (SIGHUP).

Handlers are installed here rather than inherited, so that they work in a program that a script started with `&` too,
where SIGINT is ignored. They do next to nothing themselves: what must be done is done by the program, between steps.
"""

import contextlib
import signal
import threading
import time

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

POLL_SECS = 0.5  # that a signal waits at most while the program waits for something else

_deferring = []  # the Requests of the contexts that the program is in


class Interrupted(SystemExit):
    """A signal that ends the program, with the exit code that a shell gives it: 128 + its number.

    Attributes:
      name: of the signal, as 'SIGTERM'.
      message: one line for the user, of which the argument is the end.
    """

    def __init__(self, signum, message=""):
        super().__init__(128 + signum)
        self.name = signal.Signals(signum).name
        self.message = f"ended by {self.name}{message}"

    def __str__(self):
        return self.message


class Request:
    """What a deferred signal asks for.

    Attributes:
      signum: number of the signal that has come, or None.
    """

    signum = None


@contextlib.contextmanager
def raised():
    """Raises Interrupted where the program stands, when a signal comes."""

    def end(signum):
        raise Interrupted(signum)

    with _handled(end):
        yield


@contextlib.contextmanager
def deferred():
    """Yields a Request, which a signal fills in: the program looks at it where it can stop."""
    request = Request()

    def note(signum):
        request.signum = signum

    with _handled(note):
        _deferring.append(request)
        try:
            yield request
        finally:
            _deferring.remove(request)


def is_deferring():
    """Returns whether the program is where a signal, if one comes, waits for it to stop."""
    return any(request.signum is None for request in _deferring)


def sleep(secs):
    """Sleeps. A signal ends it, also one that interrupts nothing, as it came just before, or to another thread."""
    end = time.monotonic() + secs
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, POLL_SECS))


@contextlib.contextmanager
def _handled(handler):
    """Calls handler(number) at the first signal. The next one ends the process at once, whatever it is at."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may install handlers, and gets the signals
        return
    before = {signum: signal.getsignal(signum) for signum in ENDING}
    if before.get(getattr(signal, "SIGHUP", None)) == signal.SIG_IGN:  # nohup's meaning
        del before[signal.SIGHUP]
    came = False

    def first(signum, frame):
        nonlocal came
        if came:
            return  # at the same instant, which counts as one
        came = True
        # Has those called that came at the same instant: Python complains where it finds their handlers taken away.
        signal.raise_signal(signum)
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        handler(signum)

    for signum in before:
        signal.signal(signum, first)
    try:
        yield
    finally:
        if not came:
            for signum, old in before.items():
                signal.signal(signum, old)
