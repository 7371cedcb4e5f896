"""The network in the forms of other libraries: each returns what TensorFlow's graph does."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from forkserver import environment
from helpers import network, save_network

from cifar10 import exporting, serving
from cifar10.bridges import keras_file, model_card, onnx_file, parts
from cifar10.data import datasets, records
from cifar10.errors import RunError
from cifar10.network import model

NAMES = datasets.CIFAR10.class_names


@pytest.fixture(scope="module")
def images():
    """Images of all degrees of contrast: uint8 [9, 32, 32, 3]; one is of a single colour, one of only two values."""
    noise = np.random.RandomState(4).uniform(-128, 128, [9, 32, 32, 3]) * np.linspace(0, 1, 9)[:, None, None, None]
    noise[8] = np.where(noise[8] > 0, 127, -128)
    return (128 + noise).astype(np.uint8)


def random_weights(name, num_classes=10, image_size=32):
    """Returns parts.Weights of a network, larger than initial ones so that its probabilities are no even ones."""
    with tf.Graph().as_default():
        model.Network(name, num_classes)(tf.zeros([1, 24, 24, 3]))
        shapes = {variable.op.name: variable.shape.as_list() for variable in tf.trainable_variables()}
    rng = np.random.RandomState(1)
    return parts.Weights({n: (rng.randn(*s) * 0.06).astype(np.float32) for n, s in shapes.items()}, image_size)


def by_tensorflow(name, weights, images):
    """Returns the probabilities of the project's own graph."""
    margin = (images.shape[1] - 24) // 2
    pixels = images[:, margin : margin + 24, margin : margin + 24].astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        standardized = tf.image.per_image_standardization(tf.constant(pixels))
        probabilities = tf.nn.softmax(model.Network(name, weights.num_classes, conv="op")(standardized))
        for variable in tf.trainable_variables():
            session.run(tf.assign(variable, weights.values[variable.op.name]))
        return session.run(probabilities)


