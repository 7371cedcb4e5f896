"""Real processes on 127.0.0.1 for the tests of clusters."""

import json
import os
import pathlib
import re
import signal
import subprocess
import time

from forkserver import Program, environment
from helpers import SCRIPTS, arguments

from cifar10.machine import ports
from cifar10.runs import history

SMALL = {"batch_size": 8, "microbatch_size": 8, "save_summaries_steps": 0}


def cluster_flags(data_dir, train_dir, **flags):
    """Returns command-line arguments; the pipeline's flags are of one machine only."""
    pipeline = {"input_pipeline": None, "min_fraction_of_examples_in_queue": None}
    return arguments(data_dir, train_dir, **{**SMALL, **pipeline, "eval_dir": f"{train_dir}-eval", **flags})


class Process:
    """A running script whose lines, of both outputs, go to a file."""

    def __init__(self, log, flags, tf_config=None):
        variables = {"TF_CONFIG": json.dumps(tf_config)} if tf_config else {}
        self.log = log
        self.members = {}
        path = SCRIPTS / "cifar10_distributed_train.py"
        with open(log, "w") as file, open(os.devnull) as nothing:
            self.process = Program([path, *flags], nothing, file, file, env=environment() | variables)

    @property
    def pid(self):
        return self.process.pid

    def text(self):
        return self.log.read_text()

    def wait_for(self, pattern, secs=120, after=0):
        """Waits for the pattern in what is printed behind the first `after` characters."""
        started = time.time()
        while not re.search(pattern, self.text()[after:]):
            assert time.time() - started < secs, f"{pattern!r} did not come:\n{self.text()}"
            assert self.process.poll() is None, self.text()
            time.sleep(0.05)

    def find_members(self):
        """Returns {task: process id} of a local cluster's workers."""
        self.members = children(self.pid)
        return self.members

    def end(self, code=0, secs=240):
        try:
            assert self.process.wait(secs) == code, self.text()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {secs} s: {self.text()}") from None

    def clear(self):
        """Ends it and its children at once."""
        for pid in [pid for pid in (self.members | children(self.pid)).values() if alive(pid)]:
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def children(pid):
    """Returns {task: process id} of a local cluster's workers."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                variables = path.with_name("environ").read_bytes().split(b"\0")
                config = next(each for each in variables if each.startswith(b"TF_CONFIG="))
                found[json.loads(config.partition(b"=")[2])["task"]["index"]] = int(path.parent.name)
        except (OSError, StopIteration):  # it has just ended, or just begun
            pass
    return found


def alive(pid):
    """Returns whether a process runs; one that has ended and was not waited for does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def free_addresses(count):
    with ports.reserved(count) as numbers:
        return [f"127.0.0.1:{number}" for number in numbers]


def metrics(train_dir):
    """Returns what the console printed, line by line."""
    return [json.loads(line) for line in (train_dir / history.METRICS).read_text().splitlines()]


def starts(train_dir):
    """Returns the steps from which a run was started, one a life of the chief."""
    lines = map(json.loads, (train_dir / history.RECORD).read_text().splitlines())
    return [line["step"] for line in lines if line["event"] == "start"]
