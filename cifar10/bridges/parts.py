"""What every form of the network has in common: its weights, sizes and names."""

import dataclasses
import math

import numpy as np

from cifar10.data import datasets

DENSE_LAYERS = ("local3", "local4", "softmax_linear")


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a network.

    Attributes:
      values: {variable: array}, such as `conv1/weights`; which network it is shows in their shapes.
      image_size: height and width, in pixels, of the images that it takes; of them it sees the centre.
      seen: height and width of that, in pixels.
    """

    values: dict[str, np.ndarray]
    image_size: int
    seen: int = datasets.IMAGE_SIZE

    def of(self, layer):
        """Returns the weights and the biases of a layer."""
        return self.values[f"{layer}/weights"], self.values[f"{layer}/biases"]

    @property
    def margin(self):
        """Pixels that the evaluation's crop leaves out on each side."""
        return (self.image_size - self.seen) // 2

    @property
    def least_deviation(self):
        """What tf.image.per_image_standardization divides by at least."""
        return 1.0 / math.sqrt(self.seen**2 * datasets.DEPTH)

    @property
    def num_classes(self):
        return len(self.values["softmax_linear/biases"])

    def is_local(self, layer):
        """Returns whether a layer is locally connected: has weights of its own at each place."""
        return self.values[f"{layer}/weights"].ndim == 4
