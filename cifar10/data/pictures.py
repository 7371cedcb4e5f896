"""Picture files of any kind and size -> what the network's input is cut from.

Decoding and resizing are graph ops, so that a SavedModel, which has nothing but its graph, sees the same picture.
"""

import os
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.data import datasets
from cifar10.errors import DataError

STDIN = "-"
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")  # of what is taken from a folder
MAX_BYTES = 2**28  # of a file; more is no picture, or one that does not fit into memory when it is decoded

# Height and width, in pixels, that a picture is resized to before the evaluation's crop, of 24 pixels, is taken.
# central: as in evaluation, where pictures have this size. whole: the crop takes all of it.
SIZES = {"central": datasets.HEIGHT, "whole": datasets.IMAGE_SIZE}

_EXIF_BYTES = 2**16 + 2**5  # from a JPEG file's beginning: an Exif segment of full length fits in
_ORIENTATION = 0x0112  # the number of its tag


def find(arguments):
    """Yields the name of each picture that the arguments stand for, in order.

    Args:
      arguments: iterable of files, taken as they are; folders, of which all files are taken that have one of EXTENSIONS
        and are not hidden, in its subfolders too, by name, links to folders not followed; and STDIN.

    Yields:
      Names for `read`. Folders that hold no pictures or cannot be listed are among them, for `read` to say so.
    """
    for argument in arguments:
        names = _inside(argument) if argument != STDIN and os.path.isdir(argument) else [argument]
        empty = True
        for name in names:
            empty = False
            yield name
        if empty:
            yield argument


