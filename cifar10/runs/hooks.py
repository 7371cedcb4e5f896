"""What goes on beside the steps of a training run: its console, its event file, its checkpoints."""

import datetime
import errno
import math
import threading
import time

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10.errors import RunError, reason
from cifar10.machine import terminal
from cifar10.network import summaries
from cifar10.runs import checkpoints

GRAPH = "graph.pbtxt"  # in train_dir, for people and tools
CANNOT_SAVE = (OSError, tf.errors.OpError)  # what checkpoints.save raises
MAX_FAILED_SAVES = 10  # in a row, before training gives up
PAUSE_SECS = 30.0  # between two attempts to save the final checkpoint
UNLOGGED_STEPS = 100  # between two looks at the variables, where the console has no lines
CLOCK_SECS = 1e-6  # the least time between two looks at a clock, which may not have moved on
HOUSEKEEPING = "housekeeping/"  # name scope of ops that are not the network's


class Scaffold(tf.train.Scaffold):
    """Keeps the ops that every session needs out of the graph's first level, where TensorBoard shows the layers."""

    def finalize(self):
        with tf.name_scope(HOUSEKEEPING):
            return super().finalize()


class StepHook(tf.train.SessionRunHook):
    """Counts the global step (D11) in Python: reading the variable while a step runs may see it before or after."""

    def __init__(self, run):
        self.run = run
        self.step = run.start_step  # the step about to run; the number of steps done

    def after_run(self, run_context, run_values):
        self.after_step(self.step, run_values.results)
        self.step += 1

    def after_step(self, step, results):
        """Called after step number `step`, with what the hook's before_run asked for."""


class ConsoleHook(StepHook):
    """Prints, records and charts the tutorial's line every few steps; stops training whose values are not finite.

    A loss is not enough to tell: on CPUs, pooling drops NaN and the rectifier may make 0 of it, so that a convolution
    of NaN alone leaves the loss finite.
    """

    def __init__(self, run, graph, step, log_frequency, event_file):
        super().__init__(run)
        self._fetches = {"loss": graph.loss, "learning_rate": graph.learning_rate}
        self._batch_size = step.batch_size
        self._num_slices = step.num_slices
        self._log_frequency = log_frequency
        self._event_file = event_file
        self._start_time = run.clock()
        self._steps = 0
        self._session = None
        self._variables = tf.trainable_variables()
        with tf.name_scope(HOUSEKEEPING):
            # A sum is finite if all that is summed is, and takes one pass over memory.
            self._sums = [tf.reduce_sum(variable) for variable in self._variables]

    def begin(self):
        self._start_time = self.run.clock()

    def after_create_session(self, session, coord):
        self._session = session

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._fetches)

    def after_step(self, step, results):
        loss = float(results["loss"])
        self.run.learning_rate = float(results["learning_rate"])
        self.run.loss = loss
        if not math.isfinite(loss):
            raise self.run.diverged(step, f"the loss is {loss}")
        self._steps += 1
        if step % (self._log_frequency or UNLOGGED_STEPS) == 0:
            self._check_variables(step)
        if not self._log_frequency or step % self._log_frequency:
            return
        now = self.run.clock()
        duration = max(now - self._start_time, CLOCK_SECS) / self._steps
        self._start_time, self._steps = now, 0
        examples_per_sec = self._num_slices * self._batch_size / duration
        sec_per_batch = duration / self._num_slices
        print(
            f"{datetime.datetime.now()}: step {step}, loss = {loss:.2f} "
            f"({examples_per_sec:.1f} examples/sec; {sec_per_batch:.3f} sec/batch)",
            flush=True,
        )
        values = {"loss": loss, "examples_per_sec": examples_per_sec, "sec_per_batch": sec_per_batch}
        self.run.log_metrics({"step": step, **values})
        self._event_file.add_summary(summaries.scalars({f"console/{name}": values[name] for name in values}), step)

    def _check_variables(self, step):
        for variable, value in zip(self._variables, self._session.run(self._sums), strict=True):
            if not math.isfinite(value):
                raise self.run.diverged(step, f"{variable.op.name} is not finite")


class SummaryHook(StepHook):
    """Writes the summaries of every so many steps, and the speed, into the run's event file."""

    def __init__(self, run, summary_op, event_file, every_steps):
        super().__init__(run)
        self._summary_op = summary_op
        self._event_file = event_file
        self._every_steps = every_steps
        self._last = None

    def before_run(self, run_context):
        due = self.step % self._every_steps == 0
        return tf.train.SessionRunArgs(self._summary_op) if due else None

    def after_step(self, step, results):
        if results is None:
            return
        self._event_file.add_summary(results, step)
        now = self.run.clock()
        if self._last is not None:
            speed = self._every_steps / max(now - self._last, CLOCK_SECS)
            self._event_file.add_summary(
                tf.Summary(value=[tf.Summary.Value(tag="global_step/sec", simple_value=speed)]), step
            )
        self._last = now


class ProgressHook(StepHook):
    """Shows on a terminal which step it is of how many, and how long the rest will take."""

    def __init__(self, run, max_steps):
        super().__init__(run)
        self._progress = terminal.Progress("step", max_steps)

    def after_step(self, step, results):
        self._progress.show(step + 1)

    def end(self, session):
        self._progress.close()


