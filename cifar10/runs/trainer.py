"""What the training scripts share: data, run, input and learning rate. Each brings its own step."""

import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input
from cifar10.data import datasets, download, records
from cifar10.errors import RunError
from cifar10.machine import devices
from cifar10.network import recipes, training
from cifar10.runs import dashboards, history, profiling
from cifar10.runs import run as run_module


def train(
    build_step,
    data_dir,
    dataset,
    batch_size,
    train_dir,
    max_steps=None,
    restart=False,
    seed=0,
    num_towers=1,
    input_pipeline="dataset",
    min_fraction_of_examples_in_queue=cifar10_input.MIN_FRACTION_OF_EXAMPLES_IN_QUEUE,
    data_url=None,
    data_sha256=None,
    profile_steps=None,
    model="tutorial",
    placement=None,
    build_input=None,
    recipe=recipes.TUTORIAL,
    num_held_out=0,
    **run_options,
):
    """Trains on a data set: gets and validates it, opens the run in train_dir, builds the graph, and runs it.

    Args:
      build_step: function (images, labels, global_step, learning_rate, num_classes) -> (train op, loss) that builds the
        step on a batch of all towers' images.
      data_dir: the folder that holds the data set's own folder.
      dataset: name of a data set, of datasets.NAMES.
      batch_size: images a step and tower.
      train_dir, restart: see run_module.Run.
      max_steps: the global step at which to stop, or None for the recipe's own.
      seed: seed of the order of the images and of their distortions.
      num_towers: number of towers.
      input_pipeline: 'dataset', or 'queue' for the tutorial's own, which knows no seed.
      min_fraction_of_examples_in_queue: see cifar10_input.queue_distorted_inputs.
      data_url, data_sha256: see download.ensure.
      model: name of the network, for the record.
      profile_steps: None, or which steps to trace, as 'a,b': see profiling.parse.
      placement: device function of the graph, or None.
      build_input: function (examples, seed, flip) -> (images, labels) that builds another input, or None.
      recipe: the recipes.Recipe of input and learning rate, and for the record; build_step follows it by itself.
      num_held_out: training images, the last ones in file order, that are not trained on.
      **run_options: see run_module.Run.train.

    Raises:
      UserError: what the user has to mend. Until all data has been found to be good, train_dir is not touched.
      signals.Interrupted: a signal came; the run was saved.
    """
    run_module.check(train_dir)
    data = datasets.named(dataset, data_dir)
    num_examples = records.num_trained_on(data, num_held_out)
    global_batch_size = num_towers * batch_size
    if max_steps is None:
        max_steps = recipe.max_steps(num_examples, global_batch_size)
    profile_steps = profiling.parse(profile_steps, max_steps)
    if input_pipeline == "queue":
        _refuse_for_queue(recipe, num_held_out)
    download.ensure(data, data_dir, data_url, data_sha256)
    examples = records.load(data, data_dir, "train").part(0, num_examples)
    if global_batch_size > examples.count:
        print(
            f"A batch of {global_batch_size} is more than the {examples.count} training images: each step sees some "
            "of them several times",
            flush=True,
        )
    description = {
        "dataset": dataset,
        "data": examples.sha256,
        "model": model,
        "recipe": recipe.name,
        "max_steps": max_steps,
        **({"num_held_out": num_held_out} if num_held_out else {}),
        "seed": seed,
        "devices": devices.describe(),
    }
    with run_module.Run(train_dir, restart, **description) as run, tf.Graph().as_default(), tf.device(placement):
        global_step = tf.train.get_or_create_global_step()
        if build_input is not None:
            images, labels = build_input(examples, seed, data.flip)
        elif input_pipeline == "queue":
            images, labels = cifar10_input.queue_distorted_inputs(
                records.paths(data, data_dir, "train"),
                global_batch_size,
                examples.count,
                min_fraction_of_examples_in_queue,
                dataset=data,
            )
        else:
            images, labels = cifar10_input.distorted_inputs(
                examples, global_batch_size, seed, run.start_step, flip=data.flip, **recipe.of_input
            )
        learning_rate = training.scheduled(
            recipe.learning_rate, global_step, max_steps, global_batch_size, num_examples
        )
        train_op, loss = build_step(images, labels, global_step, learning_rate, data.num_classes)
        facts = dashboards.facts(
            data, history.program(), batch_size, num_towers, run.start_step, max_steps, recipe, num_held_out
        )
        run.train(
            train_op,
            loss,
            learning_rate,
            max_steps,
            batch_size,
            num_towers,
            profile_steps=profile_steps,
            opening=dashboards.opening(facts),
            **run_options,
        )


def _refuse_for_queue(recipe, num_held_out):
    """Refuses what the tutorial's queue, which knows no epochs and reads whole files, cannot do."""
    found = [f"--num_held_out={num_held_out}"] if num_held_out else []
    if recipe.alternating_flip or not recipe.jitter:
        found.append(f"--recipe={recipe.name}")
    if found:
        raise RunError(f"--input_pipeline=queue: cannot do {' and '.join(found)}; leave one of them out")
