#!/usr/bin/env python3
"""Trains the CIFAR-10 network on one device.

It reaches about 86 % precision @ 1 after 100,000 steps of 128 images (256 epochs), as cifar10_eval.py measures it.
Stop it when you like: started again, it continues the run in --train_dir.
"""

from cifar10 import flags
from cifar10.machine import devices
from cifar10.network import loss_scaling, microbatches, training
from cifar10.network.model import NETWORKS
from cifar10.network.recipes import RECIPES
from cifar10.runs import trainer


def run(*, batch_size, use_fp16, seed, model, lrn, microbatch_size, log_device_placement, recipe, **options):
    """Trains; the parameters are the flags, options those that trainer.train takes."""
    recipe = RECIPES[recipe]
    microbatch_size = microbatches.size(microbatch_size)
    config = devices.session_config(microbatches.count(batch_size, microbatch_size), log_placement=log_device_placement)

    def build_step(images, labels, global_step, learning_rate, num_classes):
        half, loss_scale = devices.half_precision(), loss_scaling.for_half_precision(use_fp16)
        logits = NETWORKS[model](images, num_classes, use_fp16, seed, lrn, microbatch_size, half)
        loss = training.loss(logits, labels, recipe.label_smoothing)
        return training.train(loss, global_step, learning_rate, loss_scale=loss_scale, **recipe.of_update), loss

    if use_fp16:
        devices.warn_if_half_precision_is_slow()
    trainer.train(build_step, batch_size=batch_size, seed=seed, model=model, recipe=recipe, config=config, **options)


if __name__ == "__main__":
    flags.define_training_flags()
    flags.main(run)
