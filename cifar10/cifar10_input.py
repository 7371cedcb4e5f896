"""Records -> batches of images and labels, as graph ops on the CPU.

A training batch is a pure function of (seed, step): which examples it has is in `order`, and their distortions, in
`crops`, are stateless random numbers keyed by (seed, step) and drawn for the whole batch. So every image is seen
exactly once an epoch (D1), a resumed run sees what an uninterrupted one sees, and a worker takes its part of the
batch. The tutorial's own mechanism, a shuffling queue, is in the `queue_` functions.
"""

import contextlib
import functools
import random
import typing
import zlib

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import config
from tensorflow.python.framework.random_seed import DEFAULT_GRAPH_SEED

from cifar10.data import crops, datasets, order, records
from cifar10.data.datasets import (
    IMAGE_SIZE,
    NUM_CLASSES,
    NUM_EXAMPLES_PER_EPOCH_FOR_EVAL,
    NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN,
)
from cifar10.errors import GraphError
from cifar10.network import summaries

NUM_PREPROCESS_THREADS = 16
MIN_FRACTION_OF_EXAMPLES_IN_QUEUE = 0.4
PREFETCHED_BATCHES = 4
PADDING = -1  # label of an image that must not count (D4); tf.nn.in_top_k finds it in no image


class Batch(typing.NamedTuple):
    """A training batch.

    Attributes:
      images: float32 [size, image_size, image_size, 3], standardized.
      labels: int32 [size].
      wait_ms: float64 scalar, the milliseconds that a step waits for it.
    """

    images: tf.Tensor
    labels: tf.Tensor
    wait_ms: tf.Tensor


def distorted_inputs(data_dir, batch_size, seed=None, start_step=0, distortions=None):
    """Builds the endless training input: a `training_batch`, without the time that a step waits for it.

    Args:
      data_dir: the folder of the record files, as the tutorial calls it, or their records.Examples.
      batch_size: images a batch.
      seed: int, or None: another one for each input, which follows tf.set_random_seed where that was called.
      start_step, distortions: as of training_batch.

    Returns:
      images: float32 [batch_size, image_size, image_size, 3], standardized.
      labels: int32 [batch_size].
    """
    require_graph("cifar10_input.distorted_inputs")
    examples = _examples(data_dir, "train")
    return training_batch(examples, batch_size, _another_seed() if seed is None else seed, start_step, distortions)[:2]


def require_graph(name):
    """Raises a GraphError, in which the function `name` is called, if ops would be computed instead of built."""
    if tf.executing_eagerly():
        raise GraphError(
            f"{name}: builds a graph, but TensorFlow computes at once here (eager mode); call it within "
            "`with tf.Graph().as_default():`, or call tf.compat.v1.disable_v2_behavior() first"
        )


def _examples(data_dir, split):
    """Returns the records.Examples of the files in a folder, or those that are given in its place."""
    if isinstance(data_dir, records.Examples):
        return data_dir
    return records.load(datasets.like_cifar10(NUM_CLASSES, folder=""), data_dir, split)


def _another_seed():
    """Returns an int: by chance, or made as the library makes one an op, of the graph's seed and the ops before it."""
    graph_seed, op_seed = tf.get_seed(None)
    if graph_seed is None:
        return random.SystemRandom().getrandbits(32)
    return zlib.crc32(f"{graph_seed} {op_seed}".encode())


def training_batch(examples, batch_size, seed=0, start_step=0, distortions=None, part=None):
    """Builds the endless training input: distorted images in a pseudo-random order, each once an epoch.

    It is a one-shot iterator: no initializer, no queue runner.

    Args:
      examples: records.Examples.
      batch_size: images a batch, of all towers or workers together.
      seed: int; two inputs with one seed give the same batches.
      start_step: the step whose batch comes first.
      distortions: crops.Distortions; None: the tutorial's, to IMAGE_SIZE.
      part: (start, size): which images of each batch to give, as one of several workers needs them; None: all.

    Returns:
      The Batch, of `size` images.
    """
    start, size = part or (0, batch_size)
    distortions = crops.Distortions(IMAGE_SIZE) if distortions is None else distortions
    crops.check_size(distortions.image_size)

    def batch(step):
        numbers = _numbers(step, batch_size)[start : start + size]
        shuffled = functools.partial(order.shuffled, num_examples=examples.count, seed=seed)
        images, labels = _gather(examples, shuffled, numbers, size)
        draws = [drawn[start : start + size] for drawn in crops.draw(seed, step, batch_size, distortions)]
        if distortions.flip and distortions.alternating_flip:
            mirrored = functools.partial(order.mirrored, num_examples=examples.count, seed=seed)
            draws[2] = tf.numpy_function(mirrored, [numbers], tf.bool, stateful=False)
            draws[2].set_shape([size])
        return crops.distort(images, draws if distortions.jitter else draws[:3], distortions.image_size), labels

    with _on_cpu():
        iterator = _iterator(tf.data.Dataset.range(start_step, np.iinfo(np.int64).max), batch)
        images, labels, wait_ms = _timed(iterator.get_next)
        summaries.image("images", images)
    return Batch(images, labels, wait_ms)


