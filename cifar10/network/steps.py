"""How a batch becomes one update of the variables: what a training is given. Here, on one device.

Its other forms are towers.Towers, on several devices of one machine, and cluster.workers.Workers, on several machines.
"""

import abc
import dataclasses

from cifar10.machine import devices
from cifar10.network import loss_scaling, losses, microbatches, optimizer
from cifar10.network.model import Network


@dataclasses.dataclass(frozen=True)
class Step(abc.ABC):
    """A step of training, whose batch is divided in slices that are computed at the same time.

    Attributes:
      network: the model.Network.
      batch_size: images a slice.
      log_placement: whether to log on which device each op runs.
      num_slices: number of slices: 1, or that of the towers or workers.
      part: (start, size) of the images of a batch that this process computes.
      target: the server that the session is with, or "" for none.
      lost: what a step raises that has changed nothing, because other processes are gone.
    """

    network: Network
    batch_size: int
    log_placement: bool = False

    num_slices = 1
    target = ""
    lost = ()

    @property
    def global_batch_size(self):
        """Images a step, of all slices together."""
        return self.num_slices * self.batch_size

    @property
    def part(self):
        return 0, self.global_batch_size

    def begin(self, start_step, examples):  # noqa: B027 (most need nothing)
        """Is called before the graph is built: training begins from that global step, with these records.Examples."""

    def hooks(self, save=None):
        """Returns the tf.train.SessionRunHooks that the step needs.

        Args:
          save: the hooks.SaveHook of the run; None for a process that saves nothing.
        """
        return []

    @abc.abstractmethod
    def session_config(self):
        """Returns the tf.ConfigProto of its session."""

    @abc.abstractmethod
    def build(self, images, labels, recipe, global_step, learning_rate):
        """Builds the step.

        Args:
          images: float32 [size of its part, height, width, 3].
          labels: int32 [size of its part].
          recipe: the recipes.Recipe.
          global_step: integer variable, incremented by the update.
          learning_rate: float32 scalar.

        Returns:
          (train op, float32 scalar: the total loss, of the whole batch).
        """


class OneDevice(Step):
    """The step on one device."""

    def session_config(self):
        num_microbatches = microbatches.count(self.batch_size, self.network.microbatch_size)
        return devices.session_config(num_microbatches, log_placement=self.log_placement)

    def build(self, images, labels, recipe, global_step, learning_rate):
        loss_scale = loss_scaling.of_type(self.network.dtype)
        loss = losses.loss(self.network(images), labels, recipe.label_smoothing)
        return optimizer.train(loss, global_step, learning_rate, recipe, loss_scale), loss
