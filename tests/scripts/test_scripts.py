"""The command lines, as real processes."""

import ast
import hashlib
import itertools
import os
import re
import subprocess
import sys

import cifar10_compare
import forkserver
import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from cifar10_distributed_train import AGREED
from helpers import (
    SCRIPTS,
    TRAIN_FLAGS,
    evaluate,
    recorded_losses,
    run_script,
    train,
    write_noise,
)
from tensorflow.python.framework import config

import cifar10
from cifar10 import exporting, serving
from cifar10.data import datasets
from cifar10.errors import ClusterError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("cifar10_train", "train_dir max_steps log_frequency seed restart save_checkpoint_secs keep_checkpoints"),
        ("cifar10_multi_gpu_train", "train_dir max_steps num_gpus variables_on log_device_placement profile_steps"),
        ("cifar10_distributed_train", "worker_hosts task_index all_reduce hang_secs max_wait_secs local_workers"),
        ("cifar10_compare", "setups steps repetitions evaluate_too"),
        ("cifar10_eval", "eval_dir eval_data checkpoint_dir eval_interval_secs num_examples run_once"),
        ("cifar10_predict", "top_k json checkpoint checkpoint_dir use_moving_averages crop"),
        ("cifar10_export", "export_dir tflite checkpoint checkpoint_dir use_moving_averages crop"),
    ],
)
def test_help_lists_every_flag(script, flags):
    text = run_script(script, "--help", check=0).stdout
    shared = ["data_dir", "use_fp16", "dataset", "version"] + ["batch_size"] * (script != "cifar10_export")
    for flag in [*flags.split(), *shared]:
        assert re.search(rf"^ +--(\[no\])?{flag}: ", text, re.MULTILINE), flag
    assert "%%" not in text


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort", "--helpfull", "--helpxml", "--version"])
def test_who_asked_for_help_gets_it_and_exit_code_0_unless_it_is_lost(flag):
    assert "cifar10_export" in run_script("cifar10_export", flag, check=0).stdout
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            script = forkserver.Program([SCRIPTS / "cifar10_export.py", flag], stdout=full, stderr=subprocess.PIPE)
        assert script.communicate(timeout=60)[1].startswith("Output cannot be written (No space left on device)")
        assert script.returncode == 1


# Of a worker: what is its own, or its machine's, or only of use to the chief.
NEED_NOT_AGREE = """
    data_dir data_url data_sha256 log_device_placement train_dir restart log_frequency save_checkpoint_secs
    save_checkpoint_steps keep_checkpoints save_summaries_steps profile_steps eval_dir eval_interval_secs local_workers
    worker_hosts task_index init_from listen_on_network max_wait_secs hang_secs end_with_stdin version
"""


@pytest.mark.slow
def test_workers_must_agree_in_every_flag_that_changes_what_is_computed():
    """A new flag of training must be put on one side or the other."""
    text = run_script("cifar10_distributed_train", "--help", check=0).stdout
    flags = set(re.findall(r"^ +--(?:\[no\])?(\w+):(?: |$)", text, re.MULTILINE))
    assert {"batch_size", "seed", "lrn", "microbatch_size", "model", "recipe"} <= set(AGREED)
    assert flags - set(NEED_NOT_AGREE.split()) == set(AGREED)


