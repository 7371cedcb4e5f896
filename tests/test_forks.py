"""What forks of the tutorial call, in this process: the whole surface, under the tutorial's names."""

import os
import re

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from absl import flags
from absl.testing import flagsaver
from helpers import take

import cifar10
from cifar10 import cifar10_input
from cifar10.data import datasets
from cifar10.errors import DataError, GraphError

INITIAL_LOSS = 4.68  # the tutorial's console, at step 0


@pytest.fixture
def data_flags(full_size_dir):
    """The flags of a fork, with which it finds files of CIFAR-10's names and sizes."""
    with flagsaver.flagsaver(data_dir=full_size_dir, batch_size=8):
        flags.FLAGS.mark_as_parsed()
        yield
        flags.FLAGS.unparse_flags()


def images_and_labels(count=8, seed=0):
    rng = np.random.RandomState(seed)
    return tf.constant(rng.randn(count, 24, 24, 3), tf.float32), tf.constant(np.arange(count) % 10)


def value_of(tensor):
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        return session.run(tensor)


# --- weight decay ---


def expected_decay():
    """0.004 / 2 times the sum of squares of local3's and local4's weights: of a normal cut off at two deviations,
    whose variance is 0.7737 of the whole one's."""
    return 0.002 * 0.7737 * 0.04**2 * (2304 * 384 + 384 * 192)


def in_name_scope(logits, labels):
    with tf.name_scope("loss"):
        return cifar10.loss(logits, labels)


def in_a_variable_scope_entered_again(logits, labels):
    with tf.variable_scope("again"):
        pass
    with tf.variable_scope("again"):
        return cifar10.loss(logits, labels)


@pytest.mark.parametrize("build", [in_name_scope, in_a_variable_scope_entered_again])
def test_weight_decay_is_not_lost_in_a_scope_of_the_forks(graph, build):
    images, labels = images_and_labels()
    value = value_of(build(cifar10.inference(images), labels))
    assert abs(expected_decay() + np.log(10) - INITIAL_LOSS) < 0.01  # the two figures agree
    np.testing.assert_allclose(value, INITIAL_LOSS, atol=0.1)


def test_a_network_and_its_loss_in_one_scope_have_their_weight_decay(graph):
    images, labels = images_and_labels()
    with tf.variable_scope("model"):
        loss = cifar10.loss(cifar10.inference(images), labels)
    np.testing.assert_allclose(value_of(loss), INITIAL_LOSS, atol=0.1)


def test_a_forks_own_terms_count_wherever_they_were_added(graph):
    logits, labels = tf.zeros([4, 10]), tf.constant([0, 1, 2, 3])
    with tf.name_scope("mine"):
        tf.add_to_collection("losses", tf.constant(3.0))
    with tf.name_scope("other"):
        loss = cifar10.loss(logits, labels)
    np.testing.assert_allclose(value_of(loss), 3.0 + np.log(10), rtol=1e-6)


def test_a_tower_counts_its_own_terms_only(graph):
    labels = tf.constant([0, 1])
    totals = []
    for i in range(2):
        with tf.name_scope(f"tower_{i}"):
            tf.add_to_collection("losses", tf.constant(5.0 + i, name="decay"))
            with tf.name_scope("inner"):
                totals.append(cifar10.loss(tf.zeros([2, 10]), labels))
    np.testing.assert_allclose(value_of(totals), [5.0 + np.log(10), 6.0 + np.log(10)], rtol=1e-6)


# --- repeated tags ---


def tags(summary):
    return [value.tag for value in tf.Summary.FromString(summary).value]


def test_two_networks_in_one_graph_have_tags_of_their_own(graph, data_flags):
    train_images, train_labels = cifar10.distorted_inputs()
    test_images, _ = cifar10.inputs(eval_data=True)
    with tf.variable_scope("model"):
        loss = cifar10.loss(cifar10.inference(train_images), train_labels)
    with tf.variable_scope("model", reuse=True):
        cifar10.inference(test_images)
    cifar10.train(loss, tf.train.get_or_create_global_step())
    tf.summary.scalar("learning_rate", tf.constant(0.5))  # the fork's own
    found = tags(value_of(tf.summary.merge_all()))  # raised "Duplicate tag images/image/0"
    assert len(found) == len(set(found))
    assert {"images/image/0", "conv1/activations", "local4/sparsity", "learning_rate"} <= set(found)
    assert {"images_1/image/0", "conv1/activations_1", "local4/sparsity_1", "learning_rate_1"} <= set(found)
    trained = [variable.op.name.removeprefix("model/") for variable in tf.trainable_variables()]
    assert sorted(trained) == sorted(published.VARIABLES)


