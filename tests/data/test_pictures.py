"""Picture files of any kind and size -> what the network's input is cut from."""

import io
import itertools
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import FILES, GREY, RGB, central_square, encode, resized, scene, with_orientation
from PIL import Image, ImageOps

from cifar10 import cifar10_input
from cifar10.data import crops, pictures, records
from cifar10.errors import DataError


def decoded(*contents):
    """Returns the pictures that files' bytes are decoded to."""
    with tf.Graph().as_default(), tf.Session() as session:
        content = tf.placeholder(tf.string, [])
        picture = pictures.decode(content)
        return [session.run(picture, {content: one}) for one in contents]


@pytest.mark.parametrize(
    ("height", "width"), [(32, 32), (1, 1), (5, 7), (31, 33), (24, 24), (200, 300), (301, 200), (1, 500)]
)
def test_a_picture_of_any_size_is_cropped_and_resized_as_numpy_does(graph, height, width):
    picture = scene(height, width)
    pixels = tf.placeholder(tf.uint8, [None, None, 3])
    outputs = [pictures.resize(pixels, crop) for crop in ("central", "whole")]
    assert [output.shape.as_list() for output in outputs] == [[32, 32, 3], [24, 24, 3]]
    with tf.Session() as session:
        central, whole = session.run(outputs, {pixels: picture})
        batch = session.run(pictures.resize(tf.constant(picture[np.newaxis]), "central"))
    for ours, expected in ((central, resized(central_square(picture), 32)), (whole, resized(picture, 24))):
        difference = np.abs(ours.astype(int) - expected)
        assert ours.dtype == np.uint8 and difference.max() <= 1 and difference.mean() < 1e-3
    np.testing.assert_array_equal(batch[0], central)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_a_32x32_picture_reaches_the_network_as_in_evaluation_to_the_last_bit(graph, noise, kind):
    labels = np.zeros(20, np.int32)
    images = cifar10_input.inputs(records.Examples(noise.images[:20], labels), 20)[0]
    contents = tf.placeholder(tf.string, [])
    ours = pictures.resize(pictures.decode(contents), "central")
    batch = tf.placeholder(tf.uint8, [20, 32, 32, 3])
    with tf.Session() as session:
        files = [encode(image, kind) for image in noise.images[:20]]
        values = np.stack([session.run(ours, {contents: file}) for file in files])
        np.testing.assert_array_equal(values, noise.images[:20])
        expected, actual = session.run([images, crops.central_crop(batch)], {batch: values})
    np.testing.assert_array_equal(expected, actual)


def test_decoding_equals_pillow_to_the_last_bit():
    for (kind, content), ours in zip(FILES.items(), decoded(*FILES.values()), strict=True):
        expected = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
        np.testing.assert_array_equal(ours, expected, kind)


def test_transparency_is_ignored_and_of_16_bits_the_upper_eight_count():
    alpha = np.random.RandomState(0).randint(0, 256, [30, 40], dtype=np.uint8)
    deep = np.random.RandomState(1).randint(0, 2**16, [30, 40], dtype=np.uint16)
    *see_through, grey_see_through, sixteen = decoded(
        encode(np.dstack([RGB, alpha]), "PNG"),
        encode(np.dstack([RGB, alpha]), "BMP"),
        encode(Image.merge("LA", [GREY, Image.fromarray(alpha)]), "PNG"),
        encode(Image.fromarray(deep), "PNG"),
    )
    for picture in see_through:
        np.testing.assert_array_equal(picture, RGB)
    np.testing.assert_array_equal(grey_see_through, np.dstack([GREY] * 3))
    np.testing.assert_array_equal(sixteen, np.dstack([deep >> 8] * 3))


def test_jpeg_is_turned_as_its_exif_orientation_says():
    cases = list(itertools.product(range(10), "<>", (True, False)))
    files = [with_orientation(*case) for case in cases]
    for case, file, ours in zip(cases, files, decoded(*files), strict=True):
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
        assert expected.size == ((30, 40) if case[0] in (5, 6, 7, 8) else (40, 30))
        np.testing.assert_array_equal(ours, np.array(expected), str(case))


