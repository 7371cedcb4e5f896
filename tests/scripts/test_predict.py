"""The scripts that use a trained network, as their users call them."""

import json
import os
import re
import signal
import subprocess
import sys

import cifar10_export
import cifar10_predict
import numpy as np
import pytest
from forkserver import Program, environment
from helpers import FILES, SCRIPTS, encode, run_script, save_network, scene

from cifar10 import serving
from cifar10.data import datasets
from cifar10.errors import RunError
from cifar10.runs import history

PREDICT = SCRIPTS / "cifar10_predict.py"
NAMES = datasets.CIFAR10.class_names
PREDICT_FLAGS = {
    "top_k": None,
    "json": False,
    "dataset": "cifar10",
    "data_dir": "/missing",
    "checkpoint": None,
    "use_moving_averages": True,
    "crop": "central",
    "batch_size": 4,
    "use_fp16": False,
}


@pytest.fixture(scope="module")
def train_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("train")
    save_network(directory, [5])
    return str(directory)


@pytest.fixture
def folder(tmp_path):
    """A folder with five pictures, one of them damaged, and a file that is none."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    (folder / "a.png").write_bytes(FILES["png"])
    (folder / "b.jpg").write_bytes(FILES["jpeg"])
    (folder / "bad.png").write_bytes(FILES["png"][:-100])
    (folder / "below" / "c.gif").write_bytes(FILES["gif"])
    (folder / "below" / "d.bmp").write_bytes(encode(scene(100, 80), "BMP"))
    (folder / "notes.txt").write_text("no picture")
    return folder


def predict(train_dir, *pictures, **flags):
    """Runs the script in this process."""
    values = {**PREDICT_FLAGS, "checkpoint_dir": train_dir, "pictures": [str(path) for path in pictures], **flags}
    cifar10_predict.run(**values)


def test_each_picture_gets_a_line_with_its_most_probable_classes(train_dir, folder, capsys):
    paths = [folder / "below" / "d.bmp", folder / "a.png", folder / "b.jpg"] * 2  # more than a batch
    predict(train_dir, *paths, top_k=2)
    out, err = capsys.readouterr()
    predictor = serving.Predictor(serving.TrainedNetwork(f"{train_dir}/model.ckpt-5", NAMES))
    for (name, values), line in zip(predictor.predict(map(str, paths)), out.splitlines(), strict=True):
        first, second = np.argsort(values)[:-3:-1]
        assert line == f"{name}: {NAMES[first]} {values[first]:.3f}, {NAMES[second]} {values[second]:.3f}"
    assert err == ""


def test_the_data_set_names_the_classes(train_dir, folder, capsys):
    predict(train_dir, folder / "a.png", dataset="synthetic", top_k=10)
    (line,) = capsys.readouterr().out.splitlines()
    assert sorted(re.findall(r"([a-z]+) \d", line)) == sorted(datasets.SYNTHETIC.class_names)


def test_of_two_classes_both_are_told_unless_more_are_asked_for(folder, tmp_path, capsys):
    save_network(tmp_path, [5], num_classes=2)
    start = {"event": "start", "dataset": "images", "classes": ["cat", "dog"]}
    (tmp_path / history.RECORD).write_text(json.dumps(start) + "\n")
    predict(str(tmp_path), folder / "a.png", dataset=None)
    (line,) = capsys.readouterr().out.splitlines()
    assert sorted(re.findall(r"([a-z]+) \d", line)) == ["cat", "dog"]
    with pytest.raises(RunError, match="--top_k=3: there are only 2 classes; give a number up to that"):
        predict(str(tmp_path), folder / "a.png", dataset=None, top_k=3)


def test_json_lines_hold_what_the_text_says_with_all_digits(train_dir, folder, capsys):
    predict(train_dir, folder / "a.png", folder / "below", json=True, top_k=10)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["picture"] for line in lines] == [
        str(folder / name) for name in ("a.png", "below/c.gif", "below/d.bmp")
    ]
    for line in lines:
        values = [prediction["probability"] for prediction in line["predictions"]]
        assert {prediction["class"] for prediction in line["predictions"]} == set(NAMES)
        assert values == sorted(values, reverse=True)
        np.testing.assert_allclose(sum(values), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"top_k": 11}, "--top_k=11: there are only 10 classes; give a number up to that"),
        ({"checkpoint_dir": "/missing"}, "No checkpoint file found in /missing; train first, choose another --che"),
        ({"checkpoint": "/missing/model.ckpt-7"}, "No checkpoint file /missing/model.ckpt-7.index; give --checkpoint"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_printed(train_dir, folder, capsys, flags, message):
    with pytest.raises(RunError, match=re.escape(message)):
        predict(train_dir, folder / "a.png", **flags)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_unreadable_pictures_are_reported_and_the_others_classified(train_dir, folder):
    """From folders, files and standard input; flags may stand behind pictures; the exit code tells.

    In an environment that does not ask TensorFlow to be silent.
    """
    (folder / "phone.png").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    os.mkfifo(folder / "pipe.png")  # which nobody writes to
    arguments = [folder, "-", folder / "missing.png", folder / "notes.txt", "--json", "--top_k=1"]
    values = {name: value for name, value in environment().items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, PREDICT, f"--checkpoint_dir={train_dir}", *arguments]
    process = subprocess.run(command, input=FILES["png"], capture_output=True, env=values, timeout=120)
    out, err = process.stdout.decode(), process.stderr.decode()
    lines = [json.loads(line) for line in out.splitlines()]
    names = ["a.png", "b.jpg", "below/c.gif", "below/d.bmp"]
    assert [line["picture"] for line in lines] == [*(str(folder / name) for name in names), "-"]
    assert lines[-1]["predictions"] == lines[0]["predictions"]
    assert process.returncode == 1
    for name, reason in {
        "bad.png": "cannot be decoded (image file is truncated",
        "missing.png": "cannot be read (No such file or directory)",
        "notes.txt": "cannot be decoded (no JPEG, PNG, BMP, GIF or WebP file)",
        "phone.png": "cannot be decoded (it is HEIC; convert it to JPEG or PNG)",
        "pipe.png": "is no regular file; what a pipe holds is read from -",
    }.items():
        (line,) = [line for line in err.splitlines() if name in line]
        assert line.startswith(f"{folder / name}: {reason}")
    assert err.splitlines()[-1] == "cifar10_predict.py: 5 of 10 pictures could not be read; the others were classified"
    assert err.splitlines()[-2] == "Files in folders that were passed over: 1 (extensions: .txt)"
    assert "Traceback" not in err and "local_rendezvous" not in err


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_it_without_a_traceback(train_dir, folder):
    command = [PREDICT, f"--checkpoint_dir={train_dir}", *[folder / "a.png"] * 9, "--batch_size=3"]
    with Program(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(timeout=120) == 1
    assert "Traceback" not in err and "BrokenPipe" not in err


@pytest.mark.slow
def test_a_signal_ends_the_wait_for_standard_input(train_dir, folder):
    command = [PREDICT, f"--checkpoint_dir={train_dir}", folder / "a.png", "-", "--batch_size=1"]
    with Program(command, *[subprocess.PIPE] * 3) as process:
        assert process.stdout.readline().startswith(str(folder / "a.png"))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_without_a_picture_the_usage_is_shown():
    process = run_script("cifar10_predict", "--json", check=1)
    text = process.stdout + process.stderr
    assert "no pictures: name at least one" in text and "cifar10_predict.py [flags] picture..." in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_export_says_what_it_wrote_and_does_not_write_it_twice(train_dir, tmp_path):
    folder = tmp_path / "export"
    process = run_script("cifar10_export", f"--checkpoint_dir={train_dir}", f"--export_dir={folder}", check=0)
    assert process.stdout == f"Exported {train_dir}/model.ckpt-5 to {folder}\n"
    flags = {name: value for name, value in PREDICT_FLAGS.items() if name not in ("top_k", "json", "batch_size")}
    with pytest.raises(RunError, match="is there already"):
        cifar10_export.run(export_dir=str(folder), tflite=False, checkpoint_dir=train_dir, **flags)
