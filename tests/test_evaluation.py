"""Checkpoint -> precision @ 1."""

import json
import os
import re
import shutil
import types

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import evaluate, save_network, train, write_images

from cifar10 import evaluation
from cifar10.data import datasets, records
from cifar10.errors import RunError
from cifar10.network import model
from cifar10.runs import checkpoints, events, fitting, history


def expected_correct(data_dir, path, num_examples, averages):
    """Counts with a plain graph, all images at once, weights read from the file."""
    examples = records.load(datasets.SYNTHETIC, data_dir, "test")
    images = examples.images[:num_examples, 4:28, 4:28].astype(np.float32)
    mean, stddev = images.mean(axis=(1, 2, 3), keepdims=True), images.std(axis=(1, 2, 3), keepdims=True)
    reader = tf.train.load_checkpoint(path)
    with tf.Graph().as_default(), tf.Session() as session:
        logits = model.Network()(tf.constant((images - mean) / stddev))
        suffix = "/ExponentialMovingAverage" if averages else ""
        session.run([tf.assign(v, reader.get_tensor(v.op.name + suffix)) for v in tf.trainable_variables()])
        return int(np.sum(session.run(logits).argmax(axis=1) == examples.labels[:num_examples]))


@pytest.mark.slow
@pytest.mark.parametrize("averages", [True, False])
def test_each_image_counts_once_whatever_the_batch_size(synthetic_dir, tmp_path, averages, capsys):
    save_network(tmp_path / "train", [5])
    expected = expected_correct(synthetic_dir, str(tmp_path / "train" / "model.ckpt-5"), 200, averages)
    for batch_size in (1, 64, 128, 200, 999):
        (result,) = evaluate(
            synthetic_dir, tmp_path / "train", tmp_path / "eval", batch_size=batch_size, use_moving_averages=averages
        )
        assert result == evaluation.Result(step=5, correct=expected, total=200)
        line = capsys.readouterr().out.strip()
        assert re.match(published.PRECISION_LINE, line)[1] == f"{expected / 200:.3f}"


@pytest.mark.slow
def test_ten_views_are_the_mean_of_ten_single_ones(synthetic_dir, tmp_path):
    """Each view is put where the evaluation looks, and evaluated alone."""
    save_network(tmp_path / "train", [5])
    path = str(tmp_path / "train" / "model.ckpt-5")
    examples = records.load(datasets.SYNTHETIC, synthetic_dir, "test")
    images = examples.images[:60]
    reader = tf.train.load_checkpoint(path)
    probabilities = []
    with tf.Graph().as_default(), tf.Session() as session:
        pixels = tf.placeholder(tf.float32, [60, 24, 24, 3])
        softmax = tf.nn.softmax(model.Network()(tf.image.per_image_standardization(pixels)))
        for variable in tf.trainable_variables():
            session.run(tf.assign(variable, reader.get_tensor(f"{variable.op.name}/ExponentialMovingAverage")))
        for top, left in ((4, 4), (0, 0), (0, 8), (8, 0), (8, 8)):
            view = images[:, top : top + 24, left : left + 24]
            for each in (view, view[:, :, ::-1]):
                probabilities.append(session.run(softmax, {pixels: each}))
    expected = int(np.sum(np.mean(probabilities, axis=0).argmax(axis=1) == examples.labels[:60]))
    (result,) = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval", views="10", num_examples=60)
    assert (result.correct, result.total) == (expected, 60)
    evaluator = evaluation.Evaluator(examples, 60, 20, class_names=datasets.SYNTHETIC.class_names, num_views=10)
    evaluator.evaluate(path)
    found = evaluator._in_order([evaluator._session.run(evaluator._outcomes) for _ in range(60)])
    mean = np.mean(probabilities, axis=0)
    np.testing.assert_allclose(found["probability"], mean.max(axis=1), atol=1e-5)


