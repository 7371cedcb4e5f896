"""Workers are killed, or stopped, at random, and nothing is lost.

Three faults by default; CIFAR10_FAULTS=20 makes a campaign of it, CIFAR10_FAULTS_SEED another one.
"""

import os
import random
import signal
import time

import pytest
from helpers import arguments, assert_equal_to_the_last_bit, final, run_script
from processes import cluster_flags, metrics, starts

pytestmark = pytest.mark.slow
FAULTS = int(os.environ.get("CIFAR10_FAULTS", "3"))
SEED = int(os.environ.get("CIFAR10_FAULTS_SEED", "0"))
STEPS_A_FAULT = 30
HANG_SECS = 5


def plan():
    """Returns the faults: of each the worker, the signal, and after which step or how many seconds it comes."""
    draw = random.Random(SEED)
    faults = []
    for number in range(FAULTS):
        worker, signum = draw.randrange(2), draw.choice([signal.SIGKILL, signal.SIGSTOP])
        if number < 3:  # so that no run is without these
            worker, signum = [(1, signal.SIGKILL), (0, signal.SIGKILL), (0, signal.SIGSTOP)][number]
        step = (number + draw.uniform(0.3, 1)) * STEPS_A_FAULT
        # Some come while the workers are still beginning anew.
        secs = draw.uniform(0, 10) if number >= 3 and draw.random() < 0.3 else None
        faults.append((worker, signum, int(step), secs))
    return faults


def newest_step(train_dir):
    return metrics(train_dir)[-1]["step"]


@pytest.mark.slow
def test_killed_or_stopped_at_random_they_end_with_the_weights_of_one_process(start, synthetic_dir, tmp_path):
    """No step is trained twice but those that were lost with a chief that was killed; it saves every tenth.

    And --restart moves the run before aside once, however often all begin anew.
    """
    train_dir, one = tmp_path / "train", tmp_path / "one"
    train_dir.mkdir()
    (train_dir / "checkpoint").write_text("of another run")
    steps = (FAULTS + 1) * STEPS_A_FAULT
    # Of the fast recipe, whose momentum has to be saved, and brought to the others, too.
    values = {"max_steps": steps, "save_checkpoint_steps": 10, "save_summaries_steps": 0, "recipe": "fast"}
    run_script("cifar10_train", *arguments(synthetic_dir, one, **values, batch_size=16), check=0, timeout=600)
    of_two = {"local_workers": 2, "hang_secs": HANG_SECS, "restart": True}
    parent = start(cluster_flags(synthetic_dir, train_dir, **values, **of_two))
    parent.wait_for(": step 0,")
    chief_killed_in = set()  # lives of the chief, counted from 1
    for worker, signum, step, secs in plan():
        while secs is None and newest_step(train_dir) < step:
            assert parent.process.poll() is None, parent.text()
            time.sleep(0.02)
        time.sleep(secs or 0.0)
        while worker not in (found := parent.find_members()):
            time.sleep(0.02)
        life, then = len(starts(train_dir)), time.monotonic()
        if (worker, signum) == (0, signal.SIGKILL):
            chief_killed_in.add(life)
        os.kill(found[worker], signum)
        print(f"{signum.name} to worker {worker} after step {newest_step(train_dir)}", end="", flush=True)
        if secs is None:
            while len(starts(train_dir)) == life:
                assert parent.process.poll() is None, parent.text()
                time.sleep(0.02)
            lines = len(metrics(train_dir))
            while len(metrics(train_dir)) == lines:
                time.sleep(0.02)
            print(f": to the next step {time.monotonic() - then:.1f} s", end="")
        print()
    parent.end(secs=300)

    expected = final(one)
    assert expected["global_step"] == steps
    assert_equal_to_the_last_bit(final(train_dir), expected)
    (aside,) = tmp_path.glob("train.*")
    assert (aside / "checkpoint").read_text() == "of another run"
    may_be_trained_again = {starts(train_dir)[life] for life in chief_killed_in if life < len(starts(train_dir))}
    following = 0
    for line in metrics(train_dir):
        assert line["step"] == following or line["step"] in may_be_trained_again, f"step {line['step']}"
        following = line["step"] + 1
    assert following == steps
    assert len(starts(train_dir)) > (FAULTS + 1) / 2  # the faults did come, some of them at once


def test_a_killed_chief_costs_orthogonalized_half_precision_no_bit(start, synthetic_dir, tmp_path):
    """Against workers that were left alone: in half precision they round otherwise than one process does."""
    flags = {"max_steps": 8, "recipe": "muon", "use_fp16": True, "save_checkpoint_steps": 3, "local_workers": 2}
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    parent = start(cluster_flags(synthetic_dir, killed, **flags))
    parent.wait_for(": step 4,")
    os.kill(parent.find_members()[0], signal.SIGKILL)
    parent.end()
    start(cluster_flags(synthetic_dir, alone, **flags)).end()
    assert starts(killed)[1:] and starts(alone) == [0]
    expected = final(alone)
    assert expected["global_step"] == 8
    assert_equal_to_the_last_bit(final(killed), expected)
