"""What the machine computes with."""

import contextlib
import os
import re
import sys

import tensorflow.compat.v1 as tf

from cifar10.errors import counted

CPU_INFO = "/proc/cpuinfo"  # of Linux; elsewhere nothing is known of the CPU, and nothing is said


def has_gpu():
    """Returns whether TensorFlow sees a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


def num_gpus():
    """Returns the number of GPUs that TensorFlow sees."""
    return len(tf.config.list_physical_devices("GPU"))


def of_towers(num_towers):
    """Returns the device of each tower, and says on stderr where several have to share one.

    On a machine without GPUs the towers are on CPU devices, which share its cores; where there are fewer GPUs than
    towers, the towers take turns.
    """
    count = num_gpus()
    if count >= num_towers:
        return [f"/gpu:{i}" for i in range(num_towers)]
    how = "take turns" if count else "are on CPU devices"
    print(f"--num_gpus={num_towers}: found {counted(count, 'GPU')}; the towers {how}", file=sys.stderr, flush=True)
    return [f"/gpu:{i % count}" if count else f"/cpu:{i}" for i in range(num_towers)]


def session_config(num_microbatches=1, num_towers=1, log_placement=False):
    """Returns the settings of a session; set_process_threads makes the whole process follow them.

    Args:
      num_microbatches: how many micro-batches of all towers can be computed at once. On CPUs each op gets its share of
        the cores, because cores that work apart do not wait for each other.
      num_towers: CPU devices that must exist where there is no GPU.
      log_placement: whether to log on which device each op runs.
    """
    config = tf.ConfigProto(allow_soft_placement=True, log_device_placement=log_placement)
    if not has_gpu():
        config.device_count["CPU"] = num_towers
        config.intra_op_parallelism_threads = max(1, num_cores() // num_microbatches)
    return config


def set_process_threads(config):
    """Gives TensorFlow's eager runtime as many threads an op as a session's settings say.

    Building a tf.data pipeline starts that runtime, whose threads all sessions of the process then share. So this comes
    first; where it has started already, nothing changes.

    Args:
      config: tf.ConfigProto.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(config.intra_op_parallelism_threads)


def describe():
    """Returns what the record of a run says of the machine: its cores and the names of its GPUs."""
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return {"cores": num_cores(), "gpus": [gpu.get("device_name", "unknown") for gpu in gpus]}


def num_cores():
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_has_bfloat16():
    """Returns whether the CPU multiplies bfloat16 in hardware (AVX512_BF16, AMX or Arm's BF16), or None if unknown."""
    features = _cpu_features()
    return None if features is None else not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(features)


def cpu_has_amx():
    """Returns whether the CPU multiplies whole matrices of bfloat16, 16 times as fast as float32; False if unknown."""
    return "amx_bf16" in (_cpu_features() or [])


def _cpu_features():
    """Returns the names of what the CPU can do, or None if unknown."""
    try:
        with open(CPU_INFO) as file:
            features = re.findall(r"^(?:flags|Features)\s*:(.*)$", file.read(), re.MULTILINE)
    except OSError:
        return None
    return features[0].split() if features else None


def compute_type(use_fp16):
    """Returns the name of the type that a network computes in, 'float32' or a half type.

    On GPUs, all of which have units for it, that is 'float16'. CPUs with units have them for 'bfloat16', which has
    float32's range and needs no loss scaling.

    Args:
      use_fp16: whether to compute in half precision.
    """
    if not use_fp16:
        return "float32"
    return "float16" if has_gpu() else "bfloat16"


def warn_if_half_precision_is_slow():
    """Says on stderr where --use_fp16 will not pay."""
    if not has_gpu() and cpu_has_bfloat16() is False:
        print(
            "--use_fp16: this CPU has no bfloat16 units (avx512_bf16, amx_bf16); training will be slower, not faster",
            file=sys.stderr,
            flush=True,
        )
