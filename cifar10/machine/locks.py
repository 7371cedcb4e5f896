"""Locks between processes that die with their holder, so that a killed one blocks nobody."""

import contextlib
import os
import socket

from cifar10.machine import files

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


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
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                busy(file.read().strip() or "another process")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        try:
            yield
        finally:
            file.truncate(0)
