"""The chief's part of a training on several machines: the orders, and the update with what the workers compute."""

import contextlib
import threading
import time

import tensorflow.compat.v1 as tf

from cifar10.cluster import exchange
from cifar10.network import towers

FAREWELL_SECS = 10.0  # for the others to hear of it


class Post:
    """The chief's side of orders and reports, in the current graph."""

    def __init__(self, cluster, life):
        """life: int, see exchange.orders_to."""
        self._life = life
        self._to_workers = [exchange.orders_to(cluster, "worker", i) for i in range(len(cluster.workers))]
        self._to_ps = [exchange.orders_to(cluster, "ps", i) for i in range(len(cluster.ps))]
        self._reports = exchange.reports_to_chief(cluster)
        with tf.name_scope(exchange.SCOPE):
            self.step = tf.placeholder(tf.int64, [], "order")
        self._order = self.orders(self.step)
        self._order_ps = [orders.send(self._message(self.step)) for orders in self._to_ps]

    def orders(self, step):
        """Returns the ops that order a step (int64 scalar) of each worker."""
        message = self._message(step)
        return [orders.send(message) for orders in self._to_workers]

    def _message(self, step):
        with tf.name_scope(exchange.SCOPE):
            return tf.stack([tf.constant(self._life, tf.int64), step])

    def order(self, session, worker, step):
        """Orders a step (int) of a worker."""
        session.run(self._order[worker], {self.step: step})

    def order_ps(self, session, step):
        """Sends all parameter servers an order that is no step."""
        session.run(self._order_ps, {self.step: step})

    def hearer(self, session):
        """Returns a function (at_least) that returns the (worker, step) reported: see exchange.Messages.receiver."""
        receive = self._reports.receiver(session)
        return lambda at_least: [(worker, step) for worker, life, step in receive(at_least) if life == self._life]


class Chief:
    """The chief, whose own worker is one like the others, in a thread of its own."""

    def __init__(self, cluster, worker, life, server, config, max_steps, waiting, sync=True, backup_workers=0):
        """
        Args:
          cluster: the Cluster.
          worker: its own workers.Worker.
          life: from exchange.new_life.
          server: tf.train.Server.
          config: tf.ConfigProto of its sessions.
          max_steps: the global step at which training ends, or None for the recipe's own.
          waiting: members.Waiting.
          sync: see workers.Worker.
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
        self._heard = None  # function of Post.hearer
        self._failure = None  # of the thread
        self._leaving = False

    def build_input(self, examples, seed, flip):
        """Builds its own worker's input: see workers.Worker.build_input."""
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
            with tf.name_scope(exchange.SCOPE):
                self._set_step = global_step.assign(self._post.step).op
            return tf.no_op(), *exchange.loss_slot(cluster, losses["total_loss"]).read()

        slots = [exchange.gradient_slots(cluster, i, losses["cross_entropy"]) for i in range(len(cluster.workers))]
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
        with tf.name_scope(exchange.SCOPE):
            self._weights = tf.placeholder(tf.float32, [len(slots)], "weights")
        weights = exchange.Slots("weights", [self._weights], [home])
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
        at_least = 1
        if self._sync:
            self._unreported = dict.fromkeys(range(len(self._cluster.workers)), step)
            at_least = len(self._unreported) - self._backup_workers
        while not self._may_run(step):
            if interrupted():
                return
            self._hear(session, at_least)
            at_least = 1  # somebody is late, or was heard twice
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
        self._heard = self._post.hearer(session)
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

    def _hear(self, session, at_least):
        """Takes what has been reported; where too little is, says who is missing, and sends their orders again."""
        reports = self._heard(at_least)
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
            tf.device(exchange.placement(self._cluster)),
            tf.Session(self._server.target, config=self._config) as session,
        ):
            post = Post(self._cluster, self._life)
            heard = post.hearer(session)
            while waiting and time.time() < deadline:
                for worker in waiting:
                    post.order(session, worker, order)
                for worker, step in heard(1):
                    if step == order:
                        waiting.pop(worker, None)
            post.order_ps(session, order)
