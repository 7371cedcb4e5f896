"""Convolution with fewer multiplications."""

import fractions

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10.machine import devices
from cifar10.network import layers, losses, model, recipes, winograd
from cifar10.network.towers import Towers

# Error bounds, relative to the largest value.
OF_OUTPUT = 2e-5
OF_INPUT_GRADIENT = 2e-5
OF_FILTER_GRADIENT = 5e-5
COARSE = 2e-4  # of any of them, with coarse tiles; half precision rounds to 4e-3


def correlate(x, kernel):
    """Returns y[i] = sum_j x[i + j - r//2] kernel[j] in two dimensions, with zeros beyond the edges, in float64."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    taps = len(kernel)
    edge = taps // 2
    padded = np.pad(x, [(0, 0), (edge, edge), (edge, edge), (0, 0)])
    _, height, width, _ = x.shape
    return sum(
        padded[:, row : row + height, column : column + width] @ kernel[row, column]
        for row in range(taps)
        for column in range(taps)
    )


def correlate_gradients(x, kernel, dy):
    """Returns the gradients of sum(dy * correlate(x, kernel)), by their definition, in float64."""
    taps = len(kernel)
    edge = taps // 2
    padded = np.pad(x.astype(np.float64), [(0, 0), (edge, edge), (edge, edge), (0, 0)])
    _, height, width, _ = x.shape
    dx, dkernel = np.zeros(padded.shape), np.zeros(kernel.shape)
    for row in range(taps):
        for column in range(taps):
            window = np.s_[:, row : row + height, column : column + width]
            dx[window] += dy @ kernel[row, column].astype(np.float64).T
            dkernel[row, column] = np.tensordot(padded[window], dy, axes=([0, 1, 2], [0, 1, 2]))
    return dx[:, edge : edge + height, edge : edge + width], dkernel


@pytest.mark.parametrize(("outputs", "taps"), [(4, 5), (6, 5), (4, 3), (6, 3), (2, 5), (2, 3), (1, 1)])
def test_the_matrices_compute_a_correlation(outputs, taps):
    """Of all pairs of unit vectors: the trilinear form is that of y[i] = sum_j x[i + j] g[j]."""
    a, g, b = winograd.matrices(outputs, taps)
    n = outputs + taps - 1
    expected = np.zeros([outputs, taps, n])
    for i in range(outputs):
        for j in range(taps):
            expected[i, j, i + j] = 1
    np.testing.assert_allclose(np.einsum("ip,pj,pk->ijk", a, g, b), expected, atol=1e-12)


def test_more_outputs_than_there_are_points_are_refused():
    with pytest.raises(ValueError, match="10 points"):
        winograd.matrices(7, 5)


def test_a_small_filter_has_lavin_and_grays_matrices_but_for_scales():
    """F(2, 3), as in section 4.1 of their paper; there infinity's last input is negative and so is its output."""
    _, g, b = winograd.matrices(2, 3)
    published_b = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    published_g = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    for ours, published in ((b, published_b), (g, published_g)):
        for row, published_row in zip(ours, published, strict=True):
            cosine = row @ published_row / np.linalg.norm(row) / np.linalg.norm(published_row)
            assert abs(cosine) == pytest.approx(1)


def test_the_scales_round_nothing():
    """All of A' and B' are fractions of a power of two, which float32 holds exactly."""
    a, _, b = winograd.matrices(4, 5)
    for matrix in (a, b):
        np.testing.assert_array_equal(matrix.astype(np.float32), matrix)
        assert all(fractions.Fraction(value).denominator <= 64 for value in matrix.flat)


# 12x12 is conv2's; the others are of sizes that tiles divide in one axis, in none, or that are smaller than a tile.
SIZES = [
    (4, 12, 12, 64, 64, 5),
    (3, 8, 14, 16, 24, 5),
    (2, 9, 7, 16, 16, 3),
    (2, 3, 5, 16, 16, 5),
    (1, 16, 16, 32, 16, 5),
]


def values_and_gradients(convolve, x, kernel, dy, dtype=np.float32):
    with tf.Graph().as_default(), tf.Session() as session:
        x, kernel, dy = (tf.constant(value.astype(dtype)) for value in (x, kernel, dy))
        y = convolve(x, kernel)
        return session.run([y, *tf.gradients(y, [x, kernel], dy)])


