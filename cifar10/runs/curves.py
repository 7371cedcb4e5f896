"""Curves of runs from their event files, read and drawn without TensorBoard."""

import os
import sys

import tensorflow.compat.v1 as tf
from google.protobuf.message import DecodeError

from cifar10.errors import RunError, reason
from cifar10.machine import files

EVENTS = "events.out.tfevents."
TAGS = ("console/loss", "Precision @ 1", "learning_rate")
FEW_POINTS = 50  # of which each gets a mark
PANEL_INCHES = (5.0, 3.6)  # width and height


def find(folders):
    """Returns the folders with event files among folders and those below them, sorted.

    Raises:
      RunError: in one of the folders there are none.
    """
    found = set()
    for folder in folders:
        here = {parent for parent, _, names in os.walk(folder) if any(name.startswith(EVENTS) for name in names)}
        if not here:
            raise RunError(f"{folder}: has no event files; give the train_dir or eval_dir of a run")
        found |= here
    return sorted(found)


def read(folder, tags):
    """Returns {tag: {step: value}} of the scalars in a folder's event files, in the order of their writing.

    As on TensorBoard, a run that was interrupted and goes on takes back what it wrote of later steps before.

    Raises:
      RunError: one of the files cannot be read, or holds no events.
    """
    curves = {tag: {} for tag in tags}
    for name in sorted(name for name in os.listdir(folder) if name.startswith(EVENTS)):
        path = os.path.join(folder, name)
        try:
            os.close(files.regular(path, os.O_RDONLY))
            for event in tf.train.summary_iterator(path):
                if event.session_log.status == tf.SessionLog.START:
                    curves = {tag: {s: v for s, v in curves[tag].items() if s < event.step} for tag in tags}
                for value in event.summary.value:
                    if value.tag in curves and value.HasField("simple_value"):
                        curves[value.tag][event.step] = value.simple_value
        except tf.errors.DataLossError:  # of a run that was killed, or of a damaged disk
            print(f"{path}: is cut off or damaged; what comes before that is drawn", file=sys.stderr, flush=True)
        except (OSError, tf.errors.OpError, DecodeError) as error:
            raise RunError(f"{path}: cannot be read ({reason(error)}); move it away") from None
    return curves


def refuse_without_ending(path):
    """Raises RunError if a file's name does not say of which kind it is: matplotlib would choose another name."""
    if not os.path.splitext(path)[1]:
        raise RunError(f"--out={path}: does not say what to write; end it in .png or .svg")


def draw(path, runs, tags=TAGS):
    """Draws a panel a tag with a line a run, as it was measured, without smoothing.

    Args:
      path: the file, whose ending says of which kind it is, such as .png or .svg.
      runs: {name of a run: {tag: {step: value}}}.
      tags: those to draw; a tag that no run has gets no panel.

    Raises:
      RunError: nothing is to be drawn, matplotlib is not there, or the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.backends import backend_agg  # noqa: F401 (which needs no screen)
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RunError(f"{error.name} is not installed; install it with pip install 'cifar10[plot]'") from None
    shown = [tag for tag in tags if any(run.get(tag) for run in runs.values())]
    if not shown:
        raise RunError(f"no run has anything of {', '.join(tags)}; choose other --tags")
    # Of two colours that are close the lines still differ in their dashes.
    styles = [(colour, dash) for dash in ("-", "--", ":", "-.") for colour in matplotlib.colormaps["tab10"].colors]
    width, height = PANEL_INCHES
    figure = Figure((width * len(shown), height), layout="constrained")
    for axes, tag in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for (name, run), (colour, dash) in zip(runs.items(), styles * len(runs), strict=False):
            if curve := run.get(tag):
                steps = sorted(curve)
                mark = "o" if len(steps) <= FEW_POINTS else ""
                axes.plot(steps, [curve[step] for step in steps], dash + mark, color=colour, label=name, ms=3, lw=1.2)
        axes.set(title=tag, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be written ({error}); end it in .png or .svg, in a folder that is there"
        ) from None
