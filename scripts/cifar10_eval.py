#!/usr/bin/env python3
"""Measures the precision @ 1 of checkpoints, each image once.

It waits for new checkpoints in --checkpoint_dir and evaluates each, beside the training, until that has ended.
"""

import inspect
import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what TensorFlow says of itself
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until flags.main takes it: no traceback out of an import

from absl import flags as absl_flags

from cifar10 import evaluation, flags, serving, settings
from cifar10.data import datasets
from cifar10.network.model import NETWORKS
from cifar10.runs import history


def run(
    *,
    data_dir,
    dataset,
    data_url,
    data_sha256,
    eval_data,
    num_examples,
    views,
    batch_size,
    use_moving_averages,
    use_fp16,
    checkpoint_dir,
    eval_dir,
    eval_interval_secs,
    run_once,
    model,
    checkpoint=None,
):
    """Evaluates; the parameters are the flags. Returns the evaluation.Results."""
    path = checkpoint and serving.find_checkpoint(checkpoint, None)
    if path:
        checkpoint_dir = os.path.dirname(path) or os.curdir
    else:
        checkpoint_dir = serving.checkpoint_folder(checkpoint_dir)
        evaluation.await_checkpoint(checkpoint_dir, forever=not run_once)  # before anything is downloaded
    dataset = dataset or history.recorded(checkpoint_dir, "dataset") or datasets.CIFAR10.name
    eval_dir = evaluation.own_folder(eval_dir, checkpoint_dir)
    source = settings.data_source(dataset, data_dir, data_url, data_sha256)
    examples = source.load("test" if eval_data == "test" else "train")
    evaluation.say_other_data(checkpoint_dir, source.dataset, examples)
    if eval_data == "held_out":
        examples = evaluation.held_out(examples, dataset, checkpoint_dir)
    num_examples = num_examples or min(10_000, examples.count)
    network = settings.served_network(model or history.model(checkpoint_dir), source.dataset.num_classes, use_fp16)
    evaluator = evaluation.Evaluator(
        examples,
        num_examples,
        batch_size,
        network,
        use_moving_averages,
        source.dataset.class_names,
        int(views),
        history.image_size(checkpoint_dir),
    )
    if path or run_once:
        return [evaluation.evaluate_once(evaluator, path or evaluation.newest(checkpoint_dir), eval_dir)]
    return evaluation.watch(evaluator, checkpoint_dir, eval_dir, eval_interval_secs)


def evaluate():
    """Evaluates as the flags say: the tutorial's function, for programs that import this file."""
    return run(**{name: absl_flags.FLAGS[name].value for name in inspect.signature(run).parameters})


def define_flags():
    absl_flags.DEFINE_string(
        "eval_dir",
        "/tmp/cifar10_eval",
        "Directory where to write event logs; where it has those of another run, eval_dir-2 is taken, and so on.",
    )
    absl_flags.DEFINE_enum(
        "eval_data",
        "test",
        ["test", "train_eval", "held_out"],
        "Images to evaluate: test or training ones, or those that the training's --num_held_out kept.",
    )
    absl_flags.DEFINE_string("checkpoint_dir", "/tmp/cifar10_train", "Directory where to read model checkpoints.")
    absl_flags.DEFINE_string(
        "checkpoint",
        None,
        "Checkpoint to evaluate instead, once, as in /tmp/cifar10_train/model.ckpt-6000; or pretrained, the one that "
        "comes with the package.",
    )
    absl_flags.DEFINE_integer("eval_interval_secs", 300, "Least seconds between two evaluations.", lower_bound=0)
    absl_flags.DEFINE_integer(
        "num_examples",
        None,
        "Number of images to evaluate; 10,000 by default, or all if there are fewer.",
        lower_bound=1,
    )
    absl_flags.DEFINE_enum(
        "model", None, list(NETWORKS), "Network to evaluate; by default the one on record in checkpoint_dir."
    )
    absl_flags.DEFINE_enum(
        "views",
        "1",
        ["1", "10"],
        "Views of each image: 1, the centre, as the tutorial; 10, corners and mirror images too, as cuda-convnet.",
    )
    absl_flags.DEFINE_boolean("run_once", False, "Evaluate the newest checkpoint only.")
    absl_flags.DEFINE_boolean("use_moving_averages", True, "Evaluate the moving averages of the variables.")


if __name__ == "__main__":
    flags.define_data_flags(dataset=None)
    define_flags()
    flags.main(run)
