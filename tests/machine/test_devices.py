"""What the machine computes with."""

import pytest

from cifar10.machine import devices


@pytest.mark.parametrize(
    ("flags", "expected", "amx"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", True, False),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile", True, True),
        ("Features\t: fp asimd bf16", True, False),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", False, False),
        ("no such line", None, False),
    ],
)
def test_bfloat16_units_are_told_from_the_cpus_flags(tmp_path, monkeypatch, capsys, flags, expected, amx):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n\nprocessor\t: 1\n{flags}\n")
    monkeypatch.setattr(devices, "CPU_INFO", str(tmp_path / "cpuinfo"))
    assert devices.cpu_has_bfloat16() is expected
    assert devices.cpu_has_amx() is amx
    monkeypatch.setattr(devices, "has_gpu", lambda: False)
    devices.warn_if_half_precision_is_slow()
    assert ("no bfloat16 units" in capsys.readouterr().err) == (expected is False)


@pytest.mark.parametrize(
    ("num_gpus", "expected", "said"),
    [
        (0, ["/cpu:0", "/cpu:1", "/cpu:2"], "found 0 GPUs; the towers are on CPU devices"),
        (1, ["/gpu:0", "/gpu:0", "/gpu:0"], "found 1 GPU; the towers take turns"),
        (2, ["/gpu:0", "/gpu:1", "/gpu:0"], "found 2 GPUs; the towers take turns"),
        (3, ["/gpu:0", "/gpu:1", "/gpu:2"], None),
        (4, ["/gpu:0", "/gpu:1", "/gpu:2"], None),
    ],
)
def test_fewer_gpus_than_asked_for_are_said_once(monkeypatch, capsys, num_gpus, expected, said):
    monkeypatch.setattr(devices, "num_gpus", lambda: num_gpus)
    assert devices.of_towers(3) == expected
    assert capsys.readouterr().err == (f"--num_gpus=3: {said}\n" if said else "")


def test_cpu_devices_of_towers_exist_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(devices, "has_gpu", lambda: False)
    assert devices.session_config(num_towers=3).device_count["CPU"] == 3
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    assert devices.session_config(num_towers=3).allow_soft_placement


@pytest.mark.parametrize(("num_microbatches", "threads"), [(1, 8), (4, 2), (3, 2), (8, 1), (32, 1)])
def test_an_op_gets_its_micro_batches_share_of_the_cores(monkeypatch, num_microbatches, threads):
    monkeypatch.setattr(devices, "has_gpu", lambda: False)
    monkeypatch.setattr(devices, "num_cores", lambda: 8)
    assert devices.session_config(num_microbatches).intra_op_parallelism_threads == threads
