#!/usr/bin/env python3
"""Measures this project against the tutorial's own construction, and against the same network in other libraries.

The tutorial's construction is the queue that 16 threads fill, tf.nn.lrn, and tf.train.ExponentialMovingAverage. Keras,
PyTorch and JAX take part where they are installed. Each contender is a process of its own; each repetition runs one
after the other, so that a drifting machine hurts all alike; a ratio is the median of the ratios within one repetition.

The modes:
  end_to_end: the training script as users run it, from its 50th step on; images/s.
  fixed_batch: the whole training step on one batch that never changes, without input; images/s.
  input: the training input alone; images/s.
  evaluation: all test images, with the restoring of a checkpoint; images/s.
  start: from the command to its first line; seconds, of which fewer are better.
  summaries: as end_to_end, with and without what TensorBoard shows; images/s.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import platform
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

import benchmark_peers
import tensorflow.compat.v1 as tf
from absl import flags as absl_flags
from benchmark_contenders import FLOP_PER_IMAGE, PEAK_SIZE, WORKERS, write_start

from cifar10 import flags
from cifar10.data import datasets, download
from cifar10.errors import RunError
from cifar10.machine import devices
from cifar10.runs import history

WARM_UP_STEPS = {"fixed_batch": 10, "input": 10, "evaluation": 1}  # before the first repetition
# Before each repetition: caches are cold after the other contenders' turns, and a queue has filled up meanwhile.
UNTIMED_STEPS = {"fixed_batch": 2, "input": 8, "evaluation": 0}
MIN_INPUT_IMAGES = 20_000  # a repetition; of the 20,384 in the tutorial's queue, all but 384 must stay in it
SKIPPED_SCRIPT_STEPS = 50
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # relative, of losses

# Contenders that are runs of the training script, with their flags.
SCRIPTS = {
    "tutorial": ["--input_pipeline=queue", "--lrn=op", "--conv=op", "--microbatch_size=0"],
    "ours float32": [],
    "ours half": ["--use_fp16"],
}


def dtype(name):
    """Returns what a contender computes in."""
    return "bfloat16" if re.search("half|bfloat16", name) else "float32"


MODES = {
    "end_to_end": SCRIPTS,
    **WORKERS,
    "start": {name: SCRIPTS[name] for name in ("tutorial", "ours float32")},
    "summaries": {"without summaries": ["--save_summaries_steps=0"], "with summaries": []},
}


class Worker:
    """The process of one contender; see benchmark_peers.serve, whose first answer is in `ready`."""

    def __init__(self, mode, name, options):
        here = pathlib.Path(__file__)
        shared_dir = options["shared_dir"]
        if WORKERS[mode][name] is None:
            arguments = [here.with_name("benchmark_peers.py"), name, os.path.join(shared_dir, "start.npz")]
        else:
            values = [f"--{key}={options[key]}" for key in ("data_dir", "dataset", "batch_size", "shared_dir")]
            arguments = [here, f"--worker={mode}/{name}", *values]
        self._name = f"{mode}, {name}"
        self._log = tempfile.TemporaryFile("w+", dir=shared_dir)  # noqa: SIM115 (close closes it)
        self._process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.ready = self._receive()

    def run(self, steps):
        """Runs so many steps; returns {"seconds", "peak_mib"}."""
        with contextlib.suppress(BrokenPipeError):  # _receive says what happened
            self._process.stdin.write(json.dumps({"cmd": "run", "steps": steps}) + "\n")
            self._process.stdin.flush()
        return self._receive()

    def close(self):
        self._process.kill()  # it has nothing to save
        self._process.communicate()
        self._log.close()

    def _receive(self):
        line = self._process.stdout.readline()
        try:
            return json.loads(line)
        except ValueError:  # the process has ended, or a library in it has printed a line
            self._log.seek(0)
            said = [line, *reversed(self._log.read().splitlines()), "it said nothing"]
            self.close()
            raise RunError(f"{self._name} failed: {next(text.strip() for text in said if text.strip())}") from None


def check_losses(losses):
    """Raises RunError unless all losses, {contender: [one a step]}, agree with the first contender's."""
    reference = next(iter(losses), None)
    for name, values in losses.items():
        tolerance = max(TOLERANCE[dtype(name)], TOLERANCE[dtype(reference)])
        for value, expected in zip(values, losses[reference], strict=True):
            if not abs(value - expected) <= tolerance * abs(expected):  # nor if it is not a number
                raise RunError(f"{name} computes a loss of {value:.6f}, {reference} one of {expected:.6f}")


