"""What the training scripts share: data, run, input and learning rate. Each brings its own step."""

import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input, datasets, download, records, runs, training


def train(
    build_step,
    data_dir,
    dataset,
    batch_size,
    train_dir,
    restart=False,
    seed=0,
    num_towers=1,
    input_pipeline="dataset",
    min_fraction_of_examples_in_queue=cifar10_input.MIN_FRACTION_OF_EXAMPLES_IN_QUEUE,
    placement=None,
    build_input=None,
    **run_options,
):
    """Trains on a data set: gets and validates it, opens the run in train_dir, builds the graph, and runs it.

    Args:
      build_step: function (images, labels, global_step, learning_rate, num_classes) -> (train op, loss) that builds the
        step on a batch of all towers' pictures.
      data_dir: the folder that holds the data set's own folder.
      dataset: name of a data set, of datasets.ALL.
      batch_size: pictures a step and tower.
      train_dir, restart: see runs.Run.
      seed: seed of the order of the pictures and of their distortions.
      num_towers: number of towers.
      input_pipeline: 'dataset', or 'queue' for the tutorial's own, which knows no seed.
      min_fraction_of_examples_in_queue: see cifar10_input.queue_distorted_inputs.
      placement: device function of the graph, or None.
      build_input: function (examples, seed) -> (images, labels) that builds another input, or None.
      **run_options: see runs.Run.train.

    Raises:
      UserError: what the user has to mend.
    """
    data = datasets.ALL[dataset]
    download.ensure(data, data_dir)
    examples = records.load(data, data_dir, "train")
    run = runs.Run(train_dir, restart)
    global_batch_size = num_towers * batch_size
    with tf.Graph().as_default(), tf.device(placement):
        global_step = tf.train.get_or_create_global_step()
        if build_input is not None:
            images, labels = build_input(examples, seed)
        elif input_pipeline == "queue":
            images, labels = cifar10_input.queue_distorted_inputs(
                records.paths(data, data_dir, "train"),
                global_batch_size,
                examples.count,
                min_fraction_of_examples_in_queue,
            )
        else:
            images, labels = cifar10_input.distorted_inputs(examples, global_batch_size, seed, run.start_step)
        learning_rate = training.learning_rate(global_step, global_batch_size, examples.count)
        train_op, loss = build_step(images, labels, global_step, learning_rate, data.num_classes)
        run.train(train_op, loss, learning_rate, batch_size=batch_size, num_towers=num_towers, **run_options)
