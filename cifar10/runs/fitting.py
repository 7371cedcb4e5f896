"""How a checkpoint fits the graph that is to be restored from it: of another network, without averages, or an old one.

The first tutorials, and forks of them, saved other names and types than today's; and what has never been trained has no
averages.
"""

import contextlib
import os
import tempfile

import numpy as np

from cifar10.runs import checkpoints


def difference(path, expected):
    """Returns how a checkpoint differs from what a graph restores, and what to do, as one line; None if it fits.

    One that `fitted` makes fit does fit.

    Args:
      path: the checkpoint.
      expected: {name in the checkpoint: variable}.

    Raises:
      One of UNREADABLE.
    """
    with checkpoints.reader(path) as found:
        shapes = found.get_variable_to_shape_map()
        types = found.get_variable_to_dtype_map()
    sources = _sources(shapes, expected)
    missing = sorted(expected.keys() - sources.keys())
    other = []
    for name, source in sorted(sources.items()):
        variable = expected[name]
        wanted, dtype = variable.shape.as_list(), variable.dtype.base_dtype
        if source is None:
            continue
        if shapes[source] != wanted:
            other.append(f"{source} is {shapes[source]} there, {wanted} here")
        elif not _converts(types[source], dtype, source):
            other.append(f"{source} is {types[source].name} there, {dtype.name} here")
    if not missing and not other:
        return None
    if missing == ["global_step"] and not other:
        return (
            "holds no global step, so it cannot be told where to go on; choose another --train_dir, or --restart, "
            "which moves it aside and begins anew"
        )
    if missing and not other and all(name + checkpoints.AVERAGE in shapes for name in missing):
        return "holds moving averages alone, which evaluation, prediction and --init_from take"
    lacks = [f"{name} is not there" for name in missing]
    return f"of another network: {_some(other + lacks)}; {_remedy(shapes, missing, other)}"


def _sources(shapes, expected):
    """Returns {name: name in the checkpoint} of what is expected, as far as it can be had.

    A moving average that is not there begins at its variable, the average of a loss at 0, for which None stands.
    """
    sources = {name: name for name in expected.keys() & shapes.keys()}
    for name in expected.keys() - shapes.keys():
        if name == "global_step" and (step_there := checkpoints.name_of_step(shapes)):
            sources[name] = step_there
        elif name.endswith(checkpoints.AVERAGE) and name.removesuffix(checkpoints.AVERAGE) in shapes:
            sources[name] = name.removesuffix(checkpoints.AVERAGE)
        elif name.endswith(checkpoints.LOSS_AVERAGE) and expected[name].shape == []:
            sources[name] = None
    return sources


def _converts(there, here, source):
    """Returns whether a value of the type `there` may be taken for a variable of the type `here`."""
    if source in ("global_step", "Variable"):  # float32 in the tutorial's multi-GPU script, int32 in its first ones
        return here.is_integer
    return there == here or (there.is_floating and here.is_floating)


@contextlib.contextmanager
def fitted(path, expected):
    """Gives the path of a checkpoint from which a tf.train.Saver restores all that is expected.

    It is the checkpoint itself, or a copy of an old one in today's form, which lives as long as the context. A line
    says what an old one does not have, and with what that begins.

    Args as of difference, which must have found none.
    """
    with checkpoints.reader(path) as found:
        types = found.get_variable_to_dtype_map()
        sources = _sources(found.get_variable_to_shape_map(), expected)
        if said := _substitutes(sources):
            print(f"{path}: {'; '.join(said)}", flush=True)
        as_it_is = checkpoints.file(path) != path and all(
            source == name and types[name] == expected[name].dtype.base_dtype for name, source in sources.items()
        )
        values = {} if as_it_is else _values(found, sources, expected)
    if as_it_is:
        with checkpoints.plain(path) as same:
            yield same
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, checkpoints.NAME)
        checkpoints.write(copy, values)
        yield copy


def restore(saver, session, path, variables):
    """Restores a tf.train.Saver's {name in the checkpoint: variable} as `fitted` makes them; raises as reader."""
    with fitted(path, variables) as same:
        saver.restore(session, same)


def _values(found, sources, expected):
    """Returns {name: array} of what is expected, in its type; for the sources see _sources."""
    return {
        name: np.asarray(0 if source is None else found.get_tensor(source)).astype(
            expected[name].dtype.base_dtype.as_numpy_dtype
        )
        for name, source in sources.items()
    }


def _substitutes(sources):
    """Returns what is said of {name: name in the checkpoint}, as of _sources."""
    averages = sum(name.endswith(checkpoints.AVERAGE) and source != name for name, source in sources.items())
    of_losses = sum(source is None for source in sources.values())
    said = [f"moving averages that are not there: {averages}, for which the variables are taken"] if averages else []
    if of_losses:
        said.append(f"averages of losses that are not there: {of_losses}, which begin at 0")
    return said


def _some(texts, count=3):
    more = len(texts) - count
    return ", ".join(texts[:count]) + (f" and {more} more" if more > 0 else "")


def _remedy(shapes, missing, other):
    if other and not missing and all(text.startswith("softmax_linear/") for text in other):
        (num_classes,) = shapes.get("softmax_linear/biases") or shapes["softmax_linear/biases" + checkpoints.AVERAGE]
        return f"choose the --dataset of {num_classes} classes that it was trained on"
    return "choose the directory of a run of this network"
