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
      sha256: {file name: hash in hex} of the published record files, as far as they are known.
    """

    name: str
    folder: str
    class_names: tuple
    train_files: tuple
    test_files: tuple
    archive: Archive | None = None
    sha256: dict = dataclasses.field(default_factory=dict)

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
    # Of the archive's files, as torchvision's port to Ruby has them; others found the same of test_batch.bin.
    sha256={
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    **_batches(50_000, 10_000),
)

SYNTHETIC = Dataset(
    name="synthetic",
    folder="synthetic-batches-bin",
    class_names=("disc", "ring", "square", "frame", "triangle", "plus", "saltire", "bars", "columns", "checkers"),
    sha256={
        "data_batch_1.bin": "a40da4d0e5008142f94d0ab20b822a4ca2dd05531bf0e88cf2da29c89dd5e7a6",
        "data_batch_2.bin": "ed318b21808fe23fb546d2f3417dda977c998bb8b30de2708d9960719a366ad6",
        "data_batch_3.bin": "5bc0229aef51f611e0e41e0072b1bcd8215454b616ce5fd71985d1cf5890fe91",
        "data_batch_4.bin": "9546d3c634ea03376f3241025ab51a7fe77d460b5291f6609754034fbc26982a",
        "data_batch_5.bin": "51c12e969ab3e411766a4c4ab4ec4406e2daaff39b1d383989862ec2b6c4b0cd",
        "test_batch.bin": "d3ba39e081293b5c6cbe230f0411b2010cfc0500d7716d465541df0b07ba0796",
    },
    **_batches(10_000, 2_000),
)

ALL = {dataset.name: dataset for dataset in (CIFAR10, SYNTHETIC)}
