"""Scripts for TensorFlow 1 and 0.x, untouched: python -m cifar10.v1. Each case is a process of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from forkserver import environment
from helpers import run_python

from cifar10.data import datasets


def run(folder, script, *args, check=0):
    """Runs a script, given as text, in a folder of its own as a user would; returns (its lines, what is on stderr)."""
    path = folder / "their_script.py"
    path.write_text(script)
    process = run_python("-m", "cifar10.v1", path, *args, cwd=folder, check=check, timeout=300)
    return process.stdout.splitlines(), process.stderr


@pytest.fixture
def small_dir(tmp_path):
    """A data_dir of the user's own, of which the queue of the tutorial's input is soon full: all labels are 3."""
    folder = tmp_path / "data" / datasets.CIFAR10.folder
    folder.mkdir(parents=True)
    for name, _ in datasets.CIFAR10.train_files + datasets.CIFAR10.test_files:
        records = np.random.RandomState(0).randint(0, 256, [20, datasets.RECORD_BYTES], dtype=np.uint8)
        records[:, 0] = 3
        records.tofile(folder / name)
    return str(tmp_path / "data")


# What TensorFlow 0.x called by other names, or with its arguments in another order; the values are NumPy's.
OLD_NAMES = """
import numpy as np
import tensorflow as tf

a, b = np.arange(6.0).reshape(2, 3), np.arange(6.0, 12.0).reshape(2, 3)
logits, labels = np.array([[1.0, 2.0, 4.0], [0.5, 0.0, 0.0]]), np.array([2, 0])
probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
cross_entropies = -np.log(probabilities[[0, 1], labels])
square = np.arange(8.0).reshape(2, 2, 2)
cases = {
    "concat, axis first": (tf.concat(1, [a, b]), np.concatenate([a, b], 1)),
    "concat, concat_dim": (tf.concat(concat_dim=0, values=[a, b]), np.concatenate([a, b], 0)),
    "concat, of today": (tf.concat([a, b], 1), np.concatenate([a, b], 1)),
    "concat, axis": (tf.concat(values=[a, b], axis=0), np.concatenate([a, b], 0)),
    "concat_v2": (tf.concat_v2([a, b], 0), np.concatenate([a, b], 0)),
    "split, axis first": (tf.split(1, 3, a)[2], a[:, 2:]),
    "split, split_dim": (tf.split(split_dim=0, num_split=2, value=a)[1], a[1:]),
    "split, of today": (tf.split(a, 3, 1)[1], a[:, 1:2]),
    "pack": (tf.pack([a, b]), np.stack([a, b])),
    "unpack": (tf.unpack(a)[1], a[1]),
    "mul": (tf.mul(a, b), a * b),
    "sub": (tf.sub(a, b), a - b),
    "neg": (tf.neg(a), -a),
    "inv": (tf.inv(b), 1 / b),
    "select": (tf.select(a > 2, a, b), np.where(a > 2, a, b)),
    "batch_matmul": (tf.batch_matmul(square, square), square @ square),
    "logits first": (tf.nn.sparse_softmax_cross_entropy_with_logits(logits, labels), cross_entropies),
    "by name": (tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits), cross_entropies),
    "one hot": (tf.nn.softmax_cross_entropy_with_logits(logits, np.eye(3)[labels]), cross_entropies),
    "reduction_indices": (tf.reduce_sum(a, reduction_indices=1), a.sum(1)),
    "contrib l2": (tf.contrib.layers.l2_regularizer(0.5)(a), 0.25 * np.sum(a**2)),
    "contrib flatten": (tf.contrib.slim.flatten(square), square.reshape(2, 4)),
    "whitening": (
        tf.image.per_image_whitening(tf.constant(square, tf.float32)), (square - square.mean()) / square.std()
    ),
}
crop = tf.image.random_crop(tf.zeros([32, 32, 3]), [24, 24])
assert crop.shape == [24, 24, 3]
v = tf.get_variable("v", [2000, 2000], initializer=tf.contrib.layers.xavier_initializer())
with tf.Session() as session:
    session.run(tf.initialize_all_variables())
    for name, (found, expected) in cases.items():
        np.testing.assert_allclose(session.run(found), expected, rtol=1e-5, atol=1e-5, err_msg=name)
    largest = np.abs(session.run(v)).max()
    np.testing.assert_allclose(largest, np.sqrt(6.0 / 4000), rtol=1e-3)  # Glorot and Bengio, 2010
