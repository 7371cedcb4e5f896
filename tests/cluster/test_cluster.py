"""Training across machines, with real processes on 127.0.0.1: it equals one process, and survives the loss of any."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import (
    SCRIPTS,
    arguments,
    assert_equal_to_the_last_bit,
    assert_product_of_speeds,
    environment,
    final,
    run_script,
)

from cifar10 import cifar10_input
from cifar10.cluster import exchange, local, members, ports, workers
from cifar10.cluster.chief import Chief
from cifar10.data import datasets, records
from cifar10.errors import ClusterError
from cifar10.machine import devices
from cifar10.network import microbatches, model, training
from cifar10.runs import history

STEPS = 50
SMALL = {"batch_size": 16, "microbatch_size": 8}


def cluster_flags(data_dir, train_dir, **flags):
    """Returns command-line arguments; the pipeline's flags are of one machine only."""
    pipeline = {"input_pipeline": None, "min_fraction_of_examples_in_queue": None}
    return arguments(data_dir, train_dir, **pipeline, eval_dir=f"{train_dir}-eval", **flags)


class Process:
    """A running script whose lines, of both outputs, go to a file."""

    def __init__(self, log, arguments, tf_config=None):
        variables = {"TF_CONFIG": json.dumps(tf_config)} if tf_config else {}
        self.log = log
        self.members = {}
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                [sys.executable, SCRIPTS / "cifar10_distributed_train.py", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment() | variables,
            )

    @property
    def pid(self):
        return self.process.pid

    def text(self):
        return self.log.read_text()

    def wait_for(self, pattern, secs=60):
        """Waits for a line that has the pattern, and returns how long that took."""
        started = time.time()
        while not re.search(pattern, self.text()):
            assert time.time() - started < secs, f"{pattern!r} did not come:\n{self.text()}"
            assert self.process.poll() is None, self.text()
            time.sleep(0.05)
        return time.time() - started

    def find_members(self):
        """Returns {(job, task): process id} of a local cluster's members."""
        self.members = children(self.pid)
        return self.members

    def end(self, code=0, secs=60):
        assert self.process.wait(secs) == code, self.text()


@pytest.fixture
def start(tmp_path):
    """Starts processes, of which none is left in the end."""
    processes = []

    def start(arguments, tf_config=None):
        processes.append(Process(tmp_path / f"{len(processes)}.log", arguments, tf_config))
        return processes[-1]

    yield start
    for each in processes:
        for pid in [pid for pid in (each.members | children(each.pid)).values() if alive(pid)]:
            os.kill(pid, signal.SIGKILL)
        each.process.kill()
        each.process.wait()


def children(pid):
    """Returns {(job, task): process id} of a local cluster's members."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                variables = path.with_name("environ").read_bytes().split(b"\0")
                config = next(each for each in variables if each.startswith(b"TF_CONFIG="))
                task = json.loads(config.partition(b"=")[2])["task"]
                found[task["type"], task["index"]] = int(path.parent.name)
        except (OSError, StopIteration):  # it has just ended, or just begun
            pass
    return found


def alive(pid):
    """Returns whether a process runs; one that has ended and was not waited for does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def free_addresses(count):
    with ports.reserved(count) as numbers:
        return [f"127.0.0.1:{number}" for number in numbers]


def metrics(train_dir):
    return [json.loads(line) for line in (train_dir / history.METRICS).read_text().splitlines()]


def losses(train_dir):
    return [line["loss"] for line in metrics(train_dir)]


# What TF_CONFIG and the flags say.

TFJOB = {
    "cluster": {"chief": ["job-chief-0.ns.svc:2222"], "ps": ["job-ps-0.ns.svc:2222"], "worker": ["a:2222", "b:2222"]},
    "task": {"type": "worker", "index": 1},
    "environment": "cloud",
}


def of_task(job, index, config=TFJOB):
    return json.dumps({**config, "task": {"type": job, "index": index}})


@pytest.mark.parametrize(
    ("job", "index", "name", "device", "address"),
    [
        ("chief", 0, "chief", "/job:worker/task:0", "job-chief-0.ns.svc:2222"),
        ("worker", 1, "worker 1", "/job:worker/task:2", "b:2222"),
        ("ps", 0, "ps 0", "/job:ps/task:0", "job-ps-0.ns.svc:2222"),
    ],
)
def test_tf_config_says_who_takes_part_and_who_this_is(job, index, name, device, address):
    here = members.from_tf_config(of_task(job, index))
    assert (here.name, here.device, here.address) == (name, device, address)
    assert here.is_chief == (job == "chief")
    assert here.holders == ["/job:ps/task:0"]
    assert len(here.members) == 3 and name not in here.members


