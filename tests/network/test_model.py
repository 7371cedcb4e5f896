"""Images -> logits."""

import math

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import network, normalize

from cifar10.network import layers, losses, model


def test_logits_equal_numpy(graph):
    rng = np.random.RandomState(0)
    images = rng.randn(3, 24, 24, 3)
    logits = model.Network()(tf.constant(images, tf.float32))
    assert logits.shape == [3, 10] and logits.dtype == tf.float32
    values = {name: rng.randn(*shape) * 0.05 for name, shape in published.VARIABLES.items()}
    with tf.Session() as session:
        session.run([tf.assign(v, values[v.op.name]) for v in tf.trainable_variables()])
        np.testing.assert_allclose(session.run(logits), network(images, values), rtol=1e-3, atol=1e-4)


def test_variables_have_the_tutorials_names_shapes_and_types(graph):
    model.Network()(tf.zeros([2, 24, 24, 3]))
    variables = tf.trainable_variables()
    assert {v.op.name: v.shape.as_list() for v in variables} == published.VARIABLES
    assert {v.dtype.base_dtype for v in variables} == {tf.float32}
    assert {v.device for v in variables} == {"/device:CPU:0"}
    assert sum(v.shape.num_elements() for v in variables) == 1_068_298


def test_initial_values(graph):
    """Truncated normal: standard deviation 0.8796 of the untruncated one, nothing beyond two of it."""
    model.Network(seed=1)(tf.zeros([2, 24, 24, 3]))
    variables = tf.trainable_variables()
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        values = dict(zip((v.op.name for v in variables), session.run(variables), strict=True))
    stddevs = {"conv1": 0.05, "conv2": 0.05, "local3": 0.04, "local4": 0.04, "softmax_linear": 1 / 192}
    biases = {"conv1": 0.0, "conv2": 0.1, "local3": 0.1, "local4": 0.1, "softmax_linear": 0.0}
    for layer in published.LAYERS:
        weights = values[f"{layer}/weights"]
        np.testing.assert_allclose(weights.std(), 0.8796 * stddevs[layer], rtol=0.05)
        assert np.abs(weights).max() <= 2 * stddevs[layer]
        assert np.all(values[f"{layer}/biases"] == np.float32(biases[layer]))


def test_initial_values_follow_the_seed_and_not_the_rest_of_the_graph():
    def first_weights(seed, clutter):
        with tf.Graph().as_default(), tf.Session() as session:
            for _ in range(clutter):
                tf.random_normal([2])
            model.Network(seed=seed)(tf.zeros([2, 24, 24, 3]))
            session.run(tf.global_variables_initializer())
            return session.run(tf.trainable_variables()[2])

    np.testing.assert_array_equal(first_weights(0, 0), first_weights(0, 3))
    assert not np.array_equal(first_weights(0, 0), first_weights(1, 0))


def test_loss_at_step_0_in_closed_form(graph, noise):
    """Ten equal classes, ln 10, and 0.004 / 2 times the expected square sum of the truncated normal weights."""
    images = tf.constant(np.random.RandomState(0).randn(64, 24, 24, 3), tf.float32)
    loss = losses.loss(model.Network(seed=0)(images), tf.constant(np.arange(64) % 10))
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        value = session.run(loss)
    decay = 0.004 / 2 * 0.774 * 0.04**2 * (2304 * 384 + 384 * 192)
    assert abs(value - (math.log(10) + decay)) < 0.05
    assert abs(value - 4.676) < 0.05


def test_half_precision_keeps_float32_variables_and_gives_nearly_the_same_logits(graph):
    images = tf.constant(np.random.RandomState(0).randn(4, 24, 24, 3), tf.float32)
    with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
        single = model.Network(seed=0)(images)
        half = model.Network(dtype="bfloat16", seed=0)(images)
    assert half.dtype == tf.float32
    assert {v.dtype.base_dtype for v in tf.global_variables()} == {tf.float32}
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        single, half = session.run([single, half])
    assert 0 < np.abs(single - half).max() < 0.02 * np.abs(single).max()