print(len(cases), "cases", tf.executing_eagerly(), tf.__version__.split(".")[0])
"""


@pytest.mark.slow
def test_old_names_and_old_orders_of_arguments_give_numpys_values(tmp_path):
    lines, _ = run(tmp_path, OLD_NAMES)
    assert lines == ["23 cases False 2"]


OLD_SUMMARIES = """
import sys
import tensorflow as tf

x = tf.Variable(2.5)
tf.scalar_summary("x (raw)", x)
tf.histogram_summary("h", [1.0, 2.0])
tf.image_summary("images", tf.zeros([4, 2, 2, 3]), max_images=2)
tf.contrib.deprecated.scalar_summary("deprecated", x)
merged = tf.merge_all_summaries()
with tf.Session() as session:
    session.run(tf.initialize_all_variables())
    writer = tf.train.SummaryWriter(sys.argv[1], graph_def=session.graph_def)
    writer.add_summary(session.run(merged), 7)
    writer.close()
"""


@pytest.mark.slow
def test_old_summaries_are_written_under_their_tags(tmp_path):
    run(tmp_path, OLD_SUMMARIES, str(tmp_path / "events"))
    (path,) = (tmp_path / "events").iterdir()
    values = {v.tag: v for event in tf.train.summary_iterator(str(path)) for v in event.summary.value}
    assert set(values) == {"x (raw)", "h", "images/image/0", "images/image/1", "deprecated"}
    assert values["x (raw)"].simple_value == 2.5 and values["h"].histo.sum == 3.0


# A training script in the words of 2016: towers, a queue before them, flags of its own, an old import.
TOWERS = """
from six.moves import xrange
import tensorflow as tf
from tensorflow.models.image.cifar10 import cifar10
import cifar10_input
import tensorflow.contrib.slim as slim
from tensorflow.python.platform import gfile

assert cifar10.cifar10_input is cifar10_input
FLAGS = tf.app.flags.FLAGS
tf.app.flags.DEFINE_string('train_dir', '/nowhere', 'where')
tf.app.flags.DEFINE_integer('num_gpus', 2, 'how many')


def main(argv=None):
    cifar10.maybe_download_and_extract()
    gfile.MakeDirs(FLAGS.train_dir)
    with tf.Graph().as_default(), tf.device('/cpu:0'):
        global_step = tf.get_variable('global_step', [], initializer=tf.constant_initializer(0), trainable=False)
        opt = tf.train.GradientDescentOptimizer(0.1)
        images, labels = cifar10.distorted_inputs()
        queue = slim.prefetch_queue.prefetch_queue([images, labels], capacity=2 * FLAGS.num_gpus)
        grads = []
        with tf.variable_scope(tf.get_variable_scope()):
            for i in xrange(FLAGS.num_gpus):
                with tf.device('/gpu:%d' % i), tf.name_scope('%s_%d' % (cifar10.TOWER_NAME, i)) as scope:
                    image_batch, label_batch = queue.dequeue()
                    _ = cifar10.loss(cifar10.inference(image_batch), label_batch)
                    losses = tf.get_collection('losses', scope)
                    loss = tf.add_n(losses, name='total_loss')
                    tf.get_variable_scope().reuse_variables()
                    summaries = tf.get_collection(tf.GraphKeys.SUMMARIES, scope)
                    grads.append(opt.compute_gradients(loss))
        averages = [(sum(g for g, _ in pair) / len(pair), pair[0][1]) for pair in zip(*grads)]
        train_op = opt.apply_gradients(averages, global_step=global_step)
        saver = tf.train.Saver(tf.all_variables())
        with tf.Session(config=tf.ConfigProto(allow_soft_placement=True)) as sess:
            sess.run(tf.initialize_all_variables())
            tf.train.start_queue_runners(sess=sess)
            for step in xrange(2):
                _, value = sess.run([train_op, loss])
                print('step %d, loss = %.1f' % (step, value))
            assert sess.run(tf.merge_summary(summaries))
            saver.save(sess, FLAGS.train_dir + '/model.ckpt', global_step=int(sess.run(global_step)))


if __name__ == '__main__':
    tf.app.run()
"""


@pytest.mark.slow
def test_a_multi_gpu_script_of_2016_trains(tmp_path, small_dir):
    """The first loss is the published one, 4.68; the checkpoint can be evaluated, with its step a float."""
    lines, _ = run(tmp_path, TOWERS, f"--data_dir={small_dir}", f"--train_dir={tmp_path}/train", "--batch_size=8")
    assert lines[0] in ("step 0, loss = 4.6", "step 0, loss = 4.7", "step 0, loss = 4.8") and len(lines) == 2
    shapes = tf.train.load_checkpoint(str(tmp_path / "train" / "model.ckpt-2")).get_variable_to_shape_map()
    assert shapes["local3/weights"] == [2304, 384]


# A script in the words of late 2017: argparse, and the package's own constants patched in cifar10_input.
PARSER = """
import cifar10
import cifar10_input
import tensorflow as tf

