"""Small data sets, and real processes."""

import dataclasses
import gc
import signal
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import SCRIPTS, write_noise

from cifar10.data import datasets, download, records

sys.path.append(str(SCRIPTS))
# What was imported is no garbage. To look through it again and again takes seconds, and makes Python put off what frees
# the graphs and sessions that tests have left.
gc.freeze()
# Where pytest was started with nohup, or by a script in the background, the scripts that it starts would ignore the
# loss of their terminal, or an interruption, too.
for signum, handler in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(signum) == signal.SIG_IGN:
        signal.signal(signum, handler)


@pytest.fixture
def graph():
    """A fresh graph as the default one."""
    with tf.Graph().as_default() as fresh:
        yield fresh


@pytest.fixture
def tiny():
    """A data set of 100 training and 20 test images in CIFAR-10's files; not on disk yet."""
    return dataclasses.replace(
        datasets.CIFAR10,
        train_files=tuple((f"data_batch_{i}.bin", 20) for i in range(1, 6)),
        test_files=(("test_batch.bin", 20),),
    )


@pytest.fixture
def noise():
    """Examples of noise: 100 images, labels in turn."""
    images = np.random.RandomState(1).randint(0, 256, [100, 32, 32, 3], dtype=np.uint8)
    return records.Examples(images, (np.arange(100) % 10).astype(np.int32))


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory):
    """A data_dir with the synthetic data set in it."""
    data_dir = str(tmp_path_factory.mktemp("data"))
    download.ensure(datasets.SYNTHETIC, data_dir)
    return data_dir


@pytest.fixture(scope="session")
def full_size_dir(tmp_path_factory):
    """A data_dir with files of noise in CIFAR-10's own names and sizes."""
    data_dir = str(tmp_path_factory.mktemp("full"))
    write_noise(datasets.CIFAR10, data_dir)
    return data_dir
