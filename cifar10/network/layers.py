"""What layers are made of: variables, products, pooling, local response normalization."""

import functools
import zlib

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.machine import devices
from cifar10.network import microbatches, summaries, winograd

# Local response normalization as in cuda-convnet's 11 % configuration: y = x (1 + alpha sum x^2)^-beta, the sum over
# the channel and 4 neighbours on either side (Krizhevsky et al., 2012, section 3.3).
LRN_RADIUS = 4
LRN_ALPHA = 0.001 / 9.0
LRN_BETA = 0.75
LRN_KINDS = ("auto", "matmul", "op")
CONV_KINDS = ("auto", "winograd", "op")


def biases(shape, value):
    """Returns the variable `biases` (float32 `shape`) of the current variable scope, initially `value`."""
    return variable("biases", shape, tf.constant_initializer(value))


def weights(shape, stddev, weight_decay=None, seed=None, truncated=True):
    """Returns the variable `weights` (float32 `shape`) of the current variable scope.

    Args:
      shape: list of ints.
      stddev: standard deviation of the normal distribution of the initial values.
      weight_decay: None, or the factor of tf.nn.l2_loss(weights), which joins the graph's 'losses' as `weight_loss`.
      seed: None for other initial values each time, or an int (D14); the values then depend on it and on the variable's
        name only, so that graphs with one tower and with several start alike.
      truncated: whether values beyond two standard deviations are drawn again.
    """
    name = f"{tf.get_variable_scope().name}/weights"
    op_seed = None if seed is None else zlib.crc32(f"{name} {seed}".encode()) & 0x7FFFFFFF
    initializer = tf.truncated_normal_initializer if truncated else tf.random_normal_initializer
    kernel = variable("weights", shape, initializer(stddev=stddev, seed=op_seed))
    if weight_decay is not None:
        decay(kernel, weight_decay)
    return kernel


def decay(kernel, weight_decay):
    """Adds weight_decay times tf.nn.l2_loss of the variable `kernel` to the graph's 'losses', as `weight_loss`."""
    with tf.device(kernel.device):  # which may be another machine's
        weight_loss = tf.multiply(tf.nn.l2_loss(kernel), weight_decay, name="weight_loss")
    tf.add_to_collection("losses", weight_loss)


def variable(name, shape, initializer):
    """Returns the variable `name` (float32 `shape`) of the current variable scope."""
    # On the CPU, so that the towers of several GPUs share it. A resource variable, of float32 whatever is computed in
    # (D13).
    with tf.device("/cpu:0"):
        return tf.get_variable(name, shape, tf.float32, initializer, use_resource=True)


def scope(name):
    """Returns the name scope `name` for the ops of a layer whose output is to be the op `name` beside it."""
    outer = tf.get_default_graph().get_name_scope()
    return tf.name_scope(f"{outer}/{name}/" if outer else f"{name}/")  # with its slash it does not take up the name


def output(parts, name, shown=False):
    """Names a layer's output and shows it in TensorBoard.

    Args:
      parts: the output as micro-batches, [images, ...] each.
      name: of the op that joins them.
      shown: whether TensorBoard shows it.

    Returns:
      The micro-batches for the next layer, which do not depend on the op `name` where there are several.
    """
    whole = microbatches.join(parts, name)
    parts = parts if len(parts) > 1 else [whole]
    if shown:
        summaries.activation(name, parts)
    return parts


def convolve(parts, kernel, biases, kind="auto"):
    """Convolves with stride 1 and padding, adds biases, and rectifies.

    Args:
      parts: micro-batches x, [n, h, w, c] each, of any floating type.
      kernel: float32 [taps, taps, c, filters].
      biases: float32 [filters].
      kind: 'op' is tf.nn.conv2d, which computes in the type of x; 'winograd' computes the same in float32 with fewer
        multiplications (D18) wherever winograd.suits; 'auto' is 'winograd' where that is faster: see _convolution_kind.

    Returns:
      The list of micro-batches [n, h, w, filters], of the type of x.
    """
    x, kernel = parts[0], tf.convert_to_tensor(kernel)
    if kind == "auto":
        kind = _convolution_kind(x.dtype)
    if kind == "winograd" and winograd.suits(x, kernel):
        # Half precision rounds more than a coarser tile does.
        tile = winograd.TILE if x.dtype == tf.float32 else winograd.COARSE_TILE
        convolution = winograd.Convolution(x.shape, kernel.shape, tile, tf.float32)

        def compute(x, filters, biases):
            conv = convolution.compute(tf.cast(x, tf.float32), filters)
            return tf.cast(tf.nn.relu(tf.nn.bias_add(conv, biases)), x.dtype)

        return microbatches.each(compute, parts, kernel, biases, prepare=convolution.prepare)

    def compute_by_op(x, kernel, biases):
        conv = tf.nn.conv2d(x, kernel, [1, 1, 1, 1], padding="SAME")
        return tf.nn.relu(add_biases(conv, tf.cast(biases, x.dtype)))

    add_biases = _add_biases if kind == "winograd" and x.dtype == tf.float32 else tf.nn.bias_add
    return microbatches.each(compute_by_op, parts, kernel, biases, prepare=cast_to(x.dtype))


