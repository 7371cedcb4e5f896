"""The package from Python and from notebooks: load a trained network, let it predict, evaluate it, train one.

    from cifar10 import api

    model = api.train("/tmp/mine", dataset="synthetic", data_dir="/tmp/data", max_steps=500)
    print(model.evaluate("synthetic", "/tmp/data").precision)
    print(model.predict(["cat.jpg", "dog.png"]))

It is what the scripts do, without flags, and prints what they print. What goes wrong is an errors.UserError, of one
line. None of it needs graph mode to be switched on, or changes the default graph.
"""

import collections.abc
import os

import numpy as np
from PIL import Image

from cifar10 import evaluation, serving, settings
from cifar10.data import datasets, pictures
from cifar10.errors import DataError, RunError, refuse_scheme
from cifar10.network import model as network_model
from cifar10.network import recipes
from cifar10.network.layers import CONV_KINDS, LRN_KINDS
from cifar10.network.steps import OneDevice
from cifar10.runs import history, trainer

DATA_DIR = "/tmp/cifar10_data"
BATCH_SIZE = 128  # images
MANY = 2**63 - 1  # of an int64

# {argument of train: what the flag of its name takes}: texts to choose from; (kind of number, least, largest); a type.
TAKES = {
    "train_dir": str,
    "data_dir": str,
    "dataset": list(datasets.NAMES),
    "recipe": list(recipes.RECIPES),
    "model": list(network_model.NETWORKS),
    "lrn": list(LRN_KINDS),
    "conv": list(CONV_KINDS),
    "input_pipeline": ["dataset", "queue"],
    "freeze": list(recipes.LAYERS[:-1]),
    "eval_data": ["test", "held_out"],
    "init_from": str,
    "profile_steps": str,
    "batch_size": (int, 1, recipes.LARGEST_BATCH),
    "max_steps": (int, 0, recipes.LAST_STEP),
    "seed": (int, 0, 2**32 - 1),
    "image_size": (int, 8, datasets.HEIGHT),
    "num_held_out": (int, 0, MANY),
    "microbatch_size": (int, 0, MANY),
    "log_frequency": (int, 0, MANY),
    "save_checkpoint_secs": (int, 1, MANY),
    "save_checkpoint_steps": (int, 0, MANY),
    "keep_checkpoints": (int, 0, MANY),
    "save_summaries_steps": (int, 0, MANY),
    "eval_every_steps": (int, 0, MANY),
    "early_stopping": (int, 0, MANY),
    "learning_rate": (float, 0.0, 1e3),
    "momentum": (float, 0.0, 0.9999),
    "weight_decay": (float, 0.0, 1e3),
    "num_epochs": (float, 0.0, 1e6),
    "label_smoothing": (float, 0.0, 1.0),
    "min_fraction_of_examples_in_queue": (float, 0.0, 1.0),
    "use_fp16": bool,
    "restart": bool,
    "jitter": bool,
    "random_crops": bool,
    "keep_best": bool,
    "log_device_placement": bool,
}


def load(checkpoint, dataset=None, data_dir=DATA_DIR, crop="central"):
    """Returns the Model of a checkpoint.

    Args:
      checkpoint: `…/model.ckpt-<step>`; or a train_dir, whose newest readable checkpoint is meant; or 'pretrained', the
        one that comes with the package.
      dataset: what it was trained on, which gives its classes their names; None: what the record beside it says.
      data_dir: where your own pictures were imported to.
      crop: what it sees of a picture: 'central' or 'whole'; see pictures.fit.

    Raises:
      UserError: there is none, or it is damaged.
    """
    if not isinstance(checkpoint, (str, os.PathLike)) or not os.fspath(checkpoint):
        raise RunError(f"checkpoint={checkpoint!r}: give the path of a checkpoint, or of a folder of them")
    checkpoint = os.fspath(checkpoint)
    refuse_scheme(f"checkpoint={checkpoint}", checkpoint)
    return Model(serving.find_checkpoint(checkpoint, None), dataset, data_dir, crop)


