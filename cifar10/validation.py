"""Precision while a network is trained, in the same process: measured between two steps, and what follows from it.

The weights are read from the training's session and evaluated in a graph and a session of their own, so the steps, and
what a run ends with, are to the last bit those of a training that is not evaluated.
"""

import collections.abc
import dataclasses
import os
import shutil
import time

import tensorflow.compat.v1 as tf

from cifar10 import evaluation
from cifar10.data import records
from cifar10.errors import counted, reason
from cifar10.runs import checkpoints, events, history
from cifar10.runs.hooks import CANNOT_SAVE, StepHook

FOLDER = "eval"  # below train_dir: the event file, a run of its own on TensorBoard
BEST = "best"  # below train_dir: the best checkpoint, a folder that all scripts take as --checkpoint_dir


@dataclasses.dataclass(frozen=True)
class Validation:
    """When a training is evaluated, on which images, and what follows.

    Attributes:
      examples: the records.Examples.
      images: 'test' or 'held_out', which they are.
      evaluator: function that returns the evaluation.Evaluator of examples.
      every_steps: steps between two evaluations; there is one after the last step as well.
      keep_best: whether the checkpoint of the highest precision is kept in BEST.
      patience: how many evaluations in a row may bring no higher precision before training stops; 0: any number.
    """

    examples: records.Examples
    images: str
    evaluator: collections.abc.Callable[[records.Examples], evaluation.Evaluator]
    every_steps: int
    keep_best: bool = False
    patience: int = 0

    def hooks(self, run, save, max_steps):
        """Returns the tf.train.SessionRunHooks of a run that ends at step max_steps; save: its hooks.SaveHook."""
        return [_Hook(self, run, save, max_steps)]

    def summary(self, run):
        """Returns a line about what was measured of a run that has ended, or None if its last step was not."""
        found = {line["step"]: line for line in run.evaluations() if line["images"] == self.images}
        found = {step: line["correct"] / line["of"] for step, line in found.items() if step <= run.step}
        if run.step not in found:
            return None
        best = max(sorted(found), key=found.get)
        folder = os.path.join(run.train_dir, BEST)
        kept = self.keep_best and best in map(checkpoints.step, checkpoints.paths(folder))
        where = f", which is in {folder}" if kept else ""
        images = self.images.replace("_", "-")
        return f"Precision on {images} images: {found[run.step]:.3f}; best: {found[best]:.3f}, of step {best}{where}"


class _Hook(StepHook):
    """Evaluates every so many steps; keeps the best checkpoint; stops training that gets no better."""

    def __init__(self, validation, run, save, max_steps):
        super().__init__(run)
        self._validation = validation
        self._save = save
        self._max_steps = max_steps
        self._evaluator = None
        self._event_file = events.EventFile(os.path.join(run.train_dir, FOLDER))
        self._variables = {variable.op.name: variable for variable in tf.global_variables()}
        self._session = None
        # What was measured after the checkpoint that training continues from is measured again.
        self._best, self._without_better = None, 0
        measured = {line["step"]: line for line in run.evaluations() if line["images"] == validation.images}
        for step in sorted(step for step in measured if step <= run.start_step):
            self._count(evaluation.Result(step, measured[step]["correct"], measured[step]["of"]))

    def after_create_session(self, session, coord):
        # Only now, because the first session of a process says how many threads an op has, and so how sums are rounded.
        self._session = session
        self._evaluator = self._validation.evaluator(self._validation.examples)
        self._event_file.add_graph(self._evaluator.graph)
        self._stop_if_no_better()

    def after_step(self, step, results):
        done = step + 1
        if done % self._validation.every_steps and done != self._max_steps:
            return
        began = time.monotonic()
        values = self._session.run({name: self._variables[name] for name in self._evaluator.restored})
        result = evaluation.report(*self._evaluator.evaluate_values(values, done), self._event_file)
        secs = time.monotonic() - began
        values = {"precision": result.precision, "correct": result.correct, "of": result.total, "secs": secs}
        self.run.log_metrics({"step": done, "images": self._validation.images, **values})
        if self._count(result) and self._validation.keep_best:
            self._keep(done)
        self._stop_if_no_better()
        self.run.paused_secs += time.monotonic() - began

    def end(self, session):
        self._evaluator.close()
        self._event_file.close()

    def _count(self, result):
        """Returns whether a Result is better than all before it."""
        if self._best is None or result.precision > self._best.precision:
            self._best, self._without_better = result, 0
            return True
        self._without_better += 1
        return False

    def _keep(self, step):
        """Saves the checkpoint in BEST, with the run's record and metrics beside it, which say what it is."""
        folder = os.path.join(self.run.train_dir, BEST)
        try:
            self._save.save_into(folder, step, keep=1)
            for name in (history.RECORD, history.METRICS):
                shutil.copy(os.path.join(self.run.train_dir, name), folder)
        except CANNOT_SAVE as error:
            print(f"{folder}: cannot be written ({reason(error)}); training goes on without it", flush=True)

    def _stop_if_no_better(self):
        if self._validation.patience and self._without_better >= self._validation.patience:
            self.run.enough = True
            print(
                f"Stopped at step {self.run.step}: no precision above {self._best.precision:.3f}, of step "
                f"{self._best.step}, in {counted(self._without_better, 'evaluation')} in a row; to go on, raise "
                "--early_stopping",
                flush=True,
            )
