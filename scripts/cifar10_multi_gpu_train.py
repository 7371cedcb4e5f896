#!/usr/bin/env python3
"""Trains the CIFAR-10 network on several GPUs of one machine, with synchronous updates.

Every GPU has a tower, a copy of the network that computes --batch_size images a step; the towers' gradients are
averaged and the variables updated once. So two towers with --batch_size=64 do what cifar10_train.py does with 128.
Where there are no GPUs, the towers are on CPU devices.
"""

import os
import signal
import sys

# What TensorFlow says of itself is of no use, but for what --log_device_placement asks for.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if "--log_device_placement" in sys.argv else "2")
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until flags.main takes it: no traceback out of an import

from absl import flags as absl_flags

from cifar10 import flags, settings
from cifar10.machine import devices
from cifar10.network import towers
from cifar10.runs import trainer


def run(*, num_gpus, variables_on="cpu", batch_size, log_device_placement, **values):
    """Trains; the parameters are the flags."""
    training = settings.training(values)
    tower_devices = tuple(devices.of_towers(num_gpus))
    step = towers.Towers(training.network, batch_size, log_device_placement, tower_devices, variables_on)
    trainer.train(step, training.data, training.recipe, training.options, training.validation)


if __name__ == "__main__":
    flags.define_training_flags()
    flags.define_validation_flags()
    absl_flags.DEFINE_integer("num_gpus", 1, "How many GPUs to use.", lower_bound=1, upper_bound=256)
    absl_flags.DEFINE_enum(
        "variables_on",
        "cpu",
        towers.VARIABLES_ON,
        "Where variables, averages of gradients and the update are: cpu, or gpu for the first tower's device.",
    )
    flags.main(run, complete=settings.continued)
