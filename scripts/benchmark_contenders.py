"""Our own contenders and the tutorial's, for cifar10_benchmark.py and cifar10_profile.py."""

import dataclasses
import functools
import math
import os
import typing

import benchmark_peers
import numpy as np
import tensorflow.compat.v1 as tf
from benchmark_peers import Contender, repeat

from cifar10 import cifar10_input, evaluation, settings
from cifar10.data import datasets, records
from cifar10.machine import devices
from cifar10.network import losses, microbatches, model, optimizer, recipes, summaries
from cifar10.runs import checkpoints

# Multiply-adds of one image forward: the outputs of each layer times the inputs that each output sums.
MULTIPLY_ADDS = {
    "conv1": 24 * 24 * 64 * (5 * 5 * 3),
    "conv2": 12 * 12 * 64 * (5 * 5 * 64),
    "local3": 384 * (6 * 6 * 64),
    "local4": 192 * 384,
    "softmax_linear": 10 * 192,
}
# Of a training step, an image: forward, and the gradients of weights and of inputs, each as much again, but for the
# gradient of the images themselves, which nobody needs: 2 (3 x 18.47 - 2.76) = 105.3 million.
FLOP_PER_IMAGE = 2 * (3 * sum(MULTIPLY_ADDS.values()) - MULTIPLY_ADDS["conv1"])
PEAK_SIZE = 2048  # rows and columns of the matrices whose product shows what the machine can do


@dataclasses.dataclass(frozen=True)
class Construction:
    """How a training step is made.

    Attributes:
      build_step: function (loss, global step, learning rate) -> train op.
      use_fp16, lrn, conv, microbatch_size: as the training scripts' flags.
    """

    build_step: typing.Callable
    use_fp16: bool = False
    lrn: str = "auto"
    conv: str = "auto"
    microbatch_size: int | None = None

    def network(self, num_classes):
        """Returns the model.Network."""
        return model.Network(
            num_classes=num_classes,
            dtype=devices.compute_type(self.use_fp16),
            lrn=self.lrn,
            conv=self.conv,
            microbatch_size=microbatches.size(self.microbatch_size),
        )


# Functions (data, options) -> Contender.


def build_fixed_batch(data, options, construction):
    """Builds the training step on the batch and from the weights of start.npz; returns (session, train op, loss)."""
    start = np.load(os.path.join(options["shared_dir"], "start.npz"))
    # Variables, because what depends on constants only would be computed once and for all.
    images, labels = (
        tf.get_variable(name, initializer=start[name], trainable=False, use_resource=True)
        for name in ("images", "labels")
    )
    network = construction.network(data.num_classes)
    loss = losses.loss(network(images), labels)
    global_step = tf.train.get_or_create_global_step()
    learning_rate = optimizer.learning_rate(recipes.Staircase(), global_step, options["batch_size"])
    train_op = construction.build_step(loss, global_step, learning_rate)
    num_microbatches = microbatches.count(options["batch_size"], network.microbatch_size)
    session = tf.Session(config=devices.session_config(num_microbatches))
    session.run(tf.global_variables_initializer())
    for variable in tf.trainable_variables():
        session.run(variable.initializer, {variable.initializer.inputs[1]: start[variable.op.name]})
    return session, train_op, loss


def train_fixed_batch(data, options, construction):
    session, train_op, loss = build_fixed_batch(data, options, construction)
    return Contender(repeat(lambda: session.run(train_op)), lambda: float(session.run([loss, train_op])[0]))


def tutorial_step(total_loss, global_step, learning_rate):
    """The tutorial's update: averages of the losses, gradient descent, moving averages of the variables."""
    loss_averages = tf.train.ExponentialMovingAverage(recipes.LOSS_AVERAGE_DECAY, name="avg")
    with tf.control_dependencies([loss_averages.apply([*tf.get_collection("losses"), total_loss])]):
        optimizer = tf.train.GradientDescentOptimizer(learning_rate)
        gradients = optimizer.compute_gradients(total_loss)
    update = optimizer.apply_gradients(gradients, global_step)
    with tf.control_dependencies([update]):
        averages = tf.train.ExponentialMovingAverage(recipes.MOVING_AVERAGE_DECAY, global_step)
        return averages.apply(tf.trainable_variables())


def multiply(data, options, dtype):
    """One product of two square matrices a step."""
    shape = [PEAK_SIZE, PEAK_SIZE]
    left, right = (tf.get_variable(name, shape, dtype, use_resource=True) for name in ("left", "right"))
    product = tf.matmul(left, right).op
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    return Contender(repeat(lambda: session.run(product)))


