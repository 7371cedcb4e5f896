"""Whole trainings across machines, with real processes on 127.0.0.1."""

import contextlib
import os
import re
import signal
import socket
import threading
import time

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import arguments, assert_equal_to_the_last_bit, assert_product_of_speeds, final, run_script
from processes import alive, cluster_flags, free_addresses, metrics, starts

pytestmark = pytest.mark.slow
STEPS = 25
MEDIUM = {"batch_size": 32, "microbatch_size": 16, "max_steps": STEPS, "save_summaries_steps": 10}


@pytest.fixture(scope="module")
def one(synthetic_dir, tmp_path_factory):
    """The train_dir of one process with batches of 64, and what it printed."""
    train_dir = tmp_path_factory.mktemp("one") / "train"
    flags = arguments(synthetic_dir, train_dir, **{**MEDIUM, "batch_size": 64})
    return train_dir, run_script("cifar10_train", *flags, check=0).stdout


@pytest.fixture(scope="module")
def two(synthetic_dir, tmp_path_factory):
    """The train_dir of two workers with 32 each, and what they printed."""
    train_dir = tmp_path_factory.mktemp("two") / "train"
    flags = cluster_flags(synthetic_dir, train_dir, **MEDIUM, local_workers=2)
    return train_dir, run_script("cifar10_distributed_train", *flags, check=0).stdout


def losses(train_dir):
    return [line["loss"] for line in metrics(train_dir)]


def test_two_workers_train_as_one_process_does_to_the_last_bit(one, two):
    """2 workers x 32 and 1 x 64, left to themselves for 25 steps; the checkpoint has the tutorial's tensors only."""
    np.testing.assert_allclose(losses(two[0]), losses(one[0]), rtol=1e-6)  # a mean of means may round
    assert np.mean(losses(two[0])[-5:]) < np.mean(losses(two[0])[:5])  # it does learn, so that equality means something
    expected = final(one[0])
    assert expected["global_step"] == STEPS
    assert_equal_to_the_last_bit(final(two[0]), expected)


def test_the_chief_prints_the_tutorials_line_for_all_workers(two):
    lines = [re.match(published.CONSOLE_LINE, line) for line in two[1].splitlines()]
    assert [int(line[1]) for line in lines] == list(range(STEPS))
    for line in lines:  # examples/sec is 2 * 32 / duration, and sec/batch is duration / 2
        assert_product_of_speeds(line, 32)


OF_THE_CONSOLE_AND_THE_CLOCK = ("console/", "global_step/sec", "input/wait_ms")


def events(train_dir):
    """Returns {(step, tag): value} of scalars and histograms' sums, and the tags of images."""
    values, images = {}, set()
    for path in train_dir.glob("events.out.tfevents.*"):
        for event in tf.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.HasField("image"):
                    images.add(value.tag)
                elif not value.tag.startswith(OF_THE_CONSOLE_AND_THE_CLOCK):
                    values[event.step, value.tag] = value.simple_value or value.histo.sum
    return values, images


def test_the_chief_writes_the_tags_and_values_of_one_process(one, two):
    """Activations are of its own slice, all else is of all."""
    expected, expected_images = events(one[0])
    values, images = events(two[0])
    assert values.keys() == expected.keys() and images == expected_images
    assert {step for step, _ in values} == {0, 10, 20}
    for (step, tag), value in values.items():
        if not re.search("activations|sparsity", tag):
            np.testing.assert_allclose(value, expected[step, tag], rtol=2e-4, atol=1e-5, err_msg=f"{tag}, step {step}")


