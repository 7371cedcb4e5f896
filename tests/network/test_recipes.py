"""Recipes, and training images that are held out."""

import dataclasses
import itertools
import json

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import (
    custom_step,
    evaluate,
    lopsided,
    recorded_losses,
    take,
    train,
)

from cifar10 import cifar10_input, evaluation
from cifar10.data import crops, datasets, order, records
from cifar10.data.source import Source
from cifar10.errors import DataError, RunError
from cifar10.network import loss_scaling, losses, optimizer, recipes
from cifar10.runs import trainer
from cifar10.runs.run import RunOptions

FAST = recipes.FAST


def starts(train_dir):
    """Returns what is on record of each start."""
    lines = map(json.loads, (train_dir / "runs.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "start"]


# --- hyper-parameters ---


def test_training_ends_where_its_recipe_says():
    """1,000,000 steps; 60 epochs of 50,000 images in batches of 128 are 23,437.5 steps, of 45,000 in 100 27,000."""
    assert recipes.TUTORIAL.max_steps(50_000, 128) == recipes.TUTORIAL.max_steps(7, 3) == 1_000_000
    fast = dataclasses.replace(FAST, num_epochs=60.0)
    assert fast.max_steps(50_000, 128) == 23_437
    assert fast.max_steps(45_000, 100) == 27_000
    assert fast.max_steps(1, 1_000) == 1


def test_the_fast_learning_rate_goes_up_and_down_once(graph):
    """0.03 times 0.2 at first, 0.6 half way up, 1 after a fifth, 0.5 half way down, and 0 at the end and beyond."""
    step = tf.placeholder(tf.int64, [])
    rate = optimizer.learning_rate(FAST.learning_rate, step, 128, 50_000, 1_000)
    expected = {0: 0.006, 100: 0.018, 200: 0.03, 600: 0.015, 999: 0.03 / 800, 1_000: 0.0, 1_001: 0.0, 10**9: 0.0}
    with tf.Session() as session:
        found = {at: session.run(rate, {step: at}) for at in expected}
        no_step = optimizer.learning_rate(FAST.learning_rate, tf.constant(0), 128, max_steps=0)
        assert session.run(no_step) == np.float32(0.006)
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-6, abs=0.0)


def test_smoothed_labels_share_a_part_among_all_classes(graph):
    """-sum q log p, where q is 0.9 of one class and 0.1 / 4 of each of the four."""
    logits, labels = np.random.RandomState(0).randn(5, 4) * 3, np.array([3, 0, 1, 1, 2])
    loss = losses.loss(tf.constant(logits, tf.float32), tf.constant(labels), label_smoothing=0.1)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    q = 0.9 * np.eye(4)[labels] + 0.1 / 4
    with tf.Session() as session:
        np.testing.assert_allclose(session.run(loss), -np.mean(np.sum(q * np.log(p), axis=1)), rtol=1e-6)
    assert [tensor.op.name for tensor in tf.get_collection("losses")] == ["cross_entropy"]


def build_update(**options):
    """Returns the variables of three small layers, (x - 1)^3 / 3 of each number being the loss, and a step with them.

    The layer `own` has weight decay in its loss already.
    """
    variables = [
        tf.get_variable(name, initializer=np.float32(values), use_resource=True)
        for name, values in (("a/weights", [0.5, -1.0]), ("a/biases", [0.3]), ("own/weights", [1.5]))
    ]
    gradients = [(variable - 1.0) ** 2 for variable in variables]
    shown = {"own/weight_loss": tf.constant(1.0), "total_loss": tf.constant(2.0)}
    step = tf.train.get_or_create_global_step()
    recipe = recipes.Recipe("", **options)
    return variables, optimizer.apply_gradients(gradients, shown, step, tf.constant(0.1), recipe)


def test_momentum_is_nesterovs_and_weight_decay_of_weights_without_their_own(graph):
    """As Sutskever et al. (2013) have it: u = 0.9 u - 0.1 g(x + 0.9 u), x = x + u; what is trained is x + 0.9 u."""
    variables, train_op = build_update(momentum=0.9, weight_decay=0.01)
    with tf.Session() as session:
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        xs = [np.float64(value) for value in session.run(variables)]
        us = [0.0, 0.0, 0.0]
        for step in (1, 2, 3):
            session.run(train_op)
            for i, decay in enumerate((0.01, 0.0, 0.0)):
                ahead = xs[i] + 0.9 * us[i]
                us[i] = 0.9 * us[i] - 0.1 * ((ahead - 1.0) ** 2 + decay * ahead)
                xs[i] = xs[i] + us[i]
            for value, x, u in zip(session.run(variables), xs, us, strict=True):
                np.testing.assert_allclose(value, x + 0.9 * u, rtol=1e-5)
            assert session.run(tf.train.get_global_step()) == step


def test_a_step_that_overflows_in_float16_changes_neither_weights_nor_momentum(graph):
    """A step, one of infinite gradients, a step: as if the one between had not been."""
    found = []
    for sequence in ([1.0, np.inf, 1.0], [1.0, 1.0]):
        with tf.Graph().as_default(), tf.Session() as session:
            weights = tf.get_variable("a/weights", initializer=np.float32([1.0, 2.0]), use_resource=True)
            factor = tf.placeholder(tf.float32, [])
            train_op = optimizer.train(
                tf.identity(factor * tf.reduce_sum(weights**2), "total_loss"),
                tf.train.get_or_create_global_step(),
                tf.constant(0.1),
                FAST,
                loss_scaling.LossScale(),
            )
            session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            for value in sequence:
                session.run(train_op, {factor: value})
            found.append(session.run(weights))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_momentum_is_beside_its_variable_and_in_no_checkpoint(graph):
    """Of two devices, each holds the momentum of what it holds."""
    devices = itertools.cycle(["/device:CPU:0", "/device:CPU:1"])
    with tf.device(lambda op: op.device or (next(devices) if op.type == "VarHandleOp" else "")):
        build_update(momentum=0.9)
    device = {variable.op.name: variable.device for variable in tf.trainable_variables()}
    slots = {variable.op.name: variable.device for variable in tf.local_variables()}
    assert slots == {f"{name}/Momentum": device[name] for name in device} and len(set(slots.values())) == 2
    assert not {variable.op.name for variable in tf.global_variables()} & slots.keys()


# --- input ---


def mirrored_images(seed=0, batch=100, batches=4, start_step=0, **options):
    """Returns, of 100 lopsided images, [(number, whether it is mirrored), …] in the order of training."""
    examples = records.Examples(lopsided(100), np.arange(100, dtype=np.int32))
    with tf.Graph().as_default():
        images, labels = cifar10_input.distorted_inputs(
            examples, batch, seed, start_step, crops.Distortions(jitter=False, **options)
        )
        left, right = tf.split(images, 2, axis=2)
        mirrored = tf.reduce_mean(left, axis=[1, 2, 3]) > tf.reduce_mean(right, axis=[1, 2, 3])
        return [pair for pairs in take([labels, mirrored], batches) for pair in zip(*pairs, strict=True)]


def test_alternating_flips_show_each_image_mirrored_in_every_other_epoch():
    """About half begin with it (binomial deviation 5), others for another seed, in whatever batches."""
    seen = mirrored_images(alternating_flip=True)
    epochs = [dict(seen[100 * epoch : 100 * (epoch + 1)]) for epoch in range(4)]
    assert all(len(epoch) == 100 for epoch in epochs)
    for number in range(100):
        first = epochs[0][number]
        assert [epoch[number] for epoch in epochs] == [first, not first, first, not first]
    assert 30 <= sum(epochs[0].values()) <= 70
    assert mirrored_images(alternating_flip=True, batch=40, batches=10) == seen
    assert mirrored_images(alternating_flip=True, batch=40, batches=4, start_step=6) == seen[240:]
    assert dict(mirrored_images(1, alternating_flip=True, batches=1)) != epochs[0]


def test_digits_are_never_mirrored_whatever_the_recipe():
    assert not any(mirrored for _, mirrored in mirrored_images(alternating_flip=True, flip=False))


def test_without_jitter_an_image_is_cropped_and_standardized(graph, noise):
    distortions = crops.Distortions(jitter=False)
    top, left, flip, *_ = take(crops.draw(3, tf.constant(0, tf.int64), 50, distortions), 1)[0]
    images, _ = take(cifar10_input.distorted_inputs(noise, 50, seed=3, distortions=distortions), 1)[0]
    originals = noise.images[order.shuffled(np.arange(50), 100, 3)]
    for image, original, y, x, mirrored in zip(images, originals, top, left, flip, strict=True):
        crop = original[y : y + 24, x : x + 24].astype(np.float64)
        crop = crop[:, ::-1] if mirrored else crop
        np.testing.assert_allclose(image, (crop - crop.mean()) / crop.std(), atol=1e-4)


def test_calm_crops_are_near_the_centre_from_their_step_on(graph):
    """Up to 4 pixels from it, at 4, and in the last quarter of 100 steps up to 1; each offset about equally often."""
    distortions = dataclasses.replace(FAST, calm=0.25, calm_shift=1).distortions(True, 100)
    assert FAST.distortions(True, 100) == FAST.distortions(True)
    for step, expected in ((0, range(9)), (74, range(9)), (75, range(3, 6)), (10**6, range(3, 6))):
        for offsets in take(crops.draw(0, tf.constant(step, tf.int64), 9_000, distortions)[:2], 1)[0]:
            found, counts = np.unique(offsets, return_counts=True)
            assert list(found) == list(expected)
            mean = 9_000 / len(expected)
            assert np.abs(counts - mean).max() < 5 * np.sqrt(mean)


def test_workers_get_the_slices_of_one_input(graph, noise):
    distortions = FAST.distortions(flip=True)
    whole = take(cifar10_input.distorted_inputs(noise, 64, 2, distortions=distortions), 3)[2]
    parts = [cifar10_input.training_batch(noise, 64, 2, 2, distortions, (i, 32))[:2] for i in (0, 32)]
    assert parts[1][0].shape == [32, 24, 24, 3]
    for i, value in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[i] for part in take(parts, 1)[0]]), value)


