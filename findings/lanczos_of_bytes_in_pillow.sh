#!/usr/bin/env bash
# Pillow's LANCZOS and tf.image.resize's lanczos3 with antialias=True are the same filter, and equal to a hundredth of a
# grey level where Pillow resizes floats (mode F). Of bytes (L, RGB) Pillow rounds and cuts off at 0 and 255 between the
# horizontal and the vertical pass, where the filter overshoots: in an image of black and white pixels it then strays by
# tens of grey levels, so that a network which is trained on the one and served with the other sees other images.
# With BILINEAR, which does not overshoot, the two differ by one grey level.
#
# tensorflow-cpu 2.21.0, Pillow 12.0.0. Output seen:
#   lanczos of floats 0.000, of bytes 24.8; bilinear of bytes 0.9
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 pillow==12.0.0
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import tensorflow as tf
from PIL import Image

pixels = (np.random.RandomState(0).randint(0, 2, [75, 75]) * 255).astype(np.uint8)
image = Image.fromarray(pixels)


def largest_difference(image, filter, method):
    ours = np.clip(np.asarray(image.resize((32, 32), filter), np.float64), 0, 255)
    theirs = tf.image.resize(pixels[..., None], [32, 32], method, antialias=True).numpy()[..., 0]
    return np.abs(ours - np.clip(theirs, 0, 255)).max()


floats = largest_difference(image.convert("F"), Image.Resampling.LANCZOS, "lanczos3")
of_bytes = largest_difference(image, Image.Resampling.LANCZOS, "lanczos3")
bilinear = largest_difference(image, Image.Resampling.BILINEAR, "bilinear")
print(f"lanczos of floats {floats:.3f}, of bytes {of_bytes:.1f}; bilinear of bytes {bilinear:.1f}")
assert floats < 0.01 and of_bytes > 10 and bilinear < 1.1
PYTHON
