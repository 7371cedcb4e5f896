"""The network that comes with the package: how one is made, who gets it, and what this copy has."""

import ast
import fnmatch
import json
import os
import re
import sys

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import FILES, SCRIPTS, evaluate, run_python, save_network, train

from cifar10 import api, exporting, serving
from cifar10.data import datasets
from cifar10.errors import RunError
from cifar10.runs import checkpoints, fitting, history, packing

AVERAGES = {f"{name}/ExponentialMovingAverage": shape for name, shape in published.VARIABLES.items()}


# --- making one ---


@pytest.mark.slow
def test_a_packed_run_is_its_averages_and_its_record_without_a_path(synthetic_dir, tmp_path, monkeypatch):
    train_dir, folder = tmp_path / "train", tmp_path / "packed"
    paths = [f"--data_dir={synthetic_dir}", "--train_dir", str(train_dir)]
    monkeypatch.setattr(
        sys, "argv", ["/usr/bin/cifar10_train.py", "--recipe=fast", *paths, "--use_fp16", "--seed", "7"]
    )
    train(synthetic_dir, train_dir, recipe="fast", max_steps=1, seed=7)
    path = packing.pack(str(train_dir / "model.ckpt-1"), str(folder))
    names = {"model.ckpt-1.data-00000-of-00001", "model.ckpt-1.index", "runs.jsonl"}
    assert {file.name for file in folder.iterdir()} == names
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < 4 * sum(map(np.prod, AVERAGES.values())) + 10_000  # float32, and little else
    assert not [file for file in folder.iterdir() if str(tmp_path).encode() in file.read_bytes()]
    assert tf.train.load_checkpoint(path).get_variable_to_shape_map() == {**AVERAGES, "global_step": []}
    there, here = (list(map(json.loads, (d / "runs.jsonl").read_text().splitlines())) for d in (train_dir, folder))
    assert here[0].pop("arguments") == ["--recipe=fast", "--use_fp16", "--seed", "7"]
    assert there[0].pop("arguments") == sys.argv[1:]
    assert here == there and [line["event"] for line in here] == ["start", "stop"]
    for name in ("dataset", "classes", "data", "recipe", "image_size"):
        assert history.recorded(str(folder), name) == history.recorded(str(train_dir), name) is not None


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--a=/x/y", "--b=1", "--c"], ["--b=1", "--c"]),
        (["--a", "/x", "--b", "1"], ["--b", "1"]),
        (["--b=1", "runs/mine", "--a=~/x"], ["--b=1"]),
        (["/x"], []),
    ],
)
def test_arguments_lose_their_paths_and_the_flags_of_these(arguments, kept):
    assert packing.without_paths(arguments) == kept


def test_what_cannot_be_packed_is_refused(tmp_path):
    save_network(tmp_path / "train", [5])
    path = str(tmp_path / "train" / "model.ckpt-5")
    with pytest.raises(RunError, match=r"train: has no record of its training, runs\.jsonl; pack a run that has one"):
        packing.pack(path, str(tmp_path / "packed"))
    (tmp_path / "train" / "runs.jsonl").write_text('{"event": "start"}\n')
    with pytest.raises(RunError, match=r"train: holds 'checkpoint'; choose an empty or a new folder"):
        packing.pack(path, str(tmp_path / "train"))


# --- using it ---


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("train")
    save_network(directory, [4, 5])
    (directory / "runs.jsonl").write_text(
        '{"event": "start", "time": "2026-11-28T12:00:00+00:00", "dataset": "synthetic"}\n'
    )
    return str(directory / "model.ckpt-5")


@pytest.fixture
def pretrained(checkpoint, tmp_path, monkeypatch):
    """A checkpoint in the place of the one that comes with the package."""
    monkeypatch.setattr(serving, "PRETRAINED_DIR", str(tmp_path / "pretrained"))
    return packing.pack(checkpoint, str(tmp_path / "pretrained"))


