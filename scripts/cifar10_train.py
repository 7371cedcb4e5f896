#!/usr/bin/env python3
"""Trains the CIFAR-10 network on one device.

It reaches about 86 % precision @ 1 after 100,000 steps of 128 images (256 epochs), as cifar10_eval.py measures it.
Stop it when you like: started again, it continues the run in --train_dir.
"""

import os
import signal
import sys

# What TensorFlow says of itself is of no use, but for what --log_device_placement asks for.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if "--log_device_placement" in sys.argv else "2")
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until flags.main takes it: no traceback out of an import

from cifar10 import flags, settings
from cifar10.network.steps import OneDevice
from cifar10.runs import trainer


def run(*, batch_size, log_device_placement, **values):
    """Trains; the parameters are the flags."""
    training = settings.training(values)
    step = OneDevice(training.network, batch_size, log_device_placement)
    trainer.train(step, training.data, training.recipe, training.options, training.validation)


if __name__ == "__main__":
    flags.define_training_flags()
    flags.define_validation_flags()
    flags.main(run, complete=settings.continued)
