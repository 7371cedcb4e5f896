"""Checkpoint -> precision @ 1."""

import re
import threading
import time

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from conftest import evaluate, train

from cifar10 import checkpoints, datasets, evaluation, model, records, runs
from cifar10.errors import RunError


def save_network(directory, steps, seed=3):
    """Saves checkpoints of random weights, whose moving averages are other random weights."""
    directory.mkdir(exist_ok=True)
    with tf.Graph().as_default(), tf.Session() as session:
        model.inference(tf.zeros([1, 24, 24, 3]), seed=seed)
        global_step = tf.train.get_or_create_global_step()
        averages = tf.train.ExponentialMovingAverage(0.5)
        averages.apply(tf.trainable_variables())
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(max_to_keep=0, save_relative_paths=True)
        for step in steps:
            for variable in tf.trainable_variables():
                average = averages.average(variable)
                noise = np.random.RandomState(step).randn(*variable.shape.as_list()) * 0.05
                session.run(tf.assign(average, noise))
            session.run(global_step.assign(step))
            saver.save(session, str(directory / "model.ckpt"), global_step=step)


def expected_correct(data_dir, path, num_examples, averages):
    """Counts with a plain graph, all pictures at once, weights read from the file."""
    examples = records.load(datasets.SYNTHETIC, data_dir, "test")
    images = examples.images[:num_examples, 4:28, 4:28].astype(np.float32)
    mean, stddev = images.mean(axis=(1, 2, 3), keepdims=True), images.std(axis=(1, 2, 3), keepdims=True)
    reader = tf.train.load_checkpoint(path)
    with tf.Graph().as_default(), tf.Session() as session:
        logits = model.inference(tf.constant((images - mean) / stddev))
        suffix = "/ExponentialMovingAverage" if averages else ""
        session.run([tf.assign(v, reader.get_tensor(v.op.name + suffix)) for v in tf.trainable_variables()])
        return int(np.sum(session.run(logits).argmax(axis=1) == examples.labels[:num_examples]))


@pytest.mark.parametrize("averages", [True, False])
def test_each_picture_counts_once_whatever_the_batch_size(synthetic_dir, tmp_path, averages, capsys):
    save_network(tmp_path / "train", [5])
    expected = expected_correct(synthetic_dir, str(tmp_path / "train" / "model.ckpt-5"), 200, averages)
    for batch_size in (1, 64, 128, 200, 999):
        (result,) = evaluate(
            synthetic_dir, tmp_path / "train", tmp_path / "eval", batch_size=batch_size, use_moving_averages=averages
        )
        assert result == evaluation.Result(step=5, correct=expected, total=200)
        line = capsys.readouterr().out.strip()
        assert re.match(published.PRECISION_LINE, line)[1] == f"{expected / 200:.3f}"


def test_training_pictures_can_be_evaluated(synthetic_dir, tmp_path):
    save_network(tmp_path / "train", [5])
    (result,) = evaluate(
        synthetic_dir, tmp_path / "train", tmp_path / "eval", eval_data="train_eval", num_examples=10_000
    )
    assert result.total == 10_000


def test_more_pictures_than_there_are_is_an_error(synthetic_dir, tmp_path):
    with pytest.raises(RunError, match=r"--num_examples=2001: there are only 2000 pictures"):
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
    (directory / runs.RECORD).write_text(f'{{"event": "stop", "step": {step}, "reason": "{runs.FINISHED}"}}\n')


def test_watching_ends_by_itself_after_the_final_checkpoint(synthetic_dir, tmp_path):
    save_network(tmp_path / "train", [5, 6])
    finish(tmp_path / "train", 6)
    results = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval", run_once=False)
    assert [result.step for result in results] == [6]


def test_watching_ends_when_the_run_ends_at_a_checkpoint_already_evaluated(synthetic_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "POLL_SECS", 0.1)
    save_network(tmp_path / "train", [5])
    threading.Timer(3.0, finish, (tmp_path / "train", 5)).start()
    results = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval", run_once=False, eval_interval_secs=1)
    assert [result.step for result in results] == [5]


def test_watching_waits_evaluates_each_once_and_survives_damage(synthetic_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "POLL_SECS", 0.1)
    monkeypatch.setattr(evaluation, "WAITING_LINE_SECS", 0.5)
    train_dir = tmp_path / "train"

    def grow():
        time.sleep(2)  # nothing there at first
        save_network(train_dir, [5])
        time.sleep(2)
        (train_dir / "checkpoint").write_bytes(b"\xff is no UTF-8")
        time.sleep(1)
        save_network(tmp_path / "damaged", [6])
        for path in (tmp_path / "damaged").glob("model*"):
            data = path.read_bytes()
            (train_dir / path.name).write_bytes(data[:100] if ".data" in path.name else data)
        (tmp_path / "damaged" / "checkpoint").replace(train_dir / "checkpoint")
        time.sleep(2)
        save_network(train_dir, [7])
        finish(train_dir, 7)

    thread = threading.Thread(target=grow)
    thread.start()
    results = evaluate(synthetic_dir, train_dir, tmp_path / "eval", run_once=False)
    thread.join()
    assert [result.step for result in results] == [5, 7]
    out = capsys.readouterr().out
    assert out.startswith(f"No checkpoint file found in {train_dir}; waiting for the first\n")
    assert f"Waiting for a new checkpoint in {train_dir} since" in out
    assert f"{train_dir}/checkpoint: cannot be read (" in out
    assert out.count("model.ckpt-6: cannot be evaluated (") == 1
    assert out.count("precision @ 1") == 2


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
    assert len(lines) == 1 and lines[0].startswith(f"{directory}/model.ckpt-1: cannot be evaluated (")


def test_training_and_evaluation_share_checkpoints(synthetic_dir, tmp_path):
    train(synthetic_dir, tmp_path / "train", max_steps=3, log_frequency=0)
    (result,) = evaluate(synthetic_dir, tmp_path / "train", tmp_path / "eval")
    path = checkpoints.paths(str(tmp_path / "train"))[-1]
    assert result.correct == expected_correct(synthetic_dir, path, 200, averages=True)