@pytest.mark.slow
def test_averages_alone_predict_and_evaluate_as_the_whole_checkpoint(pretrained, checkpoint, synthetic_dir, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, [5, 32, 32, 3], dtype=np.uint8)
    model = api.load("pretrained")
    assert model.checkpoint == pretrained and model.class_names == datasets.SYNTHETIC.class_names
    np.testing.assert_array_equal(model.probabilities(images), api.load(checkpoint).probabilities(images))
    whole = evaluate(synthetic_dir, os.path.dirname(checkpoint), tmp_path / "eval")
    assert whole[0].step == 5
    assert evaluate(synthetic_dir, "pretrained", tmp_path / "eval") == whole
    for name in ("pretrained", pretrained):  # once, though it is not asked for by --run_once
        found = evaluate(synthetic_dir, tmp_path / "missing", tmp_path / "eval", checkpoint=name, run_once=False)
        assert found == whole
    with pytest.raises(
        RunError, match="holds moving averages alone, which evaluation, prediction and --init_from take"
    ):
        evaluate(synthetic_dir, "pretrained", tmp_path / "eval", use_moving_averages=False)


@pytest.mark.slow
def test_a_training_begins_with_its_weights(pretrained, synthetic_dir, tmp_path, capsys):
    train(synthetic_dir, tmp_path / "train", max_steps=0, init_from="pretrained")
    assert f"Begins with the weights of {pretrained}, of all layers\n" in capsys.readouterr().out
    reader = tf.train.load_checkpoint(str(tmp_path / "train" / "model.ckpt-0"))
    there = tf.train.load_variable(pretrained, "conv1/weights/ExponentialMovingAverage")
    np.testing.assert_array_equal(reader.get_tensor("conv1/weights"), there)


def test_of_other_classes_it_is_told_how_many_it_has(pretrained, tmp_path):
    with tf.Graph().as_default():
        biases = tf.get_variable("softmax_linear/biases", [3])
        assert fitting.difference(pretrained, {"softmax_linear/biases/ExponentialMovingAverage": biases}) == (
            "of another network: softmax_linear/biases/ExponentialMovingAverage is [10] there, [3] here; choose the "
            "--dataset of 10 classes that it was trained on"
        )


def test_a_damaged_checkpoint_is_not_evaluated(pretrained, synthetic_dir, tmp_path):
    with open(f"{pretrained}.data-00000-of-00001", "r+b") as file:
        file.write(b"\xff" * 100)
    with pytest.raises(RunError, match=r"model\.ckpt-5: it cannot be read: .*; choose another --checkpoint"):
        evaluate(synthetic_dir, tmp_path, tmp_path / "eval", checkpoint=pretrained)


def test_a_copy_without_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serving, "PRETRAINED_DIR", str(tmp_path / "none"))
    message = "pretrained: this copy of the package comes without that checkpoint; train a network first"
    for use in (
        lambda: api.load("pretrained"),
        lambda: serving.checkpoint_folder("pretrained"),
        lambda: train(tmp_path, tmp_path / "train", max_steps=1, init_from="pretrained"),
        lambda: evaluate(tmp_path, "pretrained", tmp_path / "eval"),
        lambda: evaluate(tmp_path, tmp_path, tmp_path / "eval", checkpoint="pretrained"),
    ):
        with pytest.raises(RunError, match=message):
            use()
    values = {"checkpoint": None, "checkpoint_dir": str(tmp_path / "train")}
    assert serving.or_pretrained(values, set()) == values and capsys.readouterr().err == ""


def test_who_has_no_run_and_asked_for_none_gets_it(pretrained, checkpoint, tmp_path, capsys):
    def chosen(folder, *given):
        return serving.or_pretrained({"checkpoint": None, "checkpoint_dir": str(folder)}, {"top_k", *given})[
            "checkpoint"
        ]

    said = (
        f"No run in {tmp_path / 'none'}: taking the network that comes with the package; --checkpoint chooses another\n"
    )
    assert chosen(tmp_path / "none") == "pretrained"
    assert capsys.readouterr() == ("", said)
    (tmp_path / "empty").mkdir()
    assert chosen(tmp_path / "empty") == "pretrained"
    capsys.readouterr()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "runs.jsonl").write_text('{"event": "start"}\n')
    for folder, *given in (
        (os.path.dirname(checkpoint),),
        (tmp_path / "begun",),  # whose checkpoints are lost, or not there yet
        (tmp_path / "none", "checkpoint_dir"),
        (tmp_path / "none", "checkpoint"),
    ):
        assert chosen(folder, *given) is None
    assert capsys.readouterr() == ("", "")


