"""Who takes part in a training on several machines, and the server through which this process does.

The description comes from TF_CONFIG, as Kubernetes' TFJob and Vertex AI set it, or from a list of addresses. The chief
is the first worker: TF_CONFIG's chief, or master, if it has one, and else worker 0.
"""

import dataclasses
import json
import re
import socket

import tensorflow.compat.v1 as tf

from cifar10.errors import MAX_SHOWN, ClusterError, reason, shortened
from cifar10.machine import ports

JOBS = ("chief", "worker", "evaluator")
_ONE_CHIEF = ("chief", "master")  # the latter is the older name
NAMED = 5  # of those who are missing
_THIS_HOST = ("127.0.0.1", "[::1]", "localhost")  # as two addresses on one machine may call it
_SPARSE = (
    "TF_CONFIG: has a sparseCluster, which names this worker only, and here all workers all-reduce their gradients; "
    "set enableDynamicWorker to false"
)
_NO_PS = (
    "TF_CONFIG: has a parameter server (ps), and here the workers keep the variables themselves and all-reduce their "
    "gradients; leave ps out, and start its machine as one more worker"
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The addresses, as host:port, of all who take part, and who of them this process is.

    Attributes:
      workers: addresses of the workers, the chief's first.
      job: 'worker' (also of the chief) or 'evaluator'.
      task: number in `workers`; of an evaluator, any.
      has_chief: whether the first worker is called chief, and the others are counted without it.
      listen_on_network: whether other machines may connect. TensorFlow's server asks for no password.
    """

    workers: tuple
    job: str = "worker"
    task: int = 0
    has_chief: bool = False
    listen_on_network: bool = False

    @property
    def is_chief(self):
        return self.job == "worker" and self.task == 0

    @property
    def address(self):
        return self.workers[self.task]

    @property
    def device(self):
        """This process as TensorFlow's devices name it."""
        return f"/job:worker/task:{self.task}"

    @property
    def workers_on_this_machine(self):
        """The number of workers whose addresses have this process's host, its own included."""
        host = self.address.rpartition(":")[0]
        return sum(address.rpartition(":")[0] == host for address in self.workers)

    @property
    def name(self):
        """What TF_CONFIG or the flags call this process."""
        return self.worker_name(self.task) if self.job == "worker" else f"{self.job} {self.task}"

    def worker_name(self, task):
        """Returns what TF_CONFIG or the flags call a worker."""
        if not self.has_chief:
            return f"worker {task}"
        return f"worker {task - 1}" if task else "chief"

    def describe(self, tasks):
        """Returns these workers with their addresses, as text; of many the first few."""
        names = [f"{self.worker_name(task)} ({self.workers[task]})" for task in tasks]
        more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
        return ", ".join(names[:NAMED] + more)

    def silent(self):
        """Returns the tasks of the other workers whose processes are not there, or hang."""
        others = [task for task in range(len(self.workers)) if task != self.task]
        return [task for task in others if not ports.answers(self.workers[task])]


def find(tf_config, worker_hosts, task_index, local_workers=0):
    """Returns the Cluster that TF_CONFIG (or None) or the flags describe, or None for one that is to be started here.

    Raises:
      ClusterError: there is no description, or more than one, or it is wrong.
    """
    sources = {"TF_CONFIG": tf_config, "--worker_hosts": worker_hosts, "--local_workers": local_workers}
    given = [name for name, value in sources.items() if value]
    if not given:
        raise ClusterError(
            "there is no cluster: set TF_CONFIG, give --local_workers, or --worker_hosts and --task_index"
        )
    if len(given) > 1:
        raise ClusterError(f"{' and '.join(given)} describe a cluster each; leave one of them out")
    if tf_config:
        return from_tf_config(tf_config)
    if worker_hosts:
        return from_hosts(worker_hosts, task_index)
    return None


def from_tf_config(text):
    """Returns the Cluster that TF_CONFIG describes, or raises a ClusterError.

    Args:
      text: JSON with "cluster", {job: [host:port]}, and "task", {"type": job, "index": number}.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:  # deep nesting
        raise ClusterError(f"TF_CONFIG: is not JSON ({reason(error)})") from None
    members, task = (config.get(key) if isinstance(config, dict) else None for key in ("cluster", "task"))
    if isinstance(config, dict) and config.get("sparseCluster"):
        raise ClusterError(_SPARSE)
    if not isinstance(members, dict) or not isinstance(task, dict):
        raise ClusterError(
            'TF_CONFIG: must have "cluster": {"worker": ["host:port", …], …} and "task": {"type", "index"}'
        )
    job, index = task.get("type"), task.get("index", 0)
    if not isinstance(job, str):
        raise ClusterError(f'TF_CONFIG: the "type" of "task" must be one of {", ".join(JOBS)}, not {shortened(job)}')
    if members.get("ps") or job == "ps":
        raise ClusterError(_NO_PS)
    for name, addresses in members.items():
        if name not in (*JOBS, *_ONE_CHIEF, "ps"):
            raise ClusterError(f'TF_CONFIG: "cluster" has a job {name[:MAX_SHOWN]!r}; known are {", ".join(JOBS)}')
        if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
            raise ClusterError(f"TF_CONFIG: {name!r} must be a list of addresses, not {shortened(addresses)}")
    chiefs = [address for name in _ONE_CHIEF for address in members.get(name, [])]
    if len(chiefs) > 1:
        raise ClusterError(f"TF_CONFIG: has {len(chiefs)} chiefs; there must be one")
    if not re.fullmatch("[0-9]{1,9}", str(index)):
        raise ClusterError(f'TF_CONFIG: the "index" of "task" must be a number from 0, not {shortened(index)}')
    index = int(index)
    if job in _ONE_CHIEF:
        if not chiefs:
            raise ClusterError(f'TF_CONFIG: this task is the {job}, and "cluster" has none')
        job = "worker"
    elif job == "worker":
        index += len(chiefs)
    return _checked(Cluster((*chiefs, *members.get("worker", [])), job, index, bool(chiefs)), "TF_CONFIG")


def from_hosts(worker_hosts, task_index):
    """Returns the Cluster of a list of addresses, host:port, or raises a ClusterError; worker 0 is the chief."""
    return _checked(Cluster(tuple(worker_hosts), "worker", task_index), "--worker_hosts")


def _checked(cluster, source):
    if not cluster.workers:
        raise ClusterError(f"{source}: there is no worker")
    for address in cluster.workers:
        host, _, port = address.rpartition(":")
        if not re.fullmatch(r"[!-~]+", host) or not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) >= 2**16:
            raise ClusterError(f"{source}: {address[:MAX_SHOWN]!r} is no address; write host:port")
        if cluster.workers.count(address) > 1:
            raise ClusterError(f"{source}: {address} is there {cluster.workers.count(address)} times")
    _refuse_two_names(cluster, source)
    if cluster.job not in ("worker", "evaluator"):
        raise ClusterError(
            f"{source}: this task is of the job {cluster.job[:MAX_SHOWN]!r}; known are {', '.join(JOBS)}"
        )
    if cluster.job == "worker" and cluster.task >= len(cluster.workers):
        names = ", ".join(map(cluster.worker_name, range(len(cluster.workers))))
        raise ClusterError(f"{source}: this task is {cluster.name}, and there are only {names}")
    return cluster


def _refuse_two_names(cluster, source):
    """Raises a ClusterError where two addresses are one: this machine's, or of a host in capitals and not."""
    first = {}
    for address in cluster.workers:
        host, _, port = address.rpartition(":")
        same = first.setdefault(("localhost" if host in _THIS_HOST else host.lower(), port), address)
        if same != address:
            raise ClusterError(f"{source}: {same} and {address} are one address; each worker has its own")


def _refuse_other_machines(cluster):
    """Raises a ClusterError where other machines would have to connect, and may not."""
    elsewhere = [address for address in cluster.workers if not ports.is_loopback(address)]
    if elsewhere and not cluster.listen_on_network:
        raise ClusterError(
            f"{elsewhere[0]} is another machine's address, and opening a port to other machines takes "
            "--listen_on_network, whose --help says what that means"
        )


def serve(cluster, config):
    """Starts the tf.train.Server of a worker, which others reach at its address while the process lives; returns it.

    Args:
      cluster: the Cluster.
      config: tf.ConfigProto of its devices and threads.

    Raises:
      ClusterError: the port is taken, or is to be open to other machines without listen_on_network.
    """
    _refuse_other_machines(cluster)
    spec = tf.train.ClusterSpec({"worker": list(cluster.workers)})
    try:
        server = tf.train.Server(spec, job_name="worker", task_index=cluster.task, config=config, start=False)
    except tf.errors.OpError as error:
        raise _taken(cluster, error) from None
    if not cluster.listen_on_network:
        ports.close_to_others(int(cluster.address.rpartition(":")[2]))
    server.start()
    return server


def listen(cluster):
    """Returns a socket.socket that listens at this process's address; others can connect as with `serve`.

    Raises:
      ClusterError: the port is taken, or is to be open to other machines without listen_on_network.
    """
    _refuse_other_machines(cluster)
    host, _, port = cluster.address.rpartition(":")
    try:
        if cluster.listen_on_network:  # on all interfaces, because the name may be that of a relay, as in Kubernetes
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            return socket.create_server(("", int(port)), family=family, dualstack_ipv6=both)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family)
    except OSError as error:
        raise _taken(cluster, error) from None


def _taken(cluster, error):
    return ClusterError(
        f"{cluster.address}: cannot be listened at ({reason(error)}); another program may have the port"
    )
