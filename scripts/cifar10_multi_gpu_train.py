#!/usr/bin/env python3
"""Trains the CIFAR-10 network on several GPUs of one machine, with synchronous updates.

Every GPU has a tower, a copy of the network that computes --batch_size pictures a step; the towers' gradients are
averaged and the variables, which are on the CPU, updated once. So two towers with --batch_size=64 do what
cifar10_train.py does with 128. Where there are no GPUs, the towers are on CPU devices.
"""

import tensorflow.compat.v1 as tf
from absl import flags as absl_flags

from cifar10 import cifar10_input, datasets, download, flags, records, runs, summaries, towers, training


def run(
    *,
    num_gpus,
    data_dir,
    dataset,
    input_pipeline,
    min_fraction_of_examples_in_queue,
    batch_size,
    train_dir,
    restart,
    seed,
    use_fp16,
    log_device_placement,
    **run_options,
):
    """Trains; the parameters are the flags, run_options those that runs.Run.train takes."""
    data = datasets.ALL[dataset]
    download.ensure(data, data_dir)
    examples = records.load(data, data_dir, "train")
    training_run = runs.Run(train_dir, restart)
    with tf.Graph().as_default():
        global_step = tf.train.get_or_create_global_step()
        images, labels = cifar10_input.training_inputs(
            input_pipeline,
            examples,
            records.paths(data, data_dir, "train"),
            num_gpus * batch_size,
            seed,
            training_run.start_step,
            min_fraction_of_examples_in_queue,
        )
        learning_rate = training.learning_rate(global_step, num_gpus * batch_size, examples.count)
        devices, config = towers.devices(num_gpus)
        config.log_device_placement = log_device_placement
        train_op, loss = towers.train(
            images, labels, devices, global_step, learning_rate, data.num_classes, use_fp16, seed
        )
        training_run.train(
            train_op,
            loss,
            learning_rate,
            batch_size=batch_size,
            num_towers=num_gpus,
            summary_op=summaries.merged(tower=f"{training.TOWER_NAME}_0"),
            config=config,
            **run_options,
        )


if __name__ == "__main__":
    flags.define_training_flags()
    absl_flags.DEFINE_integer("num_gpus", 1, "How many GPUs to use.", lower_bound=1)
    flags.main(run)
