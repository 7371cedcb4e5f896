"""Who takes part in a training on several machines, and the server through which this process does.

The description comes from TF_CONFIG, as Kubernetes' TFJob and Vertex AI set it, or from lists of addresses. The chief
is the first worker: TF_CONFIG's chief, or master, if it has one, and else worker 0.
"""

import dataclasses
import functools
import json
import time

import tensorflow.compat.v1 as tf

from cifar10.cluster import ports
from cifar10.errors import ClusterError, reason

JOBS = ("chief", "worker", "ps", "evaluator")
_ONE_CHIEF = ("chief", "master")  # the latter is the older name
POLL_SECS = 0.5  # between two looks whether what is waited for has come; a signal waits as long
LINE_SECS = 10.0  # between two lines that say what is waited for


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The addresses, as host:port, of all who take part, and who of them this process is.

    Attributes:
      workers: addresses of the workers, the chief's first.
      ps: addresses of the parameter servers, which hold the variables; where there are none the chief holds them.
      job: 'worker' (also of the chief), 'ps' or 'evaluator'.
      task: number in `workers` or `ps`; of an evaluator, any.
      has_chief: whether the first worker is called chief, and the others are counted without it.
    """

    workers: tuple
    ps: tuple = ()
    job: str = "worker"
    task: int = 0
    has_chief: bool = False

    @property
    def is_chief(self):
        return self.job == "worker" and self.task == 0

    @property
    def address(self):
        return {"worker": self.workers, "ps": self.ps}[self.job][self.task]

    @property
    def device(self):
        """This process as TensorFlow's devices name it."""
        return f"/job:{self.job}/task:{self.task}"

    @property
    def holders(self):
        """Those who hold the variables, as TensorFlow's devices name them."""
        return [f"/job:ps/task:{i}" for i in range(len(self.ps))] or ["/job:worker/task:0"]

    @property
    def workers_on_this_machine(self):
        """The number of workers whose addresses have this process's host, its own included."""
        host = self.address.rpartition(":")[0]
        return sum(address.rpartition(":")[0] == host for address in self.workers)

    @property
    def names(self):
        """{name, as TF_CONFIG or the flags have it: address} of all workers and parameter servers."""
        names = {self.worker_name(i): address for i, address in enumerate(self.workers)}
        return names | {f"ps {i}": address for i, address in enumerate(self.ps)}

    @property
    def members(self):
        """The same without this process."""
        return {name: address for name, address in self.names.items() if name != self.name}

    @property
    def name(self):
        """What TF_CONFIG or the flags call this process."""
        return self.worker_name(self.task) if self.job == "worker" else f"{self.job} {self.task}"

    def worker_name(self, task):
        """Returns what TF_CONFIG or the flags call a worker."""
        if not self.has_chief:
            return f"worker {task}"
        return f"worker {task - 1}" if task else "chief"


def find(tf_config, worker_hosts, ps_hosts, job_name, task_index, local_workers=0):
    """Returns the Cluster from the one source that there must be, or None for one that is yet to be started here.

    Args:
      tf_config: value of TF_CONFIG, or None.
      worker_hosts, ps_hosts, job_name, task_index: see from_hosts.
      local_workers: number of workers to be started on this machine.

    Raises:
      ClusterError: there is no source, or more than one, or it is wrong.
    """
    sources = {"TF_CONFIG": tf_config, "--worker_hosts": worker_hosts, "--local_workers": local_workers}
    given = [name for name, value in sources.items() if value]
    if not given:
        raise ClusterError(
            "there is no cluster: set TF_CONFIG, give --local_workers, or --worker_hosts, --job_name and --task_index"
        )
    if len(given) > 1:
        raise ClusterError(f"{' and '.join(given)} describe a cluster each; leave one of them out")
    if tf_config:
        return from_tf_config(tf_config)
    if worker_hosts:
        return from_hosts(worker_hosts, ps_hosts, job_name, task_index)
    return None


def from_tf_config(text):
    """Returns the Cluster that TF_CONFIG describes.

    Args:
      text: the value of TF_CONFIG: JSON with "cluster", {job: [host:port]}, and "task", {"type": job, "index": number}.

    Raises:
      ClusterError: it is not that.
    """
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ClusterError(f"TF_CONFIG: is not JSON ({error})") from None
    members, task = (config.get(key) if isinstance(config, dict) else None for key in ("cluster", "task"))
    if not isinstance(members, dict) or not isinstance(task, dict):
        raise ClusterError(
            'TF_CONFIG: must have "cluster": {"worker": ["host:port", …], …} and "task": {"type", "index"}'
        )
    for job, addresses in members.items():
        if job not in (*JOBS, *_ONE_CHIEF):
            raise ClusterError(f'TF_CONFIG: "cluster" has a job {job!r}; known are {", ".join(JOBS)}')
        if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
            raise ClusterError(f"TF_CONFIG: {job!r} must be a list of addresses, not {json.dumps(addresses)}")
    chiefs = [address for job in _ONE_CHIEF for address in members.get(job, [])]
    if len(chiefs) > 1:
        raise ClusterError(f"TF_CONFIG: has {len(chiefs)} chiefs; there must be one")
    job, index = task.get("type"), task.get("index", 0)
    if not str(index).isdigit():
        raise ClusterError(f'TF_CONFIG: the "index" of "task" must be a number from 0, not {json.dumps(index)}')
    index = int(index)
    if job in _ONE_CHIEF:
        if not chiefs:
            raise ClusterError(f'TF_CONFIG: this task is the {job}, and "cluster" has none')
        job = "worker"
    elif job == "worker":
        index += len(chiefs)
    return _checked(
        Cluster((*chiefs, *members.get("worker", [])), tuple(members.get("ps", [])), job, index, bool(chiefs)),
        "TF_CONFIG",
    )


