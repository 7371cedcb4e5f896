"""Checkpoint -> predictions, SavedModel."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from forkserver import environment
from helpers import FILES, central_square, encode, resized, save_network, scene, write_images

from cifar10 import evaluation, exporting, serving
from cifar10.data import datasets, pictures, records
from cifar10.errors import DataError, RunError
from cifar10.network import model
from cifar10.runs import history

NAMES = datasets.CIFAR10.class_names
SIZES = [(32, 32), (300, 200), (24, 31), (5, 7)]  # height and width of the pictures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("train")
    save_network(directory, [4, 5])
    return str(directory / "model.ckpt-5")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of PNG files of SIZES."""
    directory = tmp_path_factory.mktemp("pictures")
    for i, size in enumerate(SIZES):
        (directory / f"{i}.png").write_bytes(encode(scene(*size, seed=i), "PNG"))
    return [str(directory / f"{i}.png") for i in range(len(SIZES))]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def expected(checkpoint, prepared, averages=True, num_classes=10):
    """Returns the probabilities by a plain graph, standardization and softmax in NumPy, weights read from the file.

    Args:
      checkpoint: its path.
      prepared: list of uint8 [24, 24, 3].
      averages: whether to take the moving averages.
      num_classes: number of logits.
    """
    images = np.stack(prepared).astype(np.float64)
    mean, stddev = images.mean(axis=(1, 2, 3), keepdims=True), images.std(axis=(1, 2, 3), keepdims=True)
    reader = tf.train.load_checkpoint(checkpoint)
    suffix = "/ExponentialMovingAverage" if averages else ""
    with tf.Graph().as_default(), tf.Session() as session:
        logits = model.Network(num_classes=num_classes)(tf.constant((images - mean) / stddev, tf.float32))
        session.run([tf.assign(v, reader.get_tensor(v.op.name + suffix)) for v in tf.trainable_variables()])
        return softmax(session.run(logits).astype(np.float64))


def prepared(crop="central"):
    """Returns what the network sees of the pictures of SIZES, by NumPy."""
    scenes = [scene(*size, seed=i) for i, size in enumerate(SIZES)]
    if crop == "whole":
        return [resized(picture, 24) for picture in scenes]
    return [resized(central_square(picture), 32)[4:28, 4:28] for picture in scenes]


def predict(checkpoint, names, batch_size=128, **options):
    """Returns the probabilities of pictures as an array, [len(names), num_classes]; options: of TrainedNetwork."""
    network = serving.TrainedNetwork(checkpoint, NAMES, **options)
    return np.stack([values for _, values in serving.Predictor(network, batch_size).predict(names)])


@pytest.mark.parametrize(("crop", "averages"), [("central", True), ("central", False), ("whole", True)])
def test_probabilities_are_the_softmax_of_the_networks_logits(checkpoint, files, crop, averages):
    """Of a 32x32 picture to 1e-5; in a resized one a grey level half-way between two may be rounded either way."""
    ours = predict(checkpoint, files, crop=crop, use_moving_averages=averages)
    reference = expected(checkpoint, prepared(crop), averages)
    np.testing.assert_allclose(ours, reference, atol=2e-4)
    if crop == "central":
        np.testing.assert_allclose(ours[0], reference[0], atol=1e-5)
    np.testing.assert_allclose(ours.sum(axis=1), 1.0, atol=1e-6)


def test_predictions_are_the_evaluations(checkpoint, noise, tmp_path):
    """Of 100 pictures as files, as many are in their class as the evaluation counts."""
    names = []
    for i, image in enumerate(noise.images):
        (tmp_path / f"{i}.bmp").write_bytes(encode(image, "BMP"))
        names.append(str(tmp_path / f"{i}.bmp"))
    chosen = predict(checkpoint, names, batch_size=64).argmax(axis=1)
    examples = records.Examples(noise.images, chosen.astype(np.int32))
    evaluator = evaluation.Evaluator(examples, 100, 50)
    with tf.Graph().as_default():
        assert evaluator.evaluate(checkpoint)[0].correct == 100
    assert len(set(chosen)) > 1


def test_predictions_do_not_depend_on_the_batch(checkpoint, files):
    many = files * 10
    whole = predict(checkpoint, many, batch_size=64)
    for batch_size in (1, 3, 40):
        np.testing.assert_allclose(predict(checkpoint, many, batch_size=batch_size), whole, atol=1e-6)


def test_half_precision_gives_nearly_the_same(checkpoint, files):
    single, half = predict(checkpoint, files), predict(checkpoint, files, use_fp16=True)
    assert 0 < np.abs(single - half).max() < 0.02


