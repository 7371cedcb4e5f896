"""Images -> logits: the tutorial's network, and the one of cuda-convnet that it was made from."""

import dataclasses
import functools

import tensorflow.compat.v1 as tf

from cifar10.data.datasets import NUM_CLASSES
from cifar10.network import layers, microbatches, summaries

RESTORED = 0  # the seed of a network whose initial values never count; with none, TF_DETERMINISTIC_OPS=1 refuses it


@dataclasses.dataclass(frozen=True)
class Network:
    """Which network it is and how it is computed. Called on images, it builds itself and returns the logits.

    Attributes:
      name: one of NETWORKS.
      num_classes: number of logits an image.
      dtype: what it computes in: 'float32'; or 'bfloat16' or 'float16', the latter of which needs a
        loss_scaling.LossScale to be trained. Variables are float32 in any case.
      seed: seed of the initial values; None: other values each time.
      lrn: how to normalize: see layers.local_response_normalization.
      conv: how to convolve: see layers.convolve.
      microbatch_size: images that are computed together, where the batch is known; 0: the whole batch. A layer's
        named output then is there to be fetched, but the next layer does not depend on it: see microbatches.
    """

    name: str = "tutorial"
    num_classes: int = NUM_CLASSES
    dtype: str = "float32"
    seed: int | None = None
    lrn: str = "auto"
    conv: str = "auto"
    microbatch_size: int = 0

    def __call__(self, images):
        """Builds the network.

        Args:
          images: float32 [batch, height, width, 3], standardized.

        Returns:
          float32 [batch, num_classes]: unscaled log probabilities.
        """
        x = microbatches.split(images, self.microbatch_size)
        x = microbatches.each(lambda x: tf.cast(x, self.dtype), x)
        return NETWORKS[self.name](self, x)


def _tutorial(network, x):
    """Builds the tutorial's network: two convolutions, two fully connected layers and a linear one.

    Layer sizes, initial values and weight decay are the tutorial's; its local response normalization and its pooling
    follow cuda-convnet's 11 % configuration.

    Args:
      network: the Network.
      x: micro-batches [images, height, width, 3], of its type.

    Returns:
      float32 [batch, num_classes].
    """
    weights = functools.partial(layers.weights, seed=network.seed)
    x = _convolutions(network, x, weights, stddevs=(5e-2, 5e-2), biases=(0.0, 0.1))
    for name, size in (("local3", 384), ("local4", 192)):
        with tf.variable_scope(name):
            kernel = weights([x[0].shape[1:].num_elements(), size], stddev=0.04, weight_decay=0.004)
            biases = layers.biases([size], 0.1)
            x = microbatches.each(layers.connect_and_rectify, x, kernel, biases, prepare=layers.cast_to(network.dtype))
            x = layers.output(x, name, shown=True)
    with tf.variable_scope("softmax_linear"):
        return _logits(x, weights([192, network.num_classes], stddev=1 / 192.0))


def _cuda_convnet(network, x):
    """Builds cuda-convnet's network of 11 % error: two convolutions, two locally connected layers and a linear one.

    It is layers-conv-local-11pct.cfg of https://code.google.com/archive/p/cuda-convnet: sizes, initial values (normal,
    biases 0) and weight decay, but for conv1, whose initial values are 64 times as large, because standardized images
    have a 64th of the deviation of bytes. It has 2,112,970 parameters and takes 19.5 million multiply-adds an image,
    the figures that the tutorial's text gives for itself.

    Args and returns as in _tutorial.
    """
    weights = functools.partial(layers.weights, seed=network.seed, truncated=False)
    x = _convolutions(network, x, weights, stddevs=(6.4e-3, 1e-2), biases=(0.0, 0.0))
    _, height, width, depth = x[0].shape.as_list()
    for name, filters in (("local3", 64), ("local4", 32)):
        with tf.variable_scope(name):
            kernel = weights([height, width, 9 * depth, filters], stddev=0.04, weight_decay=0.004)
            biases = layers.biases([height, width, filters], 0.0)
            x = microbatches.each(layers.connect_locally, x, kernel, biases, prepare=layers.cast_to(network.dtype))
            x = layers.output(x, name, shown=True)
        depth = filters
    with tf.variable_scope("softmax_linear"):
        return _logits(x, weights([height * width * depth, network.num_classes], stddev=0.01, weight_decay=0.01))


def _without_lrn(build):
    """Returns the function that builds the same network, with the same variables, without its normalization.

    It is a network of its own, because a checkpoint does not tell which of both its weights were trained in.
    """
    return lambda network, x: build(dataclasses.replace(network, lrn="none"), x)


NETWORKS = {  # what builds the network of a name
    "tutorial": _tutorial,
    "cuda_convnet": _cuda_convnet,
    "tutorial_without_lrn": _without_lrn(_tutorial),
    "cuda_convnet_without_lrn": _without_lrn(_cuda_convnet),
}


def _convolutions(network, x, weights, stddevs, biases):
    """Builds what both networks begin with: conv1 pool1 norm1 conv2 norm2 pool2.

    Args:
      network: the Network.
      x: micro-batches [images, 4h, 4w, 3].
      weights: function (shape, stddev) -> variable.
      stddevs, biases: of the initial weights, and the initial biases, of conv1 and conv2.

    Returns:
      Micro-batches [images, h, w, 64].
    """

    def convolve(x, name, depth, stddev, bias):
        with tf.variable_scope(name):
            kernel = weights([5, 5, depth, 64], stddev=stddev)
            x = layers.convolve(x, kernel, layers.biases([64], bias), network.conv)
            return layers.output(x, name, shown=True)

    def pool(x, name):
        with layers.scope(name):
            x = microbatches.each(layers.pool, x)
        return layers.output(x, name)

    def normalize(x, name):
        with layers.scope(name):
            x = microbatches.each(lambda x: layers.local_response_normalization(x, network.lrn), x)
        return layers.output(x, name)

    x = convolve(x, "conv1", 3, stddevs[0], biases[0])
    x = pool(x, "pool1")  # 24x24 -> 12x12
    x = normalize(x, "norm1")
    x = convolve(x, "conv2", 64, stddevs[1], biases[1])
    x = normalize(x, "norm2")
    return pool(x, "pool2")  # 12x12 -> 6x6


def _logits(x, weights):
    """Builds the linear layer; returns float32 [batch, num_classes] of micro-batches [images, ...]."""
    x = microbatches.each(layers.connect, x, weights, layers.biases(weights.shape.as_list()[1:], 0.0))
    logits = microbatches.join(x, "softmax_linear")
    summaries.activation("softmax_linear", [logits])
    return tf.cast(logits, tf.float32)
