#!/usr/bin/env python3
"""Trains the CIFAR-10 network on several machines, with synchronous updates.

Start it on each of them, with TF_CONFIG as Kubernetes' TFJob and Vertex AI set it, or with --worker_hosts and
--task_index; or start a whole cluster on this machine with --local_workers. Every worker computes --batch_size images a
step: two workers with --batch_size=64 do what cifar10_train.py does with 128. The chief, which is the first worker,
prints, and saves to --train_dir. An evaluator does what cifar10_eval.py does.
"""

import dataclasses
import os
import signal
import sys

# What TensorFlow says of itself is of no use, but for what --log_device_placement asks for.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if "--log_device_placement" in sys.argv else "2")
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until flags.main takes it: no traceback out of an import

import cifar10_eval
import cifar10_train
from absl import flags as absl_flags

from cifar10 import flags, settings
from cifar10.cluster import local, members, workers
from cifar10.cluster.collectives import KINDS

# Flags in which all workers must agree: what else they were given cannot change what is computed.
AGREED = (
    *("batch_size", "dataset", "num_held_out", "seed", "model", "lrn", "conv", "microbatch_size"),
    *("use_fp16", "recipe", "max_steps", "all_reduce", "image_size"),
    *("learning_rate", "momentum", "weight_decay", "num_epochs", "label_smoothing", "jitter", "random_crops", "freeze"),
)


def run(*, local_workers, end_with_stdin, worker_hosts, task_index, listen_on_network, **values):
    """Takes this process's part in the training; the parameters are the flags."""
    if end_with_stdin:
        local.end_with_stdin()
    if "KUBERNETES_SERVICE_HOST" in os.environ and not (os.environ.get("TF_CONFIG") or worker_hosts or local_workers):
        print("There is no TF_CONFIG in this pod, as in a TFJob of one replica: training alone", flush=True)
        train_alone(values)
        return
    cluster = members.find(os.environ.get("TF_CONFIG"), worker_hosts, task_index, local_workers)
    if cluster is None:
        settings.data_source(*(values[name] for name in ("dataset", "data_dir", "data_url", "data_sha256"))).ensure()
        given = [f"--{name}={value}" for name, value in values.items() if value is not None]
        local.train([sys.executable, sys.argv[0], *given, "--end_with_stdin"], local_workers)
    elif cluster.job == "evaluator":
        evaluate(values)
    else:
        cluster = dataclasses.replace(cluster, listen_on_network=listen_on_network)
        train(cluster, end_with_stdin, values)


def train(cluster, supervised, values):
    """Trains as a worker, with the values of the flags."""
    agreed = {f"--{name}": values.get(name) for name in AGREED}
    kind, *seconds = (values.pop(name) for name in ("all_reduce", "hang_secs", "max_wait_secs"))
    batch_size, log_placement = values.pop("batch_size"), values.pop("log_device_placement")
    training = settings.training({name: value for name, value in values.items() if not name.startswith("eval_")})
    step = workers.Workers(training.network, batch_size, log_placement, cluster, agreed, kind, *seconds, supervised)
    workers.train(step, training.data, training.recipe, training.options)


def train_alone(values):
    """Trains as cifar10_train.py does, with the values of the flags."""
    of_several = {"all_reduce", "hang_secs", "max_wait_secs", "eval_dir", "eval_interval_secs"}
    cifar10_train.run(**{name: value for name, value in values.items() if name not in of_several})


def evaluate(values):
    """Evaluates each checkpoint in train_dir, as cifar10_eval.py does."""
    same = ("data_dir", "dataset", "data_url", "data_sha256", "model", "batch_size", "use_fp16", "eval_dir")
    cifar10_eval.run(
        **{name: values[name] for name in (*same, "eval_interval_secs")},
        checkpoint_dir=values["train_dir"],
        eval_data="test",
        num_examples=None,
        views="1",
        use_moving_averages=True,
        run_once=False,
    )


def define_flags():
    absl_flags.DEFINE_list("worker_hosts", [], "Addresses of the workers as host:port, the chief's first.")
    absl_flags.DEFINE_integer("task_index", 0, "Which of the workers this is.", lower_bound=0)
    absl_flags.DEFINE_enum(
        "all_reduce",
        "auto",
        KINDS,
        "How workers bring their gradients together. gather: each gets those of all and adds them as towers do, to the "
        "last bit. ring: they are added on the way, which sends less among many. auto: gather up to 4 workers.",
    )
    absl_flags.DEFINE_float(
        "hang_secs",
        60.0,
        "After how many seconds a worker hangs that has not come to a step, so that all begin anew; longer than the "
        "chief needs for a checkpoint. 0: never.",
        lower_bound=0.0,
    )
    absl_flags.DEFINE_float(
        "max_wait_secs", 3600.0, "How long to wait for a worker that is not there; 0: for ever.", lower_bound=0.0
    )
    absl_flags.DEFINE_boolean(
        "listen_on_network",
        False,
        "Open this process's port to other machines. TensorFlow's server asks for no password there and encrypts "
        "nothing: whoever reaches the port can in effect run programs as you, and read and write your files. Only for "
        "a network that nobody else can reach.",
    )
    absl_flags.DEFINE_integer(
        "local_workers",
        0,
        "Start a cluster of so many workers on this machine, which nobody else reaches.",
        lower_bound=0,
    )
    absl_flags.DEFINE_string("eval_dir", "/tmp/cifar10_eval", "Directory where an evaluator writes event logs.")
    absl_flags.DEFINE_integer(
        "eval_interval_secs", 300, "Least seconds between two evaluations of an evaluator.", lower_bound=0
    )
    absl_flags.DEFINE_boolean(
        "end_with_stdin", False, "Internal: end when standard input does, as --local_workers needs."
    )


if __name__ == "__main__":
    flags.define_training_flags()
    del absl_flags.FLAGS.input_pipeline, absl_flags.FLAGS.min_fraction_of_examples_in_queue  # of one machine only
    define_flags()
    flags.main(run, complete=settings.continued)