def from_hosts(worker_hosts, ps_hosts, job_name, task_index):
    """Returns the Cluster of lists of addresses; worker 0 is the chief.

    Args:
      worker_hosts, ps_hosts: lists of host:port.
      job_name: 'ps', 'worker' or 'evaluator'.
      task_index: number of this process in its list.

    Raises:
      ClusterError: they do not go together.
    """
    return _checked(
        Cluster(tuple(worker_hosts), tuple(ps_hosts), job_name, task_index), "--worker_hosts and --ps_hosts"
    )


def _checked(cluster, source):
    if not cluster.workers:
        raise ClusterError(f"{source}: there is no worker")
    addresses = [*cluster.workers, *cluster.ps]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise ClusterError(f"{source}: {address!r} is no address; write host:port")
        if addresses.count(address) > 1:
            raise ClusterError(f"{source}: {address} is there {addresses.count(address)} times")
    if cluster.job not in ("worker", "ps", "evaluator"):
        raise ClusterError(f"{source}: this task is of the job {cluster.job!r}; known are {', '.join(JOBS)}")
    if cluster.job != "evaluator" and cluster.name not in cluster.names:
        raise ClusterError(f"{source}: this task is {cluster.name}, and there are only {', '.join(cluster.names)}")
    return cluster


def serve(cluster, config, listen_on_network=False):
    """Starts the server of this process, which others reach at its address for as long as the process lives.

    Args:
      cluster: a Cluster of which this process is a worker or parameter server.
      config: tf.ConfigProto of its devices and threads.
      listen_on_network: whether other machines may connect. TensorFlow's server asks for no password.

    Returns:
      The tf.train.Server.

    Raises:
      ClusterError: the port is taken, or is to be open to other machines without listen_on_network.
    """
    elsewhere = [address for address in (*cluster.workers, *cluster.ps) if not ports.is_loopback(address)]
    if elsewhere and not listen_on_network:
        raise ClusterError(
            f"{elsewhere[0]} is another machine's address, and opening a port to other machines takes "
            "--listen_on_network, whose --help says what that means"
        )
    jobs = {"worker": cluster.workers, "ps": cluster.ps}
    spec = tf.train.ClusterSpec({job: list(addresses) for job, addresses in jobs.items() if addresses})
    try:
        server = tf.train.Server(spec, job_name=cluster.job, task_index=cluster.task, config=config, start=False)
    except tf.errors.OpError as error:
        raise ClusterError(
            f"{cluster.address}: cannot be listened at ({reason(error)}); another program may have the port"
        ) from None
    if not listen_on_network:
        ports.close_to_others(int(cluster.address.rpartition(":")[2]))
    server.start()
    return server


class Waiting:
    """Says now and then what this process waits for, and gives up after a while."""

    def __init__(self, cluster, max_secs):
        """max_secs: seconds after which to give up; 0: never."""
        self._cluster = cluster
        self._max_secs = max_secs
        self.over()

    def over(self):
        """What was waited for has come."""
        self._since = self._told = time.time()

    def look(self, what):
        """Is called again and again while waiting.

        Args:
          what: function that returns what is waited for, or "" if nothing is.

        Raises:
          ClusterError: it has not come for max_secs.
        """
        now = time.time()
        too_long = self._max_secs and now - self._since >= self._max_secs
        if not too_long and now - self._told < LINE_SECS:
            return
        self._told = now
        waited = now - self._since
        missing = what()
        if not missing:
            self.over()
        elif too_long:
            raise ClusterError(
                f"{self._cluster.name}: waited {waited:.0f} s for {missing}; see what became of it, or give it more "
                "--max_wait_secs"
            )
        else:
            print(f"{self._cluster.name}: waiting for {missing} since {waited:.0f} s", flush=True)

    def until_answering(self, names):
        """Returns once all members of these names answer at their addresses."""
        missing = list(names)
        while missing := self.silent(missing):
            self.look(functools.partial(self.describe, missing))
            time.sleep(POLL_SECS)
        self.over()

    def silent(self, names=None):
        """Returns those of the names, of all other members by default, who do not answer at their addresses."""
        members = self._cluster.members
        return [name for name in (members if names is None else names) if not ports.answers(members[name])]

    def describe(self, names):
        """Returns the members of these names with their addresses, as text."""
        members = self._cluster.members
        return ", ".join(f"{name} ({members[name]})" if name in members else name for name in names)