def test_outcomes_are_in_file_order_whatever_the_order_of_the_batches(synthetic_dir, tmp_path):
    save_network(tmp_path, [5])
    examples = records.load(datasets.SYNTHETIC, synthetic_dir, "test")
    evaluator = evaluation.Evaluator(examples, 90, 80)
    evaluator.evaluate(str(tmp_path / "model.ckpt-5"))
    batches = [evaluator._session.run(evaluator._outcomes) for _ in range(3)]
    for order in ((0, 1, 2), (2, 0, 1)):
        outcomes = evaluator._in_order([batches[i] for i in order])
        np.testing.assert_array_equal(outcomes["number"], np.arange(90))
        np.testing.assert_array_equal(outcomes["label"], examples.labels[:90])


@pytest.mark.slow
def test_training_images_can_be_evaluated(synthetic_dir, tmp_path):
    save_network(tmp_path / "train", [5])
    (result,) = evaluate(
        synthetic_dir, tmp_path / "train", tmp_path / "eval", eval_data="train_eval", num_examples=10_000
    )
    assert result.total == 10_000


def test_more_images_than_there_are_is_an_error(synthetic_dir, tmp_path):
    save_network(tmp_path, [5])
    with pytest.raises(RunError, match=r"--num_examples=2001: the data has only 2000 images; give no more"):
        evaluate(synthetic_dir, tmp_path, tmp_path / "eval", num_examples=2001)


def test_precision_is_in_the_event_file_and_nothing_is_deleted(synthetic_dir, tmp_path):
    """Even where eval_dir is checkpoint_dir."""
    save_network(tmp_path / "train", [5, 6])
    (tmp_path / "train" / "notes.txt").write_text("keep")
    before = {path.name: path.read_bytes() for path in (tmp_path / "train").iterdir()}
    (result,) = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "train")
    after = {path.name: path.read_bytes() for path in (tmp_path / "train").iterdir()}
    assert before.items() <= after.items()
    (events,) = [name for name in after if name.startswith("events.out.tfevents")]
    values, graphs = {}, 0
    for event in tf.train.summary_iterator(str(tmp_path / "train" / events)):
        graphs += event.HasField("graph_def")
        values.update({(value.tag, event.step): value.simple_value for value in event.summary.value})
    np.testing.assert_allclose(values["Precision @ 1", 6], result.precision, rtol=1e-6)
    assert graphs == 1


def test_run_once_without_checkpoint_is_an_error(synthetic_dir, tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match=f"No checkpoint file found in {directory}; train first"):
            evaluate(synthetic_dir, directory, tmp_path / "eval")


def test_run_once_falls_back_from_a_damaged_checkpoint(synthetic_dir, tmp_path, capsys):
    save_network(tmp_path / "train", [5, 6])
    (tmp_path / "train" / "model.ckpt-6.index").write_bytes(b"")
    (result,) = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval")
    assert result.step == 5
    assert "model.ckpt-6: it cannot be read: " in capsys.readouterr().out


def finish(directory, step):
    """Writes the line with which a training run ends."""
    (directory / history.RECORD).write_text(f'{{"event": "stop", "step": {step}, "reason": "{history.FINISHED}"}}\n')


def test_watching_ends_by_itself_after_the_final_checkpoint(synthetic_dir, tmp_path):
    save_network(tmp_path / "train", [5, 6])
    finish(tmp_path / "train", 6)
    results = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval", run_once=False)
    assert [result.step for result in results] == [6]


