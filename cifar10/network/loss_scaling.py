"""Dynamic loss scaling, which keeps the gradients of a float16 network from vanishing and from overflowing.

The loss is multiplied by a scale before its gradients are taken, and they are divided by it in float32. A step whose
gradients overflowed changes no weight and halves the scale; after GROWTH_STEPS good ones in a row it is doubled.
Source: Micikevicius et al., Mixed Precision Training (2018), section 3.2; constants as in
tf.keras.mixed_precision.LossScaleOptimizer.
"""

import tensorflow.compat.v1 as tf

INITIAL_SCALE = 2.0**15
GROWTH_STEPS = 2000
FACTOR = 2.0


class LossScale:
    """The scale of one training graph.

    It is a local variable, so checkpoints do not hold it; it is saved beside them.
    """

    def __init__(self, initial=INITIAL_SCALE, growth_steps=GROWTH_STEPS):
        self._growth_steps = growth_steps
        with tf.device("/cpu:0"):
            self.value = _local("loss_scale", initial, tf.float32)
            self._good_steps = _local("loss_scale_good_steps", 0, tf.int64)

    def scaled(self, loss):
        """Returns a loss, float32 scalar, times the scale."""
        return loss * self.value

    def unscaled(self, gradients):
        """Divides gradients by the scale, and adjusts the scale.

        Args:
          gradients: float32 tensors, of a scaled loss; None for a variable that it does not depend on.

        Returns:
          (the gradients divided by the scale, or zeros if one of them is not finite; bool scalar: whether all are).
        """
        found = [gradient for gradient in gradients if gradient is not None]
        with tf.name_scope("loss_scale"):
            scale = self.value.read_value()
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in found])
            good_steps = tf.where_v2(finite, self._good_steps + 1, 0)
            grows = good_steps >= self._growth_steps
            adjusted = tf.where_v2(finite, tf.where_v2(grows, scale * FACTOR, scale), tf.maximum(scale / FACTOR, 1.0))
            good_steps = tf.where_v2(grows, tf.zeros_like(good_steps), good_steps)
            with tf.control_dependencies([adjusted, good_steps, *found]):
                updates = [
                    self.value.assign(adjusted, read_value=False),
                    self._good_steps.assign(good_steps, read_value=False),
                ]
            with tf.control_dependencies(updates):
                divided = [
                    None if gradient is None else tf.where_v2(finite, gradient / scale, tf.zeros_like(gradient))
                    for gradient in gradients
                ]
                return divided, finite


def of_type(dtype):
    """Returns a LossScale if training in a type, such as 'float32', needs one, or None."""
    return LossScale() if dtype == "float16" else None


def _local(name, initial, dtype):
    return tf.get_variable(
        name,
        [],
        dtype,
        tf.constant_initializer(initial),
        trainable=False,
        collections=[tf.GraphKeys.LOCAL_VARIABLES],
        use_resource=True,
    )
