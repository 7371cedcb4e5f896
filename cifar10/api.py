"""The package from Python and from notebooks: load a trained network, let it predict, evaluate it, train one.

    from cifar10 import api

    model = api.train("/tmp/mine", dataset="synthetic", data_dir="/tmp/data", max_steps=500)
    print(model.evaluate("synthetic", "/tmp/data").precision)
    print(model.predict(["cat.jpg", "dog.png"]))

It is what the scripts do, without flags, and prints what they print. What goes wrong is an errors.UserError, of one
line. None of it needs graph mode to be switched on, or changes the default graph.
"""

import os

import numpy as np
from PIL import Image

from cifar10 import evaluation, serving, settings
from cifar10.data import datasets, pictures
from cifar10.errors import DataError, RunError
from cifar10.network import recipes
from cifar10.network.steps import OneDevice
from cifar10.runs import history, trainer

DATA_DIR = "/tmp/cifar10_data"
BATCH_SIZE = 128  # images


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
        if isinstance(images, str):
            images = [images]
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
        if isinstance(image, str):
            return pictures.load(image, self._crop)
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
    for name, value, choices in (("recipe", recipe, recipes.RECIPES), ("dataset", dataset, datasets.NAMES)):
        if value not in choices:
            raise RunError(f"{name}={value!r}: should be one of {', '.join(choices)}")
    values = {
        "dataset": dataset,
        "data_dir": data_dir,
        "recipe": recipe,
        "max_steps": max_steps,
        "train_dir": train_dir,
        "model": "tutorial",
        "lrn": "auto",
        "conv": "auto",
        "microbatch_size": None,
        "use_fp16": False,
        "num_held_out": 0,
        "seed": 0,
        **flags,
    }
    step_values = {"batch_size": BATCH_SIZE, "log_device_placement": False}
    batch_size, log_placement = (values.pop(name, default) for name, default in step_values.items())
    training = settings.training(values)
    step = OneDevice(training.network, batch_size, log_placement)
    trainer.train(step, training.data, training.recipe, training.options, training.validation)
    return load(train_dir, dataset, data_dir)
