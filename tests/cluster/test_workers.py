"""The step of several workers, each a thread with a graph, a session and a server of TensorFlow's of its own."""

import concurrent.futures
import dataclasses
import threading

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import assert_equal_to_the_last_bit
from processes import free_addresses

from cifar10.cluster import collectives, members, workers
from cifar10.cluster.workers import Workers
from cifar10.data import datasets
from cifar10.data.source import Source
from cifar10.network import microbatches, recipes
from cifar10.network.model import Network
from cifar10.network.steps import OneDevice
from cifar10.runs import trainer
from cifar10.runs.run import RunOptions

NETWORK = Network(seed=0, microbatch_size=4)
DATA = trainer.TrainingData(Source(datasets.SYNTHETIC, ""), seed=3)
STEPS = 3


def in_company(num_workers, function, batch_size=4, network=NETWORK, **options):
    """Returns what function(step) returns for each worker, all of which are at work at the same time."""
    addresses = free_addresses(num_workers)
    steps = [
        # Each would begin with other variables.
        Workers(
            dataclasses.replace(NETWORK, seed=task), batch_size, False, members.from_hosts(addresses, task), **options
        )
        for task in range(num_workers)
    ]
    assert len({step.target for step in steps}) == num_workers  # all servers are there
    with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
        return list(pool.map(function, steps))


def trained(step, examples, recipe=recipes.TUTORIAL):
    """Trains a few steps; returns the losses and {name: value} of all variables."""
    with tf.Graph().as_default():
        graph = trainer.build(step, DATA, recipe, RunOptions("", max_steps=20), examples, 0)
        share = tf.no_op()
        if step.num_slices > 1:
            share = step.collectives(60.0).broadcast(sends=step.cluster.is_chief)
        with tf.Session(step.target, config=step.session_config()) as session:
            session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            session.run(share)
            losses = [session.run([graph.loss, graph.train_op])[0] for _ in range(STEPS)]
            return losses, session.run({variable.op.name: variable for variable in tf.global_variables()})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_workers", "recipe"),
    [(2, recipes.FAST), (2, recipes.MUON), (4, recipes.TUTORIAL)],
    ids=["2, fast", "2, muon", "4, tutorial"],
)
def test_workers_train_as_one_device_does_to_the_last_bit(noise, num_workers, recipe):
    """And all of them have the same variables, which are the chief's."""
    losses, expected = trained(OneDevice(NETWORK, 8 * num_workers), noise, recipe)
    assert expected["global_step"] == STEPS
    for found_losses, found in in_company(num_workers, lambda step: trained(step, noise, recipe), batch_size=8):
        np.testing.assert_allclose(found_losses, losses, rtol=1e-6)  # a mean of means may round
        assert found.keys() == expected.keys()
        assert_equal_to_the_last_bit(found, expected)


@pytest.mark.slow
def test_half_precision_is_the_same_in_workers_but_for_its_rounding(noise):
    """They fuse less, because a server of TensorFlow's refuses fused convolutions in bfloat16."""
    network = dataclasses.replace(NETWORK, dtype="bfloat16")
    losses, expected = trained(OneDevice(network, 16), noise)
    (first_losses, first), (_, second) = in_company(2, lambda step: trained(step, noise), batch_size=8, network=network)
    np.testing.assert_allclose(first_losses, losses, rtol=2e-3)
    for name in published.VARIABLES:
        np.testing.assert_allclose(first[name], expected[name], atol=1e-3, err_msg=name)
        np.testing.assert_array_equal(second[name], first[name], err_msg=name)


@pytest.mark.slow
def test_five_workers_in_a_ring_train_nearly_as_one_device_does_and_all_alike(noise):
    losses, expected = trained(OneDevice(NETWORK, 20), noise)
    (first_losses, first), *others = in_company(5, lambda step: trained(step, noise))
    np.testing.assert_allclose(first_losses, losses, atol=1e-5)
    for name, value in first.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)
    for other_losses, other in others:
        assert other_losses == first_losses
        assert all(np.array_equal(other[name], first[name]) for name in first)