@tf.custom_gradient
def _add_biases(x, biases):
    """As tf.nn.bias_add, whose gradient TensorFlow fuses with that of a convolution's filters: slower in float32."""

    def gradient(upstream):
        rows = tf.reshape(upstream, [-1, upstream.shape[-1]])
        return upstream, tf.reshape(tf.matmul(tf.ones([1, tf.shape(rows)[0]], rows.dtype), rows), [-1])

    return tf.nn.bias_add(x, biases), gradient


def cast_to(dtype):
    """Returns the function that casts what all micro-batches have in common to the type that they compute in."""
    return functools.partial(tf.cast, dtype=dtype)


def _convolution_kind(dtype):
    """Returns 'winograd' or 'op', whichever is faster on this machine in training: on GPUs the op.

    On CPUs fewer multiplications in float32 are faster than all of them, also than in bfloat16 by AVX512_BF16, which
    doubles the speed; not by AMX, which multiplies it by 16.
    """
    slower = devices.has_gpu() or (dtype == tf.bfloat16 and devices.cpu_has_amx())
    return "op" if slower else "winograd"


def pool(x):
    """Takes the maximum of each 3x3 pixels, at every other pixel: [n, 2h, 2w, c] -> [n, h, w, c]."""
    return tf.nn.max_pool(x, [1, 3, 3, 1], [1, 2, 2, 1], padding="SAME")


def connect(x, weights, biases):
    """Connects all inputs with all outputs: [n, ...] -> [n, outputs]; computes in the type of x."""
    if x.shape.rank > 2:
        x = tf.reshape(x, [-1, x.shape[1:].num_elements()])
    return _times(x, tf.cast(weights, x.dtype)) + tf.cast(biases, x.dtype)


@tf.custom_gradient
def _times(x, weights):
    """As tf.matmul, whose gradient with respect to x packs the weights anew for each micro-batch, as its second factor.

    As the first factor, for the transposed gradient, they are taken as they are.
    """

    def gradient(upstream):
        dx = tf.transpose(tf.matmul(weights, upstream, transpose_b=True))
        return dx, tf.matmul(x, upstream, transpose_a=True)

    return tf.matmul(x, weights), gradient


def connect_and_rectify(x, weights, biases):
    """As connect, and rectifies."""
    return tf.nn.relu(connect(x, weights, biases))


def connect_locally(x, weights, biases):
    """Convolves 3x3 pixels with filters that each place has for itself (unshared weights), and rectifies.

    Args:
      x: [n, h, w, c], of any floating type, which is computed in. Beyond its edges are zeros.
      weights: [h, w, 9 c, filters]: of each place the filters, of which the inputs come row by row, in a row pixel by
        pixel, of a pixel channel by channel. So where all places have the same, reshaped to [3, 3, c, filters], it is
        what convolve does.
      biases: [h, w, filters].

    Returns:
      [n, h, w, filters].
    """
    return tf.nn.relu(_local_products(x, tf.cast(weights, x.dtype)) + tf.cast(biases, x.dtype))


