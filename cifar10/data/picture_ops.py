"""What `pictures` does, as graph ops: files' bytes or pixels -> what the network's input is cut from.

It is for exported models, which have nothing but their graph. They see what `pictures.load` gives, but for a grey level
that is rounded the other way, or refuse the file. Refused are, beside what `pictures` refuses: WebP; BMP of 1, 4 or 16
bits, with run lengths, other masks than usual or bytes behind the pixels; JPEG of more than pictures.MAX_PIXELS pixels;
and GIF of which a later frame is damaged.
"""

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.data import datasets, pictures
from cifar10.data.pictures import MAX_PIXELS, SIZES

# How files begin, and what decodes them.
_BEGINS = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "gif": b"GIF8", "bmp": b"BM"}

_ORIENTATION = 0x0112  # the number of its tag


def decode(contents):
    """Decodes a file's bytes.

    Args:
      contents: string scalar.

    Returns:
      uint8 [height, width, 3], grey levels of red, green and blue.
    """
    branches = {"jpeg": _jpeg, "png": _png, "gif": _gif, "bmp": _bmp}

    def refused():
        with _checked({"no JPEG, PNG, BMP or GIF file": False}):
            return tf.zeros([0, 0, datasets.DEPTH], tf.uint8)

    with tf.name_scope("decode"):
        matches = [tf.equal(_part(contents, 0, len(begin)), begin) for begin in _BEGINS.values()]
        number = tf.where_v2(tf.reduce_any(matches), tf.argmax(matches, output_type=tf.int32), len(matches))
        readers = [lambda name=name: branches[name](contents) for name in _BEGINS]
        image = tf.switch_case(number, [*readers, refused])
    image.set_shape([None, None, datasets.DEPTH])
    return image


