"""A training run in its train_dir: where it stands, what it records, and its session.

A script makes a Run first, which says at which step training continues, builds the graph with that step's input, and
calls Run.train.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import os
import time
import typing

import tensorflow.compat.v1 as tf

from cifar10.errors import Lost, RunError, reason, refuse_scheme
from cifar10.machine import locks, signals, terminal
from cifar10.network import summaries
from cifar10.runs import checkpoints, events, fitting, history, hooks, profiling
from cifar10.runs.journal import Journal

LOCK = "trainer.lock"
# What makes a run that is continued another one than it was: {name on record: what it means}.
SAID_IF_CHANGED = {
    "batch_size": "images a step",
    "recipe": "recipe",
    "hyper_parameters": "hyper-parameters",
    "max_steps": "last step",
    "seed": "seed",
    "lrn": "--lrn",
    "conv": "--conv",
    "use_fp16": "--use_fp16",
}

# The tutorial's, ours, and those of a run that was killed while it began.
NAMES_OF_A_RUN = (
    *(history.RECORD, history.METRICS, LOCK, checkpoints.STATE, checkpoints.SAVING, checkpoints.NAME),
    *(hooks.GRAPH, "events.out.tfevents"),
)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Where a training is kept, when it ends, and how often what is done beside its steps.

    Attributes:
      train_dir: the folder of the run.
      restart: whether to move what is there aside and begin anew, instead of continuing it.
      max_steps: the global step at which to stop; None: the recipe's own.
      log_frequency: steps between two lines on the console; 0: none.
      save_checkpoint_secs: seconds between two checkpoints.
      save_checkpoint_steps: if not 0, steps between two checkpoints, instead of seconds.
      keep_checkpoints: number of checkpoints kept; 0: all.
      save_summaries_steps: steps between two summaries; 0: none.
      profile_steps: the steps to trace, as 'a,b', or None: see profiling.parse.
      init_from: path of the checkpoint that a new run takes its first weights from, or None.
    """

    train_dir: str
    restart: bool = False
    max_steps: int | None = None
    log_frequency: int = 10
    save_checkpoint_secs: int = 600
    save_checkpoint_steps: int = 0
    keep_checkpoints: int = 5
    save_summaries_steps: int = 100
    profile_steps: str | None = None
    init_from: str | None = None


class TrainingGraph(typing.NamedTuple):
    """What a run needs of the graph that it trains.

    Attributes:
      train_op: op that runs one step and increments the global step.
      loss: float32 scalar, shown and watched for NaN.
      learning_rate: float32 scalar, named when the loss is not finite.
      wait_ms: float64 scalar, the milliseconds that a step waits for its batch.
      initial: (variable, array) pairs: what a new run begins with otherwise than its initializers say.
    """

    train_op: tf.Operation
    loss: tf.Tensor
    learning_rate: tf.Tensor
    wait_ms: tf.Tensor
    initial: typing.Sequence = ()