@pytest.mark.parametrize("kind", ["op", "matmul"])
def test_lrn_equals_numpy_forward_and_the_library_backward(graph, kind):
    """At activations as large as in training, and far larger, where it matters more."""
    rng = np.random.RandomState(0)
    for size in (3.0, 100.0):
        values, upstream = rng.randn(2, 5, 5, 64) * size, rng.randn(2, 5, 5, 64)
        x = tf.constant(values, tf.float32)
        y = layers.local_response_normalization(x, kind)
        reference = tf.nn.lrn(x, 4, bias=1.0, alpha=0.001 / 9.0, beta=0.75)
        dy = tf.constant(upstream, tf.float32)
        with tf.Session() as session:
            np.testing.assert_allclose(session.run(y), normalize(values), rtol=1e-5, atol=1e-5)
            ours, library = session.run([tf.gradients(y, x, dy), tf.gradients(reference, x, dy)])
        np.testing.assert_allclose(ours, library, rtol=1e-5, atol=1e-5)


def test_lrn_gradient_is_the_slope(graph):
    """Central differences, in float64: independent of every formula."""
    values, direction = np.random.RandomState(0).randn(2, 1, 1, 64) * 20, np.random.RandomState(1).randn(2, 1, 1, 64)
    x = tf.constant(values, tf.float32)
    y = layers.local_response_normalization(x, "matmul")
    slope = (normalize(values + 1e-4 * direction) - normalize(values - 1e-4 * direction)).sum() / 2e-4
    with tf.Session() as session:
        gradient = session.run(tf.gradients(y, x))[0]
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-4)


def test_lrn_by_matmul_is_what_runs_without_gpus(graph):
    model.Network()(tf.zeros([1, 24, 24, 3]))
    types = {op.type for op in graph.get_operations()}
    assert ("LRN" in types) == bool(tf.config.list_physical_devices("GPU"))
    assert graph.get_tensor_by_name("norm1:0").shape[1:] == [12, 12, 64]


@pytest.mark.parametrize("name", ["tutorial", "cuda_convnet"])
def test_without_lrn_a_network_is_the_same_with_norms_that_do_nothing(graph, name):
    images = tf.random.stateless_normal([2, 24, 24, 3], [1, 2])
    with_lrn = model.Network(name, seed=0)(images)
    shapes = {variable.op.name: variable.shape for variable in tf.trainable_variables()}
    ops = [tf.get_default_graph().get_tensor_by_name(f"{layer}:0") for layer in ("pool1", "norm1")]
    with tf.Graph().as_default() as other:
        images = tf.random.stateless_normal([2, 24, 24, 3], [1, 2])
        without = model.Network(f"{name}_without_lrn", seed=0)(images)
        assert {variable.op.name: variable.shape for variable in tf.trainable_variables()} == shapes
        bare = [other.get_tensor_by_name(f"{layer}:0") for layer in ("pool1", "norm1")]
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            pool, norm, found = session.run([*bare, without])
    np.testing.assert_array_equal(norm, pool)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        pool, norm, expected = session.run([*ops, with_lrn])
    assert not np.array_equal(norm, pool) and not np.array_equal(found, expected)


def cuda_convnet(graph):
    images = tf.random.stateless_normal([2, 24, 24, 3], [1, 2])
    return model.Network("cuda_convnet", seed=0)(images)


def test_cuda_convnet_has_the_published_sizes(graph):
    """2,112,970 parameters and 19.5 million multiply-adds are what the tutorial's text gives."""
    logits = cuda_convnet(graph)
    shapes = {variable.op.name: variable.shape.as_list() for variable in tf.trainable_variables()}
    assert logits.shape == [2, 10]
    assert sum(np.prod(shape) for shape in shapes.values()) == 2_112_970
    assert shapes["local3/weights"] == [6, 6, 9 * 64, 64] and shapes["local4/weights"] == [6, 6, 9 * 64, 32]
    assert shapes["local3/biases"] == [6, 6, 64] and shapes["softmax_linear/weights"] == [1152, 10]
    places = {"conv1": 24 * 24, "conv2": 12 * 12}  # where one filter is used; everything else is used once
    macs = sum(
        np.prod(shape) * places.get(name.split("/")[0], 1) for name, shape in shapes.items() if "weights" in name
    )
    assert macs == 19_512_576