def test_without_a_chief_worker_0_is_it_and_without_parameter_servers_it_holds_the_variables():
    for here in (
        members.from_tf_config(of_task("worker", 0, {"cluster": {"worker": ["a:1", "b:1"]}})),
        members.from_hosts(["a:1", "b:1"], [], "worker", 0),
    ):
        assert here.is_chief and here.name == "worker 0" and here.holders == ["/job:worker/task:0"]


def test_an_evaluator_need_not_be_in_the_cluster_and_master_is_an_old_name_of_chief():
    assert members.from_tf_config(of_task("evaluator", 0)).job == "evaluator"
    here = members.from_tf_config(of_task("master", 0, {"cluster": {"master": ["a:1"], "worker": ["b:1"]}}))
    assert here.is_chief and here.workers == ("a:1", "b:1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{cluster:", "TF_CONFIG: is not JSON ("),
        ("[]", 'TF_CONFIG: must have "cluster"'),
        (of_task("worker", 2), "TF_CONFIG: this task is worker 2, and there are only chief, worker 0, worker 1, ps 0"),
        (of_task("ps", 1), "TF_CONFIG: this task is ps 1, and there are only chief"),
        (
            of_task("gardener", 0),
            "TF_CONFIG: this task is of the job 'gardener'; known are chief, worker, ps, evaluator",
        ),
        (of_task("worker", "one"), 'TF_CONFIG: the "index" of "task" must be a number from 0, not "one"'),
        (of_task("worker", 0, {"cluster": {"ps": ["a:1"]}}), "TF_CONFIG: there is no worker"),
        (of_task("worker", 0, {"cluster": {"worker": "a:1"}}), "TF_CONFIG: 'worker' must be a list of addresses"),
        (of_task("worker", 0, {"cluster": {"worker": ["a"]}}), "TF_CONFIG: 'a' is no address; write host:port"),
        (of_task("worker", 0, {"cluster": {"worker": ["a:1", "a:1"]}}), "TF_CONFIG: a:1 is there 2 times"),
        (of_task("chief", 0, {"cluster": {"worker": ["a:1"]}}), "TF_CONFIG: this task is the chief, and"),
        (of_task("chief", 0, {"cluster": {"chief": ["a:1", "b:1"]}}), "TF_CONFIG: has 2 chiefs"),
        (of_task("worker", 0, {"cluster": {"werker": ["a:1"]}}), "TF_CONFIG: \"cluster\" has a job 'werker'"),
    ],
)
def test_a_wrong_tf_config_gets_one_clear_line(text, message):
    with pytest.raises(ClusterError) as error:
        members.from_tf_config(text)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_there_must_be_one_cluster():
    with pytest.raises(ClusterError, match="there is no cluster: set TF_CONFIG"):
        members.find(None, [], [], "worker", 0)
    with pytest.raises(ClusterError, match="TF_CONFIG and --local_workers describe a cluster each"):
        members.find(of_task("ps", 0), [], [], "worker", 0, local_workers=2)
    assert members.find(None, [], [], "worker", 0, local_workers=2) is None


# Where things are, and what crosses the network: in the partition graphs that TensorFlow has run.


class Recorder:
    """A session that keeps the partition graphs of its largest run, which is that of the step."""

    def __init__(self, session):
        self._session = session
        self.partitions = []

    def run(self, fetches, feed_dict=None, options=None):
        options, metadata = options or tf.RunOptions(), tf.RunMetadata()
        options.output_partition_graphs = True
        values = self._session.run(fetches, feed_dict, options, metadata)
        self.partitions = max(
            self.partitions,
            list(metadata.partition_graphs),
            key=lambda graphs: sum(len(graph.node) for graph in graphs),
        )
        return values

    def make_callable(self, fetches, accept_options=False):
        return lambda options=None: self.run(fetches, options=options)

    def nodes(self, types):
        return [node for graph in self.partitions for node in graph.node if re.search(types, node.op)]

    def sent(self, job):
        """Returns the names of the float32 tensors that a job has sent to another in the last run."""
        return [
            node.attr["tensor_name"].s.decode()
            for node in self.nodes("^_(Host)?Send$")
            if node.attr["T"].type == tf.float32.as_datatype_enum
            and "/ctrl_" not in node.input[0]  # which says only that something is done
            and node.attr["send_device"].s.decode().startswith(f"/job:{job}/")
            and not node.attr["recv_device"].s.decode().startswith(f"/job:{job}/")
        ]


