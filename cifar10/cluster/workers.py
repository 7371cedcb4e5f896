"""Data parallelism across machines: what towers are on one machine, workers are on several.

The variables are with the parameter servers, or with the chief, which is the first worker, where there are none. For
each step the chief orders a gradient of every worker; a worker reads the variables, computes its slice of the step's
batch, leaves the gradients in slots of its own beside the variables, and reports; once all have reported, the chief
adds what is in the slots, in the order of the workers, and updates the variables. So the step is that of as many
towers. A worker's part in a step is one run of its graph, which begins with waiting for the order and prepares the next
step's pictures as well. An asynchronous worker updates the variables itself, and gets a step of its own each time.

What goes between them, and how, is in `exchange`; the chief's part is in `chief`.
"""

import functools
import re

import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input
from cifar10.cluster import exchange
from cifar10.data import datasets
from cifar10.network import microbatches, model, recipes, summaries, towers, training

REFUSED = r"assertion failed: \[(\d+) (-?\d+)\]"  # what TensorFlow's Assert says of an order


class Worker:
    """One worker's part: its slice of each batch, and the gradients of that.

    Attributes:
      recipe: the recipes.Recipe.
      global_batch_size: pictures a step, of all synchronous workers together.
      shown: exchange.Slots of the summaries that the chief shows together with its own, or None.
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
          settings: from exchange.settings; the orders of a chief with others are not done.
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
        orders = exchange.orders_to(cluster, "worker", cluster.task)
        with tf.name_scope(exchange.SCOPE), tf.device(home):
            # For a synchronous worker the newest order counts: the others went on without it.
            order = orders.newest() if self._sync else orders.next()
            self._done = exchange.Slots(f"done/{cluster.task}", [order], [home])
            life, step = tf.unstack(order)
            new = tf.reduce_any(tf.not_equal(order, *self._done.read()))
            can_be_done = tf.reduce_all([tf.equal(exchange.settings_of(life), self._settings), step >= 0, new])
            with tf.control_dependencies([tf.raw_ops.Assert(condition=can_be_done, data=[order])]):
                self._order = tf.identity(order)
        with tf.name_scope(exchange.SCOPE), tf.device(f"{cluster.device}/cpu:0"):
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
            self._prepared = exchange.Slots(f"prepared/{cluster.task}", like, [here] * len(like))
            of_step, *prepared = self._prepared.read()
            with tf.name_scope(exchange.SCOPE), tf.device(here):
                images, labels = tf.cond(tf.equal(of_step, step), lambda: prepared, lambda: list(batch(step)))
        summaries.image("images", images)
        return images, labels

    def _prepare(self, images, labels):
        """Returns ops that prepare the batch of the step after the one of these pictures and labels."""
        if not self._sync:
            return []
        with (
            tf.name_scope(exchange.SCOPE),
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
        destinations = [variable.device for variable in variables]
        computed = list(map(exchange.multiplied_at, destinations, computed))
        computed = exchange.carry([*computed, losses["cross_entropy"]], [*destinations, home])
        if self._sync:
            done = exchange.gradient_slots(cluster, cluster.task, losses["cross_entropy"]).write(computed)
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
            done = [update, *exchange.loss_slot(cluster, losses["total_loss"]).write([losses["total_loss"]])]
        self._reports = exchange.reports_to_chief(cluster)
        with tf.name_scope(exchange.SCOPE), tf.device(home):
            self._refused = tf.placeholder(tf.int64, [2], "refused")
            self._begin = self._done.clear()
        if self._sync:
            of_no_step = [tf.constant(-1, tf.int64), *map(exchange.zeros, self._prepared.like[1:])]
            self._begin += self._prepared.write(of_no_step)
        self._report = self._reporting([], self._refused)
        # A list, as an op of them all would be on one device and have to be told by the other.
        self._compute = [self._order_here, self._reporting(done, self._order), *prepared]
        if self._save_summaries_steps:
            self.shown = exchange.Slots("summary", [summaries.merged()], [f"{cluster.device}/cpu:0"])
            done = [*done, *self.shown.write(self.shown.like)]
            self._compute_and_show = [self._order_here, self._reporting(done, self._order), *prepared]
            tf.get_collection_ref(tf.GraphKeys.SUMMARIES)[:] = self.shown.read()
        return losses

    def _values(self, images, num_classes):
        """Returns {name: value} of the network's variables, brought to this worker after the order has come."""
        with tf.Graph().as_default(), tf.device(exchange.placement(self._cluster)):  # only to learn what they are
            tf.train.get_or_create_global_step()
            self._build(tf.placeholder(images.dtype, images.shape), num_classes)
            variables = tf.trainable_variables()
        read = []
        for variable in variables:
            with tf.name_scope(exchange.SCOPE), tf.device(variable.device), tf.control_dependencies([self._order]):
                handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=variable.shape, shared_name=variable.op.name)
                read.append(
                    tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32), variable.shape)
                )
        names = [variable.op.name for variable in variables]
        return dict(zip(names, exchange.carry(read, [self._cluster.device] * len(read)), strict=True))

    def _reporting(self, done, order):
        """Returns the op that, once all is done, reports an order and remembers it."""
        with tf.name_scope(exchange.SCOPE), tf.device(f"{self._cluster.holders[0]}/cpu:0"):
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
        compute = session.make_callable(self._compute)
        compute_and_show = session.make_callable(self._compute_and_show) if self.shown else None
        expected, shown = 0, None
        while True:
            period = expected // self._save_summaries_steps if self.shown else None
            step = compute if period == shown else compute_and_show
            try:
                order = step()[0].tolist()
                shown = period
            except tf.errors.InvalidArgumentError as error:
                # One that is no step, of other settings, or that has been done and may be reported once more.
                refused = re.search(REFUSED, error.message)
                if not refused:
                    raise
                order = [int(number) for number in refused.groups()]
                heard(order)
                session.run(self._report, {self._refused: order})
                if order[1] < 0:
                    return order[1]
                continue
            heard(order)
            expected = order[1] + 1
