"""Hyper-parameters in place of a recipe's, weights of another run to begin with, layers that stay as they are."""

import json

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import final, recorded_losses, save_network, train
from PIL import Image

from cifar10 import settings
from cifar10.data import crops, importing
from cifar10.errors import RunError
from cifar10.network import model, optimizer, recipes
from cifar10.runs import checkpoints, history

AVERAGE = checkpoints.AVERAGE
NEW_RUN = {"max_steps": 0}


def starts(train_dir):
    lines = map(json.loads, (train_dir / history.RECORD).read_text().splitlines())
    return [line for line in lines if line["event"] == "start"]


def test_a_hyper_parameter_takes_the_place_of_the_recipes():
    fast = recipes.FAST.changed({"learning_rate": 0.5, "momentum": 0.5, "frozen": "conv2"})
    assert fast.learning_rate == recipes.Triangle(0.5, recipes.FAST.learning_rate.start, 0.2)
    assert (fast.momentum, fast.weight_decay, fast.frozen) == (0.5, recipes.FAST.weight_decay, ("conv1", "conv2"))
    assert fast.changes == "learning_rate 0.5, momentum 0.5, frozen conv2" and fast.name == "fast"
    tutorial = recipes.TUTORIAL.changed({"learning_rate": 0.01})
    assert tutorial.learning_rate == recipes.Staircase(0.01)
    assert recipes.TUTORIAL.changed({}) == recipes.TUTORIAL


def test_each_flag_reaches_its_hyper_parameter():
    values = {
        "learning_rate": 0.2,
        "momentum": 0.3,
        "weight_decay": 0.4,
        "num_epochs": 5.0,
        "label_smoothing": 0.6,
        "jitter": False,
        "random_crops": False,
        "freeze": "local3",
    }
    recipe = settings._recipe({"recipe": "tutorial", "max_steps": None, **values})
    assert recipe.learning_rate.initial == 0.2 and recipe.frozen == ("conv1", "conv2", "local3")
    for name in set(values) - {"learning_rate", "freeze"}:
        assert getattr(recipe, name) == values[name]
    assert recipe.max_steps(50_000, 100) == 2500
    with pytest.raises(RunError, match="--num_epochs: --max_steps says already when training ends; give one of them"):
        settings._recipe({"recipe": "tutorial", "max_steps": 1, "num_epochs": 2.0})


