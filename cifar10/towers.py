"""Synchronous data parallelism on one machine: one copy of the network a device, one update for all."""

import tensorflow.compat.v1 as tf

from cifar10 import model, training


def train(
    images,
    labels,
    tower_devices,
    global_step,
    learning_rate,
    num_classes=model.NUM_CLASSES,
    use_fp16=False,
    seed=None,
    lrn="auto",
):
    """Builds a step of which every tower computes an equal slice of the batch.

    Variables are on the CPU and shared; gradients and losses are averaged once all towers have theirs; there is one
    update of variables and moving averages. So the step equals that of one tower with the whole batch.

    Args:
      images: float32 [batch, height, width, 3]; batch a multiple of the number of towers.
      labels: int32 [batch].
      tower_devices: one device a tower.
      global_step: integer variable, incremented by the update.
      learning_rate: float32 scalar.
      num_classes: number of logits a picture.
      use_fp16: whether to compute in half precision: see model.inference.
      seed: seed of the initial values, or None.
      lrn: how to normalize: see layers.local_response_normalization.

    Returns:
      (train op, float32 scalar: the mean of the towers' total losses).
    """
    tower_gradients, tower_losses = [], []
    with tf.device("/cpu:0"), tf.name_scope("split"):
        image_slices = tf.split(images, len(tower_devices))
        label_slices = tf.split(labels, len(tower_devices))
    for i, device in enumerate(tower_devices):
        with (
            tf.device(device),
            tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE),
            tf.name_scope(f"{training.TOWER_NAME}_{i}") as scope,
        ):
            logits = model.inference(image_slices[i], num_classes, use_fp16, seed, lrn)
            total_loss = training.loss(logits, label_slices[i])
            tower_losses.append(training.losses(total_loss, scope))
            variables = tf.trainable_variables()
            tower_gradients.append(tf.gradients(total_loss, variables))
    with tf.device("/cpu:0"):
        with tf.name_scope("average_gradients"):
            gradients = [_mean(gradients) for gradients in zip(*tower_gradients, strict=True)]
        losses = {tag: _mean([losses[tag] for losses in tower_losses], name=tag) for tag in tower_losses[0]}
        train_op = training.apply_gradients(gradients, variables, losses, global_step, learning_rate)
    return train_op, losses["total_loss"]


def _mean(tensors, name=None):
    return tf.divide(tf.add_n(tensors), len(tensors), name=name)