@pytest.mark.slow
def test_a_script_says_its_version_whatever_else_it_lacks():
    """One that needs other flags; all scripts get it from flags.main."""
    assert run_script("cifar10_import_images", "--version", check=0).stdout == (
        f"cifar10_import_images.py {cifar10.__version__}\n"
    )
    scripts = [*SCRIPTS.glob("cifar10_*.py")]
    assert len(scripts) >= 10
    for path in scripts:
        assert "    flags.main(run" in path.read_text(), path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batchsize=64"], "Unknown command line flag 'batchsize'. Did you mean: batch_size ?"),
        (["--use_fp16", "False"], "unexpected argument 'False': write flags as --name=value"),
        (["--batch_size=0"], "flag --batch_size=0: 0 is not an integer in the range [1, 1048576]"),
        (["--max_steps=-1"], "flag --max_steps=-1: -1 is not an integer in the range [0, 999"),
        (["--batch_size=-5"], "flag --batch_size=-5: -5 is not an integer in the range [1, 1048576]"),
        (["--dataset=mnist"], "flag --dataset=mnist: value should be one of <cifar10|cifar100|cifar100_coarse|svhn|"),
        (["--learning_rate=nan"], "flag --learning_rate=nan: give a number, not NaN"),
        (["--momentum=1"], "flag --momentum=1: 1.0 is not"),
        (["--log_frequency=-1"], "flag --log_frequency=-1: -1 is not a non-negative integer"),
        (["--max_steps=many"], "flag --max_steps=many: invalid literal for int"),
        (["--train_dir="], "flag --train_dir=: give it a path"),
        (["--data_sha256=c4a38c"], "flag --data_sha256=c4a38c: a sha256 has 64 hexadecimal digits"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments, message, tmp_path):
    process = run_script("cifar10_train", f"--train_dir={tmp_path / 'train'}", *arguments, check=1)
    assert message in process.stderr + process.stdout
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "train").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_examples=0"], "flag --num_examples=0: 0 is not a positive integer"),
        (["--batch_size=0"], "flag --batch_size=0: 0 is not an integer in the range [1, 1048576]"),
        (["--eval_data=validation"], "flag --eval_data=validation: value should be one of <test|train_eval|held_out>"),
        (["--runonce"], "Unknown command line flag 'runonce'. Did you mean: run_once ?"),
    ],
)
def test_a_wrong_command_line_of_the_evaluation_is_refused(arguments, message, tmp_path):
    process = run_script("cifar10_eval", f"--eval_dir={tmp_path / 'eval'}", *arguments, check=1)
    assert message in process.stderr + process.stdout
    assert "Traceback" not in process.stderr and not (tmp_path / "eval").exists()


# {script: its flags that take a path, and what else it needs}
PATHS_OF = {
    "cifar10_train": (["--data_dir=", "--train_dir="], []),
    "cifar10_multi_gpu_train": (["--train_dir="], []),
    "cifar10_distributed_train": (["--train_dir=", "--eval_dir="], ["--local_workers=2"]),
    "cifar10_eval": (["--data_dir=", "--checkpoint_dir=", "--eval_dir="], []),
    "cifar10_predict": (["--checkpoint=", "--checkpoint_dir=", "--data_dir=", ""], ["horse.png"]),
    "cifar10_export": (["--export_dir=", "--checkpoint=", "--checkpoint_dir="], []),
    "cifar10_import_images": (["--csv=", "--data_dir="], ["--images_dir=pictures"]),
    "cifar10_profile": (["--data_dir="], []),
    "cifar10_benchmark": (["--data_dir=", "--json="], []),
}


@pytest.mark.slow
def test_a_path_with_a_scheme_is_refused_before_anything_is_made(tmp_path):
    """As from an empty folder, in which a folder `gs:` could be made."""
    schemes = itertools.cycle(["gs", "s3", "hdfs", "file"])
    cases = [
        (script, f"{flag}{next(schemes)}://{tmp_path}/there", others)
        for script, (flags, others) in PATHS_OF.items()
        for flag in flags
    ]
    for script, given, others in cases:
        others = [] if given.startswith("--csv") else others
        said = run_script(script, given, *others, check=1, cwd=tmp_path).stderr
        scheme = re.search(r"(\w+)://", given)[0]
        expected = f"{script}.py: {given}: paths with a scheme such as {scheme} are not served; mount the storage"
        assert [line for line in said.splitlines() if line.startswith(expected)], said
        assert "Traceback" not in said
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_run_once_without_a_checkpoint_exits_with_code_1(synthetic_dir, tmp_path):
    process = run_script(
        "cifar10_eval",
        *("--dataset=synthetic", f"--data_dir={synthetic_dir}", "--run_once"),
        *(f"--checkpoint_dir={tmp_path / 'missing'}", f"--eval_dir={tmp_path / 'eval'}"),
        check=1,
    )
    assert process.stderr.splitlines()[-1] == (
        f"cifar10_eval.py: No checkpoint file found in {tmp_path / 'missing'}; train first, or choose another "
        "--checkpoint_dir"
    )