def test_all_variables_of_the_chief_are_brought_to_the_others():
    """Those that checkpoints do not hold, as momentum, too; of any type."""

    def share(step):
        with tf.Graph().as_default(), tf.device("/cpu:0"):
            for name, value, local in (("a", [1.5, 2.5], False), ("b", [[3.5]], True), ("c", 4, False), ("d", 5, True)):
                collection = tf.GraphKeys.LOCAL_VARIABLES if local else tf.GraphKeys.GLOBAL_VARIABLES
                own = np.array(value) * (1 + step.cluster.task)
                own = own.astype(np.int64 if isinstance(value, int) else np.float32)
                tf.get_variable(name, initializer=own, collections=[collection], use_resource=True)
            variables = [*tf.global_variables(), *tf.local_variables()]
            share = step.collectives(60.0).broadcast(sends=step.cluster.is_chief)
            with tf.Session(step.target, config=step.session_config()) as session:
                session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
                session.run(share)
                return session.run({variable.op.name: variable for variable in variables})

    for found in in_company(3, share):
        assert {name: value.tolist() for name, value in found.items()} == {
            "a": [1.5, 2.5],
            "b": [[3.5]],
            "c": 4,
            "d": 5,
        }


@pytest.mark.parametrize(
    ("kind", "num_workers", "ring"), [("auto", 4, False), ("auto", 5, True), ("gather", 5, False), ("ring", 2, True)]
)
def test_up_to_four_workers_gather_and_more_make_a_ring(graph, kind, num_workers, ring):
    variable = tf.get_variable("v", [3], use_resource=True)
    gradients, losses = collectives.Collectives(num_workers, kind).all_reduce(
        [variable], [tf.ones([3])], tf.constant(1.0)
    )
    assert len(gradients) == len(losses) == (1 if ring else num_workers)
    types = [op.type for op in graph.get_operations() if op.type.startswith("Collective")]
    assert types == ["CollectiveReduceV2" if ring else "CollectiveGatherV2"]


def test_of_twelve_workers_each_is_in_its_place(noise):
    """TensorFlow gathers in the order of names as text, in which worker 10 comes before worker 2."""

    def gather(step):
        task = step.cluster.task
        with tf.Graph().as_default(), tf.device("/cpu:0"):
            variable = tf.get_variable("v", [2], use_resource=True)
            gradient, loss = tf.constant([task, 0.5]), tf.constant(float(task))
            found = step.collectives(60.0).all_reduce([variable], [gradient], loss)
            with tf.Session(step.target, config=step.session_config()) as session:
                return session.run(found)

    for gradients, losses in in_company(12, gather, all_reduce="gather"):
        assert losses == list(range(12))
        np.testing.assert_array_equal(np.squeeze(gradients), [[task, 0.5] for task in range(12)])


def test_a_step_sends_the_factors_of_local3_and_local4_and_all_else_as_it_is(noise):
    """In two tensors: what is there before the convolutions' gradients, and those."""

    def sizes(step):
        with tf.Graph().as_default() as graph:
            trainer.build(step, DATA, recipes.TUTORIAL, RunOptions("", max_steps=20), noise, 0)
            ops = [op for op in graph.get_operations() if op.type == "CollectiveGatherV2"]
            return [op.inputs[0].shape.num_elements() for op in ops]

    convolutions = 5 * 5 * 3 * 64 + 64 + 5 * 5 * 64 * 64 + 64
    factors = 16 * (2304 + 384) + 16 * (384 + 192)  # instead of 2304 * 384 and 384 * 192
    others = 384 + 192 + 192 * 10 + 10 + 1  # with the cross entropy
    assert in_company(2, sizes, batch_size=16) == [[factors + others, convolutions]] * 2


