"""Images -> logits: the tutorial's network, and the one of cuda-convnet that it was made from."""

import functools

import tensorflow.compat.v1 as tf

from cifar10.data.datasets import NUM_CLASSES
from cifar10.network import layers, microbatches, summaries


def inference(
    images, num_classes=NUM_CLASSES, use_fp16=False, seed=None, lrn="auto", microbatch_size=0, half="bfloat16"
):
    """Builds the tutorial's network: two convolutions, two fully connected layers and a linear one.

    Layer sizes, initial values and weight decay are the tutorial's; its local response normalization and its pooling
    follow cuda-convnet's 11 % configuration.

    Args:
      images: float32 [batch, height, width, 3], standardized.
      num_classes: number of logits an image.
      use_fp16: whether to compute in half precision; variables stay float32.
      seed: seed of the initial values, or None.
      lrn: how to normalize: see layers.local_response_normalization.
      microbatch_size: images that are computed together, where the batch is known; 0: the whole batch. A layer's
        named output then is there to be fetched, but the next layer does not depend on it: see microbatches.
      half: the type of half precision: 'bfloat16', or 'float16', which needs a loss_scaling.LossScale to be trained.

    Returns:
      float32 [batch, num_classes]: unscaled log probabilities.
    """
    weights = functools.partial(layers.weights, seed=seed)
    x = _batch(images, half if use_fp16 else "float32", microbatch_size)
    x = _convolutions(x, weights, lrn, stddevs=(5e-2, 5e-2), biases=(0.0, 0.1))
    for name, size in (("local3", 384), ("local4", 192)):
        with tf.variable_scope(name):
            kernel = weights([x[0].shape[1:].num_elements(), size], stddev=0.04, weight_decay=0.004)
            x = microbatches.each(layers.connect_and_rectify, x, kernel, layers.biases([size], 0.1))
            x = layers.output(x, name, shown=True)
    with tf.variable_scope("softmax_linear"):
        return _logits(x, weights([192, num_classes], stddev=1 / 192.0), num_classes)


def cuda_convnet(
    images, num_classes=NUM_CLASSES, use_fp16=False, seed=None, lrn="auto", microbatch_size=0, half="bfloat16"
):
    """Builds cuda-convnet's network of 11 % error: two convolutions, two locally connected layers and a linear one.

    It is layers-conv-local-11pct.cfg of https://code.google.com/archive/p/cuda-convnet: sizes, initial values (normal,
    biases 0) and weight decay, but for conv1, whose initial values are 64 times as large, because standardized images
    have a 64th of the deviation of bytes. It has 2,112,970 parameters and takes 19.5 million multiply-adds an image,
    the figures that the tutorial's text gives for itself.

    Args and returns as in inference.
    """
    weights = functools.partial(layers.weights, seed=seed, truncated=False)
    x = _batch(images, half if use_fp16 else "float32", microbatch_size)
    x = _convolutions(x, weights, lrn, stddevs=(6.4e-3, 1e-2), biases=(0.0, 0.0))
    _, height, width, depth = x[0].shape.as_list()
    for name, filters in (("local3", 64), ("local4", 32)):
        with tf.variable_scope(name):
            kernel = weights([height, width, 9 * depth, filters], stddev=0.04, weight_decay=0.004)
            biases = layers.biases([height, width, filters], 0.0)
            x = microbatches.each(layers.connect_locally, x, kernel, biases)
            x = layers.output(x, name, shown=True)
        depth = filters
    with tf.variable_scope("softmax_linear"):
        kernel = weights([height * width * depth, num_classes], stddev=0.01, weight_decay=0.01)
        return _logits(x, kernel, num_classes)


NETWORKS = {"tutorial": inference, "cuda_convnet": cuda_convnet}


def _batch(images, dtype, microbatch_size):
    """Returns the micro-batches of a batch, in the type that is computed in."""
    return microbatches.each(lambda x: tf.cast(x, dtype), microbatches.split(images, microbatch_size))


def _convolutions(x, weights, lrn, stddevs, biases):
    """Builds what both networks begin with: conv1 pool1 norm1 conv2 norm2 pool2.

    Args:
      x: micro-batches [images, 4h, 4w, 3].
      weights: function (shape, stddev) -> variable.
      lrn: see inference.
      stddevs, biases: of the initial weights, and the initial biases, of conv1 and conv2.

    Returns:
      Micro-batches [images, h, w, 64].
    """

    def convolve(x, name, depth, stddev, bias):
        with tf.variable_scope(name):
            kernel = weights([5, 5, depth, 64], stddev=stddev)
            x = microbatches.each(layers.convolve, x, kernel, layers.biases([64], bias))
            return layers.output(x, name, shown=True)

    def pool(x, name):
        with layers.scope(name):
            x = microbatches.each(layers.pool, x)
        return layers.output(x, name)

    def normalize(x, name):
        with layers.scope(name):
            x = microbatches.each(lambda x: layers.local_response_normalization(x, lrn), x)
        return layers.output(x, name)

    x = convolve(x, "conv1", 3, stddevs[0], biases[0])
    x = pool(x, "pool1")  # 24x24 -> 12x12
    x = normalize(x, "norm1")
    x = convolve(x, "conv2", 64, stddevs[1], biases[1])
    x = normalize(x, "norm2")
    return pool(x, "pool2")  # 12x12 -> 6x6


def _logits(x, weights, num_classes):
    x = microbatches.each(layers.connect, x, weights, layers.biases([num_classes], 0.0))
    logits = microbatches.join(x, "softmax_linear")
    summaries.activation("softmax_linear", [logits])
    return tf.cast(logits, tf.float32)
