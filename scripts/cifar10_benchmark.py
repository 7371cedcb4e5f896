#!/usr/bin/env python3
"""Measures how fast this project trains against the tutorial's own construction, side by side.

The tutorial's construction is the queue that 16 threads fill, and tf.nn.lrn. Each repetition runs each contender once,
in a process of its own, as a user would run it, so that a drifting machine hurts all alike; a ratio is the median of
the ratios within one repetition. The first steps do not count for the speed.
"""

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import tensorflow.compat.v1 as tf
from absl import flags as absl_flags

from cifar10 import datasets, download, flags, runs

BASELINE = "tutorial"
CONTENDERS = {
    BASELINE: ["--input_pipeline=queue", "--lrn=op"],
    "float32": [],
    "half": ["--use_fp16"],
}
WARM_UP_STEPS = 50
# What is measured, and its unit.
FIGURES = {"images_per_sec": "images/s", "start_secs": "s from command to step 0", "peak_mib": "MiB of memory at most"}


def measure(contender, steps, **script_flags):
    """Trains one contender for some steps after the warm-up; returns {figure: value}."""
    script = pathlib.Path(__file__).with_name("cifar10_train.py")
    with tempfile.TemporaryDirectory() as train_dir:
        values = {"train_dir": train_dir, "max_steps": WARM_UP_STEPS + steps + 1, "log_frequency": 1, **script_flags}
        command = [sys.executable, script, *CONTENDERS[contender], *(f"--{k}={v}" for k, v in values.items())]
        started = time.time()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        step_0 = next((time.time() for line in process.stdout if ": step 0," in line), None)
        for _ in process.stdout:
            pass
        _, status, usage = os.wait4(process.pid, 0)
        if status or step_0 is None:
            sys.exit(
                f"cifar10_benchmark.py: {contender} failed; run it alone to see why: {' '.join(map(str, command))}"
            )
        with open(os.path.join(train_dir, runs.METRICS)) as lines:
            times = {line["step"]: datetime.datetime.fromisoformat(line["time"]) for line in map(json.loads, lines)}
    duration = (times[WARM_UP_STEPS + steps] - times[WARM_UP_STEPS]).total_seconds()
    return {
        "images_per_sec": steps * script_flags["batch_size"] / duration,
        "start_secs": step_0 - started,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def summarize(samples):
    """Returns {figure: {contender: {median, min, max, ratio}}} of [{contender: {figure: value}}], one a repetition."""
    summary = {}
    for figure in FIGURES:
        summary[figure] = {}
        for contender in samples[0]:
            values = [sample[contender][figure] for sample in samples]
            ratios = [sample[contender][figure] / sample[BASELINE][figure] for sample in samples]
            summary[figure][contender] = {
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
                "ratio": statistics.median(ratios),
            }
    return summary


def run(*, data_dir, dataset, batch_size, repetitions, steps, json_path, **_):
    """Benchmarks; the parameters are the flags."""
    download.ensure(datasets.ALL[dataset], data_dir)
    samples = []
    for repetition in range(repetitions):
        print(f"repetition {repetition + 1} of {repetitions}", flush=True)
        samples.append(
            {
                contender: measure(contender, steps, data_dir=data_dir, dataset=dataset, batch_size=batch_size)
                for contender in CONTENDERS
            }
        )
    summary = summarize(samples)
    for figure, unit in FIGURES.items():
        print(f"\n{unit} (n = {repetitions})\n{'':10}{'median':>10}{'min':>10}{'max':>10}{'ratio':>10}")
        for contender, row in summary[figure].items():
            print(f"{contender:10}{row['median']:10.2f}{row['min']:10.2f}{row['max']:10.2f}{row['ratio']:10.3f}")
    if json_path:
        versions = {"python": platform.python_version(), "tensorflow": tf.version.VERSION}
        machine = {"machine": platform.machine(), "cpus": os.cpu_count()}
        with open(json_path, "w") as file:
            json.dump({"versions": versions, **machine, "steps": steps, "samples": samples, "summary": summary}, file)


if __name__ == "__main__":
    flags.define_data_flags()
    absl_flags.DEFINE_integer("repetitions", 5, "How often each contender runs.", lower_bound=1)
    absl_flags.DEFINE_integer("steps", 200, "Steps that are timed in each run, after 50 that are not.", lower_bound=1)
    absl_flags.DEFINE_string("json_path", None, "File for all samples and their summary.")
    flags.main(run)
