"""The benchmark's arithmetic and its processes; how fast anything is, no test asserts."""

import contextlib
import io
import json
import shutil
import subprocess
import sys

import benchmark_contenders
import benchmark_peers
import cifar10_benchmark
import cifar10_profile
import forkserver
import numpy as np
import pytest
from forkserver import environment
from helpers import SCRIPTS, network, run_script

from cifar10.data import datasets
from cifar10.errors import RunError


def samples_of(values):
    return [{"value": value, "peak_mib": mib} for value, mib in values]


def test_ratios_are_medians_within_repetitions():
    """Three repetitions on a machine that slows down: 2, 3 and 2 times as fast as the baseline of the same time."""
    rows = cifar10_benchmark.summarize(
        {
            "tutorial float32": samples_of([(100.0, 7.0), (50.0, 9.0), (10.0, 8.0)]),
            "ours half": samples_of([(200.0, 1.0), (150.0, 2.0), (20.0, 3.0)]),
            "matmul peak bfloat16": samples_of([(400.0, 1.0), (600.0, 1.0), (200.0, 1.0)]),
        }
    )
    expected = {"median": 150.0, "min": 20.0, "max": 200.0, "ratio": 2.0, "of_peak": 0.25, "peak_mib": 3.0}
    assert rows["ours half"] == expected
    assert rows["tutorial float32"]["ratio"] == 1.0 and rows["tutorial float32"]["of_peak"] is None
    assert cifar10_benchmark.summarize({"ours": samples_of([(1.0, 1.0)])})["ours"]["ratio"] is None


def test_repetitions_are_interleaved():
    calls = []
    measures = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    assert cifar10_benchmark.interleave(measures, 2) == {"a": [1, 4], "b": [2, 5], "c": [3, 6]}
    assert calls == list("abcabc")


def test_operations_of_a_step_are_those_of_the_published_shapes():
    assert benchmark_contenders.FLOP_PER_IMAGE == 2 * (3 * 18_470_784 - 2_764_800) == 105_295_104


def test_losses_that_differ_stop_the_benchmark():
    cifar10_benchmark.check_losses({})
    cifar10_benchmark.check_losses({"ours float32": [5.0, 4.0], "x float32": [5.0004, 4.0], "x bfloat16": [5.09, 4.0]})
    for name, losses in (("x float32", [5.0, 4.001]), ("x bfloat16", [5.2, 4.0]), ("x half", [float("nan"), 4.0])):
        with pytest.raises(RunError, match=rf"^{name} computes a loss of .*, ours float32 one of [45]\.000000$"):
            cifar10_benchmark.check_losses({"ours float32": [5.0, 4.0], name: losses})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["5"], "unexpected argument '5': write flags as --name=value"),
        (["--use_fp16"], "Unknown command line flag 'use_fp16'"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments, message):
    process = run_script("cifar10_benchmark", *arguments, check=1)
    assert message in process.stderr + process.stdout
    assert "Traceback" not in process.stderr


@pytest.fixture(scope="module")
def benchmark(synthetic_dir, tmp_path_factory):
    """A benchmark of the training step on 8 images: (what it printed, what it wrote)."""
    path = tmp_path_factory.mktemp("benchmark") / "benchmark.json"
    options = {"dataset": "synthetic", "data_dir": synthetic_dir, "modes": ["fixed_batch"], "batch_size": 8}
    options |= {"repetitions": 1, "steps": 1, "contenders": "ours float32|tutorial|keras float32", "worker": None}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as table:
        patch.setattr(cifar10_benchmark, "subprocess", forkserver.subprocesses())
        cifar10_benchmark.run(json=str(path), shared_dir=None, **options)
    return table.getvalue(), json.loads(path.read_text())


@pytest.fixture(scope="module")
def start(synthetic_dir, tmp_path_factory):
    """Path of the images and weights that all contenders of that benchmark start with."""
    path = tmp_path_factory.mktemp("start") / "start.npz"
    benchmark_contenders.write_start(path, datasets.SYNTHETIC, synthetic_dir, 8)
    return path


@pytest.mark.slow
def test_ours_the_tutorial_and_keras_compute_the_same_and_the_samples_are_written(benchmark):
    """By their second loss, also the same gradients and update."""
    table, report = benchmark
    rows = report["modes"]["fixed_batch"]["contenders"]
    assert rows.keys() == {"tutorial float32", "ours float32", "keras float32"}
    first, second = rows["ours float32"]["losses"]
    assert second < first
    for name, row in rows.items():
        assert row["losses"] == pytest.approx([first, second], rel=1e-4)
        assert len(row["samples"]) == 1 and row["median"] > 0 and row["peak_mib"] > 0
        assert f"\n{name} " in table
    assert report["repetitions"] == 1 and report["versions"]["tensorflow"]
    assert "fixed_batch: images/s, n = 1" in table


