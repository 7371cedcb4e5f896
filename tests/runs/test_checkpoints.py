"""Checkpoints on disk: written so that nothing is lost, read so that nothing is trusted."""

import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10.runs import checkpoints, fitting


@pytest.fixture
def network():
    """A session on a small network, and its saver."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("softmax_linear/weights", initializer=np.arange(6, dtype=np.float32).reshape(2, 3))
        tf.get_variable("softmax_linear/biases", initializer=np.zeros(3, np.float32))
        tf.train.get_or_create_global_step()
        session.run(tf.global_variables_initializer())
        yield checkpoints.savers(), session


def save(network, directory, *steps, keep=0):
    for step in steps:
        _, session = network
        tf.train.get_global_step(session.graph).load(step, session)
        path = checkpoints.save(*network, str(directory), step, keep)
    return path


def names(directory):
    return sorted(path.name for path in directory.iterdir())


FILES = ["model.ckpt-{}.data-00000-of-00001", "model.ckpt-{}.index", "model.ckpt-{}.meta"]


def files(*steps):
    return sorted([name.format(step) for step in steps for name in FILES] + ["checkpoint"])


@pytest.mark.parametrize(
    ("keep", "kept"), [(0, [1, 2, 10, 11]), (1, [11]), (2, [10, 11]), (3, [2, 10, 11]), (9, [1, 2, 10, 11])]
)
def test_the_newest_are_kept_in_the_order_of_their_steps(network, tmp_path, keep, kept):
    path = save(network, tmp_path, 1, 2, 10, 11, keep=keep)
    assert path == str(tmp_path / "model.ckpt-11")
    assert names(tmp_path) == files(*kept)
    state = tf.train.get_checkpoint_state(str(tmp_path))
    assert state.model_checkpoint_path == path
    assert list(state.all_model_checkpoint_paths) == [str(tmp_path / f"model.ckpt-{step}") for step in kept]


def test_moved_run_is_read_from_where_it_is(network, tmp_path):
    save(network, tmp_path / "here", 1, 2)
    (tmp_path / "here").rename(tmp_path / "there")
    assert tf.train.latest_checkpoint(str(tmp_path / "there")) == str(tmp_path / "there" / "model.ckpt-2")
    assert "here" not in (tmp_path / "there" / "checkpoint").read_text()


def test_all_is_on_the_disk_before_it_is_named_and_named_before_others_are_deleted(network, tmp_path, monkeypatch):
    """What survives the loss of power at any moment: files synced, then moved, index last; folder; state; deletion."""
    save(network, tmp_path, 1)
    events, open_files = [], {}
    real = {name: getattr(os, name) for name in ("open", "fsync", "replace", "remove")}

    def spy(name, describe):
        def call(*args, **kwargs):
            result = real[name](*args, **kwargs)
            events.append((name, describe(result, *args)))
            return result

        monkeypatch.setattr(os, name, call)

    def opened(file, path, *_):
        open_files[file] = os.path.basename(str(path))
        return open_files[file]

    spy("open", opened)
    spy("fsync", lambda _, file: open_files[file])
    spy("replace", lambda _, source, target: os.path.basename(target))
    spy("remove", lambda _, path: os.path.basename(path))
    save(network, tmp_path, 2, keep=1)
    monkeypatch.undo()
    events = [event for event in events if event[0] != "open"]
    data, index, meta = (name.format(2) for name in FILES)
    assert events[:3] == [("fsync", data), ("fsync", meta), ("fsync", index)]
    assert events[3:6] == [("replace", data), ("replace", meta), ("replace", index)]
    assert events[6:10] == [
        ("fsync", tmp_path.name),
        ("fsync", "checkpoint.tmp"),
        ("replace", "checkpoint"),
        ("fsync", tmp_path.name),
    ]
    assert events[10] == ("remove", FILES[1].format(1)) and len(events) == 13


@pytest.mark.parametrize("call", range(5))
def test_save_that_fails_at_any_moment_leaves_the_older_ones(network, tmp_path, monkeypatch, call):
    save(network, tmp_path, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace, calls = os.replace, iter(range(5))

    def failing(source, target):
        if next(calls) == call:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    if call < 4:  # the fourth names the new one in the state file
        with pytest.raises(OSError, match="No space left"):
            save(network, tmp_path, 2, keep=1)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.items() <= after.items()
    assert not (tmp_path / checkpoints.SAVING).exists()
    newest = checkpoints.newest_readable(str(tmp_path))
    assert checkpoints.step(newest) == (2 if call == 3 else 1)  # whole, though not yet named


def truncate(path):
    path.write_bytes(path.read_bytes()[:-8])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def garble(path):
    path.write_bytes(b"no index at all, but long enough to have a footer" * 9)


@pytest.mark.parametrize(
    ("file", "damage"),
    [(0, truncate), (0, flip), (0, os.remove), (1, truncate), (1, flip), (1, empty), (1, garble)],
    ids=["truncated", "flipped", "no data", "truncated index", "flipped index", "empty index", "garbage as index"],
)
def test_damaged_checkpoint_is_told_and_the_one_before_taken(network, tmp_path, capsys, file, damage):
    save(network, tmp_path, 1, 2)
    damage(tmp_path / FILES[file].format(2))
    assert checkpoints.newest_readable(str(tmp_path)) == str(tmp_path / "model.ckpt-1")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}/model.ckpt-2: it cannot be read: ")
    assert line.endswith(f"; taking {tmp_path}/model.ckpt-1 instead")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_checkpoint_with_a_value_that_is_not_finite_is_told(network, tmp_path, value):
    network[1].run(tf.assign(tf.global_variables()[1], [0.0, value, 0.0]))
    assert checkpoints.fault(save(network, tmp_path, 1)) == "softmax_linear/biases holds values that are not finite"


@pytest.mark.parametrize("state", [b"", b"\xff no UTF-8", b'model_checkpoint_path: "model.ckpt-9"', None])
def test_state_file_is_not_needed(network, tmp_path, state):
    save(network, tmp_path, 1, 2)
    (tmp_path / "checkpoint").unlink()
    if state is not None:
        (tmp_path / "checkpoint").write_bytes(state)
    assert checkpoints.newest_readable(str(tmp_path)) == str(tmp_path / "model.ckpt-2")


def test_what_a_killed_run_leaves_is_cleared_up_and_nothing_else(network, tmp_path, capsys):
    save(network, tmp_path, 1, 2, 3)
    flip(tmp_path / FILES[0].format(3))
    kept = {
        *files(1, 2),
        *(f"damaged-{name.format(3)}" for name in FILES),
        *("model.ckpt-7", "model.ckpt-7.meta", "notes.txt", "model.ckpt-best.data-00000-of-00001"),  # not debris
    }
    for name in kept - set(names(tmp_path)) - {f"damaged-{name.format(3)}" for name in FILES}:
        (tmp_path / name).write_text("of others")
    (tmp_path / checkpoints.SAVING).mkdir()
    (tmp_path / checkpoints.SAVING / FILES[0].format(9)).write_text("half")
    (tmp_path / "model.ckpt-8_temp").mkdir()
    (tmp_path / "model.ckpt-8_temp" / "part-00000-of-00001.index").write_text("half")
    (tmp_path / FILES[0].format(8)).write_text("without index")
    (tmp_path / FILES[2].format(9)).write_text("without index")
    (tmp_path / "checkpoint.tmp").write_text("half")
    checkpoints.settle(str(tmp_path), checkpoints.newest_readable(str(tmp_path)))
    assert set(names(tmp_path)) == kept


def test_checkpoint_of_another_network_is_told_with_names_shapes_and_flag(network, tmp_path):
    path = save(network, tmp_path, 1)

    def difference(**variables):
        with tf.Graph().as_default():
            return fitting.difference(
                path,
                {
                    name.replace("__", "/"): tf.get_variable(name, shape, dtype)
                    for name, (shape, dtype) in variables.items()
                },
            )

    assert difference(softmax_linear__weights=([2, 3], tf.float32)) is None
    assert difference(softmax_linear__weights=([2, 7], tf.float32), softmax_linear__biases=([7], tf.float32)) == (
        "of another network: softmax_linear/biases is [3] there, [7] here, softmax_linear/weights is [2, 3] there, "
        "[2, 7] here; choose the --dataset of 3 classes that it was trained on"
    )
    assert difference(softmax_linear__biases__ExponentialMovingAverage=([3], tf.float32)) is None  # the variable itself
    assert difference(softmax_linear__biases__ExponentialMovingAverage=([7], tf.float32)) == (
        "of another network: softmax_linear/biases is [3] there, [7] here; choose the --dataset of 3 classes that it "
        "was trained on"
    )
    assert difference(global_step=([], tf.float32)) == (
        "of another network: global_step is int64 there, float32 here; choose the directory of a run of this network"
    )
    assert difference(**{f"conv{i}": ([], tf.float32) for i in range(1, 6)}) == (
        "of another network: conv1 is not there, conv2 is not there, conv3 is not there and 2 more; choose the "
        "directory of a run of this network"
    )
