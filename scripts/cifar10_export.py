#!/usr/bin/env python3
"""Writes a trained network as a SavedModel, which any TensorFlow 2 loads without this package.

It takes a batch of images, of any number: the signature serving_default takes the bytes of their files (image_bytes),
serving_uint8 their pixels (images, uint8 [batch, height, width, 3]). Both return the classes' names and probabilities,
most probable first, as cifar10_predict.py gives them.

The files are JPEG, PNG, GIF, or BMP of 8, 24 or 32 bits without run lengths. WebP, which cifar10_predict.py takes too,
needs more than a graph. One that is refused fails its batch.
"""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what TensorFlow says of itself
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until flags.main takes it: no traceback out of an import

from absl import flags as absl_flags

from cifar10 import exporting, flags, serving, settings
from cifar10.errors import RunError, counted

CALIBRATING = 500  # training images on which the ranges of int8 are measured
MEASURED = 1000  # test images on which it is compared with float32


def run(
    *,
    export_dir,
    tflite,
    dataset,
    data_dir,
    checkpoint,
    checkpoint_dir,
    use_moving_averages,
    crop,
    use_fp16,
    quantize=False,
    onnx=False,
    keras=False,
    list_classes=False,
):
    """Exports; the parameters are the flags."""
    path = serving.find_checkpoint(checkpoint, checkpoint_dir)
    names = serving.class_names(dataset, data_dir, path)
    if list_classes:
        print("\n".join(names), flush=True)
        return
    network = serving.TrainedNetwork(path, names, crop, use_fp16, use_moving_averages)
    train, test = calibration(network, dataset, data_dir) if needs_images(quantize, tflite) else (None, None)
    card = exporting.model_card(network, {"tflite": tflite, "int8": quantize, "onnx": onnx, "keras": keras})
    exporting.export(network, export_dir, forms=exporting.Forms(tflite, train, onnx, keras, card))
    print(f"Exported {path} to {export_dir}", flush=True)
    if quantize:
        for file in (exporting.TFLITE_FILE, exporting.INT8_FILE):
            probabilities = exporting.tflite_probabilities(os.path.join(export_dir, file), test.images)
            right = (probabilities.argmax(axis=1) == test.labels).mean()
            print(f"{file}: precision @ 1 = {right:.3f} on {counted(test.count, 'test image')}", flush=True)


def needs_images(quantize, tflite):
    """Returns whether there are ranges to measure.

    Raises:
      RunError: there would be nothing to write.
    """
    if quantize and not tflite:
        raise RunError("--quantize: is of TF Lite; give --tflite too")
    return quantize


def calibration(network, dataset, data_dir):
    """Returns training images as the network takes them, evenly drawn, and the records.Examples to measure it on."""
    source = settings.data_source(serving.dataset_name(dataset, network.checkpoint), data_dir)
    if network.crop != "central":
        raise RunError(f"--quantize: the data set's images are seen as by --crop=central, not {network.crop}")
    train, test = source.load("train"), source.load("test")
    return train.images[:: max(1, train.count // CALIBRATING)][:CALIBRATING], test.part(0, min(MEASURED, test.count))


def define_flags():
    absl_flags.DEFINE_string(
        "export_dir",
        "/tmp/cifar10_export",
        "Directory to write, which must be empty or new; it is there when it is complete. For TensorFlow Serving its "
        "last part must be a number, as in /models/cifar10/1.",
    )
    absl_flags.DEFINE_boolean(
        "tflite",
        False,
        "Write model.tflite and labels.txt too: an image, uint8 [1, 32, 32, 3] (24 and 24 with --crop=whole), to "
        "probabilities, float32 [1, classes], in the order of the labels.",
    )
    absl_flags.DEFINE_boolean(
        "quantize",
        False,
        "With --tflite, write model_int8.tflite too, whose ranges are measured on training images, and compare both on "
        "test images; it needs the data set in --data_dir.",
    )
    absl_flags.DEFINE_boolean(
        "onnx",
        False,
        "Write model.onnx and labels.txt too: images, uint8 [n, 32, 32, 3] (24 and 24 with --crop=whole), to "
        "probabilities, float32 [n, classes].",
    )
    absl_flags.DEFINE_boolean(
        "keras", False, "Write model.keras and labels.txt too, of the same form, for Keras 3 on any of its backends."
    )


if __name__ == "__main__":
    del absl_flags.FLAGS.batch_size  # an export takes any number of images
    flags.define_serving_flags()
    define_flags()
    flags.main(run)
