"""The network as a Keras 3 model, of Keras' own layers and operations, which loads on each of its backends.

Nothing of this package is needed to load it: what Keras has no layer for is made of what it has. Local response
normalization, x (1 + alpha sum x^2)^-beta, has as its sum a 1x1 convolution of x^2 with a banded matrix of alpha.
"""

import contextlib
import warnings

import numpy as np

from cifar10.bridges import parts
from cifar10.data.datasets import DEPTH
from cifar10.network import layers


def write(path, weights):
    """Writes the network to a file, `*.keras`, which takes and returns what `model` does."""
    with _quiet():
        model(weights).save(path)


def probabilities(path, images):
    """Returns what Keras makes of the file at path: float32 [n, classes] of uint8 [n, size, size, 3]."""
    import keras

    with _quiet():
        return keras.ops.convert_to_numpy(keras.saving.load_model(path)(images))


@contextlib.contextmanager
def _quiet():
    """Leaves out what Keras and NumPy have to say of each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def model(weights):
    """Returns the keras.Model of parts.Weights: uint8 [n, size, size, 3] -> probabilities, float32 [n, classes]."""
    import keras

    ops = keras.ops
    side = weights.image_size
    images = keras.Input([side, side, DEPTH], dtype="uint8", name="images")
    x = ops.cast(images, "float32")
    if weights.margin:
        x = keras.layers.Cropping2D(weights.margin, name="crop")(x)
    x = x - ops.mean(x, axis=(1, 2, 3), keepdims=True)
    deviation = ops.sqrt(ops.mean(ops.square(x), axis=(1, 2, 3), keepdims=True))
    x = x / ops.maximum(deviation, weights.least_deviation)

    given = {}  # {layer: its weights, once it is built}

    def convolve(x, name):
        kernel, biases = given[name] = weights.of(name)
        layer = keras.layers.Conv2D(len(biases), kernel.shape[:2], padding="same", activation="relu", name=name)
        return layer(x)

    def pool(x, name):
        return keras.layers.MaxPooling2D(3, 2, padding="same", name=name)(x)

    def normalize(x, name):
        channels = x.shape[-1]
        given[name] = [layers.LRN_ALPHA * _band(channels)[np.newaxis, np.newaxis], np.ones(channels, np.float32)]
        sums = keras.layers.Conv2D(channels, 1, trainable=False, name=name)(ops.square(x))
        return x * ops.power(sums, -layers.LRN_BETA)

    def connect(x, name, activation):
        given[name] = weights.of(name)
        if weights.is_local(name):
            x = _neighbours(ops, x)
            filters = given[name][1].shape[-1]
            return keras.layers.EinsumDense(
                "nhwk,hwkf->nhwf", [*x.shape[1:3], filters], bias_axes="hwf", activation=activation, name=name
            )(x)
        if len(x.shape) > 2:
            x = ops.reshape(x, [-1, int(np.prod(x.shape[1:]))])
        return keras.layers.Dense(len(given[name][1]), activation=activation, name=name)(x)

    x = normalize(pool(convolve(x, "conv1"), "pool1"), "norm1")
    x = pool(normalize(convolve(x, "conv2"), "norm2"), "pool2")
    for name in parts.DENSE_LAYERS:
        x = connect(x, name, "relu" if name != parts.DENSE_LAYERS[-1] else "softmax")
    network = keras.Model(images, x, name="cifar10")
    for name, values in given.items():
        network.get_layer(name).set_weights(list(values))
    return network


def _band(channels):
    """Returns float32 [channels, channels]: 1 where two channels are neighbours in local response normalization."""
    distance = np.abs(np.subtract.outer(np.arange(channels), np.arange(channels)))
    return (distance <= layers.LRN_RADIUS).astype(np.float32)


def _neighbours(ops, x):
    """Returns the 3x3 pixels around each pixel, row by row, as its channels: [n, h, w, c] -> [n, h, w, 9 c]."""
    height, width = x.shape[1:3]
    padded = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    shifted = [padded[:, top : top + height, left : left + width] for top, left in np.ndindex(3, 3)]
    return ops.concatenate(shifted, axis=-1)
