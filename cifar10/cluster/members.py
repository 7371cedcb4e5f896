"""Who takes part in a training on several machines, and the server through which this process does.

The description comes from TF_CONFIG, as Kubernetes' TFJob and Vertex AI set it, or from a list of addresses. The chief
is the first worker: TF_CONFIG's chief, or master, if it has one, and else worker 0.
"""

import dataclasses
import json
import re

import tensorflow.compat.v1 as tf

from cifar10.errors import MAX_SHOWN, ClusterError, reason, shortened
from cifar10.machine import ports

JOBS = ("chief", "worker", "evaluator")
_ONE_CHIEF = ("chief", "master")  # the latter is the older name
NAMED = 5  # of those who are missing
_KNOWN = f"known are {', '.join(JOBS)}"


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
        """Returns the other workers whose processes are not there, or hang, as text; '' if there are none."""
        return self.describe([i for i, each in enumerate(self.workers) if i != self.task and not ports.answers(each)])


def find(tf_config, worker_hosts, task_index, local_workers=0):
    """Returns the Cluster that TF_CONFIG (or None) or the flags describe, or None for one that is to be started here.

    Raises:
      ClusterError: there is no description, or more than one, or it is wrong.
    """
    sources = {"TF_CONFIG": tf_config, "--worker_hosts": worker_hosts, "--local_workers": local_workers}
    given = [name for name, value in sources.items() if value]
    if not given:
        raise ClusterError("there is no cluster: set TF_CONFIG, --local_workers, or --worker_hosts and --task_index")
    if len(given) > 1:
        raise ClusterError(f"{' and '.join(given)} describe a cluster each; leave one of them out")
    if tf_config:
        return from_tf_config(tf_config)
    return from_hosts(worker_hosts, task_index) if worker_hosts else None


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
        raise ClusterError(
            "TF_CONFIG: has a sparseCluster, which names this worker only, and here all workers all-reduce their "
            "gradients; set enableDynamicWorker to false"
        )
    if not isinstance(members, dict) or not isinstance(task, dict):
        raise ClusterError(
            'TF_CONFIG: must have "cluster": {"worker": ["host:port", …], …} and "task": {"type", "index"}'
        )
    if "index" not in task and (others := sorted(task.keys() - {"type"})):
        raise ClusterError(f'TF_CONFIG: "task" has {others[0]!r} and no "index", which says which of its job it is')
    job, index = task.get("type"), task.get("index", 0)
    if not isinstance(job, str):
        raise ClusterError(f'TF_CONFIG: the "type" of "task" must be one of {", ".join(JOBS)}, not {shortened(job)}')
    if members.get("ps") or job == "ps":
        raise ClusterError(
            "TF_CONFIG: has a parameter server (ps), and here the workers keep the variables themselves and all-reduce "
            "their gradients; leave ps out, and start its machine as one more worker"
        )
    for name, addresses in members.items():
        if name not in (*JOBS, *_ONE_CHIEF, "ps"):
            raise ClusterError(f'TF_CONFIG: "cluster" has a job {name[:MAX_SHOWN]!r}; {_KNOWN}')
        if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
            raise ClusterError(f"TF_CONFIG: {name!r} must be a list of addresses, not {shortened(addresses)}")
    chiefs = [address for name in _ONE_CHIEF for address in members.get(name, [])]
    if len(chiefs) > 1:
        raise ClusterError(f"TF_CONFIG: has {len(chiefs)} chiefs; there must be one")
    if not re.fullmatch("[0-9]{1,9}", str(index)):
        raise ClusterError(f'TF_CONFIG: the "index" of "task" must be a number from 0, not {shortened(index)}')
    if job in _ONE_CHIEF and not chiefs:
        raise ClusterError(f'TF_CONFIG: this task is the {job}, and "cluster" has none')
    number = int(index) + (len(chiefs) if job == "worker" else 0)
    job = "worker" if job in _ONE_CHIEF else job
    return _checked(Cluster((*chiefs, *members.get("worker", [])), job, number, bool(chiefs)), "TF_CONFIG")


def from_hosts(worker_hosts, task_index):
    """Returns the Cluster of a list of addresses, host:port, or raises a ClusterError; worker 0 is the chief."""
    return _checked(Cluster(tuple(worker_hosts), "worker", task_index), "--worker_hosts")


def _checked(cluster, source):
    if not cluster.workers:
        raise ClusterError(f"{source}: there is no worker")
    ports.check_addresses(cluster.workers, source)
    if cluster.job not in ("worker", "evaluator"):
        raise ClusterError(f"{source}: this task is of the job {cluster.job[:MAX_SHOWN]!r}; {_KNOWN}")
    if cluster.job == "worker" and cluster.task >= len(cluster.workers):
        names = ", ".join(map(cluster.worker_name, range(len(cluster.workers))))
        raise ClusterError(f"{source}: this task is {cluster.name}, and there are only {names}")
    return cluster


def serve(cluster, config):
    """Starts the tf.train.Server of a worker, which others reach at its address while the process lives; returns it.

    Args:
      cluster: the Cluster.
      config: tf.ConfigProto of its devices and threads.

    Raises:
      ClusterError: the port is taken, or is to be open to other machines without listen_on_network.
    """
    if not cluster.listen_on_network:
        ports.refuse_other_machines(cluster.workers)
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
    if not cluster.listen_on_network:
        ports.refuse_other_machines(cluster.workers)
    try:
        return ports.listen(cluster.address, cluster.listen_on_network)
    except OSError as error:
        raise _taken(cluster, error) from None


def _taken(cluster, error):
    return ClusterError(
        f"{cluster.address}: cannot be listened at ({reason(error)}); another program may have the port"
    )
