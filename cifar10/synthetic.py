"""The embedded data set: ten classes of plain shapes, drawn on the spot into CIFAR-10 record files.

The bytes are the same on every machine: all arithmetic is on integers of stated width, and every random number comes
from numpy.random.RandomState, whose streams are frozen (https://numpy.org/neps/nep-0019-rng-policy.html).
"""

import os

import numpy as np

from cifar10 import datasets

SEED = 20151109

# Lengths are in half pixels, so that a shape's centre may fall on a pixel or between two.
CAST = None
SIZE = (14, 22)  # from a shape's centre to its edge: shapes are 14 to 21 pixels wide
SHIFT = 6  # a shape's centre is at most this far from the picture's: 24x24 crops keep most of it
CONTRAST = 64  # grey levels between shape and background, in each colour plane
NOISE = (0, 128)  # grey levels at most, up or down, on every byte


def _box(dx, dy, r):
    return np.maximum(abs(dx), abs(dy)) <= r


def _disc(dx, dy, r):
    return dx * dx + dy * dy <= r * r


def _stripes(d, r):
    """Five stripes from -r to r, the outer ones and the middle one drawn."""
    return (d + r) * 5 // (2 * r + 1) % 2 == 0


# Which points belong to a shape of half-size r, (dx, dy) from its centre, dy downwards. All look the same in a mirror.
SHAPES = {
    "disc": _disc,
    "ring": lambda dx, dy, r: _disc(dx, dy, r) & ~_disc(dx, dy, r * 3 // 5),
    "square": _box,
    "frame": lambda dx, dy, r: _box(dx, dy, r) & ~_box(dx, dy, r * 3 // 5),
    "triangle": lambda dx, dy, r: _box(dx, dy, r) & (2 * abs(dx) <= dy + r),
    "plus": lambda dx, dy, r: _box(dx, dy, r) & (np.minimum(abs(dx), abs(dy)) <= r // 4),
    "saltire": lambda dx, dy, r: _box(dx, dy, r) & (abs(abs(dx) - abs(dy)) <= r // 3),
    "bars": lambda dx, dy, r: _box(dx, dy, r) & _stripes(dy, r),
    "columns": lambda dx, dy, r: _box(dx, dy, r) & _stripes(dx, r),
    "checkers": lambda dx, dy, r: _box(dx, dy, r) & (_stripes(dx, r) == _stripes(dy, r)),
}


def draw(labels, class_names, rng):
    n = len(labels)

    def randint(low, high, *shape):
        return rng.randint(low, high, (n, *shape), dtype=np.int32)

    r = randint(*SIZE, 1, 1)
    x = 2 * np.arange(datasets.WIDTH, dtype=np.int32) - (datasets.WIDTH - 1)
    y = 2 * np.arange(datasets.HEIGHT, dtype=np.int32)[:, None] - (datasets.HEIGHT - 1)
    dx = x - randint(-SHIFT, SHIFT + 1, 1, 1)
    dy = y - randint(-SHIFT, SHIFT + 1, 1, 1)
    inside = np.empty((n, datasets.HEIGHT, datasets.WIDTH), bool)
    for label, name in enumerate(class_names):
        mine = labels == label
        inside[mine] = SHAPES[name](dx[mine], dy[mine], r[mine])
    plane = (1, 1, datasets.DEPTH)
    background = (
        randint(0, 256, *plane)
        if CAST is None
        else randint(CAST, 256 - CAST, 1, 1, 1) + randint(-CAST, CAST + 1, *plane)
    )
    foreground = (
        randint(0, 256, *plane)
        if CAST is None
        else randint(CAST, 256 - CAST, 1, 1, 1) + randint(-CAST, CAST + 1, *plane)
    )
    pictures = np.where(inside[..., None], foreground, background)
    pictures += randint(-256, 257, *pictures.shape[1:]) * randint(*NOISE, 1, 1, 1) // 256
    return np.clip(pictures, 0, 255).astype(np.uint8)


def write(dataset, folder):
    os.makedirs(folder, exist_ok=True)
    rng = np.random.RandomState(SEED)
    for split in datasets.SPLITS:
        for filename, count in dataset.files(split):
            labels = rng.permutation(
                np.arange(count, dtype=np.uint8 if False else np.int32) % dataset.num_classes
            ).astype(np.uint8)
            planes = draw(labels, dataset.class_names, rng).transpose(0, 3, 1, 2).reshape(count, -1)
            with open(os.path.join(folder, filename), "wb") as f:
                f.write(np.hstack([labels[:, None], planes]).tobytes())
