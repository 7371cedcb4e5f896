"""Street View House Numbers: MATLAB files -> record files in CIFAR-10's layout.

A file holds X, uint8 [32, 32, 3, N], and y, [N, 1], from 1 to 10, where 10 means the digit 0. scipy reads it.
Source: http://ufldl.stanford.edu/housenumbers/, format 2.
"""

import os
import zlib

import numpy as np

from cifar10.data import datasets
from cifar10.errors import DataError


def require_scipy():
    """Raises DataError, which says how to get it, where scipy is not installed."""
    try:
        import scipy.io  # noqa: F401
    except ImportError as error:
        raise DataError(f"--dataset=svhn needs scipy ({error}); install it: pip install 'cifar10[svhn]'") from None


def write(dataset, mat_paths, folder):
    """Converts the files at mat_paths, one a split, to the data set's record files in `folder`.

    Raises:
      DataError: a file is not such a MATLAB file. What was written by then stays.
    """
    for split, path in zip(datasets.SPLITS, mat_paths, strict=True):
        ((filename, count),) = dataset.files(split)
        images, labels = _read(path, count)
        datasets.encode(images, labels).tofile(os.path.join(folder, filename))


def _read(path, count):
    """Returns the `count` images of a file, uint8 [count, 32, 32, 3], and their labels, the digits."""
    import scipy.io

    shape = (datasets.HEIGHT, datasets.WIDTH, datasets.DEPTH, count)
    try:
        content = scipy.io.loadmat(path, variable_names=["X", "y"])
        x, y = content["X"], content["y"]
    except (ValueError, LookupError, TypeError, NotImplementedError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}; another file is needed") from error
    if x.shape != shape or x.dtype != np.uint8 or y.shape != (count, 1) or not np.isin(y, range(1, 11)).all():
        raise DataError(
            f"{path} has {x.dtype} X {list(x.shape)} and y {list(y.shape)}, expected uint8 X {list(shape)} and "
            f"y {[count, 1]} from 1 to 10; another file is needed"
        )
    return x.transpose(3, 0, 1, 2), y[:, 0] % 10