@pytest.fixture
def play(monkeypatch):
    """A function that takes a generator: each time that the watcher sleeps, the generator goes on to its next yield.

    So what happens between two looks is certain; time passes by the seconds that are slept.
    """

    def play(scenes):
        clock = [1000.0]

        def sleep(seconds):
            clock[0] += seconds
            next(scenes)

        monkeypatch.setattr(evaluation, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
        monkeypatch.setattr(evaluation, "signals", types.SimpleNamespace(sleep=sleep))

    return play


def test_watching_ends_when_the_run_ends_at_a_checkpoint_already_evaluated(synthetic_dir, tmp_path, play):
    save_network(tmp_path / "train", [5])

    def scenes():
        yield
        yield
        finish(tmp_path / "train", 5)
        yield

    play(scenes())
    results = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval", run_once=False)
    assert [result.step for result in results] == [5]


@pytest.mark.slow
def test_watching_waits_evaluates_each_once_and_says_what_for(synthetic_dir, tmp_path, play, capsys):
    train_dir = tmp_path / "train"

    def scenes():
        yield  # nothing there at first
        save_network(train_dir, [5])
        yield
        (train_dir / "checkpoint").write_bytes(b"\xff is no UTF-8")
        for _ in range(100):  # of 5 seconds: nothing new
            yield
        shutil.rmtree(train_dir)
        yield
        train_dir.mkdir()
        for _ in range(70):
            yield
        save_network(train_dir, [6, 7])
        yield
        shutil.rmtree(train_dir)
        yield
        save_network(train_dir, [3])  # begun anew: a lower step is new too
        finish(train_dir, 3)
        yield

    play(scenes())
    results = evaluate(synthetic_dir, train_dir, tmp_path / "eval", run_once=False)
    assert [result.step for result in results] == [5, 7, 3]
    lines = capsys.readouterr().out.splitlines()
    none = f"No checkpoint file found in {train_dir}"
    gone = f"{none}, which is not there; waiting until there is one"
    assert [line for line in lines if "precision @ 1" not in line] == [
        gone,
        f"Waiting for a new checkpoint in {train_dir} since 300 s, until the run has ended",
        gone,
        f"{none}; waiting until there is one",
        gone,
    ]


def damage(good, directory):
    """Puts one unusable checkpoint after another into a directory; yields the line that is to be said of each."""

    def put(step, part, spoil):
        for path in good.glob("model.ckpt-1.*"):
            data = spoil(path.read_bytes()) if part in path.name else path.read_bytes()
            if data is not None:
                (directory / path.name.replace("-1.", f"-{step}.")).write_bytes(data)
        return f"{directory}/model.ckpt-{step}: it cannot be read: "

    def save(step, **values):
        with tf.Graph().as_default(), tf.Session() as session:
            for name, value in values.items():
                tf.get_variable(name.replace("__", "/"), initializer=np.float32(value))
            session.run(tf.global_variables_initializer())
            tf.train.Saver().save(session, str(directory / "model.ckpt"), global_step=step)

    yield put(2, ".data", lambda data: data[:100])  # truncated
    yield put(3, ".data", lambda data: bytes([data[0] ^ 1]) + data[1:])  # a flipped bit
    yield put(4, ".data", lambda data: None)  # half deleted, as by a trainer that keeps five
    yield put(5, ".index", lambda data: b"")
    yield put(6, ".index", lambda data: b"garbage" * 20)
    save(7, conv1__weights=np.nan)
    yield f"{directory}/model.ckpt-7: conv1/weights holds values that are not finite"
    save(8, conv1__weights=0)
    yield f"{directory}/model.ckpt-8: of another network: conv1/weights is [] there, [5, 5, 3, 64] here, "


@pytest.mark.slow
def test_watching_outlives_every_kind_of_damage_and_leaks_nothing(synthetic_dir, tmp_path, play, capsys):
    save_network(tmp_path / "good", [1, *range(10, 20)], averages_seed=1)
    train_dir = tmp_path / "train"
    train_dir.mkdir()
    evaluator = evaluation.Evaluator(records.load(datasets.SYNTHETIC, synthetic_dir, "test"), 20, 20)
    operations = len(evaluator.graph.get_operations())
    expected, descriptors = [], []

    def scenes():
        for line in damage(tmp_path / "good", train_dir):
            expected.append(line)
            yield
            yield  # it is said once
        for step in range(10, 20):
            for path in train_dir.iterdir():
                path.unlink()
            for path in (tmp_path / "good").glob(f"model.ckpt-{step}.*"):
                shutil.copy(path, train_dir)
            yield
            descriptors.append(len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)
        finish(train_dir, 19)
        yield

    play(scenes())
    results = evaluation.watch(evaluator, str(train_dir), str(tmp_path / "eval"))
    assert [result.step for result in results] == list(range(10, 20))
    assert len({result.correct for result in results}) == 1
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"No checkpoint file found in {train_dir}; waiting until there is one"
    lines = [line for line in lines if "precision @ 1" not in line]
    assert len(lines) == len(expected) == 7
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start) and line.endswith("; waiting for another")
    assert len(evaluator.graph.get_operations()) == operations
    assert descriptors[-1] == descriptors[0]
    assert len(list((tmp_path / "eval").iterdir())) == 1


