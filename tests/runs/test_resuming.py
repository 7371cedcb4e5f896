"""A run that was interrupted ends as one that was not, to the last bit, whatever it is trained with."""

import os
import shutil
import signal

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import assert_equal_to_the_last_bit, final, recorded_losses, run_script, save_network, train

from cifar10 import settings
from cifar10.machine import devices, signals
from cifar10.network import loss_scaling
from cifar10.runs import checkpoints, history, hooks
from cifar10.runs import run as run_module
from cifar10.runs.journal import Journal

MOMENTUM = {f"{name}/Momentum": shape for name, shape in published.VARIABLES.items()}
LOSS_SCALE = {"loss_scale": [], "loss_scale_good_steps": []}


@pytest.fixture
def interrupt_at(monkeypatch):
    """A function of a step, at whose end the process gets SIGTERM; each time training comes to it first."""
    steps = set()
    after_step = hooks.ConsoleHook.after_step

    def spy(self, step, results):
        if step in steps:
            steps.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self, step, results)

    monkeypatch.setattr(hooks.ConsoleHook, "after_step", spy)
    return steps.add


def companion(train_dir):
    """Returns {name: value} of what is saved beside the newest checkpoint."""
    reader = tf.train.load_checkpoint(checkpoints.companion(checkpoints.paths(str(train_dir))[-1]))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.fixture
def copy_at(monkeypatch):
    """A function (step, train_dir, copy) that takes a copy of a run's folder when it has saved so many steps."""
    plans = {}
    save = hooks.SaveHook._save

    def spy(self, steps_done, *args):
        save(self, steps_done, *args)
        if steps_done in plans:
            shutil.copytree(*plans.pop(steps_done))

    monkeypatch.setattr(hooks.SaveHook, "_save", spy)
    return lambda step, train_dir, copy: plans.update({step: (train_dir, copy)})


TOWERS = {"script": "cifar10_multi_gpu_train", "num_gpus": 2, "batch_size": 8}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "dtype", "form", "state"),
    [
        ("fast", "float32", {}, MOMENTUM),
        ("fast", "float32", TOWERS, MOMENTUM),
        ("muon", "float32", TOWERS, MOMENTUM),
        ("muon", "bfloat16", {}, MOMENTUM),
        ("muon", "float16", {}, MOMENTUM | LOSS_SCALE),
        ("fast", "bfloat16", {}, MOMENTUM),
        ("fast", "bfloat16", TOWERS, MOMENTUM),
        ("fast", "float16", {}, MOMENTUM | LOSS_SCALE),
        ("fast", "float16", TOWERS, MOMENTUM | LOSS_SCALE),
        ("tutorial", "float16", {}, LOSS_SCALE),
        ("tutorial", "float16", TOWERS, LOSS_SCALE),
        ("tutorial", "bfloat16", {}, None),
        ("tutorial", "float32", TOWERS, None),
    ],
)
def test_an_interrupted_run_ends_as_one_that_was_not(
    synthetic_dir, tmp_path, monkeypatch, copy_at, capsys, recipe, dtype, form, state
):
    """From what a process leaves that is killed after five steps; the loss scale grows every third."""
    monkeypatch.setattr(devices, "compute_type", lambda use_fp16: dtype)
    scale = loss_scaling.LossScale
    monkeypatch.setattr(loss_scaling, "of_type", lambda dtype: scale(growth_steps=3) if dtype == "float16" else None)
    flags = {"recipe": recipe, "max_steps": 9, "save_checkpoint_steps": 5, "save_summaries_steps": 0, **form}
    copy_at(5, tmp_path / "expected", tmp_path / "found")
    train(synthetic_dir, tmp_path / "expected", **flags)
    assert [checkpoints.step(path) for path in checkpoints.paths(str(tmp_path / "found"))] == [0, 5]
    train(synthetic_dir, tmp_path / "found", **flags)
    assert "begins anew" not in capsys.readouterr().out
    found, expected = final(tmp_path / "found"), final(tmp_path / "expected")
    assert expected["global_step"] == 9
    assert_equal_to_the_last_bit(found, expected)
    assert recorded_losses(tmp_path / "found") == recorded_losses(tmp_path / "expected")
    if state is None:
        assert not list((tmp_path / "found").glob(f"{checkpoints.COMPANION}*"))
        return
    found, expected = companion(tmp_path / "found"), companion(tmp_path / "expected")
    assert expected.pop("global_step") == found.pop("global_step") == 9
    assert {name: list(value.shape) for name, value in expected.items()} == state
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    if "loss_scale" in expected:
        assert expected["loss_scale"] == 2.0**15 * 2.0**3