def by_numpy(weights, images):
    """Returns the probabilities of the tutorial's network by helpers.network, in float64."""
    x = images[:, 4:28, 4:28].astype(np.float64)
    x = x - x.mean(axis=(1, 2, 3), keepdims=True)
    x /= np.maximum(x.std(axis=(1, 2, 3), keepdims=True), 1 / np.sqrt(24 * 24 * 3))
    powers = network(x, {name: value.astype(np.float64) for name, value in weights.values.items()})
    powers = np.exp(powers - powers.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_onnx_gives_what_numpy_and_tensorflow_give(images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    weights = random_weights("tutorial")
    path = str(tmp_path / "model.onnx")
    onnx_file.write(path, weights, NAMES)
    ours = onnx_file.probabilities(path, images)
    np.testing.assert_allclose(ours, by_numpy(weights, images), atol=1e-5)
    np.testing.assert_allclose(ours, by_tensorflow("tutorial", weights, images), atol=1e-5)
    assert ours.argmax(axis=1).max() > ours.argmax(axis=1).min() and ours.max() > 0.2
    np.testing.assert_allclose(onnx_file.probabilities(path, images[:1]), ours[:1], atol=1e-6)  # any number of them
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["classes"].split("\n") == list(NAMES)
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [32, 32, 3])
    assert (returned.name, returned.shape[1]) == ("probabilities", 10)


@pytest.mark.parametrize(
    ("name", "num_classes", "size"), [("cuda_convnet", 10, 32), ("tutorial", 3, 24), ("cuda_convnet", 100, 24)]
)
def test_onnx_has_other_networks_classes_and_sizes_too(name, num_classes, size, images, tmp_path):
    pytest.importorskip("onnxruntime")
    weights = random_weights(name, num_classes, size)
    onnx_file.write(str(tmp_path / "model.onnx"), weights, [f"class {i}" for i in range(num_classes)])
    ours = onnx_file.probabilities(str(tmp_path / "model.onnx"), images[:, :size, :size])
    np.testing.assert_allclose(ours, by_tensorflow(name, weights, images[:, :size, :size]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_classes", "size"), [("tutorial", 10, 32), ("cuda_convnet", 100, 24)])
def test_keras_gives_what_tensorflow_gives(name, num_classes, size, images, tmp_path):
    weights = random_weights(name, num_classes, size)
    keras_file.write(str(tmp_path / "model.keras"), weights)
    ours = keras_file.probabilities(str(tmp_path / "model.keras"), images[:, :size, :size])
    np.testing.assert_allclose(ours, by_tensorflow(name, weights, images[:, :size, :size]), atol=1e-5)


# Loads the files as anybody would who has Keras and nothing of this package.
KERAS_CLIENT = """
import json, sys
import keras, numpy as np
images = np.load(sys.argv[1])
networks = [keras.saving.load_model(path) for path in sys.argv[2:]]
print(json.dumps([keras.ops.convert_to_numpy(network(images)).tolist() for network in networks]))
print(keras.backend.backend(), [name for name in sys.modules if name.startswith("cifar10")])
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax"])
def test_the_keras_file_loads_on_each_backend_without_the_package(backend, images, tmp_path):
    pytest.importorskip(backend)
    np.save(tmp_path / "images.npy", images)
    weights = {name: random_weights(name) for name in ("tutorial", "cuda_convnet")}
    paths = [str(tmp_path / f"{name}.keras") for name in weights]
    for path, values in zip(paths, weights.values(), strict=True):
        keras_file.write(path, values)
    outside = {n: value for n, value in environment().items() if n != "PYTHONPATH"} | {"KERAS_BACKEND": backend}
    command = [sys.executable, "-c", KERAS_CLIENT, str(tmp_path / "images.npy"), *paths]
    process = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd="/", env=outside)
    assert process.returncode == 0, process.stderr
    answers, loaded = process.stdout.splitlines()[-2:]
    assert loaded == f"{backend} []"
    for (name, values), answer in zip(weights.items(), json.loads(answers), strict=True):
        np.testing.assert_allclose(answer, by_tensorflow(name, values, images), atol=1e-5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("train")
    save_network(directory, [5])
    return str(directory / "model.ckpt-5")


@pytest.mark.slow
def test_an_export_has_all_forms_and_they_agree(checkpoint, images, synthetic_dir, tmp_path):
    pytest.importorskip("onnxruntime")
    network = serving.TrainedNetwork(checkpoint, NAMES)
    train = records.load(datasets.SYNTHETIC, synthetic_dir, "train").images[:50]
    card = exporting.model_card(network, {"onnx": True, "keras": True})
    forms = exporting.Forms(tflite=True, calibration=train, onnx=True, keras=True, card=card)
    exporting.export(network, str(tmp_path / "export"), forms=forms)
    assert {path.name for path in (tmp_path / "export").iterdir()} == {
        *("saved_model.pb", "variables", "MODEL_CARD.md", "labels.txt"),
        *("model.tflite", "model_int8.tflite", "model.onnx", "model.keras"),
    }
    expected = serving.Predictor(network).probabilities(images)
    paths = {name: str(tmp_path / "export" / name) for name in ("model.onnx", "model.keras", "model.tflite")}
    np.testing.assert_allclose(onnx_file.probabilities(paths["model.onnx"], images), expected, atol=1e-5)
    np.testing.assert_allclose(keras_file.probabilities(paths["model.keras"], images), expected, atol=1e-5)
    np.testing.assert_allclose(exporting.tflite_probabilities(paths["model.tflite"], images), expected, atol=1e-5)
    int8 = tmp_path / "export" / "model_int8.tflite"
    assert int8.stat().st_size < 0.35 * (tmp_path / "export" / "model.tflite").stat().st_size  # a byte for four
    assert (exporting.tflite_probabilities(str(int8), images).argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.7


@pytest.mark.slow
def test_what_another_library_gets_wrong_is_not_exported(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    network = serving.TrainedNetwork(checkpoint, NAMES)
    monkeypatch.setattr(onnx_file._Graph, "normalize", lambda self, x: x)  # no local response normalization
    with pytest.raises(RunError, match=r"model\.onnx: gives probabilities that differ by .*; not exported"):
        exporting.export(network, str(tmp_path / "export"), forms=exporting.Forms(onnx=True))
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_not_there_is_named_with_its_extra(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RunError) as error:
        exporting.export(
            serving.TrainedNetwork(checkpoint, NAMES), str(tmp_path / "x"), forms=exporting.Forms(onnx=True)
        )
    assert str(error.value) == "--onnx: onnxruntime is not installed; install it with pip install 'cifar10[onnx]'"


def test_half_precision_is_refused(checkpoint, tmp_path):
    for form in ("onnx", "keras"):
        with pytest.raises(RunError, match=f"--{form}: it computes in float32; export it without --use_fp16"):
            forms = exporting.Forms(**{form: True})
            exporting.export(serving.TrainedNetwork(checkpoint, NAMES, use_fp16=True), str(tmp_path / "x"), forms=forms)


def test_a_model_card_says_what_is_on_record_and_what_is_not(checkpoint, tmp_path):
    text = exporting.model_card(serving.TrainedNetwork(checkpoint, ("a|b", "c")), {"onnx": True})
    assert "| classes | a&#124;b, c |" in text and "| trained on | not on record |" in text
    assert "| precision | not on record: cifar10_train.py --eval_every_steps records it |" in text
    assert "| began with | not on record |" in text
    assert "`model.onnx`" in text and "`model.keras`" not in text and "Apache License 2.0" in text

    start = {"event": "start", "program": "cifar10_train.py", "arguments": ["--seed=3"], "dataset": "synthetic"}
    start |= {"versions": {"tensorflow": "9"}, "data": {"a.bin": "00ff"}, "recipe": "fast", "model": "tutorial"}
    start["init_from"] = "mine/model.ckpt-9"
    folder = tmp_path / "run"
    save_network(folder, [5])
    (folder / "runs.jsonl").write_text(json.dumps(start) + "\n")
    (folder / "metrics.jsonl").write_text(
        '{"step": 5, "precision": 0.75, "correct": 3, "of": 4, "images": "test"}\n'
        '{"step": 6, "precision": 1.0, "correct": 4, "of": 4, "images": "test"}\n'
    )
    text = exporting.model_card(serving.TrainedNetwork(str(folder / "model.ckpt-5"), NAMES), {})
    assert "| began with | mine/model.ckpt-9 |" in text
    assert "| command | cifar10_train.py --seed=3 |" in text and "| versions | tensorflow 9 |" in text
    assert "| precision | 3 of 4 test images |" in text and "| SHA-256 of that | a.bin 00ff |" in text


@pytest.mark.parametrize("value", [None, 7, "x", [], {}, [None], "a\nb\x1b[2J", "x" * 10**6, {"a": {"b": []}}])
def test_a_model_card_takes_a_record_of_any_content(value):
    names = ("program", "arguments", "versions", "data", "dataset", "recipe", "model", "init_from", "hyper_parameters")
    text = model_card.text("x", ("a",), {}, dict.fromkeys(names, value), [])
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 12 and "\x1b" not in text and len(text) < 30_000
