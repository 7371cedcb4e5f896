"""What TensorBoard shows."""

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input
from cifar10.network import losses, model, optimizer, recipes, summaries, towers
from cifar10.runs import events


def build_single(noise):
    images, labels = cifar10_input.distorted_inputs(noise, 4)
    loss = losses.loss(model.Network()(images), labels)
    global_step = tf.train.get_or_create_global_step()
    optimizer.train(loss, global_step, optimizer.learning_rate(recipes.Staircase(), global_step, 4))
    return summaries.merged()


def build_towers(noise):
    images, labels = cifar10_input.distorted_inputs(noise, 4)
    global_step = tf.train.get_or_create_global_step()
    rate = optimizer.learning_rate(recipes.Staircase(), global_step, 4)
    step = towers.Towers(model.Network(), 2, devices=("/cpu:0", "/cpu:0"))
    step.build(images, labels, recipes.TUTORIAL, global_step, rate)
    return summaries.merged()


@pytest.mark.parametrize("build", [build_single, build_towers])
def test_tags_are_the_tutorials_from_one_tower_and_from_two(graph, noise, build):
    merged = build(noise)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        values = tf.Summary.FromString(session.run(merged)).value
    tags = {kind: {v.tag for v in values if v.HasField(kind)} for kind in ("simple_value", "histo", "image")}
    assert tags["simple_value"] == published.SCALARS
    assert tags["histo"] == published.HISTOGRAMS
    assert tags["image"] == {f"images/image/{i}" for i in range(3)} | {"conv1/filters/image"}
    assert len(values) == len(published.SCALARS) + len(published.HISTOGRAMS) + 4


def test_values_are_those_of_the_step(graph):
    """A weight's histogram is of the value that the loss was computed with, not of the updated one."""
    images = tf.constant(np.random.RandomState(0).randn(4, 24, 24, 3), tf.float32)
    loss = losses.loss(model.Network(seed=0)(images), tf.constant([0, 1, 2, 3]))
    train_op = optimizer.train(loss, tf.train.get_or_create_global_step(), tf.constant(0.1))
    merged = summaries.merged()
    variable = next(v for v in tf.trainable_variables() if v.op.name == "conv1/biases")
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for step in range(3):
            biases = session.run(variable)
            _, summary, raw = session.run([train_op, merged, loss])
            values = {v.tag: v for v in tf.Summary.FromString(summary).value}
            np.testing.assert_allclose(values["conv1/biases"].histo.sum, biases.sum(dtype=np.float64), atol=1e-6)
            np.testing.assert_allclose(values["total_loss (raw)"].simple_value, raw, rtol=1e-6)
            if step == 0:
                np.testing.assert_allclose(values["total_loss"].simple_value, 0.1 * raw, rtol=1e-5)


def test_sparsity_is_the_fraction_of_zeros(graph):
    summaries.activation("layer", [tf.constant([0.0, 1.0, 0.0]), tf.constant([2.0, 0.0])])
    with tf.Session() as session:
        values = {v.tag: v for v in tf.Summary.FromString(session.run(summaries.merged())).value}
    assert abs(values["layer/sparsity"].simple_value - 0.6) < 1e-6
    assert values["layer/activations"].histo.num == 3  # of the first part


def test_graph_page_has_one_box_a_layer_and_few_others(graph, noise):
    """TensorBoard moves side nodes out of the way only from 15 first-level names up."""
    build_single(noise)
    tf.train.Saver()
    names = {op.name.split("/")[0] for op in graph.get_operations()}
    layers = {"conv1", "pool1", "norm1", "conv2", "norm2", "pool2", "local3", "local4", "softmax_linear"}
    assert names == layers | {
        "input",
        "loss",
        "cross_entropy",
        "total_loss",
        "train",
        "global_step",
        "save",
        "merged_summaries",
    }
    assert len(names) >= 15


def test_a_large_histogram_is_of_an_even_sample(graph):
    """Of the values 0, 1, 2, … at most one in four is left, from every row and column, with the mean of all."""
    values = np.arange(2304 * 384, dtype=np.float32).reshape(2304, 384)
    summaries.histogram("weights", tf.constant(values))
    with tf.Session() as session:
        histogram = tf.Summary.FromString(session.run(summaries.merged())).value[0].histo
        sample = session.run(graph.get_tensor_by_name("strided_slice:0"))
    assert 2**17 < histogram.num == len(sample) <= summaries.MAX_HISTOGRAM_VALUES
    np.testing.assert_allclose(histogram.sum / histogram.num, values.mean(), rtol=1e-4)
    assert set(sample // 384) == set(range(2304)) and set(sample % 384) == set(range(384))


def test_a_small_histogram_is_of_all_values(graph):
    summaries.histogram("weights", tf.zeros([5, 5, 64, 64]))
    with tf.Session() as session:
        assert tf.Summary.FromString(session.run(summaries.merged())).value[0].histo.num == 102_400


def test_runs_of_one_second_each_have_an_event_file_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(events.time, "time", lambda: 1_500_000_000.25)
    for step in (1, 2, 3):
        with events.EventFile(str(tmp_path)) as event_file:
            event_file.add_start(step)
    steps = [
        event.step
        for path in sorted(tmp_path.iterdir())
        for event in tf.train.summary_iterator(str(path))
        if event.HasField("session_log")
    ]
    assert steps == [1, 2, 3]
