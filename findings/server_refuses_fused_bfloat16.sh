#!/usr/bin/env bash
# A bfloat16 convolution with bias and ReLU runs in a tf.Session() on this CPU, and fails in a session with a
# tf.train.Server of the same process: the graph optimizer fuses the three to _FusedConv2D, whose registered types leave
# bfloat16 out. A local session rewrites the fused op to oneDNN's before anyone looks; a server's session sends the graph
# as a GraphDef first, which is validated. Turning the optimizer's remapping off is enough.
#
# tensorflow 2.21.0, x86-64 with AVX-512 and bfloat16 units (avx512_bf16). Seen:
#   local session: works; with a server: InvalidArgumentError; with a server, without remapping: works
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow==2.21.0
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig


def outcome(target, config):
    with tf.Graph().as_default(), tf.device("/cpu:0"):
        x = tf.placeholder(tf.bfloat16, [4, 8, 8, 3])
        kernel = tf.get_variable("kernel", [3, 3, 3, 16], use_resource=True)
        biases = tf.get_variable("biases", [16], use_resource=True)
        y = tf.nn.conv2d(x, tf.cast(kernel, tf.bfloat16), [1, 1, 1, 1], "SAME")
        y = tf.nn.relu(tf.nn.bias_add(y, tf.cast(biases, tf.bfloat16)))
        with tf.Session(target, config=config) as session:
            session.run(tf.global_variables_initializer())
            try:
                session.run(y, {x: np.zeros(x.shape.as_list(), x.dtype.as_numpy_dtype)})
                return "works"
            except tf.errors.OpError as error:
                return type(error).__name__


server = tf.train.Server.create_local_server()
unmapped = tf.ConfigProto()
unmapped.graph_options.rewrite_options.remapping = RewriterConfig.OFF
found = [outcome("", None), outcome(server.target, None), outcome(server.target, unmapped)]
print("local session: {}; with a server: {}; with a server, without remapping: {}".format(*found))
assert found == ["works", "InvalidArgumentError", "works"], "it is otherwise now"
PYTHON