def test_an_unreadable_picture_is_reported_in_its_place(checkpoint, files, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_text("")
    (tmp_path / "cut.jpg").write_bytes(FILES["jpeg"][:-300])
    names = [files[0], *(str(tmp_path / name) for name in ("text.png", "cut.jpg", "empty.png", "missing")), files[1]]
    results = list(serving.Predictor(serving.TrainedNetwork(checkpoint, NAMES), 3).predict(iter(names)))
    assert [name for name, _ in results] == names
    whole = predict(checkpoint, files)
    np.testing.assert_allclose(results[0][1], whole[0], atol=1e-6)
    np.testing.assert_allclose(results[-1][1], whole[1], atol=1e-6)
    for (name, error), reason in zip(
        results[1:-1],
        ["(no JPEG, PNG, BMP, GIF or WebP file)", "runcated", "(no JPEG, PNG, BMP", "No such file"],
        strict=True,
    ):
        assert isinstance(error, DataError) and str(error).startswith(f"{name}: cannot be ") and reason in str(error)
        assert len(str(error).splitlines()) == 1


def test_pictures_are_taken_one_batch_at_a_time(checkpoint, files):
    """So that any number of them needs the same memory: no name is asked for before its batch's turn."""
    asked = []

    def names():
        for name in files * 25:
            asked.append(name)
            yield name

    results = serving.Predictor(serving.TrainedNetwork(checkpoint, NAMES), 8).predict(names())
    for count in range(1, 101):
        next(results)
        assert len(asked) == min(100, (count + 7) // 8 * 8)


def test_best_classes_are_in_numpys_order_and_equal_ones_in_that_of_their_labels():
    rng = np.random.RandomState(0)
    for _ in range(20):
        values = softmax(rng.randn(10)).astype(np.float32)
        values[3] = values[7]
        ours = serving.best(values, NAMES, 10)
        assert [value for _, value in ours] == sorted(values.tolist(), reverse=True)
        assert dict(ours) == dict(zip(NAMES, values.tolist(), strict=True))
        order = [name for name, _ in ours]
        assert order.index("cat") == order.index("horse") - 1
        assert serving.best(values, NAMES, 3) == ours[:3]


def test_lines_are_text_or_json():
    predictions = [("cat", 0.75), ("dog", 0.125)]
    assert serving.as_text("a b.png", predictions) == "a b.png: cat 0.750, dog 0.125"
    assert serving.as_text("a\nb\udcff", predictions) == "'a\\nb\\udcff': cat 0.750, dog 0.125"
    line = serving.as_json("a\nb\udcff", predictions)
    assert line.isascii() and len(line.splitlines()) == 1
    assert json.loads(line) == {
        "picture": "a\nb\udcff",
        "predictions": [{"class": "cat", "probability": 0.75}, {"class": "dog", "probability": 0.125}],
    }


def test_class_names_are_those_of_the_runs_data_set_and_where_none_is_on_record_of_the_one_named(tmp_path):
    path = str(tmp_path / "model.ckpt-5")
    assert serving.class_names(None, "/missing", path) == datasets.CIFAR10.class_names
    assert serving.class_names("cifar100", "/missing", path) == datasets.CIFAR100.class_names
    (tmp_path / history.RECORD).write_text('{"event": "start", "dataset": "synthetic"}\n')
    assert serving.class_names(None, "/missing", path) == datasets.SYNTHETIC.class_names
    with pytest.raises(RunError, match="was trained with --dataset=synthetic, not cifar100; leave --dataset out"):
        serving.class_names("cifar100", "/missing", path)


def test_class_names_are_those_that_the_network_was_trained_on_whatever_data_dir_holds(tmp_path):
    path = str(tmp_path / "model.ckpt-5")
    start = {"event": "start", "dataset": "images", "classes": ["Ship & boat", "cat", "dog"]}
    (tmp_path / history.RECORD).write_text(json.dumps(start) + "\n")
    write_images(tmp_path / "data", ["x", "y", "z"])
    for dataset in (None, "images"):
        assert serving.class_names(dataset, str(tmp_path / "data"), path) == ("Ship & boat", "cat", "dog")
        assert serving.class_names(dataset, "/missing", path) == ("Ship & boat", "cat", "dog")
    with pytest.raises(RunError) as error:
        serving.class_names("synthetic", str(tmp_path / "data"), path)
    assert str(error.value) == f"{tmp_path}: was trained with --dataset=images, not synthetic; leave --dataset out"


def test_own_classes_of_a_run_that_recorded_none_are_taken_from_the_same_images_only(tmp_path):
    path = str(tmp_path / "model.ckpt-5")
    sha256 = write_images(tmp_path / "data", ["x", "y", "z"])
    for recorded, is_same in ((sha256, True), ("0" * 64, False)):
        start = {"event": "start", "dataset": "images", "data": {"train.bin": recorded}}
        (tmp_path / history.RECORD).write_text(json.dumps(start) + "\n")
        if is_same:
            assert serving.class_names(None, str(tmp_path / "data"), path) == ("x", "y", "z")
        else:
            with pytest.raises(
                RunError, match=r"was trained on other images, its train\.bin having had sha256 00000000"
            ):
                serving.class_names(None, str(tmp_path / "data"), path)


def test_a_checkpoint_is_the_one_named_or_the_newest_readable(checkpoint, tmp_path, capsys):
    directory = checkpoint.rpartition("/")[0]
    for named in (checkpoint, f"{checkpoint}.index", f"{checkpoint}.meta", f"{checkpoint}.data-00000-of-00001"):
        assert serving.find_checkpoint(named, "elsewhere") == checkpoint
    assert serving.find_checkpoint(None, directory) == serving.find_checkpoint(directory, "elsewhere") == checkpoint
    assert serving.find_checkpoint(f"{directory}/model.ckpt-4", None) == f"{directory}/model.ckpt-4"
    save_network(tmp_path, [5, 6])
    (tmp_path / "model.ckpt-6.index").write_bytes(b"")
    assert serving.find_checkpoint(None, str(tmp_path)) == f"{tmp_path}/model.ckpt-5"
    out, err = capsys.readouterr()
    assert "model.ckpt-6: it cannot be read: " in err and out == ""
    with pytest.raises(RunError, match="No checkpoint file found in /missing; train first, choose another --ch"):
        serving.find_checkpoint(None, "/missing")
    with pytest.raises(RunError, match=r"No checkpoint file /x/model\.ckpt-9\.index; give --checkpoint as …/model"):
        serving.find_checkpoint("/x/model.ckpt-9", directory)


def damage(checkpoint, directory, change):
    """Copies a checkpoint with `change` applied to its tensors, a dict; returns its path."""
    reader = tf.train.load_checkpoint(checkpoint)
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    change(tensors)
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, initializer=value) for name, value in tensors.items()]
        session.run(tf.global_variables_initializer())
        return tf.train.Saver(variables).save(session, f"{directory}/model.ckpt", global_step=5)