def test_a_damaged_exif_segment_turns_nothing_and_stops_nothing():
    rng = np.random.RandomState(0)
    whole = with_orientation(6, "<")
    cut = [whole[:length] for length in range(3, 43)]  # the number is at 42
    wrong = [whole[:12] + rng.bytes(n) for n in range(0, 200, 5)]
    high = [whole[:12] + order + b"\xff" * 40 for order in (b"II", b"MM")]
    endless = [whole[:12] + b"II*\0\x08\0\0\0\xff\xff"]
    with tf.Graph().as_default(), tf.Session() as session:
        content = tf.placeholder(tf.string, [])
        orientation = pictures.orientation(content)
        assert session.run(orientation, {content: whole}) == 6
        for damaged in [*cut, *wrong, *high, *endless, *FILES.values()]:
            assert not 2 <= session.run(orientation, {content: damaged}) <= 8, damaged


UNDECODABLE = {
    "empty": b"",
    "text": b"hello, world",
    "one byte": b"B",
    "jpeg, its first bytes only": b"\xff\xd8\xff",
    "jpeg, cut": FILES["jpeg"][:-300],
    "png, cut": FILES["png"][:-100],
    "gif, cut": FILES["gif"][:-100],
    "bmp, cut": FILES["bmp"][:-100],
    "bmp, black and white": encode(Image.fromarray(RGB).convert("1"), "BMP"),
    "tiff": encode(RGB, "TIFF"),
    "webp": encode(RGB, "WEBP"),
}


@pytest.mark.parametrize("kind", UNDECODABLE)
def test_what_cannot_be_decoded_is_an_error(kind):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoded(UNDECODABLE[kind])


def make_tree(folder):
    """Fills a folder with pictures' names and others; returns those of the pictures, in order."""
    found = ["B.JPG", "a.png", "deep/deeper/c.gif", "deep/x.bmp", "y/z.jpeg"]
    found = [os.path.join(folder, name) for name in found]
    others = ["notes.txt", ".DS_Store", "._a.png", ".hidden/d.png", "png"]
    for path in [*found, *(os.path.join(folder, name) for name in others)]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()
    return [found[0], found[1], found[3], found[2], found[4]]


def test_folders_give_their_pictures_and_those_of_their_subfolders_by_name(tmp_path):
    folder = str(tmp_path / "tree")
    expected = make_tree(folder)
    assert list(pictures.find([folder])) == expected
    hidden = f"{folder}/.hidden"
    arguments = ["-", f"{folder}/notes.txt", hidden, "missing", str(tmp_path / "tree" / "y")]
    assert list(pictures.find(arguments)) == ["-", arguments[1], f"{hidden}/d.png", "missing", f"{folder}/y/z.jpeg"]


def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert list(pictures.find([str(tmp_path / "empty")])) == [str(tmp_path / "empty")]
    (tmp_path / "large.png").write_bytes(bytes(1001))
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    for name, message in {
        "empty": r"/empty: holds no pictures; they end in \.bmp \.gif \.jpeg \.jpg \.png$",
        "missing": r"/missing: cannot be read \(No such file or directory\)$",
        "a\nb": r"/a\\nb': cannot be read \(No such file or directory\)$",
        "a\0b": r"/a\\x00b': cannot be read \(.*null (byte|character).*\)$",
        "large.png": r"/large.png: has more than 1000 bytes, which is too large for a picture$",
    }.items():
        with pytest.raises(DataError, match=message) as error:
            pictures.read(f"{tmp_path}/{name}")
        assert len(str(error.value).splitlines()) == 1
    monkeypatch.setattr(pictures, "MAX_BYTES", 1001)
    assert pictures.read(f"{tmp_path}/large.png") == bytes(1001)


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    make_tree(str(tmp_path))
    listed = os.scandir

    def scandir(folder):
        if str(folder).endswith("deeper"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    names = list(pictures.find([str(tmp_path)]))
    assert names[-1] == f"{tmp_path}/deep/deeper" and len(names) == 5