@pytest.mark.slow
def test_a_tilde_is_the_home_directory(synthetic_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run_script(
        "cifar10_train",
        *("--dataset=synthetic", f"--data_dir={synthetic_dir}", "--train_dir=~/run"),
        *("--max_steps=1", "--batch_size=8", "--log_frequency=0"),
        check=0,
    )
    assert (tmp_path / "run" / "model.ckpt-1.index").exists()
    assert "~" not in os.listdir(os.path.expanduser("~"))


@pytest.mark.slow
def test_a_mirror_is_downloaded_from_and_must_be_the_archive(tmp_path):
    (tmp_path / "mirror").mkdir()
    archive = tmp_path / "mirror" / "cifar-10-binary.tar.gz"
    archive.write_bytes(b"no archive")
    command = ["cifar10_train", f"--data_dir={tmp_path / 'data'}", f"--train_dir={tmp_path / 'train'}"]
    process = run_script(*command, f"--data_url={archive.as_uri()}", check=1)
    error = process.stderr.splitlines()[-1]
    assert error.startswith(f"cifar10_train.py: Cannot download {archive.as_uri()}: got 10 bytes, sha256 ")
    assert "expected 170052171 bytes, sha256 c4a38c50" in error
    sha256 = hashlib.sha256(b"no archive").hexdigest()
    process = run_script(*command, f"--data_url={archive.as_uri()}", f"--data_sha256={sha256}", check=1)
    assert "cifar-10-binary.tar.gz cannot be unpacked: not a gzip file" in process.stderr.splitlines()[-1]
    assert not (tmp_path / "train").exists()


@pytest.mark.slow
def test_an_error_is_one_line_and_exit_code_1(tmp_path):
    """Also --run_once without a checkpoint, and a missing data set that cannot be downloaded."""
    (tmp_path / "file").write_text("")
    process = run_script("cifar10_train", "--dataset=synthetic", f"--data_dir={tmp_path / 'file'}", check=1)
    assert process.stderr.splitlines()[-1].startswith("cifar10_train.py: ")
    assert "Traceback" not in process.stderr


def test_every_script_keeps_away_what_tensorflow_says_of_itself():
    """Before anything imports TensorFlow, which would not look again; not what the user has set."""
    for path in SCRIPTS.glob("cifar10_*.py"):
        body = ast.parse(path.read_text()).body
        texts = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)]
        level = next(i for i, text in enumerate(texts) if text.startswith("os.environ.setdefault('TF_CPP_MIN_LOG_"))
        imported = {re.split(r"[ .]", text)[1] for text in texts[1:level]}
        assert imported <= sys.stdlib_module_names, path


