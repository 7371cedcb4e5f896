"""What a data set is: its files, their records, its class names and where it comes from.

Every data set uses the CIFAR-10 binary layout: a record is one label byte followed by a 32x32 picture as 1,024 red,
1,024 green and 1,024 blue bytes, each plane row by row.
Source of layout and published figures: https://www.cs.toronto.edu/~kriz/cifar.html
"""

import dataclasses
import os

from cifar10.errors import DataError  # noqa: F401

HEIGHT = 32  # pixels
WIDTH = 32  # pixels
DEPTH = 3  # colour planes
LABEL_BYTES = 1
IMAGE_BYTES = HEIGHT * WIDTH * DEPTH
RECORD_BYTES = LABEL_BYTES + IMAGE_BYTES

SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Archive:
    """A downloadable .tar.gz: where it is and how to tell that it arrived whole (size in bytes)."""

    url: str
    size: int
    sha256: str

    @property
    def filename(self):
        return self.url.rpartition("/")[2]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named set of record files under `<data_dir>/<folder>`.

    Attributes:
      name: what --dataset calls it.
      folder: the folder below data_dir that holds the files.
      class_names: one name per label, in label order.
      train_files, test_files: (file name, number of records) pairs.
      archive: where to download it, or None for a data set that is drawn on the spot.
    """

    name: str
    folder: str
    class_names: tuple
    train_files: tuple
    test_files: tuple
    archive: Archive | None = None

    @property
    def num_classes(self):
        return len(self.class_names)

    def files(self, split):
        """Returns the (file name, number of records) pairs of 'train' or 'test'."""
        return {"train": self.train_files, "test": self.test_files}[split]

    def num_examples(self, split):
        """Returns the number of pictures in 'train' or 'test'."""
        return sum(count for _, count in self.files(split))

    def path(self, data_dir):
        """Returns the folder of the record files below data_dir."""
        return os.path.join(data_dir, self.folder)


def _batches(train_records, test_records):
    """Returns the tutorial's file names with their number of records: five training files and one test file."""
    return {
        "train_files": tuple((f"data_batch_{i}.bin", train_records // 5) for i in range(1, 6)),
        "test_files": (("test_batch.bin", test_records),),
    }


CIFAR10 = Dataset(
    name="cifar10",
    folder="cifar-10-batches-bin",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    archive=Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        size=170_052_171,
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    **_batches(50_000, 10_000),
)

SYNTHETIC = Dataset(
    name="synthetic",
    folder="synthetic-batches-bin",
    class_names=("disc", "ring", "square", "frame", "triangle", "plus", "saltire", "bars", "columns", "checkers"),
    **_batches(10_000, 2_000),
)

ALL = {dataset.name: dataset for dataset in (CIFAR10, SYNTHETIC)}