@pytest.mark.slow
def test_who_is_missing_or_hangs_is_said_and_who_differs_refused_and_all_end_with_the_training(
    start, synthetic_dir, tmp_path
):
    """As TFJob starts them: a chief, a worker and an evaluator. They begin anew by themselves.

    But TensorFlow 2.21 may crash in a process that was stopped while a collective ran out of time. Then the test does
    what restartPolicy: OnFailure would do.
    """
    chief_address, address = free_addresses(2)
    config = {"cluster": {"chief": [chief_address], "worker": [address]}}
    values = {"max_steps": 150, "eval_interval_secs": 0, "hang_secs": 12}
    flags = cluster_flags(synthetic_dir, tmp_path / "train", **values)

    def member(job, *more):
        return start([*flags, *more], {**config, "task": {"type": job, "index": "0"}})

    chief, evaluator = member("chief"), member("evaluator")
    chief.wait_for(rf"(?m)^chief: waiting for worker 0 \({address}\) since 1?\d s$", 60)
    other = member("worker", "--lrn=op")
    other.end(1)
    assert "worker 0: was started with --lrn=op, the chief with --lrn=auto; start all with the same" in other.text()
    assert "Traceback" not in other.text()
    worker = member("worker")
    chief.wait_for(": step 10,")

    stopped, seen = time.time(), len(chief.text())
    os.kill(worker.pid, signal.SIGSTOP)
    chief.wait_for(rf"(?m)^chief: waiting for worker 0 \({address}\) since \d s$", 15, seen)
    assert time.time() - stopped < 10.5  # within 10 s, and what it takes to read that
    chief.wait_for(r"(?m)^step \d+: lost another process; saving$", 15, seen)
    assert 12 < time.time() - stopped < 12 + 5
    chief.wait_for(r"(?m)^chief: saved as .*ckpt-\d+; beginning anew \(no answer from: worker 0 ", 30, seen)
    os.kill(worker.pid, signal.SIGCONT)  # it finds that it was given up, and begins anew as well
    while chief.process.poll() is None and worker.process.poll() in (None, 0):
        time.sleep(0.1)
    if worker.process.poll() == -signal.SIGSEGV:
        worker = member("worker")
    for each in (chief, worker, evaluator):
        each.end()
    assert re.search(r"precision @ 1 = 0\.\d{3}", evaluator.text())
    steps = [line["step"] for line in metrics(tmp_path / "train")]
    assert steps == list(range(150)) and len(starts(tmp_path / "train")) == 2


class Relay:
    """Hands connections on to an address, until it is cut: then it hands nothing on, and closes nothing."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self._to = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.whole = threading.Event()
        self.whole.set()
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # which ends the threads that wait for it
            each.close()

    def _serve(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._sockets.append(near)
            far = socket.socket()
            self._sockets.append(far)
            if self.whole.is_set():
                with contextlib.suppress(OSError):
                    far.connect(self._to)
                    threading.Thread(target=self._hand_on, args=[near, far], daemon=True).start()
                    threading.Thread(target=self._hand_on, args=[far, near], daemon=True).start()
                    continue
                near.close()  # nobody is there

    def _hand_on(self, source, destination):
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                self.whole.wait()
                destination.sendall(data)
            destination.shutdown(socket.SHUT_WR)


@pytest.mark.slow
def test_a_connection_that_is_cut_is_noticed_and_mended(start, synthetic_dir, tmp_path):
    """Neither side is told: what the one sends does not arrive at the other."""
    chief_address, address = free_addresses(2)
    flags = cluster_flags(synthetic_dir, tmp_path / "train", max_steps=100, hang_secs=4)
    with Relay(chief_address) as to_chief, Relay(address) as to_worker:
        views = [
            [chief_address, to_worker.address],
            [to_chief.address, address],
        ]  # each has its own address, and a relay
        members = [
            start(flags, {"cluster": {"worker": view}, "task": {"type": "worker", "index": i}})
            for i, view in enumerate(views)
        ]
        members[0].wait_for(": step 20,")
        to_chief.whole.clear()
        to_worker.whole.clear()
        for each in members:
            each.wait_for("lost another process", 15)
        to_chief.whole.set()
        to_worker.whole.set()
        for each in members:
            each.end()
    assert [line["step"] for line in metrics(tmp_path / "train")] == list(range(100))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_when_the_first_is_ended(start, synthetic_dir, tmp_path, signum):
    values = {"local_workers": 2, "max_steps": 100_000}
    parent = start(cluster_flags(synthetic_dir, tmp_path / "train", **values))
    parent.wait_for(": step 3,")
    members = parent.find_members()
    assert members.keys() == {0, 1}
    parent.process.send_signal(signum)
    parent.end(-signum if signum == signal.SIGKILL else 128 + signum)
    deadline = time.time() + 20
    while any(map(alive, members.values())):
        assert time.time() < deadline
        time.sleep(0.1)
    # The chief has saved what it had done.
    assert final(tmp_path / "train")["global_step"] == metrics(tmp_path / "train")[-1]["step"] + 1


@pytest.mark.slow
def test_there_is_an_end_to_waiting(start, synthetic_dir, tmp_path):
    gone, here = free_addresses(2)
    config = {"cluster": {"worker": [gone, here]}, "task": {"type": "worker", "index": 1}}
    worker = start(cluster_flags(synthetic_dir, tmp_path / "train", max_wait_secs=1), config)
    worker.end(1)
    assert re.search(
        rf"\ncifar10_distributed_train.py: worker 1: waited 1 s for worker 0 \({gone}\); see", worker.text()
    )
    assert "Traceback" not in worker.text()
