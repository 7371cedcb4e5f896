"""A training run in its train_dir: where it stands, what it records, and its session.

A script makes a Run first, which says at which step training continues, builds the graph with that step's input, and
calls Run.train.
"""

import concurrent.futures
import contextlib
import datetime
import os

import tensorflow.compat.v1 as tf

from cifar10.errors import RunError, reason
from cifar10.machine import locks, signals
from cifar10.network import summaries
from cifar10.runs import checkpoints, events, history, hooks, profiling
from cifar10.runs.journal import Journal

LOCK = "trainer.lock"

# The tutorial's, ours, and those of a run that was killed while it began.
NAMES_OF_A_RUN = (
    *(history.RECORD, history.METRICS, LOCK, checkpoints.STATE, checkpoints.SAVING, checkpoints.NAME),
    *("graph.pbtxt", "events.out.tfevents"),
)


class Run:
    """One stretch of training in train_dir, from the newest readable checkpoint or from the beginning.

    A context manager, which holds train_dir's lock: one trainer at a time.

    Attributes:
      train_dir: the folder.
      checkpoint: path of the newest checkpoint: first the one that training continues from, or None.
      start_step: int, the global step it continues from.
      step: int, the number of steps done, those before start_step included.
      learning_rate: float, of the newest step, or None.
    """

    def __init__(self, train_dir, restart=False, **description):
        """Opens the run in train_dir, or begins one.

        Args:
          train_dir: the folder, made if it is not there.
          restart: whether to move what is there aside and begin anew.
          **description: what is recorded of this start; `dataset` and `model` must be those of the starts before it,
            and `num_held_out` no more than that.

        Raises:
          RunError: train_dir holds files but no run, or another trainer is at work in it, or its checkpoints cannot be
            read, or are of another data set or network, or it cannot be written.
        """
        self.train_dir = train_dir
        self.learning_rate = None
        self._told_of_metrics = False
        self._record = Journal(os.path.join(train_dir, history.RECORD))
        self._metrics = Journal(os.path.join(train_dir, history.METRICS))
        check(train_dir)
        with contextlib.ExitStack() as stack:
            try:
                self._take_lock(stack)
                if restart and os.listdir(train_dir) != [LOCK]:
                    _move_aside(train_dir)
                    self._take_lock(stack)
                self.checkpoint = checkpoints.newest_readable(train_dir)
                self._refuse_other_runs(description)
                checkpoints.settle(train_dir, self.checkpoint)
                self.start_step = self.step = checkpoints.step(self.checkpoint) if self.checkpoint else 0
                self.record("start", step=self.start_step, **history.program(), **description)
            except OSError as error:
                raise _cannot_write(train_dir, error) from None
            self._lock = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, _, error, traceback):
        if error is not None:
            name = error.name if isinstance(error, signals.Interrupted) else reason(error)
            self._record_stop(name)
        self._lock.close()

    def _take_lock(self, stack):
        def busy(holder):
            raise RunError(
                f"{self.train_dir}: {holder} is training in it; wait for its end, or choose another --train_dir"
            )

        os.makedirs(self.train_dir, exist_ok=True)
        stack.enter_context(locks.held(os.path.join(self.train_dir, LOCK), busy))

    def _refuse_other_runs(self, description):
        if self.checkpoint is None and checkpoints.paths(self.train_dir):
            raise RunError(
                f"{self.train_dir}: none of its checkpoints can be read; --restart moves them aside and begins anew"
            )
        for flag in ("dataset", "model"):
            before, now = history.recorded(self.train_dir, flag), description.get(flag)
            if self.checkpoint and before and now and before != now:
                raise RunError(
                    f"{self.train_dir}: was trained with --{flag}={before}, not {now}; choose that, or another "
                    "--train_dir, or --restart"
                )
        before, now = history.recorded(self.train_dir, "num_held_out") or 0, description.get("num_held_out", 0)
        if self.checkpoint and now > before:
            raise RunError(
                f"{self.train_dir}: was trained with --num_held_out={before}, so on some of the images that {now} "
                "would hold out; choose that, or another --train_dir, or --restart"
            )

    def record(self, event, **values):
        """Appends one line to the run's record."""
        self._record.append({"event": event, **values})

    def log_metrics(self, values):
        """Appends one line to the run's metrics; a disk that is full is reported once and ends nothing."""
        try:
            self._metrics.append(values)
            self._told_of_metrics = False
        except OSError as error:
            if not self._told_of_metrics:
                print(f"{self._metrics.path}: cannot be written ({error.strerror}); going on without it", flush=True)
            self._told_of_metrics = True

    def diverged(self, step, what):
        """Returns the error that says so, to be raised at that step."""
        rate = "" if self.learning_rate is None else f" at learning rate {self.learning_rate:g}"
        last = self.checkpoint or "not there: none was saved"
        return RunError(f"step {step}: {what}{rate}; training diverged. The last good checkpoint is {last}")

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
        profile_steps=(),
        opening=None,
        config=None,
        master="",
        before_step=None,
    ):
        """Trains the current graph up to global step max_steps, and saves; a signal stops it at the end of a step.

        Args:
          train_op: op that runs one step and increments the global step.
          loss: float32 scalar, shown and watched for NaN.
          learning_rate: float32 scalar, named when the loss is not finite.
          max_steps: the global step at which to stop.
          batch_size: images a step and tower.
          num_towers: number of towers.
          log_frequency: steps between two lines on the console; 0: none.
          save_checkpoint_secs: seconds between two checkpoints.
          save_checkpoint_steps: if not 0, steps between two checkpoints, instead of seconds.
          keep_checkpoints: number of checkpoints kept; 0: all.
          save_summaries_steps: steps between two summaries; 0: none.
          profile_steps: the steps to trace: see profiling.ProfileHook.
          opening: None, or the tf.Summary to begin with: see dashboards.opening.
          config: tf.ConfigProto of the session.
          master: the server that the session is with, or "" for none.
          before_step: function (session, step, interrupted) that returns when the step can be run, or None; interrupted
            is a function that returns whether the program is to end.

        Raises:
          RunError: the loss or a variable is not finite, the checkpoint is of another network, or the run cannot be
            saved.
          signals.Interrupted: SIGTERM, SIGINT or SIGHUP came; the run was saved.
        """
        self._refuse_other_networks()
        saver = tf.train.Saver(max_to_keep=0)
        with signals.deferred() as request, events.EventFile(self.train_dir) as event_file:
            event_file.add_start(self.start_step)
            if opening is not None:
                event_file.add_summary(opening, self.start_step)
            console = hooks.ConsoleHook(self, loss, learning_rate, batch_size, num_towers, log_frequency, event_file)
            save = hooks.SaveHook(
                self, saver, event_file, save_checkpoint_secs, save_checkpoint_steps, keep_checkpoints, request
            )
            run_hooks = [console, save]
            if save_summaries_steps:
                run_hooks.insert(1, hooks.SummaryHook(self, summaries.merged(), event_file, save_summaries_steps))
                for wait_ms in tf.get_collection(summaries.WAIT_MS):
                    run_hooks.append(hooks.InputWaitHook(self, wait_ms, event_file, save_summaries_steps))
            if profile_steps:
                run_hooks.append(profiling.ProfileHook(self, event_file, profile_steps))
            with tf.train.SingularMonitoredSession(
                run_hooks,
                hooks.Scaffold(saver=saver),
                master,
                config,
                checkpoint_filename_with_path=self.checkpoint,
            ) as session:
                run_step = self._run_first_step
                while self.step < max_steps and not request.signum:
                    if before_step is not None:
                        before_step(session.raw_session(), self.step, lambda: bool(request.signum))
                    if not request.signum:
                        run_step(session, train_op, request)
                    run_step = self._run_step
            if request.signum:
                raise self._interrupted(request)
        self._record_stop(history.FINISHED)

    def _refuse_other_networks(self):
        if self.checkpoint is not None:
            expected = {variable.op.name: variable for variable in tf.global_variables()}
            if difference := checkpoints.difference(self.checkpoint, expected):
                raise RunError(f"{self.checkpoint}: {difference}")

    def _run_first_step(self, session, train_op, request):
        """Runs a step that may have to wait for its input: a signal cancels it, which loses nothing."""

        def run_in_thread():
            with session.graph.as_default():  # each thread has a default graph of its own
                self._run_step(session, train_op, request)

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(run_in_thread)
            while not concurrent.futures.wait([future], timeout=0.05).done:
                if request.signum:
                    session.raw_session().close()
                    raise self._interrupted(request)
            future.result()

    def _run_step(self, session, train_op, request):
        try:
            session.run(train_op)
        except tf.errors.InvalidArgumentError as error:
            if "summary histogram" not in error.message:  # "Nan in summary histogram for: …", before the loss is seen
                raise
            raise self.diverged(self.step, "a weight, activation or gradient is not finite") from None

    def _interrupted(self, request):
        return signals.Interrupted(request.signum, f" at step {self.step}; saved as {self.checkpoint}")

    def _record_stop(self, reason):
        try:
            self.record("stop", step=self.step, reason=reason)
        except OSError as error:
            print(f"{self._record.path}: cannot be written ({error.strerror})", flush=True)


def check(train_dir):
    """Looks whether train_dir can be trained in, and changes nothing.

    Raises:
      RunError: it cannot be written, is no folder, or a folder of somebody else's files: a train_dir is empty, or has a
        run's files in it.
    """
    existing = os.path.abspath(train_dir)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        raise RunError(f"{existing}: is a file; choose another --train_dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"{existing}: cannot be written; choose another --train_dir")
    if os.path.isdir(train_dir):
        names = sorted(os.listdir(train_dir))
        if names and not any(name.startswith(NAMES_OF_A_RUN) for name in names):
            raise RunError(f"{train_dir}: holds {names[0]!r} and no training run; choose an empty or a new --train_dir")


def _cannot_write(train_dir, error):
    return RunError(f"{train_dir}: cannot be written ({error.strerror}); choose another --train_dir")


def _move_aside(train_dir):
    aside = f"{train_dir.rstrip(os.sep)}.{datetime.datetime.now():%Y%m%d-%H%M%S}"
    try:
        os.rename(train_dir, aside)
    except OSError as error:
        raise RunError(f"{train_dir}: cannot be moved to {aside} ({error.strerror}); move it away by hand") from None
    print(f"Moved the old run to {aside}", flush=True)
