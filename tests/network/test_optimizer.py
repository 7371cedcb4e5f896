"""Loss -> train op."""

import dataclasses

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf

from cifar10.network import losses, model, optimizer, recipes


def build(batch=8, recipe=recipes.TUTORIAL):
    """Returns (total loss, train op, global step) of the network on a fixed batch of noise."""
    rng = np.random.RandomState(0)
    images = tf.constant(rng.randn(batch, 24, 24, 3), tf.float32)
    loss = losses.loss(model.Network(seed=0)(images), tf.constant(rng.randint(0, 10, batch)))
    global_step = tf.train.get_or_create_global_step()
    return loss, optimizer.train(loss, global_step, tf.constant(0.1), recipe), global_step


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.1), (136_717, 0.1), (136_718, 0.01), (273_435, 0.01), (273_436, 0.001)]
)
def test_learning_rate_at_both_sides_of_its_drops(graph, step, expected):
    """350 epochs of 50,000 images in batches of 128 are 136,718.75 steps."""
    rate = optimizer.learning_rate(recipes.Staircase(), tf.constant(step, tf.int64), batch_size=128)
    with tf.Session() as session:
        np.testing.assert_allclose(session.run(rate), expected, rtol=1e-6)


def test_a_step_moves_against_the_gradient_by_the_learning_rate(graph):
    loss, train_op, global_step = build()
    variables = tf.trainable_variables()
    gradients = tf.gradients(loss, variables)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        before, slopes = session.run([variables, gradients])
        session.run(train_op)
        after = session.run(variables)
        assert session.run(global_step) == 1
    for old, slope, new in zip(before, slopes, after, strict=True):
        np.testing.assert_allclose(new, old - np.float32(0.1) * slope, rtol=1e-5, atol=1e-7)
        assert np.any(new != old)


def test_moving_averages_follow_the_updated_variables(graph):
    """decay = min(0.9999, (1 + n) / (10 + n)), n counted after the update: 2/11, 3/12, 4/13."""
    _, train_op, _ = build()
    variables = tf.trainable_variables()
    averages = [v for v in tf.global_variables() if v.op.name.endswith("/ExponentialMovingAverage")]
    assert [a.op.name for a in averages] == [f"{v.op.name}/ExponentialMovingAverage" for v in variables]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        expected = session.run(variables)
        for n in (1, 2, 3):
            session.run(train_op)
            decay = (1 + n) / (10 + n)
            expected = [decay * e + (1 - decay) * v for e, v in zip(expected, session.run(variables), strict=True)]
        for average, value in zip(session.run(averages), expected, strict=True):
            np.testing.assert_allclose(average, value, rtol=1e-4, atol=1e-7)


def test_moving_average_decay_is_capped(graph):
    _, train_op, _ = build(recipe=dataclasses.replace(recipes.TUTORIAL, moving_average_decay=0.15))
    variable = tf.trainable_variables()[0]
    average = next(v for v in tf.global_variables() if v.op.name == f"{variable.op.name}/ExponentialMovingAverage")
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        before = session.run(variable)
        session.run(train_op)
        after = session.run(variable)
        np.testing.assert_allclose(session.run(average), 0.15 * before + 0.85 * after, rtol=1e-4, atol=1e-8)


def test_loss_averages_start_at_zero_and_decay_by_nine_tenths(graph):
    loss, train_op, _ = build()
    average = next(v for v in tf.global_variables() if v.op.name == "total_loss/avg")
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        expected = 0.0
        for _ in range(3):
            expected = 0.9 * expected + 0.1 * session.run([loss, train_op])[0]
            np.testing.assert_allclose(session.run(average), expected, rtol=1e-5)


def test_a_checkpoint_holds_exactly_the_tutorials_tensors(graph):
    build()
    assert {v.op.name: v.shape.as_list() for v in tf.global_variables()} == published.CHECKPOINT
    types = {v.op.name: v.dtype.base_dtype for v in tf.global_variables()}
    assert types.pop("global_step") == tf.int64
    assert set(types.values()) == {tf.float32}
