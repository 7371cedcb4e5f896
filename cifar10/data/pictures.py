"""Picture files of any kind and size -> what the network's input is cut from, for import and prediction alike.

What becomes of a file, whatever its name:

| kind | what is read |
| --- | --- |
| JPEG | baseline and progressive; grey, colour and CMYK; of several in one file (MPO) the first |
| PNG | 1 to 16 bits, of 16 the upper eight; grey, colour and palette, with and without alpha; not the animation |
| GIF | the first frame on its canvas; what it leaves free has the transparent colour, or the palette's first |
| BMP | 1, 4, 8, 16, 24 and 32 bits; palettes and run lengths |
| WebP | lossy and lossless; of an animation the first frame |
| TIFF, HEIC, AVIF, JPEG XL and others | nothing: the error says which it is |

In all kinds the Exif orientation is followed, and grey becomes three equal colours. Transparency is ignored (the colour
that is stored below it counts), and so are colour profiles. Of more than MAX_PIXELS pixels, a JPEG that is not
progressive is decoded at an eighth of its width and height, and anything else is refused. What is then taken of it: see
`fit`.

`picture_ops` does the same as graph ops, for exported models, and says which kinds it does not take.
"""

import concurrent.futures
import contextlib
import io
import os
import select
import stat
import sys
import threading
import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL import WebPImagePlugin as WebPImagePlugin  # which adds it to the formats that Image.open knows

from cifar10.data import datasets
from cifar10.errors import DataError, reason
from cifar10.machine import signals

STDIN = "-"
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")  # of what is taken from a folder; case does not matter
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")  # Pillow knows more, and starts a program to read one of them
MAX_BYTES = 2**28  # of a file
MAX_PIXELS = 2**26  # decoded at a time, by all threads together: at up to 18 bytes each (WebP), 1.2 GB
BLOCK_BYTES = 2**26  # above 2**25, malloc's largest threshold (mallopt(3)), memory goes back to the system when freed
TOO_MANY_PIXELS = f"it has more than {MAX_PIXELS} pixels; make it smaller"

# Height and width, in pixels, that an image is resized to before the evaluation's crop, of 24 pixels, is taken.
# central: as in evaluation, where images have this size. whole: the crop takes all of it.
SIZES = {"central": datasets.HEIGHT, "whole": datasets.IMAGE_SIZE}

# What turns an image upright, by its Exif orientation (JEITA CP-3451): where its first row and first column are.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,  # top, right
    3: Image.Transpose.ROTATE_180,  # bottom, right
    4: Image.Transpose.FLIP_TOP_BOTTOM,  # bottom, left
    5: Image.Transpose.TRANSPOSE,  # left, top
    6: Image.Transpose.ROTATE_270,  # right, top
    7: Image.Transpose.TRANSVERSE,  # right, bottom
    8: Image.Transpose.ROTATE_90,  # left, bottom
}

