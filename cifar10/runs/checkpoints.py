"""Checkpoints on disk: which there are, what they hold, and how one is written so that nothing is ever lost.

The newest checkpoint is the one of the highest step, whatever the state file `checkpoint` says: that may be damaged,
out of date, or name the folder that the run was in before it was moved.

A checkpoint holds the tutorial's tensors and no others. What else a training needs to go on exactly, such as momentum,
is saved with it in files of their own, its companion: see save and restore_state.
"""

import contextlib
import glob
import os
import re
import shutil
import tempfile
import typing

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.errors import RunError, reason
from cifar10.machine import files

NAME = "model.ckpt"
COMPANION = "optimizer.ckpt"  # of momentum and loss scale, where a training has them
STATE = "checkpoint"  # the file that names the newest one to readers
SAVING = ".saving"  # folder below train_dir for the files of a checkpoint that is being written
DAMAGED = "damaged-"  # goes before the name of a checkpoint that could not be read when a run was continued
AVERAGE = "/ExponentialMovingAverage"

STEP = "(?:0|[1-9][0-9]{0,17})"  # of a checkpoint's name: a global step, which is an int64

# What TensorFlow's readers take for a pattern of many paths, wherever in a path it is.
PATTERN_SIGNS = frozenset("*?[]\\")

# What TensorFlow raises for a checkpoint that is missing, truncated, flipped, or not a checkpoint at all.
UNREADABLE = (tf.errors.OpError, ValueError, RuntimeError, LookupError, OSError)


def step(path):
    """Returns the global step in a checkpoint's name, `model.ckpt-<step>`."""
    return int(path.rpartition("-")[2])


def paths(directory):
    """Returns the checkpoints in a directory, oldest step first, whether they can be read or not.

    Raises:
      RunError: the directory is there, and cannot be listed.
    """
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(f"{directory}: cannot be read ({error.strerror}); make it readable") from None
    names = [name.removesuffix(".index") for name in names if re.fullmatch(rf"{NAME}-{STEP}\.index", name)]
    return sorted((os.path.join(directory, name) for name in names), key=step)


@contextlib.contextmanager
def plain(path):
    """Yields a path of the same checkpoint that TensorFlow's readers take for one, and not for a pattern.

    Its writers take a path as it is. So a checkpoint in `lr=[0.1]` is written there, and then not found.

    Args:
      path: the checkpoint, or None.
    """
    if path is None or PATTERN_SIGNS.isdisjoint(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "run")
        os.symlink(os.path.abspath(os.path.dirname(path)), link)
        yield os.path.join(link, os.path.basename(path))


@contextlib.contextmanager
def reader(path):
    """Yields TensorFlow's reader of a checkpoint.

    Raises:
      One of UNREADABLE: OSError if one of its files may not be read, or is no regular file.
    """
    for file in glob.glob(f"{glob.escape(path)}.*"):
        os.close(files.regular(file, os.O_RDONLY))
    with plain(path) as same:
        yield tf.train.load_checkpoint(same)


def restore(saver, session, path):
    """Restores a tf.train.Saver's variables from a checkpoint, or raises one of UNREADABLE."""
    with plain(path) as same:
        saver.restore(session, same)


def fault(path):
    """Returns why a checkpoint cannot be used, in a few words, or None if it can.

    Reading everything checks every checksum, and takes some 15 ms for this network.
    """
    try:
        with reader(path) as found:
            for name in sorted(found.get_variable_to_shape_map()):
                value = found.get_tensor(name)
                if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
                    return f"{name} holds values that are not finite"
                if name == "global_step" and not np.array_equal(value, _named_step(path, value)):
                    return f"its global step is {value}, which its name does not say"
    except UNREADABLE as error:
        return f"it cannot be read: {reason(error)}"
    return None


def newest_readable(directory):
    """Returns the newest checkpoint whose values are whole and finite, or None; warns of newer ones that are not.

    Raises:
      RunError: a newer one may not be read, which is no reason to take an older one.
    """
    passed_over = []
    newest = None
    for path in reversed(paths(directory)):
        why = fault(path)
        if why is None:
            newest = path
            break
        _refuse_forbidden(path)
        passed_over.append((path, why))
    for path, why in passed_over:
        print(f"{path}: {why}; " + (f"taking {newest} instead" if newest else "there is none before it"), flush=True)
    return newest