def test_images_are_cropped_at_the_centre_where_the_recipe_says_so(graph):
    """And everything else that is drawn stays as it is."""
    plain, centred = (
        recipe.distortions(True) for recipe in (recipes.FAST, recipes.FAST.changed({"random_crops": False}))
    )
    step = tf.constant(3, tf.int64)
    with tf.Session() as session:
        drawn, drawn_centred = session.run([crops.draw(1, step, 50, of) for of in (plain, centred)])
    assert set(drawn_centred[0]) == set(drawn_centred[1]) == {(32 - 24) // 2} and len(set(drawn[0])) > 5
    for one, other in zip(drawn[2:], drawn_centred[2:], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_rate_that_is_given_is_the_rate_of_the_step(synthetic_dir, tmp_path):
    """A step of gradient descent with twice the rate goes twice as far; on record, and said where a run goes on."""
    for name, rate in (("once", 0.125), ("twice", 0.25)):
        train(synthetic_dir, tmp_path / name, max_steps=1, learning_rate=rate)
    before = tf.train.load_checkpoint(str(tmp_path / "once" / "model.ckpt-0"))
    once, twice = final(tmp_path / "once"), final(tmp_path / "twice")
    for name in ("conv1/weights", "local4/biases"):
        start = before.get_tensor(name)
        np.testing.assert_allclose(twice[name] - start, 2 * (once[name] - start), atol=1e-6)
    (start,) = starts(tmp_path / "once")
    assert (start["recipe"], start["hyper_parameters"]) == ("tutorial", "learning_rate 0.125")
    assert start["learning_rate"] == "0.125, times 0.1 every 350 epochs"


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_hyper_parameters_says_so(synthetic_dir, tmp_path, capsys):
    train(synthetic_dir, tmp_path, max_steps=1)
    train(synthetic_dir, tmp_path, max_steps=2, momentum=0.5)
    assert "goes on from step 1 with hyper-parameters momentum 0.5 (before: the recipe's), last step 2 (before: 1)" in (
        capsys.readouterr().out
    )
    assert [start["hyper_parameters"] for start in starts(tmp_path)] == ["the recipe's", "momentum 0.5"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["tutorial", "fast"])
@pytest.mark.parametrize(
    ("script", "flags"), [("cifar10_train", {}), ("cifar10_multi_gpu_train", {"num_gpus": 2, "batch_size": 8})]
)
def test_frozen_layers_stay_as_they_are_and_the_others_are_trained(script, flags, recipe, synthetic_dir, tmp_path):
    train(synthetic_dir, tmp_path, script, max_steps=3, recipe=recipe, freeze="local3", **flags)
    before = tf.train.load_checkpoint(str(tmp_path / "model.ckpt-0"))
    for name, value in final(tmp_path).items():
        layer = name.partition("/")[0]
        if layer in ("conv1", "conv2", "local3") and not name.endswith("/avg"):
            np.testing.assert_array_equal(value, before.get_tensor(name), err_msg=name)
        elif layer in ("local4", "softmax_linear") and not name.endswith("/avg"):
            assert (value != before.get_tensor(name)).any(), name


def test_the_gradients_of_what_is_not_frozen_are_those_of_the_whole_network(graph):
    """And nothing is computed backward through the frozen layers."""
    recipe = recipes.TUTORIAL.changed({"frozen": "conv2"})
    x = tf.constant(np.random.RandomState(0).randn(4, 24, 24, 3), tf.float32)
    loss = tf.reduce_sum(model.Network(seed=0)(x) ** 2)
    whole = tf.gradients(loss, tf.trainable_variables())
    part = optimizer.of_all(tf.gradients(loss, optimizer.trained(recipe)), recipe)
    assert [gradient is None for gradient in part] == [True] * 4 + [False] * 6
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for one, other in zip(session.run(whole[4:]), session.run(part[4:]), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_run_begins_with_the_averages_of_another(synthetic_dir, tmp_path, capsys):
    save_network(tmp_path / "other", [7])
    train(synthetic_dir, tmp_path / "train", init_from=str(tmp_path / "other"), **NEW_RUN)
    there = tf.train.load_checkpoint(str(tmp_path / "other" / "model.ckpt-7"))
    found = final(tmp_path / "train")
    for name in weights_of(found):
        for each in (name, name + AVERAGE):
            np.testing.assert_array_equal(found[each], there.get_tensor(name + AVERAGE))
    assert found["global_step"] == 0
    line = f"Begins with the weights of {tmp_path / 'other'}/model.ckpt-7, of all layers\n"
    assert capsys.readouterr().out.endswith(line)
    assert starts(tmp_path / "train")[0]["init_from"] == f"{tmp_path / 'other'}/model.ckpt-7"
    # The same command continues the run, with what it has learnt by then.
    train(synthetic_dir, tmp_path / "train", init_from=str(tmp_path / "other"), max_steps=1)
    assert list(recorded_losses(tmp_path / "train")) == [0] and line not in capsys.readouterr().out


def weights_of(tensors):
    return [name for name in tensors if name.endswith(("/weights", "/biases"))]


@pytest.fixture
def three_classes(tmp_path):
    """A data_dir with a data set of three classes of ten pictures of noise."""
    for name in ("cat", "dog", "emu"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.random.RandomState(10 * ord(name[0]) + i).randint(0, 256, [32, 32, 3], dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    importing.write(importing.of_folder(str(tmp_path / "pictures")), str(tmp_path / "data"), 0.2, 0, True)
    return tmp_path / "data"


@pytest.mark.slow
def test_the_last_layer_begins_anew_for_other_classes(three_classes, tmp_path, capsys):
    save_network(tmp_path / "other", [7])
    values = {"dataset": "images", "init_from": str(tmp_path / "other" / "model.ckpt-7")}
    train(three_classes, tmp_path / "train", **values, **NEW_RUN)
    assert capsys.readouterr().out.endswith(
        f"Begins with the weights of {tmp_path / 'other'}/model.ckpt-7, of all layers but softmax_linear, which begins "
        "anew: it has 10 classes there, 3 here\n"
    )
    there = tf.train.load_checkpoint(values["init_from"])
    here = tf.train.load_checkpoint(str(tmp_path / "train" / "model.ckpt-0"))
    for name in ("conv1/weights", "local4/biases"):
        np.testing.assert_array_equal(here.get_tensor(name), there.get_tensor(name + AVERAGE))
    train(three_classes, tmp_path / "plain", dataset="images", **NEW_RUN)
    plain = tf.train.load_checkpoint(str(tmp_path / "plain" / "model.ckpt-0"))
    for name in ("softmax_linear/weights", "softmax_linear/weights" + AVERAGE):
        np.testing.assert_array_equal(here.get_tensor(name), plain.get_tensor(name))


@pytest.mark.slow
def test_as_many_classes_that_are_others_begin_anew_too(synthetic_dir, tmp_path, capsys):
    """Where the record beside the checkpoint tells them."""
    save_network(tmp_path / "other", [7])
    for record, end in {
        '{"event": "start", "dataset": "cifar10"}': "begins anew: its classes are others\n",
        '{"event": "start", "dataset": "synthetic"}': ", of all layers\n",
        '{"event": "start", "dataset": "cifar10", "classes": ["a", "b"]}': "begins anew: its classes are others\n",
    }.items():
        (tmp_path / "other" / history.RECORD).write_text(record + "\n")
        train(synthetic_dir, tmp_path / "train", init_from=str(tmp_path / "other"), restart=True, **NEW_RUN)
        assert capsys.readouterr().out.splitlines(True)[-1].endswith(end)


@pytest.mark.slow
def test_a_checkpoint_that_nothing_can_begin_with_is_refused_in_one_line(synthetic_dir, tmp_path):
    save_network(tmp_path / "other", [7])
    path = str(tmp_path / "other" / "model.ckpt-7")

    def message(init_from, **flags):
        with pytest.raises(RunError) as error:
            train(synthetic_dir, tmp_path / "train", init_from=init_from, **NEW_RUN, **flags)
        assert not checkpoints.paths(str(tmp_path / "train")) and len(str(error.value).splitlines()) == 1
        return str(error.value)

    assert message(path, model="cuda_convnet") == (
        f"{path}: of another network: local3/weights is [2304, 384], [6, 6, 576, 64] here; choose another --init_from, "
        "or its --model"
    )
    assert message("/missing").startswith("No checkpoint file /missing.index; ")
    data = tmp_path / "other" / "model.ckpt-7.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    assert message(path).startswith(f"{path}: it cannot be read: ") and message(path).endswith("another --init_from")
