"""A training from its data to its last checkpoint: what all training scripts do."""

import dataclasses
import shlex
import sys
import time

import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input
from cifar10.data import datasets, records
from cifar10.data.source import Source
from cifar10.errors import RunError, counted
from cifar10.machine import devices, terminal
from cifar10.network import optimizer
from cifar10.runs import dashboards, history, initial, profiling
from cifar10.runs import run as run_module
from cifar10.runs.run import Run, TrainingGraph


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What is trained on, and in which order.

    Attributes:
      source: the Source of the data set.
      num_held_out: training images, the last ones in file order, that are not trained on.
      seed: seed of the order of the images and of their distortions.
      pipeline: 'dataset'; or 'queue', the tutorial's own, which knows no seed.
      min_fraction_in_queue: see cifar10_input.queue_training_batch.
      image_size: height and width of the crop that the network sees, in pixels.
    """

    source: Source
    num_held_out: int = 0
    seed: int = 0
    pipeline: str = "dataset"
    min_fraction_in_queue: float = cifar10_input.MIN_FRACTION_OF_EXAMPLES_IN_QUEUE
    image_size: int = datasets.IMAGE_SIZE

    @property
    def num_examples(self):
        """The number of images that are trained on.

        Raises:
          DataError: none are left.
        """
        return records.num_trained_on(self.source.dataset, self.num_held_out)

    def refuse_for_queue(self, recipe):
        """Raises RunError if the queue, which knows no epochs and reads whole files, cannot do what is asked of it."""
        found = [f"--num_held_out={self.num_held_out}"] if self.num_held_out else []
        if recipe.alternating_flip or not recipe.jitter or not recipe.random_crops:
            found.append(f"--recipe={recipe.name}" + (f" with {recipe.changes}" if recipe.changes else ""))
        if found and self.pipeline == "queue":
            raise RunError(f"--input_pipeline=queue: cannot do {' and '.join(found)}; leave one of them out")

    def load(self):
        """Returns the records.Examples that are trained on, downloaded where they are not there, and validated."""
        return self.source.load("train").part(0, self.num_examples)

    def load_held_out(self):
        """Returns the records.Examples that are held out, as `load`."""
        examples = self.source.load("train")
        return examples.part(self.num_examples, examples.count)

    def batch(self, examples, step, recipe, start_step, max_steps):
        """Builds the input of a step, from start_step to max_steps; returns the cifar10_input.Batch."""
        dataset = self.source.dataset
        if self.pipeline == "queue":
            return cifar10_input.queue_training_batch(
                records.paths(dataset, self.source.data_dir, "train"),
                step.global_batch_size,
                examples.count,
                self.min_fraction_in_queue,
                self.image_size,
                dataset,
            )
        distortions = dataclasses.replace(recipe.distortions(dataset.flip, max_steps), image_size=self.image_size)
        return cifar10_input.training_batch(
            examples, step.global_batch_size, self.seed, start_step, distortions, step.part
        )


def train(step, data, recipe, options, validation=None):
    """Trains, from the newest checkpoint in options.train_dir or from the beginning, and saves.

    Args:
      step: the steps.Step: how a batch becomes an update.
      data: the TrainingData.
      recipe: the recipes.Recipe.
      options: the run.RunOptions.
      validation: None, or the validation.Validation: what is evaluated between steps.

    Raises:
      UserError: what the user has to mend. Until all data has been found to be good, train_dir is not touched.
      signals.Interrupted: a signal came; the run was saved.
    """
    began = time.monotonic()
    run_module.check(options.train_dir)
    options, examples = prepare(step, data, recipe, options)
    description = describe(step, data, recipe, options, examples)
    with Run(options.train_dir, options.restart, description) as run, tf.Graph().as_default():
        if run.start_step >= options.max_steps:
            print(
                f"{options.train_dir}: already at step {run.start_step} of {options.max_steps}; to go on, raise "
                "--max_steps, or begin anew with --restart",
                flush=True,
            )
        elif run.checkpoint:
            print(f"{options.train_dir}: continues from step {run.start_step}", file=sys.stderr, flush=True)
        terminal.say(
            f"To watch it: tensorboard --logdir {options.train_dir}, then http://localhost:6006/{dashboards.UNSMOOTHED}"
        )
        step.begin(run.start_step, examples)
        graph = build(step, data, recipe, options, examples, run.start_step)
        if options.init_from and run.checkpoint is None:
            graph = graph._replace(initial=initial.values(options.init_from, data.source.dataset))
        facts = dashboards.facts(history.program(), step, data, recipe, run.start_step, options.max_steps)
        run.train(graph, step, options, dashboards.opening(facts, data.source.dataset.class_names), validation)
        if run.loss is not None:
            lines = closing(run, time.monotonic() - began, data.source.data_dir, validation)
            print("\n".join(lines), file=sys.stderr, flush=True)


def closing(run, secs, data_dir, validation=None):
    """Returns the lines with which a training ends: what it did, where that is, and what to run next.

    Args:
      run: the run.Run.
      secs: the time that this process took.
      data_dir: of the images.
      validation: as of `train`.
    """
    folder = shlex.quote(run.train_dir)
    lines = [
        f"{run.train_dir}: ended at step {run.step} with loss {run.loss:.2f}, "
        f"{run.step - run.start_step} steps in {terminal.duration(secs)}; saved as {run.checkpoint}"
    ]
    if measured := validation and validation.summary(run):
        lines.append(measured)
    else:
        lines.append(
            f"To evaluate it: cifar10_eval.py --run_once --checkpoint_dir={folder} --data_dir={shlex.quote(data_dir)}"
        )
    return [*lines, f"To use it: cifar10_predict.py --checkpoint_dir={folder} PICTURES"]


def prepare(step, data, recipe, options):
    """Looks whether options go together, and loads the data.

    Args as in train.

    Returns:
      (The options with max_steps, the records.Examples.)
    """
    if options.max_steps is None:
        options = dataclasses.replace(options, max_steps=recipe.max_steps(data.num_examples, step.global_batch_size))
    profiling.parse(options.profile_steps, options.max_steps)
    data.refuse_for_queue(recipe)
    if step.network.dtype != "float32":
        devices.warn_if_half_precision_is_slow()
    examples = data.load()
    if step.global_batch_size > examples.count:
        print(
            f"A batch of {step.global_batch_size} is more than the {counted(examples.count, 'training image')}: each "
            "step sees some of them several times",
            flush=True,
        )
    devices.set_process_threads(step.session_config())
    return options, examples


def build(step, data, recipe, options, examples, start_step):
    """Builds input, learning rate and step in the current graph; returns the TrainingGraph."""
    global_step = tf.train.get_or_create_global_step()
    batch = data.batch(examples, step, recipe, start_step, options.max_steps)
    learning_rate = optimizer.learning_rate(
        recipe.learning_rate, global_step, step.global_batch_size, examples.count, options.max_steps
    )
    train_op, loss = step.build(batch.images, batch.labels, recipe, global_step, learning_rate)
    return TrainingGraph(train_op, loss, learning_rate, batch.wait_ms)


def describe(step, data, recipe, options, examples):
    """Returns {name: value} of what is recorded of a training, but for the program."""
    return {
        "dataset": data.source.dataset.name,
        "classes": list(data.source.dataset.class_names),
        "data": examples.sha256,
        "model": step.network.name,
        "image_size": data.image_size,
        "recipe": recipe.name,
        "hyper_parameters": recipe.changes or "the recipe's",
        **({"changed": dict(recipe.changed_values)} if recipe.changed_values else {}),
        **({"init_from": options.init_from} if options.init_from else {}),
        "learning_rate": str(recipe.learning_rate),
        "batch_size": step.global_batch_size,
        "max_steps": options.max_steps,
        **({"num_held_out": data.num_held_out} if data.num_held_out else {}),
        "seed": data.seed,
        "lrn": step.network.lrn,
        "conv": step.network.conv,
        "use_fp16": step.network.dtype != "float32",
        "devices": devices.describe(),
    }
