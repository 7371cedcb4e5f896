"""The values of the scripts' flags -> the objects that the rest of the package takes."""

import dataclasses
import typing

from cifar10 import serving
from cifar10.cifar10_input import MIN_FRACTION_OF_EXAMPLES_IN_QUEUE
from cifar10.data import datasets, records
from cifar10.data.source import Source
from cifar10.errors import RunError
from cifar10.evaluation import Evaluator
from cifar10.machine import devices
from cifar10.network import microbatches, model, recipes
from cifar10.runs import checkpoints, history, run
from cifar10.runs.run import RunOptions
from cifar10.runs.trainer import TrainingData
from cifar10.validation import Validation

MAX_EVALUATED = 10_000  # images that an evaluation while training is of, as cifar10_eval.py's is by default
EVALUATION_BATCH = 128  # images
# Attributes of a recipe that a flag changes.
HYPER_PARAMETERS = (
    *("learning_rate", "momentum", "weight_decay", "num_epochs", "label_smoothing", "jitter"),
    *("random_crops", "frozen"),
)
FLAG_OF = {"frozen": "freeze"}  # {attribute of a recipe: flag}, where their names differ

# Flags of a training that go on as they were, where a run is continued without them.
CONTINUED = (
    *("dataset", "model", "image_size", "recipe", "num_held_out", "max_steps", "seed"),
    *("lrn", "conv", "use_fp16"),
)


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
    if checkpoints.paths(values["train_dir"]):  # before other images are downloaded for nothing
        run.refuse_other(values["train_dir"], {name: values.get(name) for name in given})
    on_record = {name: history.recorded(values["train_dir"], name) for name in (*CONTINUED, "batch_size")}
    slices = values.get("num_gpus") or values.get("local_workers") or 1
    if (on_record["batch_size"] or 0) % slices:
        del on_record["batch_size"]  # other towers cannot have the same batch
    elif on_record["batch_size"]:
        on_record["batch_size"] //= slices
    if "recipe" in given and values["recipe"] != on_record["recipe"]:
        del on_record["max_steps"]  # each recipe has an end of its own
    else:
        on_record |= _hyper_parameters(values["train_dir"])
    if "max_steps" in given:
        on_record.pop("num_epochs", None)
    elif "num_epochs" in given or on_record.get("num_epochs") is not None:
        on_record.pop("max_steps", None)  # of the two, one says when training ends
    return values | {name: value for name, value in on_record.items() if value is not None and name not in given}


def _hyper_parameters(train_dir):
    """Returns {flag: value} of the hyper-parameters on record that are not the recipe's own."""
    changed = history.recorded(train_dir, "changed") or {}
    return {FLAG_OF.get(name, name): value for name, value in changed.items()}


def data_source(dataset, data_dir, data_url=None, data_sha256=None):
    """Returns the Source that the flags of flags.define_data_flags mean."""
    return Source(records.as_found(datasets.named(dataset, data_dir), data_dir), data_dir, data_url, data_sha256)


class Training(typing.NamedTuple):
    """What trainer.train takes beside the step, and the network of that."""

    network: model.Network
    data: TrainingData
    recipe: recipes.Recipe
    options: RunOptions
    validation: Validation | None


def training(values):
    """Returns the Training that the flags of flags.define_training_flags mean.

    Args:
      values: {flag: value}: `dataset`, `data_dir`, `model`, `recipe`, `lrn`, `conv`, `microbatch_size`, `use_fp16`,
        `seed` and `num_held_out`, and any of the others but `batch_size` and `log_device_placement`, which are the
        step's.

    Raises:
      UserError: they do not go together, or what they name is not there.
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
    recipe = _recipe(values)
    validation = _validation(values, data, network)
    if values.get("init_from"):
        values["init_from"] = serving.find_checkpoint(values["init_from"], None, "init_from")
    for name in values.keys() - {field.name for field in dataclasses.fields(RunOptions)}:
        raise RunError(f"--{name}: there is no such flag; cifar10_train.py --help lists them")
    return Training(network, data, recipe, RunOptions(**values), validation)


def _recipe(values):
    """Returns the Recipe that is meant, and takes its flags out of the values."""
    changes = {name: values.pop(FLAG_OF.get(name, name), None) for name in HYPER_PARAMETERS}
    changes = {attribute: value for attribute, value in changes.items() if value is not None}
    if "num_epochs" in changes and values.get("max_steps") is not None:
        raise RunError("--num_epochs: --max_steps says already when training ends; give one of them")
    return recipes.RECIPES[values.pop("recipe")].changed(changes)


def _validation(values, data, network):
    """Returns the Validation that is meant, or None, and takes its flags out of the values."""
    every_steps, images, keep_best, patience = (
        values.pop(name, None) for name in ("eval_every_steps", "eval_data", "keep_best", "early_stopping")
    )
    for name, value in (("eval_data", images), ("keep_best", keep_best), ("early_stopping", patience)):
        if value and not every_steps:
            raise RunError(f"--{name}: nothing is evaluated while training; give --eval_every_steps too")
    if not every_steps:
        return None
    if images == "held_out" and not data.num_held_out:
        raise RunError("--eval_data=held_out: no images are held out; give --num_held_out too")
    images = images or ("held_out" if data.num_held_out else "test")
    examples = data.source.load("test") if images == "test" else data.load_held_out()
    dataset = data.source.dataset
    served = served_network(network.name, dataset.num_classes, network.dtype != "float32")

    def evaluator(examples):
        count = min(MAX_EVALUATED, examples.count)
        return Evaluator(
            examples, count, EVALUATION_BATCH, served, class_names=dataset.class_names, image_size=data.image_size
        )

    return Validation(examples, images, evaluator, every_steps, bool(keep_best), patience or 0)


def served_network(name, num_classes, use_fp16):
    """Returns the Network of a trained checkpoint, as evaluation and prediction compute it."""
    dtype = devices.compute_type(use_fp16)
    return model.Network(name, num_classes, dtype, model.RESTORED, microbatch_size=microbatches.size(None))
