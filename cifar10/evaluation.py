"""Checkpoint -> precision @ 1."""

import dataclasses
import datetime
import os
import time

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10 import checkpoints, cifar10_input, dashboards, devices, microbatches, model, runs, summaries, training
from cifar10.errors import RunError

POLL_SECS = 5.0  # between two looks whether the run has ended
WAITING_LINE_SECS = 300.0  # between two lines that say what is waited for


@dataclasses.dataclass(frozen=True)
class Result:
    """How many of `total` pictures the checkpoint of global step `step` puts in their class."""

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
        num_classes=model.NUM_CLASSES,
        use_fp16=False,
        use_moving_averages=True,
        moving_average_decay=training.MOVING_AVERAGE_DECAY,
        class_names=None,
    ):
        """Builds the graph.

        Args:
          examples: records.Examples.
          num_examples: number of pictures to evaluate, at most all; the first ones in file order.
          batch_size: pictures a batch; the result does not depend on it.
          num_classes: number of logits a picture.
          use_fp16: whether to compute in half precision: see model.inference.
          use_moving_averages: whether to restore the moving averages in place of the variables.
          moving_average_decay: of the training; only the names of the averages matter here.
          class_names: None, or one name a class, with which TensorBoard shows what is mistaken for what.

        Raises:
          RunError: num_examples is more than there are.
        """
        if num_examples > examples.count:
            raise RunError(
                f"--num_examples={num_examples}: there are only {examples.count} pictures; give a number up to that"
            )
        self._num_examples = num_examples
        self._images = examples.images[:num_examples]
        self._class_names = class_names
        facts = {**dashboards.program_facts(runs.program()), "pictures": f"{num_examples:,} of {examples.count:,}"}
        self._opening = dashboards.opening(facts).SerializeToString()  # of the event file
        batch_size = min(batch_size, num_examples)
        self._num_batches = cifar10_input.num_batches(num_examples, batch_size)
        microbatch_size = microbatches.size(None)
        config = devices.session_config(microbatches.count(batch_size, microbatch_size))
        self.graph = tf.Graph()
        with self.graph.as_default():
            images, labels = cifar10_input.inputs(examples, batch_size, num_examples)
            logits = model.inference(images, num_classes, use_fp16, microbatch_size=microbatch_size)
            with tf.name_scope("precision"):
                self._outcomes = dashboards.outcomes(logits, labels)
            self._summaries = summaries.merged()
            to_restore = None
            if use_moving_averages:
                to_restore = tf.train.ExponentialMovingAverage(moving_average_decay).variables_to_restore()
            self._saver = tf.train.Saver(to_restore)
            self._session = tf.Session(config=config)

    def evaluate(self, path):
        """Evaluates one checkpoint.

        Args:
          path: the checkpoint, `…/model.ckpt-<step>`.

        Returns:
          (Result, the summaries of its last batch and of all its mistakes as bytes).

        Raises:
          One of checkpoints.UNREADABLE: the checkpoint is missing, damaged or of another network.
        """
        self._saver.restore(self._session, path)
        outcomes = [self._session.run(self._outcomes) for _ in range(self._num_batches - 1)]
        last, summary = self._session.run([self._outcomes, self._summaries])
        outcomes.append(last)
        correct = sum(int(np.sum(batch["correct"])) for batch in outcomes)
        if self._class_names:
            shown = dashboards.evaluation(outcomes, self._images, self._class_names)
            summary += self._opening + shown.SerializeToString()  # serialized messages in a row are one message
            self._opening = b""
        return Result(checkpoints.step(path), correct, self._num_examples), summary

    def close(self):
        self._session.close()


def evaluate_once(evaluator, checkpoint_dir, eval_dir):
    """Evaluates the newest readable checkpoint, prints and writes its precision, and returns the Result.

    Raises:
      RunError: there is none.
    """
    path = checkpoints.newest_readable(checkpoint_dir)
    if path is None:
        raise RunError(f"No checkpoint file found in {checkpoint_dir}; train first, or choose another --checkpoint_dir")
    with tf.Graph().as_default(), tf.summary.FileWriter(eval_dir, evaluator.graph) as writer:
        return _evaluate(evaluator, path, writer)


def watch(evaluator, checkpoint_dir, eval_dir, interval_secs=300):
    """Evaluates each new checkpoint once, as it appears, until the run's final one is done.

    A checkpoint that cannot be restored is reported and passed over.

    Args:
      evaluator: an Evaluator.
      checkpoint_dir: the run's train_dir; may appear later.
      eval_dir: folder for the event file; nothing in it is deleted.
      interval_secs: least time between the starts of two evaluations, in seconds.

    Returns:
      The Results, in order.
    """
    results = []
    with tf.Graph().as_default(), tf.summary.FileWriter(eval_dir, evaluator.graph) as writer:
        for path in _new_checkpoints(checkpoint_dir, interval_secs):
            try:
                results.append(_evaluate(evaluator, path, writer))
            except checkpoints.UNREADABLE as error:
                print(f"{path}: cannot be evaluated ({checkpoints.reason(error)}); waiting for the next", flush=True)
    return results


def _new_checkpoints(checkpoint_dir, interval_secs):
    """Yields the path of each new checkpoint, newest first where several are new, until the final one has been."""
    step = -1
    waiting_since = told = time.time()

    def ended():
        nonlocal told
        if runs.is_final(checkpoint_dir, step):
            return True
        if time.time() - told >= WAITING_LINE_SECS:
            told = time.time()
            print(f"Waiting for a new checkpoint in {checkpoint_dir} since {told - waiting_since:.0f} s", flush=True)
        return False

    if not checkpoints.paths(checkpoint_dir):
        print(f"No checkpoint file found in {checkpoint_dir}; waiting for the first", flush=True)
    for path in _states(checkpoint_dir, ended):
        started = time.time()
        step = checkpoints.step(path)
        yield path
        if runs.is_final(checkpoint_dir, step):
            return
        time.sleep(max(0.0, started + interval_secs - time.time()))
        waiting_since = told = time.time()


def _states(checkpoint_dir, ended):
    """Yields what the state file `checkpoint` names, whenever it changes, also after it was damaged for a while."""
    last = None
    while True:
        try:
            for path in tf.train.checkpoints_iterator(checkpoint_dir, timeout=POLL_SECS, timeout_fn=ended):
                if path != last:
                    last = path
                    yield path
            return
        except ValueError as error:
            state = os.path.join(checkpoint_dir, "checkpoint")
            print(f"{state}: cannot be read ({checkpoints.reason(error)}); looking again", flush=True)
            time.sleep(POLL_SECS)


def _evaluate(evaluator, path, writer):
    result, summary = evaluator.evaluate(path)
    print(f"{datetime.datetime.now()}: precision @ 1 = {result.precision:.3f}", flush=True)
    writer.add_summary(summary, result.step)
    value = tf.Summary.Value(tag="Precision @ 1", simple_value=result.precision)
    writer.add_summary(tf.Summary(value=[value]), result.step)
    writer.flush()
    return result