def test_a_checkpoint_deleted_while_it_is_restored_is_reported_in_one_line(synthetic_dir, tmp_path, play, monkeypatch):
    save_network(tmp_path / "train", [5])
    real = fitting.difference

    def difference(path, expected):
        found = real(path, expected)
        for file in (tmp_path / "train").glob("model.ckpt-5.*"):
            file.unlink()
        return found

    monkeypatch.setattr(fitting, "difference", difference)
    with pytest.raises(RunError) as error:
        evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval")
    assert str(error.value).startswith(f"{tmp_path}/train/model.ckpt-5: cannot be evaluated (")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_an_event_file_that_is_deleted_is_begun_again(synthetic_dir, tmp_path, play):
    train_dir, eval_dir = tmp_path / "train", tmp_path / "eval"
    save_network(train_dir, [5])

    def scenes():
        shutil.rmtree(eval_dir)
        save_network(train_dir, [6])
        finish(train_dir, 6)
        yield

    play(scenes())
    evaluate(synthetic_dir, train_dir, eval_dir, run_once=False)
    (path,) = eval_dir.iterdir()
    assert [event.step for event in tf.train.summary_iterator(str(path)) if event.summary.value] == [6, 6]


def test_a_trained_checkpoint_of_a_foreign_network_is_reported_in_one_line(synthetic_dir, tmp_path, capsys):
    directory = tmp_path / "foreign"
    directory.mkdir()
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("conv1/weights", [3, 3])
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(directory / "model.ckpt"), global_step=1)
    finish(directory, 1)
    assert evaluate(synthetic_dir, directory, tmp_path / "eval", run_once=False) == []
    lines = capsys.readouterr().out.splitlines()
    (line,) = lines
    assert line.startswith(f"{directory}/model.ckpt-1: of another network: conv1/weights is [3, 3] there, [5, 5")
    with pytest.raises(RunError, match="of another network"):
        evaluate(synthetic_dir, directory, tmp_path / "eval")


def test_another_data_set_than_the_runs_is_said(synthetic_dir, tmp_path, capsys):
    save_network(tmp_path / "train", [5])
    (tmp_path / "train" / history.RECORD).write_text('{"event": "start", "dataset": "cifar10"}\n')
    evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval")
    line = f"{tmp_path / 'train'}: was trained with --dataset=cifar10, and is evaluated on synthetic\n"
    assert capsys.readouterr().out.startswith(line)


@pytest.mark.slow
def test_training_and_evaluation_share_checkpoints(synthetic_dir, tmp_path):
    train(synthetic_dir, tmp_path / "train", max_steps=3, log_frequency=0)
    (result,) = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval")
    path = checkpoints.paths(str(tmp_path / "train"))[-1]
    assert result.correct == expected_correct(synthetic_dir, path, 200, averages=True)


# --- what strangers bring ---


def record(train_dir, **start):
    train_dir.mkdir(exist_ok=True)
    (train_dir / history.RECORD).write_text(json.dumps({"event": "start", **start}) + "\n")


@pytest.mark.slow
def test_the_evaluation_takes_the_data_set_on_record(synthetic_dir, tmp_path, capsys):
    save_network(tmp_path / "train", [5])
    record(tmp_path / "train", time="2026-01-01T12:00:00+00:00", dataset="synthetic")
    (found,) = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval", dataset=None)
    (named,) = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval", dataset="synthetic")
    assert found == named and found.total == 200
    assert "was trained" not in capsys.readouterr().out


def test_a_checkpoint_is_looked_for_before_anything_is_downloaded(tmp_path, monkeypatch):
    def download(*args):
        raise AssertionError("downloads")

    monkeypatch.setattr("cifar10.data.download.ensure", download)
    with pytest.raises(RunError, match="No checkpoint file found in"):
        evaluate(tmp_path / "data", tmp_path / "train", tmp_path / "eval", dataset=None)
    assert not (tmp_path / "eval").exists()