def draw(size, seed):
    """Returns images, rectified as a layer before would, filters and an output's gradient."""
    batch, height, width, channels, filters, taps = size
    random = np.random.RandomState(seed)
    x = np.maximum(random.randn(batch, height, width, channels), 0).astype(np.float32)
    kernel = (0.05 * random.randn(taps, taps, channels, filters)).astype(np.float32)
    return x, kernel, random.randn(batch, height, width, filters).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients_are_those_of_a_convolution(size, seed):
    x, kernel, dy = draw(size, seed)
    ours = values_and_gradients(winograd.convolve, x, kernel, dy)
    op = values_and_gradients(lambda x, kernel: tf.nn.conv2d(x, kernel, [1, 1, 1, 1], "SAME"), x, kernel, dy)
    numpy = correlate(x, kernel), *correlate_gradients(x, kernel, dy)
    bounds = OF_OUTPUT, OF_INPUT_GRADIENT, OF_FILTER_GRADIENT
    for value, of_op, of_numpy, bound in zip(ours, op, numpy, bounds, strict=True):
        assert value.shape == of_op.shape == of_numpy.shape
        np.testing.assert_allclose(value, of_op, atol=bound * np.abs(of_op).max(), rtol=0)
        np.testing.assert_allclose(value, of_numpy, atol=bound * np.abs(of_numpy).max(), rtol=0)


