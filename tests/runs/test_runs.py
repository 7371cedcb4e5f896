"""A training run: what it prints, saves, resumes and refuses."""

import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time
import types

import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from forkserver import Program
from helpers import (
    SCRIPTS,
    arguments,
    assert_product_of_speeds,
    evaluate,
    recorded_losses,
    run_graph,
    run_script,
    save_network,
    train,
    write_images,
    write_noise,
)
from PIL import Image

from cifar10 import exporting, serving
from cifar10.data import datasets
from cifar10.errors import DataError, RunError
from cifar10.runs import checkpoints, history, hooks
from cifar10.runs import run as run_module


def record(train_dir):
    return [json.loads(line) for line in (train_dir / history.RECORD).read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(synthetic_dir, tmp_path_factory):
    """The train_dir of a run of 30 steps."""
    train_dir = tmp_path_factory.mktemp("uninterrupted") / "train"
    train(synthetic_dir, train_dir, max_steps=30, save_summaries_steps=10)
    return train_dir


def test_the_console_is_the_tutorials(synthetic_dir, tmp_path, capsys):
    train(synthetic_dir, tmp_path, max_steps=21, log_frequency=10)
    lines = [re.match(published.CONSOLE_LINE, line) for line in capsys.readouterr().out.splitlines()]
    assert [int(line[1]) for line in lines] == [0, 10, 20]
    assert abs(float(lines[0][2]) - 4.676) < 0.06
    for line in lines:  # the two speeds are one: 16 images a batch
        assert_product_of_speeds(line, 16)


def test_several_towers_count_all_their_images_and_share_the_time(synthetic_dir, tmp_path, capsys):
    train(synthetic_dir, tmp_path, script="cifar10_multi_gpu_train", num_gpus=2, batch_size=8, max_steps=11)
    line = re.match(published.CONSOLE_LINE, capsys.readouterr().out.splitlines()[-1])
    # examples/sec is 2 * 8 / duration, and sec/batch is duration / 2.
    assert_product_of_speeds(line, 8)


def test_a_run_saves_the_tutorials_tensors_at_the_beginning_and_the_end(uninterrupted):
    paths = checkpoints.paths(str(uninterrupted))
    assert [os.path.basename(path) for path in paths] == ["model.ckpt-0", "model.ckpt-30"]
    assert tf.train.latest_checkpoint(str(uninterrupted)) == paths[-1]
    reader = tf.train.load_checkpoint(paths[-1])
    assert reader.get_variable_to_shape_map() == published.CHECKPOINT
    assert reader.get_variable_to_dtype_map()["global_step"] == tf.int64
    assert reader.get_tensor("global_step") == 30


def test_a_run_writes_its_events_every_so_many_steps(uninterrupted):
    steps, tags, graphs = [], set(), 0
    for path in uninterrupted.glob("events.out.tfevents.*"):
        for event in tf.train.summary_iterator(str(path)):
            graphs += event.HasField("graph_def")
            found = {value.tag for value in event.summary.value}
            steps += [event.step] if "learning_rate" in found else []
            tags |= found
    assert steps == [0, 10, 20] and graphs == 1
    assert tags >= published.SCALARS | published.HISTOGRAMS | {"images/image/0", "global_step/sec"}


def test_a_run_records_its_start_and_its_end(uninterrupted):
    start, stop = record(uninterrupted)
    assert start["event"] == "start" and start["step"] == 0
    assert start["versions"]["tensorflow"] == tf.version.VERSION
    assert (start["dataset"], start["seed"]) == ("synthetic", 0)
    assert start["data"] == {name: datasets.SYNTHETIC.sha256[name] for name, _ in datasets.SYNTHETIC.train_files}
    assert start["devices"]["cores"] >= 1 and start["devices"]["gpus"] == []
    assert (stop["event"], stop["step"], stop["reason"]) == ("stop", 30, history.FINISHED)
    assert history.is_final(str(uninterrupted), 30) and not history.is_final(str(uninterrupted), 29)


@pytest.mark.slow
def test_one_seed_gives_one_run_and_another_another(uninterrupted, synthetic_dir, tmp_path):
    train(synthetic_dir, tmp_path / "same", max_steps=5)
    train(synthetic_dir, tmp_path / "other", max_steps=5, seed=1)
    expected = [recorded_losses(uninterrupted)[step] for step in range(5)]
    assert list(recorded_losses(tmp_path / "same").values()) == expected
    assert list(recorded_losses(tmp_path / "other").values()) != expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flags"), [("cifar10_train", {}), ("cifar10_multi_gpu_train", {"num_gpus": 2, "batch_size": 8})]
)
def test_a_killed_run_continues_with_the_losses_of_one_that_was_not(script, flags, synthetic_dir, tmp_path):
    """All as processes: the first session of each decides on how many threads an op, and so its sums, are divided."""
    killed = tmp_path / "killed"
    run_script(script, *arguments(synthetic_dir, tmp_path / "expected", max_steps=16, **flags), check=0)
    flags_killed = arguments(synthetic_dir, killed, save_checkpoint_steps=5, **flags)
    with Program([SCRIPTS / f"{script}.py", *flags_killed], stdout=subprocess.PIPE) as process:
        assert any(": step 12," in line for line in process.stdout)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    assert tf.train.latest_checkpoint(str(killed)).endswith("model.ckpt-10")

    run_script(script, *arguments(synthetic_dir, killed, max_steps=16, **flags), check=0)
    assert [line["step"] for line in record(killed)] == [0, 10, 16]
    assert recorded_losses(killed) == recorded_losses(tmp_path / "expected")  # to the last bit
    assert int(tf.train.load_variable(str(killed), "global_step")) == 16


