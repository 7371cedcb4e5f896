"""The values of the scripts' flags -> the objects that the rest of the package takes."""

import typing

from cifar10.cifar10_input import MIN_FRACTION_OF_EXAMPLES_IN_QUEUE
from cifar10.data import datasets
from cifar10.data.source import Source
from cifar10.machine import devices
from cifar10.network import microbatches, model, recipes
from cifar10.runs import history
from cifar10.runs.run import RunOptions
from cifar10.runs.trainer import TrainingData

# Flags of a training that go on as they were, where a run is continued without them.
CONTINUED = ("dataset", "model", "recipe", "num_held_out", "max_steps", "seed", "lrn", "conv", "use_fp16")


def continued(values, given):
    """Returns the values of a training's flags, those on record of the run in train_dir in the place of defaults.

    Args:
      values: {flag: value}.
      given: names of the flags whose values are the user's own.

    Raises:
      RunError: the record cannot be read, or holds what a training does not write.
    """
    if values["restart"] or not values.get("local_workers", True):  # on other machines there may be no record
        return values
    on_record = {name: history.recorded(values["train_dir"], name) for name in (*CONTINUED, "batch_size")}
    slices = values.get("num_gpus") or values.get("local_workers") or 1
    if (on_record["batch_size"] or 0) % slices:
        del on_record["batch_size"]  # other towers cannot have the same batch
    elif on_record["batch_size"]:
        on_record["batch_size"] //= slices
    if "recipe" in given and values["recipe"] != on_record["recipe"]:
        del on_record["max_steps"]  # each recipe has an end of its own
    return values | {name: value for name, value in on_record.items() if value is not None and name not in given}


def data_source(dataset, data_dir, data_url=None, data_sha256=None):
    """Returns the Source that the flags of flags.define_data_flags mean."""
    return Source(datasets.named(dataset, data_dir), data_dir, data_url, data_sha256)


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
    )
    return Training(network, data, recipes.RECIPES[values.pop("recipe")], RunOptions(**values))


def served_network(name, num_classes, use_fp16):
    """Returns the Network of a trained checkpoint, as evaluation and prediction compute it."""
    dtype = devices.compute_type(use_fp16)
    return model.Network(name, num_classes, dtype, model.RESTORED, microbatch_size=microbatches.size(None))
