"""What goes on beside the steps, where a whole training would show it by chance only."""

import types

import pytest
import tensorflow.compat.v1 as tf

from cifar10.runs import checkpoints, hooks
from cifar10.runs.run import RunOptions


@pytest.fixture
def waiting(graph, tmp_path):
    """A run at step 5, which waits for another process: (the session, the op of the step, its SaveHook)."""
    global_step = tf.train.get_or_create_global_step()
    weights = tf.get_variable("weights", initializer=[1.0, 2.0], use_resource=True)
    step = tf.group(weights.assign_add([0.5, 0.5]), global_step.assign_add(1))
    options = RunOptions(str(tmp_path), max_steps=10)
    run = types.SimpleNamespace(train_dir=str(tmp_path), start_step=4, step=4, checkpoint=None)
    run.ensure_record = lambda: None
    event_file = types.SimpleNamespace(add_graph=lambda graph: None)
    save = hooks.SaveHook(run, checkpoints.savers(), event_file, options, types.SimpleNamespace(signum=None))
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(global_step.assign(4))
        save.after_create_session(session, None)  # saves step 4
        session.run(step)
        save.after_run(None, types.SimpleNamespace(results=None))
        yield session, step, save


def test_a_step_that_waits_is_saved_as_it_began(waiting, tmp_path):
    assert waiting[2].save_while_waiting()
    assert waiting[2].run.checkpoint == str(tmp_path / "model.ckpt-5")
    assert tf.train.load_variable(str(tmp_path / "model.ckpt-5"), "weights").tolist() == [1.5, 2.5]


@pytest.mark.parametrize("moment", ["before", "while it is written"])
def test_a_step_that_ends_after_all_leaves_no_checkpoint_of_its_middle(waiting, tmp_path, monkeypatch, moment):
    """Whoever was waited for may come while the other thread saves."""
    session, step, save = waiting
    if moment == "before":
        session.run(step)  # and its thread has not counted it yet
    else:
        write = tf.train.Saver.save

        def step_and_write(*args, **kwargs):
            session.run(step)
            return write(*args, **kwargs)

        monkeypatch.setattr(tf.train.Saver, "save", step_and_write)
    assert not save.save_while_waiting()
    assert checkpoints.paths(str(tmp_path)) == [save.run.checkpoint] == [str(tmp_path / "model.ckpt-4")]