@pytest.mark.parametrize(
    ("images", "microbatch_size", "shape", "kind", "num_workers", "factored"),
    [
        (204, 51, (1024, 256), "gather", 2, True),
        (205, 41, (1024, 256), "gather", 2, False),
        (8, 0, (1024, 256), "gather", 2, True),
        (102, 51, (1024, 256), "ring", 4, True),
        (103, 51, (1024, 256), "ring", 4, False),
    ],
    ids=["microbatches", "factors are more", "one", "ring", "ring, factors are more"],
)
def test_a_gradient_travels_as_its_factors_where_that_is_less(
    graph, images, microbatch_size, shape, kind, num_workers, factored
):
    """Gathered: (1,024 + 256) x 204 numbers are fewer than 1,024 x 256, and x 205 they are not. A ring's way is two
    gradients long, whatever the number of workers, of whom four send x 102: fewer, and x 103 not."""
    rng = np.random.RandomState(0)
    x, weights = np.float32(rng.rand(images, shape[0])), np.float32(rng.rand(*shape))
    variable = tf.get_variable("weights", initializer=weights, use_resource=True)
    parts = microbatches.each(tf.matmul, microbatches.split(tf.constant(x), microbatch_size), variable)
    (gradient,) = tf.gradients([tf.reduce_sum(tf.square(part)) for part in parts], [variable])
    products = collectives.Collectives(num_workers, kind)._products(gradient)
    assert len(products) == (len(parts) if factored else 0)
    if factored:
        factors = [factor for product in products for factor in product.op.inputs]
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            found, expected = session.run([collectives._multiplied(products, factors), gradient])
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(found, 2 * x.T @ (x @ weights), rtol=1e-5)


def test_what_is_no_product_travels_as_it_is(graph):
    variable = tf.get_variable("biases", [4], use_resource=True)
    (gradient,) = tf.gradients(tf.reduce_sum(tf.ones([8, 4]) + variable), [variable])
    assert collectives.Collectives(2)._products(gradient) == []


@pytest.mark.slow
def test_a_collective_that_fails_changes_nothing(noise, monkeypatch):
    """Not even where another one of the same step has succeeded: the other worker takes part in the first one only."""
    monkeypatch.setattr(workers, "LAST_RESORT_SECS", 0.0)
    over = threading.Event()

    def step_of_one(step):
        with tf.Graph().as_default() as graph:
            built = trainer.build(step, DATA, recipes.FAST, RunOptions("", max_steps=20), noise, 0)
            variables = {variable.op.name: variable for variable in [*tf.global_variables(), *tf.local_variables()]}
            gathers = [op for op in graph.get_operations() if op.type == "CollectiveGatherV2"]
            assert len(gathers) == 2
            with tf.Session(step.target, config=step.session_config()) as session:
                session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
                if not step.cluster.is_chief:
                    session.run(gathers[0])
                    over.wait(60)
                    return
                before = session.run(variables)
                with pytest.raises(collectives.LOST):
                    session.run(built.train_op)
                after = session.run(variables)
                over.set()
        assert before["global_step"] == after["global_step"] == 0
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value, err_msg=name)

    in_company(2, step_of_one, hang_secs=10.0)


@pytest.mark.parametrize(("hosts", "expected"), [("aa", 4), ("aaaaaaaaaaaa", 1), ("ab", 0), ("aba", 4)])
def test_workers_that_share_a_machine_share_its_cores(monkeypatch, hosts, expected):
    """0 leaves the number of threads to TensorFlow, which takes all cores."""
    monkeypatch.setattr(workers.devices, "num_cores", lambda: 8)
    cluster = members.from_hosts([f"{host}:{port}" for port, host in enumerate(hosts, 1)], 0)
    config = Workers(NETWORK, 8, False, cluster).session_config()
    assert config.inter_op_parallelism_threads == expected
    assert config.experimental.disable_thread_spinning == bool(expected)