# --- runs ---


@pytest.mark.slow
def test_a_run_goes_on_with_another_recipe_and_checkpoints_are_the_tutorials(synthetic_dir, tmp_path, monkeypatch):
    """The fast recipe's own end: 0.0065 epochs of 10,000 images in batches of 16 are 4.1 steps."""
    monkeypatch.setitem(recipes.RECIPES, "fast", dataclasses.replace(FAST, num_epochs=0.0065))
    train(synthetic_dir, tmp_path, recipe="fast")
    train(synthetic_dir, tmp_path, recipe="tutorial", max_steps=6)
    train(synthetic_dir, tmp_path, recipe="fast", max_steps=8)
    assert [(start["recipe"], start["step"], start["max_steps"]) for start in starts(tmp_path)] == [
        ("fast", 0, 4),
        ("tutorial", 4, 6),
        ("fast", 6, 8),
    ]
    for step in (4, 6, 8):
        reader = tf.train.load_checkpoint(str(tmp_path / f"model.ckpt-{step}"))
        assert reader.get_variable_to_shape_map() == published.CHECKPOINT
    facts = [
        value.tensor.string_val[0].decode()
        for path in sorted(tmp_path.glob("events.out.tfevents.*"))
        for event in tf.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == "run/text_summary"
    ]
    assert ["| momentum | 0.9 |" in text for text in facts] == [True, False, True]
    assert ["| learning rate | 0.1, times 0.1 every 350 epochs |" in text for text in facts] == [False, True, False]