cifar10_input.IMAGE_SIZE = 32
parser = cifar10.parser
parser.add_argument('--train_dir', type=str, default='/nowhere')
parser.add_argument('--max_steps', type=int, default=5)


def main(argv=None):
    for _ in xrange(1):
        images, labels = cifar10.distorted_inputs()
    print(FLAGS.max_steps, FLAGS.batch_size, cifar10.FLAGS.batch_size, images.shape, tf.executing_eagerly())


if __name__ == '__main__':
    FLAGS = parser.parse_args()
    tf.app.run()
"""


@pytest.mark.slow
def test_a_script_of_late_2017_with_argparse_runs(tmp_path, small_dir):
    lines, _ = run(tmp_path, PARSER, "--data_dir", small_dir, "--batch_size", "4", "--max_steps=9")
    assert lines == ["9 4 4 (4, 32, 32, 3) False"]


EVALUATES = """
import cifar10_eval
import tensorflow as tf

print(tf.app.flags.FLAGS.eval_dir, flush=True)


def main(argv=None):
    (result,) = cifar10_eval.evaluate()
    print(result.step, result.total)


if __name__ == '__main__':
    tf.app.run()
"""


@pytest.mark.slow
def test_cifar10_eval_is_imported_as_in_the_tutorials_folder(tmp_path, synthetic_dir):
    from helpers import save_network

    save_network(tmp_path / "train", [5])
    lines, _ = run(
        tmp_path,
        EVALUATES,
        *("--dataset=synthetic", f"--data_dir={synthetic_dir}", f"--checkpoint_dir={tmp_path}/train", "--run_once"),
        *(f"--eval_dir={tmp_path}/eval", "--num_examples=20"),
    )
    assert lines[0] == f"{tmp_path}/eval" and lines[-1] == "5 20" and " precision @ 1 = " in lines[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="python -P is of 3.11")
def test_modules_beside_the_script_go_before_ours(tmp_path):
    (tmp_path / "cifar10.py").write_text(
        "import tensorflow as tf\n"
        "import cifar10_input\n"
        "tf.app.flags.DEFINE_integer('batch_size', 7, 'theirs')\n"
        "MINE = cifar10_input.MINE\n"
    )
    (tmp_path / "cifar10_input.py").write_text("MINE = 'theirs'\n")
    script = "import cifar10\nprint(cifar10.MINE, cifar10.tf.app.flags.FLAGS['batch_size'].default)\n"
    (tmp_path / "their_script.py").write_text(script)
    command = [sys.executable, "-P", "-m", "cifar10.v1", "their_script.py"]
    done = [
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment()),
        run_python("-m", "cifar10.v1", tmp_path / "their_script.py", cwd=tmp_path.parent),
    ]
    assert [process.stdout for process in done] == ["theirs 7\n"] * 2, done[0].stderr
    errors = done[0].stderr
    assert f"cifar10.v1: the script has a cifar10 of its own in {os.path.realpath(tmp_path)}, and uses that" in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("print 'step'\n", "their_script.py, line 1: Missing parentheses"),
        ("print(1)\0\n", "their_script.py: source code string cannot contain null bytes"),
        (
            "import tensorflow as tf\ntf.contrib.crf.crf\n",
            "tensorflow.contrib.crf: neither is it in today's",
        ),
        (
            "import cifar10\ncifar10.IMAGE_SIZE = 40\nimport tensorflow as tf\ncifar10.FLAGS.data_dir = DATA\n"
            "cifar10.inputs(True)\n",
            "their_script.py: IMAGE_SIZE = 40: no crop of images of 32x32 has that size; give one from 1 to 32",
        ),
    ],
    ids=["Python 2", "no text", "what is not served", "a user's error"],
)
def test_what_cannot_be_run_is_said_in_a_line(tmp_path, small_dir, script, message):
    _, errors = run(tmp_path, script.replace("DATA", repr(small_dir)), check=1)
    assert message in errors.splitlines()[-1]


@pytest.mark.slow
def test_without_a_script_the_usage_is_shown(tmp_path):
    for args in ([], ["missing.py"]):
        process = run_python("-m", "cifar10.v1", *args, cwd=tmp_path, check=1)
        assert process.stderr.splitlines()[-1].endswith("usage: python -m cifar10.v1 SCRIPT [ARGUMENTS OF THE SCRIPT]")
