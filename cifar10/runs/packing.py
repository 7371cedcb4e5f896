"""A trained network made ready to be handed on: what is used of its checkpoint, and its record without paths."""

import os

from cifar10.errors import RunError
from cifar10.runs import checkpoints, history
from cifar10.runs.journal import Journal


def pack(path, directory):
    """Writes the moving averages of a checkpoint, and the record of its run, into a folder of their own.

    Args:
      path: the checkpoint, `…/model.ckpt-<step>`.
      directory: the folder, which must be empty or new.

    Returns:
      The path of the checkpoint there.

    Raises:
      RunError: the run has no record, or there is something in the folder.
    """
    train_dir = os.path.dirname(path)
    record = [values for _, values in Journal(os.path.join(train_dir, history.RECORD)).lines()]
    if not record:
        raise RunError(f"{train_dir}: has no record of its training, {history.RECORD}; pack a run that has one")
    os.makedirs(directory, exist_ok=True)
    if names := sorted(os.listdir(directory)):
        raise RunError(f"{directory}: holds {names[0]!r}; choose an empty or a new folder")
    copy = Journal(os.path.join(directory, history.RECORD))
    for values in record:
        copy.append(_without_paths(values))
    return checkpoints.write_averages(path, directory)


def _without_paths(values):
    """Returns a line of a record, a dict, without the paths in it, which mean nothing on another machine."""
    values = dict(values)
    if "arguments" in values:
        values["arguments"] = without_paths(values["arguments"])
    if "init_from" in values:
        values["init_from"] = os.path.basename(values["init_from"])
    return values


def without_paths(arguments):
    """Returns a command line's arguments without those that hold a path, and the flags that these are the values of."""
    kept = []
    for argument in arguments:
        if os.sep not in argument:
            kept.append(argument)
        elif not argument.startswith("-") and kept and kept[-1].startswith("-") and "=" not in kept[-1]:
            kept.pop()
    return kept
