"""The first weights of a training that begins with those of another one: fine-tuning."""

import os

import tensorflow.compat.v1 as tf

from cifar10.data import datasets
from cifar10.errors import RunError, reason
from cifar10.runs import checkpoints, history

LAST_LAYER = "softmax_linear"


def values(path, dataset):
    """Returns what the current graph's variables, and their moving averages, are to begin with, and says so in a line.

    Of the checkpoint the moving averages count, where it has them. The last layer begins anew, from its initializers,
    unless its classes are the data set's.

    Args:
      path: the checkpoint.
      dataset: the datasets.Dataset to train on.

    Returns:
      [(variable, array)].

    Raises:
      RunError: the checkpoint is damaged or of another network.
    """
    if fault := checkpoints.fault(path):
        raise RunError(f"{path}: {fault}; choose another --init_from")
    try:
        with checkpoints.reader(path) as reader:
            shapes = reader.get_variable_to_shape_map()
            # Averages come last.
            found = {name.removesuffix(checkpoints.AVERAGE): name for name in sorted(shapes, key=len)}
            variables = {variable.op.name: variable for variable in tf.global_variables()}
            anew = _other_classes(path, shapes.get(found.get(f"{LAST_LAYER}/biases")), dataset)
            chosen = []
            for variable in tf.trainable_variables():
                name = variable.op.name
                if anew and name.startswith(f"{LAST_LAYER}/"):
                    continue
                if name not in found or shapes[found[name]] != variable.shape.as_list():
                    there = f"is {shapes[found[name]]}" if name in found else "is not there"
                    raise RunError(
                        f"{path}: of another network: {name} {there}, {variable.shape.as_list()} here; choose another "
                        "--init_from, or its --model"
                    )
                value = reader.get_tensor(found[name])
                chosen += [(variable, value), (variables[name + checkpoints.AVERAGE], value)]
    except checkpoints.UNREADABLE as error:
        raise RunError(f"{path}: it cannot be read: {reason(error)}; choose another --init_from") from None
    exception = f" but {LAST_LAYER}, which begins anew: {anew}" if anew else ""
    print(f"Begins with the weights of {path}, of all layers{exception}", flush=True)
    return chosen


def _other_classes(path, shape, dataset):
    """Returns why the last layer of a checkpoint does not suit a data set, or None if it does, as far as is known.

    Args:
      path: the checkpoint; the record beside it says which classes it knows.
      shape: of its last layer's biases, or None.
      dataset: the datasets.Dataset.
    """
    if shape != [dataset.num_classes]:
        return f"it has {shape[0] if shape else 'no'} classes there, {dataset.num_classes} here"
    folder = os.path.dirname(path)
    names = history.recorded(folder, "classes")
    if names is None and (trained_on := history.recorded(folder, "dataset")) in datasets.ALL:
        names = datasets.ALL[trained_on].class_names
    return None if names is None or tuple(names) == dataset.class_names else "its classes are others"