def devices_of(nodes):
    return {re.match(r"/job:\w+/replica:0/task:\d+", node.device)[0].replace("/replica:0", "") for node in nodes}


@pytest.fixture
def recorders(noise):
    """A parameter server and two workers in this process train a step; returns the Recorders of chief and worker."""
    addresses = free_addresses(3)
    config = tf.ConfigProto(intra_op_parallelism_threads=1)
    here = [members.from_hosts(addresses[:2], addresses[2:], "worker", i) for i in range(2)]
    servers = [members.serve(each, config) for each in (*here, dataclasses.replace(here[0], job="ps"))]
    configs = [exchange.session_config(each, config) for each in here]
    waiting = members.Waiting(here[0], 60)
    life = exchange.new_life(0)
    chief = Chief(here[0], workers.Worker(here[0], 4), life, servers[0], configs[0], 1, waiting)
    other = workers.Worker(here[1], 4)
    graphs, built = [tf.Graph(), tf.Graph()], []
    for graph, each, part in zip(graphs, here, (chief, other), strict=True):
        with graph.as_default(), tf.device(exchange.placement(each)):
            global_step = tf.train.get_or_create_global_step()
            built.append(part.build_step(*part.build_input(noise, 0, True), global_step, tf.constant(0.1), 10))
    with graphs[0].as_default():
        initialize = tf.global_variables_initializer()
    with (
        tf.Session(servers[0].target, graphs[0], configs[0]) as first,
        tf.Session(servers[1].target, graphs[1], configs[1]) as second,
    ):
        first.run(initialize)
        of_worker, of_chief = Recorder(second), Recorder(first)
        thread = threading.Thread(target=other.work, args=[of_worker, lambda order: None])
        thread.start()
        chief.before_step(first, 0, lambda: False)
        of_chief.run(built[0])
        chief.close()
        chief.dismiss(exchange.END)
        thread.join()
        yield of_chief, of_worker


def test_variables_and_updates_are_with_the_parameter_server_and_pictures_with_the_worker(recorders):
    of_chief, of_worker = recorders
    assert devices_of(of_worker.nodes("Conv2D|PyFunc|StatelessRandom")) == {"/job:worker/task:1"}
    reads, writes = of_worker.nodes("ReadVariableOp"), of_worker.nodes("AssignVariableOp")
    # The ten variables and the order that was done last; the ten gradients, the cross entropy and the order.
    assert [devices_of([node]) for node in reads].count({"/job:ps/task:0"}) == 11
    assert [devices_of([node]) for node in writes].count({"/job:ps/task:0"}) == 12
    # The batch that is prepared, with its step, stays on the worker.
    assert [devices_of([node]) for node in reads].count({"/job:worker/task:1"}) == len(reads) - 11 == 3
    assert [devices_of([node]) for node in writes].count({"/job:worker/task:1"}) == len(writes) - 12 == 3
    updates = of_chief.nodes("ResourceApplyGradientDescent")
    assert len(updates) == 20 and devices_of(updates) == {"/job:ps/task:0"}  # the variables and their moving averages
    assert not of_chief.nodes("Conv2D")


def test_a_step_sends_the_variables_as_two_tensors_and_gradients_and_loss_as_two(recorders):
    """local3's weights, 83 % of all, by themselves, the factors of their gradient together, and all else together."""
    of_chief, of_worker = recorders
    assert len(of_worker.sent("ps")) == len(of_worker.sent("worker")) == 2
    assert [devices_of([node]) for node in of_worker.nodes("MatMul")].count({"/job:ps/task:0"}) == 1
    # The update is of what is there already; the chief sends the learning rate and gets the loss.
    assert len(of_chief.sent("worker")) == len(of_chief.sent("ps")) == 1


