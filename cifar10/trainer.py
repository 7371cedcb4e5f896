"""What the training scripts share: data, run, input and learning rate. Each brings its own step."""

import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input, dashboards, datasets, devices, download, profiling, records, runs, training


def train(
    build_step,
    data_dir,
    dataset,
    batch_size,
    train_dir,
    max_steps,
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
    **run_options,
):
    """Trains on a data set: gets and validates it, opens the run in train_dir, builds the graph, and runs it.

    Args:
      build_step: function (images, labels, global_step, learning_rate, num_classes) -> (train op, loss) that builds the
        step on a batch of all towers' pictures.
      data_dir: the folder that holds the data set's own folder.
      dataset: name of a data set, of datasets.NAMES.
      batch_size: pictures a step and tower.
      train_dir, restart: see runs.Run.
      max_steps: the global step at which to stop.
      seed: seed of the order of the pictures and of their distortions.
      num_towers: number of towers.
      input_pipeline: 'dataset', or 'queue' for the tutorial's own, which knows no seed.
      min_fraction_of_examples_in_queue: see cifar10_input.queue_distorted_inputs.
      data_url, data_sha256: see download.ensure.
      model: name of the network, for the record.
      profile_steps: None, or which steps to trace, as 'a,b': see profiling.parse.
      placement: device function of the graph, or None.
      build_input: function (examples, seed, flip) -> (images, labels) that builds another input, or None.
      **run_options: see runs.Run.train.

    Raises:
      UserError: what the user has to mend. Until all data has been found to be good, train_dir is not touched.
      signals.Interrupted: a signal came; the run was saved.
    """
    profile_steps = profiling.parse(profile_steps, max_steps)
    runs.check(train_dir)
    data = datasets.named(dataset, data_dir)
    download.ensure(data, data_dir, data_url, data_sha256)
    examples = records.load(data, data_dir, "train")
    global_batch_size = num_towers * batch_size
    if global_batch_size > examples.count:
        print(
            f"A batch of {global_batch_size} is more than the {examples.count} training pictures: each step sees some "
            "of them several times",
            flush=True,
        )
    description = {
        "dataset": dataset,
        "data": examples.sha256,
        "model": model,
        "seed": seed,
        "devices": devices.describe(),
    }
    with runs.Run(train_dir, restart, **description) as run, tf.Graph().as_default(), tf.device(placement):
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
                examples, global_batch_size, seed, run.start_step, flip=data.flip
            )
        learning_rate = training.learning_rate(global_step, global_batch_size, examples.count)
        train_op, loss = build_step(images, labels, global_step, learning_rate, data.num_classes)
        facts = dashboards.facts(data, runs.program(), batch_size, num_towers, run.start_step)
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