@pytest.mark.slow
def test_missing_momentum_is_said_and_begins_anew(synthetic_dir, tmp_path, interrupt_at, capsys):
    """Of a run that a signal has ended; without damage it goes on with it."""
    interrupt_at(2)
    with pytest.raises(signals.Interrupted):
        train(synthetic_dir, tmp_path / "ended", recipe="fast", max_steps=5)
    for damage in ("none", "removed", "cut", "another step's"):
        train_dir = tmp_path / damage
        shutil.copytree(tmp_path / "ended", train_dir)
        for file in train_dir.glob(f"{checkpoints.COMPANION}-3.*"):
            if damage == "removed":
                file.unlink()
            elif damage == "cut":
                file.write_bytes(file.read_bytes()[:100])
            elif damage == "another step's":
                shutil.copy(train_dir / file.name.replace("-3.", "-0."), file)
        capsys.readouterr()
        train(synthetic_dir, train_dir, recipe="fast", max_steps=5)
        said = [line for line in capsys.readouterr().out.splitlines() if "begins anew" in line]
        expected = (
            f"{train_dir}/model.ckpt-3: has no momentum of its step beside it that can be read, which now begins anew; "
            "the run will not end as one that was never interrupted"
        )
        assert said == ([] if damage == "none" else [expected])


@pytest.mark.slow
def test_a_companion_comes_and_goes_with_its_checkpoint(synthetic_dir, tmp_path):
    train(synthetic_dir, tmp_path, recipe="fast", max_steps=6, save_checkpoint_steps=2, keep_checkpoints=2)
    steps = [checkpoints.step(path) for path in checkpoints.paths(str(tmp_path))]
    assert steps == [4, 6]
    for step in steps:
        reader = tf.train.load_checkpoint(str(tmp_path / f"model.ckpt-{step}"))
        assert reader.get_variable_to_shape_map() == published.CHECKPOINT
    files = {path.name for path in tmp_path.glob(f"{checkpoints.COMPANION}*")}
    endings = ("index", "data-00000-of-00001")
    assert files == {f"{checkpoints.COMPANION}-{step}.{ending}" for step in steps for ending in endings}
    for ending in endings:  # what is left where a process is killed before the checkpoint itself is there
        (tmp_path / f"{checkpoints.COMPANION}-5.{ending}").write_bytes(b"debris")
    checkpoints.settle(str(tmp_path), str(tmp_path / "model.ckpt-6"))
    assert files == {path.name for path in tmp_path.glob(f"{checkpoints.COMPANION}*")}


@pytest.mark.slow
def test_what_a_run_goes_on_with_otherwise_is_said_and_on_record(synthetic_dir, tmp_path, capsys):
    train(synthetic_dir, tmp_path, max_steps=2)
    capsys.readouterr()
    train(synthetic_dir, tmp_path, max_steps=2)
    assert "goes on" not in capsys.readouterr().out
    train(synthetic_dir, tmp_path, max_steps=4, batch_size=8, recipe="fast", seed=7)
    assert capsys.readouterr().out.splitlines()[0] == (
        f"{tmp_path}: goes on from step 2 with images a step 8 (before: 16), recipe fast (before: tutorial), "
        "last step 4 (before: 2), seed 7 (before: 0); learning rate: from 0.006 to 0.03 in 20% of the steps, then to 0"
    )
    start = Journal(str(tmp_path / history.RECORD)).last(event="start")
    assert (start["batch_size"], start["recipe"], start["max_steps"], start["seed"]) == (8, "fast", 4, 7)


# {name on record: (what a line calls it, before, now)}
SAID = {
    "batch_size": ("images a step", 16, 8),
    "recipe": ("recipe", "tutorial", "fast"),
    "hyper_parameters": ("hyper-parameters", "the recipe's", "momentum 0.5"),
    "max_steps": ("last step", 9, 12),
    "seed": ("seed", 0, 7),
    "lrn": ("--lrn", "op", "matmul"),
    "conv": ("--conv", "op", "winograd"),
    "use_fp16": ("--use_fp16", False, True),
}


@pytest.mark.parametrize("name", SAID)
def test_each_difference_to_the_run_before_is_said(tmp_path, capsys, name):
    save_network(tmp_path, [5])
    start = {each: before for each, (_, before, _) in SAID.items()} | {"learning_rate": "0.1"}
    what, before, now = SAID[name]
    for description in (start, start, {**start, name: now}):
        capsys.readouterr()
        with run_module.Run(str(tmp_path), description=description):
            pass
    assert capsys.readouterr().out == (
        f"{tmp_path}: goes on from step 5 with {what} {now} (before: {before}); learning rate: 0.1\n"
    )


