"""Checkpoint -> precision @ 1."""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import errno
import os
import sys
import time

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input
from cifar10.data import datasets
from cifar10.errors import RunError, counted, reason, shortened
from cifar10.machine import devices, signals, terminal
from cifar10.network import microbatches, model, recipes, summaries
from cifar10.runs import checkpoints, dashboards, events, fitting, history
from cifar10.runs.journal import Journal

BATCHES_AT_ONCE = 2  # each of half as many images: a core that is done with one goes on with the next
MARK = "evaluated.jsonl"  # in eval_dir: of which run its curves are
POLL_SECS = 5.0  # between two looks for a new checkpoint or the end of the run
WAITING_LINE_SECS = 300.0  # between two lines that say what is waited for


@dataclasses.dataclass(frozen=True)
class Result:
    """How many of `total` images the checkpoint of global step `step` puts in their class."""

    step: int
    correct: int
    total: int

    @property
    def precision(self):
        return self.correct / self.total


class Evaluator:
    """The evaluation graph and its session, made once for all checkpoints."""

    def __init__(
        self,
        examples,
        num_examples,
        batch_size,
        network=model.Network(),  # noqa: B008 (frozen)
        use_moving_averages=True,
        class_names=None,
        num_views=1,
        image_size=datasets.IMAGE_SIZE,
    ):
        """Builds the graph.

        Args:
          examples: records.Examples.
          num_examples: number of images to evaluate, at most all; the first ones in file order.
          batch_size: images, or views of them, computed at the same time; the result does not depend on it.
          network: the model.Network.
          use_moving_averages: whether to restore the moving averages in place of the variables.
          class_names: None, or one name a class, with which TensorBoard shows what is mistaken for what.
          num_views: of each image, of whose probabilities the mean counts: see cifar10_input.passes.
          image_size: height and width of the crop that the network sees, in pixels.

        Raises:
          RunError: num_examples is more than there are.
        """
        if num_examples > examples.count:
            raise RunError(
                f"--num_examples={num_examples}: the data has only {counted(examples.count, 'image')}; give no more"
            )
        self._num_examples = num_examples
        self._images = examples.images[:num_examples]
        self._class_names = class_names
        facts = {
            **dashboards.program_facts(history.program()),
            "images evaluated": f"{num_examples:,} of {examples.count:,}",
        }
        self._opening = dashboards.opening(facts, class_names).SerializeToString()  # of the event file
        batch_size = min(max(1, batch_size // (num_views * BATCHES_AT_ONCE)), num_examples)
        self._num_batches = cifar10_input.num_batches(num_examples, batch_size)
        config = devices.session_config(microbatches.count(num_views * batch_size, network.microbatch_size))
        devices.set_process_threads(config)
        self.graph = tf.Graph()
        with self.graph.as_default():
            images, labels, numbers = cifar10_input.passes(examples, batch_size, num_examples, num_views, image_size)
            logits = network(images)
            with tf.name_scope("precision"):
                if num_views > 1:
                    probabilities = tf.reshape(tf.nn.softmax(logits), [num_views, batch_size, network.num_classes])
                    logits = tf.log(tf.reduce_mean(probabilities, axis=0))
                self._outcomes = {"number": numbers, **dashboards.outcomes(logits, labels)}
            self._summaries = summaries.merged()
            self._to_restore = {variable.op.name: variable for variable in tf.global_variables()}
            if use_moving_averages:
                averages = tf.train.ExponentialMovingAverage(recipes.MOVING_AVERAGE_DECAY)  # of which only names count
                self._to_restore = averages.variables_to_restore()
            self._saver = tf.train.Saver(self._to_restore)
            self._session = tf.Session(config=config)

    @property
    def restored(self):
        """The names, in a checkpoint, of the variables that it restores."""
        return list(self._to_restore)

    def evaluate(self, path):
        """Evaluates one checkpoint.

        Args:
          path: the checkpoint, `…/model.ckpt-<step>`.

        Returns:
          (Result, the summaries of its last batch and of all its mistakes as bytes).

        Raises:
          RunError: the checkpoint is missing, damaged or of another network.
        """
        try:
            difference = fitting.difference(path, self._to_restore)
            if not difference:
                with self.graph.as_default():  # or Saver takes it for eager execution
                    fitting.restore(self._saver, self._session, path, self._to_restore)
        except checkpoints.UNREADABLE as error:
            raise RunError(f"{path}: cannot be evaluated ({reason(error)})") from None
        if difference:
            raise RunError(f"{path}: {difference}")
        return self._measure(checkpoints.step(path))

    def evaluate_values(self, values, step):
        """Evaluates what a checkpoint of step `step` would hold, {name: array} of `restored`; returns the same."""
        for name, variable in self._to_restore.items():
            self._session.run(variable.initializer, {variable.initializer.inputs[1]: values[name]})
        return self._measure(step)

    def _measure(self, step):
        with concurrent.futures.ThreadPoolExecutor(BATCHES_AT_ONCE) as pool:
            progress, batches = terminal.Progress("batch", self._num_batches), []
            for batch in pool.map(lambda _: self._session.run(self._outcomes), range(self._num_batches - 1)):
                batches.append(batch)
                progress.show(len(batches))
            progress.close()
        last, summary = self._session.run([self._outcomes, self._summaries])
        outcomes = self._in_order([*batches, last])
        if self._class_names:
            shown = dashboards.evaluation(outcomes, self._images, self._class_names)
            summary += self._opening + shown.SerializeToString()  # serialized messages in a row are one message
            self._opening = b""
        return Result(step, int(np.sum(outcomes["correct"])), self._num_examples), summary

    def _in_order(self, batches):
        """Returns {name: values} of each image of a pass, in file order, of the dicts of batches in any order."""
        joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        order = np.argsort(joined["number"])[: self._num_examples]  # what follows is padding
        return {name: values[order] for name, values in joined.items()}

    def close(self):
        self._session.close()


def held_out(examples, dataset, checkpoint_dir):
    """Returns which training images the run in checkpoint_dir is not trained on.

    Args:
      examples: records.Examples, all training images.
      dataset: name of the data set that they are.
      checkpoint_dir: the run's train_dir.

    Raises:
      RunError: there are none, there is no run, or it is on another data set.
    """
    count, trained_on = (history.recorded(checkpoint_dir, name) for name in ("num_held_out", "dataset"))
    if not count:
        raise RunError(f"{checkpoint_dir}: has no run that holds images out; train with --num_held_out first")
    if trained_on != dataset:
        raise RunError(f"{checkpoint_dir}: holds out images of {trained_on}; choose --dataset={trained_on}")
    return examples.part(examples.count - count, examples.count)


def await_checkpoint(checkpoint_dir, forever):
    """Waits until there is a checkpoint, readable or not, and says so.

    Args:
      checkpoint_dir: the run's train_dir; may appear later.
      forever: whether to wait for as long as it takes.

    Raises:
      RunError: there is none, and it is not to be waited for.
    """
    waiting = _Waiting(checkpoint_dir)
    while not (found := checkpoints.paths(checkpoint_dir)):
        if not forever:
            raise _no_checkpoint(checkpoint_dir)
        waiting.tell(found)
        signals.sleep(POLL_SECS)


def say_other_data(checkpoint_dir, dataset, examples):
    """Says in a line where the run in checkpoint_dir was trained on other data than it is to be evaluated on.

    Args:
      checkpoint_dir: the run's train_dir.
      dataset, examples: the datasets.Dataset, and the records.Examples of one of its splits.
    """
    trained_on, name = history.recorded(checkpoint_dir, "dataset"), dataset.name
    if trained_on not in (None, name):
        print(
            f"{checkpoint_dir}: was trained with --dataset={trained_on}, and is evaluated on {dataset.name}", flush=True
        )
        return
    known = dataset.sha256 if name == datasets.IMAGES else {}  # by name alone, own images may be any
    if other := history.other_images(checkpoint_dir, dataset.class_names, {**known, **examples.sha256}):
        print(f"{checkpoint_dir}: {other}, and is evaluated on those in the data_dir", flush=True)


def own_folder(eval_dir, checkpoint_dir):
    """Returns a folder that has no curves of another run than the one in checkpoint_dir, and marks it as this run's.

    Args:
      eval_dir: the folder, if it is free or this run's; or the beginning of its name, as in eval_dir-2.
      checkpoint_dir: the run's train_dir.

    Raises:
      RunError: it cannot be written, or the mark of whose curves it has cannot be read.
    """
    run = history.identity(checkpoint_dir) or os.path.abspath(checkpoint_dir)
    folder, number, other = eval_dir, 1, None
    while (owner := _owner(folder, run, checkpoint_dir)).get("run") != run:
        number += 1
        folder = f"{eval_dir.rstrip(os.sep)}-{number}"
        if other is None:
            other = owner.get("checkpoint_dir")
            other = other if isinstance(other, str) and other.isprintable() else shortened(other)
    if other is not None:
        print(f"{eval_dir}: has the curves of another run, of {other}; those of this one go to {folder}", flush=True)
    return folder


def _owner(folder, run, checkpoint_dir):
    """Returns {'run', 'checkpoint_dir'} of the run whose curves a folder has; of a new folder, the given ones."""
    mark = Journal(os.path.join(folder, MARK))
    if (owner := mark.last()) is not None:
        return owner
    owner = {"run": run, "checkpoint_dir": os.path.abspath(checkpoint_dir)}
    try:
        os.makedirs(folder, exist_ok=True)
        mark.append(owner)
    except OSError as error:
        if error.errno != errno.ENOSPC:  # a full disk may have room again, and is no reason to end
            raise RunError(f"{folder}: cannot be written ({error.strerror}); choose another --eval_dir") from None
    return owner


def _no_checkpoint(checkpoint_dir):
    return RunError(f"No checkpoint file found in {checkpoint_dir}; train first, or choose another --checkpoint_dir")


def newest(checkpoint_dir):
    """Returns the path of the newest readable checkpoint.

    Raises:
      RunError: there is none.
    """
    path = checkpoints.newest_readable(checkpoint_dir)
    if path is None:
        raise _no_checkpoint(checkpoint_dir)
    return path


def evaluate_once(evaluator, path, eval_dir):
    """Evaluates a checkpoint, prints and writes its precision, and returns the Result.

    Raises:
      RunError: it is damaged, or of another network.
    """
    if fault := checkpoints.fault(path):
        raise RunError(f"{path}: {fault}; choose another --checkpoint")
    with events.EventFile(eval_dir) as event_file:
        event_file.add_graph(evaluator.graph)
        return _evaluate(evaluator, path, event_file)


def watch(evaluator, checkpoint_dir, eval_dir, interval_secs=300):
    """Evaluates each new checkpoint once, as it appears, until the run's final one is done (D5).

    One that cannot be used (damaged, not finite, of another network, deleted meanwhile) is reported and passed over;
    so it goes on for as long as it takes.

    Args:
      evaluator: an Evaluator.
      checkpoint_dir: the run's train_dir; may appear later, and vanish and return.
      eval_dir: folder for the event file; nothing in it is deleted.
      interval_secs: least time between the starts of two evaluations, in seconds.

    Returns:
      The Results, in order.
    """
    results = []
    with events.EventFile(eval_dir) as event_file:
        event_file.add_graph(evaluator.graph)
        for path in _new_checkpoints(checkpoint_dir, interval_secs):
            try:
                results.append(_evaluate(evaluator, path, event_file))
            except RunError as error:
                print(f"{error}; waiting for another", flush=True)
    return results


def _new_checkpoints(checkpoint_dir, interval_secs):
    """Yields the path of each new checkpoint, the newest where several are new, until the final one has been.

    A checkpoint is known by its path and the time of its writing, as a run that was begun anew writes the old names.
    """
    seen = {}
    last_step = -1
    told = None  # of a record that cannot be read
    waiting = _Waiting(checkpoint_dir)
    while True:
        started = time.monotonic()
        # Look first, ask afterwards whether the run has ended: the other way round, a checkpoint that is saved in
        # between, and with it the end of the run, would be missed.
        found = _written(checkpoint_dir)
        new = [path for path in reversed(found) if found[path] != seen.get(path)]
        if new:
            last_step = checkpoints.step(new[0])
        seen = found
        for path in new:
            if (why := checkpoints.fault(path)) is None:
                yield path
                break
            print(f"{path}: {why}; waiting for another", flush=True)
        try:
            if history.is_final(checkpoint_dir, last_step):
                return
            told = None
        except RunError as error:
            if str(error) != told:
                print(f"{error}; waiting for another checkpoint", flush=True)
            told = str(error)
        if not new:
            waiting.tell(found)
        signals.sleep(started + (interval_secs if new else POLL_SECS) - time.monotonic())
        if new:
            waiting = _Waiting(checkpoint_dir)


def _written(directory):
    """Returns {path: time of writing} of the checkpoints in a directory, oldest step first."""
    written = {}
    for path in checkpoints.paths(directory):
        with contextlib.suppress(OSError):  # deleted meanwhile
            written[path] = os.stat(checkpoints.file(path)).st_mtime_ns
    return written


class _Waiting:
    """Says what is waited for: at once where there is no checkpoint, and then every WAITING_LINE_SECS."""

    def __init__(self, directory):
        self._directory = directory
        self._since = self._told = time.monotonic()
        self._told_of_none = False

    def tell(self, found):
        now = time.monotonic()
        due = now - self._told >= WAITING_LINE_SECS
        if found and due:
            print(
                f"Waiting for a new checkpoint in {self._directory} since {now - self._since:.0f} s, until the run has "
                "ended",
                flush=True,
            )
        if not found and (due or not self._told_of_none):
            missing = "" if os.path.isdir(self._directory) else ", which is not there"
            print(f"No checkpoint file found in {self._directory}{missing}; waiting until there is one", flush=True)
        self._told_of_none = not found
        if due:
            self._told = now


def _evaluate(evaluator, path, event_file):
    result = report(*evaluator.evaluate(path), event_file)
    found = f"step {result.step}: {result.correct} of {counted(result.total, 'image')}, with {path}"
    print(found, file=sys.stderr, flush=True)  # what reads the tutorial's lines gets nothing else
    return result


def report(result, summary, event_file):
    """Prints the tutorial's line of a Result, and writes it and its summary into an EventFile; returns the Result."""
    print(f"{datetime.datetime.now()}: precision @ 1 = {result.precision:.3f}", flush=True)
    event_file.add_summary(summary, result.step)
    value = tf.Summary.Value(tag="Precision @ 1", simple_value=result.precision)
    event_file.add_summary(tf.Summary(value=[value]), result.step)
    return result
