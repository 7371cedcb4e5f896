"""Standard output and error that may be full, gone, or short of characters, which must not cost a run."""

import os
import signal
import sys

from cifar10.machine import signals


class Console:
    """A text stream in front of another one, whose failures whoever prints never sees.

    Where nobody reads it any more, as in `| head -1`, that is the loss of the terminal: a training saves and ends, or
    goes on if it was told to (nohup), and anything else ends with exit code 1. Where it cannot be written, as on a full
    disk, a line on standard error says so, and what follows is dropped.

    Attributes:
      fault: None, or the OSError for which output was lost.
    """

    def __init__(self, stream):
        self._stream = stream
        self.fault = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # of a character that its encoding has not

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self):
        self._attempt(self._stream.flush)

    def _attempt(self, operation, *arguments):
        try:
            operation(*arguments)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error):
        # What is in its buffer would fail again at the end of the program; there it goes nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            self.fault = error
            print(f"Output cannot be written ({error.strerror}); going on without it", file=sys.stderr, flush=True)
        elif signals.is_deferring():
            signal.raise_signal(getattr(signal, "SIGHUP", signal.SIGTERM))
        elif self is sys.stdout:  # no OSError, which would be taken for one of a file
            sys.exit(1)


def install():
    """Puts a Console in front of standard output and standard error. What is closed of them, as by `2>&-`, is nowhere.

    A number that is free would be that of the next file opened, into which TensorFlow would write its warnings.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = Console(sys.stdout or _nowhere())
    sys.stderr = Console(sys.stderr or _nowhere())


def _nowhere():
    return open(os.devnull, "w")
