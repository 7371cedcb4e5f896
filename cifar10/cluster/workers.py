"""Data parallelism across machines: what towers are on one machine, workers are on several.

Every worker holds all variables, computes its slice of each batch, brings its gradients together with those of all
others, and makes the same update; so all have the same variables after it, and the step is that of as many towers. The
chief, which is worker 0, trains as a single process does: it prints, saves and writes the dashboards. The others do the
same steps and nothing else.

Whoever is lost, or hangs, is missed at the next collective, which fails and so changes nothing. The chief saves, and
all processes begin anew: they meet, the chief tells the step and sends the variables, and training goes on.
"""

import dataclasses
import functools
import math
import threading
import time

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from cifar10.cluster import local, meeting, members
from cifar10.cluster.collectives import LOST, Collectives
from cifar10.errors import Lost, RunError
from cifar10.machine import devices, signals
from cifar10.network import loss_scaling, losses, microbatches, optimizer, towers
from cifar10.network.steps import Step
from cifar10.runs import trainer

START_SECS = 30.0  # for the others to build their graphs, and for the chief to restore and to save
LAST_RESORT_SECS = 30.0  # after which a collective itself ends, if the step has not been given up
GRACE_SECS = 5.0  # for a collective to end by itself when its time is over


@dataclasses.dataclass(frozen=True)
class Workers(Step):
    """The step of which every worker computes an equal slice of the batch.

    Attributes:
      cluster: the members.Cluster.
      settings: {flag: value} in which all workers must agree.
      all_reduce: how gradients are brought together: see Collectives.
      hang_secs: seconds after which a worker that has not come to a collective hangs; 0: never.
      max_wait_secs: seconds to wait for workers who are not there; 0: for ever.
      supervised: whether local.train starts this process again, together with all others.
    """

    cluster: members.Cluster = None
    settings: dict = dataclasses.field(default_factory=dict)
    all_reduce: str = "auto"
    hang_secs: float = 60.0
    max_wait_secs: float = 0.0
    supervised: bool = False

    lost = LOST

    @property
    def num_slices(self):
        return len(self.cluster.workers)

    @property
    def part(self):
        return self.cluster.task * self.batch_size, self.batch_size

    @functools.cached_property
    def target(self):
        return members.serve(self.cluster, self.session_config()).target

    @property
    def start_secs(self):
        """Seconds after which a worker that has not come to the first collective hangs; 0: never."""
        return self.hang_secs and max(self.hang_secs, START_SECS)

    @property
    def meeting_secs(self):
        """Seconds after which a worker that has not come to the meeting is given up; 0: never."""
        return self.start_secs if self.supervised else self.max_wait_secs

    def agreed(self, examples):
        """Returns {name: value} in which all workers must agree, of one who trains on these records.Examples."""
        files = {f"SHA-256 of {name}": value for name, value in examples.sha256.items()}
        return {**self.settings, "number of workers": self.num_slices, **files}

    def begin(self, start_step, examples):
        meeting.lead(self.cluster, self.agreed(examples), start_step, self.meeting_secs)

    def hooks(self, save=None):
        return [_Together(self, save)]

    def collectives(self, timeout_secs):
        return Collectives(self.num_slices, self.all_reduce, timeout_secs)

    def session_config(self):
        sharing = self.cluster.workers_on_this_machine
        num_microbatches = sharing * microbatches.count(self.batch_size, self.network.microbatch_size)
        config = devices.session_config(num_microbatches, log_placement=self.log_placement)
        if sharing > 1:
            # They share its cores: more threads than these only take turns, with caches full of each other's images,
            # and one that spins while it waits takes the others' time.
            config.experimental.disable_thread_spinning = True
            config.inter_op_parallelism_threads = max(1, devices.num_cores() // sharing)
        if self.network.dtype == "bfloat16":
            # It fuses convolutions to an op that TensorFlow's server refuses in this type.
            config.graph_options.rewrite_options.remapping = RewriterConfig.OFF
        config.experimental.collective_group_leader = "/job:worker/replica:0/task:0"
        config.device_filters.append(self.cluster.device)  # a session needs nobody else to begin
        return config

    def build(self, images, labels, recipe, global_step, learning_rate):
        loss_scale = loss_scaling.of_type(self.network.dtype)
        tagged = losses.by_tag(losses.loss(self.network(images), labels, recipe.label_smoothing))
        variables = optimizer.trained(recipe)
        cross_entropy = tagged["cross_entropy"]
        scaled = cross_entropy if loss_scale is None else loss_scale.scaled(cross_entropy)
        gradients = tf.gradients(scaled, variables)
        with tf.name_scope("all_reduce"), tf.device("/cpu:0"):
            collectives = self.collectives(self.hang_secs and self.hang_secs + LAST_RESORT_SECS)
            gradients, cross_entropies = collectives.all_reduce(variables, gradients, cross_entropy)
            with tf.control_dependencies(cross_entropies):  # or a step that fails would change the decay's average
                decays = {tag: tf.identity(loss) for tag, loss in towers.decays(tagged).items()}
        return towers.update(gradients, cross_entropies, decays, recipe, global_step, learning_rate, loss_scale)


def train(step, data, recipe, options):
    """Takes this process's part in the training, until that has ended.

    Args and Raises as of trainer.train; of the options only max_steps is of use to others than the chief.
    """
    try:
        if step.cluster.is_chief:
            trainer.train(step, data, recipe, options)
        else:
            _follow(step, data, recipe, options)
        _part(step)
    except meeting.Missing as missing:
        if not step.supervised:
            raise
        _begin_anew(step, missing)
    except Lost as lost:
        _begin_anew(step, lost)


def _begin_anew(step, why):
    cluster = step.cluster
    print(f"{cluster.name}: {why}; beginning anew (no answer from: {cluster.silent() or 'nobody'})", flush=True)
    local.begin_anew(step.supervised)


def _follow(step, data, recipe, options):
    """Does the same steps as the chief."""
    options, examples = trainer.prepare(step, data, recipe, options)
    done = start_step = meeting.join(step.cluster, step.agreed(examples), step.meeting_secs)
    with tf.Graph().as_default(), signals.deferred() as request:
        graph = trainer.build(step, data, recipe, options, examples, start_step)
        with tf.train.SingularMonitoredSession(step.hooks(), None, step.target, step.session_config()) as session:
            while done < options.max_steps and not request.signum:
                try:
                    loss, _ = session.run([graph.loss, graph.train_op])
                except LOST:
                    break
                if not math.isfinite(loss):
                    raise RunError(f"step {done}: the loss is {loss}; training diverged, and the chief says more")
                done += 1
        if request.signum:
            raise signals.Interrupted(request.signum, f" at step {done}")
    if done < options.max_steps:
        raise Lost(f"lost another process at step {done}")


def _part(step):
    """Waits until all have done all steps, and the chief has saved; then nobody will be missed."""
    with tf.Graph().as_default(), tf.device("/cpu:0"), tf.Session(step.target, config=step.session_config()) as session:
        try:
            session.run(step.collectives(step.max_wait_secs).barrier())
        except LOST:
            if not step.cluster.is_chief:  # which may have lost another at its last step
                raise Lost("lost another process at the end") from None


class _Together(tf.train.SessionRunHook):
    """Brings the chief's variables to all, to begin with; says who is missing while the others are waited for."""

    def __init__(self, step, save):
        self._step = step
        self._save = save
        self._share = None
        self._stepping = False
        self._since = None  # when it began to wait for others
        self._giving_up = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self):
        with tf.device("/cpu:0"):
            self._share = self._step.collectives(self._step.start_secs).broadcast(sends=self._step.cluster.is_chief)
        self._since = time.monotonic()

    def before_run(self, run_context):
        if not self._stepping:  # by now all is restored
            try:
                run_context.session.run(self._share)
            except LOST:
                raise Lost("lost another process at the start") from None
        self._stepping = True
        self._since = time.monotonic()

    def after_run(self, run_context, run_values):
        with self._giving_up:  # a step that ends too late has not been: nobody counts it
            self._since = None

    def _watch(self):
        cluster, watched, waiting = self._step.cluster, None, None
        while True:
            time.sleep(meeting.POLL_SECS)
            since = self._since
            if since != watched:
                watched, waiting = since, meeting.Waiting(cluster.name)
            if since is not None:
                waiting.look(lambda: cluster.silent() or "the others")
                limit = self._step.hang_secs if self._stepping else self._step.start_secs + GRACE_SECS
                if self._step.hang_secs and time.monotonic() - since > limit:
                    if self._stepping:
                        self._give_up(since)
                    elif not cluster.is_chief:
                        # Where the chief is gone before the first collective, TensorFlow waits for it for ever.
                        local.begin_anew(self._step.supervised)

    def _give_up(self, since):
        """Saves, if this is the chief, and begins anew, while the step still waits for somebody who hangs.

        A step that waits has changed nothing; if it ends after all meanwhile, nobody hangs. The op has a time of its
        own, but where that has run out the process may crash afterwards: TensorFlow 2.21 corrupts its memory.
        """
        with self._giving_up:
            done, waits = "lost another process", self._since == since
            if waits and self._save is not None:
                print(f"step {self._save.step}: {done}; saving", flush=True)
                waits = self._save.save_while_waiting()
                done = f"saved as {self._save.run.checkpoint}"
            if waits:
                _begin_anew(self._step, done)
