"""Logits -> loss."""

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.network import losses, model


def softmax_cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])


def test_loss_equals_numpy_and_includes_weight_decay(graph):
    logits, labels = np.random.RandomState(0).randn(6, 10) * 3, np.array([0, 1, 2, 3, 9, 9])
    weights = np.random.RandomState(1).randn(4, 5)
    tf.add_to_collection("losses", 0.004 * tf.nn.l2_loss(tf.constant(weights, tf.float32)))
    loss = losses.loss(tf.constant(logits, tf.float32), tf.constant(labels))
    with tf.Session() as session:
        expected = softmax_cross_entropy(logits, labels) + 0.004 * np.sum(weights**2) / 2
        np.testing.assert_allclose(session.run(loss), expected, rtol=1e-6)
    assert loss.op.name == "total_loss"
    assert [tensor.op.name for tensor in tf.get_collection("losses")][-1] == "cross_entropy"


def test_weight_decay_is_on_the_local_layers_only(graph):
    model.Network()(tf.zeros([1, 24, 24, 3]))
    assert [loss.op.name for loss in tf.get_collection("losses")] == ["local3/weight_loss", "local4/weight_loss"]
    weights = np.full([384, 192], 0.5)
    variable = next(v for v in tf.trainable_variables() if v.op.name == "local4/weights")
    with tf.Session() as session:
        session.run(variable.assign(weights))
        np.testing.assert_allclose(session.run("local4/weight_loss:0"), 0.004 * np.sum(weights**2) / 2, rtol=1e-5)
