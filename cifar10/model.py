"""Pictures -> logits."""

import tensorflow.compat.v1 as tf

from cifar10 import layers, summaries
from cifar10.cifar10_input import NUM_CLASSES


def inference(images, num_classes=NUM_CLASSES, use_fp16=False, seed=None, lrn="auto"):
    """Builds the tutorial's network: two convolutions, two fully connected layers and a linear one.

    Layer sizes, initial values and weight decay are the tutorial's; its local response normalization and its pooling
    follow cuda-convnet's 11 % configuration.

    Args:
      images: float32 [batch, height, width, 3], standardized.
      num_classes: number of logits a picture.
      use_fp16: whether to compute in half precision (bfloat16); variables stay float32.
      seed: seed of the initial values, or None.
      lrn: how to normalize: see layers.local_response_normalization.

    Returns:
      float32 [batch, num_classes]: unscaled log probabilities.
    """

    def cast(tensor):
        return tf.cast(tensor, tf.bfloat16 if use_fp16 else tf.float32)

    with tf.variable_scope("conv1"):
        kernel = layers.weights([5, 5, 3, 64], stddev=5e-2, seed=seed)
        conv = tf.nn.conv2d(cast(images), cast(kernel), [1, 1, 1, 1], padding="SAME")
        conv1 = tf.nn.relu(tf.nn.bias_add(conv, cast(layers.biases([64], 0.0))), name="conv1")
        summaries.activation("conv1", conv1)
    pool1 = tf.nn.max_pool(conv1, [1, 3, 3, 1], [1, 2, 2, 1], padding="SAME", name="pool1")  # 24x24 -> 12x12
    norm1 = layers.local_response_normalization(pool1, lrn, "norm1")

    with tf.variable_scope("conv2"):
        kernel = layers.weights([5, 5, 64, 64], stddev=5e-2, seed=seed)
        conv = tf.nn.conv2d(norm1, cast(kernel), [1, 1, 1, 1], padding="SAME")
        conv2 = tf.nn.relu(tf.nn.bias_add(conv, cast(layers.biases([64], 0.1))), name="conv2")
        summaries.activation("conv2", conv2)
    norm2 = layers.local_response_normalization(conv2, lrn, "norm2")
    pool2 = tf.nn.max_pool(norm2, [1, 3, 3, 1], [1, 2, 2, 1], padding="SAME", name="pool2")  # 12x12 -> 6x6

    with tf.variable_scope("local3"):
        features = pool2.shape[1:].num_elements()
        reshape = tf.reshape(pool2, [-1, features])
        weights = layers.weights([features, 384], stddev=0.04, weight_decay=0.004, seed=seed)
        local3 = tf.nn.relu(tf.matmul(reshape, cast(weights)) + cast(layers.biases([384], 0.1)), name="local3")
        summaries.activation("local3", local3)

    with tf.variable_scope("local4"):
        weights = layers.weights([384, 192], stddev=0.04, weight_decay=0.004, seed=seed)
        local4 = tf.nn.relu(tf.matmul(local3, cast(weights)) + cast(layers.biases([192], 0.1)), name="local4")
        summaries.activation("local4", local4)

    with tf.variable_scope("softmax_linear"):
        weights = layers.weights([192, num_classes], stddev=1 / 192.0, seed=seed)
        linear = tf.add(
            tf.matmul(local4, cast(weights)), cast(layers.biases([num_classes], 0.0)), name="softmax_linear"
        )
        summaries.activation("softmax_linear", linear)
    return tf.cast(linear, tf.float32)
