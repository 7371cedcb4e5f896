"""Convolution with fewer multiplications: the algorithm of Cook, Toom and Winograd, composed of TensorFlow's own ops.

The m outputs of a filter of r taps, y[i] = sum_j x[i + j] g[j], take m r multiplications one by one. They are also the
coefficients of a polynomial product read backwards, and that product is known from its values at n = m + r - 1 points,
each of which takes one multiplication:

    y = A' ((G g) * (B' x))     x: n inputs, g: r taps, y: m outputs, * by element

G and A evaluate polynomials at the points: G[p, j] = p^j, A'[i, p] = p^i. B' is the transposed inverse of evaluation:
its rows hold the coefficients of Lagrange's basis polynomials, whose denominators go into G. "Infinity" is a point too,
whose value is the leading coefficient. In two dimensions each axis is transformed in turn,

    y = A' ((G g G') * (B' x B)) A

so a filter of 5x5 and a tile of 4x4 outputs take 64 multiplications instead of 400. With many channels the products by
element become products of matrices, one at each of the n x n points: [tiles, channels] x [channels, filters].

The gradients are the same three linear maps, transposed. With X = B' x B of the input and Y = A dy A' of the output's
gradient, the input's is B (Y (G g G')') B' and the filter's G' (X' Y) G: so both share Y, and X is that of the forward
pass. TensorFlow's own gradient of this graph would transform more, and lay out the products worse.

Rounding: values at large and at small points differ by orders of magnitude, and sums cancel. Tiles of 4 outputs with
the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity lose about a digit of float32. A point's rows of the three matrices
may be scaled if the scales cancel; here their norms are made equal, but by powers of 2 only, which round nothing.

Sources: S. Winograd, Arithmetic Complexity of Computations (1980), chapters III and IV; A. Lavin and S. Gray, Fast
Algorithms for Convolutional Neural Networks (2015), for tiles, many channels and the gradients; B. Barabasz, A.
Anderson, K. M. Soodhalter and D. Gregg, Error Analysis and Improving the Accuracy of Winograd Convolution for Deep
Neural Networks (2020), for points and scales.
"""

import fractions
import functools
import math

import numpy as np
import tensorflow.compat.v1 as tf

TILE = 4  # outputs a tile and axis, of float32
COARSE_TILE = 6  # takes 30 % fewer multiplications; the error is 10 times as large, a 50th of bfloat16's
# In the order in which they are taken as more are needed. The last two, of all pairs tried, cost the fewest digits.
POINTS = tuple(map(fractions.Fraction, ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "5/4", "-4/5")))
# Fewer channels leave the transforms more work than they save in products.
MIN_CHANNELS = 16


def suits(x, kernel):
    """Returns whether `convolve` can compute with x and kernel, and is faster than tf.nn.conv2d on CPUs."""
    if x.shape.rank != 4 or not kernel.shape.is_fully_defined() or not x.shape[1:].is_fully_defined():
        return False
    height, width, channels, filters = kernel.shape.as_list()
    return height == width and height in (3, 5) and min(channels, filters) >= MIN_CHANNELS


def convolve(x, kernel, tile=TILE):
    """Convolves as tf.nn.conv2d does with stride 1 and padding SAME, gradients included; computes in the type of x.

    Args:
      x: float32 or float64 [batch, height, width, channels]; only batch may be unknown.
      kernel: [taps, taps, channels, filters] of the same type; taps odd.
      tile: outputs a tile and axis: TILE or COARSE_TILE.

    Returns:
      [batch, height, width, filters].
    """
    convolution = Convolution(x.shape, kernel.shape, tile, x.dtype)
    return convolution.compute(x, convolution.prepare(kernel))


