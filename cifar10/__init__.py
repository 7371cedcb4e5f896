"""TensorFlow's CIFAR-10 tutorial network, as functions that build its graph.

    images, labels = cifar10.distorted_inputs()
    logits = cifar10.inference(images)
    loss = cifar10.loss(logits, labels)
    train_op = cifar10.train(loss, tf.train.get_or_create_global_step())

The functions read the package's flags and this module's constants, at the time of the call, and hand them to the
modules below. Importing defines the flags batch_size, data_dir and use_fp16 and changes nothing else.

The names that begin with an underscore are the tutorial's own, too: forks call them.
"""

import re

import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input
from cifar10.cifar10_input import (
    IMAGE_SIZE,
    NUM_CLASSES,
    NUM_EXAMPLES_PER_EPOCH_FOR_EVAL,
    NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN,
)
from cifar10.data import crops, datasets, download, records
from cifar10.flags import FLAGS, parser
from cifar10.network import layers, losses, model, optimizer, recipes, summaries
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
    "parser",
    "train",
]

DATA_URL = datasets.CIFAR10.archive.url


def distorted_inputs():
    """Builds the training input from data_dir: see cifar10_input.distorted_inputs.

    The order of the images follows tf.set_random_seed, and is another one each time where that was not called. Inputs
    of one graph differ from each other.
    """
    cifar10_input.require_graph("cifar10.distorted_inputs")
    distortions = crops.Distortions(_constant("IMAGE_SIZE"))
    return cifar10_input.distorted_inputs(_load("train"), FLAGS.batch_size, distortions=distortions)


def inputs(eval_data):
    """Builds the evaluation input, endless, of the test images (eval_data true) or the training images."""
    cifar10_input.require_graph("cifar10.inputs")
    examples = _load("test" if eval_data else "train")
    return cifar10_input.inputs(eval_data, examples, FLAGS.batch_size, _constant("IMAGE_SIZE"))


def inference(images):
    """Builds the network: see model.Network. Half precision is bfloat16, because a fork has no loss scaling."""
    cifar10_input.require_graph("cifar10.inference")
    dtype = "bfloat16" if FLAGS.use_fp16 else "float32"
    return model.Network(num_classes=_constant("NUM_CLASSES"), dtype=dtype)(images)


def loss(logits, labels):
    """Builds the total loss: see losses.loss."""
    cifar10_input.require_graph("cifar10.loss")
    return losses.loss(logits, labels)


def train(total_loss, global_step):
    """Builds the training step: see optimizer.train."""
    cifar10_input.require_graph("cifar10.train")
    schedule = recipes.Staircase(INITIAL_LEARNING_RATE, NUM_EPOCHS_PER_DECAY, LEARNING_RATE_DECAY_FACTOR)
    recipe = recipes.Recipe("tutorial", learning_rate=schedule, moving_average_decay=MOVING_AVERAGE_DECAY)
    num_examples = _constant("NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN")
    rate = optimizer.learning_rate(schedule, global_step, FLAGS.batch_size, num_examples)
    return optimizer.train(total_loss, global_step, rate, recipe)


def maybe_download_and_extract():
    """Makes sure that the images are in data_dir: see download.ensure."""
    download.ensure(datasets.CIFAR10, FLAGS.data_dir, url=DATA_URL)


def _constant(name):
    """Returns a constant of the input as a fork has set it, in this module or in cifar10_input."""
    here = globals()[name]
    return here if here != getattr(datasets, name) else getattr(cifar10_input, name)


def _load(split):
    return records.load(datasets.like_cifar10(_constant("NUM_CLASSES")), FLAGS.data_dir, split)


def _variable_on_cpu(name, shape, initializer):
    """Returns the variable `name` (float32 `shape`) of the current variable scope, on the CPU: see layers.variable."""
    return layers.variable(name, shape, initializer)


def _variable_with_weight_decay(name, shape, stddev, wd):
    """Returns such a variable, initially truncated normal; wd: None, or the factor of its weight decay."""
    variable = layers.variable(name, shape, tf.truncated_normal_initializer(stddev=stddev))
    if wd is not None:
        layers.decay(variable, wd)
    return variable


def _activation_summary(x):
    """Adds the histogram of a layer's output, and the fraction of zeros in it, under the layer's name."""
    name = re.sub(rf"{TOWER_NAME}_\d+/", "", x.op.name)
    summaries.activation(re.sub(r"([^/]+)/\1$", r"\1", name), [x])  # in its scope, the tutorial's conv1 is conv1/conv1


def _add_loss_summaries(total_loss):
    """Builds the moving averages of all losses, and their charts; returns the op that updates them."""
    return tf.group(optimizer.average_losses(losses.by_tag(total_loss)), name="average_losses")