def test_what_is_carried_together_arrives_as_it_was_and_large_tensors_go_alone(graph):
    """Also of several holders, each of which is a way of its own; within a process nothing is done."""
    shapes = [(3, 2), (), (512, 512), (4,), (2, 2)]
    values = [np.float32(np.random.RandomState(i).rand(*shape)) for i, shape in enumerate(shapes)]
    tensors = [tf.constant(value) for value in values]
    here, holders = "/job:worker/task:1", [f"/job:ps/task:{i}/device:CPU:0" for i in (0, 0, 0, 1, 1)]
    for sources, destinations in ([here] * 5, holders), (holders, [here] * 5):
        for tensor, source in zip(tensors, sources, strict=True):
            tensor.op._set_device(source)
        carried = exchange.carry(tensors, destinations)
        assert carried[2] is tensors[2]
        for tensor, destination in zip(carried[:2] + carried[3:], destinations[:2] + destinations[3:], strict=True):
            assert tensor.device.startswith(destination)
    assert [op.type for op in graph.get_operations()].count("ConcatV2") == 4  # one a way
    assert all(a is b for a, b in zip(exchange.carry(tensors, holders), tensors, strict=True))
    for op in graph.get_operations():
        op._set_device("")  # no session has those devices
    with tf.Session() as session:
        for found, value in zip(session.run(carried), values, strict=True):
            np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize(
    ("pictures", "microbatch_size", "shape", "at_weights"),
    [
        (204, 51, (1024, 256), True),
        (8, 0, (1024, 256), True),
        (8, 4, (1024, 255), False),
        (205, 41, (1024, 256), False),
    ],
    ids=["microbatches", "one", "small", "factors_larger"],
)
def test_a_gradient_is_multiplied_at_its_weights_if_less_is_sent_for_it(
    graph, pictures, microbatch_size, shape, at_weights
):
    """The factors' (1,024 + 256) x 204 numbers are fewer than the gradient's 1,024 x 256, and x 205 they are not."""
    rng = np.random.RandomState(0)
    x, weights = np.float32(rng.rand(pictures, shape[0])), np.float32(rng.rand(*shape))
    worker, holder = "/job:worker/task:1/device:CPU:0", "/job:ps/task:0/device:CPU:0"
    with tf.device(worker):
        value = tf.constant(weights)
        with microbatches.computing_with({"weights": value}):
            variable = tf.get_variable("weights", shape, use_resource=True)
            parts = microbatches.each(tf.matmul, microbatches.split(tf.constant(x), microbatch_size), variable)
        (gradient,) = tf.gradients([tf.reduce_sum(tf.square(part)) for part in parts], [value])
    moved = exchange.multiplied_at(holder, gradient)
    assert (moved is not gradient) == at_weights
    if at_weights:
        products = [op for op in graph.get_operations() if op.type == "MatMul" and op.device == holder]
        assert moved.device == holder and len(products) == len(parts)
        together = [op for op in graph.get_operations() if op.type == "ConcatV2"]
        assert len(together) == 1 and together[0].device == worker
    for op in graph.get_operations():
        op._set_device("")  # no session has those devices
    with tf.Session() as session:
        found, expected = session.run([moved, gradient])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, 2 * x.T @ (x @ weights), rtol=1e-5)


def test_with_two_parameter_servers_a_variable_and_what_belongs_to_it_are_together(graph):
    """Of the two, one gets local3's weights, 83 % of all."""
    here = members.from_hosts(["127.0.0.1:1"], ["127.0.0.1:2", "127.0.0.1:3"], "worker", 0)
    with tf.device(exchange.placement(here)):
        global_step = tf.train.get_or_create_global_step()
        loss = training.loss(model.inference(tf.zeros([4, 24, 24, 3])), tf.zeros([4], tf.int32))
        training.train(loss, global_step, tf.constant(0.1))
    home = {variable.op.name: variable.device for variable in tf.global_variables()}
    numbers = {"/job:ps/task:0/device:CPU:0": 0, "/job:ps/task:1/device:CPU:0": 0}
    for name, shape in published.VARIABLES.items():
        assert home[f"{name}/ExponentialMovingAverage"] == home[name]
        numbers[home[name]] += int(np.prod(shape))
    assert 0.83 < max(numbers.values()) / 1_068_298 < 0.85
    # What is read before the update, for the summaries, stays there unless it is shown.
    update = next(op for op in graph.get_operations() if op.type == "ResourceApplyGradientDescent")
    read = [op for op in update.control_inputs if op.outputs and op.outputs[0].shape.rank]
    assert len(read) == 10 and all(op.device.startswith("/job:ps") for op in read)


