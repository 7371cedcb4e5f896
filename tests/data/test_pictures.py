"""Picture files of any kind and size -> what the network's input is cut from."""

import collections
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import types
import zlib

import numpy as np
import pytest
from forkserver import environment
from helpers import (
    BMP_BY_HAND,
    FILES,
    RGB,
    central_square,
    encode,
    exif,
    jpegs,
    lossless,
    not_exported,
    resized,
    scene,
    with_exif,
)
from PIL import Image, ImageOps

from cifar10.data import pictures
from cifar10.errors import DataError
from cifar10.machine import signals

SIZES = [(32, 32), (1, 1), (5, 7), (31, 33), (24, 24), (200, 300), (301, 200), (1, 500)]  # height and width


@pytest.fixture
def load(tmp_path):
    """A function of a file's bytes, and options, that gives what is read of it."""

    def load(content, **options):
        (tmp_path / "file").write_bytes(content)
        return pictures.load(str(tmp_path / "file"), **options)

    return load


def assert_within_a_grey_level(ours, expected, name=None):
    difference = np.abs(ours.astype(int) - expected)
    assert ours.dtype == np.uint8 and difference.max() <= 1 and difference.mean() < 0.01, name


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_an_image_of_any_size_is_cropped_and_resized_as_numpy_does(height, width):
    image = scene(height, width)
    central, whole = (pictures.fit(Image.fromarray(image), crop) for crop in ("central", "whole"))
    assert_within_a_grey_level(central, resized(central_square(image), 32))
    assert_within_a_grey_level(whole, resized(image, 24))


def test_sharp_edges_are_not_cut_off_between_the_directions():
    """Where the filter overshoots in one direction, the other one still counts with what is above white."""
    image = (np.random.RandomState(0).randint(0, 2, [75, 75, 3]) * 255).astype(np.uint8)
    assert_within_a_grey_level(pictures.fit(Image.fromarray(image), "central"), resized(image, 32))


def test_fine_patterns_become_grey_not_aliases():
    checkers = np.where(np.add.outer(np.arange(256), np.arange(256)) % 2, 255, 0).astype(np.uint8)
    inside = pictures.fit(Image.fromarray(checkers).convert("RGB"), "central")[1:-1, 1:-1]
    assert np.ptp(inside) <= 2


@pytest.mark.parametrize("size", [(32, 32), (45, 33)])
def test_of_every_kind_the_pixels_that_are_in_it_are_read(load, size):
    image = scene(*size)
    for kind, (content, pixels) in {**lossless(image), **not_exported(image)}.items():
        square = central_square(pixels)
        if square.shape == (32, 32, 3):
            np.testing.assert_array_equal(load(content), square, kind)
        else:
            assert_within_a_grey_level(load(content), resized(square, 32), kind)


def test_jpeg_is_read_as_pillow_decodes_it(load):
    for kind, content in jpegs(RGB).items():
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        assert_within_a_grey_level(load(content), resized(central_square(pixels), 32), kind)
        original = np.asarray(Image.fromarray(RGB).convert("L" if "grey" in kind else "RGB").convert("RGB"))
        assert np.abs(pixels.astype(int) - original).mean() < 10, kind  # none is inverted, or the second of two


def test_bmp_of_4_and_16_bits_with_run_lengths_and_with_masks_is_read(load):
    for kind, (content, pixels) in BMP_BY_HAND.items():
        assert_within_a_grey_level(load(content), resized(central_square(pixels), 32), kind)


