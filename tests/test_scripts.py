"""The command lines, as real processes."""

import re

import published
import pytest
from conftest import run_script


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("cifar10_train", "train_dir max_steps log_frequency seed restart save_checkpoint_secs keep_checkpoints"),
        ("cifar10_multi_gpu_train", "train_dir max_steps num_gpus variables_on log_device_placement input_pipeline"),
        ("cifar10_distributed_train", "worker_hosts ps_hosts job_name task_index sync backup_workers local_workers"),
        ("cifar10_compare", "setups steps repetitions evaluate_too"),
        ("cifar10_eval", "eval_dir eval_data checkpoint_dir eval_interval_secs num_examples run_once"),
    ],
)
def test_help_lists_every_flag(script, flags):
    text = run_script(script, "--help", check=1).stdout  # absl exits 1 after --help
    for flag in [*flags.split(), "batch_size", "data_dir", "use_fp16", "dataset"]:
        assert re.search(rf"^ +--(\[no\])?{flag}: ", text, re.MULTILINE), flag
    assert "%%" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batchsize=64"], "Unknown command line flag 'batchsize'. Did you mean: batch_size ?"),
        (["--use_fp16", "False"], "unexpected argument 'False': write flags as --name=value"),
        (["--batch_size=0"], "flag --batch_size=0: 0 is not a positive integer"),
        (["--max_steps=-1"], "flag --max_steps=-1: -1 is not a non-negative integer"),
        (["--dataset=mnist"], "flag --dataset=mnist: value should be one of <cifar10|synthetic>"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments, message, tmp_path):
    process = run_script("cifar10_train", f"--train_dir={tmp_path / 'train'}", *arguments, check=1)
    assert message in process.stderr + process.stdout
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "train").exists()


def test_an_error_is_one_line_and_exit_code_1(tmp_path):
    """Also --run_once without a checkpoint, and a missing data set that cannot be downloaded."""
    (tmp_path / "file").write_text("")
    process = run_script("cifar10_train", "--dataset=synthetic", f"--data_dir={tmp_path / 'file'}", check=1)
    assert process.stderr.splitlines()[-1].startswith("cifar10_train.py: ")
    assert "Traceback" not in process.stderr


def test_the_queue_pipeline_trains_and_says_that_it_fills(synthetic_dir, tmp_path):
    process = run_script(
        "cifar10_train",
        "--dataset=synthetic",
        "--input_pipeline=queue",
        "--min_fraction_of_examples_in_queue=0.05",
        f"--data_dir={synthetic_dir}",
        f"--train_dir={tmp_path}",
        "--batch_size=8",
        "--max_steps=11",
        check=0,
    )
    first, *lines = process.stdout.splitlines()
    assert first == "Filling queue with 500 CIFAR images before starting to train. This will take a few minutes."
    assert [re.match(published.CONSOLE_LINE, line)[1] for line in lines] == ["0", "10"]


def test_devices_are_compared_in_one_table(synthetic_dir):
    """One process and two towers have the same weights to the last bit, and precisions."""
    process = run_script(
        "cifar10_compare",
        "--dataset=synthetic",
        f"--data_dir={synthetic_dir}",
        "--batch_size=64",
        "--setups=one,2towers",
        "--steps=13",
        "--evaluate_too",
        check=0,
    )
    one, towers = process.stdout.splitlines()[-2:]
    pattern = r"^(.{24}) *(\S+) +(\S+) +([\d,]+) \(.*\) +(\d\.\d\d) +(\S+) +(0\.\d{3})$"
    one, towers = re.match(pattern, one), re.match(pattern, towers)
    assert one[1].strip() == "1 x 64" and towers[1].strip() == "2 towers x 32"
    assert float(one[5]) == 1.0 and float(towers[3]) == 0.0 and float(towers[2]) < 1e-6
    assert one[7] == towers[7]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--setups=one,many", "write them as one, 2towers, 2workers or 2workers+1ps"),
        ("--setups=3towers", "--batch_size=128: cannot be divided among the 3 devices of 3towers"),
    ],
)
def test_a_wrong_setup_is_refused(argument, message, synthetic_dir):
    process = run_script("cifar10_compare", "--dataset=synthetic", f"--data_dir={synthetic_dir}", argument, check=1)
    assert message in process.stderr + process.stdout
    assert "Traceback" not in process.stderr