# Whole trainings, each member a process.


@pytest.fixture(scope="module")
def one(synthetic_dir, tmp_path_factory):
    """The train_dir of one process with batches of 128, and what it printed."""
    train_dir = tmp_path_factory.mktemp("one") / "train"
    values = {"batch_size": 128, "microbatch_size": 32, "max_steps": STEPS, "save_summaries_steps": 20}
    return train_dir, run_script("cifar10_train", *arguments(synthetic_dir, train_dir, **values), check=0).stdout


@pytest.fixture(scope="module", params=[0, 1], ids=["chief holds the variables", "a parameter server holds them"])
def two(request, synthetic_dir, tmp_path_factory):
    """The train_dir of two workers with 64 each, and what they printed."""
    train_dir = tmp_path_factory.mktemp("two") / "train"
    values = {"batch_size": 64, "microbatch_size": 32, "max_steps": STEPS, "save_summaries_steps": 20}
    values |= {"local_workers": 2, "local_ps": request.param}
    process = run_script("cifar10_distributed_train", *cluster_flags(synthetic_dir, train_dir, **values), check=0)
    return train_dir, process.stdout


def test_two_workers_train_as_one_process_does_to_the_last_bit(one, two):
    """2 workers x 64 and 1 x 128, left to themselves for 50 steps; the checkpoint has the tutorial's tensors only."""
    np.testing.assert_allclose(losses(two[0]), losses(one[0]), rtol=1e-6)  # a mean of means may round
    assert losses(two[0])[-1] < losses(two[0])[0] - 0.05  # it does learn, so that equality means something
    expected = final(one[0])
    assert expected["global_step"] == STEPS
    assert_equal_to_the_last_bit(final(two[0]), expected)


def test_the_chief_prints_the_tutorials_line_for_all_workers(two):
    lines = [re.match(published.CONSOLE_LINE, line) for line in two[1].splitlines()]
    assert [int(line[1]) for line in lines] == list(range(STEPS))
    for line in lines:  # examples/sec is 2 * 64 / duration, and sec/batch is duration / 2
        assert_product_of_speeds(line, 64)


OF_THE_CONSOLE_AND_THE_CLOCK = ("console/", "global_step/sec", "input/wait_ms")


def events(train_dir):
    """Returns {(step, tag): value} of scalars and histograms' sums, and the tags of pictures."""
    values, images = {}, set()
    for path in train_dir.glob("events.out.tfevents.*"):
        for event in tf.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.HasField("image"):
                    images.add(value.tag)
                elif not value.tag.startswith(OF_THE_CONSOLE_AND_THE_CLOCK):
                    values[event.step, value.tag] = value.simple_value or value.histo.sum
    return values, images


def test_the_chief_writes_the_tags_and_values_of_one_process(one, two):
    """Activations are of its own slice, all else is of all."""
    expected, expected_images = events(one[0])
    values, images = events(two[0])
    assert values.keys() == expected.keys() and images == expected_images
    assert {step for step, _ in values} == {0, 20, 40}
    for (step, tag), value in values.items():
        if not re.search("activations|sparsity", tag):
            np.testing.assert_allclose(value, expected[step, tag], rtol=2e-4, atol=1e-5, err_msg=f"{tag}, step {step}")


def test_killed_one_after_the_other_they_end_with_the_weights_of_one_process(start, synthetic_dir, tmp_path):
    """kill -9 of a worker, the parameter server, the chief: each time a further step within 60 s, and losses as if
    nothing had been."""
    steps = {"max_steps": 120, "save_checkpoint_steps": 10, "keep_checkpoints": 0, "save_summaries_steps": 0}
    one = [*arguments(synthetic_dir, tmp_path / "one", batch_size=32, **{**steps, "microbatch_size": 8})]
    run_script("cifar10_train", *one, check=0)
    values = {**SMALL, **steps, "local_workers": 2, "local_ps": 1}
    parent = start(cluster_flags(synthetic_dir, tmp_path / "train", **values))
    for step, member in ((20, ("worker", 1)), (45, ("ps", 0)), (70, ("worker", 0))):
        parent.wait_for(f": step {step},")
        os.kill(parent.find_members()[member], signal.SIGKILL)
        name = "{} {}".format(*member)
        parent.wait_for(f"{name} was killed by SIGKILL; starting it again")
        parent.wait_for(f"{name} was killed (.|\n)*: step {step + 10},", 60)
    parent.end()
    text = parent.text()
    assert "worker 1: lost the connection to ps 0" in text
    by_step = {line["step"]: line["loss"] for line in metrics(tmp_path / "train")}
    np.testing.assert_allclose(list(by_step.values()), losses(tmp_path / "one"), rtol=1e-6)
    assert_equal_to_the_last_bit(final(tmp_path / "train"), final(tmp_path / "one"))