class Run:
    """One stretch of training in train_dir, from the newest readable checkpoint (D2) or from the beginning.

    A context manager, which holds train_dir's lock: one trainer at a time.

    Attributes:
      train_dir: the folder.
      checkpoint: path of the newest checkpoint: first the one that training continues from, or None.
      start_step: int, the global step it continues from.
      step: int, the number of steps done, those before start_step included.
      learning_rate, loss: floats, of the newest step, or None.
      paused_secs: seconds that this process spent between steps on what is not training.
      enough: whether to stop before max_steps, which what goes on beside the steps may set.
    """

    def __init__(self, train_dir, restart=False, description=None):
        """Opens the run in train_dir, or begins one.

        Args:
          train_dir: the folder, made if it is not there.
          restart: whether to move what is there aside and begin anew.
          description: {name: value} of what is recorded of this start; `dataset`, `classes`, `data`, `model`,
            `image_size` and `num_held_out` must be those of the start before it.

        Raises:
          RunError: train_dir holds files but no run, or another trainer is at work in it, or its checkpoints cannot be
            read, or are of another data set or network, or it cannot be written.
        """
        description = description or {}
        self.train_dir = train_dir
        self.checkpoint = self.learning_rate = self.loss = None
        self.start_step = self.step = 0
        self.paused_secs = 0.0
        self.enough = False
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
                if self.checkpoint:
                    self.start_step = self.step = checkpoints.global_step(self.checkpoint) or 0
                self._say_changes(description)
                description = self._without_other_beginning(description)
                self._start = {"step": self.start_step, **history.program(), **description}
                self.record("start", **self._start)
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
        if self.checkpoint is None and (lost := checkpoints.lost(self.train_dir)):
            raise RunError(
                f"{self.train_dir}: holds a part of the checkpoint {lost}, which cannot be read without the rest; put "
                "its other files there, or --restart, which moves it aside and begins anew"
            )
        if not self.checkpoint:
            return
        refuse_other(self.train_dir, description)
        if other := history.other_images(self.train_dir, description.get("classes"), description.get("data", {})):
            raise RunError(
                f"{self.train_dir}: {other}; choose the --data_dir of those, or another --train_dir, or --restart"
            )
        before, now = history.recorded(self.train_dir, "num_held_out") or 0, description.get("num_held_out", 0)
        if now != before:
            spoilt = (
                "and not on those images" if now < before else f"so on some of the images that {now} would hold out"
            )
            raise RunError(
                f"{self.train_dir}: was trained with --num_held_out={before}, {spoilt}; choose that, or another "
                "--train_dir, or --restart"
            )

    def _say_changes(self, description):
        """Says in a line what a run that is continued goes on with otherwise than before."""
        changes = []
        for name, meaning in SAID_IF_CHANGED.items():
            before, now = history.recorded(self.train_dir, name), description.get(name)
            if self.checkpoint and before is not None and now is not None and before != now:
                changes.append(f"{meaning} {now} (before: {before})")
        if changes:
            print(
                f"{self.train_dir}: goes on from step {self.start_step} with {', '.join(changes)}; learning rate: "
                f"{description['learning_rate']}",
                flush=True,
            )

    def _without_other_beginning(self, description):
        """Returns the description without an `init_from` that the run did not begin with, and says that in a line."""
        init_from, begun_with = description.get("init_from"), history.recorded(self.train_dir, "init_from")
        if not self.checkpoint or not init_from:
            return description
        if begun_with and os.path.realpath(begun_with) == os.path.realpath(init_from):
            return description
        print(
            f"{self.train_dir}: goes on with its own weights; --init_from={init_from} is for a new run: choose another "
            "--train_dir, or --restart",
            flush=True,
        )
        return {name: value for name, value in description.items() if name != "init_from"}

    def ensure_record(self):
        """Begins the lock and the record anew if somebody has moved or deleted them, or all of train_dir.

        Without them another trainer might come in, and what is saved be taken for a network of CIFAR-10.

        Raises:
          RunError: another trainer is at work in it already.
          OSError: it cannot be written.
        """
        if not os.path.lexists(os.path.join(self.train_dir, LOCK)):
            self._take_lock(self._lock)
        if not os.path.lexists(self._record.path):
            self.record("start", **self._start)
            print(f"{self._record.path}: was moved or deleted; begun anew, for what is saved from here on", flush=True)

    def record(self, event, **values):
        """Appends one line to the run's record."""
        self._record.append({"event": event, **values})

    def clock(self):
        """Returns the time in seconds, as a clock that stands while training pauses shows it."""
        return time.monotonic() - self.paused_secs

    def evaluations(self):
        """Returns the lines of the run's metrics that evaluations between its steps wrote, oldest first."""
        return history.evaluations(self.train_dir)

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
        """Returns the error that says so in one line, to be raised at that step (D9)."""
        rate = "" if self.learning_rate is None else f" at learning rate {self.learning_rate:g}"
        last = self.checkpoint or "not there: none was saved"
        return RunError(
            f"step {step}: {what}{rate}; training diverged. The last good checkpoint is {last}; choose a lower "
            "--learning_rate"
        )

    def train(self, graph, step, options, opening=None, validation=None):
        """Trains the current graph up to global step options.max_steps, and saves; a signal stops it after a step.

        Args:
          graph: the TrainingGraph.
          step: the steps.Step that it was built by.
          options: the RunOptions, with max_steps.
          opening: None, or the tf.Summary to begin with: see dashboards.opening.
          validation: None, or the validation.Validation, whose hooks go on beside the steps.

        Raises:
          RunError: the loss or a variable is not finite, the checkpoint is of another network, or the run cannot be
            saved.
          signals.Interrupted: SIGTERM, SIGINT or SIGHUP came; the run was saved.
          Lost: one of step.lost came; the run was saved.
        """
        savers = checkpoints.savers()
        with (
            self._restorable() as restorable,
            signals.deferred() as request,
            events.EventFile(self.train_dir) as event_file,
        ):
            event_file.add_start(self.start_step)
            if opening is not None:
                event_file.add_summary(opening, self.start_step)
            save = hooks.SaveHook(self, savers, event_file, options, request)
            chosen = self._hooks(graph, step, options, save, event_file)
            with tf.train.SingularMonitoredSession(
                chosen + (validation.hooks(self, save, options.max_steps) if validation else []),
                hooks.Scaffold(saver=savers.checkpoint, init_fn=lambda _, session: _assign(session, graph.initial)),
                step.target,
                step.session_config(),
                checkpoint_filename_with_path=restorable,
            ) as session:
                run_step = self._run_first_step
                try:
                    # None at max_steps (D8), where StopAtStepHook would run one more step.
                    while self.step < options.max_steps and not request.signum and not self.enough:
                        run_step(session, graph.train_op, request)
                        run_step = self._run_step
                except step.lost:
                    print(f"step {self.step}: lost another process; saving", flush=True)
                    save.end(session.raw_session())
                    if not request.signum:
                        raise Lost(f"saved as {self.checkpoint}") from None
            if request.signum:
                raise self._interrupted(request)
        self._record_stop(history.STOPPED_EARLY if self.enough else history.FINISHED)

    def _hooks(self, graph, step, options, save, event_file):
        """Returns what goes on beside the steps: console, summaries, checkpoints, traces."""
        chosen = [hooks.ConsoleHook(self, graph, step, options.log_frequency, event_file)]
        if every_steps := options.save_summaries_steps:
            chosen.append(hooks.SummaryHook(self, summaries.merged(), event_file, every_steps))
        chosen.append(save)
        if terminal.is_there():
            chosen.append(hooks.ProgressHook(self, options.max_steps))
        if every_steps:
            chosen.append(hooks.InputWaitHook(self, graph.wait_ms, event_file, every_steps))
        if steps := profiling.parse(options.profile_steps, options.max_steps):
            chosen.append(profiling.ProfileHook(self, event_file, steps))
        return step.hooks(save) + chosen  # its own first: it may hold back what has ended, before anybody counts it

    @contextlib.contextmanager
    def _restorable(self):
        """Gives the path of what the graph's variables are restored from, which is None at the beginning of a run."""
        if self.checkpoint is None:
            yield None
            return
        expected = {variable.op.name: variable for variable in tf.global_variables()}
        if difference := fitting.difference(self.checkpoint, expected):
            raise RunError(f"{self.checkpoint}: {difference}")
        with fitting.fitted(self.checkpoint, expected) as path:
            yield path

    def _run_first_step(self, session, train_op, request):
        """Runs a step that may have to wait for its input: a signal cancels it, which loses nothing."""

        def run_in_thread():
            with session.graph.as_default():  # each thread has a default graph of its own
                self._run_step(session, train_op, request)

        # A signal cannot interrupt session.run, which is in C++ and may wait for minutes while a queue fills. So this
        # thread looks for signals while another runs the step; closing the session cancels it. Later steps are short.
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
            if error.op is None or error.op.type != "HistogramSummary":  # which sees it before the loss does
                raise
            raise self.diverged(self.step, "a weight, activation or gradient is not finite") from None

    def _interrupted(self, request):
        return signals.Interrupted(request.signum, f" at step {self.step}; saved as {self.checkpoint}")

    def _record_stop(self, reason):
        try:
            self.record("stop", step=self.step, reason=reason)
        except OSError as error:
            print(f"{self._record.path}: cannot be written ({error.strerror})", flush=True)


