"""Pictures of any size, in folders or listed in a table -> record files in CIFAR-10's layout, for --dataset=images."""

import collections
import csv
import dataclasses
import hashlib
import json
import os
import sys
import tempfile

import numpy as np

from cifar10.data import datasets, pictures
from cifar10.data.pictures import EXTENSIONS
from cifar10.errors import DataError, counted
from cifar10.machine import terminal

# What folders are called that hold the pictures to train or to test with, in any case.
SPLIT_NAMES = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
TEST_FRACTION = 0.2
MAX_LINES = 10  # of each kind in a report
PROGRESS_PICTURES = 10_000  # between two lines of progress


@dataclasses.dataclass(frozen=True)
class Source:
    """A picture to import: its file, the name of its class, and 'train', 'test' or None, which leaves it to a draw."""

    path: str
    class_name: str
    split: str | None = None


def of_folder(images_dir):
    """Finds the pictures in a folder that has a sub-folder per class, or two of SPLIT_NAMES with one per class each.

    What lies deeper belongs to its class, too. Hidden files and folders are left out.

    Args:
      images_dir: the folder.

    Returns:
      The Sources: classes and files sorted by name.

    Raises:
      DataError: there is no such folder, no class in it, or a class without pictures; or it cannot be told whether
        its folders are classes.
    """
    sources, ignored = [], []
    for split, part in _parts(images_dir).items():
        for class_name in _folders(part):
            files = _files(os.path.join(part, class_name))
            found = [path for path in files if path.lower().endswith(EXTENSIONS)]
            if not found:
                raise DataError(
                    f"{os.path.join(part, class_name)}: holds no picture ({' '.join(EXTENSIONS)}); "
                    "put some there, or remove the folder"
                )
            sources += [Source(path, class_name, split) for path in found]
            ignored += sorted(set(files) - set(found))
    if not sources:
        raise DataError(f"{images_dir}: holds no folder; make one for each class, and put its pictures there")
    _report(
        [f"{pictures.printable(path)}: ignored, not one of {' '.join(EXTENSIONS)}" for path in ignored], "ignored files"
    )
    return sources


def _parts(images_dir):
    """Returns {'train': folder, 'test': folder} where images_dir has two such folders, and else {None: images_dir}.

    A folder of one of SPLIT_NAMES that holds no folder is a class of that name, as a train may be.

    Raises:
      DataError: it cannot be told.
    """
    folders = _folders(images_dir)
    named = {split: [name for name in folders if name.lower() in SPLIT_NAMES[split]] for split in datasets.SPLITS}
    with_folders = [name for names in named.values() for name in names if _folders(os.path.join(images_dir, name))]
    if not with_folders:
        return {None: images_dir}
    pair = [names[0] for names in named.values() if names]
    others = sorted(set(folders) - set(pair))
    if len(pair) == 1:
        beside = f"beside {others[0]!r}" if others else "and no folder to test with"
        raise DataError(
            f"{images_dir}: holds {pair[0]!r}, which has folders itself, {beside}, so it cannot be told whether it is "
            f"a class; rename it if it is, or give --images_dir={os.path.join(images_dir, pair[0])} to use it alone"
        )
    if others:
        raise DataError(
            f"{images_dir}: holds {others[0]!r} beside {pair[0]!r} and {pair[1]!r}, which have a folder per class; "
            "move it away, or its pictures into these two"
        )
    if len(with_folders) == 1:
        without = next(name for name in pair if name not in with_folders)
        raise DataError(
            f"{images_dir}: {with_folders[0]!r} has a folder per class, and {without!r} has none; sort its pictures "
            "into such folders, or move it away"
        )
    return {split: os.path.join(images_dir, name) for split, name in zip(datasets.SPLITS, pair, strict=True)}


