#!/usr/bin/env bash
# TensorFlow Lite's int8 kernel of DIV looks for a division by zero in the stored bytes, not in the numbers they stand
# for. A divisor that is never negative, such as the deviation in tf.image.per_image_standardization, is stored with the
# zero point -128: there the byte 0 is the middle of the range, and 0.0 is the byte -128. So the converted model refuses
# images of medium contrast, one in 200 here, with "div.cc: data[i] != 0 was not true", and takes those of less and
# of more contrast. Conversion and calibration report nothing, and a small test set may not meet it.
# Keeping DIV in float, by QuantizationDebugOptions(denylisted_ops=["DIV"]), mends it.
#
# tensorflow-cpu 2.21.0, Python 3.11. Output seen:
#   scale 0.2773, so the byte 0 is 35.50; refused: images of deviation 35.60 to 35.83, 3 of 601
#   with DIV in float: none refused
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import tensorflow as tf

noise = np.random.RandomState(0).uniform(-1, 1, [1, 24, 24, 3])


def image(contrast):
    return (128 + contrast * noise).astype(np.float32)


@tf.function(input_signature=[tf.TensorSpec([1, 24, 24, 3], tf.float32)])
def standardize(image):
    return {"out": tf.image.per_image_standardization(image)}


def calibration():
    return ([image(contrast)] for contrast in np.linspace(0, 120, 41))


def converter():
    made = tf.lite.TFLiteConverter.from_concrete_functions([standardize.get_concrete_function()])
    made.optimizations = [tf.lite.Optimize.DEFAULT]
    made.representative_dataset = calibration
    return made


def refused(interpreter):
    """Returns the deviations of the images that the model does not take."""
    found = []
    for contrast in np.linspace(0, 120, 601):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image(contrast))
        try:
            interpreter.invoke()
        except RuntimeError as error:
            assert "data[i] != 0 was not true" in str(error), error
            found.append(image(contrast).std())
    return found


def loaded(content):
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return interpreter


model = loaded(converter().convert())
(division,) = [op for op in model._get_ops_details() if op["op_name"] == "DIV"]
scale, zero_point = model._get_tensor_details(division["inputs"][1], 0)["quantization"]
middle = scale * (0 - zero_point)
found = refused(model)
assert zero_point == -128 and found and max(abs(deviation - middle) for deviation in found) < 2 * scale, (found, middle)
print(
    f"scale {scale:.4f}, so the byte 0 is {middle:.2f}; refused: images of deviation {min(found):.2f} to "
    f"{max(found):.2f}, {len(found)} of 601"
)
options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=["DIV"])
debugger = tf.lite.experimental.QuantizationDebugger(
    converter=converter(), debug_dataset=calibration, debug_options=options
)
assert not refused(loaded(debugger.get_nondebug_quantized_model()))
print("with DIV in float: none refused")
PYTHON
