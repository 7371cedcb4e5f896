#!/usr/bin/env python3
"""Trains the CIFAR-10 network on one device.

It reaches about 86 % precision @ 1 after 100,000 steps of 128 pictures (256 epochs), as cifar10_eval.py measures it.
Stop it when you like: started again, it continues the run in --train_dir.
"""

import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input, datasets, download, flags, model, records, runs, training


def run(
    *,
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
            batch_size,
            seed,
            training_run.start_step,
            min_fraction_of_examples_in_queue,
        )
        logits = model.inference(images, data.num_classes, use_fp16, seed)
        loss = training.loss(logits, labels)
        learning_rate = training.learning_rate(global_step, batch_size, examples.count)
        train_op = training.train(loss, global_step, learning_rate)
        training_run.train(
            train_op,
            loss,
            learning_rate,
            batch_size=batch_size,
            config=tf.ConfigProto(allow_soft_placement=True, log_device_placement=log_device_placement),
            **run_options,
        )


if __name__ == "__main__":
    flags.define_training_flags()
    flags.main(run)
