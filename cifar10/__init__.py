"""TensorFlow's CIFAR-10 tutorial network, as functions that build its graph.

    images, labels = cifar10.distorted_inputs()
    logits = cifar10.inference(images)
    loss = cifar10.loss(logits, labels)
    train_op = cifar10.train(loss, tf.train.get_or_create_global_step())

The functions read the package's flags and this module's constants, at the time of the call, and hand them to the
modules below. Importing defines the flags batch_size, data_dir and use_fp16 and changes nothing else.
"""

import random

import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input
from cifar10.cifar10_input import (
    IMAGE_SIZE,
    NUM_CLASSES,
    NUM_EXAMPLES_PER_EPOCH_FOR_EVAL,
    NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN,
)
from cifar10.data import crops, datasets, download, records
from cifar10.flags import FLAGS
from cifar10.network import losses, model, optimizer, recipes
from cifar10.network.losses import TOWER_NAME
from cifar10.network.recipes import (
    INITIAL_LEARNING_RATE,
    LEARNING_RATE_DECAY_FACTOR,
    MOVING_AVERAGE_DECAY,
    NUM_EPOCHS_PER_DECAY,
)
from cifar10.version import __version__

__all__ = [
    "DATA_URL",
    "FLAGS",
    "IMAGE_SIZE",
    "INITIAL_LEARNING_RATE",
    "LEARNING_RATE_DECAY_FACTOR",
    "MOVING_AVERAGE_DECAY",
    "NUM_CLASSES",
    "NUM_EPOCHS_PER_DECAY",
    "NUM_EXAMPLES_PER_EPOCH_FOR_EVAL",
    "NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN",
    "TOWER_NAME",
    "__version__",
    "cifar10_input",
    "distorted_inputs",
    "inference",
    "inputs",
    "loss",
    "maybe_download_and_extract",
    "train",
]

DATA_URL = datasets.CIFAR10.archive.url


def distorted_inputs():
    """Builds the training input from data_dir: see cifar10_input.distorted_inputs.

    The order of the images follows tf.set_random_seed, and is another one each time where that was not called.
    """
    seed = tf.get_default_graph().seed
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed % 2**32
    data = records.load(datasets.CIFAR10, FLAGS.data_dir, "train")
    return cifar10_input.distorted_inputs(data, FLAGS.batch_size, seed, distortions=crops.Distortions(IMAGE_SIZE))


def inputs(eval_data):
    """Builds the evaluation input, endless, of the test images (eval_data true) or the training images."""
    data = records.load(datasets.CIFAR10, FLAGS.data_dir, "test" if eval_data else "train")
    return cifar10_input.inputs(data, FLAGS.batch_size, image_size=IMAGE_SIZE)


def inference(images):
    """Builds the network: see model.Network. Half precision is bfloat16, because a fork has no loss scaling."""
    return model.Network(num_classes=NUM_CLASSES, dtype="bfloat16" if FLAGS.use_fp16 else "float32")(images)


def loss(logits, labels):
    """Builds the total loss: see losses.loss."""
    return losses.loss(logits, labels)


def train(total_loss, global_step):
    """Builds the training step: see optimizer.train."""
    schedule = recipes.Staircase(INITIAL_LEARNING_RATE, NUM_EPOCHS_PER_DECAY, LEARNING_RATE_DECAY_FACTOR)
    recipe = recipes.Recipe("tutorial", learning_rate=schedule, moving_average_decay=MOVING_AVERAGE_DECAY)
    rate = optimizer.learning_rate(schedule, global_step, FLAGS.batch_size, NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN)
    return optimizer.train(total_loss, global_step, rate, recipe)


def maybe_download_and_extract():
    """Makes sure that the images are in data_dir: see download.ensure."""
    download.ensure(datasets.CIFAR10, FLAGS.data_dir, url=DATA_URL)
