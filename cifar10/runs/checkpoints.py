"""Checkpoints on disk: which there are, what they hold, and how one is written so that nothing is ever lost.

The newest checkpoint is the one of the highest step, whatever the state file `checkpoint` says: that may be damaged,
out of date, or name the folder that the run was in before it was moved.

A checkpoint holds the tutorial's tensors and no others. What else a training needs to go on exactly, such as momentum,
is saved with it in files of their own, its companion: see save and restore_state.

Old checkpoints are read, too: of TensorFlow before 0.12, of other names, without averages: see paths, and fitting.
"""

import contextlib
import errno
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
LOSS_AVERAGE = "/avg"

STEP = "(?:0|[1-9][0-9]{0,17})"  # of a checkpoint's name: a global step, which is an int64
_OURS = re.compile(rf"{re.escape(NAME)}-({STEP})")

# What TensorFlow's readers take for a pattern of many paths, wherever in a path it is.
PATTERN_SIGNS = frozenset("*?[]\\")

# What TensorFlow raises for a checkpoint that is missing, truncated, flipped, or not a checkpoint at all.
UNREADABLE = (tf.errors.OpError, ValueError, RuntimeError, LookupError, OSError)


def paths(directory):
    """Returns the checkpoints in a directory, oldest step first, whether they can be read or not.

    Ours are called NAME-<step>. Those of other names, as forks and the first tutorials give them, count where there is
    none of ours.

    Raises:
      RunError: the directory is there, and cannot be listed.
    """
    try:
        names = set(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(f"{directory}: cannot be read ({error.strerror}); make it readable") from None
    found = {name.removesuffix(".index") for name in names if name.endswith(".index")}
    for name in names:  # TensorFlow before 0.12 wrote one file, beside the one of the graph
        if f"{name}.meta" in names or re.fullmatch(r".*ckpt(-\d+)?", name):
            found |= {name} if os.path.isfile(os.path.join(directory, name)) else set()
    found = {name for name in found if not name.startswith((COMPANION, DAMAGED))}
    ours = {name for name in found if _OURS.fullmatch(name)}
    found = {name for name in found if not name.startswith(f"{NAME}-")}  # with no step behind it, somebody's
    return sorted((os.path.join(directory, name) for name in ours or found), key=lambda path: (step(path), path))


def _saved(directory):
    """Returns those checkpoints in a directory that `save` writes, oldest step first."""
    return [path for path in paths(directory) if _OURS.fullmatch(os.path.basename(path)) and file(path) != path]


def file(path):
    """Returns the file by which a checkpoint is known: its index, or of TensorFlow before 0.12 the only one."""
    index = f"{path}.index"
    return index if os.path.exists(index) else path


def step(path):
    """Returns the global step of a checkpoint: of ours by its name, and else what it holds, or 0 if that is none."""
    ours = _OURS.fullmatch(os.path.basename(path))
    return int(ours[1]) if ours else global_step(path) or 0


def global_step(path):
    """Returns the global step that a checkpoint holds, or None where it holds none, or cannot be read."""
    try:
        with reader(path) as found:
            name = name_of_step(found.get_variable_to_shape_map())
            return None if name is None else int(found.get_tensor(name))
    except UNREADABLE:
        return None


def name_of_step(shapes):
    """Returns the name of the global step in a checkpoint of these {name: shape}, or None.

    The first tutorials made it a tf.Variable without a name.
    """
    return next((name for name in ("global_step", "Variable") if shapes.get(name) == []), None)


def lost(directory):
    """Returns the name of a checkpoint of which parts are there, but no index, or only its name in STATE; or None."""
    for name in sorted(os.listdir(directory)):
        part = re.fullmatch(r"(.+)\.(data-\d+-of-\d+|meta)", name)
        if part and not name.startswith((COMPANION, DAMAGED)):
            return part[1]
    state = os.path.join(directory, STATE)
    with (
        contextlib.suppress(OSError),
        open(state, encoding="utf-8", errors="replace", opener=files.regular) as lines,
    ):
        named = re.search(r'^model_checkpoint_path: "(.+)"', lines.read(), re.MULTILINE)
        return named and named[1]
    return None


@contextlib.contextmanager
def plain(path):
    """Yields a path of the same checkpoint that TensorFlow's readers take for one, and not for a pattern.

    Its writers take a path as it is. So a checkpoint in `lr=[0.1]` is written there, and then not found.
    """
    if PATTERN_SIGNS.isdisjoint(path):
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
    for each in filter(os.path.lexists, (path, *glob.glob(f"{glob.escape(path)}.*"))):
        if each != path or file(path) == path:  # a folder of that name is no part of it
            os.close(files.regular(each, os.O_RDONLY))
    with plain(path) as same:
        yield tf.train.load_checkpoint(same)


def fault(path):
    """Returns why a checkpoint cannot be used, in a few words, or None if it can.

    Reading everything checks every checksum, and takes some 15 ms for this network.
    """
    try:
        with reader(path) as found:
            for name in sorted(found.get_variable_to_shape_map()):
                value = np.asarray(found.get_tensor(name))  # a string, as TensorFlow 2 saves one, is bytes
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
        instead = f"taking {newest} instead" if newest else "there is none before it that can be read"
        print(f"{path}: {why}; {instead}", flush=True)
    return newest


def _named_step(path, otherwise):
    """Returns the global step in a checkpoint's name, or `otherwise` if it has another name than ours."""
    return step(path) if _OURS.fullmatch(os.path.basename(path)) else otherwise


def _refuse_forbidden(path):
    """Raises RunError if the checkpoint, or its folder, may not be read by this user."""
    try:
        for each in (file(path), *_files(path)):
            os.close(files.regular(each, os.O_RDONLY))
    except PermissionError as error:
        raise RunError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from None
    except OSError:
        pass  # any other fault is the checkpoint's


def write(path, values):
    """Writes a checkpoint of {name: array}, without the graph that training saves beside it."""
    names = sorted(values)
    with tf.Graph().as_default(), tf.Session() as session:
        tensors = [tf.constant(values[name]) for name in names]
        session.run(
            tf.raw_ops.SaveV2(prefix=path, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
        )


class Savers(typing.NamedTuple):
    """What saves the variables of a graph: those of a checkpoint, and the others, which may be none (None)."""

    checkpoint: tf.train.Saver
    companion: tf.train.Saver | None


def savers():
    """Builds what saves the current graph's variables: the global ones in checkpoints, the local ones beside them."""
    checkpoint = tf.train.Saver(max_to_keep=0)  # save itself deletes what is too old
    local = tf.local_variables()
    if not local:
        return Savers(checkpoint, None)
    companion = [*local, tf.train.get_global_step()]  # with the step, by which one of another checkpoint is known
    with tf.name_scope("save/"):  # with its slash, so that entering it again continues it
        return Savers(checkpoint, tf.train.Saver(companion, max_to_keep=0))


def save(savers, session, directory, global_step, keep, still_valid=lambda: True):
    """Saves a checkpoint that is whole and on the disk before anything names it or an older one is deleted.

    The files are written in a folder of their own, synced, and moved, the index last: so readers, which look for it,
    see all of them or none.

    Args:
      savers: the Savers.
      session: tf.Session.
      directory: where to save.
      global_step: int, for the name.
      keep: number of checkpoints kept; 0: all.
      still_valid: function that returns, once all is written, whether it may be kept.

    Returns:
      The path of the checkpoint; or None, if it was not valid any more, and then all is as before.

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
        if not any(name.endswith(".index") for name in names):
            raise OSError(errno.EIO, "nothing was written", saving)
        for name in names:
            _sync(os.path.join(saving, name))
        if not still_valid():
            return None
        for name in names:
            os.replace(os.path.join(saving, name), os.path.join(directory, name))
        _sync(directory)
        # Only now that the new one is safe may the state file name it, and an older one go.
        path = os.path.join(directory, f"{NAME}-{global_step}")
        earlier = [each for each in _saved(directory) if each != path]
        too_many = max(0, len(earlier) + 1 - keep) if keep else 0
        _write_state(directory, [*earlier[too_many:], path])
    finally:
        shutil.rmtree(saving, ignore_errors=True)
    for old in earlier[:too_many]:
        _remove(old)
    return path


def write_averages(path, directory):
    """Writes the moving averages of a checkpoint, and its global step, alone: half of its size, and what is used of it.

    There must be nothing of that name yet.

    Args:
      path: the checkpoint.
      directory: where to write one of the same name.

    Returns:
      The path of what was written.
    """
    with reader(path) as found:
        names = [name for name in found.get_variable_to_shape_map() if name.endswith(AVERAGE) or name == "global_step"]
        values = {name: found.get_tensor(name) for name in names}
    copy = os.path.join(directory, os.path.basename(path))
    write(copy, values)
    return copy


def companion(path):
    """Returns the path of what was saved with the checkpoint at `path` in files of their own."""
    return os.path.join(os.path.dirname(path), f"{COMPANION}-{step(path)}")


def restore_state(session, path):
    """Restores the local variables of the session's graph from a checkpoint's companion, as far as they are there.

    Args:
      session: tf.Session, whose variables are initialized.
      path: the checkpoint.

    Returns:
      The sorted names of those that were not there, or not readable, or of another shape or step: they are as they
      were.
    """
    found = {}
    with contextlib.suppress(*UNREADABLE), reader(companion(path)) as saved:
        found = {name: saved.get_tensor(name) for name in saved.get_variable_to_shape_map()}
    if found.get("global_step", step(path)) != step(path):  # one of another checkpoint was copied there
        found = {}
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
    for path in _saved(directory):
        if start is not None and step(path) > step(start):
            for part in _files(path):
                os.replace(part, os.path.join(directory, DAMAGED + os.path.basename(part)))
    whole = {step(path) for path in _saved(directory)}
    for name in os.listdir(directory):
        match = re.fullmatch(rf"({NAME}|{COMPANION})-({STEP})(_temp|\.data-\d+-of-\d+.*|\.index|\.meta)", name)
        if not match or int(match[2]) in whole:
            continue
        if os.path.exists(os.path.join(directory, f"{match[1]}-{match[2]}")):  # of TensorFlow before 0.12: one file
            continue
        debris = os.path.join(directory, name)
        if os.path.isdir(debris):
            shutil.rmtree(debris, ignore_errors=True)
        else:
            os.remove(debris)


def _files(path):
    """Returns the files of a checkpoint and of its companion."""
    return [file for each in (path, companion(path)) for file in glob.glob(f"{glob.escape(each)}.*")]


def _remove(path):
    """Removes a checkpoint, its index first, so that no reader takes what is left for one."""
    for file in sorted(_files(path), key=lambda file: file != f"{path}.index"):
        with contextlib.suppress(OSError):
            os.remove(file)


def _sync(path):
    """Waits until a file, or the names in a folder, are on the disk and survive the loss of power.

    Windows syncs what is open for writing only, and opens no folders; nor does every file system sync these.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not os.path.isdir(path) or error.errno in (errno.EIO, errno.ENOSPC):
            raise


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
