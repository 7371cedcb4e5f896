#!/usr/bin/env python3
"""The tutorial's network in Keras, PyTorch and JAX, for cifar10_benchmark.py, which starts this script once a peer.

It is a program of its own so that a peer's process holds no library but its own: `benchmark_peers.py NAME START.npz`,
where START.npz has the images, the labels and the initial weights under the names that they have in checkpoints.
Layer sizes and constants are those of cifar10/network/, written out, because importing that imports TensorFlow. None
of the peers has moving averages of its variables, which favours them.
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable

import numpy as np

LEARNING_RATE = 0.1
WEIGHT_DECAY = 0.004  # of half the sum of the squares
DECAYED = ("local3/weights", "local4/weights")
LRN_RADIUS, LRN_ALPHA, LRN_BETA = 4, 0.001 / 9.0, 0.75


class Unavailable(Exception):
    """A contender that cannot run on this machine; the message says why."""


@dataclasses.dataclass
class Contender:
    """What is measured.

    Attributes:
      run: function (steps) that does so many steps and returns when they are done.
      loss: function () -> float, trains one step and returns the loss before it; None returns None.
    """

    run: Callable
    loss: Callable = lambda: None


def repeat(step):
    """Returns the `run` of a Contender whose steps are calls of `step`."""

    def run(steps):
        for _ in range(steps):
            step()

    return run


def serve(build):
    """Builds a Contender and measures it on command, one JSON line in for each line out.

    The first line out is {"losses": those of two steps, so that the second depends on gradients and update}, or
    {"skipped": why}. Then {"cmd": "run", "steps": k} is answered by {"seconds", "peak_mib"}, until the input ends.
    """
    # What libraries print on stdout, from C++ too, goes to stderr.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def reply(**values):
        out.write(json.dumps(values) + "\n")

    try:
        contender = build()
    except (Unavailable, ImportError) as error:
        reply(skipped=(str(error).splitlines() or [type(error).__name__])[0])
        return
    reply(losses=[contender.loss(), contender.loss()])
    for line in sys.stdin:
        started = time.perf_counter()
        contender.run(json.loads(line)["steps"])
        seconds = time.perf_counter() - started
        reply(seconds=seconds, peak_mib=peak_mib())


def peak_mib():
    """Returns the largest resident size of this process so far.

    Not ru_maxrss where it can be helped: a program inherits that from the one that started it, which here is larger.
    """
    with contextlib.suppress(OSError, TypeError), open("/proc/self/status") as file:  # of Linux
        return int(re.search(r"^VmHWM:\s*(\d+) kB$", file.read(), re.MULTILINE)[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _band(channels):
    """Returns the matrix that sums each channel and its neighbours, float32 [channels, channels]."""
    distance = np.abs(np.subtract.outer(np.arange(channels), np.arange(channels)))
    return (distance <= LRN_RADIUS).astype(np.float32)


def keras(start, bfloat16=False):
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow as tf

    class LocalResponseNormalization(keras.layers.Layer):
        def call(self, inputs):
            # There is no kernel for bfloat16 on CPUs.
            outputs = tf.nn.lrn(tf.cast(inputs, tf.float32), LRN_RADIUS, 1.0, LRN_ALPHA, LRN_BETA)
            return tf.cast(outputs, inputs.dtype)

    keras.mixed_precision.set_dtype_policy("mixed_bfloat16" if bfloat16 else "float32")
    decay = keras.regularizers.L2(WEIGHT_DECAY / 2)
    model = keras.Sequential(
        [
            keras.Input(start["images"].shape[1:]),
            keras.layers.Conv2D(64, 5, padding="same", activation="relu", name="conv1"),
            keras.layers.MaxPooling2D(3, 2, padding="same"),
            LocalResponseNormalization(),
            keras.layers.Conv2D(64, 5, padding="same", activation="relu", name="conv2"),
            LocalResponseNormalization(),
            keras.layers.MaxPooling2D(3, 2, padding="same"),
            keras.layers.Flatten(),
            keras.layers.Dense(384, activation="relu", kernel_regularizer=decay, name="local3"),
            keras.layers.Dense(192, activation="relu", kernel_regularizer=decay, name="local4"),
            keras.layers.Dense(start["softmax_linear/biases"].size, dtype="float32", name="softmax_linear"),
        ]
    )
    for layer in model.layers:
        if layer.weights:
            layer.set_weights([start[f"{layer.name}/weights"], start[f"{layer.name}/biases"]])
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # XLA is slower for this network on CPUs
    )
    images, labels = tf.constant(start["images"]), tf.constant(start["labels"])

    def loss():
        model.reset_metrics()  # the loss that comes back is an average since then
        return float(model.train_on_batch(images, labels))

    return Contender(repeat(lambda: model.train_on_batch(images, labels)), loss)


def pytorch(start, compiled=False, bfloat16=False):
    import torch
    from torch.nn import functional

    parameters = {}
    for name, value in start.items():
        if "/" in name:
            tensor = torch.from_numpy(value)
            if value.ndim == 4:
                tensor = tensor.permute(3, 2, 0, 1).to(memory_format=torch.channels_last)
            parameters[name] = tensor.clone().requires_grad_()
    images = torch.from_numpy(start["images"]).permute(0, 3, 1, 2)  # this is channels_last in memory
    labels = torch.from_numpy(start["labels"]).long()
    band = torch.from_numpy(LRN_ALPHA * _band(64))[:, :, None, None].to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(parameters.values(), LEARNING_RATE)

    def convolve(x, layer):
        return functional.relu(
            functional.conv2d(x, parameters[f"{layer}/weights"], parameters[f"{layer}/biases"], padding=2)
        )

    def pool(x):
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)  # which pads the end, as SAME does

    def normalize(x):
        root = torch.rsqrt(1.0 + functional.conv2d(x * x, band).float())
        return x * (root * torch.sqrt(root)).to(x.dtype)

    def connect(x, layer):
        return x @ parameters[f"{layer}/weights"] + parameters[f"{layer}/biases"]

    def forward():
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            x = normalize(pool(convolve(images, "conv1")))
            x = pool(normalize(convolve(x, "conv2")))
            x = x.permute(0, 2, 3, 1).flatten(1)
            x = functional.relu(connect(x, "local3"))
            x = functional.relu(connect(x, "local4"))
            logits = connect(x, "softmax_linear")
        decay = sum(parameters[name].square().sum() for name in DECAYED)
        return functional.cross_entropy(logits.float(), labels) + WEIGHT_DECAY / 2 * decay

    def train(forward):
        optimizer.zero_grad()
        loss = forward()
        loss.backward()
        optimizer.step()
        return loss

    if compiled:
        forward = torch.compile(forward)
        try:
            forward().backward()  # compiles both directions, and updates nothing
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Unavailable(f"torch.compile does not work here: {reason}") from None
    return Contender(repeat(lambda: train(forward)), lambda: train(forward).item())


def jax(start, bfloat16=False):
    import jax
    from jax import lax
    from jax import numpy as jnp

    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    parameters = {name: jnp.asarray(value) for name, value in start.items() if "/" in name}
    images, labels = jnp.asarray(start["images"]), jnp.asarray(start["labels"])
    band = jnp.asarray(LRN_ALPHA * _band(64), dtype)

    def pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")

    def normalize(x):
        root = lax.rsqrt(1.0 + (x * x @ band).astype(jnp.float32))
        return x * (root * jnp.sqrt(root)).astype(dtype)

    def loss(parameters, images, labels):
        p = {name: value.astype(dtype) for name, value in parameters.items()}

        def convolve(x, layer):
            x = lax.conv_general_dilated(
                x, p[f"{layer}/weights"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return jax.nn.relu(x + p[f"{layer}/biases"])

        def connect(x, layer):
            return x @ p[f"{layer}/weights"] + p[f"{layer}/biases"]

        x = normalize(pool(convolve(images.astype(dtype), "conv1")))
        x = pool(normalize(convolve(x, "conv2")))
        x = jax.nn.relu(connect(x.reshape(len(x), -1), "local3"))
        x = jax.nn.relu(connect(x, "local4"))
        log_probabilities = jax.nn.log_softmax(connect(x, "softmax_linear").astype(jnp.float32))
        cross_entropy = -jnp.mean(jnp.take_along_axis(log_probabilities, labels[:, None], axis=1))
        return cross_entropy + WEIGHT_DECAY / 2 * sum(jnp.sum(jnp.square(parameters[name])) for name in DECAYED)

    @functools.partial(jax.jit, donate_argnums=0)
    def train(parameters, images, labels):
        value, gradients = jax.value_and_grad(loss)(parameters, images, labels)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, gradients), value

    def run(steps):
        nonlocal parameters
        for _ in range(steps):
            parameters, value = train(parameters, images, labels)
        jax.block_until_ready(parameters)
        return value

    return Contender(run, lambda: float(run(1)))


# Name: (module that must be installed, function (arrays of START.npz) -> Contender).
PEERS = {
    "keras float32": ("keras", keras),
    "keras bfloat16": ("keras", functools.partial(keras, bfloat16=True)),
    "pytorch float32 channels_last": ("torch", pytorch),
    "pytorch float32 compile": ("torch", functools.partial(pytorch, compiled=True)),
    "pytorch bfloat16 autocast": ("torch", functools.partial(pytorch, bfloat16=True)),
    "pytorch bfloat16 compile": ("torch", functools.partial(pytorch, compiled=True, bfloat16=True)),
    "jax float32": ("jax", jax),
    "jax bfloat16": ("jax", functools.partial(jax, bfloat16=True)),
}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in PEERS:
        sys.exit("usage: benchmark_peers.py NAME START.npz; cifar10_benchmark.py does this")
    serve(lambda: PEERS[sys.argv[1]][1](dict(np.load(sys.argv[2]))))
