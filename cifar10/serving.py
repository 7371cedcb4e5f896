"""Checkpoint -> predictions: of picture files here; elsewhere, as a SavedModel or a TF Lite file."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import warnings

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.bridges import keras_file, onnx_file, parts
from cifar10.bridges import model_card as card
from cifar10.data import crops, datasets, picture_ops, pictures
from cifar10.errors import DataError, RunError, counted, reason
from cifar10.machine import devices
from cifar10.network import microbatches, model, recipes
from cifar10.runs import checkpoints, fitting, history

# What an export folder holds beside the SavedModel if it is asked to.
TFLITE_FILE = "model.tflite"
INT8_FILE = "model_int8.tflite"
# Of standardization and normalization, which int8 is too coarse for.
FLOAT_OPS = ("MEAN", "SUB", "SQUARED_DIFFERENCE", "SQRT", "RSQRT", "MAXIMUM", "DIV", "MUL")
ONNX_FILE = "model.onnx"
KERAS_FILE = "model.keras"
LABELS_FILE = "labels.txt"  # the class of each of their probabilities, a line each
CARD_FILE = "MODEL_CARD.md"

PRETRAINED = "pretrained"  # what --checkpoint calls the one that comes with the package
PRETRAINED_DIR = os.path.join(os.path.dirname(__file__), PRETRAINED)

MAX_DIFFERENCE = 1e-5  # of a probability, between the network here and in another library
NUM_PROBES = 16  # images on which that is looked at


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


@dataclasses.dataclass(frozen=True)
class Forms:
    """What an export writes beside the SavedModel.

    Attributes:
      tflite: TFLITE_FILE: see _write_tflite.
      calibration: uint8 [n, *image_shape] on which INT8_FILE's ranges are measured, or None for no such file.
      onnx: ONNX_FILE: see onnx_file.write.
      keras: KERAS_FILE: see keras_file.write.
      card: the text of CARD_FILE, or None.
    """

    tflite: bool = False
    calibration: np.ndarray | None = None
    onnx: bool = False
    keras: bool = False
    card: str | None = None


def export(network, export_dir, tflite=False, forms=None):
    """Writes a trained network as a SavedModel, whole or not at all.

    Its signatures take a batch of images of any number. `serving_default` takes image_bytes, string [batch], files'
    bytes of the kinds that picture_ops takes; one that it refuses fails the batch. `serving_uint8` takes images, uint8
    [batch, height, width, 3]. Both return classes, string [batch, num_classes], and probabilities, float32 [batch,
    num_classes], most probable first.

    Args:
      network: a TrainedNetwork.
      export_dir: the folder to write; it may exist if it is empty. TensorFlow Serving wants a number as its name.
      tflite: short for forms=Forms(tflite=True).
      forms: the Forms that are written into it too, with LABELS_FILE.

    Raises:
      RunError: export_dir holds something or cannot be written, or the checkpoint is as in Predictor; or another
        library is not there, or does not return what the network here does.
    """
    forms = forms or Forms(tflite=tflite)
    for name in ("tflite", "onnx", "keras"):
        if getattr(forms, name) and network.use_fp16:
            what = "TF Lite does not compute in bfloat16" if name == "tflite" else "it computes in float32"
            raise RunError(f"--{name}: {what}; export it without --use_fp16")
    if forms.onnx:
        onnx_file.require()
    with _new_folder(export_dir) as folder:
        _write_saved_model(folder, network)
        if forms.tflite:
            _write_tflite(folder, network, forms.calibration)
        if forms.onnx or forms.keras:
            _write_bridges(folder, network, forms)
        if forms.card is not None:
            _write_text(folder, CARD_FILE, forms.card)


def model_card(network, forms):
    """Returns the text of an export's card: see bridges.model_card.

    Args:
      network: the TrainedNetwork.
      forms: {one of tflite, int8, onnx and keras: whether it is written}.
    """
    folder, step = os.path.dirname(network.checkpoint), checkpoints.step(network.checkpoint)
    size = network.image_shape[0]
    pixels = f"[n, {size}, {size}, 3], to probabilities in the order of `{LABELS_FILE}`"
    files = {"saved_model.pb": "SavedModel, from files or pixels to classes and probabilities"}
    for form, name, what in (
        ("tflite", TFLITE_FILE, f"TF Lite, from uint8 {pixels}; n is 1"),
        ("int8", INT8_FILE, "the same in int8"),
        ("onnx", ONNX_FILE, f"ONNX, from uint8 {pixels}"),
        ("keras", KERAS_FILE, f"Keras 3, from uint8 {pixels}"),
    ):
        if forms.get(form):
            files[name] = what
    measured = [line for line in history.evaluations(folder) if line.get("step") == step]
    evaluations = [f"{line['correct']} of {counted(line['of'], line['images'] + ' image')}" for line in measured[-1:]]
    averages = "moving averages" if network.use_moving_averages else "variables"
    title = f"The {averages} of {os.path.basename(network.checkpoint)}"
    return card.text(title, network.class_names, files, history.newest_start(folder), evaluations)


def _write_bridges(folder, network, forms):
    """Writes the network for ONNX and Keras, and looks whether they return what it does itself."""
    # Noise of all degrees of contrast, the lowest of which is none.
    noise = np.random.RandomState(0).uniform(-128, 128, [NUM_PROBES, *network.image_shape])
    probes = (128 + noise * np.linspace(0, 1, NUM_PROBES)[:, np.newaxis, np.newaxis, np.newaxis]).astype(np.uint8)
    weights, expected = network.weights(probes)

    def compare(path, probabilities):
        difference = np.abs(probabilities(path, probes) - expected).max()
        if not difference <= MAX_DIFFERENCE:
            raise RunError(
                f"{os.path.basename(path)}: gives probabilities that differ by {difference:.1e}; not exported"
            )

    if forms.onnx:
        path = os.path.join(folder, ONNX_FILE)
        onnx_file.write(path, weights, network.class_names)
        compare(path, onnx_file.probabilities)
    if forms.keras:
        path = os.path.join(folder, KERAS_FILE)
        keras_file.write(path, weights)
        compare(path, keras_file.probabilities)
    _write_labels(folder, network)


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


def _write_tflite(folder, network, calibration=None):
    """Writes the network for TF Lite, which has no op for decoding nor for this resizing: they are left to the caller.

    It takes one image, `image`, uint8 [1, *image_shape], as from pictures.fit, and returns `probabilities`, float32
    [1, num_classes], in the order of LABELS_FILE. With calibration images, see Forms, the same in int8 too: see _int8.
    """
    with tempfile.TemporaryDirectory() as fixed:
        with tf.Graph().as_default(), tf.Session() as session:
            image = tf.placeholder(tf.uint8, [1, *network.image_shape])
            probabilities = network.probabilities(image)
            network.restore(session)
            signature = tf.saved_model.predict_signature_def({"image": image}, {"probabilities": probabilities})
            _save(session, fixed, {"serving_default": signature})
        contents = {TFLITE_FILE: tf.compat.v2.lite.TFLiteConverter.from_saved_model(fixed).convert()}
        if calibration is not None:
            contents[INT8_FILE] = _int8(fixed, calibration)
    for name, content in contents.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    _write_labels(folder, network)


def _int8(saved_model, calibration):
    """Returns a SavedModel as a TF Lite file of int8, all but its FLOAT_OPS; for calibration see Forms.

    The converter itself would put the division by an image's deviation in int8 too, whose kernel takes the byte 0, in
    the middle of the range, for the number 0, and refuses those images: see findings/.
    """

    def images():
        return ([image[np.newaxis]] for image in calibration)

    converter = tf.compat.v2.lite.TFLiteConverter.from_saved_model(saved_model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=list(FLOAT_OPS))
    with _quiet():
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=images, debug_options=options
        )
        return debugger.get_nondebug_quantized_model()  # the one way to leave ops out


@contextlib.contextmanager
def _quiet():
    """Leaves out that another package has a newer interpreter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tflite_probabilities(path, images):
    """Returns what TF Lite makes of the file at path: float32 [n, classes] of uint8 [n, size, size, 3]."""
    with _quiet():
        interpreter = tf.lite.Interpreter(path)
    run = interpreter.get_signature_runner()
    return np.concatenate([run(image=image[np.newaxis])["probabilities"] for image in images])


def _write_labels(folder, network):
    _write_text(folder, LABELS_FILE, "".join(f"{name}\n" for name in network.class_names))


def _write_text(folder, name, text):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(text)


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
        if getattr(error, "errno", None) in (errno.ENOTEMPTY, errno.EEXIST):  # somebody else was faster
            raise RunError(f"{path}: is there already; choose another --export_dir, or remove it") from None
        raise RunError(f"{path}: cannot be written ({reason(error)}); choose another --export_dir") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