@pytest.mark.slow
def test_at_max_steps_no_further_step_is_trained(synthetic_dir, tmp_path, capsys):
    train(synthetic_dir, tmp_path, max_steps=3)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("model.ckpt-*")}
    capsys.readouterr()
    train(synthetic_dir, tmp_path, max_steps=3)
    assert capsys.readouterr().out == (
        f"{tmp_path}: already at step 3 of 3; to go on, raise --max_steps, or begin anew with --restart\n"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.glob("model.ckpt-*")} == before


@pytest.mark.slow
def test_restart_moves_the_old_run_aside_and_begins_anew(synthetic_dir, tmp_path, capsys):
    train_dir = tmp_path / "train"
    train(synthetic_dir, train_dir, max_steps=2)
    old = {path.name: path.read_bytes() for path in train_dir.iterdir()}
    capsys.readouterr()
    train(synthetic_dir, train_dir, max_steps=1, restart=True)
    (aside,) = [path for path in tmp_path.iterdir() if path != train_dir]
    moved, line = capsys.readouterr().out.splitlines()
    assert moved == f"Moved the old run to {aside}"
    assert ": step 0," in line
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == old


@pytest.mark.slow
def test_keep_checkpoints_holds_across_a_resumption(synthetic_dir, tmp_path):
    for max_steps in (4, 6):
        train(synthetic_dir, tmp_path, max_steps=max_steps, save_checkpoint_steps=1, keep_checkpoints=2)
    assert [checkpoints.step(path) for path in checkpoints.paths(str(tmp_path))] == [5, 6]


@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_of_other_files_is_refused_and_left_alone(synthetic_dir, tmp_path, restart):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError) as error:
        train(synthetic_dir, tmp_path, max_steps=1, restart=restart)
    assert str(error.value) == (
        f"{tmp_path}: holds 'thesis.txt' and no training run; choose an empty or a new --train_dir"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "file"])
@pytest.mark.parametrize("name", ["checkpoint", "graph.pbtxt", ".saving"])
def test_what_training_replaces_must_be_of_its_kind(synthetic_dir, tmp_path, name, kind):
    """Else no checkpoint could be saved, or one waited for somebody to read the pipe."""
    (tmp_path / "model.ckpt-4.index").touch()  # by which the folder is a run's
    path = tmp_path / name
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "file": path.touch}[kind]()
    what = "folder" if name == ".saving" else "regular file"
    if what.endswith(kind):
        run_module.check(str(tmp_path))
        return
    with pytest.raises(RunError) as error:
        train(synthetic_dir, tmp_path, max_steps=1)
    assert str(error.value) == f"{path}: is no {what}, as training needs it to be; move it away"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_to_the_one_before(synthetic_dir, tmp_path, capsys):
    train(synthetic_dir, tmp_path, max_steps=4, save_checkpoint_steps=2)
    (data,) = tmp_path.glob("model.ckpt-4.data*")
    data.write_bytes(data.read_bytes()[:1000])
    capsys.readouterr()
    train(synthetic_dir, tmp_path, max_steps=4)
    warning, *lines = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"{tmp_path}/model.ckpt-4: it cannot be read: ")
    assert warning.endswith(f"; taking {tmp_path}/model.ckpt-2 instead")
    assert [re.match(published.CONSOLE_LINE, line)[1] for line in lines] == ["2", "3"]


