"""Records -> batches."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import take, write_noise

from cifar10 import cifar10_input
from cifar10.data import crops, datasets, records


def numbered(count):
    """Examples whose label is their number, so that a batch says which it holds."""
    return records.Examples(np.zeros([count, 32, 32, 3], np.uint8), np.arange(count, dtype=np.int32))


def test_distortion_equals_tf_image_image_by_image(graph):
    images = np.random.RandomState(0).randint(0, 256, [50, 32, 32, 3], dtype=np.uint8)
    draws = take(crops.draw(3, tf.constant(7, tf.int64), 50, crops.Distortions()), 1)[0]
    ours = take(crops.distort(tf.constant(images), draws), 1)[0]
    expected = []
    for image, top, left, flip, brightness, contrast in zip(images, *draws, strict=True):
        cropped = tf.image.crop_to_bounding_box(tf.cast(image, tf.float32), top, left, 24, 24)
        flipped = tf.image.flip_left_right(cropped) if flip else cropped
        jittered = tf.image.adjust_contrast(tf.image.adjust_brightness(flipped, brightness), contrast)
        expected.append(tf.image.per_image_standardization(jittered))
    np.testing.assert_allclose(ours, take(expected, 1)[0], atol=1e-4)


def test_draws_cover_the_tutorials_ranges_evenly(graph):
    draws = crops.draw(0, tf.constant(0, tf.int64), 20_000, crops.Distortions())
    top, left, flip, brightness, contrast = take(draws, 1)[0]
    for offset in (top, left):
        np.testing.assert_allclose(np.bincount(offset, minlength=9) / 20_000, np.full(9, 1 / 9), atol=0.01)
    assert abs(flip.mean() - 0.5) < 0.02
    for values, low, high in ((brightness, -63.0, 63.0), (contrast, 0.2, 1.8)):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)
    assert np.abs(np.corrcoef([top, left, flip, brightness, contrast]) - np.eye(5)).max() < 0.03


def test_whitening_divides_by_at_least_one_over_the_root_of_the_size(graph):
    images = np.full([2, 32, 32, 3], 128, np.uint8)
    images[1, 16, 16, 0] = 129
    out = take(cifar10_input.inputs(True, records.Examples(images, np.zeros(2, np.int32)), 2)[0], 1)[0]
    size = 24 * 24 * 3
    assert np.all(out[0] == 0.0)
    # One value of 1 among zeros: mean 1/n, deviation sqrt(1/n - 1/n^2) < 1/sqrt(n), so that the floor divides.
    np.testing.assert_allclose(out[1].max(), (1 - 1 / size) * np.sqrt(size), rtol=1e-4)


def test_every_image_once_an_epoch_in_another_order_each(graph):
    labels = cifar10_input.distorted_inputs(numbered(300), 30, seed=0)[1]
    batches = np.stack(take(labels, 20))
    first, second = batches[:10].ravel(), batches[10:].ravel()
    assert sorted(first) == sorted(second) == list(range(300))
    assert np.mean(first == second) < 0.05
    assert np.mean(first == np.arange(300)) < 0.05


def test_a_batch_may_span_two_epochs(graph):
    labels = cifar10_input.distorted_inputs(numbered(50), 40, seed=0)[1]
    stream = np.concatenate(take(labels, 5))
    for epoch in range(4):
        assert sorted(stream[50 * epoch : 50 * (epoch + 1)]) == list(range(50))


def test_a_batch_is_a_function_of_seed_and_step(graph, noise):
    whole = take(cifar10_input.distorted_inputs(noise, 8, seed=5), 6)
    resumed = take(cifar10_input.distorted_inputs(noise, 8, seed=5, start_step=4), 2)
    other_seed = take(cifar10_input.distorted_inputs(noise, 8, seed=6), 1)
    for one, same in zip(whole[4:], resumed, strict=True):
        np.testing.assert_array_equal(one[0], same[0])
        np.testing.assert_array_equal(one[1], same[1])
    assert not np.array_equal(whole[0][1], other_seed[0][1])
    assert not np.array_equal(whole[0][0], whole[1][0])


def test_shuffling_mixes_better_than_chance_would_betray(graph):
    """Sorted classes: each batch of 128 of ten classes has about 12.8 of each (hypergeometric deviation 3.4)."""
    labels = np.repeat(np.arange(10), 5000).astype(np.int32)
    examples = records.Examples(np.zeros([50_000, 32, 32, 3], np.uint8), labels)
    batches = np.stack(take(cifar10_input.distorted_inputs(examples, 128, seed=1)[1], 100))
    counts = np.stack([np.bincount(batch, minlength=10) for batch in batches])
    assert abs(counts.std() - np.sqrt(128 * 0.1 * 0.9 * (50_000 - 128) / 49_999)) < 0.4


def test_facade_evaluation_batches_are_full_and_wrap_around(graph):
    images, labels = cifar10_input.inputs(True, numbered(10), 4)
    assert images.shape == [4, 24, 24, 3]
    assert [list(batch) for batch in take(labels, 3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]


def test_evaluation_passes_hold_each_example_once(graph):
    _, *labels_and_numbers = cifar10_input.passes(numbered(10), 4, 9)
    found = [[list(batch) for batch in batches] for batches in take(labels_and_numbers, 4)]
    padding = cifar10_input.PADDING
    first, second, last = [0, 1, 2, 3], [4, 5, 6, 7], [8, padding, padding, padding]
    assert found == [[first, first], [second, second], [last, [8, 9, 10, 11]], [first, first]]


def test_evaluation_takes_the_central_crop(graph):
    images = np.arange(32 * 32 * 3).reshape(1, 32, 32, 3) % 251
    examples = records.Examples(images.astype(np.uint8), np.zeros(1, np.int32))
    crop = images[0, 4:28, 4:28].astype(np.float64)
    out = take(cifar10_input.inputs(True, examples, 1)[0], 1)[0]
    np.testing.assert_allclose(out[0], (crop - crop.mean()) / crop.std(), atol=1e-4)


def test_read_cifar10_decodes_planes_rows_and_label(graph, tmp_path):
    """Two records whose bytes are known: red counts rows, green counts columns, blue is constant."""
    rows, columns = np.mgrid[0:32, 0:32]
    record = np.concatenate([[7], rows.ravel(), columns.ravel(), np.full(1024, 99)]).astype(np.uint8)
    other = np.full(datasets.RECORD_BYTES, 3, np.uint8)
    path = tmp_path / "two.bin"
    np.concatenate([record, other]).tofile(path)
    result = cifar10_input.read_cifar10(tf.train.string_input_producer([str(path)], shuffle=False))
    assert (result.height, result.width, result.depth) == (32, 32, 3)
    assert result.label.shape == [1] and result.label.dtype == tf.int32
    (key, label, image), second = take([result.key, result.label, result.uint8image], 2, queue=True)
    assert key == f"{path}:0".encode() and list(label) == [7]
    np.testing.assert_array_equal(image, np.stack([rows, columns, np.full([32, 32], 99)], axis=2))
    assert second[0] == f"{path}:1".encode() and np.all(second[2] == 3)


def test_queue_fills_and_trains_on_the_files(graph, tiny, tmp_path, capsys):
    write_noise(tiny, tmp_path)
    paths = records.paths(tiny, tmp_path, "train")
    images, labels, _ = cifar10_input.queue_training_batch(paths, 16, num_examples=100)
    assert capsys.readouterr().out == (
        "Filling queue with 40 CIFAR images before starting to train. This will take a few minutes.\n"
    )
    values = take([images, labels], 5, queue=True)
    for batch, batch_labels in values:
        assert batch.shape == (16, 24, 24, 3) and batch_labels.shape == (16,)
        np.testing.assert_allclose(batch.mean(axis=(1, 2, 3)), 0.0, atol=1e-4)
        np.testing.assert_allclose(batch.std(axis=(1, 2, 3)), 1.0, atol=1e-3)
    assert len({tuple(batch_labels) for _, batch_labels in values}) > 1
    runner = tf.get_collection(tf.GraphKeys.QUEUE_RUNNERS)[-1]
    assert len(runner.enqueue_ops) == 16
    assert runner.queue.queue_ref.op.get_attr("min_after_dequeue") == 40


@pytest.mark.parametrize("split", datasets.SPLITS)
def test_published_number_of_examples(split):
    published = {
        "train": cifar10_input.NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN,
        "test": cifar10_input.NUM_EXAMPLES_PER_EPOCH_FOR_EVAL,
    }
    assert published == {"train": 50_000, "test": 10_000}
    assert datasets.CIFAR10.num_examples(split) == published[split]
