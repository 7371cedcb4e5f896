"""Crops of another size than the tutorial's: recorded with the run, and honoured by whatever uses it."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import evaluate, network, train
from PIL import Image

from cifar10 import exporting, serving
from cifar10.data import datasets, records
from cifar10.errors import RunError
from cifar10.runs import checkpoints, history

NUM_IMAGES = 10


@pytest.fixture(scope="module")
def whole_images(synthetic_dir, tmp_path_factory):
    """The train_dir of a run on whole images."""
    train_dir = tmp_path_factory.mktemp("whole")
    train(synthetic_dir, train_dir, max_steps=2, image_size=32)
    return train_dir


@pytest.fixture(scope="module")
def expected(whole_images, synthetic_dir):
    """(Test images, labels, logits): the network in NumPy on whole images, with the run's moving averages."""
    examples = records.load(datasets.SYNTHETIC, synthetic_dir, "test").part(0, NUM_IMAGES)
    images = examples.images.astype(np.float64)
    axes = (1, 2, 3)
    images = (images - images.mean(axes, keepdims=True)) / images.std(axes, keepdims=True)
    reader = tf.train.load_checkpoint(checkpoints.paths(str(whole_images))[-1])
    suffix = "/ExponentialMovingAverage"
    averages = {
        name.removesuffix(suffix): reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.endswith(suffix)
    }
    assert averages["local3/weights"].shape == (8 * 8 * 64, 384)  # 32 halved twice
    return examples.images, examples.labels, network(images, {k: v.astype(np.float64) for k, v in averages.items()})


@pytest.mark.slow
def test_evaluation_sees_what_the_run_was_trained_on(whole_images, expected, synthetic_dir, tmp_path):
    _, labels, logits = expected
    assert history.image_size(str(whole_images)) == 32
    (result,) = evaluate(synthetic_dir, whole_images, tmp_path, num_examples=NUM_IMAGES)
    assert result.correct == np.sum(logits.argmax(axis=1) == labels)


@pytest.mark.slow
def test_prediction_and_export_see_what_the_run_was_trained_on(whole_images, expected, tmp_path):
    images, _, logits = expected
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    path = serving.find_checkpoint(None, str(whole_images))
    trained = serving.TrainedNetwork(path, datasets.SYNTHETIC.class_names)
    names = []
    for i, image in enumerate(images):
        names.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image).save(names[-1])
    predictor = serving.Predictor(trained, batch_size=NUM_IMAGES)
    found = np.array([values for _, values in predictor.predict(names)])
    np.testing.assert_allclose(found, probabilities, atol=1e-4)
    exporting.export(trained, str(tmp_path / "export"))
    exported = tf.compat.v2.saved_model.load(str(tmp_path / "export")).signatures["serving_uint8"]
    best_first = -np.sort(-probabilities, axis=1)
    np.testing.assert_allclose(exported(images=tf.constant(images))["probabilities"], best_first, atol=1e-4)
    with pytest.raises(RunError, match=r"^--crop=whole: .* with --image_size=32; use --crop=central$"):
        serving.Predictor(serving.TrainedNetwork(path, datasets.SYNTHETIC.class_names, crop="whole"))


@pytest.mark.slow
def test_a_run_is_continued_with_its_image_size_only(whole_images, synthetic_dir):
    with pytest.raises(RunError, match="was trained with --image_size=32, not 24; choose that, or another"):
        train(synthetic_dir, whole_images, max_steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["dataset", "queue"])
def test_either_pipeline_crops_to_the_size(pipeline, synthetic_dir, tmp_path):
    train(
        synthetic_dir,
        tmp_path,
        max_steps=1,
        image_size=16,
        input_pipeline=pipeline,
        min_fraction_of_examples_in_queue=0.01,
    )
    shapes = tf.train.load_checkpoint(checkpoints.paths(str(tmp_path))[-1]).get_variable_to_shape_map()
    assert shapes["local3/weights"] == [4 * 4 * 64, 384]