def start_workers(mode, names, options, stack):
    """Starts and warms up workers; returns ({name: measure}, {name: first answer}, {name: why it is left out})."""
    workers, ready, skipped = {}, {}, {}
    for name in names:
        module = benchmark_peers.PEERS[name][0] if WORKERS[mode][name] is None else "cifar10"
        if importlib.util.find_spec(module) is None:
            skipped[name] = f"{module} is not installed"
            continue
        worker = Worker(mode, name, options)
        stack.callback(worker.close)
        if "skipped" in worker.ready:
            skipped[name] = worker.ready["skipped"]
        else:
            workers[name], ready[name] = worker, worker.ready
    check_losses({name: answer["losses"] for name, answer in ready.items() if None not in answer["losses"]})
    for worker in workers.values():
        worker.run(WARM_UP_STEPS[mode])

    steps, images = options["steps"], options["batch_size"]
    if mode == "input":
        steps = max(steps, math.ceil(MIN_INPUT_IMAGES / images))
    elif mode == "evaluation":
        steps, images = 1, datasets.named(options["dataset"], options["data_dir"]).num_examples("test")

    def measure(name):
        workers[name].run(UNTIMED_STEPS[mode])
        answer = workers[name].run(steps)
        # The product of matrices counts as the images that as many operations would train.
        images_per_step = 2 * PEAK_SIZE**3 / FLOP_PER_IMAGE if name.startswith("matmul peak") else images
        return {"value": steps * images_per_step / answer["seconds"], "peak_mib": answer["peak_mib"]}

    return {name: functools.partial(measure, name) for name in workers}, ready, skipped


def train(script_flags, train_dir, max_steps, log_frequency, options):
    """Runs the training script; returns (seconds from the command to its first line, peak MiB, {step: time})."""
    script = pathlib.Path(__file__).with_name("cifar10_train.py")
    values = {key: options[key] for key in ("data_dir", "dataset", "batch_size")}
    values |= {"train_dir": train_dir, "max_steps": max_steps, "log_frequency": log_frequency}
    command = [sys.executable, str(script), *script_flags, *(f"--{key}={value}" for key, value in values.items())]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with process.stdout as lines:
        first = next((time.perf_counter() - started for line in lines if ": step 0," in line), None)
        for _ in lines:
            pass
    # ru_maxrss is no less than the size of this process at the start of the other, which a training run exceeds.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status or first is None:
        raise RunError(f"Training failed; run it alone to see why: {' '.join(command)}")
    times = {step: time for step, (_, time) in history.console_lines(train_dir).items()}
    return first, usage.ru_maxrss / 1024, times


def measure_script(mode, name, options):
    """Measures one run of the training script from beginning to end, in a train_dir of its own."""
    steps = options["steps"]
    last = SKIPPED_SCRIPT_STEPS + steps
    with tempfile.TemporaryDirectory() as train_dir:
        if mode == "start":
            first, peak_mib, _ = train(MODES[mode][name], train_dir, 1, 1, options)
            return {"value": first, "peak_mib": peak_mib}
        # As rare as the default where that has lines of the first and the last timed step.
        _, peak_mib, times = train(MODES[mode][name], train_dir, last + 1, math.gcd(10, steps), options)
    seconds = (times[last] - times[SKIPPED_SCRIPT_STEPS]).total_seconds()
    return {"value": steps * options["batch_size"] / seconds, "peak_mib": peak_mib}


def interleave(measures, repetitions):
    """Calls each of {name: measure} once a repetition; returns {name: [what it returned]}."""
    samples = {name: [] for name in measures}
    for repetition in range(repetitions):
        print(f"repetition {repetition + 1} of {repetitions}", file=sys.stderr, flush=True)
        for name, measure in measures.items():
            samples[name].append(measure())
    return samples


def summarize(samples):
    """Returns {name: {median, min, max, ratio, of_peak, peak_mib}} of {name: [{"value", "peak_mib"}]}.

    ratio is to the tutorial's construction, or to training without summaries, and of_peak to the product of matrices of
    the same type, both medians of the ratios within one repetition; None where that was not measured.
    """
    values = {name: [sample["value"] for sample in of_name] for name, of_name in samples.items()}

    def ratio(name, to):
        if to not in values:
            return None
        return statistics.median(a / b for a, b in zip(values[name], values[to], strict=True))

    baseline = next((name for name in samples if name.startswith(("tutorial", "without"))), None)
    return {
        name: {
            "median": statistics.median(values[name]),
            "min": min(values[name]),
            "max": max(values[name]),
            "ratio": ratio(name, baseline),
            "of_peak": ratio(name, f"matmul peak {dtype(name)}"),
            "peak_mib": max(sample["peak_mib"] for sample in of_name),
        }
        for name, of_name in samples.items()
    }


def print_table(mode, repetitions, result):
    unit = "seconds to the first line, fewer are better" if mode == "start" else "images/s"
    print(f"\n{mode}: {unit}, n = {repetitions}")
    print(f"{'':30}{'median':>9}{'min':>9}{'max':>9}{'ratio':>8}{'of peak':>9}{'peak MiB':>10}")
    for name, row in result["contenders"].items():
        digits = 2 if mode == "start" else 0
        numbers = "".join(f"{row[figure]:9,.{digits}f}" for figure in ("median", "min", "max"))
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        of_peak = "-" if row["of_peak"] is None else f"{row['of_peak']:.0%}"
        print(f"{name:30}{numbers}{ratio:>8}{of_peak:>9}{row['peak_mib']:10,.0f}")
    for name, reason in result["skipped"].items():
        print(f"{name:30}  skipped: {reason}")
    if mode == "fixed_batch":
        print(
            f"A step takes {FLOP_PER_IMAGE / 1e6:.1f} MFLOP an image: 2 x (3 x 18.47 M multiply-adds, less 2.76 M for "
            "the gradient of the images).\nThe matmul peak is the speed if all of it were products of large matrices."
        )
    sys.stdout.flush()


