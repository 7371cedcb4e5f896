"""A trained network in files of other forms: SavedModel, TF Lite, ONNX, Keras, and the card that says what it is."""

import contextlib
import dataclasses
import errno
import os
import shutil
import tempfile
import warnings

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.bridges import keras_file, onnx_file
from cifar10.bridges import model_card as card
from cifar10.data import datasets, picture_ops
from cifar10.errors import RunError, counted, reason
from cifar10.runs import checkpoints, history

# What an export folder holds beside the SavedModel if it is asked to.
TFLITE_FILE = "model.tflite"
INT8_FILE = "model_int8.tflite"
# Of standardization and normalization, which int8 is too coarse for.
FLOAT_OPS = ("MEAN", "SUB", "SQUARED_DIFFERENCE", "SQRT", "RSQRT", "MAXIMUM", "DIV", "MUL")
ONNX_FILE = "model.onnx"
KERAS_FILE = "model.keras"
LABELS_FILE = "labels.txt"  # the class of each of their probabilities, a line each
CARD_FILE = "MODEL_CARD.md"

MAX_DIFFERENCE = 1e-5  # of a probability, between the network here and in another library
NUM_PROBES = 16  # images on which that is looked at


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
      network: a serving.TrainedNetwork.
      export_dir: the folder to write; it may exist if it is empty. TensorFlow Serving wants a number as its name.
      tflite: short for forms=Forms(tflite=True).
      forms: the Forms that are written into it too, with LABELS_FILE.

    Raises:
      RunError: export_dir holds something or cannot be written, or the checkpoint is as in serving.Predictor; or
        another library is not there, or does not return what the network here does.
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
      network: the serving.TrainedNetwork.
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
