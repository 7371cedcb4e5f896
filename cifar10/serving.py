"""Checkpoint -> predictions of image files."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.bridges import parts
from cifar10.data import crops, datasets, pictures
from cifar10.errors import DataError, RunError
from cifar10.machine import devices
from cifar10.network import microbatches, model, recipes
from cifar10.runs import checkpoints, fitting, history

PRETRAINED = "pretrained"  # what --checkpoint calls the one that comes with the package
PRETRAINED_DIR = os.path.join(os.path.dirname(__file__), PRETRAINED)


def class_names(dataset, data_dir, checkpoint):
    """Returns the names of the classes that a checkpoint's network tells apart, in label order.

    They are what the record of the run beside the checkpoint says, whatever data_dir now holds.

    Args:
      dataset: one of datasets.NAMES, which must be the one on record; or None for that, or cifar10 where there is none.
      data_dir: where your own pictures were imported to; only of use to runs whose record has no class names.
      checkpoint: path, `…/model.ckpt-<step>`.

    Raises:
      RunError: the run was trained on another data set.
      DataError: no images were imported into data_dir.
    """
    train_dir = os.path.dirname(checkpoint)
    trained_on = history.recorded(train_dir, "dataset")
    if dataset and trained_on and dataset != trained_on:
        raise RunError(f"{train_dir}: was trained with --dataset={trained_on}, not {dataset}; leave --dataset out")
    if names := history.recorded(train_dir, "classes"):
        return tuple(names)
    found = datasets.named(dataset_name(dataset, checkpoint), data_dir)
    known = found.sha256 if found.name == datasets.IMAGES else {}  # by name alone, own images may be any
    if other := history.other_images(train_dir, found.class_names, known):
        raise RunError(f"{train_dir}: {other}; choose the --data_dir that it was trained with")
    return found.class_names


def dataset_name(dataset, checkpoint):
    """Returns the name of the data set that `class_names` takes the classes of."""
    return dataset or history.recorded(os.path.dirname(checkpoint), "dataset") or datasets.CIFAR10.name


def checkpoint_folder(name):
    """Returns the folder that comes with the package if PRETRAINED is meant, and any other name as it is.

    Raises:
      RunError: this copy of the package has none.
    """
    if name != PRETRAINED:
        return name
    if not checkpoints.paths(PRETRAINED_DIR):
        raise RunError(f"{PRETRAINED}: this copy of the package comes without that checkpoint; train a network first")
    return PRETRAINED_DIR


def or_pretrained(values, given):
    """Returns the values of a script's flags, with PRETRAINED for somebody who has no network yet, and says so.

    That is where no checkpoint was asked for, and there is no run where one would be looked for.

    Args:
      values: {flag: value}, of which `checkpoint` and `checkpoint_dir` count.
      given: names of the flags whose values are the user's own.

    Raises:
      RunError: there is a run, whose record cannot be read.
    """
    folder = values["checkpoint_dir"]
    if given & {"checkpoint", "checkpoint_dir"} or checkpoints.paths(folder) or history.newest_start(folder):
        return values
    if not checkpoints.paths(PRETRAINED_DIR):
        return values
    print(
        f"No run in {folder}: taking the network that comes with the package; --checkpoint chooses another",
        file=sys.stderr,
        flush=True,
    )
    return values | {"checkpoint": PRETRAINED}


def find_checkpoint(checkpoint, checkpoint_dir, flag="checkpoint"):
    """Returns the path of the checkpoint that the flags of these names mean.

    Args:
      checkpoint: None; or `…/model.ckpt-<step>`, or the path of one of its files, as the shell completes it; or a
        folder in place of checkpoint_dir; or PRETRAINED.
      checkpoint_dir: a train_dir, of which the newest readable checkpoint is meant; or PRETRAINED.
      flag: the one that `checkpoint` comes from, for the message.

    Raises:
      RunError: there is none.
    """
    checkpoint, checkpoint_dir = checkpoint_folder(checkpoint), checkpoint_folder(checkpoint_dir)
    if checkpoint and not os.path.isdir(checkpoint):
        path = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", checkpoint)
        if not os.path.isfile(checkpoints.file(path)):
            wanted = f"…/{checkpoints.NAME}-<step>, or {PRETRAINED}"
            raise RunError(f"No checkpoint file {path}.index; give --{flag} as {wanted}")
        return path
    directory = checkpoint or checkpoint_dir
    with contextlib.redirect_stdout(sys.stderr):  # warnings, which do not belong among the predictions
        path = checkpoints.newest_readable(directory)
    if path is None:
        remedy = f"choose another --{flag if checkpoint else 'checkpoint_dir'}"
        if checkpoints.paths(directory):
            raise RunError(f"{directory}: none of its checkpoints can be read; {remedy}")
        raise RunError(f"No checkpoint file found in {directory}; train first, {remedy}, or --{flag}={PRETRAINED}")
    return path


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """The network of one checkpoint, and how to use it.

    Attributes:
      checkpoint: path, `…/model.ckpt-<step>`; the record of the run beside it says which network it is of, and of
        which size are the crops that it sees; the tutorial's if there is none.
      class_names: what its logits stand for, in label order.
      crop: which part of an image it sees: see pictures.fit.
      use_fp16: whether to compute in half precision, in the type that evaluation takes, too.
      use_moving_averages: whether to restore the moving averages in place of the variables.
    """

    checkpoint: str
    class_names: tuple[str, ...]
    crop: str = "central"
    use_fp16: bool = False
    use_moving_averages: bool = True

    @property
    def image_shape(self):
        """What it takes, before the evaluation's crop: (height, width, depth)."""
        return (pictures.SIZES[self.crop],) * 2 + (datasets.DEPTH,)

    def probabilities(self, images, microbatch_size=0, conv="op"):
        """Builds the probability of each class.

        Args:
          images: uint8 [batch, *image_shape].
          microbatch_size: see model.Network.
          conv: see model.Network; what is written for other machines and programs has the op that all of them know.

        Returns:
          float32 [batch, num_classes].

        Raises:
          RunError: the crop is of another size than those that the network was trained on.
        """
        image_size = history.image_size(os.path.dirname(self.checkpoint))
        if self.crop == "whole" and image_size != pictures.SIZES["whole"]:
            raise RunError(
                f"--crop=whole: resizes images to {pictures.SIZES['whole']} pixels a side, and the network was trained "
                f"with --image_size={image_size}; use --crop=central"
            )
        with tf.name_scope("crop"):
            images = crops.central_crop(images, image_size)
        name, dtype = history.model(os.path.dirname(self.checkpoint)), devices.compute_type(self.use_fp16)
        network = model.Network(
            name, len(self.class_names), dtype, model.RESTORED, conv=conv, microbatch_size=microbatch_size
        )
        return tf.nn.softmax(network(images))

    def restore(self, session):
        """Restores the variables of the default graph, after a look whether they are what the checkpoint holds.

        Raises:
          RunError: the checkpoint is damaged, of another network, or holds values that are not finite.
        """
        variables = {variable.op.name: variable for variable in tf.trainable_variables()}
        if self.use_moving_averages:
            variables = tf.train.ExponentialMovingAverage(recipes.MOVING_AVERAGE_DECAY).variables_to_restore()
        if fault := checkpoints.fault(self.checkpoint):
            raise RunError(f"{self.checkpoint}: {fault}; choose another --checkpoint")
        if difference := fitting.difference(self.checkpoint, variables):
            raise RunError(f"{self.checkpoint}: {difference}")
        # What is said of an old one does not belong among the predictions.
        with contextlib.redirect_stdout(sys.stderr):
            fitting.restore(tf.train.Saver(variables), session, self.checkpoint, variables)

    def weights(self, images):
        """Returns the bridges' parts.Weights, and the probabilities of images, float32 [n, num_classes].

        Args:
          images: uint8 [n, *image_shape].

        Raises:
          RunError: as restore.
        """
        with tf.Graph().as_default(), tf.Session() as session:
            probabilities = self.probabilities(tf.constant(images))
            self.restore(session)
            values = {variable.op.name: variable for variable in tf.trainable_variables()}
            values, answers = session.run([values, probabilities])
        seen = history.image_size(os.path.dirname(self.checkpoint))
        return parts.Weights(values, self.image_shape[0], seen), answers


