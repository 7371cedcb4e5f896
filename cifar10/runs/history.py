"""What a run has on record: who trained it, with what, and whether it has ended.

The record is RECORD in train_dir, one line a start and a stop. The trainer writes it; evaluation and serving read it.
"""

import os
import platform
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.data import datasets
from cifar10.runs.journal import Journal

RECORD = "runs.jsonl"  # one line a start and a stop
METRICS = "metrics.jsonl"  # what the console prints, to the last digit
FINISHED = "max_steps"  # the reason of a stop after which no checkpoint follows
STOPPED_EARLY = "early_stopping"  # another one


def program():
    """Returns what describes this process: {'program': name, 'arguments': list, 'versions': {name: version}}."""
    return {
        "program": os.path.basename(sys.argv[0]),
        "arguments": sys.argv[1:],
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.version.VERSION,
            "numpy": np.__version__,
        },
    }


def is_final(train_dir, step):
    """Returns whether the run in train_dir has ended at this step, so that no newer checkpoint is to come."""
    last = Journal(os.path.join(train_dir, RECORD)).last()
    if last is None:  # no record: a run of the original tutorial's scripts, or one that has just begun
        return False
    return (
        last.get("event") == "stop" and last.get("reason") in (FINISHED, STOPPED_EARLY) and last.get("step", 0) <= step
    )


def evaluations(train_dir):
    """Returns the lines, as dicts, that evaluations between steps left in the metrics of the run, oldest first."""
    return Journal(os.path.join(train_dir, METRICS)).having("precision")


def newest_start(train_dir):
    """Returns the record of the newest start in train_dir, a dict; empty where there is none."""
    starts = [line for line in Journal(os.path.join(train_dir, RECORD)).having("event") if line["event"] == "start"]
    return starts[-1] if starts else {}


def model(train_dir):
    """Returns the name of the network that the run in train_dir trains; the tutorial's if there is no record."""
    return recorded(train_dir, "model") or "tutorial"


def image_size(train_dir):
    """Returns the height and width of the crops that the run in train_dir trains on; 24 if there is no record."""
    return recorded(train_dir, "image_size") or datasets.IMAGE_SIZE


def recorded(train_dir, name):
    """Returns what is on record of the newest start in train_dir under a name, such as `dataset`, or None."""
    start = Journal(os.path.join(train_dir, RECORD)).last(event="start")
    return start and start.get(name)
