"""What the network sees of an image: a random crop, distorted, in training; the centre, or ten views, in evaluation.

All are standardized: their values have mean 0 and deviation 1, image by image.
"""

import dataclasses

import tensorflow.compat.v1 as tf

from cifar10.data import datasets
from cifar10.data.datasets import IMAGE_SIZE
from cifar10.errors import GraphError

# The tutorial's distortions: brightness in grey levels of 255, contrast as a factor.
MAX_BRIGHTNESS_DELTA = 63.0
MIN_CONTRAST, MAX_CONTRAST = 0.2, 1.8


@dataclasses.dataclass(frozen=True)
class Distortions:
    """How training images are varied; the tutorial's by default.

    Attributes:
      image_size: height and width of the random crop, in pixels.
      flip: whether to flip half of the images left to right.
      alternating_flip: whether those that are flipped in one epoch are those that are not in the next one; otherwise
        each is flipped by chance.
      jitter: whether to change brightness and contrast.
      calm_step: the step from which on crops are near the centre, which is what evaluation sees; None: never.
      calm_shift: how near, in pixels.
      random_crops: whether to crop anywhere, or at the centre, as evaluation does.
    """

    image_size: int = IMAGE_SIZE
    flip: bool = True
    alternating_flip: bool = False
    jitter: bool = True
    calm_step: int | None = None
    calm_shift: int = 2
    random_crops: bool = True


def check_size(image_size):
    """Raises a GraphError if there is no crop of that height and width, in pixels."""
    if not 1 <= image_size <= min(datasets.HEIGHT, datasets.WIDTH):
        raise GraphError(
            f"IMAGE_SIZE = {image_size}: no crop of images of {datasets.HEIGHT}x{datasets.WIDTH} has that size; give "
            f"one from 1 to {datasets.HEIGHT}"
        )


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
      draws: the random numbers, one per image, as from `draw`: (top, left, flip, brightness, contrast) with int32
        offsets in pixels, bool, float32 delta in grey levels and float32 factor; the last two may be left out.
      image_size: height and width of the crop, in pixels.

    Returns:
      float32 [batch, image_size, image_size, 3].
    """
    top, left, flip, *jitter = draws
    # Crop and flip are one gather for the whole batch, which is many times as fast as an op an image: an image becomes
    # a row of pixels, [height * width, 3], of which those in the crop are looked up by their numbers. A flipped image
    # has its columns in reverse order.
    pixel = tf.range(image_size)
    rows = top[:, tf.newaxis] + pixel  # [batch, image_size]
    columns = left[:, tf.newaxis] + tf.where_v2(flip[:, tf.newaxis], pixel[tf.newaxis, ::-1], pixel[tf.newaxis])
    size = tf.shape(images)
    pixels = tf.reshape(images, [size[0], size[1] * size[2], datasets.DEPTH])
    cropped = tf.reshape(rows[:, :, tf.newaxis] * size[2] + columns[:, tf.newaxis, :], [size[0], image_size**2])
    images = tf.cast(tf.gather(pixels, cropped, batch_dims=1), tf.float32)  # [batch, image_size**2, 3]
    if jitter:
        # Brightness b adds to all pixels, x + b; contrast c stretches what differs from the mean m of each colour,
        # (x - m) c + m. After one another they are x c + m (1 - c) + b, m being the mean before: one pass, not two.
        mean = tf.reduce_mean(images, axis=1, keepdims=True)
        contrast, brightness = (drawn[:, tf.newaxis, tf.newaxis] for drawn in reversed(jitter))
        images = images * contrast + (mean * (1.0 - contrast) + brightness)
    images = tf.reshape(images, [-1, image_size, image_size, datasets.DEPTH])
    return tf.image.per_image_standardization(images)


def draw(seed, step, batch_size, distortions):
    """Draws the distortions of one batch, keyed by (seed, step).

    Args:
      seed: int.
      step: int64 scalar tensor.
      batch_size: images a batch.
      distortions: the Distortions.

    Returns:
      [top, left, flip, brightness, contrast], each [batch_size], for `distort`.
    """
    # Five numbers an image, for the whole batch at once whoever computes which part of it, so that workers and towers
    # get what one device gets; and always all five, so that a recipe without flips or jitter leaves the crops alone.
    uniform = tf.random.stateless_uniform(
        [5, batch_size], seed=tf.stack([tf.constant(seed, tf.int64), step]), alg="philox"
    )
    top = _offset(uniform[0], datasets.HEIGHT - distortions.image_size, step, distortions)
    left = _offset(uniform[1], datasets.WIDTH - distortions.image_size, step, distortions)
    brightness = (2.0 * uniform[3] - 1.0) * MAX_BRIGHTNESS_DELTA
    contrast = MIN_CONTRAST + uniform[4] * (MAX_CONTRAST - MIN_CONTRAST)
    return [top, left, uniform[2] < (0.5 if distortions.flip else 0.0), brightness, contrast]


def _offset(uniform, largest, step, distortions):
    """Returns int32 offsets from 0 to `largest`, or near or in the middle, for float32 numbers from 0 to 1."""
    if not distortions.random_crops:
        return tf.fill(uniform.shape, largest // 2)
    if distortions.calm_step is None:
        return tf.cast(uniform * (largest + 1), tf.int32)
    margin = tf.where_v2(step < distortions.calm_step, 0, max(0, largest // 2 - distortions.calm_shift))
    return margin + tf.cast(uniform * tf.cast(largest - 2 * margin + 1, tf.float32), tf.int32)