DEFAULTS = {
    "dataset": "cifar10",
    "model": "tutorial",
    "image_size": 24,
    "recipe": "tutorial",
    "num_held_out": 0,
    "max_steps": None,
    "seed": 0,
    "lrn": "auto",
    "conv": "auto",
    "use_fp16": False,
    "batch_size": 128,
}
ON_RECORD = ("synthetic", "cuda_convnet", 32, "fast", 20, 50, 7, "op", "op", True, 24)
RECORDED = dict(zip(DEFAULTS, ON_RECORD, strict=True))


def test_what_is_on_record_is_the_default_of_a_run_that_is_continued(tmp_path):
    def continued(*given, **values):
        values = {**DEFAULTS, "train_dir": str(tmp_path), "restart": False, "log_frequency": 10, **values}
        return settings.continued(values, set(given))

    others = {"train_dir": str(tmp_path), "restart": False, "log_frequency": 10}
    assert continued() == {**DEFAULTS, **others}  # there is no run yet
    Journal(str(tmp_path / history.RECORD)).append({"event": "start", **RECORDED})
    assert continued() == {**RECORDED, **others}
    assert continued(restart=True) == {**DEFAULTS, **others, "restart": True}
    for name, value in DEFAULTS.items():  # a flag that is given counts, also if it is the flag's default
        if name != "recipe":
            assert continued(name) == {**RECORDED, **others, name: value}, name
    assert continued("recipe") == {**RECORDED, **others, "recipe": "tutorial", "max_steps": None}
    assert continued(num_gpus=2)["batch_size"] == 12  # of each tower
    assert continued(local_workers=3)["batch_size"] == 8
    assert continued(local_workers=0)["recipe"] == "tutorial"  # of several machines, which must agree
    assert continued(num_gpus=5)["batch_size"] == 128  # which divides no batch of 24


def test_hyper_parameters_on_record_are_the_defaults_of_a_run_that_is_continued(tmp_path):
    def continued(*given, **values):
        values = {**DEFAULTS, **dict.fromkeys(hyper_parameters), "train_dir": str(tmp_path), "restart": False, **values}
        return {name: value for name, value in settings.continued(values, set(given)).items() if value is not None}

    hyper_parameters = {"learning_rate": 0.25, "num_epochs": 3.0, "jitter": False, "freeze": "conv2"}
    values = {
        **DEFAULTS,
        "data_dir": "",
        "train_dir": "",
        "microbatch_size": None,
        **hyper_parameters,
        "dataset": "synthetic",
    }
    changed = settings.training({name: value for name, value in values.items() if name != "batch_size"}).recipe
    start = {"event": "start", **RECORDED, "recipe": "tutorial", "changed": dict(changed.changed_values)}
    Journal(str(tmp_path / history.RECORD)).append(start)
    found = continued()
    assert hyper_parameters.items() <= found.items() and "max_steps" not in found
    assert continued("freeze", "jitter", freeze="conv1", jitter=True) == {**found, "freeze": "conv1", "jitter": True}
    assert continued("num_epochs", num_epochs=5.0) == {**found, "num_epochs": 5.0}
    found.pop("num_epochs")  # of which --max_steps says the same
    assert continued("max_steps", max_steps=9) == {**found, "max_steps": 9}
    assert not hyper_parameters.keys() & continued("recipe", recipe="fast").keys()  # another recipe, without changes


@pytest.mark.slow
def test_a_run_that_is_continued_without_flags_ends_as_one_that_was_not_interrupted(synthetic_dir, tmp_path):
    """By its command line, which tells a flag that was given from one that was not."""
    flags = [f"--data_dir={synthetic_dir}", f"--train_dir={tmp_path / 'found'}"]
    chosen = ["--dataset=synthetic", "--batch_size=8", "--seed=5", "--lrn=op", "--num_held_out=9", "--log_frequency=1"]
    run_script("cifar10_train", *flags, *chosen, "--max_steps=2", check=0)
    process = run_script("cifar10_train", *flags, "--max_steps=4", "--log_frequency=1", check=0)
    assert process.stdout.splitlines()[0].startswith(
        f"{tmp_path / 'found'}: goes on from step 2 with last step 4 (before: 2)"
    )
    # By its command line, too: in this process, an earlier session has said how many threads an op has.
    expected = [f"--data_dir={synthetic_dir}", f"--train_dir={tmp_path / 'expected'}", *chosen, "--max_steps=4"]
    run_script("cifar10_train", *expected, check=0)
    assert_equal_to_the_last_bit(final(tmp_path / "found"), final(tmp_path / "expected"))
    process = run_script("cifar10_train", *flags, check=0)
    assert process.stdout.startswith(f"{tmp_path / 'found'}: already at step 4 of 4; ")