def _inside(folder):
    unlisted = []
    for parent, folders, files in os.walk(folder, onerror=unlisted.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.join(parent, name)
    yield from (error.filename for error in unlisted)


def read(name):
    """Returns the bytes of a file, or of standard input for STDIN.

    Raises:
      DataError: it cannot be read, is a folder, or is too large to be a picture.
    """
    try:
        if name == STDIN:
            contents = sys.stdin.buffer.read(MAX_BYTES + 1)
        elif os.path.isdir(name):
            os.listdir(name)  # which raises an error for one that cannot be listed
            contents = None
        else:
            with open(name, "rb") as file:
                contents = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{printable(name)}: cannot be read ({reason})") from None
    if contents is None:
        raise DataError(f"{printable(name)}: holds no pictures; they end in {' '.join(EXTENSIONS)}")
    if len(contents) > MAX_BYTES:
        raise DataError(f"{printable(name)}: has more than {MAX_BYTES} bytes, which is too large for a picture")
    return contents


def printable(name):
    """Returns a file's name in one line that any console can show."""
    return name if name.isprintable() else ascii(name)


def decode(contents):
    """Decodes a file's bytes.

    JPEG is decoded to the last bit as by libjpeg's default, hence Pillow's, and turned as its Exif orientation says.
    PNG and BMP come as they are, and of a GIF the first frame. Grey becomes three equal colours, palettes are looked
    up, of 16 bits the upper eight count, and transparency is ignored: the colour below it counts.

    Args:
      contents: string scalar.

    Returns:
      uint8 [height, width, 3], grey levels of red, green and blue.
    """

    def jpeg():
        # The op's default is a coarser transform, which strays from it by several grey levels.
        picture = tf.io.decode_jpeg(contents, channels=datasets.DEPTH, dct_method="INTEGER_ACCURATE")
        return turn(picture, orientation(contents))

    def other():
        # The op would take WebP too, of which some kinds crash it in TensorFlow 2.21.
        with tf.control_dependencies([tf.Assert(_is_png_gif_or_bmp(contents), ["no JPEG, PNG, BMP or GIF file"])]):
            picture = tf.io.decode_image(contents, channels=datasets.DEPTH, expand_animations=False)
        return _look_up_bmp(contents, picture)

    with tf.name_scope("decode"):
        picture = tf.cond(tf.io.is_jpeg(contents), jpeg, other)
    picture.set_shape([None, None, datasets.DEPTH])
    return picture


def _is_png_gif_or_bmp(contents):
    number = _reader(contents, 2**3)
    begins = {(1, 3): b"PNG", (0, 3): b"GIF", (0, 2): b"BM"}
    return tf.reduce_any([tf.equal(number(*place), int.from_bytes(name, "big")) for place, name in begins.items()])


def orientation(contents):
    """Returns the orientation that a JPEG file's Exif segment states, an int32 scalar; 1, upright, where none is.

    The segment is the file's first, or the second after JFIF's: marker, length, "Exif\\0\\0", and a TIFF file, which is
    byte order, 42, offset of a directory; the directory is a count and that many entries of 12 bytes: tag, type, count,
    value (JEITA CP-3451).

    Args:
      contents: string scalar.
    """
    number = _reader(contents, _EXIF_BYTES)
    segment = tf.where_v2(tf.equal(number(2, 2), 0xFFE0), 4 + number(4, 2), 2)
    stated = tf.equal(number(segment, 2), 0xFFE1) & tf.equal(number(segment + 4, 4), int.from_bytes(b"Exif", "big"))
    header = segment + 10
    little = tf.equal(number(header, 2), int.from_bytes(b"II", "big"))
    directory = header + number(header + 4, 4, little)
    entries = directory + 2 + 12 * tf.range(tf.where_v2(stated, number(directory, 2, little), 0))
    found = tf.boolean_mask(number(entries + 8, 2, little), tf.equal(number(entries, 2, little), _ORIENTATION))
    return tf.concat([found, [1]], 0)[0]


def turn(picture, orientation):
    """Turns a picture upright.

    Args:
      picture: [height, width, depth].
      orientation: int32 scalar, as Exif numbers them: 1 to 4 have its rows where they belong, 5 to 8 in columns; other
        numbers mean nothing.
    """

    def step(mirrored):
        return tf.where_v2(tf.reduce_any(tf.equal(orientation, mirrored)), -1, 1)

    sideways = tf.reduce_any(tf.equal(orientation, [5, 6, 7, 8]))
    picture = tf.transpose(picture, tf.where_v2(sideways, [1, 0, 2], [0, 1, 2]))
    return picture[:: step([3, 4, 7, 8]), :: step([2, 3, 6, 7])]


def _look_up_bmp(contents, picture):
    """Returns a decoded picture, if it is a BMP of 8 bits with the colours of its palette, which TensorFlow leaves out.

    The palette follows the headers, of which the second says how long it is: blue, green, red and nothing, a byte each.
    """
    number = _reader(contents, 2**11)
    header_bytes = number(14, 4, True)
    has_palette = tf.equal(number(0, 2), int.from_bytes(b"BM", "big")) & tf.equal(number(28, 2, True), 8)

    def looked_up():
        entries = 14 + header_bytes + 4 * tf.range(256)
        colours = tf.cast(number(entries[:, tf.newaxis] + [2, 1, 0], 1), tf.uint8)
        return tf.gather(colours, tf.cast(picture[..., 0], tf.int32))

    return tf.cond(has_palette, looked_up, lambda: picture)


def _reader(contents, num_bytes):
    """Returns a function of (position, size, little) that reads integers of `size` bytes from a file's first num_bytes.

    Positions are int32 of any shape; `little` says whether the lowest byte comes first. Bytes outside read as 0.
    """
    data = tf.cast(tf.decode_raw(tf.strings.substr(contents, 0, num_bytes), tf.uint8), tf.int32)
    data = tf.pad(data, [[1, 1]])

    def number(position, size, little=False):
        places = tf.convert_to_tensor(position)[..., tf.newaxis] + tf.range(1, size + 1)
        digits = tf.gather(data, tf.clip_by_value(places, 0, tf.size(data) - 1))
        digits = tf.where_v2(little, tf.reverse(digits, [-1]), digits)
        return tf.reduce_sum(digits * 256 ** np.arange(size - 1, -1, -1, dtype=np.int32), -1)

    return number


def resize(pictures, crop):
    """Brings pictures of any size to the one that `crop` needs.

    Args:
      pictures: uint8 [height, width, 3] or [batch, height, width, 3].
      crop: 'central': their central square, resized to 32x32, the evaluation's size, which leaves pictures of that size
        as they are. 'whole': all of them, resized to 24x24, whether that keeps their proportions or not.

    Returns:
      uint8 [size, size, 3] or [batch, size, size, 3], size being SIZES[crop]; by Lanczos' filter of radius 3, which is
      stretched where it makes pictures smaller (antialiasing), and keeps them as sharp as those that were trained on.
    """
    with tf.name_scope("resize"):
        if crop == "central":
            shape = tf.shape(pictures)
            height, width = shape[-3], shape[-2]
            side = tf.minimum(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            pictures = pictures[..., top : top + side, left : left + side, :]
        pictures = tf.compat.v2.image.resize(pictures, [SIZES[crop]] * 2, "lanczos3", antialias=True)
        return tf.saturate_cast(tf.round(pictures), tf.uint8)
