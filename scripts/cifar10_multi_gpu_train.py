#!/usr/bin/env python3
"""Trains the CIFAR-10 network on several GPUs of one machine, with synchronous updates.

Every GPU has a tower, a copy of the network that computes --batch_size images a step; the towers' gradients are
averaged and the variables updated once. So two towers with --batch_size=64 do what cifar10_train.py does with 128.
Where there are no GPUs, the towers are on CPU devices.
"""

from absl import flags as absl_flags

from cifar10 import flags
from cifar10.machine import devices
from cifar10.network import loss_scaling, microbatches, towers
from cifar10.network.model import NETWORKS
from cifar10.network.recipes import RECIPES
from cifar10.runs import trainer


def run(
    *,
    num_gpus,
    batch_size,
    use_fp16,
    seed,
    model,
    lrn,
    microbatch_size,
    log_device_placement,
    recipe,
    variables_on="cpu",
    **options,
):
    """Trains; the parameters are the flags, options those that trainer.train takes."""
    recipe = RECIPES[recipe]
    microbatch_size = microbatches.size(microbatch_size)
    num_microbatches = num_gpus * microbatches.count(batch_size, microbatch_size)
    config = devices.session_config(num_microbatches, num_gpus, log_device_placement)
    tower_devices = devices.of_towers(num_gpus)
    if use_fp16:
        devices.warn_if_half_precision_is_slow()

    def build_step(images, labels, global_step, learning_rate, num_classes):
        return towers.train(
            images,
            labels,
            tower_devices,
            global_step,
            learning_rate,
            num_classes,
            use_fp16,
            seed,
            lrn,
            microbatch_size,
            devices.half_precision(),
            loss_scaling.for_half_precision(use_fp16),
            NETWORKS[model],
            "/cpu:0" if variables_on == "cpu" else tower_devices[0],
            recipe.label_smoothing,
            **recipe.of_update,
        )

    trainer.train(
        build_step,
        batch_size=batch_size,
        seed=seed,
        model=model,
        recipe=recipe,
        num_towers=num_gpus,
        config=config,
        **options,
    )


if __name__ == "__main__":
    flags.define_training_flags()
    absl_flags.DEFINE_integer("num_gpus", 1, "How many GPUs to use.", lower_bound=1)
    absl_flags.DEFINE_enum(
        "variables_on",
        "cpu",
        towers.VARIABLES_ON,
        "Where variables, averages of gradients and the update are: cpu, or gpu for the first tower's device.",
    )
    flags.main(run)
