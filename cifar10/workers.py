"""Data parallelism across machines: what towers are on one machine, workers are on several.

The variables are with the parameter servers, or with the chief, which is the first worker, where there are none. For
each step the chief orders a gradient of every worker; a worker reads the variables, computes its slice of the step's
batch, leaves the gradients in slots of its own beside the variables, and reports; once all have reported, the chief
adds what is in the slots, in the order of the workers, and updates the variables. So the step is that of as many
towers. A worker's part in a step is one run of its graph, which begins with waiting for the order and prepares the next
step's pictures as well. An asynchronous worker updates the variables itself, and gets a step of its own each time.

Orders and reports are elements of tf.FIFOQueues, slots are variables that no checkpoint holds. Any of them may come
twice, or too late: a gradient is a function of the variables and the step. So a process that is started again finds its
way back without any state of its own. tf.train.SyncReplicasOptimizer is not used: it adds gradients as they arrive, may
take two of one worker and none of another, and its variables would be in the checkpoints.
"""

import contextlib
import functools
import re
import secrets
import threading
import time
import zlib

import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input, datasets, microbatches, model, recipes, summaries, towers, training
from cifar10.cluster import POLL_SECS

# Orders that are no step.
END = -1  # training has ended
FAILED = -2  # the chief has given up

FAREWELL_SECS = 10.0  # for the others to hear of it

# Numbers from which a tensor goes by itself, as local3's weights do, which need not wait for others to save a message.
ALONE = 2**18

REFUSED = r"assertion failed: \[(\d+) (-?\d+)\]"  # what TensorFlow's Assert says of an order
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


def carry(tensors, sources, destinations):
    """Returns tensors where they are to go; those of fewer than ALONE numbers that go the same way go as one.

    Args:
      tensors: of float32.
      sources, destinations: of each the device that has it, and that is to get it; within a process nothing is done.
    """
    together = {}
    for i, (tensor, source, destination) in enumerate(zip(tensors, sources, destinations, strict=True)):
        way = _cpu(source), _cpu(destination)
        if way[0] != way[1] and tensor.shape.num_elements() < ALONE:
            together.setdefault(way, []).append(i)
    carried = list(tensors)
    for (source, destination), members in together.items():
        shapes = [tensors[i].shape for i in members]
        with tf.name_scope(_SCOPE), tf.device(source):
            joined = tf.concat([tf.reshape(tensors[i], [-1]) for i in members], 0)
        with tf.name_scope(_SCOPE), tf.device(destination):
            parts = tf.split(joined, [shape.num_elements() for shape in shapes])
            for i, part, shape in zip(members, parts, shapes, strict=True):
                carried[i] = tf.reshape(part, shape)
    return carried


def _cpu(device):
    """Returns the CPU of the process that a device is of."""
    spec = tf.DeviceSpec.from_string(device)
    return f"/job:{spec.job}/task:{spec.task}/cpu:0"


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
        return self.write(self._each(_zeros, self.like))

    def _each(self, build, *lists):
        built = []
        for device, *arguments in zip(self._devices, *lists, strict=True):
            with tf.name_scope(_SCOPE), tf.device(device):
                built.append(build(*arguments))
        return built


def _zeros(like):
    return tf.zeros(like.shape, like.dtype.base_dtype)


