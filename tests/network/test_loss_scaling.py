"""float16 with a dynamic loss scale."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import recorded_losses, train

from cifar10.machine import devices
from cifar10.network import loss_scaling, losses, model
from cifar10.runs import checkpoints


def test_the_scale_falls_at_an_overflow_and_grows_after_good_steps(graph):
    scale = loss_scaling.LossScale(initial=8.0, growth_steps=3)
    gradient = tf.placeholder(tf.float32, [2])
    (unscaled, none), _ = scale.unscaled([gradient, None])
    assert none is None
    with tf.Session() as session:
        session.run(tf.local_variables_initializer())
        seen = []
        for value in (16.0, np.inf, 16.0, 16.0, 16.0, 16.0, np.nan):
            first, second = session.run(unscaled, {gradient: [value, 8.0]})
            seen.append((first, second, session.run(scale.value)))
    assert seen == [
        (2.0, 1.0, 8.0),
        (0.0, 0.0, 4.0),  # nothing is changed by a step that overflowed
        (4.0, 2.0, 4.0),
        (4.0, 2.0, 4.0),
        (4.0, 2.0, 8.0),  # the third good one in a row
        (2.0, 1.0, 8.0),
        (0.0, 0.0, 4.0),
    ]


def test_the_scale_never_falls_below_one(graph):
    scale = loss_scaling.LossScale(initial=1.0)
    unscaled, finite = scale.unscaled([tf.constant(np.inf)])
    with tf.Session() as session:
        session.run(tf.local_variables_initializer())
        assert not session.run([unscaled, finite])[1]
        assert session.run(scale.value) == 1.0


def gradients(images, labels, dtype, loss_scale):
    """Returns the gradients of the network computed in a type, in NumPy."""
    with tf.Graph().as_default(), tf.Session() as session:
        logits = model.Network(dtype=dtype, seed=0)(tf.constant(images))
        loss = losses.loss(logits, tf.constant(labels)) * 1e-5  # as small as gradients are late in training
        variables = tf.trainable_variables()
        if loss_scale:
            scale = loss_scaling.LossScale()
            found, _ = scale.unscaled(tf.gradients(scale.scaled(loss), variables))
        else:
            found = tf.gradients(loss, variables)
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        return dict(zip([variable.op.name for variable in variables], session.run(found), strict=True))


def test_small_gradients_vanish_in_float16_without_the_scale_and_do_not_with_it():
    random = np.random.RandomState(0)
    images, labels = random.randn(8, 24, 24, 3).astype(np.float32), np.arange(8)
    expected = gradients(images, labels, "float32", False)["conv1/weights"]
    without = gradients(images, labels, "float16", False)["conv1/weights"]
    scaled = gradients(images, labels, "float16", True)["conv1/weights"]

    def distance(found):
        return np.linalg.norm(found - expected) / np.linalg.norm(expected)

    assert distance(without) > 0.9 and distance(scaled) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("cifar10_train", {}),
        ("cifar10_multi_gpu_train", {"num_gpus": 2, "batch_size": 8}),
        ("cifar10_multi_gpu_train", {"num_gpus": 2, "batch_size": 8, "recipe": "fast"}),
    ],
)
def test_training_in_float16_follows_float32_and_saves_the_same_tensors(
    synthetic_dir, tmp_path, monkeypatch, script, flags
):
    monkeypatch.setattr(devices, "compute_type", lambda use_fp16: "float16" if use_fp16 else "float32")
    found = {}
    for half in (False, True):
        train_dir = tmp_path / str(half)
        train(synthetic_dir, train_dir, script=script, max_steps=8, use_fp16=half, **flags)
        found[half] = recorded_losses(train_dir)
    assert list(found[True].values()) == pytest.approx(list(found[False].values()), rel=0.01)
    assert found[True] != found[False]
    shapes = [tf.train.load_checkpoint(checkpoints.paths(str(tmp_path / str(half)))[-1]) for half in (False, True)]
    assert shapes[0].get_variable_to_shape_map() == shapes[1].get_variable_to_shape_map()
