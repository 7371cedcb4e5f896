"""The drawn data set: its bytes, its layout, and how hard it is."""

import dataclasses
import hashlib

import numpy as np
import pytest

from cifar10.data import synthetic
from cifar10.data.datasets import RECORD_BYTES, SYNTHETIC

NUM_CLASSES = SYNTHETIC.num_classes
SMALL = dataclasses.replace(SYNTHETIC, train_files=(("a.bin", 40), ("b.bin", 20)), test_files=(("c.bin", 20),))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def records_of(folder, files):
    """Returns [N, 3073] uint8: the records of these files."""
    return np.concatenate([np.fromfile(folder / name, np.uint8) for name, _ in files]).reshape(-1, RECORD_BYTES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the whole data set, which is not to be changed."""
    folder = tmp_path_factory.mktemp("synthetic") / "made" / "for it"
    synthetic.write(SYNTHETIC, folder)
    return folder


@pytest.fixture
def clean(monkeypatch):
    """Draws without noise, in the middle."""
    monkeypatch.setattr(synthetic, "NOISE", (0, 1))
    monkeypatch.setattr(synthetic, "SHIFT", (0, 1))


def draw_each(copies):
    """Returns [10, copies, 32, 32, 3] uint8: images of every class."""
    labels = np.repeat(np.arange(NUM_CLASSES), copies)
    images = synthetic.draw(labels, SYNTHETIC.class_names, np.random.RandomState(0))
    return images.reshape(NUM_CLASSES, copies, *images.shape[1:])


def test_bytes_are_the_published_ones(folder):
    digest = hashlib.sha256()
    for name, _ in (*SYNTHETIC.train_files, *SYNTHETIC.test_files):
        digest.update((folder / name).read_bytes())
    assert digest.hexdigest() == "4272a1931671f4fd1c81edc7f872fae5d0bbeb4d8002ad2977f22e2613b93fe0"


def test_second_write_is_identical(tmp_path):
    synthetic.write(SMALL, tmp_path)
    first = contents(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"damaged")
    np.random.seed(1)
    synthetic.write(SMALL, tmp_path)
    assert contents(tmp_path) == first


def test_failing_write_leaves_no_partial_file(tmp_path, monkeypatch):
    def full_disk(source, target):
        raise OSError(f"no room for {target}")

    monkeypatch.setattr(synthetic.os, "replace", full_disk)
    with pytest.raises(OSError, match=r"a\.bin"):
        synthetic.write(SMALL, tmp_path)
    assert not (tmp_path / "a.bin").exists()


def test_files_are_those_of_the_dataset(folder):
    sizes = {name: len(data) for name, data in contents(folder).items() if name != "batches.meta.txt"}
    assert sizes == dict.fromkeys((*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"), 2000 * 3073)
    assert (folder / "batches.meta.txt").read_text() == "".join(f"{name}\n" for name in SYNTHETIC.class_names)


def test_classes_are_equally_frequent_and_shuffled(folder):
    for name, _ in (*SYNTHETIC.train_files, *SYNTHETIC.test_files):
        labels = np.fromfile(folder / name, np.uint8)[::3073]
        assert np.bincount(labels, minlength=NUM_CLASSES).tolist() == [200] * NUM_CLASSES
        assert 100 < np.count_nonzero(labels[1:] == labels[:-1]) < 300  # a tenth of them, by chance


def test_records_hold_planes_of_rows(tmp_path, monkeypatch):
    image = np.random.RandomState(0).randint(0, 256, [32, 32, 3], dtype=np.uint8)
    monkeypatch.setattr(synthetic, "draw", lambda labels, *_: np.broadcast_to(image, (len(labels), 32, 32, 3)))
    synthetic.write(SMALL, tmp_path)
    record = (tmp_path / "c.bin").read_bytes()[:3073]
    for row, column, colour in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (30, 17, 2), (31, 31, 2)):
        assert record[1 + 1024 * colour + 32 * row + column] == image[row, column, colour]


def test_no_image_occurs_twice(folder):
    images = records_of(folder, (*SYNTHETIC.train_files, *SYNTHETIC.test_files))[:, 1:]
    assert len({image.tobytes() for image in images}) == 12_000


def test_shapes_are_their_own_mirror_images(clean):
    images = draw_each(copies=50)
    for name, drawn in zip(SYNTHETIC.class_names, images, strict=True):
        assert np.array_equal(drawn, drawn[:, :, ::-1]), name


@pytest.mark.parametrize(
    ("shift", "crop", "least"),
    [
        (synthetic.SHIFT[0], slice(8, 32), 1 / 3),
        (synthetic.SHIFT[1] - 1, slice(24), 1 / 3),
        (synthetic.SHIFT[1] - 1, slice(4, 28), 2 / 3),
    ],
    ids=["opposite_corner", "other_corner", "centre"],
)
def test_crops_show_enough_of_a_shape(clean, monkeypatch, shift, crop, least):
    """Even of the shapes farthest from the centre, in the crops farthest from them and in the one for evaluation."""
    monkeypatch.setattr(synthetic, "SHIFT", (shift, shift + 1))
    images = draw_each(copies=50)
    shapes = np.any(images != images[:, :, :1, :1], axis=-1)  # an image's corner is never part of the shape
    shown = np.sum(shapes[:, :, crop, crop], axis=(2, 3)) / np.sum(shapes, axis=(2, 3))
    assert np.all(shown > least), dict(zip(SYNTHETIC.class_names, shown.min(axis=1).round(2).tolist(), strict=True))


@pytest.mark.slow
def test_linear_classifier_is_above_chance_and_below_60_percent(folder):
    """Ridge regression of the ten one-hot labels on the raw bytes: labels match images, yet need more than this."""

    def examples(files):
        records = records_of(folder, files)
        pixels = (records[:, 1:].astype(np.float32) - 127.5) / 73.6  # the deviation of a uniform byte
        return np.hstack([pixels, np.ones([len(pixels), 1], np.float32)]), records[:, 0]

    train, train_labels = examples(SYNTHETIC.train_files)
    test, test_labels = examples(SYNTHETIC.test_files)
    penalty = 1e5 * np.eye(train.shape[1], dtype=np.float32)  # the best power of ten
    weights = np.linalg.solve(train.T @ train + penalty, train.T @ np.eye(NUM_CLASSES, dtype=np.float32)[train_labels])
    accuracy = np.mean(np.argmax(test @ weights, axis=1) == test_labels)
    assert 0.15 < accuracy < 0.6