class Messages:
    """A queue of messages on a device, each of so many int64 numbers."""

    def __init__(self, name, numbers, device):
        with tf.name_scope(_SCOPE), tf.device(device):
            self._queue = tf.FIFOQueue(-1, [tf.int64], [[numbers]], shared_name=name)
            self._all = self._queue.dequeue_many(tf.maximum(1, self._queue.size()))

    def send(self, message):
        """Returns the op that sends a message, int64 [numbers]."""
        with tf.name_scope(_SCOPE):
            return self._queue.enqueue([message])

    def next(self):
        """Returns the next message, int64 [numbers], once there is one."""
        with tf.name_scope(_SCOPE):
            return self._queue.dequeue()

    def newest(self):
        """Returns the newest message, int64 [numbers], once there is one; those before it are lost."""
        return self._all[-1]

    def receive(self, session):
        """Returns the list of all messages that are there; if there is none it waits for one, but not for long."""
        try:
            messages = session.run(self._all, options=tf.RunOptions(timeout_in_ms=int(1000 * POLL_SECS)))
        except tf.errors.DeadlineExceededError:
            return []
        return [tuple(message) for message in messages.tolist()]


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
    """Returns the settings of the chief, of an int or an int64 tensor."""
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
        settings=0,
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
          settings: from the function of this name; the orders of a chief with others are not done.
          **network: use_fp16, seed, lrn and microbatch_size, as for model.inference.
        """
        self._cluster = cluster
        self._batch_size = batch_size
        self._sync = sync
        self.recipe = recipe
        self._settings = settings
        self.global_batch_size = (len(cluster.workers) if sync else 1) * batch_size
        self._save_summaries_steps = save_summaries_steps if cluster.is_chief else 0
        self._build = functools.partial(build, **network)
        self.shown = None

    def build_input(self, examples, seed, flip):
        """Builds the slice of the training input: see cifar10_input.distorted_slice."""
        cluster = self._cluster
        home = f"{cluster.holders[0]}/cpu:0"
        orders = orders_to(cluster, "worker", cluster.task)
        with tf.name_scope(_SCOPE), tf.device(home):
            # For a synchronous worker the newest order counts: the others went on without it.
            order = orders.newest() if self._sync else orders.next()
            self._done = Slots(f"done/{cluster.task}", [order], [home])
            life, step = tf.unstack(order)
            new = tf.reduce_any(tf.not_equal(order, *self._done.read()))
            can_be_done = tf.reduce_all([tf.equal(settings_of(life), self._settings), step >= 0, new])
            with tf.control_dependencies([tf.raw_ops.Assert(condition=can_be_done, data=[order])]):
                self._order = tf.identity(order)
        with tf.name_scope(_SCOPE), tf.device(f"{cluster.device}/cpu:0"):
            self._order_here = tf.identity(self._order)
        size = self._batch_size
        start = cluster.task * size if self._sync else 0

        def batch(step):
            return cifar10_input.distorted_slice(
                examples, step, self.global_batch_size, start, size, seed, flip=flip, **self.recipe.of_input
            )

        self._batch = batch
        step = self._order_here[1]
        if not self._sync:  # its next step may be any, so that nothing can be prepared
            images, labels = batch(step)
        else:
            here = f"{cluster.device}/cpu:0"
            pictures = [size, cifar10_input.IMAGE_SIZE, cifar10_input.IMAGE_SIZE, datasets.DEPTH]
            like = [tf.TensorSpec([], tf.int64), tf.TensorSpec(pictures, tf.float32), tf.TensorSpec([size], tf.int32)]
            self._prepared = Slots(f"prepared/{cluster.task}", like, [here] * len(like))
            of_step, *prepared = self._prepared.read()
            with tf.name_scope(_SCOPE), tf.device(here):
                images, labels = tf.cond(tf.equal(of_step, step), lambda: prepared, lambda: list(batch(step)))
        summaries.image("images", images)
        return images, labels

    def _prepare(self, images, labels):
        """Returns ops that prepare the batch of the step after the one of these pictures and labels."""
        if not self._sync:
            return []
        with (
            tf.name_scope(_SCOPE),
            tf.device(f"{self._cluster.device}/cpu:0"),
            tf.control_dependencies([images, labels]),
        ):
            following = self._order_here[1] + 1
            return self._prepared.write([following, *self._batch(following)])

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
        home = f"{cluster.holders[0]}/cpu:0"
        values = self._values(images, num_classes)
        with microbatches.computing_with(values):
            logits = self._build(images, num_classes)
        losses = training.losses(training.loss(logits, labels, self.recipe.label_smoothing))
        variables = tf.trainable_variables()
        computed = tf.gradients(losses["cross_entropy"], [values[variable.op.name] for variable in variables])
        prepared = self._prepare(images, labels)
        computed.append(losses["cross_entropy"])
        destinations = [*(variable.device for variable in variables), home]
        computed = carry(computed, [cluster.device] * len(computed), destinations)
        if self._sync:
            done = _gradient_slots(cluster, cluster.task, losses["cross_entropy"]).write(computed)
        else:
            with tf.device(home):
                update, losses["total_loss"] = towers.update(
                    [computed[:-1]],
                    computed[-1:],
                    towers.decays(losses),
                    global_step,
                    learning_rate,
                    **self.recipe.of_update,
                )
            done = [update, *_loss_slot(cluster, losses["total_loss"]).write([losses["total_loss"]])]
        self._reports = _reports_to_chief(cluster)
        with tf.name_scope(_SCOPE), tf.device(home):
            self._refused = tf.placeholder(tf.int64, [2], "refused")
            self._begin = self._done.clear()
        if self._sync:
            self._begin += self._prepared.write([tf.constant(-1, tf.int64), *map(_zeros, self._prepared.like[1:])])
        self._report = self._reporting([], self._refused)
        self._compute = tf.group(self._reporting(done, self._order), *prepared)
        if self._save_summaries_steps:
            self.shown = Slots("summary", [summaries.merged()], [f"{cluster.device}/cpu:0"])
            self._compute_and_show = tf.group(
                self._reporting([*done, *self.shown.write(self.shown.like)], self._order), *prepared
            )
            tf.get_collection_ref(tf.GraphKeys.SUMMARIES)[:] = self.shown.read()
        return losses

    def _values(self, images, num_classes):
        """Returns {name: value} of the network's variables, brought to this worker after the order has come."""
        with tf.Graph().as_default(), tf.device(placement(self._cluster)):  # only to learn what they are
            tf.train.get_or_create_global_step()
            self._build(tf.placeholder(images.dtype, images.shape), num_classes)
            variables = tf.trainable_variables()
        read = []
        for variable in variables:
            with tf.name_scope(_SCOPE), tf.device(variable.device), tf.control_dependencies([self._order]):
                handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=variable.shape, shared_name=variable.op.name)
                read.append(
                    tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32), variable.shape)
                )
        sources = [variable.device for variable in variables]
        names = [variable.op.name for variable in variables]
        return dict(zip(names, carry(read, sources, [self._cluster.device] * len(read)), strict=True))

    def _reporting(self, done, order):
        """Returns the op that, once all is done, reports an order and remembers it."""
        with tf.name_scope(_SCOPE), tf.device(f"{self._cluster.holders[0]}/cpu:0"):
            report = tf.concat([[tf.constant(self._cluster.task, tf.int64)], order], 0)
            with tf.control_dependencies(done):
                return tf.group(self._reports.send(report), *self._done.write([order]))

    def work(self, session, heard):
        """Does what the chief orders, up to the order that is no step, which is returned; waits for it for ever.

        Args:
          session: tf.Session, which may be closed to end the waiting: that raises tf.errors.CancelledError.
          heard: function that is called with each order, (life, step), that has been done or cannot be.
        """
        session.run(self._begin)
        step = shown = None
        while True:
            op, period = self._compute, None
            if self.shown:
                period = 0 if step is None else (step + 1) // self._save_summaries_steps
                op = self._compute if period == shown else self._compute_and_show
            try:
                order = session.run([self._order_here, op])[0].tolist()
                shown = period
            except tf.errors.InvalidArgumentError as error:
                # One that is no step, of other settings, or that has been done and may be reported once more.
                refused = re.search(REFUSED, error.message)
                if not refused:
                    raise
                order = [int(number) for number in refused.groups()]
                heard(tuple(order))
                session.run(self._report, {self._refused: order})
                if order[1] < 0:
                    return order[1]
                continue
            heard(tuple(order))
            step = order[1]


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
        self._order_ps = [orders.send(self._message(self.step)) for orders in self._to_ps]

    def orders(self, step):
        """Returns the ops that order a step (int64 scalar) of each worker."""
        message = self._message(step)
        return [orders.send(message) for orders in self._to_workers]

    def _message(self, step):
        with tf.name_scope(_SCOPE):
            return tf.stack([tf.constant(self._life, tf.int64), step])

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
        self._thread = self._session = None  # of its own worker
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
        self._session = tf.Session(self._server.target, graph=self._graph, config=self._config)
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
            self._worker.work(self._session, lambda order: None)
        except Exception as error:
            if not self._leaving:
                self._failure = error

    def close(self):
        """Ends its own worker."""
        self._leaving = True
        if self._thread is not None:
            self._session.close()
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
