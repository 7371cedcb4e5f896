"""The benchmark's arithmetic and its processes; how fast anything is, no test asserts."""

import json

import cifar10_benchmark
from conftest import run_script


def test_ratios_are_medians_within_repetitions():
    """Three repetitions on a machine that slows down: 2, 3 and 2 times as fast as the baseline of the same time."""
    speeds = [(100.0, 200.0), (50.0, 150.0), (10.0, 20.0)]
    samples = [
        {
            name: dict.fromkeys(cifar10_benchmark.FIGURES, speed)
            for name, speed in zip(("tutorial", "float32"), pair, strict=True)
        }
        for pair in speeds
    ]
    rows = cifar10_benchmark.summarize(samples)["images_per_sec"]
    assert rows["float32"] == {"median": 150.0, "min": 20.0, "max": 200.0, "ratio": 2.0}
    assert rows["tutorial"]["ratio"] == 1.0


def test_each_contender_trains_and_the_samples_are_written(synthetic_dir, tmp_path):
    path = tmp_path / "benchmark.json"
    process = run_script(
        "cifar10_benchmark",
        "--dataset=synthetic",
        f"--data_dir={synthetic_dir}",
        "--batch_size=2",
        "--repetitions=1",
        "--steps=5",
        f"--json_path={path}",
        check=0,
    )
    (sample,) = json.loads(path.read_text())["samples"]
    assert sample.keys() == {"tutorial", "float32", "half"}
    assert all(value > 0 for figures in sample.values() for value in figures.values())
    assert "images/s (n = 1)" in process.stdout


def test_a_contender_that_fails_is_named(tmp_path):
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        (tmp_path / "cifar-10-batches-bin" / name).write_bytes(b"")
    process = run_script("cifar10_benchmark", f"--data_dir={tmp_path}", "--repetitions=1", check=1)
    assert process.stderr.splitlines()[-1].startswith("cifar10_benchmark.py: tutorial failed; run it alone")
