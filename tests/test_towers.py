"""Several towers equal one."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input, datasets, devices, model, records, towers, training

STEPS = 50


class Trainer:
    """A session that trains with a global batch of 128 in one tower or several."""

    def __init__(self, examples, num_towers):
        with tf.Graph().as_default() as self.graph:
            global_step = tf.train.get_or_create_global_step()
            images, labels = cifar10_input.distorted_inputs(examples, 128)
            rate = tf.constant(0.1)
            config = tf.ConfigProto()
            if num_towers == 1:
                self.loss = training.loss(model.inference(images, seed=0), labels)
                self.train_op = training.train(self.loss, global_step, rate)
            else:
                tower_devices, config = devices.of_towers(num_towers)
                self.train_op, self.loss = towers.train(images, labels, tower_devices, global_step, rate, seed=0)
            self.variables = {variable.op.name: variable for variable in tf.global_variables()}
            self.session = tf.Session(config=config)
            self.session.run(tf.global_variables_initializer())

    def step(self, **options):
        return self.session.run([self.loss, self.train_op], **options)[0]

    def values(self):
        return self.session.run(self.variables)

    def load(self, values):
        for name, variable in self.variables.items():
            self.session.run(variable.initializer, {variable.initializer.inputs[1]: values[name]})


@pytest.fixture
def examples(synthetic_dir):
    return records.load(datasets.SYNTHETIC, synthetic_dir, "train")


def test_each_of_50_steps_of_two_towers_is_the_step_of_one(examples):
    """From the same variables: the same loss, and the same variables and averages after it, up to float32 rounding."""
    one, two = Trainer(examples, 1), Trainer(examples, 2)
    assert one.variables.keys() == two.variables.keys()
    for _ in range(STEPS):
        two.load(one.values())
        np.testing.assert_allclose(two.step(), one.step(), rtol=1e-6)
        expected = one.values()
        for name, value in two.values().items():
            np.testing.assert_allclose(value, expected[name], atol=2e-6, err_msg=name)


def test_two_towers_of_64_have_the_losses_of_one_of_128(examples):
    """Left to themselves for 50 steps."""
    one, two = Trainer(examples, 1), Trainer(examples, 2)
    losses = [(one.step(), two.step()) for _ in range(STEPS)]
    np.testing.assert_allclose(*np.transpose(losses), atol=1e-3)
    assert losses[-1][0] < losses[0][0] - 0.05  # it does learn, so that equal losses mean something
    assert two.values()["global_step"] == STEPS


def test_each_tower_computes_on_its_own_device_and_variables_are_on_the_first_cpu(examples):
    trainer, metadata = Trainer(examples, 2), tf.RunMetadata()
    trainer.step(options=tf.RunOptions(output_partition_graphs=True), run_metadata=metadata)
    nodes = [node for graph in metadata.partition_graphs for node in graph.node]
    activations = {node.name: node.device[-5:] for node in nodes if node.name.endswith("/local3/local3")}
    assert activations == {"tower_0/local3/local3": "CPU:0", "tower_1/local3/local3": "CPU:1"}
    variables = [node for node in nodes if node.op == "VarHandleOp"]
    assert len(variables) == 25
    assert {node.device[-5:] for node in variables} == {"CPU:0"}
