"""The embedded data set."""

import dataclasses
import hashlib
import os

import numpy as np
import pytest

from cifar10 import datasets, records, synthetic

SMALL = dataclasses.replace(
    datasets.SYNTHETIC,
    train_files=tuple((f"data_batch_{i}.bin", 20) for i in range(1, 6)),
    test_files=(("test_batch.bin", 20),),
)


@pytest.fixture(scope="module")
def full(synthetic_dir):
    """The training and the test examples of the data set as it is by default."""
    return [records.load(datasets.SYNTHETIC, synthetic_dir, split) for split in datasets.SPLITS]


def test_the_bytes_are_the_same_on_every_machine(tmp_path):
    synthetic.write(SMALL, tmp_path)
    content = b"".join((tmp_path / name).read_bytes() for name in sorted(os.listdir(tmp_path)))
    assert hashlib.sha256(content).hexdigest() == "76d86b8748f8076ca72d6b73a4aa3c6591024b31adeba6d7843d49470514f378"


def test_a_drawn_folder_is_the_tutorials_layout(tmp_path):
    synthetic.write(SMALL, tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.bin")}
    assert sizes == {name: count * 3073 for name, count in SMALL.train_files + SMALL.test_files}
    assert (tmp_path / "batches.meta.txt").read_text().split() == list(SMALL.class_names)


def test_classes_are_equally_frequent_and_shuffled(full):
    train, test = full
    assert list(np.bincount(train.labels)) == [1000] * 10
    assert list(np.bincount(test.labels)) == [200] * 10
    # In 100 neighbouring pictures of a shuffle about 10 share their class with the next one.
    assert 2 <= np.sum(train.labels[:100] == train.labels[1:101]) <= 25


def test_no_picture_is_drawn_twice(full):
    train, test = full
    pictures = {image.tobytes() for examples in (train, test) for image in examples.images}
    assert len(pictures) == 12_000


def test_a_mirrored_shape_is_of_the_same_class():
    """Training flips pictures, so that a class must be its own mirror image."""
    offsets = np.arange(-31, 32, dtype=np.int32)
    for shape in synthetic.SHAPES.values():
        inside = shape(offsets[None, None, :], offsets[None, :, None], np.full([1, 1, 1], 18, np.int32))
        np.testing.assert_array_equal(inside, inside[:, :, ::-1])
        assert 0.02 < inside.mean() < 0.5


def test_a_linear_classifier_learns_little_of_it(full):
    """Ridge regression on the raw pixels: above the chance of 0.1, far below the 0.6 that would make it trivial."""
    (train, test) = full
    features = [np.c_[e.images.reshape(e.count, -1) / 255.0 - 0.5, np.ones(e.count)] for e in (train, test)]
    gram = features[0].T @ features[0] + 1000.0 * np.eye(features[0].shape[1])
    weights = np.linalg.solve(gram, features[0].T @ np.eye(10)[train.labels])
    precision = np.mean((features[1] @ weights).argmax(axis=1) == test.labels)
    assert 0.12 < precision < 0.6