def without_a_layer(tensors):
    del tensors["conv2/biases/ExponentialMovingAverage"], tensors["conv2/biases"]


def make_not_finite(tensors):
    tensors["local3/weights/ExponentialMovingAverage"][7, 7] = np.nan


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(checkpoint, tmp_path):
    def message(path, num_classes=10):
        network = serving.TrainedNetwork(path, NAMES[:num_classes])
        with pytest.raises(RunError) as error:
            serving.Predictor(network)
        with pytest.raises(RunError) as same:
            exporting.export(network, str(tmp_path / "export"))
        assert str(same.value) == str(error.value) and len(str(error.value).splitlines()) == 1
        assert [path.name for path in tmp_path.iterdir() if "export" in path.name] == []
        return str(error.value).removeprefix(f"{path}: ")

    assert message(checkpoint, num_classes=9) == (
        "of another network: softmax_linear/biases/ExponentialMovingAverage is [10] there, [9] here, "
        "softmax_linear/weights/ExponentialMovingAverage is [192, 10] there, [192, 9] here; choose the --dataset of 10 "
        "classes that it was trained on"
    )
    path = damage(checkpoint, tmp_path, without_a_layer)
    assert message(path).startswith("of another network: conv2/biases/ExponentialMovingAverage is not there; ")
    path = damage(checkpoint, tmp_path, make_not_finite)
    assert message(path) == (
        "local3/weights/ExponentialMovingAverage holds values that are not finite; choose another --checkpoint"
    )
    data = tmp_path / "model.ckpt-5.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    assert message(path).startswith("it cannot be read: ")
    assert message(path).endswith("; choose another --checkpoint")


# Loads SavedModels as anybody would, and prints what each returns for pictures, all at once and one by one.
CLIENT = """
import json, sys
import tensorflow as tf
folders, paths = map(json.loads, sys.argv[1:])
contents = [tf.io.read_file(path) for path in paths]
images = [tf.io.decode_png(content, channels=3)[tf.newaxis] for content in contents]
for folder in folders:
    signatures = tf.saved_model.load(folder).signatures
    by_bytes = signatures["serving_default"](image_bytes=tf.stack(contents))
    by_pixels = [signatures["serving_uint8"](images=image) for image in images]
    for values in (by_bytes, {key: tf.concat([one[key] for one in by_pixels], 0) for key in by_bytes}):
        print(json.dumps({
            "classes": [[name.decode() for name in row] for row in values["classes"].numpy()],
            "probabilities": values["probabilities"].numpy().tolist(),
        }))
print(any(name.startswith("cifar10") for name in sys.modules))
"""


