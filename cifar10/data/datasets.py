"""What a data set is: its files, their records, its class names and where it comes from.

Every data set uses CIFAR's binary layout: a record is one label byte, or two in CIFAR-100, followed by a 32x32 image
as 1,024 red, 1,024 green and 1,024 blue bytes, each plane row by row.
Source of layouts and published figures: https://www.cs.toronto.edu/~kriz/cifar.html and, for the digits,
http://ufldl.stanford.edu/housenumbers/
"""

import dataclasses
import json
import os

import numpy as np

from cifar10.errors import DataError, reason, shortened
from cifar10.machine import files

HEIGHT = 32  # pixels
WIDTH = 32  # pixels
DEPTH = 3  # colour planes
LABEL_BYTES = 1
IMAGE_BYTES = HEIGHT * WIDTH * DEPTH
RECORD_BYTES = LABEL_BYTES + IMAGE_BYTES

IMAGE_SIZE = 24  # pixels, height and width of the crop that the network sees

SPLITS = ("train", "test")
CLASS_NAMES_FILE = "batches.meta.txt"  # comes with the record files, but nothing reads it

IMAGES = "images"  # what --dataset calls your own pictures
IMAGES_FOLDER = "images-batches-bin"
IMAGES_FILES = {"train": "train.bin", "test": "test.bin"}
MANIFEST = "images.json"  # in that folder: class names, and the number of records and the sha256 of either file
MAX_CLASSES = 256**LABEL_BYTES
MAX_RECORDS = 10**9
MAX_MANIFEST_BYTES = 2**20  # far more than MAX_CLASSES names


@dataclasses.dataclass(frozen=True)
class Archive:
    """A downloadable file: where it is and how to tell that it arrived whole (size in bytes)."""

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
      archive: the .tar.gz to download it in, or None.
      mat_files: the MATLAB files to download and convert, one a split; without either it is drawn on the spot.
      label_bytes: how many label bytes a record begins with.
      label_byte: which of them is the label.
      flip: whether training may flip the images left to right, which makes other digits of digits.
      sha256: {file name: hash in hex} of the record files, as far as they are known.
      remedy: what to do about a file that is not as it should be.
    """

    name: str
    folder: str
    class_names: tuple
    train_files: tuple
    test_files: tuple
    archive: Archive | None = None
    mat_files: tuple = ()
    label_bytes: int = LABEL_BYTES
    label_byte: int = 0
    flip: bool = True
    sha256: dict = dataclasses.field(default_factory=dict)
    remedy: str = "move it away and run again to have it restored, or copy it anew"

    @property
    def num_classes(self):
        return len(self.class_names)

    @property
    def record_bytes(self):
        return self.label_bytes + IMAGE_BYTES

    def files(self, split):
        """Returns the (file name, number of records) pairs of 'train' or 'test'."""
        return {"train": self.train_files, "test": self.test_files}[split]

    def num_examples(self, split):
        """Returns the number of images in 'train' or 'test'."""
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


def like_cifar10(num_classes, folder=CIFAR10.folder):
    """Returns the Dataset of files in CIFAR-10's layout, of so many classes, in another folder below data_dir."""
    names = CIFAR10.class_names if num_classes == CIFAR10.num_classes else tuple(map(str, range(num_classes)))
    return dataclasses.replace(CIFAR10, folder=folder, class_names=names)


NUM_CLASSES = CIFAR10.num_classes
NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN = CIFAR10.num_examples("train")
NUM_EXAMPLES_PER_EPOCH_FOR_EVAL = CIFAR10.num_examples("test")

# As in the archive's fine_label_names.txt and coarse_label_names.txt.
_FINE_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_COARSE_NAMES = """
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
    large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
    vehicles_1 vehicles_2
"""

CIFAR100 = Dataset(
    name="cifar100",
    folder="cifar-100-binary",
    class_names=tuple(_FINE_NAMES.split()),
    train_files=(("train.bin", 50_000),),
    test_files=(("test.bin", 10_000),),
    archive=Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        size=168_513_733,
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
    label_bytes=2,
    label_byte=1,
)
CIFAR100_COARSE = dataclasses.replace(
    CIFAR100,
    name="cifar100_coarse",
    class_names=tuple(_COARSE_NAMES.split()),
    label_byte=0,
)

