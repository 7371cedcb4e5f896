"""Synchronous data parallelism on one machine: one copy of the network a device, one update for all."""

import tensorflow.compat.v1 as tf

from cifar10 import microbatches, model, training


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
    microbatch_size=0,
    half="bfloat16",
    loss_scale=None,
    network=model.inference,
):
    """Builds a step of which every tower computes an equal slice of the batch.

    Variables are on the CPU and shared; gradients and losses are averaged once all towers have theirs; there is one
    update of variables and moving averages. So the step equals that of one tower with the whole batch: to the last bit
    where the towers are on CPUs, their number is a power of two, and micro-batches divide their slices evenly.

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
      microbatch_size, half: see model.inference.
      loss_scale: None, or a loss_scaling.LossScale.
      network: model.inference, or another of model.NETWORKS.

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
            logits = network(image_slices[i], num_classes, use_fp16, seed, lrn, microbatch_size, half)
            total_loss = training.loss(logits, label_slices[i])
            losses = training.losses(total_loss, scope)
            tower_losses.append(losses)
            variables = tf.trainable_variables()
            cross_entropy = losses["cross_entropy"]
            tower_gradients.append(
                tf.gradients(cross_entropy if loss_scale is None else loss_scale.scaled(cross_entropy), variables)
            )
    with tf.device("/cpu:0"):
        # The towers' weight decay is the same: added once, after the sum over the batch, it rounds as in one tower.
        decays = [loss for tag, loss in losses.items() if tag not in ("cross_entropy", "total_loss")]
        with tf.name_scope("average_gradients"):
            gradients = [_mean(gradients) for gradients in zip(*tower_gradients, strict=True)]
            if loss_scale is not None:
                gradients = loss_scale.unscaled(gradients)
            decay_gradients = tf.gradients(decays, variables)
            gradients = [g if d is None else g + d for g, d in zip(gradients, decay_gradients, strict=True)]
        losses = {tag: _mean([losses[tag] for losses in tower_losses], name=tag) for tag in tower_losses[0]}
        train_op = training.apply_gradients(gradients, variables, losses, global_step, learning_rate)
    return train_op, losses["total_loss"]


def _mean(tensors, name=None):
    return tf.divide(microbatches.pairwise_sum(tensors), len(tensors), name=name)
