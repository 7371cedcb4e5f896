"""Orthogonalized updates of weights: momentum, of which every singular value is made about 1.

A gradient of a matrix of weights is mostly of few directions, those of its largest singular values. Made equal, all
directions learn. Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024),
https://kellerjordan.github.io/posts/muon/.
"""

import math

import tensorflow.compat.v1 as tf

# One iteration takes each singular value s to a s + b s^3 + c s^5, which pushes small ones up fast, and lets those that
# are near 1 jump about there, between 0.68 and 1.13: that is as good, and cheaper than exact ones (Jordan et al.).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
EPSILON = 1e-7  # added to the norm that is divided by
LARGEST_GRAM = 192  # a side; a wider matrix is orthogonalized in parts, whose cost falls with its square


def shape_of_matrices(variable):
    """Returns the shape [..., inputs, outputs] of the matrices that weights consist of, or None if they are not hidden.

    They are not if they belong to the last layer, whose outputs are the classes. A convolution's matrix has the inputs
    of all its taps; locally connected layers have a matrix a place.
    """
    layer, _, kind = variable.op.name.rpartition("/")
    if kind != "weights" or layer == "softmax_linear":
        return None
    shape = variable.shape.as_list()
    return [math.prod(shape[:-1]), shape[-1]] if layer.startswith("conv") else shape


def orthogonalized(matrices):
    """Takes the singular values of matrices to about 1: of U S V^T, returns about U V^T.

    Args:
      matrices: float32 [..., m, n].

    Returns:
      A tensor like it. Singular values below a thousandth of the norm stay smaller than 1.
    """
    m, n = matrices.shape.as_list()[-2:]
    if m < n:
        return tf.linalg.matrix_transpose(orthogonalized(tf.linalg.matrix_transpose(matrices)))
    if n > LARGEST_GRAM and n % LARGEST_GRAM == 0:
        return tf.concat([orthogonalized(part) for part in tf.split(matrices, n // LARGEST_GRAM, axis=-1)], axis=-1)
    x = matrices / (tf.norm(matrices, axis=[-2, -1], keepdims=True) + EPSILON)
    # An iteration multiplies x from the right by p = a + b g + c g^2, g = x^T x being small and square. So only g and
    # the product q of all p are iterated, and x is multiplied once, at the end. All of them are polynomials of the
    # first g, hence symmetric, and they commute.
    a, b, c = COEFFICIENTS
    g = tf.matmul(x, x, transpose_a=True)
    q = None
    for iteration in range(ITERATIONS):
        p = a * tf.eye(n) + b * g + c * tf.matmul(g, g)
        q = p if q is None else tf.matmul(q, p)
        if iteration < ITERATIONS - 1:
            g = tf.matmul(p, tf.matmul(g, p))
    return tf.matmul(x, q)


def update(variable, momentum_slot, gradient, learning_rate, momentum, weight_decay):
    """Builds the update of weights: m = momentum m + g, v = v - rate (orthogonalized(g + momentum m) + decay v).

    Args:
      variable: the weights.
      momentum_slot: the variable m, of the same shape.
      gradient: of the loss, without weight decay.
      learning_rate: float32 scalar: the spectral norm of an update.
      momentum: float32 scalar.
      weight_decay: a float; it is decoupled from the gradient (Loshchilov and Hutter, 2019).

    Returns:
      The op.
    """
    accumulated = gradient + momentum * momentum_slot.read_value()
    ahead = tf.reshape(gradient + momentum * accumulated, shape_of_matrices(variable))
    direction = tf.reshape(orthogonalized(ahead), variable.shape)
    with tf.control_dependencies([accumulated]):
        kept = momentum_slot.assign(accumulated, read_value=False)
    if weight_decay:
        direction += weight_decay * variable.read_value()
    moved = tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=learning_rate, delta=direction)
    return tf.group(kept, moved)
