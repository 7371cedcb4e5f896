"""Disks that are full, read-only or taken away."""

import contextlib
import os
import re
import shutil
import subprocess
import time
import types

import pytest
import tensorflow.compat.v1 as tf
from helpers import train

from cifar10.errors import RunError
from cifar10.runs import checkpoints, history, hooks
from cifar10.runs import run as run_module
from cifar10.runs.events import EventFile


@pytest.fixture
def mount(tmp_path):
    """A function that mounts a small file system of its own; needs the right to do so."""
    mounted = []

    def mount(options):
        path = tmp_path / "disk"
        path.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount a file system of its own: {done.stderr.strip()}")
        mounted.append(path)
        return path

    if not shutil.which("mount"):
        pytest.skip("there is no mount command")
    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(path):
    """Fills a file system, and returns the file that takes the room."""
    ballast = path / "ballast"
    with open(ballast, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"\0" * 4096)
    return ballast


@pytest.mark.slow
def test_a_full_disk_costs_no_older_checkpoint_and_no_run_when_space_returns(synthetic_dir, mount, capsys, monkeypatch):
    disk = mount("size=64m")
    train_dir = disk / "train"
    train(synthetic_dir, train_dir, max_steps=3)
    before = {path.name: path.read_bytes() for path in train_dir.glob("model.ckpt-*")}
    ballast = fill(disk)
    os.truncate(ballast, ballast.stat().st_size - 3 * 2**20)  # room for the start, not for a checkpoint
    capsys.readouterr()

    def free(seconds):
        """In place of the pause after the attempt to save the last step."""
        now = {path.name: path.read_bytes() for path in train_dir.glob("model.ckpt-*")}
        assert before.items() <= now.items()
        ballast.unlink(missing_ok=True)

    monkeypatch.setattr(hooks, "PAUSE_SECS", 0.01)
    monkeypatch.setattr(hooks, "time", types.SimpleNamespace(monotonic=time.monotonic, sleep=free))
    train(synthetic_dir, train_dir, max_steps=6, save_checkpoint_steps=1, save_summaries_steps=1)
    assert checkpoints.step(checkpoints.newest_readable(str(train_dir))) == 6
    out = capsys.readouterr().out
    for step, what in ((4, "training goes on, and"), (5, "training goes on, and"), (6, "trying again every 0.01 s")):
        assert re.search(rf"^{train_dir}: step {step} cannot be saved \(.*\); {what}", out, re.MULTILINE), step
    assert ": step 5," in out
    assert not (train_dir / checkpoints.SAVING).exists()


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_with_the_newest_checkpoint_and_code_1(synthetic_dir, mount, capsys, monkeypatch):
    monkeypatch.setattr(hooks, "PAUSE_SECS", 0.05)
    disk = mount("size=64m")
    train_dir = disk / "train"
    train(synthetic_dir, train_dir, max_steps=2)
    ballast = fill(disk)
    os.truncate(ballast, ballast.stat().st_size - 3 * 2**20)
    with pytest.raises(RunError) as error:
        train(synthetic_dir, train_dir, max_steps=3)
    assert str(error.value).startswith(f"{train_dir}: step 3 cannot be saved (")
    assert str(error.value).endswith(f"start again, which continues from {train_dir}/model.ckpt-2")
    assert capsys.readouterr().out.count("trying again every 0.05 s") == hooks.MAX_FAILED_SAVES - 1
    assert checkpoints.fault(str(train_dir / "model.ckpt-2")) is None


def test_a_full_disk_silences_metrics_and_summaries_once_and_leaves_no_half_line(mount, capsys):
    disk = mount("size=1m")
    run = run_module.Run(str(disk / "train"))
    run.log_metrics({"step": 1})
    ballast = fill(disk)
    for step in range(2, 300):
        run.log_metrics({"step": step})
    assert (disk / "train" / history.METRICS).read_bytes().endswith(b"}\n")
    ballast.unlink()
    run.log_metrics({"step": 300})
    out = capsys.readouterr().out
    assert out.count("metrics.jsonl: cannot be written (No space left on device); going on without it") == 1
    lines = (disk / "train" / history.METRICS).read_text().splitlines()
    assert lines[-1].endswith('"step": 300}') and all(line.startswith("{") and line.endswith("}") for line in lines)


def test_summaries_that_cannot_be_written_are_reported_once_and_come_again(mount, capsys):
    disk = mount("size=1m")
    summary = tf.Summary(value=[tf.Summary.Value(tag="x", simple_value=1.0)]).SerializeToString()
    with EventFile(str(disk / "events")) as event_file:
        event_file.add_summary(summary, 0)
        ballast = fill(disk)
        for step in range(1, 300):
            event_file.add_summary(summary, step)
        ballast.unlink()
        event_file.add_summary(summary, 300)
    assert capsys.readouterr().out.count("summaries cannot be written (") == 1
    steps = set()
    for name in os.listdir(disk / "events"):
        with contextlib.suppress(tf.errors.DataLossError):  # a record that the full disk cut short
            steps |= {event.step for event in tf.train.summary_iterator(str(disk / "events" / name))}
    assert {0, 300} <= steps


def test_a_read_only_train_dir_is_refused_before_the_data_is_looked_at(mount, tmp_path):
    disk = mount("size=1m,ro")
    with pytest.raises(RunError) as error:
        train(tmp_path / "no data", disk / "train", max_steps=1)
    assert str(error.value) == f"{disk}: cannot be written; choose another --train_dir"
    assert not (tmp_path / "no data").exists()


@pytest.mark.slow
def test_a_train_dir_that_is_deleted_comes_back_with_the_next_checkpoint(synthetic_dir, tmp_path, monkeypatch, capsys):
    """With its lock and its record, without which its classes would be CIFAR-10's."""
    train_dir = tmp_path / "train"
    save = hooks.SaveHook._save

    def spy(self, steps_done, *args):
        save(self, steps_done, *args)
        if steps_done == 4:
            shutil.rmtree(train_dir)
        elif steps_done == 6:
            with pytest.raises(RunError, match="is training in it; wait for its end"):
                run_module.Run(str(train_dir))

    monkeypatch.setattr(hooks.SaveHook, "_save", spy)
    train(synthetic_dir, train_dir, max_steps=7, save_checkpoint_steps=2)
    assert [checkpoints.step(path) for path in checkpoints.paths(str(train_dir))] == [6, 7]
    said = f"{train_dir}/runs.jsonl: was moved or deleted; begun anew, for what is saved from here on\n"
    assert capsys.readouterr().out.count(said) == 1
    assert history.recorded(str(train_dir), "dataset") == "synthetic"
