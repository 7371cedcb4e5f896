"""What a run has on record: who trained it, with what, and whether it has ended.

The record is RECORD in train_dir, one line a start and a stop. The trainer writes it; evaluation and serving read it.
"""

import datetime
import os
import platform
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.data import datasets
from cifar10.errors import RunError, shortened
from cifar10.network.layers import CONV_KINDS, LRN_KINDS
from cifar10.network.model import NETWORKS
from cifar10.network.recipes import LAYERS, RECIPES
from cifar10.runs import checkpoints
from cifar10.runs.journal import REMEDY, Journal

RECORD = "runs.jsonl"  # one line a start and a stop
METRICS = "metrics.jsonl"  # what the console prints, to the last digit
NAMED = 5  # of many classes, in a message
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
    """Returns whether the run in train_dir has ended at this step, so that no newer checkpoint is to come.

    Raises:
      RunError: the record is damaged.
    """
    lines = Journal(os.path.join(train_dir, RECORD)).lines()
    if not lines:  # no record: a run of the original tutorial's scripts, or one that has just begun
        return False
    _, last = lines[-1]
    return (
        last.get("event") == "stop"
        and last.get("reason") in (FINISHED, STOPPED_EARLY)
        and _checked(train_dir, lines[-1], "step") <= step
    )


def evaluations(train_dir):
    """Returns the lines, as dicts, that evaluations between steps left in the metrics of the run, oldest first.

    Raises:
      RunError: the metrics cannot be read, or hold what a training does not write.
    """
    return _metrics(train_dir, "precision", ("step", "images", "correct", "of"))


def console_lines(train_dir):
    """Returns {step: (loss, time)}, a float and a datetime.datetime, of the console's lines in the metrics of the run.

    Raises:
      RunError: as of evaluations.
    """
    lines = _metrics(train_dir, "loss", ("step", "loss", "time"))
    return {line["step"]: (line["loss"], datetime.datetime.fromisoformat(line["time"])) for line in lines}


def _metrics(train_dir, mark, names):
    """Returns those lines of the metrics, as dicts, that have the field `mark`, once the fields `names` are checked."""
    lines = [line for line in Journal(os.path.join(train_dir, METRICS)).lines() if mark in line[1]]
    for line in lines:
        for name in names:
            _checked(train_dir, line, name, METRICS)
    return [values for _, values in lines]


def newest_start(train_dir):
    """Returns the record of the newest start in train_dir, a dict; empty where there is none.

    Raises:
      RunError: as of recorded.
    """
    starts = _starts(train_dir)
    for name in starts[-1][1].keys() & _FIELDS.keys() if starts else ():
        _checked(train_dir, starts[-1], name)
    return starts[-1][1] if starts else {}


def model(train_dir):
    """Returns the name of the network that the run in train_dir trains; the tutorial's if there is no record."""
    return recorded(train_dir, "model") or "tutorial"


def image_size(train_dir):
    """Returns the height and width of the crops that the run in train_dir trains on; 24 if there is no record."""
    return recorded(train_dir, "image_size") or datasets.IMAGE_SIZE


def recorded(train_dir, name):
    """Returns what is on record of the newest start in train_dir under a name, such as `dataset`, or None.

    Raises:
      RunError: the record cannot be read, or holds what a training does not write.
    """
    starts = _starts(train_dir)
    return _checked(train_dir, starts[-1], name) if starts and starts[-1][1].get(name) is not None else None


def identity(train_dir):
    """Returns what tells the run in train_dir from any other, wherever it is moved: when it was begun; None: no record.

    Raises:
      RunError: as of recorded.
    """
    starts = _starts(train_dir)
    return _checked(train_dir, starts[0], "time") if starts and "time" in starts[0][1] else None


def other_images(train_dir, class_names, sha256):
    """Returns in which way the run in train_dir was trained on another data set of the same name, in words, or None.

    Args:
      train_dir: the folder of the run.
      class_names: those of the data set, in label order; None: any.
      sha256: {file name: hash} of its files, as far as they are known.

    Raises:
      RunError: as of recorded.
    """
    classes = recorded(train_dir, "classes")
    if None not in (classes, class_names) and classes != list(class_names):
        return f"was trained on the classes {_listed(classes)}, not {_listed(class_names)}"
    hashes = recorded(train_dir, "data") or {}
    other = sorted(name for name in hashes.keys() & sha256.keys() if hashes[name] != sha256[name])
    return f"was trained on other images, its {other[0]} having had sha256 {hashes[other[0]]}" if other else None


