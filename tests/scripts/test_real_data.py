"""Against the original tutorial, on real images; skipped where they are not at hand.

CIFAR10_REAL_DATA names a data_dir with CIFAR-10 in it, CIFAR10_TUTORIAL_CHECKPOINT a folder with model.ckpt-5847 as the
original training script wrote it on those images.
"""

import json
import os

import cifar10_predict
import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import evaluate
from PIL import Image

from cifar10 import exporting, serving
from cifar10.bridges import keras_file, onnx_file
from cifar10.data import datasets, records

DATA = os.environ.get("CIFAR10_REAL_DATA")
CHECKPOINT = os.environ.get("CIFAR10_TUTORIAL_CHECKPOINT")

pytestmark = pytest.mark.skipif(
    not (DATA and CHECKPOINT), reason="CIFAR10_REAL_DATA and CIFAR10_TUTORIAL_CHECKPOINT are not set"
)


@pytest.mark.slow
@pytest.mark.parametrize(("averages", "correct"), [(True, 7617), (False, 7306)])
def test_the_originals_checkpoint_counts_what_the_original_counted(tmp_path, averages, correct):
    (result,) = evaluate(DATA, CHECKPOINT, tmp_path, dataset="cifar10", num_examples=None, use_moving_averages=averages)
    assert (result.correct, result.total, result.step) == (correct, 10_000, 5847)


@pytest.mark.slow
def test_predictions_of_the_test_images_as_files_count_what_the_original_counted(tmp_path, capsys):
    examples = records.load(datasets.CIFAR10, DATA, "test")
    for i, (image, label) in enumerate(zip(examples.images, examples.labels, strict=True)):
        folder = tmp_path / datasets.CIFAR10.class_names[label]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    cifar10_predict.run(
        pictures=[str(tmp_path)],
        top_k=1,
        json=True,
        dataset="cifar10",
        data_dir=DATA,
        checkpoint=None,
        checkpoint_dir=CHECKPOINT,
        use_moving_averages=True,
        crop="central",
        batch_size=128,
        use_fp16=False,
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    right = [line["picture"].split("/")[-2] == line["predictions"][0]["class"] for line in lines]
    assert (sum(right), len(right)) == (7617, 10_000)


def test_the_originals_checkpoint_has_the_names_and_types_of_ours():
    reader = tf.train.load_checkpoint(CHECKPOINT)
    assert reader.get_variable_to_shape_map() == published.CHECKPOINT
    types = reader.get_variable_to_dtype_map()
    assert types.pop("global_step") == tf.int64 and set(types.values()) == {tf.float32}


@pytest.mark.slow
def test_all_exported_forms_agree_on_real_images(tmp_path):
    """To 1e-5 on 1,000 of them; and on all 10,000 ONNX counts what the original counted."""
    pytest.importorskip("onnxruntime")
    train, test = (records.load(datasets.CIFAR10, DATA, split) for split in ("train", "test"))
    network = serving.TrainedNetwork(f"{CHECKPOINT}/model.ckpt-5847", datasets.CIFAR10.class_names)
    forms = exporting.Forms(tflite=True, calibration=train.images[::100], onnx=True, keras=True)
    exporting.export(network, str(tmp_path / "export"), forms=forms)
    paths = {path.suffix: str(path) for path in (tmp_path / "export").glob("model.*")}
    images = test.images[:1000]
    expected = serving.Predictor(network).probabilities(images)
    signature = tf.saved_model.load_v2(str(tmp_path / "export")).signatures["serving_uint8"]
    saved = signature(images=tf.constant(images))["probabilities"].numpy()
    np.testing.assert_allclose(saved, -np.sort(-expected, axis=1), atol=1e-5)
    for suffix, probabilities in (
        (".onnx", onnx_file.probabilities),
        (".keras", keras_file.probabilities),
        (".tflite", exporting.tflite_probabilities),
    ):
        np.testing.assert_allclose(probabilities(paths[suffix], images), expected, atol=1e-5, err_msg=suffix)
    counted = onnx_file.probabilities(paths[".onnx"], test.images).argmax(axis=1) == test.labels
    assert counted.sum() == 7617
    int8 = exporting.tflite_probabilities(str(tmp_path / "export" / "model_int8.tflite"), images)
    right = [(of.argmax(axis=1) == test.labels[:1000]).mean() for of in (int8, expected)]
    assert abs(right[0] - right[1]) < 0.01, right
