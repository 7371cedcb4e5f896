#!/usr/bin/env python3
"""Shows where the time of a training step goes, layer by layer: ours beside the tutorial's own construction.

Each construction is traced in a process of its own, on one batch that never changes. A layer's time is the sum of its
ops' times, forward and backward, over all cores: as several ops run at once, the sums are more than the step takes.
"""

import collections
import multiprocessing
import os
import re
import signal
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what TensorFlow says of itself
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until flags.main takes it: no traceback out of an import

import tensorflow.compat.v1 as tf
from absl import flags as absl_flags
from benchmark_contenders import CONSTRUCTIONS, build_fixed_batch, write_start

from cifar10 import flags
from cifar10.data import datasets, download

LAYERS = ("conv1", "pool1", "norm1", "conv2", "norm2", "pool2", "local3", "local4", "softmax_linear", "loss")
UPDATE = "update, moving averages"
REST = "rest"
WARM_UP_STEPS = 10


def layer_of(op):
    """Returns the row in which an op's time is shown, by the op's name."""
    part = re.sub(r"^(train/)?gradients/", "", op).split("/")[0]
    if part == "train" or "ExponentialMovingAverage" in op:
        return UPDATE
    return part if part in LAYERS else REST


def milliseconds(metadata):
    """Returns {row: ms} of a traced step, tf.RunMetadata."""
    times = collections.Counter()
    for device in metadata.step_stats.dev_stats:
        for node in device.node_stats:
            times[layer_of(node.node_name)] += (node.op_end_rel_micros - node.op_start_rel_micros) / 1000
    return times


def trace(name, data, options, steps):
    """Returns the median ms of a step, and {row: median ms} of traced ones."""
    with tf.Graph().as_default():
        session, train_op, _ = build_fixed_batch(data, options, CONSTRUCTIONS[name])
        trace_all = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
        walls, traced = [], []
        for _ in range(WARM_UP_STEPS + steps):
            started = time.perf_counter()
            session.run(train_op)
            walls.append(1000 * (time.perf_counter() - started))
            metadata = tf.RunMetadata()
            session.run(train_op, options=trace_all, run_metadata=metadata)
            traced.append(milliseconds(metadata))
        rows = [*LAYERS, UPDATE, REST]
        traced = {row: statistics.median(times[row] for times in traced[WARM_UP_STEPS:]) for row in rows}
        return statistics.median(walls[WARM_UP_STEPS:]), traced


def print_table(results):
    print("".join([f"{'ms a step':26}", *(f"{name:>18}" for name in results)]))
    for row in [*LAYERS, UPDATE, REST]:
        print("".join([f"{row:26}", *(f"{times[row]:18.1f}" for _, times in results.values())]))
    print("".join([f"{'all ops':26}", *(f"{sum(times.values()):18.1f}" for _, times in results.values())]))
    print("".join([f"{'the step':26}", *(f"{wall:18.1f}" for wall, _ in results.values())]), flush=True)


def run(*, steps, **options):
    """Profiles; the parameters are the flags."""
    data = datasets.named(options["dataset"], options["data_dir"])
    download.ensure(data, options["data_dir"], options["data_url"], options["data_sha256"])
    results = {}
    with tempfile.TemporaryDirectory() as options["shared_dir"]:
        path = os.path.join(options["shared_dir"], "start.npz")
        write_start(path, data, options["data_dir"], options["batch_size"])
        for name in CONSTRUCTIONS:
            with multiprocessing.get_context("spawn").Pool(1) as process:
                results[name] = process.apply(trace, (name, data, options, steps))
    print_table(results)


if __name__ == "__main__":
    del absl_flags.FLAGS.use_fp16  # a construction's name says what it computes in
    flags.define_data_flags()
    absl_flags.DEFINE_integer("steps", 20, "Traced steps.", lower_bound=1)
    flags.main(run)
