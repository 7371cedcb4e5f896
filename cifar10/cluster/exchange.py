"""What the processes of a training on several machines leave for each other, and where: orders, reports, values.

Orders and reports are elements of tf.FIFOQueues, slots are variables that no checkpoint holds. Any of them may come
twice, or too late: a gradient is a function of the variables and the step. So a process that is started again finds its
way back without any state of its own. tf.train.SyncReplicasOptimizer is not used: it adds gradients as they arrive, may
take two of one worker and none of another, and its variables would be in the checkpoints.
"""

import secrets
import zlib

import tensorflow.compat.v1 as tf

from cifar10.cluster.members import POLL_SECS
from cifar10.network import microbatches

# Orders that are no step.
END = -1  # training has ended
FAILED = -2  # the chief has given up

# Numbers from which a tensor goes by itself, as local3's weights do, which need not wait for others to save a message.
ALONE = 2**18

SCOPE = "cluster/"  # with its slash, so that entering it again continues it


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


def carry(tensors, destinations):
    """Returns tensors where they are to go; those of fewer than ALONE numbers that go the same way go as one.

    Args:
      tensors: of float32, each on the device of a process.
      destinations: of each the device that is to get it; within a process nothing is done.
    """
    together = {}
    for i, (tensor, destination) in enumerate(zip(tensors, destinations, strict=True)):
        way = _cpu(tensor.device), _cpu(destination)
        if way[0] != way[1] and tensor.shape.num_elements() < ALONE:
            together.setdefault(way, []).append(i)
    carried = list(tensors)
    for (source, destination), members in together.items():
        shapes = [tensors[i].shape for i in members]
        with tf.name_scope(SCOPE), tf.device(source):
            joined = tf.concat([tf.reshape(tensors[i], [-1]) for i in members], 0)
        with tf.name_scope(SCOPE), tf.device(destination):
            parts = tf.split(joined, [shape.num_elements() for shape in shapes])
            for i, part, shape in zip(members, parts, shapes, strict=True):
                carried[i] = tf.reshape(part, shape)
    return carried


def multiplied_at(device, gradient):
    """Returns the gradient of a weight matrix as multiplied on a device, where what is multiplied is smaller than it.

    The gradient is inputs transposed times the gradient of outputs, of each micro-batch, and these have few rows. So
    they go there instead: the sufficient factors of Xie et al., Lighter-Communication Distributed Machine Learning via
    Sufficient Factor Broadcasting (2016).

    Args:
      device: of the weights.
      gradient: float32, of any variable; one of fewer than ALONE numbers, or no such product, is returned as it is.
    """
    products = _addends(gradient)
    if gradient.shape.num_elements() < ALONE or any(product.op.type != "MatMul" for product in products):
        return gradient
    factors = [factor for product in products for factor in product.op.inputs]
    if sum(factor.shape.num_elements() for factor in factors) >= gradient.shape.num_elements():
        return gradient
    carried = carry(factors, [device] * len(factors))
    with tf.name_scope(SCOPE), tf.device(device):
        return microbatches.pairwise_sum(
            [
                tf.matmul(left, right, product.op.get_attr("transpose_a"), product.op.get_attr("transpose_b"))
                for product, left, right in zip(products, carried[::2], carried[1::2], strict=True)
            ]
        )


def _addends(value):
    """Returns the tensors of which a tensor is the microbatches.pairwise_sum, or itself."""
    if value.op.type in ("AddN", "Snapshot"):
        return [addend for part in value.op.inputs for addend in _addends(part)]
    return [value]


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
        return self.write(self._each(zeros, self.like))

    def _each(self, build, *lists):
        built = []
        for device, *arguments in zip(self._devices, *lists, strict=True):
            with tf.name_scope(SCOPE), tf.device(device):
                built.append(build(*arguments))
        return built


def zeros(like):
    """Returns zeros of the type and shape of a tensor or variable."""
    return tf.zeros(like.shape, like.dtype.base_dtype)


class Messages:
    """A queue of messages on a device, each of so many int64 numbers."""

    def __init__(self, name, numbers, device):
        with tf.name_scope(SCOPE), tf.device(device):
            self._queue = tf.FIFOQueue(-1, [tf.int64], [[numbers]], shared_name=name)
            self._at_least = tf.placeholder_with_default(1, [])
            self._all = self._queue.dequeue_many(tf.maximum(self._at_least, self._queue.size()))

    def send(self, message):
        """Returns the op that sends a message, int64 [numbers]."""
        with tf.name_scope(SCOPE):
            return self._queue.enqueue([message])

    def next(self):
        """Returns the next message, int64 [numbers], once there is one."""
        with tf.name_scope(SCOPE):
            return self._queue.dequeue()

    def newest(self):
        """Returns the newest message, int64 [numbers], once there is one; those before it are lost."""
        return self._all[-1]

    def receiver(self, session):
        """Returns a function that returns the list of all messages that are there.

        It takes the number of messages to wait for, but does not wait long: the list is empty then, and if there were
        fewer, but some, they are lost.
        """
        run = session.make_callable(self._all, [self._at_least], accept_options=True)
        options = tf.RunOptions(timeout_in_ms=int(1000 * POLL_SECS))

        def receive(at_least):
            try:
                return [tuple(message) for message in run(at_least, options=options).tolist()]
            except tf.errors.DeadlineExceededError:
                return []

        return receive


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


def reports_to_chief(cluster):
    """Returns the Messages (worker, life, step) from the workers to the chief."""
    return Messages("reports", 3, f"{cluster.holders[0]}/cpu:0")


def gradient_slots(cluster, worker, cross_entropy):
    """Returns the Slots of a worker's gradients, each beside its variable, and of its cross entropy."""
    variables = tf.trainable_variables()
    devices = [*(variable.device for variable in variables), f"{cluster.holders[0]}/cpu:0"]
    return Slots(f"gradients/{worker}", [*variables, cross_entropy], devices)


def loss_slot(cluster, loss):
    """Returns the Slots of the newest total loss of asynchronous workers."""
    return Slots("loss", [loss], [f"{cluster.holders[0]}/cpu:0"])