@pytest.mark.slow
def test_two_towers_train_fast_as_one_device_does(synthetic_dir, tmp_path):
    """What the scripts make of the recipe: the same losses, of the first steps at least."""
    train(synthetic_dir, tmp_path / "one", recipe="fast", max_steps=5)
    towers = {"script": "cifar10_multi_gpu_train", "num_gpus": 2, "batch_size": 8}
    train(synthetic_dir, tmp_path / "two", recipe="fast", max_steps=5, **towers)
    expected = recorded_losses(tmp_path / "one")
    assert len(expected) == 5 and recorded_losses(tmp_path / "two") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({"recipe": "fast"}, "--recipe=fast"),
        ({"num_held_out": 100}, "--num_held_out=100"),
        ({"recipe": "fast", "num_held_out": 100}, "--num_held_out=100 and --recipe=fast"),
    ],
)
def test_the_tutorials_queue_is_for_the_tutorials_recipe(synthetic_dir, tmp_path, flags, found):
    with pytest.raises(RunError) as caught:
        train(synthetic_dir, tmp_path / "train", input_pipeline="queue", max_steps=1, **flags)
    assert str(caught.value) == f"--input_pipeline=queue: cannot do {found}; leave one of them out"
    assert not (tmp_path / "train").exists()


# --- images held out ---


