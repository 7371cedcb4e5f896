"""Several towers equal one."""

import functools
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input
from cifar10.data import datasets, records
from cifar10.machine import devices
from cifar10.network import model, optimizer, recipes, steps, towers

STEPS = 12


class Trainer:
    """A session that trains with a global batch of 128 in one tower or several."""

    def __init__(self, examples, num_towers, recipe=recipes.TUTORIAL, variables_on="cpu"):
        network = model.Network(seed=0, microbatch_size=32)
        step = steps.OneDevice(network, 128)
        if num_towers > 1:
            tower_devices = tuple(devices.of_towers(num_towers))
            step = towers.Towers(network, 128 // num_towers, devices=tower_devices, variables_on=variables_on)
        with tf.Graph().as_default() as self.graph:
            global_step = tf.train.get_or_create_global_step()
            distortions = recipe.distortions(True, STEPS)
            images, labels = cifar10_input.distorted_inputs(examples, 128, 0, distortions=distortions)
            rate = optimizer.learning_rate(recipe.learning_rate, global_step, 128, max_steps=STEPS)
            self.train_op, self.loss = step.build(images, labels, recipe, global_step, rate)
            self.variables = {variable.op.name: variable for variable in tf.global_variables()}
            self.session = tf.Session(config=step.session_config())
            self.session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])

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


@pytest.fixture(scope="module")
def one(synthetic_dir):
    """A function of a recipe's name, which trains with it in one tower and returns (losses, values)."""

    @functools.cache
    def trained(recipe):
        trainer = Trainer(records.load(datasets.SYNTHETIC, synthetic_dir, "train"), 1, recipes.RECIPES[recipe])
        return np.array([trainer.step() for _ in range(STEPS)]), trainer.values()

    return trained


@pytest.mark.slow
@pytest.mark.parametrize(("num_towers", "recipe"), [(2, "tutorial"), (4, "tutorial"), (2, "fast"), (2, "muon")])
def test_towers_train_as_one_does_to_the_last_bit(examples, one, num_towers, recipe):
    """1 x 128, 2 x 64 and 4 x 32, left to themselves for 12 steps: the same variables, averages and so losses."""
    losses, expected = one(recipe)
    several = Trainer(examples, num_towers, recipes.RECIPES[recipe])
    assert several.variables.keys() == expected.keys()
    np.testing.assert_allclose([several.step() for _ in range(STEPS)], losses, rtol=1e-6)  # a mean of means may round
    assert losses[-5:].mean() < losses[:5].mean()  # it does learn, so that equality means something
    assert expected["global_step"] == STEPS
    for name, value in several.values().items():
        if not name.endswith("/avg"):
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize(("variables_on", "place"), [("cpu", "CPU:0"), ("gpu", "CPU:1")])
def test_towers_compute_on_their_own_devices_and_variables_and_updates_are_where_they_should(
    examples, monkeypatch, variables_on, place
):
    """In the graphs that TensorFlow has run; the second CPU stands for a GPU that holds the variables."""
    monkeypatch.setattr(devices, "of_towers", lambda num_towers: ["/cpu:1", "/cpu:0"])
    trainer, metadata = Trainer(examples, 2, variables_on=variables_on), tf.RunMetadata()
    trainer.step(options=tf.RunOptions(output_partition_graphs=True), run_metadata=metadata)
    nodes = [node for graph in metadata.partition_graphs for node in graph.node]
    products = {node.name: node.device[-5:] for node in nodes if re.match(r"tower_\d/local3/Relu", node.name)}
    assert products == {
        "tower_0/local3/Relu": "CPU:1",
        "tower_0/local3/Relu_1": "CPU:1",
        "tower_1/local3/Relu": "CPU:0",
        "tower_1/local3/Relu_1": "CPU:0",
    }
    variables = {node.name: node.device[-5:] for node in nodes if node.op == "VarHandleOp"}
    assert len(variables) == 25
    learned = {name for name in variables if re.search("weights|biases", name)}
    assert len(learned) == 20 and {variables[name] for name in learned} == {place}
    updates = [node for node in nodes if node.op == "ResourceApplyGradientDescent"]
    assert len(updates) == 20 and {node.device[-5:] for node in updates} == {place}


@pytest.mark.slow
def test_towers_with_variables_elsewhere_train_as_one_does(examples, monkeypatch):
    one = Trainer(examples, 1)
    monkeypatch.setattr(devices, "of_towers", lambda num_towers: ["/cpu:1", "/cpu:0"])
    several = Trainer(examples, 2, variables_on="gpu")
    np.testing.assert_allclose([one.step() for _ in range(3)], [several.step() for _ in range(3)], rtol=1e-6)