@pytest.mark.slow
def test_a_second_trainer_is_refused_and_changes_nothing(synthetic_dir, tmp_path):
    train(synthetic_dir, tmp_path / "train", max_steps=1)
    with run_module.Run(str(tmp_path / "train")):
        before = {path: path.read_bytes() for path in (tmp_path / "train").iterdir()}
        for restart in (False, True):
            with pytest.raises(RunError) as error:
                train(synthetic_dir, tmp_path / "train", max_steps=2, restart=restart)
            assert str(error.value) == (
                f"{tmp_path / 'train'}: process {os.getpid()} on {socket.gethostname()} is training in it; wait for "
                "its end, or choose another --train_dir"
            )
        assert {path: path.read_bytes() for path in (tmp_path / "train").iterdir()} == before
    train(synthetic_dir, tmp_path / "train", max_steps=2)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_a_run_on_another_data_set_is_not_continued(synthetic_dir, tmp_path):
    train(synthetic_dir, tmp_path, max_steps=1)
    record_file = tmp_path / history.RECORD
    record_file.write_text(record_file.read_text().replace('"synthetic"', '"cifar10"'))
    with pytest.raises(RunError) as error:
        train(synthetic_dir, tmp_path, max_steps=2)
    assert str(error.value) == (
        f"{tmp_path}: was trained with --dataset=cifar10, not synthetic; choose that, or another --train_dir, or "
        "--restart"
    )


def test_a_checkpoint_of_another_network_is_not_continued(synthetic_dir, tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("conv1/weights", [3, 3, 3, 64])
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=9)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunError) as error:
        train(synthetic_dir, tmp_path, max_steps=10)
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/model.ckpt-9: of another network: conv1/weights is [3, 3, 3, 64] there, ")
    assert "\n" not in message and record(tmp_path)[-1]["reason"] == message
    assert before.items() <= {path.name: path.read_bytes() for path in tmp_path.iterdir()}.items()


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """The loss of a step is that of the weights before it, so it does not tell."""
    with pytest.raises(RunError) as error, run_module.Run(str(tmp_path)) as run, tf.Graph().as_default():
        global_step = tf.train.get_or_create_global_step()
        weights = tf.get_variable("conv1/weights", initializer=[1.0, 2.0])
        with tf.control_dependencies([weights.assign(tf.where_v2(global_step < 2, weights, [np.inf, 2.0]))]):
            train_op = global_step.assign_add(1)
        run_graph(run, train_op, tf.constant(1.0), save_checkpoint_steps=1, save_summaries_steps=0)
    assert str(error.value) == (
        "step 3: conv1/weights is not finite at learning rate 0.25; training diverged. The last good checkpoint is "
        f"{tmp_path}/model.ckpt-2; choose a lower --learning_rate"
    )
    assert [checkpoints.step(path) for path in checkpoints.paths(str(tmp_path))] == [0, 1, 2]


@pytest.mark.slow
def test_a_batch_beyond_the_data_set_is_said(tiny, tmp_path, capsys, monkeypatch):
    write_noise(tiny, tmp_path / "data")
    monkeypatch.setitem(datasets.ALL, "cifar10", tiny)
    train(tmp_path / "data", tmp_path / "train", dataset="cifar10", batch_size=128, max_steps=1)
    assert capsys.readouterr().out.startswith(
        "A batch of 128 is more than the 100 training images: each step sees some of them several times\n"
    )


def test_only_damaged_checkpoints_are_refused(tmp_path):
    (tmp_path / "model.ckpt-7.index").write_bytes(b"no index")
    with pytest.raises(RunError, match="none of its checkpoints can be read; --restart"):
        run_module.Run(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ckpt-7.index", run_module.LOCK]


def test_a_file_as_train_dir_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file; choose another --train_dir"):
        run_module.Run(str(tmp_path / "file"))


def test_data_is_validated_before_train_dir_is_touched(tmp_path):
    write_noise(datasets.SYNTHETIC, tmp_path / "data")
    file = tmp_path / "data" / datasets.SYNTHETIC.folder / "data_batch_4.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_4\.bin: expected 2000 records"):
        train(tmp_path / "data", tmp_path / "train", max_steps=1)
    assert not (tmp_path / "train").exists()


