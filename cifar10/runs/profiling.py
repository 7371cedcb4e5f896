"""Which op ran when, on which device: traces of chosen steps."""

import os
import re

import tensorflow.compat.v1 as tf
from tensorflow.python.client import timeline

from cifar10.errors import RunError
from cifar10.runs.hooks import StepHook


def parse(steps, max_steps):
    """Returns the steps that 'a,b' means, a to b-1, as a range; an empty one for None.

    Raises:
      RunError: it is not of that form, or names no step before max_steps.
    """
    if steps is None:
        return range(0)
    match = re.fullmatch(r"(\d+),(\d+)", steps)
    if not match or int(match[1]) >= int(match[2]):
        raise RunError(f"--profile_steps={steps}: give two steps a,b with a less than b, such as 50,53")
    if int(match[1]) >= max_steps:
        raise RunError(f"--profile_steps={steps}: training ends at step {max_steps}; give steps before that")
    return range(int(match[1]), int(match[2]))


class ProfileHook(StepHook):
    """Traces some steps, each into `timeline-<step>.json` in train_dir and into the event file.

    The first is for chrome://tracing or ui.perfetto.dev; from the second TensorBoard colours the graph by time, as
    `step_<step>`. A traced step takes longer.
    """

    def __init__(self, run, event_file, steps):
        super().__init__(run)
        self._event_file = event_file
        self._steps = steps

    def before_run(self, run_context):
        if self.step not in self._steps:
            return None
        return tf.train.SessionRunArgs(None, options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE))

    def after_run(self, run_context, run_values):
        if self.step in self._steps:
            self._write(self.step, run_values.run_metadata)
        super().after_run(run_context, run_values)

    def _write(self, step, run_metadata):
        path = os.path.join(self.run.train_dir, f"timeline-{step}.json")
        self._event_file.add_run_metadata(run_metadata, f"step_{step}", step)
        try:
            with open(path, "w") as file:
                file.write(timeline.Timeline(run_metadata.step_stats).generate_chrome_trace_format())
        except OSError as error:  # no reason to end a run
            print(f"{path}: cannot be written ({error.strerror})", flush=True)
        else:
            print(f"Traced step {step}: open {path} at chrome://tracing or ui.perfetto.dev", flush=True)