def measure_mode(mode, options):
    """Measures one mode and prints its table; returns what --json has of it, or None if no contender is chosen."""
    names = [name for name in MODES[mode] if re.search(options["contenders"], name)]
    if not names:
        return None
    with contextlib.ExitStack() as stack:
        if mode in WORKERS:
            measures, ready, skipped = start_workers(mode, names, options, stack)
        else:
            measures = {name: functools.partial(measure_script, mode, name, options) for name in names}
            ready = skipped = {}
        samples = interleave(measures, options["repetitions"])
    rows = {name: {**row, **ready.get(name, {}), "samples": samples[name]} for name, row in summarize(samples).items()}
    result = {"contenders": rows, "skipped": skipped}
    print_table(mode, options["repetitions"], result)
    return result


def describe():
    """Returns the machine, and the versions of all that may take part."""
    versions = {"python": platform.python_version(), "tensorflow": tf.version.VERSION}
    for package in ("numpy", "keras", "torch", "jax", "jaxlib"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    cpu = platform.processor()
    with contextlib.suppress(OSError, TypeError):  # not Linux, or not x86
        cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path(devices.CPU_INFO).read_text(), re.MULTILINE)[1]
    return {"versions": versions, "cpu": cpu, "cpus": os.cpu_count(), "bfloat16_units": devices.cpu_has_bfloat16()}


def run(**options):
    """Benchmarks, or is a worker of a benchmark; the options are the flags."""
    data = datasets.named(options["dataset"], options["data_dir"])
    if options["worker"]:
        mode, _, name = options["worker"].partition("/")
        with tf.Graph().as_default():
            benchmark_peers.serve(lambda: WORKERS[mode][name](data, options))
        return
    if options["json"]:
        _write(options["json"], "a", "")  # fails before hours of measurements rather than after them
    download.ensure(data, options["data_dir"])
    with tempfile.TemporaryDirectory() as shared_dir:
        options["shared_dir"] = shared_dir
        write_start(os.path.join(shared_dir, "start.npz"), data, options["data_dir"], options["batch_size"])
        if "evaluation" in options["modes"]:
            train([], os.path.join(shared_dir, "train"), 1, 1, options)
        results = {mode: measure_mode(mode, options) for mode in options["modes"]}
    if not any(results.values()):
        raise RunError(f"--contenders={options['contenders']}: no contender of {', '.join(results)} has such a name")
    if options["json"]:
        report = {key: options[key] for key in ("dataset", "batch_size", "repetitions", "steps")} | describe()
        report["modes"] = {mode: result for mode, result in results.items() if result}
        _write(options["json"], "w", json.dumps(report, indent=1) + "\n")


def _write(path, mode, text):
    try:
        with open(path, mode) as file:
            file.write(text)
    except OSError as error:
        raise RunError(f"--json={path}: cannot be written ({error.strerror}); choose another file") from None


def is_pattern(text):
    with contextlib.suppress(re.error):
        return re.compile(text) is not None
    return False


def is_worker(text):
    mode, _, name = (text or "").partition("/")
    return text is None or name in WORKERS.get(mode, {})


def define_flags():
    absl_flags.DEFINE_list("modes", list(MODES), "What to measure, of the modes above.")
    absl_flags.DEFINE_integer("repetitions", 5, "How often each contender is measured.", lower_bound=1)
    absl_flags.DEFINE_integer("steps", 100, "Timed steps a repetition, of training and input.", lower_bound=1)
    absl_flags.DEFINE_string("contenders", "", "Regular expression that is found in the names of those to measure.")
    absl_flags.DEFINE_string("json", None, "File for all samples, medians, ratios and versions.")
    absl_flags.DEFINE_string("worker", None, "Internal: <mode>/<contender>, to be measured on command from stdin.")
    absl_flags.DEFINE_string("shared_dir", None, "Internal: the folder of what the workers share.")
    absl_flags.register_validator(
        "modes", lambda modes: modes and set(modes) <= set(MODES), f"choose from {','.join(MODES)}"
    )
    absl_flags.register_validator("worker", is_worker, "this is for the benchmark itself; leave it out")
    absl_flags.register_validator("contenders", is_pattern, "this is not a regular expression")


if __name__ == "__main__":
    del absl_flags.FLAGS.use_fp16  # a contender's name says what it computes in
    flags.define_data_flags()
    define_flags()
    flags.main(run)
