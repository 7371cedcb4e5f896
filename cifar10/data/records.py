"""Record files on disk -> validated arrays of images and labels: no file is trusted (D10)."""

import contextlib
import dataclasses
import hashlib
import os
import stat

import numpy as np

from cifar10.data.datasets import DEPTH, HEIGHT, WIDTH
from cifar10.errors import DataError, counted, refuse_scheme
from cifar10.machine import files

RECORDS_AT_ONCE = 1000  # read as they are, beside the arrays that they go to
OWN_REMEDY = "it is not the published file: mend it, or choose another --data_dir"


def paths(dataset, data_dir, split):
    """Returns the paths of the record files of 'train' or 'test', in reading order."""
    return [os.path.join(dataset.path(data_dir), name) for name, _ in dataset.files(split)]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images, uint8 [num_examples, height, width, depth], and their labels, int32 [num_examples].

    sha256 says what they are: {file name: hash of the file in hex}.
    """

    images: np.ndarray
    labels: np.ndarray
    sha256: dict = dataclasses.field(default_factory=dict)

    @property
    def count(self):
        return len(self.labels)

    def part(self, start, stop):
        """Returns the Examples of numbers start to stop - 1, of the same files."""
        return Examples(self.images[start:stop], self.labels[start:stop], self.sha256)


def load(dataset, data_dir, split):
    """Reads and validates all records of one split.

    The arrays are in memory, not mapped: a file that is truncated later cannot kill a running training.

    Args:
      dataset: a datasets.Dataset.
      data_dir: the folder that holds the data set's own folder.
      split: 'train' or 'test'.

    Returns:
      The Examples, in file order.

    Raises:
      DataError: a file is missing, has another size than its number of records needs, holds a label out of range, or
        has another sha256 than the data set says although other files are as it says.
    """
    refuse_scheme(data_dir, data_dir)
    dataset = as_found(dataset, data_dir)
    for path, (_, count) in zip(paths(dataset, data_dir, split), dataset.files(split), strict=True):
        _check_size(path, count, dataset)  # of all files, before memory is taken for what they should hold
    count = dataset.num_examples(split)
    examples = Examples(np.empty([count, HEIGHT, WIDTH, DEPTH], np.uint8), np.empty([count], np.int32))
    start = 0
    for path, (name, count) in zip(paths(dataset, data_dir, split), dataset.files(split), strict=True):
        end = start + count
        sha256 = hashlib.sha256()
        with _opened(path) as file:
            for i in range(start, end, RECORDS_AT_ONCE):
                j = min(i + RECORDS_AT_ONCE, end)
                records = np.fromfile(file, np.uint8, (j - i) * dataset.record_bytes).reshape(j - i, -1)
                sha256.update(records)
                planes = records[:, dataset.label_bytes :].reshape(j - i, DEPTH, HEIGHT, WIDTH)
                examples.images[i:j] = planes.transpose(0, 2, 3, 1)
                examples.labels[i:j] = records[:, dataset.label_byte]
        examples.sha256[name] = sha256.hexdigest()
        if bad := _bad_labels(examples.labels[start:end], dataset):
            raise DataError(f"{path}: {bad}; {_remedy(dataset, data_dir, examples.sha256)}")
        start = end
    _check_sha256(dataset, data_dir, examples.sha256)
    return examples


def as_found(dataset, data_dir):
    """Returns the Dataset with the numbers of records that its files on disk have, where they are the user's own.

    They are that where none of them is the published one. A data set that is not downloaded is returned as it is.
    """
    if not dataset.archive:
        return dataset
    sizes = _sizes(dataset, data_dir)
    if _of_published_size(dataset, sizes) == sizes.keys() or _is_published(dataset, data_dir):
        return dataset

    def counted(files):
        counts = {name: max(1, size // dataset.record_bytes) for name, size in sizes.items()}
        return tuple((name, counts.get(name, count)) for name, count in files)

    return dataclasses.replace(
        dataset,
        train_files=counted(dataset.train_files),
        test_files=counted(dataset.test_files),
        sha256={},
        remedy=OWN_REMEDY,
    )


def _sizes(dataset, data_dir):
    """Returns {name: bytes} of the record files that are there, but for pipes and folders in their places."""
    sizes = {}
    for name, _ in dataset.train_files + dataset.test_files:
        path = os.path.join(dataset.path(data_dir), name)
        with contextlib.suppress(OSError):
            if os.path.isfile(path):
                sizes[name] = os.path.getsize(path)
    return sizes


def _of_published_size(dataset, sizes):
    """Returns the set of the names of those files, of {name: bytes}, that have as many records as the Dataset says."""
    files = dataset.train_files + dataset.test_files
    return {name for name, count in files if sizes.get(name) == count * dataset.record_bytes}


def _is_published(dataset, data_dir, found=()):
    """Returns whether a file on disk is a published one: by its sha256 or, where none is known, by its size.

    Args:
      found: {name: sha256 in hex} of the files that are known already.
    """
    found = dict(found)
    if dataset.sha256:
        return any(_sha256(dataset, data_dir, name, found) == dataset.sha256[name] for name in dataset.sha256)
    return bool(_of_published_size(dataset, _sizes(dataset, data_dir)))


def _remedy(dataset, data_dir, found):
    """Returns what to do about a file that is not as it should be: what is the user's own cannot be restored."""
    own = dataset.archive and not _is_published(dataset, data_dir, found)
    return OWN_REMEDY if own else dataset.remedy


