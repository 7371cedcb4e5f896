#!/usr/bin/env python3
"""Writes a trained network as a SavedModel, which any TensorFlow 2 loads without this package.

It takes a batch of images, of any number: the signature serving_default takes the bytes of their files (image_bytes),
serving_uint8 their pixels (images, uint8 [batch, height, width, 3]). Both return the classes' names and probabilities,
most probable first, as cifar10_predict.py gives them.

The files are JPEG, PNG, GIF, or BMP of 8, 24 or 32 bits without run lengths. WebP, which cifar10_predict.py takes too,
needs more than a graph. One that is refused fails its batch.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what TensorFlow says of itself

from absl import flags as absl_flags

from cifar10 import flags, serving


def run(*, export_dir, tflite, dataset, data_dir, checkpoint, checkpoint_dir, use_moving_averages, crop, use_fp16):
    """Exports; the parameters are the flags."""
    path = serving.find_checkpoint(checkpoint, checkpoint_dir)
    names = serving.class_names(dataset, data_dir, path)
    serving.export(serving.TrainedNetwork(path, names, crop, use_fp16, use_moving_averages), export_dir, tflite)
    print(f"Exported {path} to {export_dir}", flush=True)


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


if __name__ == "__main__":
    del absl_flags.FLAGS.batch_size  # an export takes any number of images
    flags.define_serving_flags()
    define_flags()
    flags.main(run)
