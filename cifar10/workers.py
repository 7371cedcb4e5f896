"""Data parallelism across machines: what towers are on one machine, workers are on several.

The variables are with the parameter servers, or with the chief, which is the first worker, where there are none. For
each step the chief orders a gradient of every worker; a worker reads the variables, computes its slice of the step's
batch, leaves the gradients in slots of its own beside the variables, and reports; once all have reported, the chief
adds what is in the slots, in the order of the workers, and updates the variables. So the step is that of as many
towers. An asynchronous worker updates the variables itself, and gets a step of its own each time.

Orders and reports are elements of tf.FIFOQueues, slots are variables that no checkpoint holds. Any of them may come
twice, or too late: a gradient is a function of the variables and the step. So a process that is started again finds its
way back without any state of its own. tf.train.SyncReplicasOptimizer is not used: it adds gradients as they arrive, may
take two of one worker and none of another, and its variables would be in the checkpoints.
"""

import contextlib
import functools
import secrets
import threading
import time
import zlib

import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input, model, recipes, summaries, towers, training
from cifar10.cluster import POLL_SECS

# Orders that are no step.
END = -1  # training has ended
FAILED = -2  # the chief has given up

FAREWELL_SECS = 10.0  # for the others to hear of it

_SCOPE = "cluster/"  # with its slash, so that entering it again continues it


def placement(cluster):
    """Returns the device function of a worker's graph.

    It puts each variable with the holder that has the fewest numbers so far, which is the same in every graph that has
    the same variables in the same order, and everything else on this worker.
    """
    held = dict.fromkeys(cluster.holders, 0)

    def place(op):
        asked = tf.DeviceSpec.from_string(op.device or "")
        if asked.job:
            return op.device
        device = cluster.device
        if op.type == "VarHandleOp":
            device = min(held, key=held.get)
            held[device] += tf.TensorShape(op.get_attr("shape")).num_elements()
        return tf.DeviceSpec.from_string(device).make_merged_spec(asked).to_string()

    return place


def session_config(cluster, config):
    """Returns the settings of a session that needs this process and the holders of the variables, and nobody else."""
    limited = tf.ConfigProto()
    limited.CopyFrom(config)
    limited.device_filters.extend(sorted({cluster.device, *cluster.holders}))
    return limited


class Slots:
    """Values that one process leaves for another, kept under a name on devices of that other's."""

    def __init__(self, name, like, devices):
        """
        Args:
          name: of all of them together.
          like: tensors or variables of the values' types and shapes.
          devices: where each value is.
        """
        self.like = like
        self._devices = devices

        def handle(i, tensor):
            name_of_one = f"{name}/{i}"
            return tf.raw_ops.VarHandleOp(dtype=tensor.dtype.base_dtype, shape=tensor.shape, shared_name=name_of_one)

        self._handles = self._each(handle, range(len(like)), like)

    def write(self, values):
        """Returns ops that leave the values there."""

        def write(handle, value):
            return tf.raw_ops.AssignVariableOp(resource=handle, value=value)

        return self._each(write, self._handles, values)

    def read(self):
        """Returns the values that are there."""

        def read(handle, tensor):
            value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tensor.dtype.base_dtype)
            value.set_shape(tensor.shape)
            return value

        return self._each(read, self._handles, self.like)

    def weighted(self, weight):
        """Returns the float32 values that are there, times a scalar."""
        return self._each(tf.multiply, self.read(), [weight] * len(self.like))

    def clear(self):
        """Returns ops that leave zeros there."""
        return self.write(self._each(lambda tensor: tf.zeros(tensor.shape), self.like))

    def _each(self, build, *lists):
        built = []
        for device, *arguments in zip(self._devices, *lists, strict=True):
            with tf.name_scope(_SCOPE), tf.device(device):
                built.append(build(*arguments))
        return built


class Messages:
    """A queue of messages on a device, each of so many int64 numbers."""

    def __init__(self, name, numbers, device):
        with tf.name_scope(_SCOPE), tf.device(device):
            self._queue = tf.FIFOQueue(-1, [tf.int64] * numbers, [[]] * numbers, shared_name=name)
            self._all = self._queue.dequeue_many(tf.maximum(1, self._queue.size()))

    def send(self, *numbers):
        """Returns the op that sends a message."""
        with tf.name_scope(_SCOPE):
            return self._queue.enqueue(numbers)

    def receive(self, session):
        """Returns the list of all messages that are there; if there is none it waits for one, but not for long."""
        try:
            columns = session.run(self._all, options=tf.RunOptions(timeout_in_ms=int(1000 * POLL_SECS)))
        except tf.errors.DeadlineExceededError:
            return []
        return list(zip(*(column.tolist() for column in columns), strict=True))


