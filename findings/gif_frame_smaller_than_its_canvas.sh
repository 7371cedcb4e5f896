#!/usr/bin/env bash
# TensorFlow's GIF decoder takes the largest frame of a file for the canvas, not the logical screen that the header states.
# A frame with a margin is cut and shifted, without an error: of 4x3 pixels at (3, 2) on a screen of 10x8, decode_gif
# gives 4x3 pixels, of which the one at the lower right holds the frame's first pixel and all others are black.
# Pillow, like browsers, gives 10x8 pixels with the whole frame in its place.
#
# tensorflow-cpu 2.21.0, Pillow 12.0.0. Output seen:
#   screen (10, 8), Pillow (8, 10, 3) with 12 white pixels, TensorFlow (3, 4, 3) with 1 white pixel at [[2, 3]]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 pillow==12.0.0
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PYTHON'
import io
import struct

import numpy as np
import tensorflow as tf
from PIL import Image

frame = Image.new("P", (4, 3), 1)  # white
frame.putpalette([0, 0, 0, 255, 255, 255])
buffer = io.BytesIO()
frame.save(buffer, "GIF", optimize=False)
content = bytearray(buffer.getvalue())
struct.pack_into("<HH", content, 6, 10, 8)  # the screen
descriptor = content.index(b"\x2c\0\0\0\0")
struct.pack_into("<HH", content, descriptor + 1, 3, 2)  # left and top of the frame
image = Image.open(io.BytesIO(bytes(content)))
pillow = np.asarray(image.convert("RGB"))
tensorflow = tf.io.decode_gif(bytes(content)).numpy()[0]
white = np.argwhere(tensorflow.all(axis=-1)).tolist()
print(
    f"screen {image.size}, Pillow {pillow.shape} with {pillow.all(axis=-1).sum()} white pixels, "
    f"TensorFlow {tensorflow.shape} with {len(white)} white pixel at {white}"
)
assert pillow.shape == (8, 10, 3) and pillow[2:5, 3:7].all() and pillow.all(axis=-1).sum() == 12
assert tensorflow.shape == (3, 4, 3) and white == [[2, 3]]
PYTHON
