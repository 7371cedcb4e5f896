"""Pictures -> logits."""

import tensorflow.compat.v1 as tf

from cifar10 import layers, microbatches, summaries
from cifar10.cifar10_input import NUM_CLASSES


def inference(
    images, num_classes=NUM_CLASSES, use_fp16=False, seed=None, lrn="auto", microbatch_size=0, half="bfloat16"
):
    """Builds the tutorial's network: two convolutions, two fully connected layers and a linear one.

    Layer sizes, initial values and weight decay are the tutorial's; its local response normalization and its pooling
    follow cuda-convnet's 11 % configuration.

    Args:
      images: float32 [batch, height, width, 3], standardized.
      num_classes: number of logits a picture.
      use_fp16: whether to compute in half precision; variables stay float32.
      seed: seed of the initial values, or None.
      lrn: how to normalize: see layers.local_response_normalization.
      microbatch_size: pictures that are computed together, where the batch is known; 0: the whole batch. A layer's
        named output then is there to be fetched, but the next layer does not depend on it: see microbatches.
      half: the type of half precision: 'bfloat16', or 'float16', which needs a loss_scaling.LossScale to be trained.

    Returns:
      float32 [batch, num_classes]: unscaled log probabilities.
    """
    each = microbatches.each

    def cast(tensor):
        return tf.cast(tensor, half if use_fp16 else tf.float32)

    def convolve(x, kernel, biases):
        conv = tf.nn.conv2d(x, cast(kernel), [1, 1, 1, 1], padding="SAME")
        return tf.nn.relu(tf.nn.bias_add(conv, cast(biases)))

    def pool(x):
        return tf.nn.max_pool(x, [1, 3, 3, 1], [1, 2, 2, 1], padding="SAME")

    def normalize(x):
        return layers.local_response_normalization(x, lrn)

    def connect(x, weights, biases):
        return tf.matmul(x, cast(weights)) + cast(biases)

    def connect_and_rectify(x, weights, biases):
        return tf.nn.relu(connect(x, weights, biases))

    def name_output(x, name, shown=False):
        """Names a layer's output and shows it in TensorBoard; returns the micro-batches to go on with."""
        whole = microbatches.join(x, name)
        parts = x if len(x) > 1 else [whole]
        if shown:
            summaries.activation(name, parts)
        return parts

    x = each(cast, microbatches.split(images, microbatch_size))
    with tf.variable_scope("conv1"):
        kernel = layers.weights([5, 5, 3, 64], stddev=5e-2, seed=seed)
        x = each(convolve, x, kernel, layers.biases([64], 0.0))
        x = name_output(x, "conv1", shown=True)
    with layers.scope("pool1"):
        x = each(pool, x)  # 24x24 -> 12x12
    x = name_output(x, "pool1")
    with layers.scope("norm1"):
        x = each(normalize, x)
    x = name_output(x, "norm1")

    with tf.variable_scope("conv2"):
        kernel = layers.weights([5, 5, 64, 64], stddev=5e-2, seed=seed)
        x = each(convolve, x, kernel, layers.biases([64], 0.1))
        x = name_output(x, "conv2", shown=True)
    with layers.scope("norm2"):
        x = each(normalize, x)
    x = name_output(x, "norm2")
    with layers.scope("pool2"):
        x = each(pool, x)  # 12x12 -> 6x6
    x = name_output(x, "pool2")

    with tf.variable_scope("local3"):
        features = x[0].shape[1:].num_elements()
        weights = layers.weights([features, 384], stddev=0.04, weight_decay=0.004, seed=seed)
        x = each(lambda x: tf.reshape(x, [-1, features]), x)
        x = each(connect_and_rectify, x, weights, layers.biases([384], 0.1))
        x = name_output(x, "local3", shown=True)

    with tf.variable_scope("local4"):
        weights = layers.weights([384, 192], stddev=0.04, weight_decay=0.004, seed=seed)
        x = each(connect_and_rectify, x, weights, layers.biases([192], 0.1))
        x = name_output(x, "local4", shown=True)

    with tf.variable_scope("softmax_linear"):
        weights = layers.weights([192, num_classes], stddev=1 / 192.0, seed=seed)
        x = each(connect, x, weights, layers.biases([num_classes], 0.0))
        logits = microbatches.join(x, "softmax_linear")
        summaries.activation("softmax_linear", [logits])
    return tf.cast(logits, tf.float32)
