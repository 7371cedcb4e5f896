"""What workers send each other, by TensorFlow's collective ops, which each of them must build alike.

An op that waits for a process that is gone fails at once, one that waits for a process that hangs fails after a time;
then no collective of this process works any more.
"""

import tensorflow.compat.v1 as tf

from cifar10.network import microbatches

# What TensorFlow raises at a collective where another process is gone, has begun anew, or hangs.
LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)
KINDS = ("auto", "gather", "ring")
MOST_GATHERED = 4  # workers; of more, gathering sends more than a ring does

_GROUP = 1
_BROADCAST, _BARRIER, _STEP = 1000, 2000, 3000  # where the numbers of the ops begin


class Collectives:
    """The collective ops of one graph of one worker."""

    def __init__(self, num_workers, kind="auto", timeout_secs=0.0):
        """
        Args:
          num_workers: number of all workers.
          kind: one of KINDS: 'gather' brings everything to all, who add it as towers do; 'ring' adds on the way, whose
            bytes a worker do not grow with the workers, but in another order; 'auto' gathers up to MOST_GATHERED.
          timeout_secs: seconds after which a process that has not come hangs; 0: never.
        """
        self._num_workers = num_workers
        self._rings = kind == "ring" or (kind == "auto" and num_workers > MOST_GATHERED)
        self._options = {"group_size": num_workers, "group_key": _GROUP, "timeout_seconds": timeout_secs}

    def all_reduce(self, variables, gradients, cross_entropy):
        """Brings the gradients of all workers together, as towers.update takes those of towers.

        Those of fully connected layers travel as their factors where that is less. No value is there before all are, so
        that what is done with them is done with all, or with none if a collective fails.

        Args:
          variables: the trainable variables.
          gradients: of each variable, float32.
          cross_entropy: float32 scalar.

        Returns:
          (A list of the gradients a worker, a list of their cross entropies); or, of a ring, lists with the mean only.
        """
        products = [self._products(gradient) for gradient in gradients]
        sent, ways = [cross_entropy], [(False, self._rings)]
        for variable, gradient, factored in zip(variables, gradients, products, strict=True):
            # The convolutions' gradients come last, at the end of two thirds of the step; the others travel meanwhile.
            way = (variable.op.name.startswith("conv"), self._rings and not factored)
            tensors = [factor for product in factored for factor in product.op.inputs] or [gradient]
            sent += tensors
            ways += [way] * len(tensors)
        cross_entropies, *arrived = self._travel(sent, ways)
        together = []
        for factored in products:
            if not factored:
                together.append(arrived.pop(0))
                continue
            factors = [arrived.pop(0) for _ in range(2 * len(factored))]
            values = [_multiplied(factored, of_one) for of_one in zip(*factors, strict=True)]
            together.append([microbatches.pairwise_sum(values) / self._num_workers] if self._rings else values)
        return list(zip(*together, strict=True)), cross_entropies

    def broadcast(self, sends):
        """Returns the op that brings the values of all variables from the one worker that `sends` to the others."""
        variables, ops = [*tf.global_variables(), *tf.local_variables()], []
        for number, dtype in enumerate(sorted({variable.dtype.base_dtype for variable in variables}, key=str)):
            same = [variable for variable in variables if variable.dtype.base_dtype == dtype]
            options = {**self._options, "instance_key": _BROADCAST + number}
            if sends:
                ops.append(tf.raw_ops.CollectiveBcastSendV2(input=_join(same), **options))
                continue
            shape = [sum(variable.shape.num_elements() for variable in same)]
            values = _split(tf.raw_ops.CollectiveBcastRecvV2(T=dtype, shape=shape, **options), same)
            ops += [variable.assign(value).op for variable, value in zip(same, values, strict=True)]
        return tf.group(ops)

    def barrier(self):
        """Returns the op that waits until all have come to it."""
        return self._gather(tf.zeros([1]), _BARRIER)[0].op

    def _products(self, gradient):
        """Returns the products that a weight matrix's gradient is the sum of, if their factors are less to send, or [].

        The gradient is inputs transposed times the gradient of outputs, of each micro-batch, and these have few rows:
        the sufficient factors of Xie et al., Lighter-Communication Distributed Machine Learning via Sufficient Factor
        Broadcasting (2016). They are gathered in any case.
        """
        products = _addends(gradient)
        if any(product.op.type != "MatMul" for product in products):
            return []
        numbers = sum(factor.shape.num_elements() for product in products for factor in product.op.inputs)
        times = 2 / self._num_workers if self._rings else 1  # a ring sends a tensor twice, however many the workers are
        return products if numbers < times * gradient.shape.num_elements() else []

    def _travel(self, tensors, ways):
        """Returns of each tensor the list of all workers', or of their mean.

        Args:
          tensors: of float32.
          ways: of each (whether it comes late, whether it goes in a ring); those of one way travel as one.
        """
        together = {}
        for i, way in enumerate(ways):
            together.setdefault(way, []).append(i)
        vectors = []
        for number, ((_, ring), members) in enumerate(together.items()):
            own = _join([tensors[i] for i in members])
            vectors.append([self._mean(own, _STEP + number)] if ring else self._gather(own, _STEP + number))
        arrived = [None] * len(tensors)
        everything = [vector for each in vectors for vector in each]
        for members, of_all in zip(together.values(), vectors, strict=True):
            with tf.control_dependencies(everything):
                parts = [_split(tf.identity(vector), [tensors[i] for i in members]) for vector in of_all]
            for i, *values in zip(members, *parts, strict=True):
                arrived[i] = values
        return arrived

    def _mean(self, vector, number):
        """Returns the mean of all workers' vectors."""
        return tf.raw_ops.CollectiveReduceV2(
            input=vector, merge_op="Add", final_op="Div", instance_key=number, ordering_token=[], **self._options
        )

    def _gather(self, vector, number):
        """Returns the list of all workers' vectors, in the order of the workers."""
        gathered = tf.raw_ops.CollectiveGatherV2(
            input=vector[tf.newaxis], instance_key=number, ordering_token=[], **self._options
        )
        gathered.set_shape([self._num_workers, *vector.shape])
        vectors = tf.unstack(gathered)
        # They come in the order of their devices' names as text, task 10 before task 2.
        tasks = sorted(range(self._num_workers), key=str)
        return [vectors[tasks.index(task)] for task in range(self._num_workers)]


def _addends(value):
    """Returns the tensors of which a tensor is the microbatches.pairwise_sum, or itself."""
    if value.op.type in ("AddN", "Snapshot"):
        return [addend for part in value.op.inputs for addend in _addends(part)]
    return [value]


def _multiplied(products, factors):
    """Returns the sum of the same products of other factors."""
    return microbatches.pairwise_sum(
        [
            tf.matmul(left, right, product.op.get_attr("transpose_a"), product.op.get_attr("transpose_b"))
            for product, left, right in zip(products, factors[::2], factors[1::2], strict=True)
        ]
    )


def _join(tensors):
    """Returns a vector of all numbers of some tensors."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)


def _split(vector, like):
    """Returns the tensors, of the shapes of `like`, that were joined to a vector."""
    parts = tf.split(vector, [each.shape.num_elements() for each in like])
    return [tf.reshape(part, each.shape) for part, each in zip(parts, like, strict=True)]
