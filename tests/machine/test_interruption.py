"""Signals to training and evaluation: real ones, to real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import tensorflow.compat.v1 as tf
from forkserver import Program
from helpers import SCRIPTS, arguments, run_graph

from cifar10.machine import signals
from cifar10.runs import checkpoints, history
from cifar10.runs import run as run_module

WITHIN_SECS = 5.0
started = []


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    while started:
        with started.pop() as process:
            process.kill()


def start(script, *args, ignoring=()):
    """Starts a script, with signals ignored as a shell does for what it starts with `&`, and no others."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = Program([SCRIPTS / f"{script}.py", *args], **pipes, ignoring=ignoring)
    started.append(process)
    return process


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(process.stderr.read())


def end(process, signum):
    """Sends a signal; returns exit code, seconds until the end, the last line of stdout and of stderr."""
    sent = time.time()
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    return process.returncode, time.time() - sent, out.splitlines()[-1:], err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "signum", "ignoring"),
    [
        ("cifar10_train", signal.SIGTERM, ()),
        ("cifar10_train", signal.SIGINT, (signal.SIGINT,)),  # started with `&`
        ("cifar10_multi_gpu_train", signal.SIGHUP, ()),
    ],
    ids=["SIGTERM", "Ctrl-C of a background process", "terminal lost"],
)
def test_a_signal_saves_at_the_next_step_and_exits_with_its_code(synthetic_dir, tmp_path, script, signum, ignoring):
    process = start(script, *arguments(synthetic_dir, tmp_path, max_steps=100_000), ignoring=ignoring)
    wait_for(process, ": step 7,")
    code, seconds, last, error = end(process, signum)
    assert code == 128 + signum and seconds < WITHIN_SECS
    saved = checkpoints.newest_readable(str(tmp_path))
    step = checkpoints.step(saved)
    (last_line,) = last or [": step 7,"]
    assert f": step {step - 1}," in last_line  # nothing that was printed is lost
    name = signal.Signals(signum).name
    assert error == f"{script}.py: ended by {name} at step {step}; saved as {saved}"
    stop = json.loads((tmp_path / history.RECORD).read_text().splitlines()[-1])
    assert (stop["event"], stop["step"], stop["reason"]) == ("stop", step, name)


@pytest.mark.slow
def test_a_process_under_nohup_outlives_its_terminal(synthetic_dir, tmp_path):
    args = arguments(synthetic_dir, tmp_path, max_steps=100_000)
    process = start("cifar10_train", *args, ignoring=(signal.SIGHUP,))
    wait_for(process, ": step 2,")
    process.send_signal(signal.SIGHUP)
    wait_for(process, ": step 7,")
    assert end(process, signal.SIGTERM)[0] == 128 + signal.SIGTERM


@pytest.mark.slow
def test_evaluation_ends_at_once_too(synthetic_dir, tmp_path):
    process = start(
        "cifar10_eval",
        *("--dataset=synthetic", f"--data_dir={synthetic_dir}"),
        *(f"--checkpoint_dir={tmp_path / 'none'}", f"--eval_dir={tmp_path / 'eval'}"),
    )
    wait_for(process, "No checkpoint file found")
    code, seconds, _, error = end(process, signal.SIGINT)
    assert (code, error) == (130, "cifar10_eval.py: ended by SIGINT") and seconds < WITHIN_SECS


def test_a_signal_ends_a_first_step_that_waits_for_its_input(tmp_path):
    """Such as the tutorial's queue, which fills for minutes: a session that waits does not return to Python."""
    with tf.Graph().as_default():
        global_step = tf.train.get_or_create_global_step()
        never = tf.FIFOQueue(1, [tf.float32], [[]]).dequeue()
        with tf.control_dependencies([never]):
            train_op = global_step.assign_add(1)
        threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        begun = time.time()
        with pytest.raises(SystemExit) as ended, run_module.Run(str(tmp_path)) as run:
            run_graph(run, train_op, never, save_summaries_steps=0)
    assert ended.value.code == 143 and time.time() - begun < 2.0 + WITHIN_SECS
    assert str(ended.value) == f"ended by SIGTERM at step 0; saved as {tmp_path}/model.ckpt-0"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.signal(signal.SIGINT, signal.default_int_handler)


STUCK = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import signals
with getattr(signals, sys.argv[2])():
    try:
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
    finally:
        print("cleaned up", flush=True)
"""


def stuck(how):
    code = [sys.executable, "-c", STUCK, os.path.dirname(signals.__file__), how]
    process = subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    started.append(process)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_what_is_stuck(second):
    process = stuck("deferred")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(second)
    assert process.wait(timeout=5) == -second


def test_before_the_first_step_a_signal_ends_what_is_under_way_and_cleans_up():
    process = stuck("raised")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=5)[0] == "cleaned up\n"
    assert process.returncode == 143


def test_a_signal_that_another_thread_gets_ends_a_long_sleep():
    started_at = time.monotonic()
    threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)).start()
    with pytest.raises(signals.Interrupted), signals.raised():
        signals.sleep(20.0)
    assert 0.2 <= time.monotonic() - started_at < WITHIN_SECS


def test_a_sleep_lasts_as_long_as_was_asked():
    started_at = time.monotonic()
    signals.sleep(0.7)  # more than is slept at a time
    assert 0.7 <= time.monotonic() - started_at < 2.0
    signals.sleep(-1.0)


def test_two_signals_at_the_same_instant_are_one():
    """Else Python writes that the second was "ignored due to race condition", which pytest's settings make an error."""
    before = [signal.getsignal(signum) for signum in signals.ENDING]
    both = {signal.SIGINT, signal.SIGTERM}
    try:
        with signals.deferred() as request:
            signal.pthread_sigmask(signal.SIG_BLOCK, both)
            for signum in both:
                signal.pthread_kill(threading.get_ident(), signum)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
            assert request.signum in both
            assert {signal.getsignal(signum) for signum in both} == {signal.SIG_DFL}  # the next one ends the process
    finally:
        for signum, handler in zip(signals.ENDING, before, strict=True):
            signal.signal(signum, handler)
