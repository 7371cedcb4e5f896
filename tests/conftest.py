"""Small data sets, and real processes."""

import dataclasses
import importlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10 import datasets, download, records

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"
sys.path.append(str(SCRIPTS))

# The flags with which most tests train: few small steps, each with its line.
TRAIN_FLAGS = {
    "dataset": "synthetic",
    "data_url": None,
    "data_sha256": None,
    "batch_size": 16,
    "use_fp16": False,
    "input_pipeline": "dataset",
    "min_fraction_of_examples_in_queue": 0.4,
    "restart": False,
    "model": "tutorial",
    "recipe": "tutorial",
    "num_held_out": 0,
    "lrn": "auto",
    "microbatch_size": 8,
    "seed": 0,
    "log_device_placement": False,
    "log_frequency": 1,
}
EVAL_FLAGS = {
    "dataset": "synthetic",
    "data_url": None,
    "data_sha256": None,
    "batch_size": 128,
    "use_fp16": False,
    "eval_data": "test",
    "num_examples": 200,
    "views": "1",
    "model": None,
    "use_moving_averages": True,
    "eval_interval_secs": 0,
    "run_once": True,
}


def train(data_dir, train_dir, script="cifar10_train", **flags):
    """Runs a training script in this process."""
    values = {**TRAIN_FLAGS, "data_dir": str(data_dir), "train_dir": str(train_dir), **flags}
    importlib.import_module(script).run(**values)


def arguments(data_dir, train_dir, **flags):
    """Returns the command-line arguments of what `train` does."""
    values = {**TRAIN_FLAGS, "data_dir": data_dir, "train_dir": train_dir, **flags}
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def evaluate(data_dir, checkpoint_dir, eval_dir, **flags):
    """Runs the evaluation script in this process; returns its results."""
    directories = {"data_dir": data_dir, "checkpoint_dir": checkpoint_dir, "eval_dir": eval_dir}
    values = {**EVAL_FLAGS, **{name: str(path) for name, path in directories.items()}, **flags}
    return importlib.import_module("cifar10_eval").run(**values)


def write_noise(dataset, data_dir, seed=0):
    """Writes a data set's files: labels in turn, and pictures of noise."""
    rng = np.random.RandomState(seed)
    os.makedirs(dataset.path(data_dir), exist_ok=True)
    for split in datasets.SPLITS:
        for path, (_, count) in zip(records.paths(dataset, data_dir, split), dataset.files(split), strict=True):
            data = rng.randint(0, 256, [count, datasets.RECORD_BYTES], dtype=np.uint8)
            data[:, 0] = np.arange(count) % dataset.num_classes
            data.tofile(path)


def run_script(name, *args, timeout=120, check=None):
    """Runs scripts/<name>.py as a user would, from another folder; returns the finished process."""
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, args)]
    process = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=os.path.expanduser("~"), env=environment()
    )
    if check is not None:
        assert process.returncode == check, process.stdout + process.stderr
    return process


def environment():
    """Returns the environment in which scripts find the package of this tree."""
    return {**os.environ, "PYTHONPATH": str(SCRIPTS.parent), "TF_CPP_MIN_LOG_LEVEL": "2"}


@pytest.fixture
def graph():
    """A fresh graph as the default one."""
    with tf.Graph().as_default() as fresh:
        yield fresh


@pytest.fixture
def tiny():
    """A data set of 100 training and 20 test pictures in CIFAR-10's files; not on disk yet."""
    return dataclasses.replace(
        datasets.CIFAR10,
        train_files=tuple((f"data_batch_{i}.bin", 20) for i in range(1, 6)),
        test_files=(("test_batch.bin", 20),),
    )


@pytest.fixture
def noise():
    """Examples of noise: 100 pictures, labels in turn."""
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