def num_trained_on(dataset, num_held_out):
    """Returns the number of training images without the last ones in file order, which are held out.

    Raises:
      DataError: none are left.
    """
    count = dataset.num_examples("train")
    if num_held_out >= count:
        raise DataError(
            f"--num_held_out={num_held_out}: the data has only {counted(count, 'training image')}; give fewer"
        )
    return count - num_held_out


def _check_size(path, count, dataset):
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"Failed to find file: {path} ({error.strerror}); put it there, or choose --data_dir") from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: is no regular file; {dataset.remedy}")
    size, record_bytes = found.st_size, dataset.record_bytes
    if size != count * record_bytes:
        whole, rest = divmod(size, record_bytes)
        raise DataError(
            f"{path}: expected {counted(count, 'record')} of {record_bytes} bytes = {count * record_bytes} bytes, "
            f"found {counted(size, 'byte')} ({counted(whole, 'record')} and {counted(rest, 'byte')}); {dataset.remedy}"
        )


def _opened(path):
    try:
        return open(path, "rb", opener=files.regular)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make it readable, or choose --data_dir") from None


def _bad_labels(labels, dataset):
    """Returns which labels stand for no class, in words; "" if there are none."""
    bad = np.flatnonzero(labels >= dataset.num_classes)
    if not bad.size:
        return ""
    return (
        f"record {bad[0]} has label {labels[bad[0]]}, expected 0 to {dataset.num_classes - 1} "
        f"({counted(bad.size, 'such record')})"
    )


def _check_sha256(dataset, data_dir, found):
    """Refuses a damaged file of a known set. A set without any known file is another one, the user's own."""
    other = [name for name, sha256 in found.items() if sha256 != dataset.sha256.get(name, sha256)]
    if not other or not _is_published(dataset, data_dir, found):
        return
    path = os.path.join(dataset.path(data_dir), other[0])
    raise DataError(
        f"{path}: expected sha256 {dataset.sha256[other[0]]}, found {found[other[0]]}, while other files are as they "
        f"should be; {dataset.remedy}"
    )


def _sha256(dataset, data_dir, name, found):
    if name not in found:
        sha256 = hashlib.sha256()
        try:
            with open(os.path.join(dataset.path(data_dir), name), "rb", opener=files.regular) as file:
                while chunk := file.read(RECORDS_AT_ONCE * dataset.record_bytes):
                    sha256.update(chunk)
        except OSError:
            return None
        return sha256.hexdigest()
    return found[name]
