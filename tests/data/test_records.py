"""Record files on disk -> arrays."""

import dataclasses
import hashlib
import os

import numpy as np
import pytest
from helpers import write_noise

from cifar10.data import datasets, records
from cifar10.errors import DataError


def path_of(dataset, data_dir, name):
    return os.path.join(dataset.path(data_dir), name)


def test_load_decodes_labels_and_planes_in_file_order(tiny, tmp_path):
    write_noise(tiny, tmp_path)
    examples = records.load(tiny, tmp_path, "train")
    raw = np.concatenate([np.fromfile(path, np.uint8) for path in records.paths(tiny, tmp_path, "train")])
    raw = raw.reshape(100, 3073)
    assert examples.count == 100
    assert examples.images.dtype == np.uint8 and examples.labels.dtype == np.int32
    np.testing.assert_array_equal(examples.labels, raw[:, 0])
    for image, row, column, colour in ((0, 0, 0, 0), (17, 3, 30, 1), (99, 31, 31, 2)):
        byte = raw[image, 1 + 1024 * colour + 32 * row + column]
        assert examples.images[image, row, column, colour] == byte


def test_missing_file(tiny, tmp_path):
    write_noise(tiny, tmp_path)
    path = path_of(tiny, tmp_path, "data_batch_4.bin")
    os.remove(path)
    with pytest.raises(DataError, match=f"^Failed to find file: {path}"):
        records.load(tiny, tmp_path, "train")


def sha256(path):
    return hashlib.sha256(np.fromfile(path, np.uint8)).hexdigest()


@pytest.fixture
def published(tiny, tmp_path):
    """A data set whose hashes are published, on disk."""
    write_noise(tiny, tmp_path)
    files = [path for split in datasets.SPLITS for path in records.paths(tiny, tmp_path, split)]
    return dataclasses.replace(tiny, sha256={os.path.basename(path): sha256(path) for path in files})


@pytest.mark.parametrize(
    ("size", "found"),
    [
        (0, r"found 0 bytes \(0 records and 0 bytes\)"),
        (20 * 3073 - 1, r"found 61459 bytes \(19 records and 3072 bytes\)"),
        (19 * 3073, r"found 58387 bytes \(19 records and 0 bytes\)"),
        (21 * 3073, r"found 64533 bytes \(21 records and 0 bytes\)"),
    ],
    ids=["empty", "cut in a record", "one record less", "one record more"],
)
@pytest.mark.parametrize("split", datasets.SPLITS)
def test_wrong_size(published, tmp_path, size, found, split):
    path = records.paths(published, tmp_path, split)[-1]
    data = np.fromfile(path, np.uint8)
    np.tile(data, 2)[:size].tofile(path)
    with pytest.raises(DataError, match=f"{path}: expected 20 records of 3073 bytes = 61460 bytes, {found}; move it"):
        records.load(published, tmp_path, split)


OWN_COUNTS = {"data_batch_1.bin": 7, "data_batch_2.bin": 1, "data_batch_3.bin": 20, "test_batch.bin": 9}


@pytest.fixture
def own(tiny, tmp_path):
    """A data set whose files on disk are the user's own, with other numbers of records; returns (it, its labels)."""
    write_noise(tiny, tmp_path)
    labels = {}
    for name, _ in tiny.train_files + tiny.test_files:
        path = path_of(tiny, tmp_path, name)
        data = np.fromfile(path, np.uint8).reshape(-1, 3073)[: OWN_COUNTS.get(name, 20)]
        data[:, 0] = np.arange(len(data)) % 4
        data.tofile(path)
        labels[name] = data[:, 0]
    return tiny, labels


def test_the_count_of_the_users_own_files_is_what_they_hold(own, tmp_path):
    dataset, labels = own
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    examples = records.load(dataset, tmp_path, "train")
    assert examples.count == 7 + 1 + 20 + 20 + 20
    np.testing.assert_array_equal(examples.labels, np.concatenate([labels[name] for name in names]))
    assert records.load(dataset, tmp_path, "test").count == 9
    found = records.as_found(dataset, tmp_path)
    assert (found.num_examples("train"), found.num_examples("test")) == (68, 9)
    assert records.num_trained_on(found, 8) == 60


@pytest.mark.parametrize(
    ("size", "expected", "found"),
    [
        (0, "1 record of 3073 bytes = 3073 bytes", "0 bytes (0 records and 0 bytes)"),
        (1, "1 record of 3073 bytes = 3073 bytes", "1 byte (0 records and 1 byte)"),
        (3072, "1 record of 3073 bytes = 3073 bytes", "3072 bytes (0 records and 3072 bytes)"),
        (3073 * 5 + 1, "5 records of 3073 bytes = 15365 bytes", "15366 bytes (5 records and 1 byte)"),
    ],
    ids=["empty", "a byte", "no whole one", "one cut off"],
)
def test_the_users_own_files_must_be_whole_and_nobody_is_told_to_delete_them(own, tmp_path, size, expected, found):
    dataset, _ = own
    path = path_of(dataset, tmp_path, "data_batch_4.bin")
    with open(path, "rb+") as file:
        file.truncate(size)
    with pytest.raises(DataError) as error:
        records.load(dataset, tmp_path, "train")
    assert str(error.value) == (
        f"{path}: expected {expected}, found {found}; it is not the published file: mend it, or choose another "
        "--data_dir"
    )


