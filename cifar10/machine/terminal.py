"""What only somebody at a terminal gets to see: nothing of it is in a log, or read by a program.

It goes to standard error, if that is a terminal, so lines on standard output stay as they are.
"""

import sys
import time

REDRAW_SECS = 0.25  # between two states of a line of progress
FIRST_SECS = 1.0  # before what is left can be told


def is_there():
    """Returns whether somebody is looking."""
    return bool(sys.stderr) and sys.stderr.isatty()


def say(line):
    """Prints a line."""
    if is_there():
        print(line, file=sys.stderr, flush=True)


class Rest:
    """How long the rest of long work will take, at the pace since it was first asked.

    So what comes before does not count, as the first step, which is slower than all others.
    """

    def __init__(self, total, clock=time.monotonic):
        """Begins; for the arguments see Progress."""
        self._total = total
        self._clock = clock
        self._first = None  # (how many were done, when)

    def text(self, done):
        """Returns it as `, 2 min left`, or nothing as long as it cannot be told."""
        now = self._clock()
        self._first = self._first or (done, now)
        start, began = self._first
        if now - began < FIRST_SECS or done <= start:
            return ""
        return f", {duration((now - began) / (done - start) * (self._total - done))} left"


class Progress:
    """A line that says how far long work is and how long the rest will take, as `step 1,200 of 5,000, 2 min left`.

    The cursor is left at its beginning, so the next line, of whatever is printed, takes its place.
    """

    def __init__(self, unit, total, clock=time.monotonic, hidden=False):
        """Begins.

        Args:
          unit: what is counted.
          total: how many there will be.
          clock: function that returns the time in seconds.
          hidden: whether it is to show nothing.
        """
        self._unit = unit
        self._total = total
        self._clock = clock
        self._rest = Rest(total, clock)
        self._shown = clock()
        self._hidden = hidden
        self._width = 0

    def show(self, done):
        """Shows that so many are done, unless it was shown just now, or nobody is looking."""
        now = self._clock()
        if self._hidden or now - self._shown < REDRAW_SECS or not is_there():
            return
        self._shown = now
        line = f"{self._unit} {done:,} of {self._total:,}{self._rest.text(done)}"
        print(f"\r{line:{self._width}}", end="\r", file=sys.stderr, flush=True)
        self._width = len(line)

    def close(self):
        """Takes the line away."""
        if self._width:
            print(" " * self._width, end="\r", file=sys.stderr, flush=True)
            self._width = 0


def duration(secs):
    """Returns a time in seconds as people say it: `40 s`, `12 min`, `3.5 h`."""
    if secs < 99.5:
        return f"{secs:.0f} s"
    return f"{secs / 60:.0f} min" if secs < 99.5 * 60 else f"{secs / 3600:.1f} h"
