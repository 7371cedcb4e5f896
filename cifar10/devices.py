"""What the machine computes with."""

import re
import sys

import tensorflow.compat.v1 as tf

CPU_INFO = "/proc/cpuinfo"  # of Linux; elsewhere nothing is known of the CPU, and nothing is said


def has_gpu():
    """Returns whether TensorFlow sees a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


def of_towers(num_towers):
    """Returns the device of each tower, and the session settings that make them exist.

    On a machine without GPUs the towers run on CPU devices, which share its cores.
    """
    if has_gpu():
        return [f"/gpu:{i}" for i in range(num_towers)], tf.ConfigProto(allow_soft_placement=True)
    config = tf.ConfigProto(allow_soft_placement=True, device_count={"CPU": num_towers})
    return [f"/cpu:{i}" for i in range(num_towers)], config


def cpu_has_bfloat16():
    """Returns whether the CPU multiplies bfloat16 in hardware (AVX512_BF16, AMX or Arm's BF16), or None if unknown."""
    try:
        with open(CPU_INFO) as file:
            features = re.findall(r"^(?:flags|Features)\s*:(.*)$", file.read(), re.MULTILINE)
    except OSError:
        return None
    if not features:
        return None
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(features[0].split())


def warn_if_half_precision_is_slow():
    """Says on stderr where --use_fp16 will not pay."""
    if not has_gpu() and cpu_has_bfloat16() is False:
        print(
            "--use_fp16: this CPU has no bfloat16 units (avx512_bf16, amx_bf16); training will be slower, not faster",
            file=sys.stderr,
            flush=True,
        )