def _listed(names):
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _starts(train_dir):
    path = os.path.join(train_dir, RECORD)
    lines = Journal(path).lines()
    if not lines and os.path.lexists(path) and checkpoints.paths(train_dir):  # not a run that has just begun
        raise RunError(f"{path}: has no whole line, though there are checkpoints; restore it, or move it away")
    return [(number, values) for number, values in lines if _checked(train_dir, (number, values), "event") == "start"]


def _is_whole(value, largest):
    return type(value) is int and 0 <= value <= largest  # a bool is an int too


def _is_text(value):
    return isinstance(value, str) and value.isprintable()


def _is_time(value):
    try:
        return _is_text(value) and datetime.datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_classes(value):
    return isinstance(value, list) and 0 < len(value) <= datasets.MAX_CLASSES and all(map(_is_text, value))


def _is_hashes(value):
    return isinstance(value, dict) and all(map(_is_text, value.values()))


# The largest values of the flags of these names.
_LARGEST = {"learning_rate": 1e3, "momentum": 0.9999, "weight_decay": 1e3, "num_epochs": 1e6, "label_smoothing": 1.0}


def _is_hyper_parameter(name, value):
    if name in _LARGEST:
        return type(value) in (int, float) and 0 <= value <= _LARGEST[name]
    if name in ("jitter", "random_crops"):
        return isinstance(value, bool)
    return name == "frozen" and value in LAYERS[:-1]


def _is_changed(value):
    return isinstance(value, dict) and all(_is_hyper_parameter(name, each) for name, each in value.items())


# {name on record: (what it must be, in words; whether a value is that)}.
_FIELDS = {
    "event": ("a text", _is_text),
    "time": ("a time with its zone, as in 2026-01-31T12:00:00+00:00", _is_time),
    "loss": ("a finite float32", lambda value: type(value) in (int, float) and abs(value) < 2**128),
    "step": ("a number from 0 to 10^18", lambda value: _is_whole(value, 10**18)),
    "dataset": (f"one of {', '.join(datasets.NAMES)}", lambda value: value in datasets.NAMES),
    "classes": (f"a list of 1 to {datasets.MAX_CLASSES} printable names", _is_classes),
    "data": ("hashes by file name", _is_hashes),
    "model": (f"one of {', '.join(NETWORKS)}", lambda value: _is_text(value) and value in NETWORKS),
    "image_size": (
        f"a number from 1 to {datasets.HEIGHT}",
        lambda value: value != 0 and _is_whole(value, datasets.HEIGHT),
    ),
    "recipe": (f"one of {', '.join(RECIPES)}", lambda value: _is_text(value) and value in RECIPES),
    "hyper_parameters": ("a text", _is_text),
    "changed": ("hyper-parameters and their values", _is_changed),
    "init_from": ("a text", _is_text),
    "learning_rate": ("a text", _is_text),
    "lrn": (f"one of {', '.join(LRN_KINDS)}", lambda value: value in LRN_KINDS),
    "conv": (f"one of {', '.join(CONV_KINDS)}", lambda value: value in CONV_KINDS),
    "use_fp16": ("true or false", lambda value: isinstance(value, bool)),
    "batch_size": ("a number from 1 to 10^9", lambda value: value != 0 and _is_whole(value, 10**9)),
    "max_steps": ("a number from 0 to 10^18", lambda value: _is_whole(value, 10**18)),
    "num_held_out": ("a number from 0 to 10^9", lambda value: _is_whole(value, 10**9)),
    "seed": ("a number from 0 to 2^32 - 1", lambda value: _is_whole(value, 2**32 - 1)),
    "images": ("a text", _is_text),
    "correct": ("a number from 0 to 10^9", lambda value: _is_whole(value, 10**9)),
    "of": ("a number from 1 to 10^9", lambda value: value != 0 and _is_whole(value, 10**9)),
}


def _checked(train_dir, line, name, file=RECORD):
    """Returns the value of a field of a line, (number, dict) as of Journal.lines."""
    number, values = line
    what, is_right = _FIELDS[name]
    value = values.get(name)
    if not is_right(value):
        path = os.path.join(train_dir, file)
        raise RunError(f"{path}: line {number}: {name!r} is {shortened(value)}, expected {what}; {REMEDY}")
    return value
