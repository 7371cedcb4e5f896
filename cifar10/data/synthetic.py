"""The embedded data set: ten classes of plain shapes, drawn on the spot into CIFAR-10's record files.

Its bytes are the same on every machine: all arithmetic is on integers of stated width, and all chance comes from
numpy.random.RandomState, whose streams are frozen (https://numpy.org/neps/nep-0019-rng-policy.html).
"""

import os

import numpy as np

from cifar10.data import datasets

SEED = 20151109

# Lengths are in half pixels, as a shape's centre may lie on a pixel or between two. These let any 24x24 crop show
# enough of a shape to tell what it is. Ranges are half-open, as randint takes them.
SIZE = (14, 22)  # from a shape's centre to its edge
SHIFT = (-6, 7)  # from the image's centre to the shape's, along either axis
# Grey levels, one draw an image: its bytes stray this far from the pure colours. The upper end drowns some shapes, so
# that no network gets them all right; without the lower end the loss jumps more at the tutorial's learning rate.
NOISE = (32, 145)


def _box(dx, dy, r):
    return np.maximum(abs(dx), abs(dy)) <= r


def _disc(dx, dy, r):
    return dx * dx + dy * dy <= r * r


def _striped(d, r):
    """Tells which points lie on the first, third or fifth of five stripes from -r to r."""
    return (5 * abs(d) + r) // (2 * r + 1) % 2 == 0


# Which points belong to a shape of half-size r, given their distance from its centre to the right (dx) and down (dy).
# All are their own mirror images, for training flips images.
SHAPES = {
    "disc": _disc,
    "ring": lambda dx, dy, r: _disc(dx, dy, r) & ~_disc(dx, dy, r * 3 // 5),
    "square": _box,
    "frame": lambda dx, dy, r: _box(dx, dy, r) & ~_box(dx, dy, r * 3 // 5),
    "triangle": lambda dx, dy, r: _box(dx, dy, r) & (2 * abs(dx) <= dy + r),
    "plus": lambda dx, dy, r: _box(dx, dy, r) & (np.minimum(abs(dx), abs(dy)) <= r // 4),
    "saltire": lambda dx, dy, r: _box(dx, dy, r) & (abs(abs(dx) - abs(dy)) <= r // 3),
    "bars": lambda dx, dy, r: _box(dx, dy, r) & _striped(dy, r),
    "columns": lambda dx, dy, r: _box(dx, dy, r) & _striped(dx, r),
    "checkers": lambda dx, dy, r: _box(dx, dy, r) & (_striped(dx, r) == _striped(dy, r)),
}


def draw(labels, class_names, rng):
    """Draws one image for each label: its shape, in any place, size, pair of colours and strength of noise.

    Args:
      labels: [N] integers, indices into class_names.
      class_names: the names of the shapes, keys of SHAPES.
      rng: the numpy.random.RandomState to draw from.

    Returns:
      [N, 32, 32, 3] uint8, grey levels of red, green and blue.
    """

    def randint(bounds, *shape):
        return rng.randint(*bounds, (len(labels), *shape), dtype=np.int32)

    # The image's centre is at 0, and pixels are 2 apart.
    x = np.arange(1 - datasets.WIDTH, datasets.WIDTH, 2, dtype=np.int32)
    y = np.arange(1 - datasets.HEIGHT, datasets.HEIGHT, 2, dtype=np.int32)[:, None]
    dx, dy, r = x - randint(SHIFT, 1, 1), y - randint(SHIFT, 1, 1), randint(SIZE, 1, 1)
    inside = np.empty((len(labels), datasets.HEIGHT, datasets.WIDTH), bool)
    for label, name in enumerate(class_names):
        chosen = labels == label
        inside[chosen] = SHAPES[name](dx[chosen], dy[chosen], r[chosen])

    shape_colour, background = randint((0, 256), 1, 1, datasets.DEPTH), randint((0, 256), 1, 1, datasets.DEPTH)
    images = np.where(inside[..., None], shape_colour, background)
    images += randint((-256, 257), *images.shape[1:]) * randint(NOISE, 1, 1, 1) // 256
    return np.clip(images, 0, 255).astype(np.uint8)


def write(dataset, folder):
    """Draws the data set and writes its record files and its class names.

    Args:
      dataset: the Dataset to draw; its files say how many images, its class names which shapes.
      folder: where to put the files; created if need be. Files of these names are replaced, each at once.
    """
    os.makedirs(folder, exist_ok=True)
    rng = np.random.RandomState(SEED)  # one stream through all files, or they would share images
    for split in datasets.SPLITS:
        for filename, count in dataset.files(split):
            labels = np.arange(count, dtype=np.int32) % dataset.num_classes
            labels = rng.permutation(labels.astype(np.uint8))
            records = datasets.encode(draw(labels, dataset.class_names, rng), labels)
            _replace(os.path.join(folder, filename), records.tobytes())
    names = "".join(f"{name}\n" for name in dataset.class_names)
    _replace(os.path.join(folder, datasets.CLASS_NAMES_FILE), names.encode())


def _replace(path, content):
    """Writes a file that is whole whenever it is there."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