@tf.custom_gradient
def _local_products(x, weights):
    """Multiplies at each place the pixels around it by its weights: see connect_locally.

    One product of matrices a place, [filters, 9 c] x [9 c, n]. With the images last, a pixel of all images is one run
    of memory, so that whole runs are copied to the places beside it, and back in the gradient.
    """
    _, height, width, channels = x.shape.as_list()
    filters = weights.shape.as_list()[-1]
    places = height * width
    neighbours, neighbours_of = _neighbours(height, width)

    def with_zeros(rows):
        return tf.pad(rows, [[0, 1], [0, 0]])

    def images_last(tensor, channels):
        return tf.reshape(tf.transpose(tf.reshape(tensor, [-1, places * channels])), [places, -1])

    def images_first(tensor, channels):
        tensor = tf.transpose(tf.reshape(tensor, [places * channels, -1]))
        return tf.reshape(tensor, [-1, height, width, channels])

    patches = tf.gather(with_zeros(images_last(x, channels)), neighbours)
    patches = tf.reshape(patches, [places, 9 * channels, -1])
    kernels = tf.reshape(weights, [places, 9 * channels, filters])

    def gradient(upstream):
        dy = tf.reshape(images_last(upstream, filters), [places, filters, -1])
        dpatches = tf.reshape(tf.linalg.matmul(kernels, dy), [9 * places, -1])
        dx = tf.reduce_sum(tf.gather(with_zeros(dpatches), neighbours_of), axis=1)
        dweights = tf.linalg.matmul(patches, dy, transpose_b=True)
        return images_first(dx, channels), tf.reshape(dweights, weights.shape)

    return images_first(tf.linalg.matmul(kernels, patches, transpose_a=True), filters), gradient


def _neighbours(height, width):
    """Returns which pixels each place sees, and which place sees a pixel as which: both int [height width, 9].

    Places and pixels are numbered row by row; height width, and 9 height width, stand for none.
    """
    places = np.arange(height * width).reshape(height, width)
    padded = np.pad(places, 1, constant_values=height * width)
    seen = np.stack(
        [padded[row : row + height, column : column + width].ravel() for row in range(3) for column in range(3)]
    )
    # The place to which a pixel is its k-th neighbour is the pixel's own neighbour opposite, number 8 - k.
    seers = np.where(seen[::-1] < height * width, 9 * seen[::-1] + np.arange(9)[:, np.newaxis], 9 * height * width)
    return seen.T, seers.T


def local_response_normalization(values, kind):
    """Normalizes each channel by its neighbours.

    Args:
      values: [batch, height, width, channels], of any floating type.
      kind: 'op' is tf.nn.lrn; 'matmul' computes the same by products with a banded matrix, which is faster on CPUs;
        'auto' is 'op' where there is a GPU, and else 'matmul'; 'none' leaves the values as they are.

    Returns:
      A tensor like `values`.
    """
    if kind == "none":
        return values
    if kind == "auto":
        kind = "op" if devices.has_gpu() else "matmul"
    if kind == "matmul":
        return _banded_lrn(values)
    # In float32, because 1 + alpha sum x^2 needs its digits.
    return tf.cast(tf.nn.lrn(tf.cast(values, tf.float32), LRN_RADIUS, 1.0, LRN_ALPHA, LRN_BETA), values.dtype)


@tf.custom_gradient
def _banded_lrn(values):
    """Local response normalization as two matrix products (D15), one forward and one in the gradient.

    With n = 1 + alpha x^2 B, B the banded matrix of ones, y = x n^-3/4, and the gradient with respect to x is
    dy n^-3/4 - 2 alpha beta x ((dy n^-3/4 x / n) B). n^-3/4 is rsqrt(n) sqrt(rsqrt(n)), which is faster than a power.
    """
    channels = values.shape.as_list()[-1]
    distance = np.abs(np.subtract.outer(np.arange(channels), np.arange(channels)))
    band = (distance <= LRN_RADIUS).astype(np.float32)

    def times_band(factor, tensor):
        return tf.matmul(tensor, tf.constant(factor * band, tensor.dtype))

    x = tf.reshape(values, [-1, channels])
    # A bias_add, because TensorFlow fuses that with the product; in float32, because 1 + alpha x^2 B needs its digits.
    n = tf.nn.bias_add(tf.cast(times_band(LRN_ALPHA, tf.square(x)), tf.float32), tf.ones([channels]))

    def scale(n):
        root = tf.rsqrt(n)
        return tf.cast(root * tf.sqrt(root), x.dtype)

    def gradient(upstream):
        dy = tf.reshape(upstream, [-1, channels])
        # Of the forward pass only x and n take memory until now. Without the dependency TensorFlow's graph optimizer
        # would keep the scale as well, instead of computing it anew.
        with tf.control_dependencies([upstream]):
            scaled = dy * scale(tf.identity(n))
        dx = scaled + x * times_band(-2.0 * LRN_ALPHA * LRN_BETA, scaled * x / tf.cast(n, x.dtype))
        return tf.reshape(dx, tf.shape(upstream))

    return tf.reshape(x * scale(n), tf.shape(values)), gradient