# How files of other kinds begin, and from which byte on, for the message.
_OTHERS = {
    "TIFF": (0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    "HEIC": (4, (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")),
    "AVIF": (4, (b"ftypavif", b"ftypavis")),
    "JPEG XL": (0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    "JPEG 2000": (0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    "PDF": (0, (b"%PDF",)),
    "SVG": (0, (b"<svg", b"<?xml")),
}


def find(arguments, passed_over=None):
    """Yields the name of each picture that the arguments stand for, in order.

    Args:
      arguments: iterable of files, taken as they are; folders, of which all files are taken that have one of EXTENSIONS
        and are not hidden, in its subfolders too, by name, links to folders not followed; and STDIN.

    Yields:
      Names for `load`. Folders that hold no pictures or cannot be listed are among them, for `load` to say so.
    """
    for argument in arguments:
        names = _inside(argument, passed_over) if argument != STDIN and os.path.isdir(argument) else [argument]
        empty = True
        for name in names:
            empty = False
            yield name
        if empty:
            yield argument


def _inside(folder, passed_over):
    unlisted = []
    for parent, folders, files in os.walk(folder, onerror=unlisted.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith("."):
                continue
            if name.lower().endswith(EXTENSIONS):
                yield os.path.join(parent, name)
            elif passed_over is not None:
                passed_over[os.path.splitext(name)[1].lower() or "none"] += 1
    yield from (error.filename for error in unlisted)


def printable(name):
    """Returns a file's name in one line that any console can show."""
    return name if name.isprintable() else ascii(name)


def load_each(names, crop="central"):
    """Yields what `load` returns for each name, or the DataError that it raises, in order; several are read at a time.

    Args:
      names: list of names for `load`.
      crop: see `fit`.
    """

    def attempt(name):
        try:
            return load(name, crop)
        except DataError as error:
            return error

    # In blocks of Pillow's default size, malloc keeps much of a large image's memory for each thread once it is freed.
    Image.core.set_block_size(BLOCK_BYTES)
    pool = concurrent.futures.ThreadPoolExecutor()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow has to say of odd files that it can read
            # A thread that waits for standard input could not be interrupted.
            results = [None if name == STDIN else pool.submit(attempt, name) for name in names]
            for name, result in zip(names, results, strict=True):
                yield attempt(name) if result is None else result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def load(name, crop="central"):
    """Reads a picture as the network takes it: see the table above.

    Args:
      name: a file; or STDIN.
      crop: see `fit`.

    Returns:
      uint8 [size, size, 3], size being SIZES[crop].

    Raises:
      DataError: it cannot be read, is no regular file, is of another kind, damaged or too large.
    """
    with _opened(name) as file:
        if file.seek(0, os.SEEK_END) > MAX_BYTES:
            raise DataError(f"{printable(name)}: has more than {MAX_BYTES} bytes, which is too large for a picture")
        try:
            with Image.open(file, formats=FORMATS) as image, _decoded.taken(_bounded(image)):
                return fit(_rgb(image), crop)
        except Exception as error:  # Pillow raises nearly anything where a file is damaged
            raise DataError(f"{printable(name)}: cannot be decoded ({_why(error, file)})") from None


def _opened(name):
    """Returns a file, or what standard input holds, as a binary file; the caller closes it."""
    if name == STDIN:
        if sys.stdin is None:
            raise DataError(f"{STDIN}: standard input is closed; give it a picture, as in < FILE")
        return io.BytesIO(b"".join(_chunks(sys.stdin.buffer)))
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISREG(mode):
            return open(name, "rb")
        if stat.S_ISDIR(mode):
            os.listdir(name)  # which raises an error for one that cannot be listed
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"{printable(name)}: cannot be read ({reason(error)})") from None
    if stat.S_ISDIR(mode):
        raise DataError(f"{printable(name)}: holds no pictures; they end in {' '.join(EXTENSIONS)}")
    # Opening a named pipe would wait until somebody writes to it.
    raise DataError(f"{printable(name)}: is no regular file; what a pipe holds is read from {STDIN}")


def _chunks(stream):
    """Yields what a pipe, terminal or file holds, up to MAX_BYTES + 1 bytes.

    A read that has nothing to read lasts, and a signal that came just before it, or to another thread, does not end it:
    so each waits for something to read, and never for long.
    """
    left = MAX_BYTES + 1
    at_once = not hasattr(select, "poll")  # on Windows, where only sockets can be waited for
    while left:
        if at_once or select.select([stream], [], [], signals.POLL_SECS)[0]:
            if not (chunk := stream.read1(left)):
                return
            yield chunk
            left -= len(chunk)


def _bounded(image):
    """Returns how many pixels an image that is not decoded yet will have, after what can be done to have fewer.

    Raises:
      Image.DecompressionBombError: they are too many. Image.open raises it too, with a larger bound.
    """
    if image.width * image.height > MAX_PIXELS and not image.info.get("progressive"):
        # The format's own transform can leave out the fine detail. A progressive file is in memory as a whole before.
        image.draft(None, (image.width // 8, image.height // 8))
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    return image.width * image.height


class _Budget:
    """An amount that threads take from and give back."""

    def __init__(self, amount):
        self._left = amount
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, amount):
        """Waits until so much is left, and takes it as long as the context lasts."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()


_decoded = _Budget(MAX_PIXELS)


def _rgb(image):
    """Returns an image upright and in RGB."""
    image.load()
    image.info.pop("transparency", None)  # of which convert would warn
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # 16 bits of grey, which convert would cut off above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _orientation(image):
    """Returns the orientation that a loaded image's Exif states; None where it states none, or is damaged."""
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # of many kinds
        exif.load(image.info.get("exif"))
        return exif.get(ExifTags.Base.Orientation)
    return None


def _why(error, file):
    """Returns why an image cannot be decoded, from the exception."""
    if isinstance(error, UnidentifiedImageError):
        file.seek(0)
        begin = file.read(16)
        for kind, (position, marks) in _OTHERS.items():
            if begin[position:].startswith(marks):
                return f"it is {kind}; convert it to JPEG or PNG"
        return "no JPEG, PNG, BMP, GIF or WebP file"
    return TOO_MANY_PIXELS if isinstance(error, Image.DecompressionBombError) else reason(error)


def fit(image, crop):
    """Brings an image of any size to the one that `crop` needs.

    Args:
      image: PIL.Image in RGB.
      crop: 'central': its central square, resized to 32x32, the evaluation's size, which leaves images of that size as
        they are. 'whole': all of it, resized to 24x24, whether that keeps its proportions or not.

    Returns:
      uint8 [size, size, 3], size being SIZES[crop]; by Lanczos' filter of radius 3, which is stretched where it makes
      images smaller (antialiasing), and keeps them as sharp as those that were trained on.
    """
    left = top = 0
    right, bottom = image.size
    if crop == "central":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        right, bottom = left + side, top + side

    def resized(band):
        # Of bytes Pillow would round and cut off after either direction, and stray from the filter by many grey levels.
        band = band.crop((left, top, right, bottom)).convert("F")
        return band.resize((SIZES[crop], SIZES[crop]), Image.Resampling.LANCZOS)

    bands = [resized(image.getchannel(name)) for name in "RGB"]  # one after the other, to need less memory
    return np.clip(np.rint(np.stack(bands, axis=-1)), 0, 255).astype(np.uint8)