def _assign(session, values):
    """Gives variables other values, as (variable, array) pairs."""
    for variable, value in values:
        session.run(variable.initializer, {variable.initializer.inputs[1]: value})


def refuse_other(train_dir, description):
    """Raises RunError if a run goes on with another `dataset`, `model` or `image_size` than it has on record."""
    for flag in ("dataset", "model", "image_size"):
        before, now = history.recorded(train_dir, flag), description.get(flag)
        if before and now and before != now:
            raise RunError(
                f"{train_dir}: was trained with --{flag}={before}, not {now}; choose that, or another --train_dir, or "
                "--restart"
            )


def check(train_dir):
    """Looks whether train_dir can be trained in, and changes nothing.

    Raises:
      UserError: it has a scheme.
      RunError: it cannot be written, is no folder, or a folder of somebody else's files (D3): a train_dir is empty, or
        has a run's files in it. Or what training replaces, and does not read before, is there as another kind of file.
    """
    refuse_scheme(train_dir, train_dir)
    existing = os.path.abspath(train_dir)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        raise RunError(f"{existing}: is a file; choose another --train_dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"{existing}: cannot be written; choose another --train_dir")
    if os.path.isdir(train_dir):
        try:
            names = sorted(os.listdir(train_dir))
        except OSError as error:
            raise RunError(f"{train_dir}: cannot be read ({error.strerror}); choose another --train_dir") from None
        if names and not any(name.startswith(NAMES_OF_A_RUN) for name in names) and not checkpoints.paths(train_dir):
            raise RunError(f"{train_dir}: holds {names[0]!r} and no training run; choose an empty or a new --train_dir")
        for name, is_right, kind in (
            (checkpoints.STATE, os.path.isfile, "regular file"),
            (hooks.GRAPH, os.path.isfile, "regular file"),
            (checkpoints.SAVING, os.path.isdir, "folder"),
        ):
            path = os.path.join(train_dir, name)
            if os.path.lexists(path) and not is_right(path):
                raise RunError(f"{path}: is no {kind}, as training needs it to be; move it away")


def _cannot_write(train_dir, error):
    path = error.filename or train_dir
    return RunError(f"{path}: cannot be written ({error.strerror}); choose another --train_dir")


def _move_aside(train_dir):
    aside = f"{train_dir.rstrip(os.sep)}.{datetime.datetime.now():%Y%m%d-%H%M%S}"
    try:
        os.rename(train_dir, aside)
    except OSError as error:
        raise RunError(f"{train_dir}: cannot be moved to {aside} ({error.strerror}); move it away by hand") from None
    print(f"Moved the old run to {aside}", flush=True)