class Predictor:
    """A trained network in a session: picture files -> probabilities."""

    def __init__(self, network, batch_size=128):
        """Builds the graph and restores the checkpoint.

        Args:
          network: a TrainedNetwork.
          batch_size: images computed together; the result does not depend on it.

        Raises:
          RunError: the checkpoint is damaged, of another network, or holds values that are not finite.
        """
        self._crop = network.crop
        microbatch_size = microbatches.size(None)
        config = devices.session_config(microbatches.count(batch_size, microbatch_size))
        devices.set_process_threads(config)
        with tf.Graph().as_default():
            self._batch = tf.placeholder(tf.uint8, [batch_size, *network.image_shape])
            self._probabilities = network.probabilities(self._batch, microbatch_size, conv="auto")
            self._session = tf.Session(config=config)
            network.restore(self._session)

    def predict(self, names):
        """Yields (name, probabilities) for each picture, in order; a batch of them is in memory at a time.

        Args:
          names: iterable of names for pictures.load.

        Yields:
          Pairs of the name and either float32 [num_classes], in label order, or the DataError that says why not.
        """
        names = iter(names)
        while chunk := list(itertools.islice(names, self._batch.shape[0])):
            images = list(pictures.load_each(chunk, self._crop))
            nothing = np.zeros(self._batch.shape[1:], np.uint8)
            probabilities = self.probabilities([nothing if isinstance(i, DataError) else i for i in images])
            for name, image, values in zip(chunk, images, probabilities, strict=True):
                yield name, image if isinstance(image, DataError) else values

    def probabilities(self, images):
        """Returns the probabilities of images: float32 [n, num_classes] of uint8 [n, *image_shape]."""
        size = self._batch.shape.as_list()[0]
        found = [np.zeros([0, self._probabilities.shape.as_list()[1]], np.float32)]
        for start in range(0, len(images), size):
            part = images[start : start + size]
            batch = np.zeros(self._batch.shape.as_list(), np.uint8)  # what no image fills is computed in vain
            batch[: len(part)] = part
            found.append(self._session.run(self._probabilities, {self._batch: batch})[: len(part)])
        return np.concatenate(found)

    def close(self):
        self._session.close()


def best(probabilities, names, count):
    """Returns the `count` most probable classes, as (class name, probability) pairs; equal ones in label order."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(names[i], float(probabilities[i])) for i in order]


def as_text(picture, predictions):
    """Returns the line that says what a picture shows; predictions are as from `best`."""
    return f"{pictures.printable(picture)}: " + ", ".join(f"{name} {value:.3f}" for name, value in predictions)


def as_json(picture, predictions):
    """Returns the same line as a JSON object, with all digits."""
    predictions = [{"class": name, "probability": value} for name, value in predictions]
    return json.dumps({"picture": picture, "predictions": predictions})
