"""What goes on beside the steps of a training run: its console, its event file, its checkpoints."""

import datetime
import math
import os
import time

import tensorflow.compat.v1 as tf

from cifar10 import checkpoints, summaries
from cifar10.errors import RunError


class Scaffold(tf.train.Scaffold):
    """Keeps the ops that every session needs out of the graph's first level, where TensorBoard shows the layers."""

    def finalize(self):
        with tf.name_scope("housekeeping"):
            return super().finalize()


class StepHook(tf.train.SessionRunHook):
    """Counts the global step in Python: reading the variable while a step runs may see it before or after."""

    def __init__(self, run):
        self.run = run
        self.step = run.start_step  # the step about to run; the number of steps done

    def after_run(self, run_context, run_values):
        self.after_step(self.step, run_values.results)
        self.step += 1

    def after_step(self, step, results):
        """Called after step number `step`, with what the hook's before_run asked for."""


class ConsoleHook(StepHook):
    """Prints, records and charts the tutorial's line every few steps; stops training whose loss is not finite."""

    def __init__(self, run, loss, learning_rate, batch_size, num_towers, log_frequency, save, writer):
        super().__init__(run)
        self._fetches = {"loss": loss, "learning_rate": learning_rate}
        self._batch_size = batch_size
        self._num_towers = num_towers
        self._log_frequency = log_frequency
        self._save = save
        self._writer = writer

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
        values = {"loss": loss, "examples_per_sec": examples_per_sec, "sec_per_batch": sec_per_batch}
        self.run.log_metrics({"step": step, **values})
        self._writer.add_summary(summaries.scalars({f"console/{name}": values[name] for name in values}), step)


class SummaryHook(StepHook):
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


class InputWaitHook(StepHook):
    """Charts how long a step waits for its batch, in milliseconds: the mean of the steps between two summaries.

    Those with summaries do not count, because they have histograms to compute before they look for their batch; nor
    does the first, which starts the input.
    """

    def __init__(self, run, wait_ms, writer, every_steps):
        super().__init__(run)
        self._wait_ms = wait_ms
        self._writer = writer
        self._every_steps = every_steps
        self._waits = []

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._wait_ms)

    def after_step(self, step, results):
        if step % self._every_steps:
            self._waits += [results] if step > self.run.start_step else []
        elif self._waits:
            mean = sum(self._waits) / len(self._waits)
            self._writer.add_summary(summaries.scalars({"input/wait_ms": mean}), step)
            self._waits = []


class SaveHook(StepHook):
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
        self._session = session
        if self.last is None:
            self._save(self.step)

    def after_step(self, step, results):
        if self._timer.should_trigger_for_step(step + 1):
            self._timer.update_last_triggered_step(step + 1)
            self._save(step + 1)

    def end(self, session):
        if checkpoints.step(self.last) != self.step:
            self._save(self.step)

    def _save(self, steps_done):
        path = os.path.join(self.run.train_dir, checkpoints.NAME)
        self.last = self._saver.save(self._session, path, global_step=steps_done)