def test_images_held_out_are_never_trained_on(synthetic_dir, tmp_path, monkeypatch):
    """An epoch, and a part of the next, of the others."""
    whole = records.load(datasets.SYNTHETIC, synthetic_dir, "train")
    seen, shuffled = [], order.shuffled

    def build(images, labels, global_step):
        return tf.assign_add(global_step, 1), tf.reduce_mean(tf.cast(labels, tf.float32))

    def spy(numbers, num_examples, seed):
        seen.append(shuffled(numbers, num_examples, seed))
        assert num_examples == 9_700
        return seen[-1]

    loaded = records.load

    def load_and_mark(*args):
        examples = loaded(*args)
        examples.labels[9_700:] = 10**6  # which would show in the loss
        return examples

    monkeypatch.setattr(order, "shuffled", spy)
    monkeypatch.setattr(records, "load", load_and_mark)
    data = trainer.TrainingData(Source(datasets.SYNTHETIC, synthetic_dir), num_held_out=300)
    options = RunOptions(str(tmp_path / "run"), max_steps=12, log_frequency=1)
    trainer.train(custom_step(build, 970), data, FAST, options)
    assert set(np.concatenate(seen)) == set(range(9_700))
    means = [*recorded_losses(tmp_path / "run").values()]
    assert np.mean(means[:10]) == pytest.approx(np.mean(whole.labels[:9_700]), rel=1e-5)


@pytest.mark.slow
def test_exactly_the_images_held_out_are_evaluated(synthetic_dir, tmp_path, monkeypatch):
    whole = records.load(datasets.SYNTHETIC, synthetic_dir, "train")
    evaluated = []

    class Spy(evaluation.Evaluator):
        def __init__(self, examples, *args, **options):
            evaluated.append(examples)
            super().__init__(examples, *args, **options)

    monkeypatch.setattr(evaluation, "Evaluator", Spy)
    train(synthetic_dir, tmp_path, num_held_out=150, max_steps=1)
    (result,) = evaluate(synthetic_dir, tmp_path, tmp_path / "eval", eval_data="held_out", num_examples=None)
    assert result.total == starts(tmp_path)[0]["num_held_out"] == 150
    np.testing.assert_array_equal(evaluated[0].images, whole.images[-150:])
    np.testing.assert_array_equal(evaluated[0].labels, whole.labels[-150:])


@pytest.mark.slow
def test_what_was_trained_on_cannot_be_held_out_later(synthetic_dir, tmp_path, noise):
    train(synthetic_dir, tmp_path, num_held_out=20, max_steps=1)
    with pytest.raises(RunError, match="holds out images of synthetic; choose --dataset=synthetic"):
        evaluation.held_out(noise, "svhn", tmp_path)
    with pytest.raises(RunError, match="was trained with --num_held_out=20, so on some of the images that 21 would"):
        train(synthetic_dir, tmp_path, num_held_out=21, max_steps=2)
    train(synthetic_dir, tmp_path / "all", num_held_out=0, max_steps=1)
    assert "num_held_out" not in starts(tmp_path / "all")[-1]
    with pytest.raises(RunError) as caught:
        evaluate(synthetic_dir, tmp_path / "all", tmp_path / "eval", eval_data="held_out")
    assert str(caught.value) == f"{tmp_path / 'all'}: has no run that holds images out; train with --num_held_out first"


@pytest.mark.slow
def test_held_out_images_are_not_trained_on_later(synthetic_dir, tmp_path):
    train(synthetic_dir, tmp_path, num_held_out=20, max_steps=1)
    with pytest.raises(RunError) as caught:
        train(synthetic_dir, tmp_path, num_held_out=0, max_steps=2)
    assert str(caught.value) == (
        f"{tmp_path}: was trained with --num_held_out=20, and not on those images; choose that, or another "
        "--train_dir, or --restart"
    )
    assert len(starts(tmp_path)) == 1
    train(synthetic_dir, tmp_path, num_held_out=20, max_steps=2)


def test_some_images_must_be_left_to_train_on(synthetic_dir, tmp_path):
    with pytest.raises(DataError) as caught:
        train(synthetic_dir, tmp_path / "train", num_held_out=10_000, max_steps=1)
    assert str(caught.value) == ("--num_held_out=10000: the data has only 10000 training images; give fewer")
    assert not (tmp_path / "train").exists()