class Model:
    """A trained network.

    Attributes:
      checkpoint: path of the checkpoint that it is of.
      class_names: its classes, in label order.
    """

    def __init__(self, checkpoint, dataset=None, data_dir=DATA_DIR, crop="central"):
        """Restores a checkpoint, by its path; for the arguments see `load`."""
        self.checkpoint = checkpoint
        self.class_names = serving.class_names(dataset, data_dir, checkpoint)
        self._crop = crop
        self._predictor = serving.Predictor(serving.TrainedNetwork(checkpoint, self.class_names, crop), BATCH_SIZE)

    def probabilities(self, images):
        """Returns the probability of each class, float32 [n, num_classes].

        Args:
          images: a list of picture files; or uint8 [n, height, width, 3], of any size; or a list of such arrays, each
            [height, width, 3].

        Raises:
          DataError: one of them is no picture.
        """
        if isinstance(images, (str, os.PathLike)):
            images = [images]
        if not isinstance(images, collections.abc.Iterable):
            raise DataError(f"images={images!r}: give a list of picture files or of arrays")
        return self._predictor.probabilities([self._fitted(image) for image in images])

    def predict(self, images):
        """Returns the name of the most probable class of each image; for the argument see `probabilities`."""
        return [self.class_names[i] for i in self.probabilities(images).argmax(axis=1)]

    def evaluate(self, dataset, data_dir=DATA_DIR, split="test"):
        """Returns the evaluation.Result, with its `precision`, on the images 'test' or 'train' of a data set."""
        source = settings.data_source(dataset, data_dir)
        name, image_size = (of(os.path.dirname(self.checkpoint)) for of in (history.model, history.image_size))
        network = settings.served_network(name, source.dataset.num_classes, use_fp16=False)
        examples = source.load(split)
        evaluator = evaluation.Evaluator(examples, examples.count, BATCH_SIZE, network, image_size=image_size)
        try:
            return evaluator.evaluate(self.checkpoint)[0]
        finally:
            evaluator.close()

    def _fitted(self, image):
        if isinstance(image, (str, os.PathLike)):
            return pictures.load(os.fspath(image), self._crop)
        if isinstance(image, bytes):
            raise DataError(
                "an image is bytes; give the path of its file as a str, or its pixels as uint8 [height, width, 3]"
            )
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != datasets.DEPTH or not image.size:
            raise DataError(
                f"an image is {image.dtype} {list(image.shape)}; give uint8 [height, width, {datasets.DEPTH}]"
            )
        return pictures.fit(Image.fromarray(image), self._crop)


def train(train_dir, dataset="cifar10", data_dir=DATA_DIR, recipe="tutorial", max_steps=None, **flags):
    """Trains on one device, as cifar10_train.py does, and returns the Model of its last checkpoint.

    Args:
      train_dir: the folder of the run; the run in it is continued.
      dataset, data_dir: what to train on.
      recipe: 'tutorial', 'fast' or 'muon'.
      max_steps: the step at which to stop; None: the recipe's own.
      **flags: other flags of the script, such as batch_size, seed, learning_rate, init_from or eval_every_steps.

    Raises:
      UserError: as the script would say it.
    """
    values = {
        "train_dir": train_dir,
        "dataset": dataset,
        "data_dir": data_dir,
        "recipe": recipe,
        "max_steps": max_steps,
        "model": "tutorial",
        "lrn": "auto",
        "conv": "auto",
        "microbatch_size": None,
        "use_fp16": False,
        "num_held_out": 0,
        "seed": 0,
        "batch_size": BATCH_SIZE,
        "log_device_placement": False,
    }
    needed = [name for name, default in values.items() if default is not None or name in ("train_dir", "dataset")]
    values = {name: _as_of_flag(name, value, name in needed) for name, value in {**values, **flags}.items()}
    batch_size, log_placement = (values.pop(name) for name in ("batch_size", "log_device_placement"))
    training = settings.training(values)
    step = OneDevice(training.network, batch_size, log_placement)
    trainer.train(step, training.data, training.recipe, training.options, training.validation)
    return load(values["train_dir"], dataset, values["data_dir"])


def _as_of_flag(name, value, needed):
    """Returns an argument as its flag would have it: a path as text, a number of NumPy as Python's.

    Raises:
      RunError: the flag takes no such value, or is needed and None.
    """
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    value = value.item() if isinstance(value, np.generic) else value
    takes = TAKES.get(name)
    if takes is None or (value is None and not needed):
        return value
    if isinstance(takes, list):
        good, wanted = value in takes, f"one of {', '.join(takes)}"
    elif isinstance(takes, tuple):
        kind, least, largest = takes
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)  # as of 1e4
        good = type(value) in (int, kind) and least <= value <= largest
        wanted = f"{'an integer' if kind is int else 'a number'} from {least} to {largest}"
    else:
        good = isinstance(value, takes) and value != ""
        wanted = "True or False" if takes is bool else "a text that is not empty"
    if not good:
        raise RunError(f"{name}={value!r}: should be {wanted}")
    return value
