"""Checkpoints of the first tutorials and of forks: evaluated, predicted from, exported and continued."""

import os
import re

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import evaluate, final, network, train

from cifar10 import exporting, serving
from cifar10.data import datasets, records
from cifar10.errors import RunError
from cifar10.runs import checkpoints

NUM_IMAGES = 20
STEP = 2  # of the run that old checkpoints are made of


def read(path):
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def write(path, values, version=tf.train.SaverDef.V2):
    """Writes a checkpoint of {name: array} as a plain tf.train.Saver does."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with tf.Graph().as_default(), tf.Session() as session:
        variables = {name: tf.Variable(value, use_resource=False) for name, value in values.items()}
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(variables, write_version=version)
        saver.save(session, str(path), write_meta_graph=False, write_state=False)
    return path


def is_average(name):
    return name.endswith("/ExponentialMovingAverage")


def is_loss_average(name):
    return name.endswith("/avg")


def without(values, *which):
    return {name: value for name, value in values.items() if not any(left_out(name) for left_out in which)}


def called_variable(values):
    """The step as the tutorial of 2015 had it: a tf.Variable(0) without a name."""
    return {**without(values, lambda name: name == "global_step"), "Variable": np.int32(values["global_step"])}


def as_float(values):
    """The step as the tutorial's multi-GPU script had it."""
    return {**values, "global_step": np.float32(values["global_step"])}


# {kind of old checkpoint: (its name, its version, what it holds of a checkpoint's {name: value})}
OLD = {
    "one file": (f"model.ckpt-{STEP}", tf.train.SaverDef.V1, dict),
    "one file, no step in its name": ("model.ckpt", tf.train.SaverDef.V1, dict),
    "no step in its name": ("model.ckpt", tf.train.SaverDef.V2, dict),
    "another name": (f"cifar-net-{STEP}", tf.train.SaverDef.V2, dict),
    "the first tutorial's": ("model.ckpt-2", tf.train.SaverDef.V1, called_variable),
    "a float as step": (f"model.ckpt-{STEP}", tf.train.SaverDef.V2, as_float),
    "half precision": (
        f"model.ckpt-{STEP}",
        tf.train.SaverDef.V2,
        lambda values: {
            name: value.astype(np.float16) if value.dtype == np.float32 and value.ndim else value
            for name, value in values.items()
        },
    ),
    "no averages of losses": (f"model.ckpt-{STEP}", tf.train.SaverDef.V2, lambda v: without(v, is_loss_average)),
    "no moving averages": (f"model.ckpt-{STEP}", tf.train.SaverDef.V2, lambda v: without(v, is_average)),
    "nothing but variables and step": (
        "model.ckpt",
        tf.train.SaverDef.V2,
        lambda values: without(values, is_average, is_loss_average),
    ),
}
each_kind = pytest.mark.parametrize("kind", OLD)


@pytest.fixture(scope="module")
def run(synthetic_dir, tmp_path_factory):
    """The train_dir of a run of three steps, whose checkpoints are all there."""
    train_dir = tmp_path_factory.mktemp("run")
    train(synthetic_dir, train_dir, max_steps=STEP + 1, save_checkpoint_steps=1)
    return train_dir


def write_old(kind, run, directory):
    """Writes an old checkpoint of the run's step STEP; returns (its path, its values)."""
    name, version, change = OLD[kind]
    values = change(read(run / f"model.ckpt-{STEP}"))
    return write(directory / name, values, version), values


@pytest.fixture(scope="module")
def images(synthetic_dir):
    """The first test images as evaluation sees them, their labels, and their bytes."""
    examples = records.load(datasets.SYNTHETIC, synthetic_dir, "test").part(0, NUM_IMAGES)
    crops = examples.images[:, 4:28, 4:28].astype(np.float64)
    axes = (1, 2, 3)
    crops = (crops - crops.mean(axes, keepdims=True)) / crops.std(axes, keepdims=True)
    return crops, examples.labels, examples.images


def logits_of(values, images):
    """The network in NumPy, of the moving averages where they are there."""
    suffix = "/ExponentialMovingAverage" if any(map(is_average, values)) else ""
    return network(images, {name: values[f"{name}{suffix}"].astype(np.float64) for name in published.VARIABLES})


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.slow
@each_kind
def test_an_old_checkpoint_is_evaluated(kind, run, images, synthetic_dir, tmp_path, capsys):
    path, values = write_old(kind, run, tmp_path / "train")
    expected = logits_of(values, images[0]).argmax(axis=1) == images[1]
    (result,) = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval", num_examples=NUM_IMAGES)
    assert (result.step, result.correct) == (STEP, expected.sum())
    said = f"{path}: moving averages that are not there: 10, for which the variables are taken\n"
    assert (said in capsys.readouterr().out) == (not any(map(is_average, values)))


