#!/usr/bin/env python3
"""Draws the curves of runs as an image, without TensorBoard: cifar10_plot.py [flags] folder...

A folder is a train_dir or an eval_dir; what is below it is drawn too, a line each. Values are as measured, without
smoothing.
"""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what TensorFlow says of itself
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until flags.main takes it: no traceback out of an import

from absl import flags as absl_flags

from cifar10 import flags
from cifar10.runs import curves


def run(*, folders, out, tags):
    """Draws; the parameters are the flags, and the list of folders."""
    curves.refuse_without_ending(out)
    found = curves.find([os.path.expanduser(folder) for folder in folders])
    shared = os.path.commonpath(map(os.path.abspath, found))
    if shared in map(os.path.abspath, found):  # it shall have a name as well
        shared = os.path.dirname(shared)
    runs = {os.path.relpath(folder, shared): curves.read(folder, tags) for folder in found}
    curves.draw(os.path.expanduser(out), runs, tags)
    print(f"Drew {', '.join(runs)} in {out}", flush=True)


def define_flags():
    absl_flags.DEFINE_string("out", "curves.png", "File to write, .png or .svg; one that is there is replaced.")
    absl_flags.DEFINE_list("tags", list(curves.TAGS), "What to draw, a panel each, by the names on TensorBoard.")
    absl_flags.register_validator("tags", lambda tags: tags and all(tags), "name at least one, as in console/loss")


if __name__ == "__main__":
    del absl_flags.FLAGS.batch_size, absl_flags.FLAGS.data_dir, absl_flags.FLAGS.use_fp16  # which do not matter here
    define_flags()
    flags.main(run, positionals="folders")