class Convolution:
    """`convolve` in two steps, of which the first one, on the filters alone, is the same for all micro-batches."""

    def __init__(self, images_shape, kernel_shape, tile, dtype):
        self._at_points = _TwoAxes(images_shape, kernel_shape, tile, dtype)

    def prepare(self, kernel):
        """Returns the filters' values at the points: [taps, taps, channels, filters] -> [n n, channels, filters]."""

        @tf.custom_gradient
        def transform(kernel):
            return self._at_points.of_filter(kernel), self._at_points.filter_gradient

        return transform(kernel)

    def compute(self, x, filters):
        """Convolves [batch, height, width, channels] with what `prepare` returns."""

        @tf.custom_gradient
        def convolution(x, filters):
            inputs = self._at_points.of_input(x)

            def gradient(upstream):
                outputs = self._at_points.of_output_gradient(upstream)
                of_filters = tf.linalg.matmul(inputs, outputs, transpose_a=True)
                # One after the other, so that the inputs are gone when as much memory is needed for their gradient.
                with tf.control_dependencies([of_filters]):
                    of_inputs = tf.linalg.matmul(outputs, filters, transpose_b=True)
                return self._at_points.input_gradient(of_inputs), of_filters

            return self._at_points.output(tf.linalg.matmul(inputs, filters)), gradient

        return convolution(x, filters)


@functools.lru_cache
def matrices(outputs, taps):
    """Returns A' [outputs, n], G [n, taps] and B' [n, n] of the docstring above, float64, n = outputs + taps - 1."""
    n = outputs + taps - 1
    points = POINTS[: n - 1]
    if len(points) < n - 1:
        raise ValueError(f"{outputs} outputs of {taps} taps need {n - 1} points beside infinity")
    evaluation = [[point**power for power in range(max(outputs, taps))] for point in points]
    basis = [[*_polynomial(points[:i] + points[i + 1 :]), 0] for i in range(n - 1)]
    denominators = [math.prod(point - other for other in points if other != point) for point in points]
    infinity = [0] * (n - 1)
    a = [[*row[:outputs]] for row in evaluation] + [[*infinity, 1][-outputs:]]
    g = [
        [value / denominator for value in row[:taps]] for row, denominator in zip(evaluation, denominators, strict=True)
    ]
    g += [[*infinity, 1][-taps:]]
    b = [*basis, _polynomial(points)]
    a, g, b = (np.array(matrix, np.float64) for matrix in (a, g, b))
    norms = np.stack([np.linalg.norm(matrix, axis=1) for matrix in (a, g, b)])
    target = np.prod(norms, axis=0) ** (1 / 3)
    of_a, of_g = np.exp2(np.round(np.log2(target / norms[:2])))[:, :, np.newaxis]
    return (a * of_a).T, g * of_g, b / (of_a * of_g)


def _polynomial(roots):
    """Returns the coefficients, of 1, x, x^2 …, of the product of all x - root."""
    coefficients = [fractions.Fraction(1)]
    for root in roots:
        shifted, scaled = [0, *coefficients], [*(root * c for c in coefficients), 0]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


