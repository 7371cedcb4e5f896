"""Synchronous data parallelism on one machine: one copy of the network a device, one update for all."""

import tensorflow.compat.v1 as tf

from cifar10.network import microbatches, model, training

VARIABLES_ON = ("cpu", "gpu")


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
    variables_device="/cpu:0",
    label_smoothing=0.0,
    **options,
):
    """Builds a step of which every tower computes an equal slice of the batch.

    Variables are shared; gradients and losses are averaged once all towers have theirs; there is one update of
    variables and moving averages. So the step equals that of one tower with the whole batch: to the last bit where the
    towers are on CPUs, their number is a power of two, and micro-batches divide their slices evenly.

    Args:
      images: float32 [batch, height, width, 3]; batch a multiple of the number of towers.
      labels: int32 [batch].
      tower_devices: one device a tower.
      global_step: integer variable, incremented by the update.
      learning_rate: float32 scalar.
      num_classes: number of logits an image.
      use_fp16: whether to compute in half precision: see model.inference.
      seed: seed of the initial values, or None.
      lrn: how to normalize: see layers.local_response_normalization.
      microbatch_size, half: see model.inference.
      loss_scale: None, or a loss_scaling.LossScale.
      network: model.inference, or another of model.NETWORKS.
      variables_device: where variables, averages of gradients and the update are.
      label_smoothing: see training.loss.
      **options: moving_average_decay, momentum and weight_decay, as for training.apply_gradients.

    Returns:
      (train op, float32 scalar: the mean of the towers' total losses).
    """

    def place(getter, *args, **kwargs):
        with tf.device(variables_device):
            return getter(*args, **kwargs)

    gradients, cross_entropies = [], []
    with tf.device("/cpu:0"), tf.name_scope("split"):
        image_slices = tf.split(images, len(tower_devices))
        label_slices = tf.split(labels, len(tower_devices))
    for i, device in enumerate(tower_devices):
        with (
            tf.device(device),
            tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE, custom_getter=place),
            tf.name_scope(f"{training.TOWER_NAME}_{i}") as scope,
        ):
            logits = network(image_slices[i], num_classes, use_fp16, seed, lrn, microbatch_size, half)
            losses = training.losses(training.loss(logits, label_slices[i], label_smoothing), scope)
            cross_entropy = losses["cross_entropy"]
            cross_entropies.append(cross_entropy)
            scaled = cross_entropy if loss_scale is None else loss_scale.scaled(cross_entropy)
            gradients.append(tf.gradients(scaled, tf.trainable_variables()))
    with tf.device(variables_device):
        return update(
            gradients, cross_entropies, decays(losses), global_step, learning_rate, loss_scale=loss_scale, **options
        )


def decays(losses):
    """Returns those of {tag: loss} that are weight decay, the same in every tower."""
    return {tag: loss for tag, loss in losses.items() if tag not in ("cross_entropy", "total_loss")}


def update(
    gradients, cross_entropies, decays, global_step, learning_rate, once_updated=None, loss_scale=None, **options
):
    """Builds the one update from what all towers, or workers, have computed.

    Args:
      gradients: a list a tower of the gradients of its cross entropy, one tensor a trainable variable.
      cross_entropies: scalars, one a tower.
      decays: {tag: scalar}: the weight decay, which is added once.
      global_step: integer variable, incremented by the update.
      learning_rate: float32 scalar.
      once_updated: see training.apply_gradients.
      loss_scale: None, or the loss_scaling.LossScale of the gradients.
      **options: see train.

    Returns:
      (train op, float32 scalar: the total loss).
    """
    variables = tf.trainable_variables()
    with tf.name_scope("average_gradients"):
        means = [_on(variable.device, _mean, each) for variable, *each in zip(variables, *gradients, strict=True)]
        if loss_scale is not None:
            means = loss_scale.unscaled(means)
            options["finite"] = loss_scale.finite
        # Added once, after the sum over the batch, the weight decay rounds as in one tower.
        of_decays = tf.gradients(list(decays.values()), variables, colocate_gradients_with_ops=True)
        averages = [
            mean if of_decay is None else _on(variable.device, tf.add, mean, of_decay)
            for variable, mean, of_decay in zip(variables, means, of_decays, strict=True)
        ]
    losses = {**decays, "cross_entropy": _mean(cross_entropies, name="cross_entropy")}
    losses["total_loss"] = tf.add_n(list(losses.values()), name="total_loss")
    train_op = training.apply_gradients(
        averages, variables, losses, global_step, learning_rate, once_updated=once_updated, **options
    )
    return train_op, losses["total_loss"]


def _on(device, build, *args):
    with tf.device(device):
        return build(*args)


def _mean(tensors, name=None):
    return tf.divide(microbatches.pairwise_sum(tensors), len(tensors), name=name)
