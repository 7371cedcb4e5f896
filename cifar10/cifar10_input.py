"""Records -> batches of images and labels, as graph ops on the CPU.

A training batch is a pure function of (seed, step): example number n = step * batch_size + position belongs to epoch
n // N; its record is a pseudo-random permutation of n % N keyed by (seed, epoch); its distortions are stateless random
numbers keyed by (seed, step), and where flips alternate, which images are flipped first is keyed by seed. So every
image is seen exactly once an epoch, a resumed run sees what an uninterrupted one sees, and a tower takes its slice of
the batch. The tutorial's own mechanism, a shuffling queue, is in the `queue_` functions.
"""

import functools

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.data import datasets
from cifar10.data.datasets import (  # noqa: F401 (part of the tutorial's module)
    IMAGE_SIZE,
    NUM_CLASSES,
    NUM_EXAMPLES_PER_EPOCH_FOR_EVAL,
    NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN,
)
from cifar10.network import summaries

# The tutorial's distortions (SPEC: brightness in grey levels of 255, contrast as a factor).
MAX_BRIGHTNESS_DELTA = 63.0
MIN_CONTRAST, MAX_CONTRAST = 0.2, 1.8
NUM_PREPROCESS_THREADS = 16
MIN_FRACTION_OF_EXAMPLES_IN_QUEUE = 0.4
PREFETCHED_BATCHES = 4
NO_EPOCH = 2**32 - 1  # in the place of the epoch, in the key of what is drawn once for all epochs
PADDING = -1  # label of an image that must not count; tf.nn.in_top_k finds it in no image


def distorted_inputs(
    examples,
    batch_size,
    seed=0,
    start_step=0,
    image_size=IMAGE_SIZE,
    flip=True,
    jitter=True,
    alternating_flip=False,
):
    """Builds the endless training input: distorted images in a pseudo-random order, each once an epoch.

    It is a one-shot iterator: no initializer, no queue runner.

    Args:
      examples: records.Examples.
      batch_size: images a batch.
      seed: int; two inputs with one seed give the same batches.
      start_step: the step whose batch comes first.
      image_size: height and width of the random crop, in pixels.
      flip: whether to flip half of the images left to right.
      jitter: whether to change their brightness and contrast.
      alternating_flip: whether those that are flipped in one epoch are those that are not in the next one; otherwise
        each is flipped by chance.

    Returns:
      images: float32 [batch_size, image_size, image_size, 3], standardized.
      labels: int32 [batch_size].
    """

    def batch(step):
        return _slice(examples, step, batch_size, 0, batch_size, seed, image_size, flip, jitter, alternating_flip)

    return _iterate(lambda: tf.data.Dataset.range(start_step, np.iinfo(np.int64).max), batch, timed=True)


def distorted_slice(
    examples,
    step,
    batch_size,
    start,
    size,
    seed=0,
    image_size=IMAGE_SIZE,
    flip=True,
    jitter=True,
    alternating_flip=False,
):
    """Builds a part of the batch that distorted_inputs gives at a step: the training input of one of several workers.

    Args:
      examples: records.Examples.
      step: int64 scalar tensor.
      batch_size: images a batch, of all workers together.
      start: position in the batch of the first image.
      size: number of images.
      seed: int.
      image_size: height and width of the random crop, in pixels.
      flip, jitter, alternating_flip: see distorted_inputs.

    Returns:
      images: float32 [size, image_size, image_size, 3], standardized.
      labels: int32 [size].
    """
    with tf.name_scope("input"), tf.device("/cpu:0"):
        return _slice(examples, step, batch_size, start, size, seed, image_size, flip, jitter, alternating_flip)


def inputs(examples, batch_size, image_size=IMAGE_SIZE):
    """Builds the tutorial's evaluation input: the central crop of each image, in file order, over and over.

    Args:
      examples: records.Examples.
      batch_size: images a batch.
      image_size: height and width of the crop, in pixels.

    Returns:
      images: float32 [batch_size, image_size, image_size, 3], standardized.
      labels: int32 [batch_size].
    """

    def batch(step):
        images, labels = _gather(examples, lambda n: n % examples.count, _numbers(step, batch_size), batch_size)
        return central_crop(images, image_size), labels

    return _iterate(lambda: tf.data.Dataset.range(np.iinfo(np.int64).max), batch)


def passes(examples, batch_size, num_examples, num_views=1):
    """Builds the input of evaluations: passes over the first num_examples images, each exactly once a pass.

    Args:
      examples: records.Examples.
      batch_size: images a batch.
      num_examples: images a pass, of which num_batches make one.
      num_views: of each image: 1, the central crop; or 10, see views.

    Returns:
      images: float32 [num_views * batch_size, IMAGE_SIZE, IMAGE_SIZE, 3], standardized; view after view.
      labels: int32 [batch_size]; PADDING for what the last batch of a pass has too many of.
      numbers: int64 [batch_size], the images' numbers in file order; num_examples or more for those.
    """

    def batch(step):
        numbers = _numbers(step, batch_size)
        images, labels = _gather(examples, lambda n: n % examples.count, numbers, batch_size)
        labels = tf.where_v2(numbers < num_examples, labels, PADDING)
        return (views(images) if num_views == 10 else central_crop(images)), labels, numbers

    return _iterate(lambda: tf.data.Dataset.range(num_batches(num_examples, batch_size)).repeat(), batch)