def inputs(eval_data, data_dir, batch_size, image_size=None):
    """Builds the tutorial's evaluation input: the central crop of each image, in file order, over and over.

    Args:
      eval_data: bool: the test images rather than the training images.
      data_dir: the folder of the record files, as the tutorial calls it, or records.Examples, whatever eval_data says.
      batch_size: images a batch.
      image_size: height and width of the crop, in pixels; None: IMAGE_SIZE.

    Returns:
      images: float32 [batch_size, image_size, image_size, 3], standardized.
      labels: int32 [batch_size].
    """
    require_graph("cifar10_input.inputs")
    examples = _examples(data_dir, "test" if eval_data else "train")
    image_size = IMAGE_SIZE if image_size is None else image_size
    crops.check_size(image_size)

    def batch(step):
        images, labels = _gather(examples, lambda n: n % examples.count, _numbers(step, batch_size), batch_size)
        return crops.central_crop(images, image_size), labels

    with _on_cpu():
        images, labels = _iterator(tf.data.Dataset.range(np.iinfo(np.int64).max), batch).get_next()
        summaries.image("images", images)
    return images, labels


def passes(examples, batch_size, num_examples, num_views=1, image_size=IMAGE_SIZE):
    """Builds the input of evaluations: passes over the first num_examples images, each exactly once a pass.

    Args:
      examples: records.Examples.
      batch_size: images a batch.
      num_examples: images a pass, of which num_batches make one.
      num_views: of each image: 1, the central crop; or 10, see crops.views.
      image_size: height and width of a crop or view, in pixels.

    Returns:
      images: float32 [num_views * batch_size, image_size, image_size, 3], standardized; view after view.
      labels: int32 [batch_size]; PADDING for what the last batch of a pass has too many of.
      numbers: int64 [batch_size], the images' numbers in file order; num_examples or more for those.
    """

    def batch(step):
        numbers = _numbers(step, batch_size)
        images, labels = _gather(examples, lambda n: n % examples.count, numbers, batch_size)
        labels = tf.where_v2(numbers < num_examples, labels, PADDING)
        see = crops.views if num_views == 10 else crops.central_crop
        return see(images, image_size), labels, numbers

    with _on_cpu():
        steps = tf.data.Dataset.range(num_batches(num_examples, batch_size)).repeat()
        images, labels, numbers = _iterator(steps, batch).get_next()
        summaries.image("images", images)
    return images, labels, numbers


def _numbers(step, batch_size):
    """Returns the numbers of a batch's examples since the beginning, int64 [batch_size]."""
    return step * batch_size + tf.range(batch_size, dtype=tf.int64)