def diverging_run(train_dir, with_summaries):
    """Trains on a loss that is 1, 1 and NaN."""
    with run_module.Run(str(train_dir)) as run, tf.Graph().as_default():
        global_step = tf.train.get_or_create_global_step()
        loss = tf.where_v2(global_step < 2, 1.0, np.nan)
        if with_summaries:
            tf.summary.histogram("weights", loss[tf.newaxis])
        with tf.control_dependencies([loss]):
            train_op = global_step.assign_add(1)
        run_graph(run, train_op, loss, save_checkpoint_steps=1, save_summaries_steps=int(with_summaries))


@pytest.mark.parametrize("with_summaries", [False, True])
def test_a_loss_that_is_not_finite_stops_with_step_rate_and_last_checkpoint(tmp_path, with_summaries):
    with pytest.raises(RunError) as error:
        diverging_run(tmp_path, with_summaries)
    message = str(error.value)
    assert message.startswith("step 2: ") and "\n" not in message
    assert "at learning rate 0.25" in message
    assert message.endswith(f"The last good checkpoint is {tmp_path}/model.ckpt-2; choose a lower --learning_rate")
    assert checkpoints.step(checkpoints.newest_readable(str(tmp_path))) == 2
    assert record(tmp_path)[-1]["reason"] == message


@pytest.mark.slow
def test_the_moment_of_a_save_is_a_matter_of_seconds_too(synthetic_dir, tmp_path):
    started = time.time()
    train(synthetic_dir, tmp_path, max_steps=60, save_checkpoint_secs=1, keep_checkpoints=0)
    assert 2 <= len(checkpoints.paths(str(tmp_path))) <= 2 + time.time() - started


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flags"), [("cifar10_train", {}), ("cifar10_multi_gpu_train", {"num_gpus": 2, "batch_size": 8})]
)
def test_cuda_convnet_trains_and_is_known_from_the_record(synthetic_dir, tmp_path, capsys, script, flags):
    train_dir = tmp_path / "train"
    train(synthetic_dir, train_dir, script=script, model="cuda_convnet", max_steps=3, **flags)
    shapes = tf.train.load_checkpoint(str(train_dir / "model.ckpt-3")).get_variable_to_shape_map()
    assert shapes["local3/weights"] == [6, 6, 576, 64] and shapes["softmax_linear/weight_loss/avg"] == []
    (result,) = evaluate(synthetic_dir, train_dir, tmp_path / "eval")
    assert result.step == 3
    with pytest.raises(RunError, match=r"was trained with --model=cuda_convnet, not tutorial; choose that"):
        train(synthetic_dir, train_dir, script=script, max_steps=4, **flags)
    with pytest.raises(RunError, match="of another network: local3/biases/Exp"):
        evaluate(synthetic_dir, train_dir, tmp_path / "eval", model="tutorial")
    names = datasets.SYNTHETIC.class_names
    predictor = serving.Predictor(serving.TrainedNetwork(str(train_dir / "model.ckpt-3"), names))
    Image.fromarray(np.zeros([32, 32, 3], np.uint8)).save(tmp_path / "black.png")
    ((_, probabilities),) = predictor.predict([str(tmp_path / "black.png")])
    assert abs(probabilities.sum() - 1) < 1e-5


# --- what strangers bring ---