def test_other_images_of_the_same_name_than_the_runs_are_said(tmp_path, capsys):
    """Of other classes, and of the same classes with other bytes; of a test file, too, by its train file's hash."""
    sha256 = write_images(tmp_path / "data", ["x", "y", "z"])
    dataset = datasets.named("images", str(tmp_path / "data"))
    examples = records.load(dataset, str(tmp_path / "data"), "test")
    said = {
        (("x", "y", "z"), sha256): "",
        (("Ship & boat", "cat", "dog"), sha256): "was trained on the classes Ship & boat, cat, dog, not x, y, z",
        (("x", "y", "z"), "5" * 64): f"was trained on other images, its train.bin having had sha256 {'5' * 64}",
    }
    for (classes, trained_on), line in said.items():
        record(tmp_path / "train", dataset="images", classes=list(classes), data={"train.bin": trained_on})
        evaluation.say_other_data(str(tmp_path / "train"), dataset, examples)
        expected = line and f"{tmp_path / 'train'}: {line}, and is evaluated on those in the data_dir\n"
        assert capsys.readouterr().out == expected


def test_curves_of_two_runs_are_in_two_folders_and_those_of_a_run_that_was_moved_in_one(tmp_path, capsys):
    train_dir, other, eval_dir = tmp_path / "a", tmp_path / "b", str(tmp_path / "eval")
    record(train_dir, time="2026-01-01T12:00:00+00:00")
    record(other, time="2026-01-02T12:00:00+00:00")
    for _ in range(2):
        assert evaluation.own_folder(eval_dir, str(train_dir)) == eval_dir
        assert evaluation.own_folder(eval_dir, str(other)) == f"{eval_dir}-2"
        assert capsys.readouterr().out == (
            f"{eval_dir}: has the curves of another run, of {train_dir}; those of this one go to {eval_dir}-2\n"
        )
    train_dir.rename(tmp_path / "moved")
    assert evaluation.own_folder(eval_dir, str(tmp_path / "moved")) == eval_dir
    record(tmp_path / "moved", time="2026-01-03T12:00:00+00:00")  # begun anew in the same folder
    capsys.readouterr()
    assert evaluation.own_folder(eval_dir, str(tmp_path / "moved")) == f"{eval_dir}-3"
    said = capsys.readouterr().out  # once, whatever number of folders there are
    assert said.count("\n") == 1 and said.endswith(f"those of this one go to {eval_dir}-3\n")
    found = [evaluation.own_folder(f"{eval_dir}-old", name) for name in ("/x", "/y", "/x")]  # runs without a record
    assert found == [f"{eval_dir}-old", f"{eval_dir}-old-2", f"{eval_dir}-old"]


@pytest.mark.parametrize("where", ["a file", "below a file", "in /proc"])
def test_an_eval_dir_that_cannot_be_written_is_refused(synthetic_dir, tmp_path, where):
    save_network(tmp_path / "train", [5])
    (tmp_path / "file").write_text("mine")
    eval_dir = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "eval", "in /proc": "/proc/eval"}[
        where
    ]
    with pytest.raises(RunError) as error:
        evaluate(synthetic_dir, tmp_path / "train", eval_dir)
    assert str(error.value).startswith(f"{eval_dir}: cannot be written (")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_event_file_that_cannot_be_begun_is_reported_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    with events.EventFile(str(tmp_path / "file" / "eval")) as event_file:
        event_file.add_start(5)
        event_file.add_start(6)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path / 'file' / 'eval'}: summaries cannot be written (")


def test_step_and_checkpoint_are_said_beside_the_tutorials_line(synthetic_dir, tmp_path, capsys):
    save_network(tmp_path / "train", [5])
    (result,) = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval")
    out, err = capsys.readouterr()
    assert re.match(published.PRECISION_LINE, out.strip())
    assert err == f"step 5: {result.correct} of 200 images, with {tmp_path}/train/model.ckpt-5\n"
