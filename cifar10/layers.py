"""The few pieces of a layer that TensorFlow has not: variables on the CPU with their weight decay."""

import zlib

import tensorflow.compat.v1 as tf


def biases(shape, value):
    """Returns the variable `biases` (float32 `shape`) of the current variable scope, initially `value`."""
    return _variable("biases", shape, tf.constant_initializer(value))


def weights(shape, stddev, weight_decay=None, seed=None):
    """Returns the variable `weights` (float32 `shape`) of the current variable scope.

    Args:
      shape: list of ints.
      stddev: standard deviation of the truncated normal distribution of the initial values.
      weight_decay: None, or the factor of tf.nn.l2_loss(weights), which joins the graph's 'losses' as `weight_loss`.
      seed: None for other initial values each time, or an int; the values then depend on it and on the variable's name
        only, so that graphs with one tower and with several start alike.
    """
    name = f"{tf.get_variable_scope().name}/weights"
    op_seed = None if seed is None else zlib.crc32(f"{name} {seed}".encode()) & 0x7FFFFFFF
    variable = _variable("weights", shape, tf.truncated_normal_initializer(stddev=stddev, seed=op_seed))
    if weight_decay is not None:
        weight_loss = tf.multiply(tf.nn.l2_loss(variable), weight_decay, name="weight_loss")
        tf.add_to_collection("losses", weight_loss)
    return variable


def _variable(name, shape, initializer):
    # On the CPU, so that the towers of several GPUs share it.
    with tf.device("/cpu:0"):
        return tf.get_variable(name, shape, tf.float32, initializer, use_resource=True)
