"""Data parallelism across machines: what towers are on one machine, workers are on several.

Every worker holds all variables, computes its slice of each batch, brings its gradients together with those of all
others, and makes the same update; so all have the same variables after it, and the step is that of as many towers. The
chief, which is worker 0, trains as a single process does: it prints, saves and writes the dashboards. The others do the
same steps and nothing else.

Whoever is lost, or hangs, is missed at the next collective, which fails and so changes nothing. The chief saves, and
all processes begin anew: they meet, the chief tells the step and sends the variables, and training goes on.
"""

import contextlib
import dataclasses
import functools
import math
import os
import threading
import time

import tensorflow.compat.v1 as tf

from cifar10.cluster import meeting, members
from cifar10.cluster.collectives import LOST, Collectives
from cifar10.errors import Lost, RunError
from cifar10.machine import devices, signals
from cifar10.network import loss_scaling, microbatches, towers, training
from cifar10.network.steps import Step
from cifar10.runs import trainer

THREADS_BESIDE_OTHERS = 2  # of a worker that shares its machine; more of them only take turns
LEAST_START_SECS = 30.0  # for the others to build their graphs, the chief to restore and save
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
    """

    cluster: members.Cluster = None
    settings: dict = dataclasses.field(default_factory=dict)
    all_reduce: str = "auto"
    hang_secs: float = 60.0
    max_wait_secs: float = 0.0

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
        return self.hang_secs and max(self.hang_secs, LEAST_START_SECS)

    def agreed(self, examples):
        """Returns {name: value} in which all workers must agree, of one who trains on these records.Examples."""
        return {**self.settings, "number of workers": self.num_slices, "SHA-256 of the images": examples.sha256}

    def begin(self, start_step, examples):
        meeting.lead(self.cluster, self.agreed(examples), start_step, self.max_wait_secs)

    def hooks(self):
        return [_ChiefHook(self)]

    def collectives(self, timeout_secs):
        """Returns the Collectives of a graph."""
        return Collectives(self.num_slices, self.all_reduce, timeout_secs)

    def session_config(self):
        sharing = self.cluster.workers_on_this_machine
        num_microbatches = sharing * microbatches.count(self.batch_size, self.network.microbatch_size)
        config = devices.session_config(num_microbatches, log_placement=self.log_placement)
        if sharing > 1:
            # They share its cores: a thread that spins while it waits takes the others' time, and one that is busy with
            # images must not keep another worker waiting.
            config.experimental.disable_thread_spinning = True
            config.inter_op_parallelism_threads = THREADS_BESIDE_OTHERS
        config.experimental.collective_group_leader = "/job:worker/replica:0/task:0"
        config.device_filters.append(self.cluster.device)  # a session needs nobody else to begin
        return config

    def build(self, images, labels, recipe, global_step, learning_rate):
        loss_scale = loss_scaling.of_type(self.network.dtype)
        losses = training.losses(training.loss(self.network(images), labels, recipe.label_smoothing))
        variables = tf.trainable_variables()
        cross_entropy = losses["cross_entropy"]
        scaled = cross_entropy if loss_scale is None else loss_scale.scaled(cross_entropy)
        gradients = tf.gradients(scaled, variables)
        with tf.name_scope("all_reduce"), tf.device("/cpu:0"):
            collectives = self.collectives(self.hang_secs)
            gradients, cross_entropies = collectives.all_reduce(variables, gradients, cross_entropy)
        return towers.update(
            gradients, cross_entropies, towers.decays(losses), recipe, global_step, learning_rate, loss_scale
        )


def train(step, data, recipe, options, begin_anew):
    """Takes this process's part in the training, until that has ended.

    Args:
      step: the Workers.
      data: the trainer.TrainingData.
      recipe: the recipes.Recipe.
      options: the run.RunOptions; of all but the chief max_steps only.
      begin_anew: function that puts a new process in the place of this one.

    Raises:
      UserError: what the user has to mend.
      signals.Interrupted: a signal came; if this is the chief, the run was saved.
    """
    try:
        if step.cluster.is_chief:
            trainer.train(step, data, recipe, options)
        else:
            _follow(step, data, recipe, options, begin_anew)
    except Lost as lost:
        silent = step.cluster.describe(step.cluster.silent())
        print(f"{step.cluster.name}: {lost}" + (f"; no answer from {silent}" if silent else ""), flush=True)
        begin_anew()
    else:
        _part(step)


def _follow(step, data, recipe, options, begin_anew):
    """Does the same steps as the chief."""
    options, examples = trainer.prepare(step, data, recipe, options)
    start_step = meeting.join(step.cluster, step.agreed(examples), step.max_wait_secs)
    number = start_step
    with tf.Graph().as_default(), signals.deferred() as request:

        def give_up():
            if request.signum:
                os._exit(128 + request.signum)
            begin_anew()

        watch = Watch(step.cluster, give_up)
        graph = trainer.build(step, data, recipe, options, examples, start_step)
        receive = step.collectives(step.start_secs).broadcast(tf.global_variables(), sends=False)
        initialize = [tf.global_variables_initializer(), tf.local_variables_initializer()]
        try:
            with watch.during(step.start_secs):
                session = tf.Session(step.target, config=step.session_config())
                session.run(initialize)
                session.run(receive)
            run = session.make_callable([graph.loss, graph.train_op])
            for number in range(start_step, options.max_steps):
                with watch.during(step.hang_secs):
                    loss, _ = run()
                if not math.isfinite(loss):
                    raise RunError(f"step {number}: the loss is {loss}; training diverged, and the chief says more")
                if request.signum:
                    break
        except LOST:
            if not request.signum:
                raise Lost(f"lost another at step {number}") from None
        if request.signum:
            raise signals.Interrupted(request.signum, f" at step {number}")


def _part(step):
    """Waits until all have done all steps, and the chief has saved, so that nobody is missed who is not needed."""
    with (
        contextlib.suppress(LOST),
        tf.Graph().as_default(),
        tf.device("/cpu:0"),
        Watch(step.cluster).during(0),
        tf.Session(step.target, config=step.session_config()) as session,
    ):
        session.run(step.collectives(step.max_wait_secs).barrier())


class Watch:
    """A thread that looks, while this process waits for others, how long it has, and says who is missing."""

    def __init__(self, cluster, give_up=None):
        """
        Args:
          cluster: the members.Cluster.
          give_up: function to be called when a wait has not ended in its time, or None.
        """
        self._cluster = cluster
        self._give_up = give_up
        self._wait = None  # (when it began, when it is to be given up)
        threading.Thread(target=self._look, daemon=True).start()

    def begins(self, max_secs=0.0):
        """The process begins to wait; max_secs: when a collective fails; 0: never."""
        now = time.monotonic()
        self._wait = now, now + max_secs + GRACE_SECS if max_secs else math.inf

    def ends(self):
        """The process does not wait any more."""
        self._wait = None

    @contextlib.contextmanager
    def during(self, max_secs):
        """Begins, and ends in any case."""
        self.begins(max_secs)
        try:
            yield
        finally:
            self.ends()

    def _look(self):
        watched = waiting = None
        while True:
            time.sleep(meeting.POLL_SECS)
            wait = self._wait
            if wait is None:
                continue
            if wait is not watched:
                watched, waiting = wait, meeting.Waiting(self._cluster.name)
            if self._give_up is not None and time.monotonic() >= wait[1]:
                self._give_up()
            if waiting.is_long():
                waiting.look(self._cluster.describe(self._cluster.silent()) or "the others")


class _ChiefHook(tf.train.SessionRunHook):
    """Sends the others the variables to begin with, and watches the steps."""

    def __init__(self, step):
        self._step = step
        self._watch = Watch(step.cluster)
        self._send = None

    def begin(self):
        collectives = self._step.collectives(self._step.start_secs)
        with tf.device("/cpu:0"):
            self._send = collectives.broadcast(tf.global_variables(), sends=True)

    def after_create_session(self, session, coord):
        try:
            with self._watch.during(0):
                session.run(self._send)
        except LOST:
            raise Lost("lost another at the start") from None

    def before_run(self, run_context):
        self._watch.begins()

    def after_run(self, run_context, run_values):
        self._watch.ends()
