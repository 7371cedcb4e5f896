"""Locks and syncing on systems that have less than Linux: simulated, because the tests run there."""

import errno
import fcntl
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10.machine import locks
from cifar10.runs import checkpoints


class Msvcrt:
    """What locks needs of Windows' module: a byte that is locked is nobody else's, and cannot be waited for."""

    LK_NBLCK = 2

    @staticmethod
    def locking(descriptor, mode, count):
        assert (mode, count) == (Msvcrt.LK_NBLCK, 1)
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == locks.LOCKED_BYTE  # none that others read
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EACCES, "Permission denied") from None


class Busy(Exception):
    pass


def busy(holder):
    raise Busy(holder)


def test_on_windows_a_lock_is_held_says_by_whom_and_is_free_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", Msvcrt)
    path = tmp_path / "lock"
    with locks.held(path, busy):
        with pytest.raises(Busy, match=rf"^process {os.getpid()} on "), locks.held(path, busy):
            pass
        assert path.stat().st_size < 1000  # the byte that is locked is not written
    with locks.held(path, busy):
        pass


def test_where_a_lock_must_be_waited_for_it_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PAUSE_SECS", 0.001)
    path = tmp_path / "lock"
    holder = open(path, "a+")  # noqa: SIM115 (closed while the other waits)
    fcntl.flock(holder, fcntl.LOCK_EX)
    told = []

    def wait(name):
        told.append(name)
        holder.close()

    with locks.held(path, wait):
        assert told == ["another process"]


def test_a_checkpoint_is_saved_where_folders_cannot_be_opened_and_files_only_synced_for_writing(tmp_path, monkeypatch):
    """As on Windows: CreateFile refuses a folder, and FlushFileBuffers a handle that cannot write."""
    real_open, real_fsync = os.open, os.fsync
    synced = []

    def windows_open(path, flags, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real_open(path, flags, *args, **kwargs)

    def windows_fsync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(descriptor)
        real_fsync(descriptor)

    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("v", initializer=np.float32(3.5))
        session.run(tf.global_variables_initializer())
        savers = checkpoints.savers()
        monkeypatch.setattr(os, "open", windows_open)
        monkeypatch.setattr(os, "fsync", windows_fsync)
        path = checkpoints.save(savers, session, str(tmp_path), 1, 0)
        monkeypatch.undo()
    assert tf.train.load_variable(path, "v") == 3.5
    assert len(synced) == 4  # data, index, graph and the state file


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_the_disk_cannot_sync_is_an_error_still(tmp_path, monkeypatch, error):
    def failing(descriptor):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=os.strerror(error)):
        checkpoints._sync(str(tmp_path))