def _named_step(path, otherwise):
    """Returns the global step in a checkpoint's name, or `otherwise` if it has another name than ours."""
    return step(path) if re.fullmatch(rf"{NAME}-{STEP}", os.path.basename(path)) else otherwise


def _refuse_forbidden(path):
    """Raises RunError if the checkpoint, or its folder, may not be read by this user."""
    try:
        for file in _files(path):
            os.close(files.regular(file, os.O_RDONLY))
    except PermissionError as error:
        raise RunError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from None
    except OSError:
        pass  # any other fault is the checkpoint's


def difference(path, expected):
    """Returns how a checkpoint differs from what a graph restores, and what to do, as one line; None if it fits.

    Args:
      path: the checkpoint.
      expected: {name in the checkpoint: variable}.

    Raises:
      One of UNREADABLE.
    """
    with reader(path) as found:
        shapes = found.get_variable_to_shape_map()
        types = found.get_variable_to_dtype_map()
    missing = sorted(expected.keys() - shapes.keys())
    other = []
    for name in sorted(expected.keys() & shapes.keys()):
        variable = expected[name]
        shape, wanted = shapes[name], variable.shape.as_list()
        if shape != wanted:
            other.append(f"{name} is {shape} there, {wanted} here")
        elif types[name] != variable.dtype.base_dtype:
            other.append(f"{name} is {types[name].name} there, {variable.dtype.base_dtype.name} here")
    if not missing and not other:
        return None
    lacks = [f"{name} is not there" for name in missing]
    return f"of another network: {_some(other + lacks)}; {_remedy(shapes, missing, other)}"


def _some(texts, count=3):
    more = len(texts) - count
    return ", ".join(texts[:count]) + (f" and {more} more" if more > 0 else "")


def _remedy(shapes, missing, other):
    averaged = [name.removesuffix(AVERAGE) for name in missing if name.endswith(AVERAGE)]
    if averaged and len(averaged) == len(missing) and shapes.keys() >= set(averaged) and not other:
        return "it was saved without moving averages: evaluate it with --nouse_moving_averages"
    if other and not missing and all(text.startswith("softmax_linear/") for text in other):
        return f"choose the --dataset of {shapes['softmax_linear/biases'][0]} classes that it was trained on"
    return "choose the directory of a run of this network"


class Savers(typing.NamedTuple):
    """What saves the variables of a graph: those of a checkpoint, and the others, which may be none (None)."""

    checkpoint: tf.train.Saver
    companion: tf.train.Saver | None


def savers():
    """Builds what saves the current graph's variables: the global ones in checkpoints, the local ones beside them."""
    checkpoint = tf.train.Saver(max_to_keep=0)  # save itself deletes what is too old
    local = tf.local_variables()
    with tf.name_scope("save/"):  # with its slash, so that entering it again continues it
        return Savers(checkpoint, tf.train.Saver(local, max_to_keep=0) if local else None)


def save(savers, session, directory, global_step, keep):
    """Saves a checkpoint that is whole and on the disk before anything names it or an older one is deleted.

    The files are written in a folder of their own, synced, and moved, the index last: so readers, which look for it,
    see all of them or none.

    Args:
      savers: the Savers.
      session: tf.Session.
      directory: where to save.
      global_step: int, for the name.
      keep: number of checkpoints kept; 0: all.

    Returns:
      The path of the checkpoint.

    Raises:
      OSError or tf.errors.OpError: it could not be saved; the older ones are as before.
    """
    # TensorFlow writes data and index one after the other and syncs neither; a process killed, or a disk filled, in
    # between leaves an index without its data. So it writes elsewhere, and what readers look for moves last.
    saving = os.path.join(directory, SAVING)
    try:
        shutil.rmtree(saving, ignore_errors=True)
        os.makedirs(saving)
        if savers.companion:
            companion = os.path.join(saving, COMPANION)
            savers.companion.save(session, companion, global_step, write_meta_graph=False, write_state=False)
        savers.checkpoint.save(session, os.path.join(saving, NAME), global_step, write_state=False)
        names = sorted(os.listdir(saving), key=lambda name: (name.startswith(NAME), name.endswith(".index")))
        for name in names:
            _sync(os.path.join(saving, name))
        for name in names:
            os.replace(os.path.join(saving, name), os.path.join(directory, name))
        _sync(directory)
        # Only now that the new one is safe may the state file name it, and an older one go.
        path = os.path.join(directory, f"{NAME}-{global_step}")
        earlier = [each for each in paths(directory) if each != path]
        too_many = max(0, len(earlier) + 1 - keep) if keep else 0
        _write_state(directory, [*earlier[too_many:], path])
    finally:
        shutil.rmtree(saving, ignore_errors=True)
    for old in earlier[:too_many]:
        _remove(old)
    return path


