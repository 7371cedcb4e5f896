"""Locks between processes that die with their holder, so that a killed one blocks nobody."""

import contextlib
import errno
import os
import socket
import time

from cifar10.machine import files

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # on Windows only
    msvcrt = None

BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # what a lock of another process raises
LOCKED_BYTE = 2**30  # of the file, on Windows, where others cannot read what is locked
PAUSE_SECS = 0.1  # between two attempts at a lock that Windows does not wait for


def _take(file):
    """Takes the lock of an open file; returns False if another process has it, True also where there are no locks."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt:
            file.seek(LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        return error.errno not in BUSY
    return True


def _wait(file):
    while not _take(file):
        time.sleep(PAUSE_SECS)


@contextlib.contextmanager
def held(path, busy):
    """Holds the lock file at path. It is never removed, as another process may just be waiting for this very file.

    Where the system or the file system has no locks nothing is held, which is better than not working at all.

    Args:
      path: the lock file, made if it is not there; it says who holds it.
      busy: function (holder) that is called where another process holds it; if it returns, the lock is waited for.

    Raises:
      OSError: the lock file cannot be opened, or is a folder or a pipe.
    """
    with open(path, "a+", opener=files.regular) as file:
        if not _take(file):
            file.seek(0)
            busy(file.read().strip() or "another process")
            _wait(file)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        try:
            yield
        finally:
            file.truncate(0)