ROWS_AND_COLUMNS = {  # Exif's orientation: where the first row and the first column of what is stored belong
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", ROWS_AND_COLUMNS)
def test_exif_orientation_is_followed_in_every_kind(load, kind, orientation):
    image = np.full([32, 32, 3], 128, np.uint8)
    image[:8] = [255, 0, 0]  # the first row's side is red, then the first column's green
    image[8:, :8] = [0, 255, 0]
    upright = load(encode(image, kind, exif=b"Exif\0\0" + exif(orientation), quality=95)).astype(int)
    sides = {"top": upright[3, 16], "bottom": upright[28, 16], "left": upright[16, 3], "right": upright[16, 28]}
    row, column = ROWS_AND_COLUMNS[orientation]
    assert np.all(abs(sides[row] - [255, 0, 0]) < 12) and np.all(abs(sides[column] - [0, 255, 0]) < 12)


@pytest.mark.parametrize("height", [40, 41])
def test_the_central_square_is_that_of_the_upright_image(load, height):
    """An odd margin is the smaller one at the top or left, of what the viewer sees."""
    for orientation in ROWS_AND_COLUMNS:
        content = encode(scene(height, 64), "PNG", exif=exif(orientation, ">"))
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
        assert_within_a_grey_level(load(content), resized(central_square(upright), 32))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_turns_nothing_and_stops_nothing(load):
    upright = load(FILES["jpeg"])
    rng = np.random.RandomState(0)
    whole = exif(6)
    for data in [
        b"",
        whole[:20],
        b"II*\0\x08\0\0\0\xff\xff",
        b"MM" + b"\xff" * 40,
        *(rng.bytes(50) for _ in range(20)),
    ]:
        np.testing.assert_array_equal(load(with_exif(data)), upright)
    assert np.any(load(with_exif(whole)) != upright)


OTHERS = {
    "TIFF": encode(RGB, "TIFF"),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0mif1avif",
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "PDF": b"%PDF-1.7\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}
DAMAGED = {
    "jpeg, its first bytes only": b"\xff\xd8\xff",
    "jpeg, cut": FILES["jpeg"][:-300],
    "png, cut": FILES["png"][:-100],
    "gif, cut": FILES["gif"][:-100],
    "bmp, cut": FILES["bmp"][:-100],
    "webp, cut": not_exported(RGB)["webp"][0][:-100],
}
NONE = {
    "empty": b"",
    "text": b"hello, world",
    "one byte": b"B",
    "postscript": encode(RGB, "EPS"),
    "netpbm": encode(RGB, "PPM"),
}


def test_what_cannot_be_decoded_is_an_error_of_one_line_that_names_the_kind(load, tmp_path):
    def message(content):
        with pytest.raises(DataError) as error:
            load(content)
        (line,) = str(error.value).splitlines()
        return line.removeprefix(f"{tmp_path}/file: cannot be decoded ").strip("()")

    for kind, content in OTHERS.items():
        assert message(content) == f"it is {kind}; convert it to JPEG or PNG"
    for content in NONE.values():
        assert message(content) == "no JPEG, PNG, BMP, GIF or WebP file"
    for kind, content in DAMAGED.items():
        assert message(content), kind


def test_too_many_pixels_are_refused_before_they_are_decoded(load, monkeypatch):
    """1200 pixels are there; the bound is at the edge, and just below."""
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1200)
    monkeypatch.setattr(pictures, "_decoded", pictures._Budget(1200))
    refused = ["png", "gif", "bmp", "jpeg, progressive"]
    for kind in refused:
        assert load(FILES[kind]).shape == (32, 32, 3)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1199)
    for kind in refused:
        with pytest.raises(DataError, match=r"cannot be decoded \(it has more than \d+ pixels; make it smaller\)$"):
            load(FILES[kind])


def test_a_large_jpeg_is_decoded_reduced(load, monkeypatch):
    """Its blocks of 8x8 pixels, each of one colour, are that colour also at an eighth of width and height."""
    blocks = scene(32, 32)
    content = encode(np.repeat(np.repeat(blocks, 8, 0), 8, 1), "JPEG", quality=100, subsampling=0)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 256 * 256 - 1)
    assert np.abs(load(content).astype(int) - blocks).max() <= 3
    monkeypatch.setattr(pictures, "MAX_PIXELS", 32 * 32 - 1)
    with pytest.raises(DataError, match="pixels; make it smaller"):
        load(content)


# A process that reads a file with each of two threads and tells how much its memory grew by that, in bytes.
MEMORY = """
import resource, sys
from cifar10.data import pictures
from cifar10.errors import DataError
from cifar10.machine import signals
list(pictures.load_each([sys.argv[1]] * 2))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(sum(isinstance(result, DataError) for result in pictures.load_each([sys.argv[2]] * 2)))
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def tall_png(height, width):
    """Returns a PNG file of black pixels in colour, to be turned; about a thousandth of its pixels' bytes."""
    compressor = zlib.compressobj()
    row = bytes(1 + 3 * width)  # a filter, 0, and the pixels
    data = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"eXIf" + exif(6), b"IDAT" + data, b"IEND"]
    chunks = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "bound"), [(8192, 8192, 14 * 2**26), (8193, 8192, 2**24)])
def test_memory_is_bounded_whatever_the_header_says(tmp_path, height, width, bound):
    """Of a file of 200 kB that holds 67 million pixels, or one row more."""
    (tmp_path / "small.png").write_bytes(FILES["png"])
    (tmp_path / "large.png").write_bytes(tall_png(height, width))
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "small.png"), str(tmp_path / "large.png")]
    process = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert process.returncode == 0, process.stderr
    num_errors, grown = map(int, process.stdout.splitlines())
    assert num_errors == (2 if height * width > pictures.MAX_PIXELS else 0)
    assert grown <= bound


def test_threads_together_decode_no_more_than_the_bound():
    budget = pictures._Budget(10)
    taken = threading.Event()

    def take(amount):
        with budget.taken(amount):
            taken.set()

    with budget.taken(6):
        for amount, is_left in ((4, True), (5, False)):
            taken.clear()
            thread = threading.Thread(target=take, args=[amount])
            thread.start()
            assert taken.wait(timeout=60 if is_left else 0.3) == is_left
    assert taken.wait(timeout=60)
    thread.join()


def test_many_are_read_in_their_order_with_the_errors_in_their_places(tmp_path):
    names = []
    for i in range(50):
        names.append(str(tmp_path / f"{i}.png"))
        (tmp_path / f"{i}.png").write_bytes(b"no picture" if i % 7 == 3 else encode(scene(32, 32, seed=i), "PNG"))
    for i, result in enumerate(pictures.load_each(names)):
        if i % 7 == 3:
            assert isinstance(result, DataError) and str(result).startswith(f"{names[i]}: cannot be decoded (no JPEG")
        else:
            np.testing.assert_array_equal(result, scene(32, 32, seed=i))