@pytest.mark.slow
def test_a_run_on_other_images_of_the_same_name_is_not_continued(tmp_path):
    """Own images, whose name says nothing of what they are."""
    train_dir = tmp_path / "train"
    first = write_images(tmp_path / "a", ["Ship & boat", "cat", "dog"])
    write_images(tmp_path / "b", ["x", "y", "z"])
    write_images(tmp_path / "c", ["Ship & boat", "cat", "dog"], seed=1)
    train(tmp_path / "a", train_dir, dataset="images", batch_size=2, max_steps=1)
    assert record(train_dir)[0]["classes"] == ["Ship & boat", "cat", "dog"]
    before = (train_dir / history.RECORD).read_bytes()
    said = {
        "b": "was trained on the classes Ship & boat, cat, dog, not x, y, z",
        "c": f"was trained on other images, its train.bin having had sha256 {first}",
    }
    for data_dir, what in said.items():
        with pytest.raises(RunError) as error:
            train(tmp_path / data_dir, train_dir, dataset="images", batch_size=2, max_steps=2)
        assert str(error.value) == (
            f"{train_dir}: {what}; choose the --data_dir of those, or another --train_dir, or --restart"
        )
        assert (train_dir / history.RECORD).read_bytes() == before
    train(tmp_path / "a", train_dir, dataset="images", batch_size=2, max_steps=2)
    (result,) = evaluate(tmp_path / "a", train_dir, tmp_path / "eval", dataset=None, num_examples=None)
    assert (result.step, result.total) == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("log_frequency", "name", "noticed"), [(2, "conv1/weights", 4), (0, "conv1/weights", 5), (3, "conv2/biases", 3)]
)
def test_a_convolution_of_nan_is_noticed_at_the_next_line(tiny, tmp_path, monkeypatch, log_frequency, name, noticed):
    """With all of conv1 NaN the loss is finite on CPUs: pooling drops NaN, and a fused rectifier makes 0 of it.

    In any variable, and as soon where the console has no lines.
    """
    monkeypatch.setattr(hooks, "UNLOGGED_STEPS", 5)
    write_noise(tiny, tmp_path)
    monkeypatch.setitem(datasets.ALL, "cifar10", tiny)
    losses = []
    after_step = hooks.ConsoleHook.after_step

    def spoil(self, step, results):
        losses.append(float(results["loss"]))
        if step == 3:
            (variable,) = [variable for variable in tf.trainable_variables() if variable.op.name == name]
            with self._session.graph.as_default():
                variable.load(np.full(variable.shape, np.nan), self._session)
        after_step(self, step, results)

    monkeypatch.setattr(hooks.ConsoleHook, "after_step", spoil)
    flags = {"dataset": "cifar10", "conv": "op", "save_summaries_steps": 0, "max_steps": 9, "batch_size": 16}
    train_dir = tmp_path / "train"
    with pytest.raises(RunError) as error:
        train(tmp_path, train_dir, log_frequency=log_frequency, **flags)
    assert str(error.value) == (
        f"step {noticed}: {name} is not finite at learning rate 0.1; training diverged. The last good "
        f"checkpoint is {train_dir}/model.ckpt-0; choose a lower --learning_rate"
    )
    assert np.isfinite(losses).all() and len(losses) == noticed + 1


@pytest.mark.slow
def test_a_run_in_a_folder_with_brackets_is_continued_evaluated_and_exported(tiny, tmp_path, monkeypatch):
    """TensorFlow's writers take a path as it is, its readers as a pattern."""
    write_noise(tiny, tmp_path)
    monkeypatch.setitem(datasets.ALL, "cifar10", tiny)
    train_dir = tmp_path / "lr=[0.1] a*b?"
    for max_steps in (1, 3):
        train(tmp_path, train_dir, dataset="cifar10", max_steps=max_steps, recipe="fast")
    assert [start["step"] for start in record(train_dir) if start["event"] == "start"] == [0, 1]
    assert sorted(recorded_losses(train_dir)) == [0, 1, 2]
    train(tmp_path, train_dir, dataset="cifar10", max_steps=4, recipe="fast", keep_checkpoints=1)
    kept = {name.partition(".ckpt-")[2] for name in os.listdir(train_dir) if ".ckpt-" in name}
    assert {name.partition(".")[0] for name in kept} == {"4"}  # with their companions
    (result,) = evaluate(tmp_path, train_dir, tmp_path / "eval [1]", dataset=None, num_examples=20)
    assert result.step == 4
    path = serving.find_checkpoint(None, str(train_dir))
    network = serving.TrainedNetwork(path, serving.class_names(None, "/missing", path))
    serving.Predictor(network).close()
    exporting.export(network, str(tmp_path / "export [1]"))
    assert (tmp_path / "export [1]" / "saved_model.pb").exists()


