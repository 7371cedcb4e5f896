"""Files that others may have put there: what is read is a regular file, or an error, and never a wait."""

import errno
import os
import stat


def regular(path, flags, mode=0o666):
    """Opens a regular file: the `opener` of Python's open.

    Opening a named pipe waits until somebody is at its other end, which may be never.

    Args:
      path, flags, mode: as of os.open.

    Returns:
      The file descriptor.

    Raises:
      OSError: it cannot be opened, or is a pipe, a device or a folder.
    """
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return descriptor
