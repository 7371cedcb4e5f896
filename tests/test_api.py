"""The package from Python."""

import functools
import os
import pathlib
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from absl import flags as absl_flags
from helpers import SCRIPTS, encode, evaluate, final, run_python, run_script, save_network, scene, train

from cifar10 import api, flags, serving
from cifar10.data import datasets
from cifar10.errors import DataError, RunError, UserError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("train")
    save_network(directory, [4, 5])
    return str(directory / "model.ckpt-5")


def test_arrays_and_files_get_the_probabilities_of_cifar10_predict(checkpoint, tmp_path):
    """Which are tested against NumPy in test_serving."""
    scenes = [scene(32, 32, seed=0), scene(40, 60, seed=1), scene(24, 31, seed=2)]
    files = []
    for i, image in enumerate(scenes):
        (tmp_path / f"{i}.png").write_bytes(encode(image, "PNG"))
        files.append(str(tmp_path / f"{i}.png"))
    loaded = api.load(os.path.dirname(checkpoint))
    assert loaded.checkpoint == checkpoint and loaded.class_names == datasets.CIFAR10.class_names
    network = serving.TrainedNetwork(checkpoint, datasets.CIFAR10.class_names)
    expected = np.stack([values for _, values in serving.Predictor(network).predict(files)])
    for images in (files, scenes):
        np.testing.assert_allclose(loaded.probabilities(images), expected, atol=1e-6)
        assert loaded.predict(images) == [loaded.class_names[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose(loaded.probabilities(np.stack([scenes[0]] * 200)), [expected[0]] * 200, atol=1e-6)
    assert loaded.probabilities([]).shape == (0, 10)
    for one in (files[0], tmp_path / "0.png", [tmp_path / "0.png"]):
        np.testing.assert_allclose(loaded.probabilities(one), expected[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros([32, 32, 3], np.float32), "an image is float32 [32, 32, 3]; give uint8 [height, width, 3]"),
        (b"1.png", "an image is bytes; give the path of its file as a str, or its pixels as uint8 [height, width, 3]"),
        (np.zeros([32, 32], np.uint8), "an image is uint8 [32, 32]; give uint8 [height, width, 3]"),
        (np.zeros([0, 32, 3], np.uint8), "an image is uint8 [0, 32, 3]; give uint8 [height, width, 3]"),
        ("/missing.png", "/missing.png: cannot be read (No such file or directory)"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(image, message, checkpoint):
    with pytest.raises(DataError) as error:
        api.load(checkpoint).probabilities([image])
    assert str(error.value) == message


def test_what_no_function_takes_is_told_in_one_line(checkpoint):
    model = api.load(checkpoint)
    for call, message in (
        (lambda: model.predict(5), "images=5: give a list of picture files or of arrays"),
        (lambda: model.predict(None), "images=None: give a list of picture files or of arrays"),
        (lambda: api.load(None), "checkpoint=None: give the path of a checkpoint, or of a folder of them"),
        (lambda: api.load(""), "checkpoint='': give the path of a checkpoint, or of a folder of them"),
        (lambda: api.load([checkpoint]), f"checkpoint={[checkpoint]}: give the path of a checkpoint, or of a folder"),
        (lambda: api.load("gs://mine/run"), "checkpoint=gs://mine/run: paths with a scheme such as gs:// are not"),
        (lambda: model.evaluate("imagenet"), "dataset='imagenet': should be one of cifar10, cifar100, cifar100_coarse"),
    ):
        with pytest.raises(UserError) as error:
            call()
        assert str(error.value).startswith(message) and len(str(error.value).splitlines()) == 1


def test_an_argument_is_as_closely_looked_at_as_its_flag(tmp_path, monkeypatch):
    """What the flags take is taken from their definitions, which here go to a place of their own."""
    defined = absl_flags.FlagValues()
    for kind in ("integer", "float", "boolean", "string", "enum"):
        define = functools.partial(getattr(absl_flags, f"DEFINE_{kind}"), flag_values=defined)
        monkeypatch.setattr(flags.flags, f"DEFINE_{kind}", define)
    monkeypatch.setattr(flags.flags, "register_validator", lambda *_, **__: None)
    flags.define_training_flags()
    flags.define_validation_flags()
    assert set(defined) - {"data_url", "data_sha256"} <= set(api.TAKES)
    for name, takes in api.TAKES.items():
        if name in ("data_dir", "batch_size", "use_fp16"):  # the package's own
            continue
        parser = defined[name].parser
        if isinstance(takes, tuple):
            kind, least, largest = takes
            assert (kind, least) == ({"int": int, "float": float}[parser.flag_type()], parser.lower_bound), name
            assert largest == (parser.upper_bound or api.MANY), name
        elif isinstance(takes, list):
            assert takes == parser.enum_values, name
        else:
            assert {bool: "bool", str: "string"}[takes] == parser.flag_type(), name


def test_an_argument_that_its_flag_would_not_take_is_told(tmp_path):
    for values, message in (
        ({"batch_size": 0}, f"batch_size=0: should be an integer from 1 to {2**20}"),
        ({"batch_size": "8"}, f"batch_size='8': should be an integer from 1 to {2**20}"),
        ({"batch_size": None}, f"batch_size=None: should be an integer from 1 to {2**20}"),
        ({"max_steps": 1.5}, f"max_steps=1.5: should be an integer from 0 to {10**18 - 1}"),
        ({"max_steps": True}, f"max_steps=True: should be an integer from 0 to {10**18 - 1}"),
        ({"seed": -1}, f"seed=-1: should be an integer from 0 to {2**32 - 1}"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: should be a number from 0.0 to 1000.0"),
        ({"learning_rate": np.float32(-0.5)}, "learning_rate=-0.5: should be a number from 0.0 to 1000.0"),
        ({"learning_rate": "0.1"}, "learning_rate='0.1': should be a number from 0.0 to 1000.0"),
        ({"use_fp16": "no"}, "use_fp16='no': should be True or False"),
        ({"profile_steps": (0, 1)}, "profile_steps=(0, 1): should be a text that is not empty"),
        ({"dataset": None}, "dataset=None: should be one of cifar10, cifar100, cifar100_coarse, svhn, synthetic, imag"),
        ({"model": "resnet"}, "model='resnet': should be one of tutorial, cuda_convnet, tutorial_without_lrn, cuda_co"),
    ):
        with pytest.raises(RunError) as error:
            api.train(tmp_path / "run", **values)
        assert str(error.value).startswith(message), values
    with pytest.raises(RunError, match=r"^train_dir=None: should be a text that is not empty$"):
        api.train(None)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_it_trains_with_paths_and_numbers_of_numpy(synthetic_dir, tmp_path):
    model = api.train(
        tmp_path / "run",
        "synthetic",
        pathlib.Path(synthetic_dir),
        max_steps=np.int64(1),
        batch_size=8.0,
        learning_rate=np.float32(0.5),
    )
    assert model.checkpoint == str(tmp_path / "run" / "model.ckpt-1")


@pytest.mark.slow
def test_it_trains_and_evaluates_as_the_scripts_do(synthetic_dir, tmp_path):
    model = api.train(str(tmp_path / "api"), "synthetic", synthetic_dir, max_steps=3, batch_size=16, microbatch_size=8)
    train(synthetic_dir, tmp_path / "script", max_steps=3)
    expected = final(tmp_path / "script")
    for name, value in final(tmp_path / "api").items():
        np.testing.assert_array_equal(value, expected[name])
    (result,) = evaluate(synthetic_dir, tmp_path / "script", tmp_path / "eval", num_examples=None)
    assert model.evaluate("synthetic", synthetic_dir) == result
    assert model.class_names == datasets.SYNTHETIC.class_names
    assert tf.get_default_graph().get_operations() == []


def test_a_flag_that_is_none_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"--learnig_rate: there is no such flag; cifar10_train\.py --help lists them"):
        api.train(str(tmp_path / "train"), "synthetic", str(tmp_path), learnig_rate=0.1)
    with pytest.raises(RunError, match="recipe='quick': should be one of tutorial, fast"):
        api.train(str(tmp_path / "train"), "synthetic", str(tmp_path), "quick")
    with pytest.raises(RunError, match=r"No checkpoint file /missing\.index; give --checkpoint as …/model"):
        api.load("/missing")


@pytest.mark.slow
def test_the_scripts_list_the_classes_of_a_checkpoint(checkpoint):
    for script in ("cifar10_predict", "cifar10_export"):
        process = run_script(script, f"--checkpoint={checkpoint}", "--list_classes", check=0)
        assert process.stdout.split() == list(datasets.CIFAR10.class_names)


@pytest.mark.slow
def test_the_manuals_program_runs(synthetic_dir, tmp_path):
    """As it is printed, but for its paths, and with fewer steps."""
    manual = (SCRIPTS / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(from cifar10 import api\n.*?)^```$", manual, re.MULTILINE | re.DOTALL)
    for text, ours in (("/tmp/mine", str(tmp_path / "run")), ("/tmp/data", synthetic_dir), ("=100", "=3")):
        assert text in program
        program = program.replace(text, ours)
    process = run_python("-c", program, check=0)
    *_, precision, line = process.stdout.splitlines()
    assert 0 <= float(precision) <= 1 and line.startswith("('disc', 'ring',") and line.endswith("run/model.ckpt-3")


NOTEBOOK = """
import sys
import tensorflow as tf
from cifar10 import api
checkpoint, picture = sys.argv[1:]
assert tf.executing_eagerly()
print(api.load(checkpoint).predict([picture]))
assert tf.executing_eagerly() and float(tf.constant(2.0) * 2) == 4
"""


@pytest.mark.slow
def test_it_leaves_a_notebooks_tensorflow_as_it_was(checkpoint, tmp_path):
    (tmp_path / "1.png").write_bytes(encode(scene(32, 32), "PNG"))
    process = run_python("-c", NOTEBOOK, checkpoint, tmp_path / "1.png", check=0)
    assert process.stdout.strip(" \n[]'") in datasets.CIFAR10.class_names