SVHN = Dataset(
    name="svhn",
    folder="svhn-batches-bin",
    class_names=tuple("0123456789"),
    train_files=(("train.bin", 73_257),),
    test_files=(("test.bin", 26_032),),
    mat_files=(
        Archive(
            url="http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
            size=182_040_794,
            sha256="435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        ),
        Archive(
            url="http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
            size=64_275_384,
            sha256="cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        ),
    ),
    flip=False,
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

ALL = {dataset.name: dataset for dataset in (CIFAR10, CIFAR100, CIFAR100_COARSE, SVHN, SYNTHETIC)}
NAMES = (*ALL, IMAGES)


def named(name, data_dir):
    """Returns the Dataset of one of NAMES; your own pictures are what data_dir has of them.

    Raises:
      DataError: no data set has that name, or no images were imported into data_dir, or what is there is not what was
        imported.
    """
    if name not in NAMES:
        raise DataError(f"dataset={name!r}: should be one of {', '.join(NAMES)}")
    return _imported(data_dir) if name == IMAGES else ALL[name]


def _imported(data_dir):
    """Returns the Dataset of the images that were imported into data_dir."""
    folder = os.path.join(data_dir, IMAGES_FOLDER)
    path = os.path.join(folder, MANIFEST)
    remedy = "move its folder away and import the images again"
    try:
        with open(path, "rb", opener=files.regular) as file:
            manifest = json.loads(file.read(MAX_MANIFEST_BYTES))
    except FileNotFoundError:
        if os.path.exists(os.path.join(data_dir, MANIFEST)):
            parent = os.path.dirname(os.path.abspath(data_dir))
            raise DataError(
                f"{data_dir}: holds the files themselves; --data_dir is the folder above, {parent}"
            ) from None
        raise DataError(
            f"Failed to find file: {path}; import your pictures with cifar10_import_images.py, or choose --data_dir"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # deep nesting
        raise DataError(f"{path}: is not what the import wrote ({reason(error)}); {remedy}") from None
    for field, (what, is_right) in _MANIFEST_FIELDS.items():
        value = manifest.get(field) if isinstance(manifest, dict) else manifest
        if not is_right(value):
            found = f"its {field!r} is {shortened(value)}, expected {what}"
            raise DataError(f"{path}: is not what the import wrote ({found}); {remedy}")
    dataset = Dataset(
        name=IMAGES,
        folder=IMAGES_FOLDER,
        class_names=tuple(manifest["class_names"]),
        flip=manifest["flip"],
        sha256={IMAGES_FILES[split]: manifest[split]["sha256"] for split in SPLITS},
        remedy=remedy,
        **{f"{split}_files": ((IMAGES_FILES[split], manifest[split]["records"]),) for split in SPLITS},
    )
    for filename in IMAGES_FILES.values():
        if not os.path.lexists(os.path.join(folder, filename)):
            raise DataError(f"Failed to find file: {os.path.join(folder, filename)}; {remedy}")
    return dataset


def _is_names(value):
    """Returns whether a value is a list of 2 to MAX_CLASSES names, none twice, which a console can show."""
    are_names = isinstance(value, list) and all(isinstance(name, str) and name.isprintable() for name in value)
    return are_names and 2 <= len(value) <= MAX_CLASSES and len(set(value)) == len(value)


def _is_file(value):
    """Returns whether a value says of a file how many records it has, at least one, and its hash."""
    records, sha256 = (value.get(name) for name in ("records", "sha256")) if isinstance(value, dict) else (None, None)
    return type(records) is int and 0 < records <= MAX_RECORDS and isinstance(sha256, str) and len(sha256) == 64


# {field of the manifest: (what it must be, in words; whether a value is that)}.
_MANIFEST_FIELDS = {
    "class_names": (f"2 to {MAX_CLASSES} printable names, none twice", _is_names),
    "flip": ("true or false", lambda value: isinstance(value, bool)),
    **dict.fromkeys(SPLITS, (f'{{"records": 1 to {MAX_RECORDS}, "sha256": 64 digits}}', _is_file)),
}


def encode(images, labels):
    """Returns the records of images (uint8 [N, 32, 32, 3]) and labels (integers [N]): uint8 [N, 3073]."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), IMAGE_BYTES)
    return np.hstack([labels.astype(np.uint8)[:, None], planes])
