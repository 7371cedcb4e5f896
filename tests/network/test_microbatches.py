"""A batch computed as micro-batches."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10.machine import devices
from cifar10.network import losses, microbatches, model


@pytest.mark.parametrize(("size", "expected"), [(0, [7]), (3, [3, 3, 1]), (7, [7]), (8, [7])])
def test_micro_batches_hold_each_image_once_in_order(graph, size, expected):
    parts = microbatches.split(tf.range(7), size)
    assert len(parts) == microbatches.count(7, size)
    with tf.Session() as session:
        values = session.run(parts)
        assert [len(part) for part in values] == expected
        np.testing.assert_array_equal(np.concatenate(values), range(7))
        np.testing.assert_array_equal(session.run(microbatches.join(parts, "whole")), range(7))


def test_the_default_is_for_cpus_only(monkeypatch):
    for has_gpu, size in ((False, 32), (True, 0)):
        monkeypatch.setattr(devices, "has_gpu", lambda has_gpu=has_gpu: has_gpu)
        assert microbatches.size(None) == size
        assert microbatches.size(8) == 8


# With 24 bits, 1 + 2^-24 is 1, so the order of a sum shows in its last bit.
TINY = 2.0**-24


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, TINY, TINY, TINY], 1.0 + 2 * TINY),  # (1 + t) + (t + t); from left to right it would be 1
        ([1.0, TINY, TINY], 1.0),  # (1 + t) + t
        ([1.0, TINY, TINY, TINY, TINY], 1.0 + 4 * TINY),  # ((1 + t) + (t + t)) + t, half way, to the even neighbour
        ([TINY], TINY),
    ],
)
def test_sums_are_of_pairs_neighbours_first(graph, values, expected):
    """Also as the gradient of a value that all micro-batches share, and after TensorFlow's graph optimizer."""
    terms = tf.get_variable("terms", initializer=np.float32(values)[:, np.newaxis], use_resource=True)
    shared = tf.get_variable("shared", initializer=np.ones(1, np.float32), use_resource=True)
    products = microbatches.each(lambda x, w: x * w, tf.split(terms, len(values)), shared)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        assert session.run(microbatches.pairwise_sum(tf.split(terms, len(values))))[0] == expected
        assert session.run(tf.gradients(products, shared)[0])[0] == expected


def test_what_is_prepared_is_prepared_once_and_its_gradients_are_added_unprepared(graph):
    """In bfloat16, of 8 bits, 1 + 2^-9 is 1; the sum is of float32, as if each micro-batch had cast the variable."""
    prepared = []

    def prepare(variable):
        prepared.append(tf.cast(variable, tf.bfloat16))
        return prepared[-1]

    shared = tf.get_variable("shared", initializer=np.ones(1, np.float32), use_resource=True)
    parts = [tf.constant([value], tf.bfloat16) for value in (1.0, 2.0**-9)]
    products = microbatches.each(lambda x, w: x * w, parts, shared, prepare=prepare)
    gradient = tf.gradients(products, shared)[0]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        assert session.run(gradient)[0] == 1.0 + 2.0**-9
    assert len(prepared) == 1


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_micro_batches_give_the_logits_and_gradients_of_the_whole_batch(dtype, tolerance):
    results = []
    for size in (0, 4):
        with tf.Graph().as_default(), tf.Session() as session:
            images = tf.constant(np.random.RandomState(0).randn(10, 24, 24, 3), tf.float32)
            logits = model.Network(dtype=dtype, seed=0, microbatch_size=size)(images)
            gradients = tf.gradients(losses.loss(logits, tf.range(10)), tf.trainable_variables())
            session.run(tf.global_variables_initializer())
            named = session.run([f"{layer}:0" for layer in ("conv1/conv1", "norm1", "pool2", "local3/local3")])
            results.append([session.run(logits), *named, *session.run(gradients)])
    for whole, parts in zip(*results, strict=True):
        assert whole.shape == parts.shape
        np.testing.assert_allclose(parts, whole, atol=tolerance * np.abs(whole).max(), rtol=0)


def test_a_fork_can_differentiate_with_respect_to_a_layers_named_output(graph):
    """As a fork that draws saliency maps does: without micro-batches the named outputs are on the way to the loss."""
    logits = model.Network()(tf.zeros([2, 24, 24, 3]))
    names = ["conv1/conv1", "pool1", "norm1", "conv2/conv2", "norm2", "pool2", "local3/local3", "local4/local4"]
    for name in names:
        assert tf.gradients(logits, graph.get_tensor_by_name(f"{name}:0"))[0] is not None, name