def _numbers(step, batch_size):
    """Returns the numbers of a batch's examples since the beginning, int64 [batch_size]."""
    return step * batch_size + tf.range(batch_size, dtype=tf.int64)


def num_batches(num_examples, batch_size):
    """Returns the number of batches in one pass, the last one partial or not."""
    return -(-num_examples // batch_size)


def central_crop(images, image_size=IMAGE_SIZE):
    """Prepares images as evaluation does: central crop, standardization.

    Args:
      images: uint8 [batch, height, width, 3].
      image_size: height and width of the crop, in pixels.

    Returns:
      float32 [batch, image_size, image_size, 3].
    """
    images = tf.image.resize_with_crop_or_pad(tf.cast(images, tf.float32), image_size, image_size)
    return tf.image.per_image_standardization(images)


def views(images, image_size=IMAGE_SIZE):
    """Returns the ten views of cuda-convnet's multi-view test: centre and four corners, and their mirror images.

    Args:
      images: uint8 [batch, height, width, 3].
      image_size: height and width of a view, in pixels.

    Returns:
      float32 [10 * batch, image_size, image_size, 3], standardized: first the centre of all images, and so on.
    """
    bottom, right = datasets.HEIGHT - image_size, datasets.WIDTH - image_size
    corners = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
    crops = [images[:, top : top + image_size, left : left + image_size] for top, left in corners]
    crops = tf.cast(tf.concat([*crops, *(crop[:, :, ::-1] for crop in crops)], axis=0), tf.float32)
    return tf.image.per_image_standardization(crops)


def distort(images, draws, image_size=IMAGE_SIZE):
    """Distorts a batch as tf.image would image by image: crop, flip, brightness, contrast, standardization.

    Args:
      images: uint8 [batch, height, width, 3].
      draws: the random numbers, one per image, as from _draw: (top, left, flip, brightness, contrast) with int32
        offsets in pixels, bool, float32 delta in grey levels and float32 factor; the last two may be left out.
      image_size: height and width of the crop, in pixels.

    Returns:
      float32 [batch, image_size, image_size, 3].
    """
    top, left, flip, *jitter = draws
    pixel = tf.range(image_size)
    rows = top[:, tf.newaxis] + pixel
    columns = left[:, tf.newaxis] + tf.where_v2(flip[:, tf.newaxis], pixel[tf.newaxis, ::-1], pixel[tf.newaxis])
    size = tf.shape(images)
    pixels = tf.reshape(images, [size[0], size[1] * size[2], datasets.DEPTH])
    cropped = tf.reshape(rows[:, :, tf.newaxis] * size[2] + columns[:, tf.newaxis, :], [size[0], image_size**2])
    images = tf.cast(tf.gather(pixels, cropped, batch_dims=1), tf.float32)
    if jitter:
        mean = tf.reduce_mean(images, axis=1, keepdims=True)  # of each colour; brightness moves it, contrast keeps it
        contrast, brightness = (drawn[:, tf.newaxis, tf.newaxis] for drawn in reversed(jitter))
        images = images * contrast + (mean * (1.0 - contrast) + brightness)
    images = tf.reshape(images, [-1, image_size, image_size, datasets.DEPTH])
    return tf.image.per_image_standardization(images)


def _slice(examples, step, batch_size, start, size, seed, image_size, flip, jitter, alternating_flip):
    """Returns the distorted images and the labels of a part of a training batch: see distorted_slice."""
    numbers = _numbers(step, batch_size)[start : start + size]
    shuffled = functools.partial(_shuffled, num_examples=examples.count, seed=seed)
    images, labels = _gather(examples, shuffled, numbers, size)
    draws = [drawn[start : start + size] for drawn in _draw(seed, step, batch_size, image_size, flip)]
    if flip and alternating_flip:
        mirrored = functools.partial(_mirrored, num_examples=examples.count, seed=seed)
        draws[2] = tf.numpy_function(mirrored, [numbers], tf.bool, stateful=False)
        draws[2].set_shape([size])
    return distort(images, draws if jitter else draws[:3], image_size), labels


def _draw(seed, step, batch_size, image_size, flip=True):
    """Draws the distortions of one batch, keyed by (seed, step): see distort."""
    uniform = tf.random.stateless_uniform(
        [5, batch_size], seed=tf.stack([tf.constant(seed, tf.int64), step]), alg="philox"
    )
    top = tf.cast(uniform[0] * (datasets.HEIGHT - image_size + 1), tf.int32)
    left = tf.cast(uniform[1] * (datasets.WIDTH - image_size + 1), tf.int32)
    brightness = (2.0 * uniform[3] - 1.0) * MAX_BRIGHTNESS_DELTA
    contrast = MIN_CONTRAST + uniform[4] * (MAX_CONTRAST - MIN_CONTRAST)
    return top, left, uniform[2] < (0.5 if flip else 0.0), brightness, contrast


@functools.lru_cache(maxsize=4)  # a batch spans two epochs at most, unless the data set is tiny
def _order(seed, epoch, num_examples):
    """Returns the order of the examples in an epoch, int64 [num_examples]: a permutation keyed by (seed, epoch).

    RandomState, because its streams are the same in every version of NumPy (NEP 19).
    """
    return np.random.RandomState([seed, epoch]).permutation(num_examples)


def _shuffled(numbers, num_examples, seed):
    """Returns which examples (int64 [batch]) those with the given numbers since the start of training are."""
    epochs, positions = np.divmod(numbers, num_examples)
    index = np.empty_like(numbers)
    for epoch in np.unique(epochs):
        index[epochs == epoch] = _order(seed, int(epoch), num_examples)[positions[epochs == epoch]]
    return index


def _mirrored(numbers, num_examples, seed):
    """Returns whether the examples with the given numbers are mirrored (bool [batch]): each in every other epoch."""
    begins_mirrored = _halves(seed, num_examples)[_shuffled(numbers, num_examples, seed)]
    return begins_mirrored ^ (numbers // num_examples % 2 == 1)


@functools.lru_cache(maxsize=4)
def _halves(seed, num_examples):
    """Returns which examples are mirrored in the even epochs, bool [num_examples], keyed by seed."""
    return np.random.RandomState([seed, NO_EPOCH]).rand(num_examples) < 0.5


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


def _iterate(steps, batch, timed=False):
    """Returns what batch(step) builds, images first, for one step number after another; `timed`: see _timed."""
    with tf.name_scope("input"), tf.device("/cpu:0"):
        dataset = steps().map(tf.autograph.experimental.do_not_convert(batch)).prefetch(PREFETCHED_BATCHES)
        iterator = tf.data.make_one_shot_iterator(dataset)
        outputs = _timed(iterator.get_next) if timed else iterator.get_next()
        summaries.image("images", outputs[0])
    return outputs


def _timed(get_batch):
    """Returns the images and labels that get_batch() builds; how long a step waits goes to summaries.WAIT_MS."""
    asked = tf.timestamp()  # at the beginning of the step, because it needs nothing
    with tf.control_dependencies([asked]):
        images, labels = get_batch()
    with tf.control_dependencies([images]):
        seconds = tf.timestamp() - asked
    tf.add_to_collection(summaries.WAIT_MS, 1000.0 * seconds)
    return images, labels


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


def queue_distorted_inputs(
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
      images: float32 [batch_size, image_size, image_size, 3], standardized.
      labels: int32 [batch_size].
    """
    with tf.name_scope("input"), tf.device("/cpu:0"):
        read_input = read_cifar10(tf.train.string_input_producer(filenames), dataset)
        image = tf.random_crop(tf.cast(read_input.uint8image, tf.float32), [image_size, image_size, 3])
        if dataset.flip:
            image = tf.image.random_flip_left_right(image)
        image = tf.image.random_brightness(image, max_delta=MAX_BRIGHTNESS_DELTA)
        image = tf.image.random_contrast(image, lower=MIN_CONTRAST, upper=MAX_CONTRAST)
        image = tf.image.per_image_standardization(image)
        image.set_shape([image_size, image_size, 3])
        min_queue_examples = int(num_examples * min_fraction)
        print(
            f"Filling queue with {min_queue_examples} CIFAR images before starting to train. "
            "This will take a few minutes.",
            flush=True,
        )
        shuffle_batch = functools.partial(
            tf.train.shuffle_batch,
            [image, read_input.label],
            batch_size=batch_size,
            num_threads=NUM_PREPROCESS_THREADS,
            capacity=min_queue_examples + 3 * batch_size,
            min_after_dequeue=min_queue_examples,
        )
        images, labels = _timed(shuffle_batch)
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

    Args and returns as in queue_distorted_inputs; min_fraction sets the queue's capacity only. It is what the benchmark
    measures against; evaluation itself must see each image once, which this does not promise.
    """
    with tf.name_scope("input"), tf.device("/cpu:0"):
        read_input = read_cifar10(tf.train.string_input_producer(filenames, shuffle=False), dataset)
        image = tf.cast(read_input.uint8image, tf.float32)
        image = tf.image.resize_with_crop_or_pad(image, image_size, image_size)
        image = tf.image.per_image_standardization(image)
        image.set_shape([image_size, image_size, 3])
        images, labels = tf.train.batch(
            [image, read_input.label],
            batch_size=batch_size,
            num_threads=NUM_PREPROCESS_THREADS,
            capacity=int(num_examples * min_fraction) + 3 * batch_size,
        )
        summaries.image("images", images)
    return images, tf.reshape(labels, [batch_size])