@pytest.mark.parametrize("whole", [False, True], ids=["other counts", "the published counts"])
def test_labels_of_the_users_own_files_are_checked_against_the_classes(own, tmp_path, whole):
    dataset, _ = own
    if whole:
        write_noise(dataset, tmp_path)
    four = dataclasses.replace(dataset, class_names=tuple("abcd"))
    three = dataclasses.replace(dataset, class_names=tuple("abc"))
    if not whole:
        assert records.load(four, tmp_path, "test").count == 9
    with pytest.raises(
        DataError, match=r"record 3 has label 3, expected 0 to 2 .*; it is not the published file: mend"
    ):
        records.load(three, tmp_path, "test")


def test_one_published_file_makes_the_others_damaged_ones(published, tmp_path):
    path = path_of(published, tmp_path, "data_batch_2.bin")
    with open(path, "rb+") as file:
        file.truncate(3 * 3073)
    with pytest.raises(DataError, match=f"^{path}: expected 20 records of 3073 bytes.*; move it away and run again"):
        records.load(published, tmp_path, "train")


@pytest.mark.parametrize("split", datasets.SPLITS)
def test_label_out_of_range(published, tmp_path, split):
    path = records.paths(published, tmp_path, split)[-1]
    data = np.fromfile(path, np.uint8)
    data[3073 * 7] = 255
    data[3073 * 9] = 10
    data.tofile(path)
    with pytest.raises(
        DataError, match=rf"{path}: record 7 has label 255, expected 0 to 9 \(2 such records\); move it away"
    ):
        records.load(published, tmp_path, split)


def test_a_file_shifted_by_a_byte_is_told_by_its_labels(tiny, tmp_path):
    write_noise(tiny, tmp_path)
    path = records.paths(tiny, tmp_path, "train")[2]
    np.roll(np.fromfile(path, np.uint8), 1).tofile(path)
    with pytest.raises(DataError, match=f"{path}: record . has label"):
        records.load(tiny, tmp_path, "train")


@pytest.mark.parametrize(("split", "name"), [("train", "data_batch_3.bin"), ("test", "test_batch.bin")])
def test_a_flipped_bit_in_an_image_of_the_published_set_is_told(published, tmp_path, split, name):
    path = path_of(published, tmp_path, name)
    data = np.fromfile(path, np.uint8)
    data[5000] ^= 1
    data.tofile(path)
    found = hashlib.sha256(data.tobytes()).hexdigest()
    with pytest.raises(DataError) as error:
        records.load(published, tmp_path, split)
    assert str(error.value) == (
        f"{path}: expected sha256 {published.sha256[name]}, found {found}, while other files are as they should be; "
        f"{published.remedy}"
    )


def test_other_images_in_place_of_the_published_set_are_the_users_own(published, tmp_path):
    write_noise(published, tmp_path, seed=1)
    for split in datasets.SPLITS:
        examples = records.load(published, tmp_path, split)
        for path in records.paths(published, tmp_path, split):
            name = os.path.basename(path)
            assert examples.sha256[name] == sha256(path) != published.sha256[name]


@pytest.mark.parametrize("split", datasets.SPLITS)
def test_the_drawn_images_are_checked_as_published_ones(synthetic_dir, split):
    files = datasets.SYNTHETIC.files(split)
    assert records.load(datasets.SYNTHETIC, synthetic_dir, split).sha256 == {
        name: datasets.SYNTHETIC.sha256[name] for name, _ in files
    }


def test_published_layout():
    """The figures of https://www.cs.toronto.edu/~kriz/cifar.html."""
    assert datasets.RECORD_BYTES == 3073
    assert datasets.CIFAR10.folder == "cifar-10-batches-bin"
    assert [name for name, _ in datasets.CIFAR10.train_files] == [f"data_batch_{i}.bin" for i in range(1, 6)]
    assert {count for _, count in datasets.CIFAR10.train_files + datasets.CIFAR10.test_files} == {10_000}
    assert datasets.CIFAR10.test_files[0][0] == "test_batch.bin"
    assert " ".join(datasets.CIFAR10.class_names) == "airplane automobile bird cat deer dog frog horse ship truck"


@pytest.mark.parametrize("split", datasets.SPLITS)
def test_sizes_are_checked_before_memory_is_taken(tiny, tmp_path, split):
    """A manifest may say that there are 10^9 records, of 3 TB."""
    write_noise(tiny, tmp_path)
    huge = tuple((name, 10**9) for name, _ in tiny.files(split))
    with pytest.raises(DataError, match="expected 1000000000 records"):
        records.load(dataclasses.replace(tiny, archive=None, **{f"{split}_files": huge}), tmp_path, split)


def test_a_pipe_in_the_place_of_a_record_file_is_told_at_once(tiny, tmp_path):
    write_noise(tiny, tmp_path)
    path = path_of(tiny, tmp_path, "data_batch_3.bin")
    os.remove(path)
    os.mkfifo(path)
    with pytest.raises(DataError, match=f"^{path}: is no regular file; "):
        records.load(tiny, tmp_path, "train")
    empty = dataclasses.replace(tiny, train_files=(("data_batch_3.bin", 0),))  # whose size would be right
    with pytest.raises(DataError, match=f"^{path}: is no regular file; "):
        records.load(empty, tmp_path, "train")