def orders_to(cluster, job, task):
    """Returns the Messages (life, step) from the chief to a worker or a parameter server; see new_life."""
    device = cluster.holders[task if job == "ps" else 0]
    return Messages(f"orders/{job}/{task}", 2, f"{device}/cpu:0")


def settings(cluster, batch_size, sync, dataset, model, seed, use_fp16, recipe, num_held_out):
    """Returns a number below 2^32 that is the same in processes that have these in common, as they must."""
    together = (cluster.workers, cluster.ps, batch_size, sync, dataset, model, seed, use_fp16, recipe, num_held_out)
    return zlib.crc32(repr(together).encode())


def new_life(settings):
    """Draws the number of a life of the chief, a stretch of training from its beginning or from a checkpoint.

    It goes with every order and report, so that what is left of an earlier life counts for nothing, and tells the
    workers the chief's settings.
    """
    return secrets.randbits(31) << 32 | settings


def settings_of(life):
    """Returns the settings of the chief."""
    return life & 0xFFFFFFFF


def _reports_to_chief(cluster):
    """Returns the Messages (worker, life, step) from the workers to the chief."""
    return Messages("reports", 3, f"{cluster.holders[0]}/cpu:0")


def _gradient_slots(cluster, worker, cross_entropy):
    """Returns the Slots of a worker's gradients, each beside its variable, and of its cross entropy."""
    variables = tf.trainable_variables()
    devices = [*(variable.device for variable in variables), f"{cluster.holders[0]}/cpu:0"]
    return Slots(f"gradients/{worker}", [*variables, cross_entropy], devices)


def _loss_slot(cluster, loss):
    """Returns the Slots of the newest total loss of asynchronous workers."""
    return Slots("loss", [loss], [f"{cluster.holders[0]}/cpu:0"])


class Worker:
    """One worker's part: its slice of each batch, and the gradients of that.

    Attributes:
      recipe: the recipes.Recipe.
      global_batch_size: pictures a step, of all synchronous workers together.
      shown: Slots of the summaries that the chief shows together with its own, or None.
    """

    def __init__(
        self,
        cluster,
        batch_size,
        sync=True,
        save_summaries_steps=0,
        build=model.inference,
        recipe=recipes.TUTORIAL,
        **network,
    ):
        """
        Args:
          cluster: the Cluster.
          batch_size: pictures a step and worker.
          sync: whether the chief updates the variables with the gradients of all, or each worker with its own.
          save_summaries_steps: steps between two summaries, which are of the chief's own worker; 0: none.
          build: the network: model.inference, or another of model.NETWORKS.
          recipe: the recipes.Recipe; asynchronous workers have no momentum.
          **network: use_fp16, seed, lrn and microbatch_size, as for model.inference.
        """
        self._cluster = cluster
        self._batch_size = batch_size
        self._sync = sync
        self.recipe = recipe
        self.global_batch_size = (len(cluster.workers) if sync else 1) * batch_size
        self._save_summaries_steps = save_summaries_steps if cluster.is_chief else 0
        self._build = functools.partial(build, **network)
        self.shown = None

    def build_input(self, examples, seed, flip):
        """Builds the slice of the training input: see cifar10_input.distorted_slice."""
        with tf.name_scope(_SCOPE):
            self._step = tf.placeholder(tf.int64, [], "step")
        size = self._batch_size
        start = self._cluster.task * size if self._sync else 0
        return cifar10_input.distorted_slice(
            examples, self._step, self.global_batch_size, start, size, seed, flip=flip, **self.recipe.of_input
        )

    def build_step(self, images, labels, global_step, learning_rate, num_classes):
        """Builds what the worker does at a step.

        Args:
          images, labels: from build_input.
          global_step: integer variable.
          learning_rate: float32 scalar.
          num_classes: number of logits a picture.

        Returns:
          {tag: scalar}: the losses of its slice.
        """
        cluster = self._cluster
        losses = training.losses(training.loss(self._build(images, num_classes), labels, self.recipe.label_smoothing))
        gradients = tf.gradients(losses["cross_entropy"], tf.trainable_variables())
        if self._sync:
            slots = _gradient_slots(cluster, cluster.task, losses["cross_entropy"])
            done = slots.write([*gradients, losses["cross_entropy"]])
        else:
            with tf.device(f"{cluster.holders[0]}/cpu:0"):
                update, losses["total_loss"] = towers.update(
                    [gradients],
                    [losses["cross_entropy"]],
                    towers.decays(losses),
                    global_step,
                    learning_rate,
                    **self.recipe.of_update,
                )
            done = [update, *_loss_slot(cluster, losses["total_loss"]).write([losses["total_loss"]])]
        self._orders = orders_to(cluster, "worker", cluster.task)
        self._reports = _reports_to_chief(cluster)
        with tf.name_scope(_SCOPE):
            self._life = tf.placeholder(tf.int64, [], "life")
        self._report = self._reporting([])
        self._compute = self._reporting(done)
        if self._save_summaries_steps:
            self.shown = Slots("summary", [summaries.merged()], [f"{cluster.device}/cpu:0"])
            self._compute_and_show = self._reporting([*done, *self.shown.write(self.shown.like)])
            tf.get_collection_ref(tf.GraphKeys.SUMMARIES)[:] = self.shown.read()
        return losses

    def _reporting(self, done):
        with tf.control_dependencies(done):
            return self._reports.send(tf.constant(self._cluster.task, tf.int64), self._life, self._step)

    def work(self, session, look):
        """Does what the chief orders, up to the order that is no step, which is returned.

        Args:
          session: tf.Session.
          look: function that is called again and again with the orders that have come, maybe none, and returns whether
            to stop.
        """
        last = shown = None
        while True:
            orders = self._orders.receive(session)
            if look(orders):
                return None
            # For a synchronous worker the newest counts: the others went on without it.
            for order in orders[-1:] if self._sync else orders:
                life, step = order
                op = self._compute
                if step < 0 or order == last:
                    op = self._report
                elif self.shown and step // self._save_summaries_steps != shown:
                    op, shown = self._compute_and_show, step // self._save_summaries_steps
                session.run(op, {self._life: life, self._step: step})
                if step < 0:
                    return step
                last = order