@pytest.mark.parametrize("name", ["a*b", "a?b", "[ab]", "a[b", "a]b", "a\\b", "{a,b}"])
def test_a_checkpoint_is_read_below_a_folder_of_any_name(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.get_variable("global_step", initializer=np.int64(5))
        session.run(tf.global_variables_initializer())
        checkpoints.save(checkpoints.savers(), session, str(folder), 5, keep=1)
        session.run(step.assign(6))
        checkpoints.save(checkpoints.savers(), session, str(folder), 6, keep=1)
    assert checkpoints.newest_readable(str(folder)) == f"{folder}/model.ckpt-6"
    assert checkpoints.global_step(f"{folder}/model.ckpt-6") == 6
    assert checkpoints.paths(str(folder)) == [f"{folder}/model.ckpt-6"]


@pytest.mark.slow
def test_a_clock_that_stands_still_or_jumps_back_ends_no_run(tiny, tmp_path, monkeypatch):
    write_noise(tiny, tmp_path)
    monkeypatch.setitem(datasets.ALL, "cifar10", tiny)
    jumps = itertools.cycle([10**6, 5, 10**9])
    clock = types.SimpleNamespace(monotonic=lambda: 5.0, time=lambda: next(jumps), sleep=time.sleep)
    monkeypatch.setattr(hooks, "time", clock)
    monkeypatch.setattr(run_module, "time", clock)
    train(tmp_path, tmp_path / "train", dataset="cifar10", max_steps=3, save_summaries_steps=1)
    lines = map(json.loads, (tmp_path / "train" / history.METRICS).read_text().splitlines())
    speeds = [line["examples_per_sec"] for line in lines]
    np.testing.assert_allclose(speeds, [16 / hooks.CLOCK_SECS] * 3)  # of 16 images in the least time there is


@pytest.mark.slow
def test_a_run_says_from_where_it_continues_and_how_it_ended(tiny, tmp_path, monkeypatch, capsys):
    write_noise(tiny, tmp_path)
    monkeypatch.setitem(datasets.ALL, "cifar10", tiny)
    train_dir = tmp_path / "train"
    for max_steps, done, began in ((2, 2, []), (3, 1, [f"{train_dir}: continues from step 2"])):
        train(tmp_path, train_dir, dataset="cifar10", max_steps=max_steps)
        loss = recorded_losses(train_dir)[max_steps - 1]
        *first, ended, evaluate, use = capsys.readouterr().err.splitlines()
        assert first == began
        assert re.sub(r"in \d+ s", "in S", ended) == (
            f"{train_dir}: ended at step {max_steps} with loss {loss:.2f}, {done} steps in S; saved as "
            f"{train_dir}/model.ckpt-{max_steps}"
        )
        assert evaluate == (
            f"To evaluate it: cifar10_eval.py --run_once --checkpoint_dir={train_dir} --data_dir={tmp_path}"
        )
        assert use == f"To use it: cifar10_predict.py --checkpoint_dir={train_dir} PICTURES"
    train(tmp_path, train_dir, dataset="cifar10", max_steps=3)
    out, err = capsys.readouterr()
    assert out == (f"{train_dir}: already at step 3 of 3; to go on, raise --max_steps, or begin anew with --restart\n")
    assert err == ""


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["trainer.lock", history.RECORD])
def test_a_folder_or_a_pipe_in_the_place_of_a_runs_file_is_told_at_once(tmp_path, make, name):
    make(tmp_path / name)
    with pytest.raises(RunError) as error:
        run_module.Run(str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path / name}: cannot be ") and "\n" not in str(error.value)


def test_a_pipe_in_the_place_of_a_checkpoints_file_is_told_at_once(tmp_path):
    os.mkfifo(tmp_path / "model.ckpt-7.index")
    assert checkpoints.fault(str(tmp_path / "model.ckpt-7")) == "it cannot be read: it is no regular file"


@pytest.mark.parametrize("step", [-3, 6])
def test_a_global_step_that_the_checkpoints_name_does_not_say_is_told(tmp_path, step):
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("global_step", initializer=np.int64(step))
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=5)
    assert (
        checkpoints.fault(str(tmp_path / "model.ckpt-5")) == f"its global step is {step}, which its name does not say"
    )


@pytest.mark.parametrize("forbidden", ["checkpoint", "record", "folder"])
def test_what_may_not_be_read_is_told_and_nothing_older_taken_instead(forbidden):
    """As another user, for whom permissions count."""
    if os.geteuid():
        pytest.skip("needs root, to become another user")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        train_dir = path / "train"
        save_network(train_dir, [5, 6])
        (train_dir / history.RECORD).write_text('{"event": "start", "num_held_out": 500}\n')
        for each in (path, train_dir, *train_dir.iterdir()):
            os.chown(each, 65534, 65534)
        closed = {
            "checkpoint": train_dir / "model.ckpt-6.index",
            "record": train_dir / history.RECORD,
            "folder": train_dir,
        }
        closed[forbidden].chmod(0o300 if forbidden == "folder" else 0)
        os.seteuid(65534)
        try:
            with pytest.raises(RunError) as error:
                if forbidden == "record":
                    history.recorded(str(train_dir), "num_held_out")
                else:
                    checkpoints.newest_readable(str(train_dir))
            with pytest.raises(RunError) as of_run:
                run_module.Run(str(train_dir))
        finally:
            os.seteuid(0)
        assert str(error.value) == f"{closed[forbidden]}: cannot be read (Permission denied); make it readable"
        assert "cannot be read" in str(of_run.value)
