"""Logits -> loss."""

import re

import tensorflow.compat.v1 as tf

TOWER_NAME = "tower"


def loss(logits, labels, label_smoothing=0.0):
    """Builds the total loss: mean cross entropy plus the weight decay of the layers.

    The cross entropy joins the collection 'losses', which holds the weight decay already, and whatever a fork has added
    to it; the total is the sum of the collection. In a tower it is the sum of the tower's own, those within its name
    scope `tower_<i>`.

    Args:
      logits: float32 [batch, num_classes].
      labels: int [batch].
      label_smoothing: part of a label's probability that is divided evenly among all classes.

    Returns:
      float32 scalar in nats.
    """
    tower = re.match(rf"{TOWER_NAME}_\d+/", f"{tf.get_default_graph().get_name_scope()}/")
    with tf.name_scope("loss"):
        if label_smoothing:
            num_classes = logits.shape.as_list()[1]
            others = label_smoothing / num_classes
            smoothed = tf.one_hot(labels, num_classes, on_value=1.0 - label_smoothing + others, off_value=others)
            cross_entropies = tf.nn.softmax_cross_entropy_with_logits_v2(labels=smoothed, logits=logits)
        else:
            cross_entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=tf.cast(labels, tf.int64), logits=logits
            )
        cross_entropy = tf.reduce_mean(cross_entropies)
    tf.add_to_collection("losses", tf.identity(cross_entropy, name="cross_entropy"))
    return tf.add_n(tf.get_collection("losses", tower and tower[0]), name="total_loss")


def by_tag(total_loss, scope=None):
    """Returns {tag: scalar tensor} of the losses to show: those in the collection 'losses', and the total.

    Args:
      total_loss: scalar tensor.
      scope: None, or the name scope of the tower whose losses are meant, with its slash.
    """
    return {_tag(tensor): tensor for tensor in [*tf.get_collection("losses", scope), total_loss]}


def _tag(tensor):
    """Returns the name of a loss without the towers' scope, which would split one chart in several."""
    return re.sub(rf"^{TOWER_NAME}_\d+/", "", tensor.op.name)