class Post:
    """The chief's side of orders and reports, in the current graph."""

    def __init__(self, cluster, life):
        """life: int, see orders_to."""
        self._life = life
        self._to_workers = [orders_to(cluster, "worker", i) for i in range(len(cluster.workers))]
        self._to_ps = [orders_to(cluster, "ps", i) for i in range(len(cluster.ps))]
        self._reports = _reports_to_chief(cluster)
        with tf.name_scope(_SCOPE):
            self.step = tf.placeholder(tf.int64, [], "order")
        self._order = self.orders(self.step)
        self._order_ps = [orders.send(life, self.step) for orders in self._to_ps]

    def orders(self, step):
        """Returns the ops that order a step (int64 scalar) of each worker."""
        return [orders.send(self._life, step) for orders in self._to_workers]

    def order(self, session, worker, step):
        """Orders a step (int) of a worker."""
        session.run(self._order[worker], {self.step: step})

    def order_ps(self, session, step):
        """Sends all parameter servers an order that is no step."""
        session.run(self._order_ps, {self.step: step})

    def hear(self, session):
        """Returns the (worker, step) that have been reported; waits if there is none, but not for long."""
        return [(worker, step) for worker, life, step in self._reports.receive(session) if life == self._life]


class Chief:
    """The chief's part: the orders, and the update with what all workers have computed.

    Its own worker is one like the others, in a thread of its own.
    """

    def __init__(self, cluster, worker, life, server, config, max_steps, waiting, sync=True, backup_workers=0):
        """
        Args:
          cluster: the Cluster.
          worker: its own Worker.
          life: from new_life.
          server: tf.train.Server.
          config: tf.ConfigProto of its sessions.
          max_steps: the global step at which training ends, or None for the recipe's own.
          waiting: cluster.Waiting.
          sync: see Worker.
          backup_workers: how many workers, the slowest, a synchronous step does not wait for.
        """
        self._cluster = cluster
        self._worker = worker
        self._server = server
        self._config = config
        self._max_steps = max_steps
        self._waiting = waiting
        self._sync = sync
        self._backup_workers = backup_workers
        self._life = life
        self._unreported = {}  # worker: the step that was ordered of it
        self._thread = None
        self._failure = None  # of the thread
        self._leaving = False

    def build_input(self, examples, seed, flip):
        """Builds its own worker's input: see Worker.build_input."""
        if self._max_steps is None:
            self._max_steps = self._worker.recipe.max_steps(examples.count, self._worker.global_batch_size)
        return self._worker.build_input(examples, seed, flip)

    def build_step(self, images, labels, global_step, learning_rate, num_classes):
        """Builds its own worker's step, and the update; returns (train op, loss) of all workers together."""
        cluster = self._cluster
        home = f"{cluster.holders[0]}/cpu:0"
        losses = self._worker.build_step(images, labels, global_step, learning_rate, num_classes)
        self._graph = tf.get_default_graph()
        self._post = Post(cluster, self._life)
        self._initial = []  # ops
        if self._worker.shown:
            self._initial += self._worker.shown.write([""])
        if not self._sync:
            with tf.name_scope(_SCOPE):
                self._set_step = global_step.assign(self._post.step).op
            return tf.no_op(), *_loss_slot(cluster, losses["total_loss"]).read()

        slots = [_gradient_slots(cluster, i, losses["cross_entropy"]) for i in range(len(cluster.workers))]
        values = self._weighted(slots, home) if self._backup_workers else [slot.read() for slot in slots]

        def order_next():
            # At the end the last step once more, which is reported again and not computed.
            return self._post.orders(tf.minimum(global_step.read_value(), self._max_steps - 1))

        with tf.device(home):
            return towers.update(
                [of_worker[:-1] for of_worker in values],
                [of_worker[-1] for of_worker in values],
                towers.decays(losses),
                global_step,
                learning_rate,
                order_next,
                **self._worker.recipe.of_update,
            )

    def _weighted(self, slots, home):
        """Returns the workers' values times weights with which the mean of all is that of those who reported."""
        with tf.name_scope(_SCOPE):
            self._weights = tf.placeholder(tf.float32, [len(slots)], "weights")
        weights = Slots("weights", [self._weights], [home])
        self._weigh = weights.write([self._weights])
        self._initial += [slot.clear() for slot in slots]
        (factors,) = weights.read()
        return [slot.weighted(factors[i]) for i, slot in enumerate(slots)]

    def before_step(self, session, step, interrupted):
        """Returns when enough has been reported for the step to be run, or the program is to end.

        Args:
          session: tf.Session.
          step: int, the step about to run.
          interrupted: function that returns whether the program is to end.

        Raises:
          ClusterError: it takes too long.
          tf.errors.OpError: a holder of the variables is gone.
        """
        if self._thread is None:
            self._begin(session, step)
        if self._sync:
            self._unreported = dict.fromkeys(range(len(self._cluster.workers)), step)
        while not self._may_run(step):
            if interrupted():
                return
            self._hear(session)
            if not self._sync:
                self._hand_out(session)
        self._waiting.over()
        if self._backup_workers:
            came = [worker not in self._unreported for worker in range(len(self._cluster.workers))]
            session.run(self._weigh, {self._weights: [len(came) / sum(came) if each else 0.0 for each in came]})

    def _may_run(self, step):
        if self._sync:
            return len(self._unreported) <= self._backup_workers
        return self._updates > step

    def _begin(self, session, step):
        """Starts its own worker, and sends all workers their first orders."""
        session.run(self._initial)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        if self._sync:
            for worker in range(len(self._cluster.workers)):
                self._post.order(session, worker, step)
        else:
            session.run(self._set_step, {self._post.step: step})  # which a checkpoint may have a little later
            self._updates = self._next = step
            self._hand_out(session)

    def _hand_out(self, session):
        """Orders a step of each asynchronous worker that has none, while there are any."""
        for worker in range(len(self._cluster.workers)):
            if worker not in self._unreported and self._next < self._max_steps:
                self._unreported[worker] = self._next
                self._next += 1
                self._post.order(session, worker, self._unreported[worker])

    def _hear(self, session):
        """Takes what has been reported; where nothing is, says who is missing, and sends their orders again."""
        reports = self._post.hear(session)
        for worker, step in reports:
            if self._unreported.get(worker) != step:
                continue
            del self._unreported[worker]
            if not self._sync:
                self._updates += 1
                # Whoever else was given this step, below, is free for another.
                self._unreported = {other: given for other, given in self._unreported.items() if given != step}
        if reports:
            return
        if self._failure:
            raise self._failure
        for worker, step in self._unreported.items():
            self._post.order(session, worker, step)
        if not self._sync:
            self._hand_on(session)
        self._waiting.look(lambda: self._waiting.describe(map(self._cluster.worker_name, self._unreported)))

    def _hand_on(self, session):
        """At the end, orders of asynchronous workers who have nothing to do what others are late with, or dead."""
        late = sorted(set(self._unreported.values()))
        for worker in range(len(self._cluster.workers)):
            if late and worker not in self._unreported:
                self._unreported[worker] = late.pop(0)
                self._post.order(session, worker, self._unreported[worker])

    def _work(self):
        try:
            with tf.Session(self._server.target, graph=self._graph, config=self._config) as session:
                self._worker.work(session, lambda orders: self._leaving)
        except Exception as error:
            self._failure = error

    def close(self):
        """Ends its own worker."""
        self._leaving = True
        if self._thread is not None:
            self._thread.join()

    def dismiss(self, order):
        """Tells all others END or FAILED, and waits for them to hear it, but not for long."""
        deadline = time.time() + FAREWELL_SECS
        waiting = dict.fromkeys(range(1, len(self._cluster.workers)), order)
        with (
            contextlib.suppress(tf.errors.OpError),
            tf.Graph().as_default(),
            tf.device(placement(self._cluster)),
            tf.Session(self._server.target, config=self._config) as session,
        ):
            post = Post(self._cluster, self._life)
            while waiting and time.time() < deadline:
                for worker in waiting:
                    post.order(session, worker, order)
                for worker, step in post.hear(session):
                    if step == order:
                        waiting.pop(worker, None)
            post.order_ps(session, order)
