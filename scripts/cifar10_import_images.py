#!/usr/bin/env python3
"""Makes a data set of your own pictures: afterwards --dataset=images with the same --data_dir trains on them.

The pictures (JPEG, PNG, BMP, GIF, WebP, of any size) are in one folder per class, whose name is the class's:
  PICTURES/cat/1.jpg PICTURES/cat/2.jpg PICTURES/dog/1.png ...
They are split into training and test pictures, class by class, by chance; or as they are, where PICTURES holds two
folders train and test that have a folder per class each. Or they are listed in a CSV file.

Each is read as cifar10_predict.py reads it: one that is not 32x32 loses what is outside of its largest central square,
and is scaled. One that cannot be read is named and left out, and the exit code still is 0. One with the same pixels as
another is named and kept.
"""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what TensorFlow says of itself
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until flags.main takes it: no traceback out of an import

from absl import flags as absl_flags

from cifar10 import flags
from cifar10.data import importing
from cifar10.errors import counted


def run(*, images_dir, csv, data_dir, test_fraction, seed, flip):
    """Imports; the parameters are the flags."""
    sources = importing.of_table(os.path.expanduser(csv)) if csv else importing.of_folder(images_dir)
    dataset = importing.write(sources, data_dir, test_fraction, seed, flip)
    print(
        f"{dataset.num_classes} classes, {counted(dataset.num_examples('train'), 'picture')} to train, "
        f"{dataset.num_examples('test')} to test, in {dataset.path(data_dir)}\n"
        f"Train on them with --dataset={dataset.name} --data_dir={data_dir}",
        flush=True,
    )


def define_flags():
    absl_flags.DEFINE_string("images_dir", None, "Folder with a folder of pictures per class, or with train and test.")
    absl_flags.DEFINE_string("csv", None, "CSV file with the columns path (relative to its folder) and label.")
    absl_flags.DEFINE_float(
        "test_fraction",
        None,
        "Fraction of each class to test with; 0.2 by default, and not for pictures in folders train and test.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    absl_flags.DEFINE_integer(
        "seed",
        0,
        "Seed of the draw and of the order: the same seed gives the same files.",
        lower_bound=0,
        upper_bound=2**32 - 1,
    )
    absl_flags.DEFINE_boolean(
        "flip", True, "Whether training may flip these pictures left to right; not for digits, letters or signs."
    )
    absl_flags.mark_flags_as_mutual_exclusive(["images_dir", "csv"], required=True)


if __name__ == "__main__":
    del absl_flags.FLAGS.batch_size, absl_flags.FLAGS.use_fp16  # which do not matter here
    define_flags()
    flags.main(run)
