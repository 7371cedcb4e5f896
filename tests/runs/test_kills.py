"""Training that is killed again and again, at any moment, while it saves after every step.

CIFAR10_KILLS=40 makes it the campaign; without it there are a few kills only.
"""

import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from forkserver import Program
from helpers import SCRIPTS, arguments, run_script

from cifar10.runs import checkpoints

KILLS = int(os.environ.get("CIFAR10_KILLS", "3"))


def train_and_kill(args, delay):
    """Starts training, kills it some time after its first line; returns the last step that it printed."""
    with Program([SCRIPTS / "cifar10_train.py", *args], stdout=subprocess.PIPE) as process:
        first = next(line for line in process.stdout if ": step " in line)
        time.sleep(delay)
        process.kill()
        out = process.stdout.read()
        assert process.wait(10) == -signal.SIGKILL
    last = [line for line in [first, *out.splitlines()] if ": step " in line and "loss" in line][-1]
    return int(last.split(": step ")[1].split(",")[0])


def values(path):
    reader = tf.train.load_checkpoint(path)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_run_killed_at_any_moment_continues_and_ends_as_one_that_was_not(synthetic_dir, tmp_path):
    killed = tmp_path / "killed"
    flags = {"save_checkpoint_steps": 1, "save_summaries_steps": 5}
    rng = random.Random(0)
    saved = 0
    for kill in range(KILLS):
        printed = train_and_kill(arguments(synthetic_dir, killed, max_steps=1_000_000, **flags), rng.uniform(0, 0.7))
        newest = checkpoints.newest_readable(str(killed))
        assert newest is not None, f"kill {kill}: nothing can be read"
        assert newest == checkpoints.paths(str(killed))[-1], f"kill {kill}: the newest cannot be read"
        before, saved = saved, checkpoints.step(newest)
        assert saved >= max(before, printed), f"kill {kill}: step {printed} was printed, {saved} saved"
        state = tf.train.get_checkpoint_state(str(killed))
        assert checkpoints.fault(state.model_checkpoint_path) is None
    steps = saved + 3
    run_script("cifar10_train", *arguments(synthetic_dir, killed, max_steps=steps, **flags), check=0)
    run_script("cifar10_train", *arguments(synthetic_dir, tmp_path / "whole", max_steps=steps), check=0)
    expected = values(str(tmp_path / "whole" / f"model.ckpt-{steps}"))
    found = values(str(killed / f"model.ckpt-{steps}"))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    left = {path.name.split("-")[0] for path in killed.iterdir()}
    assert left - {path.name for path in killed.glob("events.out.*")} == {
        *("checkpoint", "graph.pbtxt", "metrics.jsonl", "model.ckpt", "runs.jsonl", "trainer.lock")
    }
    print(f"{KILLS} kills, {steps} steps")
