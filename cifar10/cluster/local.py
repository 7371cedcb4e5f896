"""A whole cluster on this machine: each of its members a process, on 127.0.0.1, out of reach of other machines."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

from cifar10.errors import ClusterError
from cifar10.machine import devices, ports

POLL_SECS = 0.1  # between two looks whether a child has ended
GRACE_SECS = 30.0  # for the chief to save when it is told to end, or has lost another
LEAVE_SECS = 5.0  # for the others after it
MAX_LOSSES, LOSSES_SECS = 30, 600.0  # more losses in that time are no accidents
CHIEF = 0
BEGIN_ANEW = os.EX_TEMPFAIL  # exit code of a child that has lost another


def train(command, num_workers):
    """Runs a cluster until its chief has ended; where a child is killed, or hangs, all begin anew.

    No child outlives this process, however it ends: each of them reads its standard input, a pipe from this process, in
    end_with_stdin.

    Args:
      command: list of strings: the program that takes the part that TF_CONFIG gives it, and its arguments. It ends with
        the exit code BEGIN_ANEW when it has lost another.
      num_workers: number of workers; the first one is the chief.

    Raises:
      ClusterError: a child failed; it has said why.
    """
    if not ports.can_close():
        ports.move_to_private_network([sys.executable, *sys.argv])
    if ports.is_alone():
        ports.raise_loopback()
    with ports.reserved(num_workers) as numbers:
        addresses = [f"127.0.0.1:{number}" for number in numbers]
        losses = []
        while True:
            children = [_start(command, addresses, task) for task in range(num_workers)]
            try:
                if not _lost(children):
                    return
            finally:
                _end(children)
            now = time.monotonic()
            losses = [now, *(then for then in losses if now - then < LOSSES_SECS)]
            if len(losses) > MAX_LOSSES:
                raise ClusterError(f"lost workers {len(losses)} times within {LOSSES_SECS:g} s; see above")
            command = again(command)


def again(command):
    """Returns the command with which a program goes on that has lost others: it moves no run aside any more."""
    return command if command[-1] == "--norestart" else [*command, "--norestart"]


def begin_anew(supervised):
    """Puts a new process of the same program in the place of this one; `train` does if this is a child of its."""
    sys.stdout.flush()
    sys.stderr.flush()
    if supervised:
        os._exit(BEGIN_ANEW)
    os.execv(sys.executable, again([sys.executable, *sys.orig_argv[1:]]))


def _start(command, addresses, task):
    """Starts a worker, with a GPU of its own as long as there are any."""
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": task}}
    environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
    if num_gpus := devices.num_gpus():
        environment["CUDA_VISIBLE_DEVICES"] = str(task) if task < num_gpus else ""
    # In a session of its own, so that Ctrl-C reaches this process only, which sees to the right order.
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)


def _lost(children):
    """Returns whether a child was lost, as soon as one is, or False once the chief has ended well."""
    while children[CHIEF].poll() != 0:
        for task, child in enumerate(children):
            code = child.poll()
            if code == BEGIN_ANEW:
                return True
            if code is not None and code < 0:
                print(f"worker {task} was killed by {signal.Signals(-code).name}; all begin anew", flush=True)
                return True
            if code:
                raise ClusterError(f"worker {task} failed; what it says is above")
        time.sleep(POLL_SECS)
    return False


def _end(children):
    """Ends all children; waits for the chief to save, but not for one that hangs."""
    try:
        if children[CHIEF].poll() != 0:  # otherwise they end by themselves
            for child in children:
                child.send_signal(signal.SIGCONT)  # one that was stopped can then save
                child.terminate()
        _wait(children[CHIEF], GRACE_SECS)
        deadline = time.monotonic() + LEAVE_SECS
        for child in children:
            _wait(child, max(0.0, deadline - time.monotonic()))
    finally:
        for child in children:
            child.kill()
            child.communicate()  # waits, and closes its pipe


def _wait(child, secs):
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(secs)


def end_with_stdin():
    """Makes this process end when its standard input does, which is when the process at the other end has ended."""

    def watch():
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
