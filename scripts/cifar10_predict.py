#!/usr/bin/env python3
"""Tells what pictures show: cifar10_predict.py [flags] picture...

A picture is a JPEG, PNG, BMP, GIF or WebP file of any size; a folder, for all of them in it and its subfolders; or -,
for one on standard input. Each gets a line with the most probable classes and their probabilities (softmax). One that
cannot be read is reported on standard error and passed over, and the exit code then is 1.

Exif orientation is followed. Of an animation the first frame counts. Transparency is ignored.
"""

import collections
import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # or TensorFlow adds a warning of its own to each unreadable picture
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until flags.main takes it: no traceback out of an import

from absl import flags as absl_flags

from cifar10 import flags, serving
from cifar10.data import pictures as picture_files
from cifar10.errors import DataError, RunError, counted
from cifar10.machine import terminal

TOP = 3  # classes that are printed where nobody says how many


def run(
    *,
    pictures,
    top_k,
    json,
    dataset,
    data_dir,
    checkpoint,
    checkpoint_dir,
    use_moving_averages,
    crop,
    batch_size,
    use_fp16,
    list_classes=False,
):
    """Predicts; the parameters are the flags, and the list of pictures."""
    path = serving.find_checkpoint(checkpoint, checkpoint_dir)
    names = serving.class_names(dataset, data_dir, path)
    if list_classes:
        print("\n".join(names), flush=True)
        return
    if top_k is not None and top_k > len(names):
        raise RunError(f"--top_k={top_k}: there are only {len(names)} classes; give a number up to that")
    network = serving.TrainedNetwork(path, names, crop, use_fp16, use_moving_averages)
    predictor = serving.Predictor(network, batch_size)
    line = serving.as_json if json else serving.as_text
    total = failed = 0
    passed_over = collections.Counter()
    progress = progress_of(pictures)
    for picture, result in predictor.predict(picture_files.find(pictures, passed_over)):
        total += 1
        if isinstance(result, DataError):
            failed += 1
            progress.close()
            print(result, file=sys.stderr, flush=True)
        else:
            print(line(picture, serving.best(result, names, top_k or TOP)), flush=True)
        progress.show(total)
    progress.close()
    if passed_over:
        kinds = ", ".join(picture_files.printable(kind) for kind in sorted(passed_over))
        print(f"Files in folders that were passed over: {passed_over.total()} (extensions: {kinds})", file=sys.stderr)
    if failed:
        others = "; the others were classified" if total > failed else ""
        raise RunError(f"{failed} of {counted(total, 'picture')} could not be read{others}")


def progress_of(pictures):
    """Returns the terminal.Progress of as many pictures as there are, which nobody sees whose terminal has the results.

    They are counted, and not kept: there may be millions.
    """
    hidden = not terminal.is_there() or sys.stdout.isatty()
    total = 0 if hidden else sum(1 for _ in picture_files.find(pictures))
    return terminal.Progress("picture", total, hidden=hidden)


def define_flags():
    absl_flags.DEFINE_integer(
        "top_k",
        None,
        f"Number of classes to print, most probable first; by default {TOP}, or all of two.",
        lower_bound=1,
    )
    absl_flags.DEFINE_boolean("json", False, "Print a JSON object a line instead of text.")


if __name__ == "__main__":
    flags.define_serving_flags()
    define_flags()
    flags.main(run, positionals="pictures", complete=serving.or_pretrained)
