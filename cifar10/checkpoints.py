"""Checkpoints on disk: which there are, which can be read, and which step each is of."""

import glob
import os

import tensorflow.compat.v1 as tf

NAME = "model.ckpt"

# What TensorFlow raises for a checkpoint that is missing, truncated, flipped, or not a checkpoint at all.
UNREADABLE = (tf.errors.OpError, ValueError, RuntimeError, LookupError, OSError)


def step(path):
    """Returns the global step in a checkpoint's name, `model.ckpt-<step>`."""
    return int(path.rpartition("-")[2])


def paths(directory):
    """Returns the checkpoints in a directory, oldest step first, whether they can be read or not."""
    found = glob.glob(os.path.join(glob.escape(directory), f"{NAME}-*.index"))
    found = [path.removesuffix(".index") for path in found]
    return sorted((path for path in found if path.rpartition("-")[2].isdigit()), key=step)


def newest_readable(directory):
    """Returns the newest checkpoint that can be read in full, or None, and warns of newer ones that cannot.

    Reading everything checks every checksum, and takes some milliseconds for this network.
    """
    for path in reversed(paths(directory)):
        try:
            reader = tf.train.load_checkpoint(path)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
        except UNREADABLE as error:
            print(f"{path}: cannot be read ({reason(error)}); trying the checkpoint before it", flush=True)
        else:
            return path
    return None


def reason(error):
    """Returns the first line of an error's message, which in TensorFlow may run over many."""
    return (str(getattr(error, "message", error)).strip().splitlines() or [type(error).__name__])[0]
