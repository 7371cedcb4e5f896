#!/usr/bin/env python3
"""Trains the same steps on one device, as towers and as workers, and compares results, speed and cost.

All share one global batch of --batch_size images, divided among the devices, and one seed. Each training is a process
as users run it; a repetition runs one after the other. The table has for each of --setups:
  loss: the largest difference to the first setup's loss, at any step.
  weights: the largest difference of any variable or moving average at the end; 0 means equal to the last bit.
  images/s: after the first 10 steps; the median of all repetitions and their range.
  ratio: to the first setup, the median of the ratios within one repetition.
  MB/step: what went over the loopback interface, of all programs on this machine.
  precision: precision @ 1 at the end, with --evaluate_too.
"""

import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what TensorFlow says of itself
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until flags.main takes it: no traceback out of an import

import numpy as np
import tensorflow.compat.v1 as tf
from absl import flags as absl_flags

from cifar10 import flags
from cifar10.data import datasets, download
from cifar10.errors import RunError
from cifar10.runs import checkpoints, history

SETUP = r"(one|([1-9]\d*)towers|([1-9]\d*)workers(\+ring)?)"
SKIPPED_STEPS = 10  # before the clock runs
NET_DEV = "/proc/net/dev"  # of Linux; elsewhere the bytes are not known


def command(setup, batch_size):
    """Returns the script of a setup, its flags, and its name in the table."""
    _, towers, workers, ring = re.fullmatch(SETUP, setup).groups()
    count = int(towers or workers or 1)
    if batch_size % count:
        raise RunError(f"--batch_size={batch_size}: cannot be divided among the {count} devices of {setup}")
    size = [f"--batch_size={batch_size // count}"]
    if towers:
        return "cifar10_multi_gpu_train.py", [*size, f"--num_gpus={count}"], f"{count} towers x {batch_size // count}"
    if workers:
        kind = "ring" if ring else "auto"
        name = f"{count} workers x {batch_size // count}" + (", ring" if ring else "")
        return "cifar10_distributed_train.py", [*size, f"--local_workers={count}", f"--all_reduce={kind}"], name
    return "cifar10_train.py", size, f"1 x {batch_size}"


def loopback_bytes():
    """Returns the number of bytes that this machine has sent to itself so far, or NaN if that is not known."""
    try:
        return int(re.search(r"\blo:\s*(\d+)", pathlib.Path(NET_DEV).read_text())[1])
    except OSError:
        return float("nan")


def train(setup, train_dir, steps, batch_size, common):
    """Trains; returns images/s and MB a step after the first steps, and the losses."""
    script, own, name = command(setup, batch_size)
    train_flags = [f"--train_dir={train_dir}", f"--max_steps={steps}", "--log_frequency=1", "--save_summaries_steps=0"]
    process = subprocess.Popen(
        [sys.executable, str(pathlib.Path(__file__).with_name(script)), *own, *train_flags, *common],
        stdout=subprocess.PIPE,
        text=True,
    )
    at = {}
    with process.stdout as lines:
        for line in lines:
            if match := re.search(r": step (\d+), loss", line):
                at[int(match[1])] = time.perf_counter(), loopback_bytes()
    if process.wait() or steps - 1 not in at:
        raise RunError(f"{name} ended at step {max(at, default=0)} with exit code {process.returncode}; see above")
    (first_time, first_bytes), (last_time, last_bytes) = at[SKIPPED_STEPS], at[steps - 1]
    timed = steps - 1 - SKIPPED_STEPS
    losses = np.array([loss for loss, _ in history.console_lines(train_dir).values()])
    return timed * batch_size / (last_time - first_time), (last_bytes - first_bytes) / timed / 1e6, losses


def weights(train_dir):
    """Returns {name: value} of the variables and their moving averages in the final checkpoint."""
    reader = tf.train.load_checkpoint(checkpoints.paths(train_dir)[-1])
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if re.search("weights|biases", name)
    }


def evaluate(train_dir, common):
    """Returns precision @ 1 of the final checkpoint, as text."""
    script = str(pathlib.Path(__file__).with_name("cifar10_eval.py"))
    options = [f"--checkpoint_dir={train_dir}", f"--eval_dir={train_dir}/eval", "--run_once"]
    output = subprocess.run([sys.executable, script, *options, *common], stdout=subprocess.PIPE, text=True).stdout
    return output.rpartition("= ")[2].strip() or "failed"


def run(*, data_dir, dataset, data_url, data_sha256, batch_size, use_fp16, setups, steps, repetitions, evaluate_too):
    """Compares; the parameters are the flags."""
    download.ensure(datasets.named(dataset, data_dir), data_dir, data_url, data_sha256)
    common = [f"--data_dir={data_dir}", f"--dataset={dataset}", f"--use_fp16={use_fp16}"]
    names = [command(setup, batch_size)[2] for setup in setups]
    speeds, results = [[] for _ in setups], []
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(repetitions):
            for i, setup in enumerate(setups):
                train_dir = os.path.join(folder, f"{repetition}-{i}")
                speed, megabytes, losses = train(setup, train_dir, steps, batch_size, common)
                speeds[i].append(speed)
                if not repetition:
                    precision = evaluate(train_dir, common) if evaluate_too else "-"
                    results.append((losses, weights(train_dir), megabytes, precision))
    print(f"{steps} steps of {batch_size}, n = {repetitions}")
    print(f"{'':24}{'loss':>9}{'weights':>9}{'images/s':>24}{'ratio':>7}{'MB/step':>9}{'precision':>11}")
    first_losses, first_weights = results[0][:2]
    for name, rates, (losses, values, megabytes, precision) in zip(names, speeds, results, strict=True):
        loss = np.abs(losses - first_losses).max()
        difference = max(np.abs(value - first_weights[key]).max() for key, value in values.items())
        rate = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
        ratio = statistics.median(a / b for a, b in zip(rates, speeds[0], strict=True))
        print(f"{name:24}{loss:9.1e}{difference:9.1e}{rate:>24}{ratio:7.2f}{megabytes:9.2f}{precision:>11}", flush=True)


def define_flags():
    absl_flags.DEFINE_list(
        "setups",
        ["one", "2towers", "2workers"],
        "What to compare, as one, 2towers, 2workers or 8workers+ring; the first is what all are compared with.",
    )
    absl_flags.DEFINE_integer("steps", 50, "Steps of each training.", lower_bound=SKIPPED_STEPS + 2)
    absl_flags.DEFINE_integer("repetitions", 1, "How often each is timed.", lower_bound=1)
    absl_flags.DEFINE_boolean("evaluate_too", False, "Evaluate each at its end as well.")
    absl_flags.register_validator(
        "setups",
        lambda setups: setups and all(re.fullmatch(SETUP, setup) for setup in setups),
        "write them as one, 2towers, 2workers or 8workers+ring",
    )


if __name__ == "__main__":
    flags.define_data_flags()
    define_flags()
    flags.main(run)
