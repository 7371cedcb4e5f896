"""Synchronous data parallelism on one machine: one copy of the network a device, one update for all."""

import dataclasses

import tensorflow.compat.v1 as tf

from cifar10.machine import devices
from cifar10.network import loss_scaling, losses, microbatches, optimizer
from cifar10.network.steps import Step

VARIABLES_ON = ("cpu", "gpu")


@dataclasses.dataclass(frozen=True)
class Towers(Step):
    """The step of which every tower computes an equal slice of the batch.

    Variables are shared; gradients and losses are averaged once all towers have theirs; there is one update of
    variables and moving averages. So the step equals that of one tower with the whole batch (D6): to the last bit where
    the towers are on CPUs, their number is a power of two, and micro-batches divide their slices evenly.

    Attributes:
      devices: one device a tower: see machine.devices.of_towers.
      variables_on: where variables, averages of gradients and the update are: one of VARIABLES_ON, 'gpu' being the
        first tower's device.
    """

    devices: tuple = ("/cpu:0",)
    variables_on: str = "cpu"

    @property
    def num_slices(self):
        return len(self.devices)

    def session_config(self):
        num_microbatches = self.num_slices * microbatches.count(self.batch_size, self.network.microbatch_size)
        return devices.session_config(num_microbatches, self.num_slices, self.log_placement)

    def build(self, images, labels, recipe, global_step, learning_rate):
        variables_device = "/cpu:0" if self.variables_on == "cpu" else self.devices[0]

        def place(getter, *args, **kwargs):
            with tf.device(variables_device):
                return getter(*args, **kwargs)

        loss_scale = loss_scaling.of_type(self.network.dtype)
        gradients, cross_entropies = [], []
        with tf.device("/cpu:0"), tf.name_scope("split"):
            image_slices = tf.split(images, self.num_slices)
            label_slices = tf.split(labels, self.num_slices)
        for i, device in enumerate(self.devices):
            with (
                tf.device(device),
                tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE, custom_getter=place),
                tf.name_scope(f"{losses.TOWER_NAME}_{i}") as scope,
            ):
                logits = self.network(image_slices[i])
                tagged = losses.by_tag(losses.loss(logits, label_slices[i], recipe.label_smoothing), scope)
                cross_entropies.append(tagged["cross_entropy"])
                # The weight decay is the same in every tower: `update` adds its gradient once.
                scaled = cross_entropies[i] if loss_scale is None else loss_scale.scaled(cross_entropies[i])
                gradients.append(tf.gradients(scaled, optimizer.trained(recipe)))
        with tf.device(variables_device):
            return update(gradients, cross_entropies, decays(tagged), recipe, global_step, learning_rate, loss_scale)


def decays(tagged):
    """Returns those of {tag: loss} that are weight decay, the same in every tower."""
    return {tag: loss for tag, loss in tagged.items() if tag not in ("cross_entropy", "total_loss")}


def update(gradients, cross_entropies, decays, recipe, global_step, learning_rate, loss_scale=None):
    """Builds the one update from what all towers, or workers, have computed.

    Args:
      gradients: a list a tower of the gradients of its cross entropy, one tensor a variable of optimizer.trained.
      cross_entropies: scalars, one a tower.
      decays: {tag: scalar}: the weight decay, which is added once.
      recipe: the recipes.Recipe.
      global_step: integer variable, incremented by the update.
      learning_rate: float32 scalar.
      loss_scale: None, or the loss_scaling.LossScale of the gradients.

    Returns:
      (train op, float32 scalar: the total loss).
    """
    variables = optimizer.trained(recipe)
    with tf.name_scope("average_gradients"):
        means = [_on(variable.device, _mean, each) for variable, *each in zip(variables, *gradients, strict=True)]
        means, finite = (means, None) if loss_scale is None else loss_scale.unscaled(means)
        # Added once, after the sum over the batch, the weight decay rounds as in one tower.
        of_decays = tf.gradients(list(decays.values()), variables, colocate_gradients_with_ops=True)
        averages = [
            mean if of_decay is None else _on(variable.device, tf.add, mean, of_decay)
            for variable, mean, of_decay in zip(variables, means, of_decays, strict=True)
        ]
        cross_entropy = microbatches.pairwise_sum(cross_entropies)
    tagged = {**decays, "cross_entropy": tf.divide(cross_entropy, len(cross_entropies), name="cross_entropy")}
    tagged["total_loss"] = tf.add_n(list(tagged.values()), name="total_loss")
    averages = optimizer.of_all(averages, recipe)
    train_op = optimizer.apply_gradients(averages, tagged, global_step, learning_rate, recipe, finite)
    return train_op, tagged["total_loss"]


def _on(device, build, *args):
    with tf.device(device):
        return build(*args)


def _mean(tensors):
    return microbatches.pairwise_sum(tensors) / len(tensors)