# --- the one that is here ---

FOLDER = serving.PRETRAINED_DIR


def counted():
    """Returns what its record says that it counts, of the test images."""
    (line,) = history.evaluations(FOLDER)
    return line


def test_its_record_says_what_it_is_and_what_it_reaches():
    (path,) = checkpoints.paths(FOLDER)
    assert checkpoints.fault(path) is None
    assert tf.train.load_checkpoint(path).get_variable_to_shape_map() == {**AVERAGES, "global_step": []}
    assert serving.class_names(None, "/missing", path) == datasets.CIFAR10.class_names
    start, line = history.newest_start(FOLDER), counted()
    assert (start["dataset"], start["model"], start["image_size"]) == ("cifar10", "tutorial", 24)
    assert sorted(start["data"]) == [f"data_batch_{i}.bin" for i in range(1, 6)]
    assert history.is_final(FOLDER, checkpoints.step(path))
    assert (line["step"], line["images"], line["of"]) == (checkpoints.step(path), "test", 10_000)
    card = exporting.model_card(serving.TrainedNetwork(path, datasets.CIFAR10.class_names), {})
    assert f"| precision | {line['correct']} of 10000 test images |" in card
    assert f"| command | cifar10_train.py {' '.join(start['arguments'])} |" in card
    manual = " ".join((SCRIPTS / "README.md").read_text(encoding="utf-8").split())
    assert f"{line['correct']:,} of the 10,000 test images" in manual


def test_it_is_installed_with_the_package_and_holds_no_path():
    setup = ast.parse((SCRIPTS.parent / "setup.py").read_text())
    (data,) = (node.value for node in ast.walk(setup) if isinstance(node, ast.keyword) and node.arg == "package_data")
    (pattern,) = ast.literal_eval(data)["cifar10"]
    for name in os.listdir(FOLDER):
        assert fnmatch.fnmatch(f"pretrained/{name}", pattern)
        with open(os.path.join(FOLDER, name), "rb") as file:
            content = file.read()
        assert name.startswith("model.ckpt") or not re.search(rb"/(tmp|home|work|root|usr)\b", content)


WITHOUT_A_RUN = """
import runpy, sys
from absl import flags
from cifar10 import flags as ours
script, nowhere, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
define = ours.define_serving_flags
ours.define_serving_flags = lambda: (define(), flags.FLAGS.set_default("checkpoint_dir", nowhere))
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.slow
def test_a_picture_is_predicted_without_any_flag(tmp_path):
    """Nor with a run where one would be; on standard output there are the predictions alone."""
    (tmp_path / "a.png").write_bytes(FILES["png"])
    arguments = [SCRIPTS / "cifar10_predict.py", tmp_path / "none", tmp_path / "a.png"]
    process = run_python("-c", WITHOUT_A_RUN, *arguments, check=0)
    assert re.fullmatch(rf"{tmp_path}/a\.png: ([a-z]+ \d\.\d{{3}}(, |\n)){{3}}", process.stdout)
    assert process.stderr.count(f"No run in {tmp_path}/none: taking the network that comes with the package") == 1


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CIFAR10_REAL_DATA"), reason="CIFAR10_REAL_DATA is not set")
def test_it_counts_what_its_record_says(tmp_path):
    data_dir = os.environ["CIFAR10_REAL_DATA"]
    flags = {"dataset": None, "checkpoint": "pretrained", "num_examples": None}
    (result,) = evaluate(data_dir, tmp_path, tmp_path / "eval", **flags)
    assert (result.correct, result.total) == (counted()["correct"], counted()["of"])
