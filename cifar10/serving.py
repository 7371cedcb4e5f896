"""Checkpoint -> predictions: of picture files here; elsewhere, as a SavedModel or a TF Lite file."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shutil
import sys
import tempfile

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.data import crops, datasets, picture_ops, pictures
from cifar10.errors import DataError, RunError, reason
from cifar10.machine import devices
from cifar10.network import microbatches, model, recipes
from cifar10.runs import checkpoints, history

# What an export folder holds beside the SavedModel if it is asked to.
TFLITE_FILE = "model.tflite"
LABELS_FILE = "labels.txt"  # the class of each of its probabilities, a line each


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
    found = datasets.named(dataset or trained_on or datasets.CIFAR10.name, data_dir)
    known = found.sha256 if found.name == datasets.IMAGES else {}  # by name alone, own images may be any
    if other := history.other_images(train_dir, found.class_names, known):
        raise RunError(f"{train_dir}: {other}; choose the --data_dir that it was trained with")
    return found.class_names


def find_checkpoint(checkpoint, checkpoint_dir):
    """Returns the path of the checkpoint that the flags of these names mean.

    Args:
      checkpoint: None; or `…/model.ckpt-<step>`, or the path of one of its files, as the shell completes it; or a
        folder in place of checkpoint_dir.
      checkpoint_dir: a train_dir, of which the newest readable checkpoint is meant.

    Raises:
      RunError: there is none.
    """
    if checkpoint and not os.path.isdir(checkpoint):
        path = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", checkpoint)
        if not os.path.exists(f"{path}.index"):
            raise RunError(f"No checkpoint file {path}.index; give --checkpoint as …/{checkpoints.NAME}-<step>")
        return path
    directory = checkpoint or checkpoint_dir
    with contextlib.redirect_stdout(sys.stderr):  # warnings, which do not belong among the predictions
        path = checkpoints.newest_readable(directory)
    if path is None:
        raise RunError(f"No checkpoint file found in {directory}; train first, or choose another --checkpoint_dir")
    return path


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """The network of one checkpoint, and how to use it.

    Attributes:
      checkpoint: path, `…/model.ckpt-<step>`; the record of the run beside it says which network it is of, the
        tutorial's if there is none.
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
        """
        with tf.name_scope("crop"):
            images = crops.central_crop(images)
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
        if difference := checkpoints.difference(self.checkpoint, variables):
            raise RunError(f"{self.checkpoint}: {difference}")
        checkpoints.restore(tf.train.Saver(variables), session, self.checkpoint)


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
            batch = np.zeros(self._batch.shape, np.uint8)  # what no image fills is computed in vain
            for i, image in enumerate(images):
                if not isinstance(image, DataError):
                    batch[i] = image
            probabilities = self._session.run(self._probabilities, {self._batch: batch})
            for name, image, values in zip(chunk, images, probabilities, strict=False):  # the batch may be longer
                yield name, image if isinstance(image, DataError) else values

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


def export(network, export_dir, tflite=False):
    """Writes a trained network as a SavedModel, whole or not at all.

    Its signatures take a batch of images of any number. `serving_default` takes image_bytes, string [batch], files'
    bytes of the kinds that picture_ops takes; one that it refuses fails the batch. `serving_uint8` takes images, uint8
    [batch, height, width, 3]. Both return classes, string [batch, num_classes], and probabilities, float32 [batch,
    num_classes], most probable first.

    Args:
      network: a TrainedNetwork.
      export_dir: the folder to write; it may exist if it is empty. TensorFlow Serving wants a number as its name.
      tflite: whether to write TFLITE_FILE and LABELS_FILE into it too: see _write_tflite.

    Raises:
      RunError: export_dir holds something or cannot be written, or the checkpoint is as in Predictor.
    """
    if tflite and network.use_fp16:
        raise RunError("--tflite: TF Lite does not compute in bfloat16; export it without --use_fp16")
    with _new_folder(export_dir) as folder:
        _write_saved_model(folder, network)
        if tflite:
            _write_tflite(folder, network)


def _write_saved_model(folder, network):
    num_classes = len(network.class_names)

    def signature(inputs, images):
        with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
            probabilities, order = tf.math.top_k(network.probabilities(images), num_classes)
        outputs = {"classes": tf.gather(tf.constant(network.class_names), order), "probabilities": probabilities}
        return tf.saved_model.predict_signature_def(inputs, outputs)

    def read(contents):
        return picture_ops.fit(picture_ops.decode(contents), network.crop)

    with tf.Graph().as_default(), tf.Session() as session:
        image_bytes = tf.placeholder(tf.string, [None])
        images = tf.placeholder(tf.uint8, [None, None, None, datasets.DEPTH])
        signatures = {
            "serving_default": signature(
                {"image_bytes": image_bytes}, tf.map_fn(read, image_bytes, fn_output_signature=tf.uint8)
            ),
            "serving_uint8": signature({"images": images}, picture_ops.fit(images, network.crop)),
        }
        network.restore(session)
        _save(session, folder, signatures)


def _write_tflite(folder, network):
    """Writes the network for TF Lite, which has no op for decoding nor for this resizing: they are left to the caller.

    It takes one image, `image`, uint8 [1, *image_shape], as from pictures.fit, and returns `probabilities`, float32
    [1, num_classes], in the order of LABELS_FILE.
    """
    with tempfile.TemporaryDirectory() as fixed:
        with tf.Graph().as_default(), tf.Session() as session:
            image = tf.placeholder(tf.uint8, [1, *network.image_shape])
            probabilities = network.probabilities(image)
            network.restore(session)
            signature = tf.saved_model.predict_signature_def({"image": image}, {"probabilities": probabilities})
            _save(session, fixed, {"serving_default": signature})
        content = tf.compat.v2.lite.TFLiteConverter.from_saved_model(fixed).convert()
    with open(os.path.join(folder, TFLITE_FILE), "wb") as file:
        file.write(content)
    with open(os.path.join(folder, LABELS_FILE), "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in network.class_names)


def _save(session, folder, signatures):
    builder = tf.saved_model.Builder(folder)
    builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING], signatures, clear_devices=True)
    builder.save()


@contextlib.contextmanager
def _new_folder(path):
    """Gives a folder to write into, which goes to `path` in one step once all is written, and else is removed.

    Raises:
      RunError: there is something at path, or it cannot be written.
    """
    path = os.path.abspath(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
            raise RunError(f"{path}: is there already; choose another --export_dir, or remove it")
        os.makedirs(temporary)
        yield temporary
        os.rename(temporary, path)
    except (OSError, tf.errors.OpError) as error:
        raise RunError(f"{path}: cannot be written ({reason(error)}); choose another --export_dir") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
