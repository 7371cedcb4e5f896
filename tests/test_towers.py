"""Several towers equal one."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input, datasets, model, records, towers, training

STEPS = 50


def losses_and_weights(data_dir, num_towers):
    """Trains on the synthetic pictures with a global batch of 128; returns the losses, the variables, placement."""
    examples = records.load(datasets.SYNTHETIC, data_dir, "train")
    with tf.Graph().as_default():
        global_step = tf.train.get_or_create_global_step()
        images, labels = cifar10_input.distorted_inputs(examples, 128)
        rate = tf.constant(0.1)
        if num_towers == 1:
            config = tf.ConfigProto()
            loss = training.loss(model.inference(images, seed=0), labels)
            train_op = training.train(loss, global_step, rate)
        else:
            devices, config = towers.devices(num_towers)
            train_op, loss = towers.train(images, labels, devices, global_step, rate, seed=0)
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        with tf.Session(config=config) as session:
            session.run(tf.global_variables_initializer())
            losses = [session.run([loss, train_op])[0] for _ in range(STEPS)]
            assert session.run(global_step) == STEPS
            options, metadata = tf.RunOptions(output_partition_graphs=True), tf.RunMetadata()
            session.run(train_op, options=options, run_metadata=metadata)
            names = [variable.op.name for variable in tf.global_variables()]
            values = dict(zip(names, session.run(tf.global_variables()), strict=True))
            return losses, values, metadata


@pytest.fixture(scope="module")
def one(synthetic_dir):
    return losses_and_weights(synthetic_dir, 1)


@pytest.fixture(scope="module")
def two(synthetic_dir):
    return losses_and_weights(synthetic_dir, 2)


def test_two_towers_of_64_have_the_losses_of_one_of_128(one, two):
    np.testing.assert_allclose(two[0], one[0], atol=1e-3)
    assert one[0][-1] < one[0][0] - 0.05  # it does learn, so that equal losses mean something


def test_two_towers_leave_the_variables_and_averages_of_one(one, two):
    assert one[1].keys() == two[1].keys()
    for name, value in one[1].items():
        np.testing.assert_allclose(two[1][name], value, atol=2e-3, err_msg=name)


def test_each_tower_computes_on_its_own_device_and_variables_are_on_the_first_cpu(two):
    places = {node.name: node.device for graph in two[2].partition_graphs for node in graph.node}
    activations = {name: device for name, device in places.items() if name.endswith("conv2/conv2")}
    assert {name: device[-5:] for name, device in activations.items()} == {
        "tower_0/conv2/conv2": "CPU:0",
        "tower_1/conv2/conv2": "CPU:1",
    }
    variables = [node for graph in two[2].partition_graphs for node in graph.node if node.op == "VarHandleOp"]
    assert len(variables) >= 20
    assert {node.device[-5:] for node in variables} == {"CPU:0"}