@pytest.mark.slow
def test_the_queue_pipeline_trains_says_that_it_fills_and_ends_without_a_word_of_it(synthetic_dir, tmp_path):
    """In an environment that does not ask TensorFlow to be silent, whose queues complain when they are closed."""
    values = {name: value for name, value in forkserver.environment().items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    flags = ["--dataset=synthetic", "--input_pipeline=queue", "--min_fraction_of_examples_in_queue=0.05"]
    flags += [f"--data_dir={synthetic_dir}", f"--train_dir={tmp_path}", "--batch_size=8", "--max_steps=11"]
    command = [sys.executable, str(SCRIPTS / "cifar10_train.py"), *flags]
    process = subprocess.run(command, capture_output=True, text=True, env=values, timeout=120)
    assert process.returncode == 0, process.stderr
    first, *lines = process.stdout.splitlines()
    assert first == "Filling queue with 500 CIFAR images before starting to train. This will take a few minutes."
    assert [re.match(published.CONSOLE_LINE, line)[1] for line in lines] == ["0", "10"]
    assert "cancelled" not in process.stderr and "cpu_feature_guard" not in process.stderr


@pytest.mark.slow
def test_devices_are_compared_in_one_table(synthetic_dir, monkeypatch, capsys):
    """One process and two towers have the same weights to the last bit, and precisions."""
    monkeypatch.setattr(cifar10_compare, "subprocess", forkserver.subprocesses())
    source = {"dataset": "synthetic", "data_dir": synthetic_dir, "data_url": None, "data_sha256": None}
    cifar10_compare.run(
        **source,
        batch_size=64,
        use_fp16=False,
        setups=["one", "2towers"],
        steps=13,
        repetitions=1,
        evaluate_too=True,
    )
    one, towers = capsys.readouterr().out.splitlines()[-2:]
    pattern = r"^(.{24}) *(\S+) +(\S+) +([\d,]+) \(.*\) +(\d\.\d\d) +(\S+) +(0\.\d{3})$"
    one, towers = re.match(pattern, one), re.match(pattern, towers)
    assert one[1].strip() == "1 x 64" and towers[1].strip() == "2 towers x 32"
    assert float(one[5]) == 1.0 and float(towers[3]) == 0.0 and float(towers[2]) < 1e-6
    assert one[7] == towers[7]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--setups=one,many", "write them as one, 2towers, 2workers or 8workers+ring"),
        ("--setups=3towers", "--batch_size=128: cannot be divided among the 3 devices of 3towers"),
    ],
)
def test_a_wrong_setup_is_refused(argument, message, synthetic_dir):
    process = run_script("cifar10_compare", "--dataset=synthetic", f"--data_dir={synthetic_dir}", argument, check=1)
    assert message in process.stderr + process.stdout
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_a_pod_without_tf_config_trains_alone_and_says_so(tiny, tmp_path, monkeypatch, capsys):
    """As of a TFJob of one replica, which gets none."""
    write_noise(tiny, tmp_path)
    monkeypatch.setitem(datasets.ALL, "cifar10", tiny)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    of_several = {"local_workers": 0, "end_with_stdin": False, "worker_hosts": [], "task_index": 0}
    of_several |= {"listen_on_network": False, "all_reduce": "auto", "hang_secs": 60.0, "max_wait_secs": 3600.0}
    of_several |= {"eval_dir": str(tmp_path / "eval"), "eval_interval_secs": 300}
    for flag in ("input_pipeline", "min_fraction_of_examples_in_queue"):
        monkeypatch.delitem(TRAIN_FLAGS, flag)
    flags = {**of_several, "dataset": "cifar10", "max_steps": 2}
    train(tmp_path, tmp_path / "pod", script="cifar10_distributed_train", **flags)
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "There is no TF_CONFIG in this pod, as in a TFJob of one replica: training alone"
    train(tmp_path, tmp_path / "alone", dataset="cifar10", max_steps=2)
    assert recorded_losses(tmp_path / "pod") == recorded_losses(tmp_path / "alone")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(ClusterError, match="there is no cluster: set TF_CONFIG"):
        train(tmp_path, tmp_path / "none", script="cifar10_distributed_train", **flags)


@pytest.fixture
def deterministic():
    """A function after which TensorFlow is as with TF_DETERMINISTIC_OPS=1, to the end of the test."""
    yield config.enable_op_determinism
    config.disable_op_determinism()


@pytest.mark.slow
def test_deterministic_ops_train_evaluate_and_export(tiny, tmp_path, monkeypatch, deterministic):
    """Which refuse a clock, and whatever has no seed: training, evaluation, prediction and export."""
    write_noise(tiny, tmp_path)
    monkeypatch.setitem(datasets.ALL, "cifar10", tiny)
    train(tmp_path, tmp_path / "expected", dataset="cifar10", max_steps=2)
    deterministic()
    train(tmp_path, tmp_path / "found", dataset="cifar10", max_steps=2)
    found, expected = (
        {step: tf.train.load_checkpoint(str(tmp_path / name / f"model.ckpt-{step}")) for step in (0, 2)}
        for name in ("found", "expected")
    )
    for name in published.VARIABLES:  # the same initial values; ops that are deterministic may round otherwise
        np.testing.assert_array_equal(found[0].get_tensor(name), expected[0].get_tensor(name))
        np.testing.assert_allclose(found[2].get_tensor(name), expected[2].get_tensor(name), atol=1e-6)
    train(tmp_path, tmp_path / "queue", dataset="cifar10", max_steps=2, input_pipeline="queue")
    (result,) = evaluate(tmp_path, tmp_path / "found", tmp_path / "eval", dataset=None, num_examples=20)
    assert result.step == 2
    path = str(tmp_path / "found" / "model.ckpt-2")
    network = serving.TrainedNetwork(path, tiny.class_names)
    serving.Predictor(network).close()
    exporting.export(network, str(tmp_path / "export"))
    with tf.Graph().as_default():
        with pytest.raises(RuntimeError, match="Random ops require a seed"):  # that it would be noticed here
            tf.random_normal([1])
        with pytest.raises(tf.errors.FailedPreconditionError, match=r"(?i)determinis"), tf.Session() as session:
            session.run(tf.timestamp())