def test_coarse_tiles_round_a_digit_more():
    x, kernel, dy = draw(SIZES[0], seed=0)
    found = values_and_gradients(lambda x, w: winograd.convolve(x, w, winograd.COARSE_TILE), x, kernel, dy)
    for value, expected in zip(found, (correlate(x, kernel), *correlate_gradients(x, kernel, dy)), strict=True):
        np.testing.assert_allclose(value, expected, atol=COARSE * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("tile", [winograd.TILE, winograd.COARSE_TILE])
@pytest.mark.parametrize("size", SIZES)
def test_in_float64_it_is_exact(size, tile):
    x, kernel, dy = draw(size, seed=0)
    ours = values_and_gradients(lambda x, w: winograd.convolve(x, w, tile), x, kernel, dy, np.float64)
    for value, expected in zip(ours, (correlate(x, kernel), *correlate_gradients(x, kernel, dy)), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-12 * np.abs(expected).max(), rtol=0)


def test_the_batch_need_not_be_known(graph):
    random = np.random.RandomState(0)
    kernel = random.randn(5, 5, 16, 16).astype(np.float32)
    images = tf.placeholder(tf.float32, [None, 12, 12, 16])
    y = winograd.convolve(images, tf.constant(kernel))
    assert y.shape.as_list() == [None, 12, 12, 16]
    gradient = tf.gradients(y, images)[0]
    with tf.Session() as session:
        for batch in (1, 3):
            x = random.randn(batch, 12, 12, 16).astype(np.float32)
            expected = correlate(x, kernel)
            value, dx = session.run([y, gradient], {images: x})
            np.testing.assert_allclose(value, expected, atol=OF_OUTPUT * np.abs(expected).max(), rtol=0)
            expected, _ = correlate_gradients(x, kernel, np.ones_like(expected))
            np.testing.assert_allclose(dx, expected, atol=OF_INPUT_GRADIENT * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize(
    ("image", "kernel", "expected"),
    [
        ([None, 12, 12, 64], [5, 5, 64, 64], True),
        ([32, 12, 12, 64], [3, 3, 64, 64], True),
        ([32, 24, 24, 3], [5, 5, 3, 64], False),  # too few channels
        ([32, 12, 12, 64], [5, 5, 64, 8], False),
        ([32, 12, 12, 64], [1, 1, 64, 64], False),
        ([32, 12, 12, 64], [7, 7, 64, 64], False),  # too few points
        ([32, 12, 12, 64], [3, 5, 64, 64], False),
        ([32, None, 12, 64], [5, 5, 64, 64], False),
    ],
)
def test_it_suits_square_filters_of_many_channels(graph, image, kernel, expected):
    assert winograd.suits(tf.placeholder(tf.float32, image), tf.placeholder(tf.float32, kernel)) is expected


def test_the_inputs_are_no_longer_needed_when_memory_is_taken_for_their_gradient(graph):
    """Of the two products of the gradient, that of the inputs waits for that of the filters, which uses the inputs."""
    x = tf.ones([8, 12, 12, 64])
    kernel = tf.ones([5, 5, 64, 64])
    y = winograd.convolve(x, kernel)
    forward = set(graph.get_operations())
    tf.gradients(y, [x, kernel])
    products = [op for op in graph.get_operations() if op not in forward and op.type == "BatchMatMulV2"]
    (of_filters,) = (op for op in products if op.outputs[0].shape == [64, 64, 64])  # points, channels, filters
    (of_inputs,) = (op for op in products if op.get_attr("adj_y"))  # the only one by the filters, turned round
    assert of_filters in of_inputs.control_inputs


def ops(graph):
    return {op.type for op in graph.get_operations()}


@pytest.mark.parametrize(
    ("kind", "dtype", "has_gpu", "has_amx", "fewer_multiplications"),
    [
        ("auto", "float32", False, False, True),
        ("auto", "bfloat16", False, False, True),
        ("auto", "float32", False, True, True),
        ("auto", "bfloat16", False, True, False),
        ("auto", "float32", True, False, False),
        ("winograd", "float32", True, True, True),
        ("op", "float32", False, False, False),
    ],
)
def test_auto_is_what_is_faster(graph, monkeypatch, kind, dtype, has_gpu, has_amx, fewer_multiplications):
    monkeypatch.setattr(devices, "has_gpu", lambda: has_gpu)
    monkeypatch.setattr(devices, "cpu_has_amx", lambda: has_amx)
    (y,) = layers.convolve([tf.zeros([2, 12, 12, 16], dtype)], tf.zeros([5, 5, 16, 16]), tf.zeros([16]), kind)
    assert ("Conv2D" not in ops(graph)) == fewer_multiplications
    assert y.dtype == dtype and y.shape == [2, 12, 12, 16]


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_and_its_gradients_are_the_same_either_way(channels, dtype):
    """3 channels are too few for Winograd's algorithm, but the gradient of the biases is computed differently."""
    random = np.random.RandomState(0)
    x, kernel, biases, dy = (
        random.randn(*shape).astype(np.float32)
        for shape in ([4, 12, 12, channels], [5, 5, channels, 16], [16], [4, 12, 12, 16])
    )
    results = []
    for kind in ("op", "winograd"):
        with tf.Graph().as_default(), tf.Session() as session:
            arguments = [tf.constant(value) for value in (x, kernel, biases)]
            (y,) = layers.convolve([tf.cast(arguments[0], dtype)], *arguments[1:], kind)
            gradients = tf.gradients(y, arguments, tf.constant(dy, dtype))
            results.append(session.run([tf.cast(y, tf.float32), *gradients]))
    for by_op, found in zip(*results, strict=True):
        assert found.dtype == np.float32
        # In the norm, because an output that rounds to either side of 0 has a gradient or none.
        assert np.linalg.norm(found - by_op) <= (1e-5 if dtype == "float32" else 3e-2) * np.linalg.norm(by_op)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tutorial", "cuda_convnet"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_towers_equal_one_device_to_the_last_bit(name, dtype):
    """1 x 128, 2 x 64 and 4 x 32: also the bits of what Winograd's algorithm and the local layers round."""

    def trained(num_towers):
        network = model.Network(name, dtype=dtype, seed=0, conv="winograd", microbatch_size=32)
        step = Towers(network, 128 // num_towers, devices=tuple(f"/cpu:{i}" for i in range(num_towers)))
        random = np.random.RandomState(0)
        with tf.Graph().as_default() as graph, tf.Session(config=step.session_config()) as session:
            images = tf.constant(random.randn(128, 24, 24, 3), tf.float32)
            labels = tf.constant(random.randint(10, size=128), tf.int32)
            global_step = tf.train.get_or_create_global_step()
            train_op, _ = step.build(images, labels, recipes.TUTORIAL, global_step, tf.constant(0.1))
            assert {"Conv2D", "BatchMatMulV2"} <= ops(graph)
            session.run(tf.global_variables_initializer())
            for _ in range(2):
                session.run(train_op)
            return session.run(tf.trainable_variables())

    expected = trained(1)
    for num_towers in (2, 4):
        for one, several in zip(expected, trained(num_towers), strict=True):
            np.testing.assert_array_equal(several, one)


@pytest.mark.parametrize("name", ["tutorial", "cuda_convnet"])
def test_a_network_has_the_loss_and_gradients_that_it_has_with_the_op(name):
    results = []
    for conv in ("op", "winograd"):
        with tf.Graph().as_default(), tf.Session() as session:
            images = tf.constant(np.random.RandomState(0).randn(8, 24, 24, 3), tf.float32)
            loss = losses.loss(model.Network(name, seed=0, conv=conv)(images), tf.range(8))
            gradients = tf.gradients(loss, tf.trainable_variables())
            session.run(tf.global_variables_initializer())
            results.append(session.run([loss, *gradients]))
    (loss_by_op, *by_op), (loss, *found) = results
    np.testing.assert_allclose(loss, loss_by_op, rtol=1e-5)
    for gradient, expected in zip(found, by_op, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
