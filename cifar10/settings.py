"""The values of the scripts' flags -> the objects that the rest of the package takes."""

import typing

from cifar10.cifar10_input import MIN_FRACTION_OF_EXAMPLES_IN_QUEUE
from cifar10.data import datasets, records
from cifar10.data.source import Source
from cifar10.machine import devices
from cifar10.network import microbatches, model, recipes
from cifar10.runs.run import RunOptions
from cifar10.runs.trainer import TrainingData


def data_source(dataset, data_dir, data_url=None, data_sha256=None):
    """Returns the Source that the flags of flags.define_data_flags mean."""
    return Source(records.as_found(datasets.named(dataset, data_dir), data_dir), data_dir, data_url, data_sha256)


class Training(typing.NamedTuple):
    """What trainer.train takes beside the step, and the network of that."""

    network: model.Network
    data: TrainingData
    recipe: recipes.Recipe
    options: RunOptions


def training(values):
    """Returns the Training that the flags of flags.define_training_flags mean.

    Args:
      values: {flag: value}: `dataset`, `data_dir`, `model`, `recipe`, `lrn`, `conv`, `microbatch_size`, `use_fp16`,
        `seed` and `num_held_out`, and any of the others but `batch_size` and `log_device_placement`, which are the
        step's.
    """
    values = dict(values)
    source = data_source(*(values.pop(name, None) for name in ("dataset", "data_dir", "data_url", "data_sha256")))
    seed = values.pop("seed")
    network = model.Network(
        values.pop("model"),
        source.dataset.num_classes,
        devices.compute_type(values.pop("use_fp16")),
        seed,
        values.pop("lrn"),
        values.pop("conv"),
        microbatches.size(values.pop("microbatch_size")),
    )
    data = TrainingData(
        source,
        values.pop("num_held_out"),
        seed,
        values.pop("input_pipeline", "dataset"),
        values.pop("min_fraction_of_examples_in_queue", MIN_FRACTION_OF_EXAMPLES_IN_QUEUE),
        values.pop("image_size", datasets.IMAGE_SIZE),
    )
    return Training(network, data, recipes.RECIPES[values.pop("recipe")], RunOptions(**values))


def served_network(name, num_classes, use_fp16):
    """Returns the Network of a trained checkpoint, as evaluation and prediction compute it."""
    return model.Network(name, num_classes, devices.compute_type(use_fp16), microbatch_size=microbatches.size(None))