@functools.lru_cache
def _input_matrix(size, taps, tile):
    """Returns the transform of one axis of an image: [n x tiles, size], which cuts out and pads the tiles as well."""
    _, _, b = matrices(tile, taps)
    tiles = -(-size // tile)
    padded = np.zeros([len(b), tiles, size + 2 * len(b)])
    for i in range(tiles):
        start = len(b) + i * tile - (taps - 1) // 2
        padded[:, i, start : start + len(b)] = b
    return padded[:, :, len(b) : len(b) + size].reshape(-1, size)


class _TwoAxes:
    """The transforms of images and filters of one size.

    What is transformed has the shape [n x n points, tiles x images, channels], so that the values of one point are one
    matrix. Whatever has to be moved for this is moved between the two axes' transforms, where there is less of it, and
    in runs of whole channels. Tiles overlap and reach beyond the edges of an image; a product with a sparse matrix cuts
    them out and transforms them in one go, for less than it would take to copy them.
    """

    def __init__(self, images, kernel, tile, dtype):
        _, self._height, self._width, self._channels = images.as_list()
        self._taps, _, _, self._filters = kernel.as_list()
        self._tile, self._n = tile, tile + self._taps - 1
        self._rows, self._columns = -(-self._height // tile), -(-self._width // tile)  # of tiles
        self._dtype = dtype

    def of_input(self, x):
        """Returns B' x B of each tile: [batch, h, w, channels] -> [n n, columns rows batch, channels]."""
        n, c = self._n, self._channels
        of_rows, of_columns = self._input_matrices()
        x = tf.reshape(x, [-1, self._height, self._width * c])
        x = tf.reshape(tf.linalg.matmul(of_rows, x), [-1, n, self._rows, self._width, c])
        x = tf.reshape(tf.transpose(x, [1, 3, 2, 0, 4]), [n, self._width, -1])
        return tf.reshape(tf.linalg.matmul(of_columns, x), [n * n, -1, c])

    def input_gradient(self, x):
        """Returns the transpose of of_input: [n n, columns rows batch, channels] -> [batch, h, w, channels]."""
        n, c = self._n, self._channels
        of_rows, of_columns = self._input_matrices()
        x = tf.reshape(x, [n, n * self._columns, -1])
        x = tf.linalg.matmul(of_columns, x, transpose_a=True)
        x = tf.transpose(tf.reshape(x, [n, self._width, self._rows, -1, c]), [3, 0, 2, 1, 4])
        x = tf.linalg.matmul(of_rows, tf.reshape(x, [-1, n * self._rows, self._width * c]), transpose_a=True)
        return tf.reshape(x, [-1, self._height, self._width, c])

    def of_filter(self, kernel):
        """Returns G g G': [taps, taps, channels, filters] -> [n n, channels, filters]."""
        n, r, depth = self._n, self._taps, self._channels * self._filters
        g = self._constant(matrices(self._tile, r)[1])
        kernel = tf.linalg.matmul(g, tf.reshape(kernel, [r, -1]))
        kernel = tf.linalg.matmul(g, tf.reshape(kernel, [n, r, depth]))
        return tf.reshape(kernel, [n * n, self._channels, self._filters])

    def filter_gradient(self, kernel):
        """Returns the transpose of of_filter: [n n, channels, filters] -> [taps, taps, channels, filters]."""
        n, r, depth = self._n, self._taps, self._channels * self._filters
        g = self._constant(matrices(self._tile, r)[1])
        kernel = tf.linalg.matmul(g, tf.reshape(kernel, [n, n, depth]), transpose_a=True)
        kernel = tf.linalg.matmul(g, tf.reshape(kernel, [n, -1]), transpose_a=True)
        return tf.reshape(kernel, [r, r, self._channels, self._filters])

    def output(self, y):
        """Returns A' y A of each tile: [n n, columns rows batch, filters] -> [batch, h, w, filters]."""
        m, n, f, rows, columns = self._tile, self._n, self._filters, self._rows, self._columns
        a = self._constant(matrices(m, self._taps)[0])
        y = tf.linalg.matmul(a, tf.reshape(y, [n, n, -1]))
        y = tf.linalg.matmul(a, tf.reshape(y, [n, -1]))
        y = tf.transpose(tf.reshape(y, [m, m, columns, rows, -1, f]), [4, 3, 0, 2, 1, 5])
        y = tf.reshape(y, [-1, rows * m, columns * m, f])
        return y[:, : self._height, : self._width] if self._beyond_edges().any() else y

    def of_output_gradient(self, y):
        """Returns the transpose of output: [batch, h, w, filters] -> [n n, columns rows batch, filters]."""
        m, n, f, rows, columns = self._tile, self._n, self._filters, self._rows, self._columns
        a = self._constant(matrices(m, self._taps)[0])
        if self._beyond_edges().any():
            y = tf.pad(y, self._beyond_edges())
        y = tf.transpose(tf.reshape(y, [-1, rows, m, columns, m, f]), [2, 4, 3, 1, 0, 5])
        y = tf.linalg.matmul(a, tf.reshape(y, [m, -1]), transpose_a=True)
        y = tf.linalg.matmul(a, tf.reshape(y, [n, m, -1]), transpose_a=True)
        return tf.reshape(y, [n * n, -1, f])

    def _beyond_edges(self):
        """Returns the padding that an image needs to be divided in tiles."""
        rest = self._rows * self._tile - self._height, self._columns * self._tile - self._width
        return np.array([[0, 0], [0, rest[0]], [0, rest[1]], [0, 0]])

    def _input_matrices(self):
        return [self._constant(_input_matrix(size, self._taps, self._tile)) for size in (self._height, self._width)]

    def _constant(self, matrix):
        return tf.constant(matrix, self._dtype)