def our_input(data, options):
    examples = records.load(data, options["data_dir"], "train")
    distortions = recipes.TUTORIAL.distortions(data.flip)
    batch = tf.group(*cifar10_input.distorted_inputs(examples, options["batch_size"], 0, distortions=distortions))
    session = tf.Session()
    return Contender(repeat(lambda: session.run(batch)))


def tutorial_input(data, options):
    paths = records.paths(data, options["data_dir"], "train")
    num_examples = data.num_examples("train")
    outputs = cifar10_input.queue_training_batch(paths, options["batch_size"], num_examples, dataset=data)
    batch = tf.group(outputs.images, outputs.labels)
    session = tf.Session()
    tf.train.start_queue_runners(session)
    return Contender(repeat(lambda: session.run(batch)))


def our_evaluation(data, options):
    examples = records.load(data, options["data_dir"], "test")
    network = settings.served_network("tutorial", data.num_classes, use_fp16=False)
    evaluator = evaluation.Evaluator(
        examples, examples.count, options["batch_size"], network, class_names=data.class_names
    )
    path = checkpoints.newest_readable(os.path.join(options["shared_dir"], "train"))
    return Contender(repeat(lambda: evaluator.evaluate(path)))


def tutorial_evaluation(data, options):
    """One graph; for each evaluation another session, restored, with queue runners, as the tutorial does it."""
    num_examples = data.num_examples("test")
    paths = records.paths(data, options["data_dir"], "test")
    images, labels = cifar10_input.queue_inputs(paths, options["batch_size"], num_examples, dataset=data)
    top_k = tf.nn.in_top_k(model.Network(num_classes=data.num_classes, lrn="op", conv="op")(images), labels, 1)
    averages = tf.train.ExponentialMovingAverage(recipes.MOVING_AVERAGE_DECAY)
    saver = tf.train.Saver(averages.variables_to_restore())
    summary = summaries.merged()
    path = checkpoints.newest_readable(os.path.join(options["shared_dir"], "train"))

    def evaluate():
        with tf.Session() as session:
            saver.restore(session, path)
            coordinator = tf.train.Coordinator()
            threads = tf.train.start_queue_runners(session, coordinator)
            for _ in range(math.ceil(num_examples / options["batch_size"])):
                np.sum(session.run(top_k))
            session.run(summary)
            coordinator.request_stop()
            coordinator.join(threads, stop_grace_period_secs=10)

    return Contender(repeat(evaluate))


CONSTRUCTIONS = {
    "tutorial float32": Construction(tutorial_step, lrn="op", conv="op", microbatch_size=0),
    "ours float32": Construction(optimizer.train),
    "ours half": Construction(optimizer.train, use_fp16=True),
}
WORKERS = {
    "fixed_batch": {
        **{name: functools.partial(train_fixed_batch, construction=each) for name, each in CONSTRUCTIONS.items()},
        **dict.fromkeys(benchmark_peers.PEERS),  # programs of their own
        "matmul peak float32": functools.partial(multiply, dtype=tf.float32),
        "matmul peak bfloat16": functools.partial(multiply, dtype=tf.bfloat16),
    },
    "input": {"tutorial": tutorial_input, "ours": our_input},
    "evaluation": {"tutorial": tutorial_evaluation, "ours": our_evaluation},
}


def write_start(path, data, data_dir, batch_size):
    """Writes the batch and the initial weights that all contenders of fixed_batch share."""
    examples = records.load(data, data_dir, "test")
    margin = (datasets.HEIGHT - cifar10_input.IMAGE_SIZE) // 2
    images = examples.images[:batch_size, margin:-margin, margin:-margin].astype(np.float32)
    deviation = np.maximum(images.std(axis=(1, 2, 3), keepdims=True), images[0].size ** -0.5)
    arrays = {
        "images": (images - images.mean(axis=(1, 2, 3), keepdims=True)) / deviation,
        "labels": examples.labels[:batch_size],
    }
    random = np.random.RandomState(0)
    for layer, shape, stddev, bias in (
        ("conv1", [5, 5, 3, 64], 5e-2, 0.0),
        ("conv2", [5, 5, 64, 64], 5e-2, 0.1),
        ("local3", [2304, 384], 0.04, 0.1),
        ("local4", [384, 192], 0.04, 0.1),
        ("softmax_linear", [192, data.num_classes], 1 / 192, 0.0),
    ):
        arrays[f"{layer}/weights"] = (stddev * random.standard_normal(shape)).astype(np.float32)
        arrays[f"{layer}/biases"] = np.full(shape[-1], bias, np.float32)
    np.savez(path, **arrays)
