#!/usr/bin/env python3
"""Trains the CIFAR-10 network on several machines, with synchronous updates.

Start it on each of them, with TF_CONFIG as Kubernetes' TFJob and Vertex AI set it, or with --worker_hosts, --ps_hosts,
--job_name and --task_index; or start a whole cluster on this machine with --local_workers. Every worker computes
--batch_size images a step: two workers with --batch_size=64 do what cifar10_train.py does with 128. The chief, which
is the first worker, prints, and saves to --train_dir. An evaluator does what cifar10_eval.py does.
"""

import os
import sys

import cifar10_eval
from absl import flags as absl_flags

from cifar10 import flags
from cifar10.cluster import local, members, roles
from cifar10.data import datasets, download


def run(*, local_workers, local_ps, end_with_stdin, worker_hosts, ps_hosts, job_name, task_index, **options):
    """Takes this process's part in the training; the parameters are the flags, options those of roles.train."""
    if end_with_stdin:
        local.end_with_stdin()
    tf_config = os.environ.get("TF_CONFIG")
    here = members.find(tf_config, worker_hosts, ps_hosts, job_name, task_index, local_workers)
    if here is None:
        data = datasets.named(options["dataset"], options["data_dir"])
        download.ensure(data, options["data_dir"], options["data_url"], options["data_sha256"])
        values = [f"--{name}={value}" for name, value in options.items() if value is not None]
        local.train([sys.executable, sys.argv[0], *values, "--end_with_stdin"], local_workers, local_ps)
    elif here.job == "evaluator":
        evaluate(**options)
    else:
        roles.train(here, **{name: value for name, value in options.items() if not name.startswith("eval_")})


def evaluate(
    *,
    data_dir,
    dataset,
    data_url,
    data_sha256,
    model,
    batch_size,
    use_fp16,
    train_dir,
    eval_dir,
    eval_interval_secs,
    **_,
):
    """Evaluates each checkpoint in train_dir, as cifar10_eval.py does."""
    cifar10_eval.run(
        data_dir=data_dir,
        dataset=dataset,
        data_url=data_url,
        data_sha256=data_sha256,
        eval_data="test",
        num_examples=None,
        views="1",
        model=model,
        batch_size=batch_size,
        use_moving_averages=True,
        use_fp16=use_fp16,
        checkpoint_dir=train_dir,
        eval_dir=eval_dir,
        eval_interval_secs=eval_interval_secs,
        run_once=False,
    )


def define_flags():
    absl_flags.DEFINE_list("worker_hosts", [], "Addresses of the workers as host:port, the chief's first.")
    absl_flags.DEFINE_list("ps_hosts", [], "Addresses of the parameter servers; without any the chief does their work.")
    absl_flags.DEFINE_enum("job_name", "worker", ["worker", "ps", "evaluator"], "What this process is.")
    absl_flags.DEFINE_integer("task_index", 0, "Which of the workers or parameter servers it is.", lower_bound=0)
    absl_flags.DEFINE_boolean(
        "sync",
        True,
        "Update the variables once for all workers together. --nosync: each worker on its own, as soon as it can; a "
        "step then is one worker's.",
    )
    absl_flags.DEFINE_integer(
        "backup_workers", 0, "How many workers, the slowest, a step does not wait for.", lower_bound=0
    )
    absl_flags.DEFINE_float(
        "max_wait_secs", 3600.0, "How long to wait for a member that is not there; 0: for ever.", lower_bound=0.0
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
    absl_flags.DEFINE_integer(
        "local_ps", 0, "How many parameter servers --local_workers starts beside the workers.", lower_bound=0
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
    flags.main(run)
