"""How a network is trained: the one home of every training hyper-parameter, with its unit and source.

What belongs to a network, its initial values and the weight decay that it has itself, is in `model`; how strongly
images are distorted is in `crops`. A recipe changes no variable and no name of a checkpoint, so a run may go
on with another one.
"""

import dataclasses

from cifar10.data import crops

# The most that can be asked for.
LARGEST_BATCH = 2**20  # images, which take some 10 GB before the first layer
LAST_STEP = 10**18 - 1  # what the 18 digits in a checkpoint's name hold

# The tutorial's hyper-parameters.
MAX_STEPS = 1_000_000  # steps after which training ends
MOVING_AVERAGE_DECAY = 0.9999  # of the variables, a step
NUM_EPOCHS_PER_DECAY = 350.0  # epochs after which the learning rate drops
LEARNING_RATE_DECAY_FACTOR = 0.1  # what it is multiplied by then
INITIAL_LEARNING_RATE = 0.1  # of gradient descent
LOSS_AVERAGE_DECAY = 0.9  # of the losses that TensorBoard shows, a step

LAYERS = ("conv1", "conv2", "local3", "local4", "softmax_linear")  # of both networks, from the image on

FAST_NUM_EPOCHS = 80.0  # epochs after which the fast recipe's training ends
MUON_NUM_EPOCHS = 30.0  # and the Muon recipe's


@dataclasses.dataclass(frozen=True)
class Staircase:
    """A learning rate: `initial`, multiplied by `decay_factor` every `num_epochs_per_decay` epochs."""

    initial: float = INITIAL_LEARNING_RATE
    num_epochs_per_decay: float = NUM_EPOCHS_PER_DECAY
    decay_factor: float = LEARNING_RATE_DECAY_FACTOR

    def __str__(self):
        return f"{self.initial:g}, times {self.decay_factor:g} every {self.num_epochs_per_decay:g} epochs"


@dataclasses.dataclass(frozen=True)
class Triangle:
    """A learning rate that rises linearly to `peak`, and falls linearly to 0 at the last step of the training.

    It begins at the fraction `start` of the peak, and reaches the peak at the fraction `warm_up` of the steps.
    """

    peak: float
    start: float
    warm_up: float

    def __str__(self):
        return f"from {self.start * self.peak:g} to {self.peak:g} in {self.warm_up:.0%} of the steps, then to 0"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of a training; what is not given is the tutorial's.

    Attributes:
      name: what --recipe calls it.
      num_epochs: epochs after which training ends unless --max_steps says otherwise; None: after MAX_STEPS steps.
      learning_rate: a Staircase or a Triangle.
      momentum: of Nesterov's accelerated gradient, the part of the last update that the next one repeats; 0: plain
        gradient descent.
      label_smoothing: part of a label's probability that is divided evenly among all classes.
      weight_decay: factor of tf.nn.l2_loss(weights) of layers that have no weight decay in the network itself; it is in
        the gradients, not in the loss that is shown.
      jitter: whether images get another brightness and contrast.
      orthogonalized: whether updates of the hidden layers' weights are: see muon.
      orthogonal_decay: weight decay of those weights, instead of any other; a step takes this times the learning rate
        of them away.
      calm: the last part of the steps, in which crops are at most calm_shift pixels from the centre.
      random_crops: whether images are cropped anywhere, or at the centre.
      frozen: layers whose variables stay as they are.
      changed_values: how it differs from the recipe of its name, as `changed` takes it: (name, value) pairs.
      alternating_flip: whether an image is mirrored in every other epoch, instead of by chance.
      moving_average_decay: of the variables, a step; less in the first steps: see optimizer.apply_gradients.
    """

    name: str
    num_epochs: float | None = None
    learning_rate: Staircase | Triangle = Staircase()
    momentum: float = 0.0
    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    orthogonalized: bool = False
    orthogonal_decay: float = 0.0
    jitter: bool = True
    random_crops: bool = True
    frozen: tuple[str, ...] = ()
    changed_values: tuple = ()
    alternating_flip: bool = False
    calm: float = 0.0
    calm_shift: int = 2
    moving_average_decay: float = MOVING_AVERAGE_DECAY

    @property
    def changes(self):
        """How it differs from the recipe of its name, in words; empty: not at all."""
        return ", ".join(f"{name} {value}" for name, value in self.changed_values)

    def max_steps(self, num_examples, batch_size):
        """Returns the global step at which training ends by default.

        Args:
          num_examples: images an epoch.
          batch_size: images a step, of all towers or workers together.
        """
        if self.num_epochs is None:
            return MAX_STEPS
        return max(1, int(self.num_epochs * num_examples / batch_size))

    def changed(self, values):
        """Returns this recipe with other hyper-parameters.

        Args:
          values: {name: value}: `learning_rate`, the initial one or the peak; `frozen`, the last of the LAYERS that are
            not trained; or the name of any other attribute.
        """
        attributes = dict(values)
        if "learning_rate" in values:
            which = "peak" if hasattr(self.learning_rate, "peak") else "initial"
            attributes["learning_rate"] = dataclasses.replace(self.learning_rate, **{which: values["learning_rate"]})
        if "frozen" in values:
            attributes["frozen"] = LAYERS[: LAYERS.index(values["frozen"]) + 1]
        return dataclasses.replace(self, **attributes, changed_values=tuple(values.items()))

    def distortions(self, flip, max_steps=None):
        """Returns the crops.Distortions of training images.

        Args:
          flip: whether images may be mirrored.
          max_steps: the global step at which training ends; not needed by a recipe that is never calm.
        """
        calm_step = int((1.0 - self.calm) * max_steps) if self.calm else None
        return crops.Distortions(
            flip=flip,
            alternating_flip=self.alternating_flip,
            jitter=self.jitter,
            calm_step=calm_step,
            calm_shift=self.calm_shift,
            random_crops=self.random_crops,
        )


TUTORIAL = Recipe("tutorial")

# The triangle is that of Smith, Cyclical Learning Rates for Training Neural Networks (2017), once up and down. Nesterov
# momentum, smoothed labels, alternating flips and no jitter are as in Jordan, 94% on CIFAR-10 in 3.29 Seconds on a
# Single GPU (2024). Standardization undoes a change of brightness anyway, and most of one of contrast. The numbers were
# chosen on 5,000 training images held out: see scripts/RESULTS.md.
FAST = Recipe(
    "fast",
    num_epochs=FAST_NUM_EPOCHS,
    learning_rate=Triangle(peak=0.03, start=0.2, warm_up=0.2),
    momentum=0.9,
    label_smoothing=0.1,
    weight_decay=5e-4,
    jitter=False,
    alternating_flip=True,
    moving_average_decay=0.998,
)

# Batches of 512 images suit it, which make the cost of orthogonalizing small. The numbers were chosen as those of FAST.
MUON = dataclasses.replace(
    FAST,
    name="muon",
    num_epochs=MUON_NUM_EPOCHS,
    learning_rate=Triangle(peak=0.05, start=0.2, warm_up=0.2),
    orthogonalized=True,
    orthogonal_decay=0.1,
    calm=0.25,
)

RECIPES = {recipe.name: recipe for recipe in (TUTORIAL, FAST, MUON)}