def make_tree(folder):
    """Fills a folder with pictures' names and others; returns those of the pictures, in order."""
    found = ["B.JPG", "a.png", "deep/deeper/c.gif", "deep/x.bmp", "y/z.jpeg", "y/zz.WebP"]
    found = [os.path.join(folder, name) for name in found]
    others = ["notes.txt", ".DS_Store", "._a.png", ".hidden/d.png", "png"]
    for path in [*found, *(os.path.join(folder, name) for name in others)]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()
    return [found[0], found[1], found[3], found[2], *found[4:]]


def test_folders_give_their_pictures_and_those_of_their_subfolders_by_name(tmp_path):
    folder = str(tmp_path / "tree")
    expected = make_tree(folder)
    assert list(pictures.find([folder])) == expected
    hidden = f"{folder}/.hidden"
    arguments = ["-", f"{folder}/notes.txt", hidden, "missing", str(tmp_path / "tree" / "y")]
    found = ["-", arguments[1], f"{hidden}/d.png", "missing", f"{folder}/y/z.jpeg", f"{folder}/y/zz.WebP"]
    assert list(pictures.find(arguments)) == found


def test_files_in_folders_that_are_no_pictures_are_counted_by_extension(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("a.png", "scan.TIFF", "below/scan.tiff", "below/notes", ".hidden.tiff", "below/b.webp"):
        (tmp_path / name).write_bytes(b"")
    passed_over = collections.Counter()
    named = str(tmp_path / "scan.TIFF")  # which is taken as it is
    found = list(pictures.find([str(tmp_path), named], passed_over))
    assert found == [str(tmp_path / "a.png"), str(tmp_path / "below" / "b.webp"), named]
    assert passed_over == {".tiff": 2, "none": 1}


def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert list(pictures.find([str(tmp_path / "empty")])) == [str(tmp_path / "empty")]
    (tmp_path / "large.png").write_bytes(bytes(1001))
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    for name, message in {
        "empty": r"/empty: holds no pictures; they end in \.bmp \.gif \.jpeg \.jpg \.png \.webp$",
        "missing": r"/missing: cannot be read \(No such file or directory\)$",
        "a\nb": r"/a\\nb': cannot be read \(No such file or directory\)$",
        "a\0b": r"/a\\x00b': cannot be read \(.*null (byte|character).*\)$",
        "large.png": r"/large.png: has more than 1000 bytes, which is too large for a picture$",
        "pipe.png": r"/pipe.png: is no regular file; what a pipe holds is read from -$",
    }.items():
        with pytest.raises(DataError, match=message) as error:
            pictures.load(f"{tmp_path}/{name}")
        assert len(str(error.value).splitlines()) == 1
    monkeypatch.setattr(pictures, "MAX_BYTES", 1001)
    with pytest.raises(DataError, match="no JPEG"):
        pictures.load(f"{tmp_path}/large.png")


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    make_tree(str(tmp_path))
    listed = os.scandir

    def scandir(folder):
        if str(folder).endswith("deeper"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    names = list(pictures.find([str(tmp_path)]))
    assert names[-1] == f"{tmp_path}/deep/deeper" and len(names) == 6


def test_a_signal_that_interrupts_no_read_ends_the_wait_for_standard_input(monkeypatch):
    """As one that comes just before the read, one that another thread gets does not wake the one that waits."""
    reading, writing = os.pipe()
    with open(reading) as nothing_yet, open(writing, "wb") as pipe:
        monkeypatch.setattr(sys, "stdin", nothing_yet)
        signal_to_itself = threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
        end_of_input = threading.Timer(20, pipe.close)  # for a wait that nothing else ends
        signal_to_itself.start()
        end_of_input.start()
        with pytest.raises(signals.Interrupted), signals.raised():
            pictures.load(pictures.STDIN)
        assert end_of_input.is_alive()
        end_of_input.cancel()


@pytest.mark.parametrize("windows", [False, True])
def test_standard_input_that_comes_in_parts_is_one_picture(monkeypatch, windows):
    """On Windows select has no poll, and takes nothing but sockets."""
    if windows:
        monkeypatch.setattr(pictures, "select", types.SimpleNamespace(select=None))
    reading, writing = os.pipe()

    def write():
        with open(writing, "wb", buffering=0) as pipe:
            for start in range(0, len(FILES["png"]), 100):
                pipe.write(FILES["png"][start : start + 100])

    with open(reading) as standard_input:
        monkeypatch.setattr(sys, "stdin", standard_input)
        writer = threading.Thread(target=write)
        writer.start()
        image = pictures.load(pictures.STDIN)
        writer.join()
    np.testing.assert_array_equal(image, pictures.fit(Image.open(io.BytesIO(FILES["png"])).convert("RGB"), "central"))
