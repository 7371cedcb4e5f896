"""What TF_CONFIG and the flags say: who takes part, and who of them this process is."""

import json

import pytest

from cifar10.cluster import members
from cifar10.errors import ClusterError

TFJOB = {
    "cluster": {"chief": ["job-chief-0.ns.svc:2222"], "worker": ["a:2222", "b:2222"]},
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
        ("worker", "0", "worker 0", "/job:worker/task:1", "a:2222"),
    ],
    ids=["chief", "worker", "index as text"],
)
def test_tf_config_says_who_takes_part_and_who_this_is(job, index, name, device, address):
    here = members.from_tf_config(of_task(job, index))
    assert (here.name, here.device, here.address) == (name, device, address)
    assert here.is_chief == (job == "chief")
    assert here.describe(range(3)) == ("chief (job-chief-0.ns.svc:2222), worker 0 (a:2222), worker 1 (b:2222)")


def test_without_a_chief_worker_0_is_it():
    for here in (
        members.from_tf_config(of_task("worker", 0, {"cluster": {"worker": ["a:1", "b:1"]}})),
        members.from_hosts(["a:1", "b:1"], 0),
    ):
        assert here.is_chief and here.name == "worker 0" and here.workers == ("a:1", "b:1")


def test_an_evaluator_need_not_be_in_the_cluster_and_master_is_an_old_name_of_chief():
    assert members.from_tf_config(of_task("evaluator", 0)).job == "evaluator"
    here = members.from_tf_config(of_task("master", 0, {"cluster": {"master": ["a:1"], "worker": ["b:1"]}}))
    assert here.is_chief and here.workers == ("a:1", "b:1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{cluster:", "TF_CONFIG: is not JSON ("),
        ("[]", 'TF_CONFIG: must have "cluster"'),
        (of_task("worker", 2), "TF_CONFIG: this task is worker 2, and there are only chief, worker 0, worker 1"),
        (of_task("gardener", 0), "TF_CONFIG: this task is of the job 'gardener'; known are chief, worker, evaluator"),
        (of_task("worker", "one"), 'TF_CONFIG: the "index" of "task" must be a number from 0, not "one"'),
        (of_task("worker", 0, {"cluster": {}}), "TF_CONFIG: there is no worker"),
        (of_task("worker", 0, {"cluster": {"worker": "a:1"}}), "TF_CONFIG: 'worker' must be a list of addresses"),
        (of_task("worker", 0, {"cluster": {"worker": ["a"]}}), "TF_CONFIG: 'a' is no address; write host:port"),
        (of_task("worker", 0, {"cluster": {"worker": ["a:1", "a:1"]}}), "TF_CONFIG: a:1 is there 2 times"),
        (of_task("chief", 0, {"cluster": {"worker": ["a:1"]}}), "TF_CONFIG: this task is the chief, and"),
        (of_task("chief", 0, {"cluster": {"chief": ["a:1", "b:1"]}}), "TF_CONFIG: has 2 chiefs"),
        (of_task("worker", 0, {"cluster": {"werker": ["a:1"]}}), "TF_CONFIG: \"cluster\" has a job 'werker'"),
        (
            of_task("worker", 0, {"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}),
            "TF_CONFIG: has a parameter server (ps), and here the workers keep the variables themselves and all-reduce "
            "their gradients; leave ps out, and start its machine as one more worker",
        ),
        (of_task("ps", 0), "TF_CONFIG: has a parameter server (ps)"),
        (json.dumps({**TFJOB, "task": {"task": 0}}), 'TF_CONFIG: "task" has \'task\' and no "index", which says which'),
        (json.dumps({**TFJOB, "task": {"type": "worker", "task": 1}}), "TF_CONFIG: \"task\" has 'task' and no"),
    ],
)
def test_a_wrong_tf_config_gets_one_clear_line(text, message):
    with pytest.raises(ClusterError) as error:
        members.from_tf_config(text)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_an_empty_list_of_parameter_servers_is_none():
    """Some writers of TF_CONFIG name all jobs."""
    assert members.from_tf_config(of_task("worker", 0, {"cluster": {"worker": ["a:1"], "ps": []}})).workers == ("a:1",)


def test_there_must_be_one_cluster():
    with pytest.raises(ClusterError, match="there is no cluster: set TF_CONFIG"):
        members.find(None, [], 0)
    with pytest.raises(ClusterError, match="TF_CONFIG and --local_workers describe a cluster each"):
        members.find(of_task("worker", 0), [], 0, local_workers=2)
    assert members.find(None, [], 0, local_workers=2) is None


def test_of_many_who_are_missing_the_first_few_are_named():
    here = members.from_hosts([f"a:{i}" for i in range(1, 21)], 0)
    assert here.describe(range(1, 20)).endswith("worker 5 (a:6), 14 more")


def test_this_machine_under_two_names_is_one_address():
    """Other loopback addresses are other ones."""
    with pytest.raises(ClusterError) as error:
        members.from_hosts(["localhost:1", "127.0.0.1:1"], 0)
    assert str(error.value) == ("--worker_hosts: localhost:1 and 127.0.0.1:1 are one address; each worker has its own")
    assert members.from_hosts(["localhost:1", "127.0.0.1:2", "127.0.0.2:1", "a:1"], 0).is_chief


def test_a_sparse_cluster_is_told_with_its_remedy():
    """As of a TFJob with enableDynamicWorker, in which a worker knows no other."""
    config = {"sparseCluster": {"worker": {"0": "a:1"}, "ps": []}, "task": {"type": "worker", "index": 0}}
    with pytest.raises(ClusterError, match=r"^TF_CONFIG: has a sparseCluster, .*; set enableDynamicWorker to false$"):
        members.from_tf_config(json.dumps(config))