def of_table(path):
    """Reads the pictures from a CSV file whose first line names its columns, 'path' and 'label' among them.

    Args:
      path: the CSV file, UTF-8. The paths in it are relative to its folder.

    Returns:
      The Sources, in the order of the lines.

    Raises:
      DataError: the file cannot be read, lacks a column, or has a line without path or label.
    """
    sources = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            if lacking := sorted({"path", "label"} - set(table.fieldnames or ())):
                raise DataError(f"{path}: its first line lacks the column {lacking[0]!r}; it must be path,label")
            for row in table:
                if not row["path"] or not row["label"]:
                    raise DataError(f"{path}: line {table.line_num} lacks a path or a label; complete or remove it")
                sources.append(Source(os.path.join(os.path.dirname(path), row["path"]), row["label"]))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not a CSV file in UTF-8 ({error})") from None
    if not sources:
        raise DataError(f"{path}: lists no pictures")
    return sources


def write(sources, data_dir, test_fraction=None, seed=0, flip=True):
    """Makes the data set of --dataset=images in data_dir, all of it at once or nothing.

    It prints which files cannot be read, and leaves them out; and which have the same pixels as another one, and keeps
    them. Labels are the classes in the order of their sorted names. The records of either file are in random order.

    Args:
      sources: the Sources.
      data_dir: the folder for the data set's own folder; created if need be.
      test_fraction: fraction of each class that a draw puts in the test file, but at least one picture and not all of
        them; None is TEST_FRACTION, and the only value for sources that have their split.
      seed: int, of the draw and of the order.
      flip: whether training may flip these pictures left to right.

    Returns:
      The datasets.Dataset.

    Raises:
      DataError: data_dir has imported pictures already or cannot be written; or there are fewer than 2 classes or more
        than 256, or too few pictures of one.
    """
    folder = os.path.join(data_dir, datasets.IMAGES_FOLDER)
    if os.path.lexists(folder):
        raise _is_there(folder)
    if test_fraction is not None and any(source.split for source in sources):
        raise DataError(f"--test_fraction={test_fraction}: the folders train and test say which is which; leave it out")
    if test_fraction in (0.0, 1.0):
        raise DataError(
            f"--test_fraction={test_fraction:g}: each class needs at least one picture to train and one to test; give "
            "a fraction between 0 and 1"
        )
    class_names = _class_names(sources)
    sources, images = _read(sources)
    random = np.random.RandomState(seed)
    sources = _split(sources, class_names, TEST_FRACTION if test_fraction is None else test_fraction, random)
    _report_duplicates(sources, images)
    labels = np.array([class_names.index(source.class_name) for source in sources])
    manifest = {"class_names": class_names, "flip": flip}
    try:
        os.makedirs(data_dir, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{datasets.IMAGES_FOLDER}.", dir=data_dir) as temp:
            staged = os.path.join(temp, datasets.IMAGES_FOLDER)
            os.mkdir(staged)  # as open as the umask says, whereas temp is closed to other users
            for split in datasets.SPLITS:
                chosen = random.permutation([i for i, source in enumerate(sources) if source.split == split])
                content = datasets.encode(images[chosen], labels[chosen]).tobytes()
                _write(os.path.join(staged, datasets.IMAGES_FILES[split]), content)
                manifest[split] = {"records": len(chosen), "sha256": hashlib.sha256(content).hexdigest()}
            names = "".join(f"{name}\n" for name in class_names)
            _write(os.path.join(staged, datasets.CLASS_NAMES_FILE), names.encode())
            _write(os.path.join(staged, datasets.MANIFEST), (json.dumps(manifest, indent=1) + "\n").encode())
            os.rename(staged, folder)
    except OSError as error:
        if os.path.lexists(folder):  # of another import, which has ended meanwhile
            raise _is_there(folder) from None
        raise DataError(f"Cannot fill {folder}: {error.filename or data_dir}: {error.strerror or error}") from error
    return datasets.named(datasets.IMAGES, data_dir)


def _is_there(folder):
    return DataError(f"{folder}: is there already; move it away, or choose another --data_dir")


def _folders(path):
    """Returns the sorted names of the folders in a folder, but for hidden ones."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); choose another folder of pictures") from None


def _files(path):
    """Returns the sorted paths of the files below a folder, but for hidden ones."""

    def fail(error):
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); make it readable, or move it away")

    found = []
    for parent, folders, names in os.walk(path, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _class_names(sources):
    """Returns the sorted names of the classes, once their number and the names themselves are found good."""
    names = sorted({source.class_name for source in sources})
    if len(names) < 2:
        raise DataError(f"Only the class {names[0]!r} was found; a classifier needs at least two")
    if len(names) > datasets.MAX_CLASSES:
        raise DataError(
            f"{len(names)} classes were found, but a label is one byte: give at most {datasets.MAX_CLASSES}"
        )
    for name in names:
        if any("\ud800" <= sign <= "\udfff" for sign in name):  # bytes that the encoding of names has not
            raise DataError(
                f"The class {name!r} has bytes in its name that are no {sys.getfilesystemencoding().upper()}; rename "
                "it, or choose a locale of its encoding, such as LC_ALL=C.UTF-8"
            )
        if not name.isprintable():  # a line break, or what no encoding has
            raise DataError(f"The class {name!r} has a character in its name that cannot be printed; rename it")
    return names


def _read(sources):
    """Reads all pictures; returns the Sources of those that could be read, and uint8 [N, 32, 32, 3]."""

    read, images, failures = [], [], []
    progress = terminal.Progress("picture", len(sources))
    results = pictures.load_each([source.path for source in sources])
    for i, (source, result) in enumerate(zip(sources, results, strict=True), 1):
        if isinstance(result, DataError):
            failures.append(str(result))
        else:
            read.append(source)
            images.append(result)
        progress.show(i)
        if i % PROGRESS_PICTURES == 0:
            print(f"Read {i} of {len(sources)} pictures", flush=True)
    progress.close()
    _report(failures, "unreadable pictures")
    if failures:
        be = "is" if len(failures) == 1 else "are"
        print(f"{len(failures)} of {counted(len(sources), 'picture')} cannot be read and {be} left out", flush=True)
    return read, np.array(images, np.uint8).reshape(-1, datasets.HEIGHT, datasets.WIDTH, datasets.DEPTH)


def _split(sources, class_names, test_fraction, random):
    """Returns the Sources, each with its split: drawn class by class, where it has none yet."""
    sources = list(sources)
    of_class = collections.defaultdict(list)
    for i, source in enumerate(sources):
        of_class[source.class_name].append(i)
    for name in class_names:
        members = of_class[name]
        drawn = random.permutation([i for i in members if sources[i].split is None])
        count = min(max(round(test_fraction * len(drawn)), 1), len(drawn) - 1)
        for position, i in enumerate(drawn):
            sources[i] = dataclasses.replace(sources[i], split="test" if position < count else "train")
        train, test = (sum(sources[i].split == split for i in members) for split in datasets.SPLITS)
        if not train or not test:
            raise DataError(
                f"Readable pictures of the class {name!r}: {train} to train, {test} to test; each class needs at least "
                "one of either"
            )
    return sources


def _report_duplicates(sources, images):
    """Prints which pictures have the pixels of an earlier one, beginning with those in another file than that one."""
    first = {}
    across, within = [], []
    for source, image in zip(sources, images, strict=True):
        other = first.setdefault(hashlib.sha256(image.tobytes()).digest(), source)
        if other is source:
            continue
        where = source.split if source.split == other.split else "train and test"
        classes = "" if source.class_name == other.class_name else f", classes {source.class_name} {other.class_name}"
        line = f"{pictures.printable(source.path)}: same pixels as {pictures.printable(other.path)} ({where}{classes})"
        (within if source.split == other.split else across).append(line)
    _report(across + within, "pictures with the same pixels as another")
    if across or within:
        count = len(across) + len(within)
        print(
            f"{count} picture{'s have' if count > 1 else ' has'} the same pixels as another, {len(across)} of them one "
            "to train and one to test; all are kept",
            flush=True,
        )


def _report(lines, what):
    for line in lines[:MAX_LINES]:
        print(line)
    if len(lines) > MAX_LINES:
        print(f"... and {len(lines) - MAX_LINES} more {what}")


def _write(path, content):
    with open(path, "wb") as file:
        file.write(content)
