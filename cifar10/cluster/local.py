"""A whole cluster on this machine: each of its members a process, on 127.0.0.1, out of reach of other machines."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

from cifar10.cluster import ports
from cifar10.errors import ClusterError
from cifar10.machine import devices

POLL_SECS = 0.1  # between two looks whether a child has ended
GRACE_SECS = 30.0  # for the chief to save when it is told to end, and for the others after it
MAX_RESTARTS = 5  # of one child


def train(command, num_workers, num_ps=0):
    """Runs a cluster until its chief has ended; a child that is killed is started again.

    No child outlives this process, however it ends: each of them reads its standard input, a pipe from this process, in
    end_with_stdin.

    Args:
      command: list of strings: the program that takes the part that TF_CONFIG gives it, and its arguments.
      num_workers: number of workers; the first one is the chief.
      num_ps: number of parameter servers; 0: the chief holds the variables.

    Raises:
      ClusterError: a child failed; it has said why.
    """
    if not ports.can_close():
        ports.move_to_private_network([sys.executable, *sys.argv])
    if ports.is_alone():
        ports.raise_loopback()
    with ports.reserved(num_workers + num_ps) as numbers, _ended_by_signals():
        addresses = [f"127.0.0.1:{number}" for number in numbers]
        members = {"worker": addresses[:num_workers], "ps": addresses[num_workers:]}
        children = {
            f"{job} {task}": _Child(command, members, job, task) for job in members for task in range(len(members[job]))
        }
        try:
            _watch(children)
        finally:
            _end(children)


class _Child:
    """A member's process."""

    def __init__(self, command, members, job, task):
        self._command = command
        self._environment = {
            **os.environ,
            **_gpus(job, task),
            "TF_CONFIG": json.dumps({"cluster": members, "task": {"type": job, "index": task}}),
        }
        self.restarts = 0
        self.start()

    def start(self):
        # In a session of its own, so that Ctrl-C reaches this process only, which sees to the right order.
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, env=self._environment, start_new_session=True
        )

    def send(self, signum):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signum)

    def ended_within(self, secs):
        try:
            self.process.wait(secs)
            return True
        except subprocess.TimeoutExpired:
            return False


def _gpus(job, task):
    """Returns the environment that gives each worker a GPU of its own, as long as there are any."""
    count = devices.num_gpus()
    if not count:
        return {}
    return {"CUDA_VISIBLE_DEVICES": str(task) if job == "worker" and task < count else ""}


def _watch(children):
    """Returns when the chief has ended well; starts what is killed again."""
    while children["worker 0"].process.poll() != 0:
        for name, child in children.items():
            code = child.process.poll()
            if code is None or code == 0:
                continue
            if code > 0 or child.restarts == MAX_RESTARTS:
                raise ClusterError(f"{name} failed; what it says is above")
            child.restarts += 1
            print(f"{name} was killed by {signal.Signals(-code).name}; starting it again", flush=True)
            child.start()
        time.sleep(POLL_SECS)


def _end(children):
    """Ends all children, the chief first, which saves."""
    chief = children["worker 0"]
    try:
        chief.send(signal.SIGTERM)
        chief.ended_within(GRACE_SECS)
        deadline = time.time() + GRACE_SECS
        for child in children.values():
            if chief.process.returncode != 0:  # otherwise they end by themselves
                child.send(signal.SIGTERM)
            child.ended_within(max(0.0, deadline - time.time()))
    finally:
        for child in children.values():
            child.send(signal.SIGKILL)
            child.process.wait()


@contextlib.contextmanager
def _ended_by_signals():
    """Makes the signals that end a program end it in an orderly way."""

    def end(signum, frame):
        raise SystemExit(128 + signum)

    before = {signum: signal.signal(signum, end) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def end_with_stdin():
    """Makes this process end when its standard input does, which is when the process at the other end has ended."""

    def watch():
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