def num_batches(num_examples, batch_size):
    """Returns the number of batches in one pass, the last one partial or not."""
    return -(-num_examples // batch_size)


def _gather(examples, which, numbers, batch_size):
    """Looks examples up outside of the graph, which would otherwise hold all of them.

    Args:
      examples: records.Examples.
      which: function from an array of numbers to an array of positions in `examples`.
      numbers: int64 [batch_size], the argument of `which`.
      batch_size: int.

    Returns:
      uint8 [batch_size, 32, 32, 3] images and int32 [batch_size] labels.
    """

    def look_up(numbers):
        index = which(numbers)
        return examples.images[index], examples.labels[index]

    images, labels = tf.numpy_function(look_up, [numbers], (tf.uint8, tf.int32), stateful=False)
    images.set_shape([batch_size, datasets.HEIGHT, datasets.WIDTH, datasets.DEPTH])
    labels.set_shape([batch_size])
    return images, labels


@contextlib.contextmanager
def _on_cpu():
    """Puts ops under the name scope `input` and on the CPU, also where a step has several devices."""
    graph = tf.get_default_graph()
    if config.is_op_determinism_enabled() and graph.seed is None:
        # TF_DETERMINISTIC_OPS=1 refuses what has no seed, even an iterator that draws nothing. With this one, which is
        # TensorFlow's own where a graph has none, ops that have a seed draw what they drew.
        tf.set_random_seed(DEFAULT_GRAPH_SEED)
    with tf.name_scope("input"), tf.device("/cpu:0"):
        yield


def _iterator(steps, batch):
    """Returns the iterator over what batch(step) builds, for each of a data set of step numbers.

    AutoGraph, which has nothing to convert here, would want the source of `batch`, which not every Python has.
    """
    dataset = steps.map(tf.autograph.experimental.do_not_convert(batch)).prefetch(PREFETCHED_BATCHES)
    return tf.data.make_one_shot_iterator(dataset)


def _timed(get_batch):
    """Returns what get_batch() builds, images and labels, and the milliseconds that a step waits for it."""
    if config.is_op_determinism_enabled():  # which has no clocks
        return (*get_batch(), tf.zeros([], tf.float64))
    asked = tf.timestamp()  # at the beginning of the step, because it needs nothing
    with tf.control_dependencies([asked]):
        images, labels = get_batch()
    with tf.control_dependencies([images]):
        return images, labels, 1000.0 * (tf.timestamp() - asked)


class CIFAR10Record:
    """One image as read_cifar10 reads it; the attributes are described there."""


def read_cifar10(filename_queue, dataset=datasets.CIFAR10):
    """Reads one record from a queue of file names with the tutorial's fixed-length record reader.

    Args:
      filename_queue: a queue of strings, as from tf.train.string_input_producer.
      dataset: the datasets.Dataset that the files belong to, which says where in a record the label is.

    Returns:
      An object with height, width, depth (ints), key (string scalar: file and record number), label (int32 [1]) and
      uint8image (uint8 [height, width, depth]).
    """
    result = CIFAR10Record()
    result.height, result.width, result.depth = datasets.HEIGHT, datasets.WIDTH, datasets.DEPTH
    reader = tf.FixedLengthRecordReader(record_bytes=dataset.record_bytes)
    result.key, value = reader.read(filename_queue)
    record = tf.reshape(tf.decode_raw(value, tf.uint8), [dataset.record_bytes])
    result.label = tf.cast(record[dataset.label_byte : dataset.label_byte + 1], tf.int32)
    planes = tf.reshape(record[dataset.label_bytes :], [result.depth, result.height, result.width])
    result.uint8image = tf.transpose(planes, [1, 2, 0])
    return result


def queue_training_batch(
    filenames,
    batch_size,
    num_examples=NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN,
    min_fraction=MIN_FRACTION_OF_EXAMPLES_IN_QUEUE,
    image_size=IMAGE_SIZE,
    dataset=datasets.CIFAR10,
):
    """Builds the tutorial's own training input: 16 threads distort image by image and keep a shuffling queue full.

    It needs tf.train.start_queue_runners (a MonitoredSession starts them) and its order differs from run to run.

    Args:
      filenames: paths of the record files.
      batch_size: images a batch.
      num_examples: images in the files.
      min_fraction: fraction of num_examples that must be in the queue before the first batch; less starts sooner and
        shuffles less.
      image_size: height and width of the random crop, in pixels.
      dataset: the datasets.Dataset that the files belong to: where the label is, and whether to flip.

    Returns:
      The Batch.
    """
    with _on_cpu():
        read_input = read_cifar10(tf.train.string_input_producer(filenames), dataset)
        image = tf.random_crop(tf.cast(read_input.uint8image, tf.float32), [image_size, image_size, 3])
        if dataset.flip:
            image = tf.image.random_flip_left_right(image)
        image = tf.image.random_brightness(image, max_delta=crops.MAX_BRIGHTNESS_DELTA)
        image = tf.image.random_contrast(image, lower=crops.MIN_CONTRAST, upper=crops.MAX_CONTRAST)
        image = tf.image.per_image_standardization(image)
        image.set_shape([image_size, image_size, 3])
        min_queue_examples = int(num_examples * min_fraction)
        print(
            f"Filling queue with {min_queue_examples} CIFAR images before starting to train. "
            "This will take a few minutes.",
            flush=True,
        )
        get_batch = functools.partial(
            _generate_image_and_label_batch, image, read_input.label, min_queue_examples, batch_size, shuffle=True
        )
        return Batch(*_timed(get_batch))


def _generate_image_and_label_batch(image, label, min_queue_examples, batch_size, shuffle=True):
    """Builds batches of single images, which 16 threads bring to a queue.

    Args:
      image: float32 [height, width, 3].
      label: int32 [1].
      min_queue_examples: images that stay in the queue, to be shuffled, and fill it before the first batch.
      batch_size: images a batch.
      shuffle: whether to shuffle them.

    Returns:
      images: float32 [batch_size, height, width, 3].
      labels: int32 [batch_size].
    """
    build = functools.partial(tf.train.shuffle_batch, min_after_dequeue=min_queue_examples)
    images, labels = (build if shuffle else tf.train.batch)(
        [image, label],
        batch_size=batch_size,
        num_threads=NUM_PREPROCESS_THREADS,
        capacity=min_queue_examples + 3 * batch_size,
    )
    summaries.image("images", images)
    return images, tf.reshape(labels, [batch_size])


def queue_inputs(
    filenames,
    batch_size,
    num_examples=NUM_EXAMPLES_PER_EPOCH_FOR_EVAL,
    min_fraction=MIN_FRACTION_OF_EXAMPLES_IN_QUEUE,
    image_size=IMAGE_SIZE,
    dataset=datasets.CIFAR10,
):
    """Builds the tutorial's own evaluation input: 16 threads crop image by image and keep a queue full.

    Args as in queue_training_batch, returns as in `inputs`; min_fraction sets the queue's capacity only. The benchmark
    measures against it; evaluation itself must see each image once, which this does not promise.
    """
    with _on_cpu():
        read_input = read_cifar10(tf.train.string_input_producer(filenames, shuffle=False), dataset)
        image = tf.cast(read_input.uint8image, tf.float32)
        image = tf.image.resize_with_crop_or_pad(image, image_size, image_size)
        image = tf.image.per_image_standardization(image)
        image.set_shape([image_size, image_size, 3])
        return _generate_image_and_label_batch(
            image, read_input.label, int(num_examples * min_fraction), batch_size, shuffle=False
        )