class InputWaitHook(StepHook):
    """Charts how long a step waits for its batch, in milliseconds: the mean of the steps between two summaries.

    Those with summaries do not count, because they have histograms to compute before they look for their batch; nor
    does the first, which starts the input.
    """

    def __init__(self, run, wait_ms, event_file, every_steps):
        super().__init__(run)
        self._wait_ms = wait_ms
        self._event_file = event_file
        self._every_steps = every_steps
        self._waits = []

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._wait_ms)

    def after_step(self, step, results):
        if step % self._every_steps:  # a step without summaries
            self._waits += [results] if step > self.run.start_step else []
        elif self._waits:
            mean = sum(self._waits) / len(self._waits)
            self._event_file.add_summary(summaries.scalars({"input/wait_ms": mean}), step)
            self._waits = []


class SaveHook(StepHook):
    """Saves a checkpoint at the beginning, every so often, and at the end; never one with values that are not finite.

    A disk that is full, or away, ends no run: training goes on, and a later save may succeed.
    """

    def __init__(self, run, savers, event_file, options, request):
        super().__init__(run)
        self._savers = savers
        self._event_file = event_file
        steps = options.save_checkpoint_steps
        self._timer = tf.train.SecondOrStepTimer(
            every_secs=None if steps else options.save_checkpoint_secs, every_steps=steps or None
        )
        self._keep = options.keep_checkpoints
        self._request = request
        self._failures = 0
        self._session = None
        self._lock = threading.Lock()  # a step of several machines may be given up by another thread
        self._variables = [variable for variable in tf.global_variables() if variable.dtype.is_floating]
        self._all = [tf.train.get_global_step(), *tf.global_variables(), *tf.local_variables()]
        with tf.name_scope(HOUSEKEEPING):
            self._finite = [tf.reduce_all(tf.math.is_finite(variable)) for variable in self._variables]

    def after_create_session(self, session, coord):
        self._session = session
        self._timer.update_last_triggered_step(self.step)
        try:
            tf.train.write_graph(session.graph.as_graph_def(add_shapes=True), self.run.train_dir, GRAPH)
            self._event_file.add_graph(session.graph)
            if self.run.checkpoint is None:
                self._save(self.step)
            else:
                self._restore_state()
        except CANNOT_SAVE as error:
            raise self._given_up(self.step, error) from None

    def after_step(self, step, results):
        self.run.step = step + 1
        if self._timer.should_trigger_for_step(step + 1):
            self._timer.update_last_triggered_step(step + 1)
            with self._lock:
                self._try_to_save(step + 1, "training goes on, and the next save may succeed")

    def end(self, session):
        with self._lock:
            self._save_at_last(self.step)

    def save_while_waiting(self):
        """Saves while a step waits for another process; returns whether it has waited all the time.

        To be called by another thread than that of the steps. Whoever is waited for may come at any moment, and the
        step change the variables while they are written. So they are read before and after: if they are the same, and
        those of the step's beginning, no update can have come between.
        """
        with self._lock:
            step, before = self.step, self._session.run(self._all)

            def has_waited():
                after = self._session.run(self._all)
                return before[0] == step and all(map(np.array_equal, before, after))

            self._save_at_last(step, has_waited)
            return checkpoints.step(self.run.checkpoint) == step

    def _save_at_last(self, step, still_valid=lambda: True):
        """Saves what must not be lost: tries until there is room, or a signal comes."""
        if self.run.checkpoint is not None and checkpoints.step(self.run.checkpoint) == step:
            return
        while not self._try_to_save(step, f"trying again every {PAUSE_SECS:g} s", still_valid):
            pause_ends = time.monotonic() + PAUSE_SECS
            while time.monotonic() < pause_ends and not self._request.signum:
                time.sleep(min(0.1, PAUSE_SECS))

    def _try_to_save(self, steps_done, consolation, still_valid=lambda: True):
        """Returns whether it was saved, and says what follows if not; gives up after too many failures."""
        try:
            self._save(steps_done, still_valid)
            self._failures = 0
            return True
        except CANNOT_SAVE as error:
            self._failures += 1
            if self._failures == MAX_FAILED_SAVES or self._request.signum:
                raise self._given_up(steps_done, error) from None
            print(
                f"{self.run.train_dir}: step {steps_done} cannot be saved ({reason(error)}); {consolation}",
                flush=True,
            )
            return False

    def save_into(self, directory, steps_done, keep, still_valid=lambda: True):
        """Saves a checkpoint in a directory, and returns its path; raises as checkpoints.save and Run.train do."""
        for variable, finite in zip(self._variables, self._session.run(self._finite), strict=True):
            if not finite:
                raise self.run.diverged(steps_done, f"{variable.op.name} is not finite")
        with self._session.graph.as_default():  # each thread has a default graph of its own
            return checkpoints.save(self._savers, self._session, directory, steps_done, keep, still_valid)

    def _save(self, steps_done, still_valid=lambda: True):
        self.run.ensure_record()
        path = self.save_into(self.run.train_dir, steps_done, self._keep, still_valid)
        self.run.checkpoint = path or self.run.checkpoint

    def _restore_state(self):
        """Restores what is saved beside the checkpoint, and says what of it is not there."""
        missing = checkpoints.restore_state(self._session, self.run.checkpoint)
        if missing:
            kinds = sorted({"momentum" if name.endswith("/Momentum") else "loss scale" for name in missing})
            print(
                f"{self.run.checkpoint}: has no {' and no '.join(kinds)} of its step beside it that can be read, which "
                "now begins anew; the run will not end as one that was never interrupted",
                flush=True,
            )

    def _given_up(self, steps_done, error):
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        is_full = is_full or isinstance(error, tf.errors.ResourceExhaustedError)
        return RunError(
            f"{self.run.train_dir}: step {steps_done} cannot be saved ({reason(error)}); "
            f"{'make room' if is_full else 'mend that'} and start again, which continues from "
            f"{self.run.checkpoint or 'the beginning'}"
        )