def losses_of_ours(benchmark):
    return benchmark[1]["modes"]["fixed_batch"]["contenders"]["ours float32"]["losses"]


@pytest.mark.slow
def test_the_loss_is_that_of_numpy(benchmark, start):
    """The published text, written out in NumPy."""
    values = dict(np.load(start))
    logits = network(values["images"].astype(np.float64), values)
    of_label = logits[np.arange(len(logits)), values["labels"]]
    cross_entropy = np.mean(np.log(np.exp(logits).sum(axis=1)) - of_label)
    decay = 0.004 / 2 * sum(np.square(values[f"{layer}/weights"]).sum() for layer in ("local3", "local4"))
    assert losses_of_ours(benchmark)[0] == pytest.approx(cross_entropy + decay, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pytorch float32 channels_last", "jax float32"])
def test_other_peers_compute_the_same(name, benchmark, start):
    pytest.importorskip(benchmark_peers.PEERS[name][0])
    process = subprocess.run(
        [sys.executable, str(SCRIPTS / "benchmark_peers.py"), name, str(start)],
        input='{"cmd": "run", "steps": 1}\n',
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    ready, result = map(json.loads, process.stdout.splitlines())
    assert ready["losses"] == pytest.approx(losses_of_ours(benchmark), rel=1e-4)
    assert result["seconds"] > 0 and result["peak_mib"] > 0


def test_a_peer_that_is_not_installed_is_listed(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(benchmark_peers.PEERS, "keras float32", ("no_such_library", None))
    options = {"contenders": "keras float32", "repetitions": 1, "steps": 1, "batch_size": 2}
    result = cifar10_benchmark.measure_mode("fixed_batch", {**options, "shared_dir": str(tmp_path)})
    assert result == {"contenders": {}, "skipped": {"keras float32": "no_such_library is not installed"}}
    assert "keras float32                   skipped: no_such_library is not installed" in capsys.readouterr().out


def test_a_contender_that_fails_is_named(tmp_path):
    (tmp_path / "start.npz").write_bytes(b"")
    with pytest.raises(RunError, match=r"^fixed_batch, keras float32 failed: EOFError"):
        cifar10_benchmark.Worker("fixed_batch", "keras float32", {"shared_dir": str(tmp_path)})


def test_a_contender_that_says_something_else_is_named(tmp_path, monkeypatch):
    """As one whose library prints a line of its own."""
    monkeypatch.setattr(sys, "executable", shutil.which("echo"))
    with pytest.raises(RunError, match=r"^fixed_batch, keras float32 failed: /.*benchmark_peers\.py keras float32 /"):
        cifar10_benchmark.Worker("fixed_batch", "keras float32", {"shared_dir": str(tmp_path)})


@pytest.mark.parametrize(
    ("op", "row"),
    [
        ("conv1/Conv2D_3", "conv1"),
        ("train/gradients/conv2/Conv2D_grad/Conv2DBackpropFilter", "conv2"),
        ("norm1/MatMul_2", "norm1"),
        ("train/GradientDescent/update_conv1/weights/ResourceApplyGradientDescent", cifar10_profile.UPDATE),
        ("conv1/weights/ExponentialMovingAverage/ReadVariableOp", cifar10_profile.UPDATE),
        ("microbatches/split", cifar10_profile.REST),
    ],
)
def test_an_ops_time_is_its_layers(op, row):
    assert cifar10_profile.layer_of(op) == row


@pytest.mark.slow
def test_the_profile_shows_each_layer_of_each_construction(synthetic_dir):
    process = run_script(
        "cifar10_profile", "--dataset=synthetic", f"--data_dir={synthetic_dir}", "--batch_size=8", "--steps=5", check=0
    )
    rows = {line[:26].strip(): list(map(float, line[26:].split())) for line in process.stdout.splitlines()[1:]}
    assert rows.keys() == {*cifar10_profile.LAYERS, cifar10_profile.UPDATE, cifar10_profile.REST, "all ops", "the step"}
    for column in range(3):
        times = [row[column] for name, row in rows.items() if name not in ("all ops", "the step")]
        assert rows["all ops"][column] == pytest.approx(sum(times), abs=0.05 * len(times))
        assert rows["conv2"][column] > rows["softmax_linear"][column]  # 14.7 million multiply-adds, and 1,920