@pytest.mark.slow
@each_kind
def test_an_old_checkpoint_is_predicted_from(kind, run, images, tmp_path):
    path, values = write_old(kind, run, tmp_path)
    assert serving.find_checkpoint(str(path), None) == serving.find_checkpoint(None, str(tmp_path)) == str(path)
    trained = serving.TrainedNetwork(str(path), tuple("0123456789"))
    with tf.Graph().as_default(), tf.Session() as session:
        probabilities = trained.probabilities(tf.constant(images[2][:3]))
        trained.restore(session)
        np.testing.assert_allclose(session.run(probabilities), softmax(logits_of(values, images[0][:3])), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one file", "no moving averages"])
def test_an_old_checkpoint_is_exported(kind, run, images, tmp_path):
    path, values = write_old(kind, run, tmp_path)
    expected = softmax(logits_of(values, images[0]))
    exporting.export(serving.TrainedNetwork(str(path), tuple("0123456789")), str(tmp_path / "export"))
    exported = tf.compat.v2.saved_model.load(str(tmp_path / "export")).signatures["serving_uint8"]
    answer = exported(images=tf.constant(images[2]))
    order = np.argsort(-expected, axis=1)
    np.testing.assert_allclose(answer["probabilities"], np.take_along_axis(expected, order, axis=1), atol=1e-4)


@pytest.mark.slow
@each_kind
def test_an_old_checkpoint_is_continued(kind, run, synthetic_dir, tmp_path, capsys):
    """One more step: the weights of the run, averages by their recursion, from where they begin."""
    path, values = write_old(kind, run, tmp_path)
    train(synthetic_dir, tmp_path, max_steps=STEP + 1)
    out = capsys.readouterr().out
    after, uninterrupted = final(tmp_path), final(run)
    assert after["global_step"] == STEP + 1 and after["global_step"].dtype == np.int64
    decay = (1 + STEP + 1) / (10 + STEP + 1)
    for name in published.VARIABLES:
        if kind != "half precision":
            np.testing.assert_array_equal(after[name], uninterrupted[name], err_msg=name)
        average = f"{name}/ExponentialMovingAverage"
        begin = values.get(average, values[name]).astype(np.float64)
        expected = begin + (1 - decay) * (after[name] - begin)
        np.testing.assert_allclose(after[average], expected, atol=1e-6, err_msg=name)
    for loss in published.LOSSES:
        ratio = after[f"{loss}/avg"] - 0.9 * values.get(f"{loss}/avg", 0.0)
        raw = uninterrupted[f"{loss}/avg"] - 0.9 * read(run / f"model.ckpt-{STEP}")[f"{loss}/avg"]
        np.testing.assert_allclose(ratio, raw, rtol=2e-2 if kind == "half precision" else 1e-4, err_msg=loss)
    assert path.exists() or (path.parent / f"{path.name}.index").exists()  # nothing is taken from the user
    without_losses = kind in ("no averages of losses", "nothing but variables and step")
    assert ("averages of losses that are not there: 4, which begin at 0" in out) == without_losses
    assert ("step 2, loss" in out) and ("step 0, loss" not in out)


@pytest.mark.slow
def test_checkpoints_of_other_names_count_where_there_is_none_of_ours(run, tmp_path):
    values = read(run / f"model.ckpt-{STEP}")
    write(tmp_path / "best", {**values, "global_step": np.int64(9)})
    write(tmp_path / "late-3", {**values, "global_step": np.int64(30)})
    assert checkpoints.paths(str(tmp_path)) == [str(tmp_path / "best"), str(tmp_path / "late-3")]
    write(tmp_path / "model.ckpt-1", values)
    write(tmp_path / "optimizer.ckpt-1", {"x/Momentum": np.float32(0)})
    assert checkpoints.paths(str(tmp_path)) == [str(tmp_path / "model.ckpt-1")]


@pytest.mark.slow
def test_a_checkpoint_without_a_step_is_evaluated_but_not_continued(run, synthetic_dir, tmp_path):
    write(tmp_path / "model.ckpt", without(read(run / f"model.ckpt-{STEP}"), lambda name: name == "global_step"))
    assert checkpoints.step(str(tmp_path / "model.ckpt")) == 0
    with pytest.raises(RunError, match=r"model\.ckpt: holds no global step, so it cannot be told where to go on; "):
        train(synthetic_dir, tmp_path, max_steps=1)


def unreadable(path):
    path.write_bytes(b"no checkpoint")


def data_without_index(path):
    os.remove(f"{path}.index")


def named_only(path):
    (path.parent / "checkpoint").write_text(f'model_checkpoint_path: "/elsewhere/{path.name}"\n')
    for file in path.parent.glob(f"{path.name}.*"):
        file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unreadable, "none of its checkpoints can be read"),
        (data_without_index, "holds a part of the checkpoint model.ckpt-2"),
        (named_only, "holds a part of the checkpoint"),
    ],
)
def test_training_never_begins_anew_beside_a_checkpoint_that_it_cannot_read(
    run, synthetic_dir, tmp_path, capsys, damage, message
):
    path = write(tmp_path / "train" / "model.ckpt-2", read(run / f"model.ckpt-{STEP}"))
    if damage is unreadable:
        for file in path.parent.glob(f"{path.name}.*"):
            file.unlink()
    damage(path)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(RunError, match=re.escape(message)):
        train(synthetic_dir, tmp_path / "train", max_steps=1)
    after = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert before.items() <= after.items() and set(after) - set(before) <= {"trainer.lock"}
    assert "step 0" not in capsys.readouterr().out
    train(synthetic_dir, tmp_path / "train", max_steps=1, restart=True)
    assert len([folder for folder in tmp_path.iterdir() if folder.name.startswith("train.")]) == 1


def test_a_save_that_writes_nothing_is_an_error(tmp_path, monkeypatch):
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("v", initializer=1.0)
        session.run(tf.global_variables_initializer())
        savers = checkpoints.savers()
        monkeypatch.setattr(tf.train.Saver, "save", lambda *args, **kwargs: None)
        with pytest.raises(OSError, match="nothing was written"):
            checkpoints.save(savers, session, str(tmp_path), 1, 0)
    assert os.listdir(tmp_path) == []
