"""A training run in its train_dir: where it stands, what it records, and its session.

A script makes a Run first, which says at which step training continues, builds the graph with that step's input, and
calls Run.train.
"""

import datetime
import json
import os
import platform
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10 import checkpoints, hooks, summaries
from cifar10.errors import RunError

RECORD = "runs.jsonl"  # one line a start and a stop
METRICS = "metrics.jsonl"  # what the console prints, to the last digit
FINISHED = "max_steps"  # the reason of a stop after which no checkpoint follows


class Run:
    """One stretch of training in train_dir, from the newest readable checkpoint or from the beginning.

    Attributes:
      train_dir: the folder.
      checkpoint: path of the checkpoint that training continues from, or None.
      start_step: int, the global step it is of.
    """

    def __init__(self, train_dir, restart=False):
        """Looks into train_dir, changing nothing but for `restart`, which moves what is there aside.

        Raises:
          RunError: train_dir holds files but no run, or its checkpoints cannot be read, or it cannot be written.
        """
        self.train_dir = train_dir
        _refuse_foreign_files(train_dir)
        if restart and os.path.isdir(train_dir) and os.listdir(train_dir):
            _move_aside(train_dir)
        self.checkpoint = checkpoints.newest_readable(train_dir)
        if self.checkpoint is None and checkpoints.paths(train_dir):
            raise RunError(
                f"{train_dir}: none of its checkpoints can be read; --restart moves them aside and begins anew"
            )
        self.start_step = 0
        if self.checkpoint is not None:
            self.start_step = int(tf.train.load_variable(self.checkpoint, "global_step"))
        try:
            os.makedirs(train_dir, exist_ok=True)
            self.record(
                "start",
                step=self.start_step,
                program=os.path.basename(sys.argv[0]),
                arguments=sys.argv[1:],
                versions={
                    "python": platform.python_version(),
                    "tensorflow": tf.version.VERSION,
                    "numpy": np.__version__,
                },
            )
        except OSError as error:
            raise RunError(f"{train_dir}: cannot be written ({error.strerror}); choose another --train_dir") from None

    def record(self, event, **values):
        """Appends one line to the run's record."""
        _append(os.path.join(self.train_dir, RECORD), {"event": event, **values})

    def log_metrics(self, values):
        """Appends one line to the run's metrics."""
        _append(os.path.join(self.train_dir, METRICS), values)

    def train(
        self,
        train_op,
        loss,
        learning_rate,
        max_steps,
        batch_size,
        num_towers=1,
        log_frequency=10,
        save_checkpoint_secs=600,
        save_checkpoint_steps=0,
        keep_checkpoints=5,
        save_summaries_steps=100,
        config=None,
        master="",
        before_step=None,
    ):
        """Trains the current graph up to global step max_steps, and saves.

        Args:
          train_op: op that runs one step and increments the global step.
          loss: float32 scalar, shown and watched for NaN.
          learning_rate: float32 scalar, named when the loss is not finite.
          max_steps: the global step at which to stop.
          batch_size: pictures a step and tower.
          num_towers: number of towers.
          log_frequency: steps between two lines on the console; 0: none.
          save_checkpoint_secs: seconds between two checkpoints.
          save_checkpoint_steps: if not 0, steps between two checkpoints, instead of seconds.
          keep_checkpoints: number of checkpoints kept; 0: all.
          save_summaries_steps: steps between two summaries; 0: none.
          config: tf.ConfigProto of the session.
          master: the server that the session is with, or "" for none.
          before_step: function (session, step, interrupted) that returns when the step can be run, or None; interrupted
            is a function that returns whether the program is to end.

        Raises:
          RunError: the loss is not finite.
        """
        saver = tf.train.Saver(max_to_keep=keep_checkpoints, save_relative_paths=True)
        saver.recover_last_checkpoints(checkpoints.paths(self.train_dir))
        writer = tf.summary.FileWriter(self.train_dir)
        save = hooks.SaveHook(self, saver, writer, save_checkpoint_secs, save_checkpoint_steps)
        console = hooks.ConsoleHook(self, loss, learning_rate, batch_size, num_towers, log_frequency, save)
        run_hooks = [console, save]
        if save_summaries_steps:
            run_hooks.insert(1, hooks.SummaryHook(self, summaries.merged(), writer, save_summaries_steps))
        try:
            with tf.train.SingularMonitoredSession(
                run_hooks,
                hooks.Scaffold(saver=saver),
                master,
                config,
                checkpoint_filename_with_path=self.checkpoint,
            ) as session:
                for step in range(self.start_step, max_steps):
                    if before_step is not None:
                        before_step(session.raw_session(), step, lambda: False)
                    _run_step(session, train_op, console)
        except BaseException as error:
            self.record("stop", step=save.step, reason=checkpoints.reason(error))
            raise
        finally:
            writer.close()
        self.record("stop", step=save.step, reason=FINISHED)


def is_final(train_dir, step):
    """Returns whether the run in train_dir has ended at this step, so that no newer checkpoint is to come."""
    try:
        with open(os.path.join(train_dir, RECORD)) as lines:
            last = json.loads(lines.readlines()[-1])
    except (OSError, IndexError, ValueError):
        return False  # no record: a run of the original tutorial's scripts, or one that has just begun
    return last["event"] == "stop" and last["reason"] == FINISHED and last["step"] <= step


def _run_step(session, train_op, console):
    try:
        session.run(train_op)
    except tf.errors.InvalidArgumentError as error:
        if "summary histogram" not in error.message:  # "Nan in summary histogram for: …", before the loss is looked at
            raise
        raise console.diverged("a weight, activation or gradient is not finite") from None


def _refuse_foreign_files(train_dir):
    """Raises RunError for a folder of somebody else's files: a train_dir is empty, or has a run's files in it."""
    if not os.path.isdir(train_dir):
        if os.path.lexists(train_dir):
            raise RunError(f"{train_dir}: is a file; choose another --train_dir")
        return
    names = sorted(os.listdir(train_dir))
    of_a_run = (RECORD, METRICS, "checkpoint", "graph.pbtxt", "events.out.tfevents", checkpoints.NAME)
    if names and not any(name.startswith(of_a_run) for name in names):
        raise RunError(f"{train_dir}: holds {names[0]!r} and no training run; choose an empty or a new --train_dir")


def _move_aside(train_dir):
    aside = f"{train_dir.rstrip(os.sep)}.{datetime.datetime.now():%Y%m%d-%H%M%S}"
    try:
        os.rename(train_dir, aside)
    except OSError as error:
        raise RunError(f"{train_dir}: cannot be moved to {aside} ({error.strerror}); move it away by hand") from None
    print(f"Moved the old run to {aside}", flush=True)


def _append(path, values):
    with open(path, "a") as file:
        file.write(json.dumps({"time": datetime.datetime.now().astimezone().isoformat(), **values}) + "\n")
