"""Curves of runs without TensorBoard."""

import os
import re
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from cifar10_plot import run as plot
from helpers import evaluate, run_script, train
from PIL import Image

from cifar10.errors import RunError
from cifar10.network import summaries
from cifar10.runs import curves, events


@pytest.fixture
def folder(tmp_path):
    """A folder of a run that was interrupted at step 35 and went on from 20, and of its evaluation."""
    with events.EventFile(str(tmp_path / "run")) as file:
        file.add_start(0)
        for step in (0, 10, 20, 30, 35):
            file.add_summary(summaries.scalars({"console/loss": 4.0 - step / 10, "other": 1.0}), step)
    with events.EventFile(str(tmp_path / "run")) as file:
        file.add_start(20)
        for step in (20, 30, 40):
            file.add_summary(summaries.scalars({"console/loss": 40.0 + step}), step)
    with events.EventFile(str(tmp_path / "run" / "eval")) as file:
        file.add_summary(summaries.scalars({"Precision @ 1": 0.5}), 40)
    return tmp_path / "run"


def test_curves_are_what_was_written_and_was_not_taken_back(folder):
    assert curves.find([str(folder)]) == [str(folder), str(folder / "eval")]
    found = curves.read(str(folder), ["console/loss", "Precision @ 1"])
    assert found == {"console/loss": {0: 4.0, 10: 3.0, 20: 60.0, 30: 70.0, 40: 80.0}, "Precision @ 1": {}}
    assert curves.read(str(folder / "eval"), ["Precision @ 1"]) == {"Precision @ 1": {40: 0.5}}


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_an_event_file_that_is_damaged_is_said_and_read_as_far_as_it_goes(folder, capsys, damage):
    (first, _) = sorted(folder.glob("events.*"))
    content = first.read_bytes()
    first.write_bytes(content[:-9] if damage == "cut" else content[:-40] + bytes(40))
    assert curves.read(str(folder), ["console/loss"])["console/loss"][10] == 3.0
    said = f"{first}: is cut off or damaged; what comes before that is drawn\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("kind", ["pipe", "folder", "other records"])
def test_an_event_file_that_is_none_is_told_at_once(folder, kind):
    path = str(folder / "events.out.tfevents.1.mine")
    if kind == "other records":
        with tf.io.TFRecordWriter(path) as file:
            file.write(b"\xff no event")
    else:
        {"pipe": os.mkfifo, "folder": os.mkdir}[kind](path)
    with pytest.raises(RunError) as error:
        curves.read(str(folder), ["console/loss"])
    message = str(error.value)
    assert message.startswith(f"{path}: cannot be read (") and message.endswith("; move it away")
    assert len(message.splitlines()) == 1


def test_the_points_of_an_svg_are_the_values(folder, tmp_path):
    """Read from its path: a point a value, evenly spaced to the right, down by equal steps where the loss falls so."""
    pytest.importorskip("matplotlib")
    values = {"loss": {10 * i: 4.0 - i for i in range(4)}}
    curves.draw(str(tmp_path / "c.svg"), {"a": values, "b": {"loss": {0: 1.0, 30: 2.0}}}, ["loss"])
    svg = (tmp_path / "c.svg").read_text()
    lines = re.findall(r'<g id="line2d_\d+">\s*<path d="([^"]*)"[^>]*clip-path[^>]*style="([^"]*)"', svg)
    lines = [(d, style) for d, style in lines if len(re.findall(r"[ML]", d)) in (2, 4) and "b0b0b0" not in style]
    points = np.array([list(map(float, p)) for p in re.findall(r"[ML] ([\d.]+) ([\d.]+)", lines[0][0])])
    assert len(points) == 4
    np.testing.assert_allclose(np.diff(points, axis=0) / np.diff(points, axis=0)[0], 1.0, rtol=1e-3)
    colours = {re.search(r"stroke: (#\w+)", style)[1] for _, style in lines}
    assert len(colours) == 2  # two runs can be told apart


@pytest.mark.slow
def test_a_training_and_its_evaluation_are_drawn(synthetic_dir, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    train(synthetic_dir, tmp_path / "train", max_steps=4, eval_every_steps=2)
    evaluate(synthetic_dir, tmp_path / "train", tmp_path / "other")
    capsys.readouterr()
    for name in ("curves.png", "curves.svg"):
        folders = [str(tmp_path / "train"), str(tmp_path / "other")]
        plot(folders=folders, out=str(tmp_path / name), tags=list(curves.TAGS))
        assert capsys.readouterr().out == f"Drew other, train, train/eval in {tmp_path / name}\n"
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 2 * image.height  # three panels
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_what_cannot_be_drawn_is_told_in_one_line(folder, tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"/missing: has no event files; give the train_dir or eval_dir of a run"):
        curves.find(["/missing"])
    runs = {"a": {"loss": {0: 1.0}}}
    for path, tags, message in (
        ("c.png", ["x"], "no run has anything of x; choose other --tags"),
        ("c.xyz", ["loss"], r"c\.xyz: cannot be written \(.*\); end it in \.png or \.svg, in a folder that is there"),
        ("no/c.png", ["loss"], r"no/c\.png: cannot be written \(.*No such file.*\); end it in"),
    ):
        pytest.importorskip("matplotlib")
        with pytest.raises(RunError, match=message):
            curves.draw(str(tmp_path / path), runs, tags)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RunError, match=r"matplotlib is not installed; install it with pip install 'cifar10\[plot\]'"):
        curves.draw(str(tmp_path / "c.png"), runs, ["loss"])


@pytest.mark.slow
def test_the_command_wants_a_folder(tmp_path):
    process = run_script("cifar10_plot", check=1)
    assert "no folders: name at least one" in process.stderr + process.stdout
    process = run_script("cifar10_plot", tmp_path, check=1)
    assert process.stderr.splitlines()[-1].startswith(f"cifar10_plot.py: {tmp_path}: has no event files")