def companion(path):
    """Returns the path of what was saved with the checkpoint at `path` in files of their own."""
    return os.path.join(os.path.dirname(path), f"{COMPANION}-{step(path)}")


def restore_state(session, path):
    """Restores the local variables of the session's graph from a checkpoint's companion, as far as they are there.

    Args:
      session: tf.Session, whose variables are initialized.
      path: the checkpoint.

    Returns:
      The sorted names of those that were not there, or not readable, or of another shape: they are as they were.
    """
    found = {}
    with contextlib.suppress(*UNREADABLE), reader(companion(path)) as saved:
        found = {name: saved.get_tensor(name) for name in saved.get_variable_to_shape_map()}
    missing = []
    for variable in session.graph.get_collection(tf.GraphKeys.LOCAL_VARIABLES):
        value = found.get(variable.op.name)
        if value is None or list(value.shape) != variable.shape.as_list():
            missing.append(variable.op.name)
        else:
            session.run(variable.initializer, {variable.initializer.inputs[1]: value})
    return sorted(missing)


def settle(directory, start):
    """Clears up after a run that was killed, before another continues from checkpoint `start` (None: from nothing).

    What saving leaves half done is removed; checkpoints newer than `start`, which cannot be read, get another name.
    """
    shutil.rmtree(os.path.join(directory, SAVING), ignore_errors=True)
    with contextlib.suppress(OSError):
        os.remove(os.path.join(directory, f"{STATE}.tmp"))
    for path in paths(directory):
        if start is not None and step(path) > step(start):
            for file in _files(path):
                os.replace(file, os.path.join(directory, DAMAGED + os.path.basename(file)))
    whole = {step(path) for path in paths(directory)}
    for name in os.listdir(directory):
        match = re.fullmatch(rf"({NAME}|{COMPANION})-({STEP})(_temp|\.data-\d+-of-\d+.*|\.index|\.meta)", name)
        if not match or int(match[2]) in whole:
            continue
        if os.path.exists(os.path.join(directory, f"{match[1]}-{match[2]}")):  # of TensorFlow before 0.12: one file
            continue
        file = os.path.join(directory, name)
        if os.path.isdir(file):
            shutil.rmtree(file, ignore_errors=True)
        else:
            os.remove(file)


def _files(path):
    """Returns the files of a checkpoint and of its companion."""
    return [file for each in (path, companion(path)) for file in glob.glob(f"{glob.escape(each)}.*")]


def _remove(path):
    """Removes a checkpoint, its index first, so that no reader takes what is left for one."""
    for file in sorted(_files(path), key=lambda file: file != f"{path}.index"):
        with contextlib.suppress(OSError):
            os.remove(file)


def _sync(path):
    """Waits until a file, or the names in a folder, are on the disk and survive the loss of power."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _write_state(directory, kept):
    """Writes the state file, with relative paths: a folder that was moved is read where it is."""
    names = [os.path.basename(path) for path in kept]
    lines = [f'model_checkpoint_path: "{names[-1]}"', *(f'all_model_checkpoint_paths: "{name}"' for name in names)]
    state = os.path.join(directory, STATE)
    with open(f"{state}.tmp", "w") as file:
        file.write("\n".join(lines) + "\n")
    _sync(f"{state}.tmp")
    os.replace(f"{state}.tmp", state)
    _sync(directory)