def test_a_network_that_is_used_again_trains_in_a_monitored_session(graph, tmp_path):
    images, labels = images_and_labels()
    loss = cifar10.loss(cifar10.inference(images), labels)
    train_op = cifar10.train(loss, tf.train.get_or_create_global_step())
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
        cifar10.inference(images)
    with tf.train.MonitoredTrainingSession(
        checkpoint_dir=str(tmp_path), hooks=[tf.train.StopAtStepHook(2)], save_summaries_steps=1
    ) as session:
        while not session.should_stop():
            session.run(train_op)
    assert tf.train.load_variable(str(tmp_path), "global_step") == 2


# --- the surface ---


@pytest.mark.slow
def test_the_inputs_take_the_batches_folder_by_position_and_by_name(full_size_dir):
    """Evaluation is in file order, so the labels are the files' own: 0, 1, 2, … in turn."""
    folder = os.path.join(full_size_dir, datasets.CIFAR10.folder)
    for args, kwargs in (((True, folder, 4), {}), ((), {"eval_data": False, "data_dir": folder, "batch_size": 4})):
        with tf.Graph().as_default():
            images, labels = cifar10_input.inputs(*args, **kwargs)
            assert images.shape == [4, 24, 24, 3] and labels.dtype == tf.int32
            assert [list(batch) for batch in take(labels, 2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    for args, kwargs in (((folder, 4), {}), ((), {"data_dir": folder, "batch_size": 4})):
        with tf.Graph().as_default():
            images, labels = cifar10_input.distorted_inputs(*args, **kwargs)
            assert images.shape == [4, 24, 24, 3] and labels.shape == [4]
            (values,) = take(images, 1)
            np.testing.assert_allclose(values.mean(axis=(1, 2, 3)), 0.0, atol=1e-4)


def test_layers_of_a_forks_own_are_made_of_the_tutorials_parts(graph):
    images, labels = images_and_labels(4)
    with tf.variable_scope("conv1") as scope:
        kernel = cifar10._variable_with_weight_decay("weights", shape=[5, 5, 3, 2], stddev=5e-2, wd=0.0)
        biases = cifar10._variable_on_cpu("biases", [2], tf.constant_initializer(0.5))
        conv = tf.nn.bias_add(tf.nn.conv2d(images, kernel, [1, 1, 1, 1], padding="SAME"), biases)
        conv1 = tf.nn.relu(conv, name=scope.name)
        cifar10._activation_summary(conv1)
    with tf.variable_scope("out"):
        flat = tf.reshape(conv1, [4, -1])
        weights = cifar10._variable_with_weight_decay("weights", [flat.shape[1], 10], stddev=0.01, wd=0.25)
        cifar10._variable_with_weight_decay("more", [3], stddev=0.01, wd=None)
    assert kernel.device == biases.device == "/device:CPU:0" and kernel.dtype == tf.float32
    assert [loss.op.name for loss in tf.get_collection("losses")] == ["conv1/weight_loss", "out/weight_loss"]
    loss = cifar10.loss(tf.matmul(flat, weights), labels)
    averages = cifar10._add_loss_summaries(loss)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        values, weight_loss = session.run([weights, "out/weight_loss:0"])
        np.testing.assert_allclose(weight_loss, 0.25 * np.sum(values.astype(np.float64) ** 2) / 2, rtol=1e-5)
        summary, total, _ = session.run([tf.summary.merge_all(), loss, averages])
        scalars = {v.tag: v.simple_value for v in tf.Summary.FromString(summary).value if v.HasField("simple_value")}
        np.testing.assert_allclose(scalars["total_loss (raw)"], total, rtol=1e-6)
        np.testing.assert_allclose(scalars["total_loss"], 0.1 * total, rtol=1e-5)  # decay 0.9, from 0
        assert {"conv1/activations", "conv1/sparsity"} <= set(tags(summary))


@pytest.mark.parametrize("shuffle", [False, True])
def test_single_images_become_batches_through_the_queue(graph, shuffle):
    number = tf.train.range_input_producer(20, shuffle=False).dequeue()
    image = tf.fill([24, 24, 3], tf.cast(number, tf.float32))
    batch = cifar10_input._generate_image_and_label_batch(image, tf.reshape(number, [1]), 10, 5, shuffle=shuffle)
    assert batch[0].shape == [5, 24, 24, 3] and batch[1].shape == [5]
    for images, labels in take(list(batch), 2, queue=True):
        np.testing.assert_array_equal(images, np.broadcast_to(labels[:, None, None, None], images.shape))
    runner = tf.get_collection(tf.GraphKeys.QUEUE_RUNNERS)[-1]
    assert len(runner.enqueue_ops) == 16 and [tensor.op.type for tensor in tf.get_collection("summaries")]


def test_the_parser_of_late_2017_sets_the_flags():
    with flagsaver.flagsaver():
        cifar10.parser.add_argument("--train_dir", type=str, default="/tmp/cifar10_train")
        values = cifar10.parser.parse_args(["--batch_size", "64", "--data_dir=/data", "--use_fp16", "--train_dir=/t"])
        assert (values.batch_size, values.data_dir, values.use_fp16, values.train_dir) == (64, "/data", True, "/t")
        assert (cifar10.FLAGS.batch_size, cifar10.FLAGS.data_dir, cifar10.FLAGS.use_fp16) == (64, "/data", True)
    values = cifar10.parser.parse_args([])
    assert (values.batch_size, values.data_dir, values.use_fp16) == (128, "/tmp/cifar10_data", False)
    assert not cifar10.parser.parse_args(["--use_fp16=False"]).use_fp16


@pytest.mark.parametrize("module", [cifar10, cifar10_input])
def test_an_image_size_set_in_either_module_is_honoured(graph, data_flags, monkeypatch, module):
    monkeypatch.setattr(module, "IMAGE_SIZE", 32)
    assert cifar10.distorted_inputs()[0].shape == [8, 32, 32, 3]
    images = cifar10.inputs(True)[0]
    assert images.shape == [8, 32, 32, 3]
    cifar10.inference(images)
    kernel = next(variable for variable in tf.trainable_variables() if variable.op.name == "local3/weights")
    assert kernel.shape == [8 * 8 * 64, 384]  # 32 halved twice


@pytest.mark.parametrize("module", [cifar10, cifar10_input])
@pytest.mark.parametrize("size", [0, 33])
def test_an_image_size_beyond_the_images_is_one_clear_line(graph, data_flags, monkeypatch, module, size):
    monkeypatch.setattr(module, "IMAGE_SIZE", size)
    for build in (cifar10.distorted_inputs, lambda: cifar10.inputs(True)):
        with pytest.raises(GraphError, match=f"^IMAGE_SIZE = {size}: no crop of images of 32x32 has that size; .*$"):
            build()


@pytest.mark.parametrize("module", [cifar10, cifar10_input])
def test_labels_are_checked_against_the_classes_that_a_fork_sets(graph, data_flags, monkeypatch, module):
    monkeypatch.setattr(module, "NUM_CLASSES", 7)
    with pytest.raises(DataError, match="record 7 has label 7, expected 0 to 6"):
        cifar10.distorted_inputs()
    assert cifar10.inference(images_and_labels()[0]).shape == [8, 7]


@pytest.mark.slow
def test_inputs_of_one_graph_differ_and_are_the_same_in_another_graph(data_flags):
    def batches(seed):
        with tf.Graph().as_default():
            tf.set_random_seed(seed)
            inputs = [cifar10.distorted_inputs() for _ in range(2)]
            return take([[*each] for each in inputs], 1)[0]

    (first_images, first_labels), (second_images, second_labels) = batches(7)
    assert not np.array_equal(first_images, second_images) and not np.array_equal(first_labels, second_labels)
    again = batches(7)
    np.testing.assert_array_equal(first_images, again[0][0])
    np.testing.assert_array_equal(second_images, again[1][0])
    assert not np.array_equal(first_labels, batches(8)[0][1])


def test_building_in_eager_mode_says_what_to_use():
    assert tf.executing_eagerly()
    calls = {
        "cifar10.distorted_inputs": cifar10.distorted_inputs,
        "cifar10.inputs": lambda: cifar10.inputs(True),
        "cifar10.inference": lambda: cifar10.inference(None),
        "cifar10.loss": lambda: cifar10.loss(None, None),
        "cifar10.train": lambda: cifar10.train(None, None),
        "cifar10_input.distorted_inputs": lambda: cifar10_input.distorted_inputs("nowhere", 8),
        "cifar10_input.inputs": lambda: cifar10_input.inputs(True, "nowhere", 8),
    }
    for name, call in calls.items():
        with pytest.raises(GraphError, match=rf"^{re.escape(name)}: .*with tf\.Graph\(\)\.as_default\(\).*$"):
            call()