@pytest.mark.slow
def test_plain_tensorflow_loads_the_saved_model_and_predicts_the_same(checkpoint, files, tmp_path):
    options = {
        str(tmp_path / "new" / "1"): {"crop": "central", "use_moving_averages": True},
        str(tmp_path / "new" / "2"): {"crop": "whole", "use_moving_averages": False},
    }
    for folder, values in options.items():
        exporting.export(serving.TrainedNetwork(checkpoint, NAMES, **values), folder)
    command = [sys.executable, "-c", CLIENT, json.dumps(list(options)), json.dumps(files)]
    outside = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/", env=outside)
    assert process.returncode == 0, process.stderr
    *answers, package_is_loaded = process.stdout.splitlines()
    assert package_is_loaded == "False"
    ours = [predict(checkpoint, files, **values) for values in options.values() for _ in ("bytes", "pixels")]
    for rows, answer in zip(ours, map(json.loads, answers), strict=True):
        for row, classes, probabilities in zip(rows, answer["classes"], answer["probabilities"], strict=True):
            names, values = zip(*serving.best(row, NAMES, 10), strict=True)
            assert tuple(classes) == names
            np.testing.assert_allclose(probabilities, values, atol=1e-5)


@pytest.mark.slow
def test_tf_lite_gives_the_same_probabilities(checkpoint, tmp_path):
    picture = scene(32, 32)
    for crop, size in pictures.SIZES.items():
        folder = tmp_path / crop
        exporting.export(serving.TrainedNetwork(checkpoint, NAMES, crop), str(folder), tflite=True)
        assert (folder / "saved_model.pb").exists()
        assert (folder / "labels.txt").read_text().split() == list(NAMES)
        image = picture[:size, :size]
        with pytest.warns(UserWarning, match="deprecated"):
            interpreter = tf.lite.Interpreter(str(folder / "model.tflite"))
        (details,) = interpreter.get_input_details()
        assert details["shape"].tolist() == [1, size, size, 3] and details["dtype"] is np.uint8
        values = interpreter.get_signature_runner()(image=image[np.newaxis])["probabilities"]
        crop_of_24 = image[4:28, 4:28] if size == 32 else image
        np.testing.assert_allclose(values, expected(checkpoint, [crop_of_24]), atol=1e-5)


def test_tf_lite_has_no_half_precision(checkpoint, tmp_path):
    with pytest.raises(RunError, match="--tflite: TF Lite does not compute in bfloat16; export it without --use_fp16"):
        exporting.export(
            serving.TrainedNetwork(checkpoint, NAMES, use_fp16=True), str(tmp_path / "export"), tflite=True
        )


@pytest.mark.slow
def test_an_export_replaces_nothing_and_is_whole_or_not_there(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name, message in {
        "used": r"/used: is there already; choose another --export_dir, or remove it",
        "file": r"/file: is there already; choose another --export_dir, or remove it",
        "file/1": r"/file/1: cannot be written \(Not a directory\); choose another --export_dir",
    }.items():
        with pytest.raises(RunError, match=message):
            exporting.export(serving.TrainedNetwork(checkpoint, NAMES), str(tmp_path / name))
    assert (tmp_path / "file").read_text() == (tmp_path / "used" / "notes.txt").read_text() == "keep"

    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    def is_outrun(*arguments):
        (tmp_path / "outrun").mkdir()
        (tmp_path / "outrun" / "saved_model.pb").touch()

    with monkeypatch.context() as patch, pytest.raises(RunError, match="outrun: is there already; choose another"):
        patch.setattr(exporting, "_write_tflite", is_outrun)
        exporting.export(serving.TrainedNetwork(checkpoint, NAMES), str(tmp_path / "outrun"), tflite=True)
    shutil.rmtree(tmp_path / "outrun")
    (tmp_path / "empty").mkdir()
    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"empty: cannot be written \(No space left"):
        patch.setattr(exporting, "_write_tflite", no_space)  # by then the SavedModel is written
        exporting.export(serving.TrainedNetwork(checkpoint, NAMES), str(tmp_path / "empty"), tflite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "used"]
    assert list((tmp_path / "empty").iterdir()) == []
    exporting.export(serving.TrainedNetwork(checkpoint, NAMES), str(tmp_path / "empty"))
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["saved_model.pb", "variables"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "used"]
