"""A training run in its train_dir: where it stands, what it prints, records and saves.

run = runs.open_run(train_dir, ...)      # resumes, or begins
with tf.Graph().as_default():
    ... build the graph, with input from run.start_step ...
    run.train(train_op, loss, learning_rate, ...)
"""

import datetime
import json
import math
import os
import platform
import sys
import time

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10 import checkpoints, summaries
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
        summary_op=None,
        config=None,
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
          summary_op: string tensor, or None for all the graph's summaries.
          config: tf.ConfigProto of the session.

        Raises:
          RunError: the loss is not finite.
        """
        saver = tf.train.Saver(max_to_keep=keep_checkpoints, save_relative_paths=True)
        saver.recover_last_checkpoints(checkpoints.paths(self.train_dir))
        writer = tf.summary.FileWriter(self.train_dir)
        save = _SaveHook(self, saver, writer, save_checkpoint_secs, save_checkpoint_steps)
        console = _ConsoleHook(self, loss, learning_rate, batch_size, num_towers, log_frequency, save)
        hooks = [console, save]
        if save_summaries_steps:
            summary_op = summaries.merged() if summary_op is None else summary_op
            hooks.insert(1, _SummaryHook(self, summary_op, writer, save_summaries_steps))
        try:
            with tf.train.SingularMonitoredSession(
                hooks, _Scaffold(saver=saver), config=config, checkpoint_filename_with_path=self.checkpoint
            ) as session:
                for _ in range(self.start_step, max_steps):
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


class _Scaffold(tf.train.Scaffold):
    """Keeps the ops that every session needs out of the graph's first level, where TensorBoard shows the layers."""

    def finalize(self):
        with tf.name_scope("housekeeping"):
            return super().finalize()


class _StepHook(tf.train.SessionRunHook):
    """Counts the global step in Python: reading the variable while a step runs may see it before or after."""

    def __init__(self, run):
        self.run = run
        self.step = run.start_step  # the step about to run; the number of steps done

    def after_run(self, run_context, run_values):
        self.after_step(self.step, run_values.results)
        self.step += 1


class _ConsoleHook(_StepHook):
    """Prints the tutorial's line every few steps, records it, and stops training whose loss is not finite."""

    def __init__(self, run, loss, learning_rate, batch_size, num_towers, log_frequency, save):
        super().__init__(run)
        self._fetches = {"loss": loss, "learning_rate": learning_rate}
        self._batch_size = batch_size
        self._num_towers = num_towers
        self._log_frequency = log_frequency
        self._save = save

    def begin(self):
        self._learning_rate = None
        self._start_time = time.time()
        self._steps = 0

    def diverged(self, what):
        """Returns the error that says so, to be raised at the current step."""
        rate = "" if self._learning_rate is None else f" at learning rate {self._learning_rate:g}"
        last = self._save.last or "not there: none was saved"
        return RunError(f"step {self.step}: {what}{rate}; training diverged. The last good checkpoint is {last}")

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._fetches)

    def after_step(self, step, results):
        loss = float(results["loss"])
        self._learning_rate = results["learning_rate"]
        if not math.isfinite(loss):
            raise self.diverged(f"the loss is {loss}")
        self._steps += 1
        if not self._log_frequency or step % self._log_frequency:
            return
        now = time.time()
        duration = (now - self._start_time) / self._steps
        self._start_time, self._steps = now, 0
        examples_per_sec = self._num_towers * self._batch_size / duration
        sec_per_batch = duration / self._num_towers
        print(
            f"{datetime.datetime.now()}: step {step}, loss = {loss:.2f} "
            f"({examples_per_sec:.1f} examples/sec; {sec_per_batch:.3f} sec/batch)",
            flush=True,
        )
        values = {"step": step, "loss": loss, "examples_per_sec": examples_per_sec, "sec_per_batch": sec_per_batch}
        _append(os.path.join(self.run.train_dir, METRICS), values)


class _SummaryHook(_StepHook):
    """Writes the summaries of every so many steps, and the speed, into the run's event file."""

    def __init__(self, run, summary_op, writer, every_steps):
        super().__init__(run)
        self._summary_op = summary_op
        self._writer = writer
        self._every_steps = every_steps
        self._last = None

    def before_run(self, run_context):
        due = self.step % self._every_steps == 0
        return tf.train.SessionRunArgs(self._summary_op) if due else None

    def after_step(self, step, results):
        if results is None:
            return
        self._writer.add_summary(results, step)
        now = time.time()
        if self._last is not None:
            speed = self._every_steps / (now - self._last)
            self._writer.add_summary(
                tf.Summary(value=[tf.Summary.Value(tag="global_step/sec", simple_value=speed)]), step
            )
        self._last = now


class _SaveHook(_StepHook):
    """Saves a checkpoint at the beginning, every so often, and at the end.

    Attributes:
      last: path of the newest checkpoint, or None.
    """

    def __init__(self, run, saver, writer, every_secs, every_steps):
        super().__init__(run)
        self._saver = saver
        self._writer = writer
        self._timer = tf.train.SecondOrStepTimer(
            every_secs=None if every_steps else every_secs, every_steps=every_steps or None
        )
        self.last = run.checkpoint

    def after_create_session(self, session, coord):
        tf.train.write_graph(session.graph.as_graph_def(add_shapes=True), self.run.train_dir, "graph.pbtxt")
        self._writer.add_graph(session.graph)
        self._timer.update_last_triggered_step(self.step)
        if self.last is None:
            self._save(session)

    def after_run(self, run_context, run_values):
        super().after_run(run_context, run_values)
        if self._timer.should_trigger_for_step(self.step):
            self._timer.update_last_triggered_step(self.step)
            self._save(run_context.session)

    def after_step(self, step, results):
        pass

    def end(self, session):
        if self.last is None or checkpoints.step(self.last) != self.step:
            self._save(session)

    def _save(self, session):
        path = os.path.join(self.run.train_dir, checkpoints.NAME)
        self.last = self._saver.save(session, path, global_step=self.step)


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