def test_who_is_missing_is_said_and_who_differs_refused_and_all_end_with_the_training(start, synthetic_dir, tmp_path):
    """As TFJob starts them: a chief, a worker, a parameter server and an evaluator, each with its TF_CONFIG."""
    chief, worker, ps = free_addresses(3)
    config = {"cluster": {"chief": [chief], "worker": [worker], "ps": [ps]}}
    options = cluster_flags(synthetic_dir, tmp_path / "train", **SMALL, max_steps=20, eval_interval_secs=0)

    def member(job, *more):
        return start([*options, *more], {**config, "task": {"type": job, "index": 0}})

    members = [member("chief"), member("evaluator")]
    members[0].wait_for(rf"\nchief: waiting for ps 0 \({ps}\) since 1\d s\n", 30)
    members.append(member("ps"))
    members[0].wait_for(rf"\nchief: waiting for worker 0 \({worker}\) since 1\d s\n", 30)
    other = member("worker", "--seed=1")
    other.end(1)
    assert "worker 0: chief was started with another cluster, --batch_size," in other.text()
    assert "Traceback" not in other.text()
    members.append(member("worker"))
    for each in members:
        each.end()
    assert re.search(r"precision @ 1 = 0\.\d{3}", members[1].text())
    assert final(tmp_path / "train")["global_step"] == 20


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_when_the_first_is_ended(start, synthetic_dir, tmp_path, signum):
    values = {**SMALL, "local_workers": 2, "local_ps": 1, "max_steps": 100_000, "save_summaries_steps": 0}
    parent = start(cluster_flags(synthetic_dir, tmp_path / "train", **values))
    parent.wait_for(": step 3,")
    members = parent.find_members()
    assert members.keys() == {("worker", 0), ("worker", 1), ("ps", 0)}
    parent.process.send_signal(signum)
    parent.end(-signum if signum == signal.SIGKILL else 128 + signum)
    deadline = time.time() + 20
    while any(map(alive, members.values())):
        assert time.time() < deadline
        time.sleep(0.1)


def test_asynchronous_workers_do_each_step_once(start, synthetic_dir, tmp_path):
    values = {**SMALL, "local_workers": 2, "sync": False, "max_steps": 60, "save_summaries_steps": 20}
    parent = start(cluster_flags(synthetic_dir, tmp_path / "train", **values))
    parent.end()
    assert final(tmp_path / "train")["global_step"] == 60
    shown = losses(tmp_path / "train")
    assert len(shown) == 60 and np.mean(shown[-10:]) < np.mean(shown[:10])
    values, images = events(tmp_path / "train")
    assert {tag for _, tag in values} >= published.SCALARS | published.HISTOGRAMS and images


def test_a_step_goes_on_without_backup_workers_with_the_mean_of_those_who_came(start, synthetic_dir, tmp_path, noise):
    """Of two workers one never comes: the other's halves of the batches are all there is."""
    here, gone = free_addresses(2)
    config = {"cluster": {"worker": [here, gone]}, "task": {"type": "worker", "index": 0}}
    flags = {**SMALL, "backup_workers": 1, "max_steps": 5, "save_summaries_steps": 0}
    chief = start(cluster_flags(synthetic_dir, tmp_path / "train", **flags), config)
    examples = records.load(datasets.SYNTHETIC, synthetic_dir, "train")
    with tf.Graph().as_default(), tf.Session(config=devices.session_config(2)) as session:
        step = tf.placeholder(tf.int64, [])
        images, labels = cifar10_input.distorted_slice(examples, step, 32, 0, 16)
        loss = training.loss(model.inference(images, seed=0, microbatch_size=8), labels)
        train_op = training.train(loss, tf.train.get_or_create_global_step(), tf.constant(0.1))
        session.run(tf.global_variables_initializer())
        expected = [session.run([loss, train_op], {step: i})[0] for i in range(5)]
    chief.end()
    np.testing.assert_allclose(losses(tmp_path / "train"), expected, rtol=1e-5)
    # No step waits for who never comes, not even as long as the chief waits before it asks again (of which the line
    # has half, for two workers).
    assert min(line["sec_per_batch"] for line in metrics(tmp_path / "train")) < members.POLL_SECS / 4


