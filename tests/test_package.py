"""The package as its users' forks call it: each case in a process of its own."""

import pytest
from helpers import run_python


def run(code, *args):
    """Runs a program given as text; returns the lines that it prints."""
    return run_python("-c", code, *args, check=0).stdout.splitlines()


@pytest.mark.slow
def test_importing_changes_nothing_and_prints_nothing():
    lines = run("""
import os, tensorflow as tf
from absl import flags
before, environ, files = set(flags.FLAGS), dict(os.environ), os.listdir()
import cifar10
print(sorted(set(flags.FLAGS) - before))
print(tf.executing_eagerly(), tf.compat.v1.resource_variables_enabled(), tf.compat.v1.control_flow_v2_enabled())
print(tf.compat.v1.get_default_graph().get_operations(), dict(os.environ) == environ, os.listdir() == files)
print((cifar10.FLAGS.batch_size, cifar10.FLAGS.data_dir, cifar10.FLAGS.use_fp16))
""")
    assert lines == [
        "['batch_size', 'data_dir', 'use_fp16']",
        "True True True",
        "[] True True",
        "(128, '/tmp/cifar10_data', False)",
    ]


@pytest.mark.slow
def test_constants_are_the_tutorials():
    lines = run("""
import cifar10
print(cifar10.IMAGE_SIZE, cifar10.NUM_CLASSES, cifar10.NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN,
      cifar10.NUM_EXAMPLES_PER_EPOCH_FOR_EVAL, cifar10.MOVING_AVERAGE_DECAY, cifar10.NUM_EPOCHS_PER_DECAY,
      cifar10.LEARNING_RATE_DECAY_FACTOR, cifar10.INITIAL_LEARNING_RATE, cifar10.TOWER_NAME, cifar10.DATA_URL)
""")
    assert lines == [
        "24 10 50000 10000 0.9999 350.0 0.1 0.1 tower https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    ]


FORK = """
import sys
data_dir, mode, style, train_dir = sys.argv[1:]
sys.argv[1:] = ["--data_dir=" + data_dir, "--batch_size=8", "--unknown_to_the_package", "-v"]
import tensorflow.compat.v1 as tf
if mode == "v1":
    tf.disable_v2_behavior()
import cifar10

def main():
    global_step = tf.train.get_or_create_global_step()
    cifar10.maybe_download_and_extract()
    images, labels = cifar10.distorted_inputs()
    logits = cifar10.inference(images)
    loss = cifar10.loss(logits, labels)
    train_op = cifar10.train(loss, global_step)
    print(images.shape, images.dtype.name, labels.shape, labels.dtype.name, logits.shape, loss.shape)
    if style == "plain":
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            tf.train.start_queue_runners(sess=session)
            for _ in range(3):
                session.run([train_op, loss])
            print(session.run(global_step))
    else:
        with tf.train.MonitoredTrainingSession(
            checkpoint_dir=train_dir, hooks=[tf.train.StopAtStepHook(last_step=3)], save_summaries_steps=1
        ) as session:
            while not session.should_stop():
                session.run([train_op, loss])
        print(tf.train.load_variable(train_dir, "global_step"))

if mode == "v1":
    main()
else:
    with tf.Graph().as_default():
        main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["v1", "v2"])
@pytest.mark.parametrize("style", ["plain", "monitored"])
def test_a_fork_with_the_tutorials_calls_runs(full_size_dir, tmp_path, mode, style):
    lines = run(FORK, full_size_dir, mode, style, str(tmp_path))
    assert lines == ["(8, 24, 24, 3) float32 (8,) int32 (8, 10) ()", "3"]


@pytest.mark.slow
def test_a_fork_evaluates_towers_flags_and_constants(full_size_dir):
    """What else forks do: eval inputs, their own towers, other constants, flags set in code as in a notebook."""
    lines = run(
        """
import sys
sys.argv = ["ipykernel_launcher.py", "-f", "/root/kernel.json", "--data_dir", "elsewhere"]
import tensorflow.compat.v1 as tf
tf.disable_v2_behavior()
import cifar10
print(cifar10.FLAGS.data_dir, cifar10.FLAGS.batch_size)
cifar10.FLAGS.data_dir, cifar10.FLAGS.batch_size = DATA_DIR, 4
cifar10.INITIAL_LEARNING_RATE = 0.05
for eval_data in (True, False):
    images, labels = cifar10.inputs(eval_data)
    print(images.shape, labels.shape)
with tf.variable_scope(tf.get_variable_scope()):
    for i in range(2):
        with tf.name_scope("%s_%d" % (cifar10.TOWER_NAME, i)) as scope:
            cifar10.loss(cifar10.inference(images), labels)
            losses = tf.get_collection("losses", scope)
            print([l.op.name for l in losses], tf.add_n(losses, name="total_loss").op.name)
            tf.get_variable_scope().reuse_variables()
global_step = tf.train.get_or_create_global_step()
cifar10.train(tf.add_n(losses), global_step)
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    print("%.3f" % session.run("train/ExponentialDecay:0"))
""".replace("DATA_DIR", repr(full_size_dir))
    )
    assert lines == [
        "elsewhere 128",
        "(4, 24, 24, 3) (4,)",
        "(4, 24, 24, 3) (4,)",
        "['tower_0/local3/weight_loss', 'tower_0/local4/weight_loss', 'tower_0/cross_entropy'] tower_0/total_loss_1",
        "['tower_1/local3/weight_loss', 'tower_1/local4/weight_loss', 'tower_1/cross_entropy'] tower_1/total_loss_1",
        "0.050",
    ]


def test_flags_are_readable_under_pytest():
    import cifar10

    assert cifar10.FLAGS.batch_size == 128