def test_cuda_convnet_has_the_published_initial_values_and_weight_decay(graph):
    cuda_convnet(graph)
    deviations = {"conv1": 6.4e-3, "conv2": 1e-2, "local3": 0.04, "local4": 0.04, "softmax_linear": 0.01}
    decays = {"local3": 0.004, "local4": 0.004, "softmax_linear": 0.01}
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        values = {variable.op.name: session.run(variable) for variable in tf.trainable_variables()}
        losses = {tensor.op.name: session.run(tensor) for tensor in tf.get_collection("losses")}
    for layer, deviation in deviations.items():
        weights = values[f"{layer}/weights"]
        assert abs(weights.std() / deviation - 1) < 0.05, layer
        assert abs(weights).max() > 2.5 * weights.std()  # not truncated
        assert not values[f"{layer}/biases"].any()
    expected = {
        f"{layer}/weight_loss": w / 2 * np.square(values[f"{layer}/weights"]).sum() for layer, w in decays.items()
    }
    assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_locally_connected_is_a_convolution_where_its_filters_are_tied_and_not_where_they_are_not(graph, tied):
    random = np.random.RandomState(0)
    x = random.randn(2, 6, 6, 5).astype(np.float32)
    kernel, biases = random.randn(3, 3, 5, 4).astype(np.float32), random.randn(4).astype(np.float32)
    weights = np.tile(kernel.reshape(1, 1, 45, 4), [6, 6, 1, 1])
    if not tied:
        weights[2, 3] += 1.0
    local = layers.connect_locally(tf.constant(x), tf.constant(weights), tf.constant(np.tile(biases, [6, 6, 1])))
    with tf.Session() as session:
        found, expected = session.run([local, *layers.convolve([tf.constant(x)], kernel, biases)])
    different = ~np.isclose(found, expected, atol=1e-4).all(axis=(0, 3))
    assert list(zip(*np.nonzero(different), strict=True)) == ([] if tied else [(2, 3)])


def test_gradients_of_a_locally_connected_layer_are_the_slopes(graph):
    """In float64, of a random direction in each argument: (f(v + h d) - f(v - h d)) / 2h."""
    random = np.random.RandomState(0)
    shapes = [3, 5, 4, 2], [5, 4, 18, 6], [5, 4, 6]
    arguments = [tf.placeholder(tf.float64, shape) for shape in shapes]
    out = layers.connect_locally(*arguments)
    factors = random.randn(3, 5, 4, 6)
    total = tf.reduce_sum(out * factors)
    gradients = tf.gradients(total, arguments)
    values, directions = ([random.randn(*shape) for shape in shapes] for _ in range(2))
    with tf.Session() as session:
        found = session.run(gradients, dict(zip(arguments, values, strict=True)))
        for i, direction in enumerate(directions):
            sums = []
            for step in (1e-6, -1e-6):
                moved = [value + step * direction if i == j else value for j, value in enumerate(values)]
                sums.append(session.run(total, dict(zip(arguments, moved, strict=True))))
            assert (found[i] * direction).sum() == pytest.approx((sums[0] - sums[1]) / 2e-6, rel=1e-5)


def test_gradients_of_a_connected_layer_are_numpys(graph):
    random = np.random.RandomState(0)
    x, weights, biases, dy = (random.randn(*shape) for shape in ([3, 2, 2, 4], [16, 5], [5], [3, 5]))
    arguments = [tf.constant(value) for value in (x, weights, biases)]
    with tf.Session() as session:
        gradients = session.run(tf.gradients(layers.connect(*arguments), arguments, tf.constant(dy)))
    rows = x.reshape(3, 16)
    for found, expected in zip(gradients, ((dy @ weights.T).reshape(x.shape), rows.T @ dy, dy.sum(0)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_gradients_of_locally_connected_weights_are_those_of_their_own_place(graph):
    weights = tf.zeros([6, 6, 9, 1])
    out = layers.connect_locally(tf.ones([1, 6, 6, 1]), weights, tf.ones([6, 6, 1]))
    with tf.Session() as session:
        (gradient,) = session.run(tf.gradients(out[0, 0, 5, 0], [weights]))
    expected = np.zeros([6, 6, 9, 1])
    expected[0, 5, [3, 4, 6, 7]] = 1.0  # in the upper right corner five of nine inputs are padding
    np.testing.assert_array_equal(gradient, expected)