def test_there_is_an_end_to_waiting(start, synthetic_dir, tmp_path):
    gone, here = free_addresses(2)
    config = {"cluster": {"worker": [gone, here]}, "task": {"type": "worker", "index": 1}}
    worker = start(cluster_flags(synthetic_dir, tmp_path / "train", **SMALL, max_wait_secs=1), config)
    worker.end(1)
    assert re.search(
        rf"\ncifar10_distributed_train.py: worker 1: waited 1 s for worker 0 \({gone}\); see", worker.text()
    )
    assert "Traceback" not in worker.text()


# Who may connect.


def test_other_machines_are_refused_unless_they_are_allowed():
    with pytest.raises(ClusterError, match=r"^a:2222 is another machine's address, and .* takes --listen_on_network"):
        members.serve(members.from_hosts(["127.0.0.1:1", "a:2222"], [], "worker", 0), tf.ConfigProto())
    for address, loopback in (("localhost:1", True), ("127.1.2.3:1", True), ("[::1]:1", True), ("10.0.0.1:1", False)):
        assert ports.is_loopback(address) == loopback


def own_address():
    """Returns an address of this machine that is none of loopback's, or None."""
    with socket.socket(type=socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(("192.0.2.1", 9))  # sends nothing
            return any_socket.getsockname()[0]
        except OSError:
            return None


@pytest.mark.skipif(not own_address() or not ports.can_close(), reason="needs a network, and leave to filter")
def test_a_port_of_tensorflows_server_is_closed_to_all_but_this_machine():
    """TensorFlow listens on all interfaces; a packet that comes from the machine's network address is dropped."""
    (address,) = free_addresses(1)
    outside = f"{own_address()}:{address.rpartition(':')[2]}"
    here = members.from_hosts([address], [], "worker", 0)
    server = tf.train.Server(tf.train.ClusterSpec({"worker": [address]}), job_name="worker", task_index=0)
    assert ports.answers(address) and ports.answers(outside)
    files = len(os.listdir("/proc/self/fd"))
    ports.close_to_others(int(address.rpartition(":")[2]))
    assert len(os.listdir("/proc/self/fd")) <= files
    assert ports.answers(address) and not ports.answers(outside)
    with tf.Graph().as_default(), tf.Session(server.target) as session:
        assert session.run(tf.constant(1) + 1) == 2
    assert here.is_chief


def test_where_a_port_cannot_be_closed_nothing_is_started(monkeypatch):
    def refuse(each):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(ports, "_attach_filter", refuse)
    monkeypatch.setattr(ports, "is_alone", lambda: False)
    monkeypatch.setattr(ports, "PRIVATE", ["no-such-program"])
    here = members.from_hosts(free_addresses(1), [], "worker", 0)
    with pytest.raises(ClusterError, match=r"cannot be closed to other machines \(Operation not permitted\)"):
        members.serve(here, tf.ConfigProto())
    with pytest.raises(ClusterError, match="permits neither a filter in front of a port nor a network of one's own"):
        local.train(["true"], 1)


def test_a_network_of_its_own_reaches_this_process_and_nobody_else():
    code = """
from cifar10 import ports
import socket
assert ports.is_alone()
ports.raise_loopback()
with socket.create_server(("127.0.0.1", 0)) as server:
    assert ports.answers("127.0.0.1:%d" % server.getsockname()[1])
assert not ports.answers("192.0.2.1:9")
"""
    if subprocess.run([*ports.PRIVATE, "true"], capture_output=True).returncode:
        pytest.skip("this system does not permit it")
    subprocess.run([*ports.PRIVATE, sys.executable, "-c", code], env=environment(), check=True)
    assert not ports.is_alone() or own_address() is None