def fit(images, crop):
    """Brings images of any size to the one that `crop` needs: see pictures.fit.

    Args:
      images: uint8 [height, width, 3] or [batch, height, width, 3].
      crop: one of pictures.SIZES.

    Returns:
      uint8 [size, size, 3] or [batch, size, size, 3], size being SIZES[crop].
    """
    with tf.name_scope("resize"):
        if crop == "central":
            shape = tf.shape(images)
            height, width = shape[-3], shape[-2]
            side = tf.minimum(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            images = images[..., top : top + side, left : left + side, :]
        images = tf.compat.v2.image.resize(images, [SIZES[crop]] * 2, "lanczos3", antialias=True)
        return tf.saturate_cast(tf.round(images), tf.uint8)


def _jpeg(contents):
    def is_last(number):
        exif = tf.equal(number(0, 2), 0xFFE1) & tf.equal(number(4, 4), int.from_bytes(b"Exif", "big"))
        return exif | tf.not_equal(number(0, 1), 0xFF) | tf.equal(number(0, 2), 0xFFDA)  # where the image itself begins

    def size(number):  # marker and length; or a byte to fill with, before the marker
        return tf.where_v2(tf.equal(number(1, 1), 0xFF), np.int64(1), 2 + tf.maximum(number(2, 2), 2))

    height, width, _ = tf.unstack(tf.cast(tf.image.extract_jpeg_shape(contents), tf.int64))
    with _checked(_small_enough(height, width)):
        # The op's default is a coarser transform, which strays from libjpeg's by several grey levels.
        image = tf.io.decode_jpeg(contents, channels=datasets.DEPTH, dct_method="INTEGER_ACCURATE")
    segment = _walk(contents, 2, is_last, size)
    number = _reader(contents, segment, 8)
    length = tf.where_v2(tf.equal(number(0, 2), 0xFFE1), number(2, 2) - 8, np.int64(0))
    return turn(image, orientation(contents, segment + 10, length))


def _png(contents):
    """A chunk is length, type, as many bytes, and a checksum (ISO/IEC 15948)."""

    def is_last(number):
        types = [int.from_bytes(name, "big") for name in (b"eXIf", b"IEND")]
        return tf.reduce_any(tf.equal(number(4, 4), types))

    number = _reader(contents, 0, 24)
    with _checked(_small_enough(number(16, 4), number(20, 4))):
        image = tf.io.decode_png(contents, channels=datasets.DEPTH)
    chunk = _walk(contents, 8, is_last, lambda number: 12 + number(0, 4))
    return turn(image, orientation(contents, chunk + 8, _reader(contents, chunk, 4)(0, 4)))


def _gif(contents):
    """Decodes the first frame on its canvas.

    TensorFlow's canvas is as large as the largest frame, so that one with a margin is cut; and transparent pixels are
    black there. So the op gets the file without the frame's position, and without the mark of a transparent colour.
    """
    number = _reader(contents, 0, 13)
    canvas_width, canvas_height = number(6, 2, True), number(8, 2, True)
    descriptor, control = _first_frame(contents, 13 + _gif_palette_bytes(number(10, 1)))
    number = _reader(contents, descriptor, 10)
    left, top, width, height = (number(position, 2, True) for position in (1, 3, 5, 7))
    canvas_width, canvas_height = tf.maximum(canvas_width, left + width), tf.maximum(canvas_height, top + height)
    is_transparent = control >= 0
    has_own_palette = _gif_palette_bytes(number(9, 1)) > 0
    colour = tf.where_v2(is_transparent, _reader(contents, control, 8)(6, 1), np.int64(0))
    place = tf.where_v2(has_own_palette, descriptor + 10, np.int64(13)) + 3 * colour
    background = tf.cast(_reader(contents, place, 3)(np.arange(3), 1), tf.uint8)

    contents = _replaced(contents, tf.where_v2(is_transparent, control + 3, descriptor + 1), b"\0")
    contents = _replaced(contents, descriptor + 1, bytes(4))
    with _checked(_small_enough(canvas_height, canvas_width)):
        frame = tf.io.decode_image(contents, channels=datasets.DEPTH, expand_animations=False)[:height, :width]
    margins = [[top, canvas_height - top - height], [left, canvas_width - left - width], [0, 0]]
    is_covered = tf.pad(tf.ones_like(frame[..., :1], tf.bool), margins)
    return tf.where_v2(is_covered, tf.pad(frame, margins), background)


def _first_frame(contents, start):
    """Returns where a GIF's first frame is described, and where its control block begins, or -1, int64 scalars.

    Before it come extensions: a byte 0x21, one for the kind, and blocks, each after a byte that says how long it is, up
    to one of length 0 (GIF 89a). Only control blocks that make a colour transparent count.
    """

    def is_before(position, in_blocks, control):
        at_frame = ~in_blocks & tf.reduce_any(tf.equal(_reader(contents, position, 1)(0, 1), [0x2C, 0x3B]))
        return ~at_frame & (position < _length(contents))

    def following(position, in_blocks, control):
        number = _reader(contents, position, 4)
        byte = number(0, 1)
        is_extension = ~in_blocks & tf.equal(byte, 0x21)
        is_control = is_extension & tf.equal(number(1, 1), 0xF9) & tf.equal(number(3, 1) % 2, 1)
        step = tf.where_v2(in_blocks, 1 + byte, tf.where_v2(is_extension, np.int64(2), np.int64(1)))
        return (
            position + step,
            tf.where_v2(in_blocks, tf.not_equal(byte, 0), is_extension),
            tf.where_v2(is_control, position, control),
        )

    first = (tf.cast(start, tf.int64), tf.constant(False), tf.constant(-1, tf.int64))
    descriptor, _, control = tf.while_loop(is_before, following, first)
    return descriptor, control


def _gif_palette_bytes(flags):
    """Returns how long a GIF's palette is, from the byte that says so."""
    return tf.where_v2(flags >= 128, 3 * 2 ** (flags % 8 + 1), np.int64(0))


def _bmp(contents):
    """Decodes a BMP and looks up its palette, which TensorFlow leaves out.

    The palette follows the headers, of which the second says how long it is: blue, green, red and nothing, a byte each.
    """
    number = _reader(contents, 0, 2**11)
    header_bytes, bits, compression = number(14, 4, True), number(28, 2, True), number(30, 4, True)
    height = tf.abs(
        tf.bitcast(tf.cast(number(22, 4, True), tf.uint32), tf.int32)
    )  # negative: the first row comes first
    masks = tf.reduce_all(tf.equal(number([54, 58, 62], 4, True), [0xFF0000, 0xFF00, 0xFF]))
    plain = tf.equal(compression, 0) & tf.reduce_any(tf.equal(bits, [8, 24, 32]))
    known = (header_bytes >= 40) & (plain | (tf.equal(compression, 3) & tf.equal(bits, 32) & masks))
    checks = {"a BMP file of a kind that is not taken": known}
    with _checked({**checks, **_small_enough(tf.cast(height, tf.int64), number(18, 4, True))}):
        image = tf.io.decode_bmp(contents)

    def looked_up():
        colours = number((14 + header_bytes + 4 * np.arange(256))[:, tf.newaxis] + [2, 1, 0], 1)
        return tf.gather(tf.cast(colours, tf.uint8), tf.cast(image[..., 0], tf.int32))

    return tf.cond(tf.equal(bits, 8), looked_up, lambda: image[..., : datasets.DEPTH])


def orientation(contents, start, length):
    """Returns the orientation that Exif data state, an int64 scalar; 1, upright, where they state none.

    They are a TIFF file: byte order, 42, offset of a directory; the directory is a count and that many entries of 12
    bytes: tag, type, count, value (JEITA CP-3451).

    Args:
      contents: string scalar.
      start, length: where the data are in it, in bytes.
    """
    number = _reader(contents, start, tf.clip_by_value(length, 0, 2**16))
    little = tf.equal(number(0, 2), int.from_bytes(b"II", "big"))
    directory = number(4, 4, little)
    stated = tf.equal(number(2, 2, little), 42)
    entries = directory + 2 + 12 * tf.range(tf.where_v2(stated, number(directory, 2, little), np.int64(0)))
    found = tf.boolean_mask(number(entries + 8, 2, little), tf.equal(number(entries, 2, little), _ORIENTATION))
    return tf.concat([found, [np.int64(1)]], 0)[0]


def turn(image, orientation):
    """Turns an image upright.

    Args:
      image: [height, width, depth].
      orientation: integer scalar, as Exif numbers them: 1 to 4 have its rows where they belong, 5 to 8 in columns;
        other numbers mean nothing.
    """

    def step(mirrored):
        return tf.where_v2(tf.reduce_any(tf.equal(orientation, mirrored)), -1, 1)

    sideways = tf.reduce_any(tf.equal(orientation, [5, 6, 7, 8]))
    image = tf.transpose(image, tf.where_v2(sideways, [1, 0, 2], [0, 1, 2]))
    return image[:: step([3, 4, 7, 8]), :: step([2, 3, 6, 7])]


def _checked(conditions):
    """Returns a context whose ops fail with a message of {message: condition} where its condition is false."""
    return tf.control_dependencies([tf.Assert(condition, [message]) for message, condition in conditions.items()])


def _small_enough(height, width):
    return {pictures.TOO_MANY_PIXELS: height * width <= MAX_PIXELS}


def _length(contents):
    return tf.cast(tf.strings.length(contents), tf.int64)


def _replaced(contents, position, part):
    """Returns a file's bytes with `part` in the place of as many of them."""
    end = _part(contents, position + len(part), _length(contents))
    return tf.strings.join([_part(contents, 0, position), part, end])


def _part(contents, start, length):
    """Returns `length` bytes of a file, or as many as there are."""
    start = tf.clip_by_value(tf.cast(start, tf.int64), 0, _length(contents))
    return tf.strings.substr(contents, start, tf.cast(length, tf.int64))


def _walk(contents, start, is_last, size):
    """Returns the position of the part of a file, int64, at which a walk from part to part ends.

    Args:
      contents: string scalar.
      start: position of the first part.
      is_last: function of a function that reads the part's numbers: whether to stop. The file's end stops it too.
      size: function of the same: how many bytes the part has.
    """

    def number(position):
        return _reader(contents, position, 8)

    return tf.while_loop(
        lambda position: (position < _length(contents)) & ~is_last(number(position)),
        lambda position: position + size(number(position)),
        [tf.constant(start, tf.int64)],
    )


def _reader(contents, start, length):
    """Returns a function of (position, size, little) that reads integers of `size` bytes from a part of a file.

    Positions are integers of any shape, relative to `start`; `little` says whether the lowest byte comes first. Bytes
    outside read as 0.
    """
    data = tf.pad(tf.cast(tf.decode_raw(_part(contents, start, length), tf.uint8), tf.int64), [[1, 1]])

    def number(position, size, little=False):
        places = tf.cast(position, tf.int64)[..., tf.newaxis] + tf.range(1, size + 1, dtype=tf.int64)
        digits = tf.gather(data, tf.clip_by_value(places, 0, tf.size(data, out_type=tf.int64) - 1))
        digits = tf.where_v2(little, tf.reverse(digits, [-1]), digits)
        return tf.reduce_sum(digits * 256 ** np.arange(size - 1, -1, -1, dtype=np.int64), -1)

    return number
