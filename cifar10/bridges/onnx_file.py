"""The network as an ONNX graph, node by node, of operators that every runtime has: no decoding, no resizing.

A converter from TensorFlow's graph would take the resizing for another one in silence, and has no decoding at all.
"""

import numpy as np

from cifar10.bridges import parts
from cifar10.data.datasets import DEPTH
from cifar10.errors import RunError
from cifar10.network import layers

OPSET = 17  # of 2022
IR_VERSION = 8  # of the same time


def require():
    """Raises RunError if what `write` and `probabilities` need is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise RunError(f"--onnx: {error.name} is not installed; install it with pip install 'cifar10[onnx]'") from None


def write(path, weights, class_names):
    """Writes the network to a file.

    It takes `images`, uint8 [n, size, size, 3], and returns `probabilities`, float32 [n, classes], in the order of
    class_names, which are the metadata `classes`, a line each.

    Args:
      path: the file.
      weights: the parts.Weights.
      class_names: one name a class.
    """
    import onnx

    graph = _Graph(onnx, weights)
    graph.build()
    side = weights.image_size
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "cifar10",
            [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["n", side, side, DEPTH])],
            [onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["n", weights.num_classes])],
            graph.constants,
        ),
        producer_name="cifar10",
        ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )
    onnx.helper.set_model_props(model, {"classes": "\n".join(class_names)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def probabilities(path, images):
    """Returns what ONNX Runtime makes of the file at path: float32 [n, classes] of uint8 [n, size, size, 3]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"images": images})[0]


class _Graph:
    """Nodes and constants of the graph; each method adds some, and returns the name of what they compute."""

    def __init__(self, onnx, weights):
        self._onnx = onnx
        self._weights = weights
        self.nodes = []
        self.constants = []

    def build(self):
        # ONNX has its channels before height and width, NCHW; the weights of what follows want them last.
        x = self.node("Transpose", self.standardized(), perm=[0, 3, 1, 2])
        x = self.normalize(self.pool(self.convolve(x, "conv1")))
        x = self.pool(self.normalize(self.convolve(x, "conv2")))
        x = self.node("Transpose", x, perm=[0, 2, 3, 1])
        for layer in parts.DENSE_LAYERS:
            x = self.connect_locally(x, layer) if self._weights.is_local(layer) else self.connect(x, layer)
            if layer != parts.DENSE_LAYERS[-1]:
                x = self.node("Relu", x)
        self.node("Softmax", x, output="probabilities", axis=1)

    def node(self, kind, *inputs, output=None, **attributes):
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, name, value):
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def standardized(self):
        x = self.node("Cast", "images", to=self._onnx.TensorProto.FLOAT)
        if margin := self._weights.margin:
            first, end = (
                self.constant(f"crop_{name}", np.array([m, m])) for name, m in (("first", margin), ("end", -margin))
            )
            x = self.node("Slice", x, first, end, self.constant("crop_axes", np.array([1, 2])))
        x = self.node("Sub", x, self.node("ReduceMean", x, axes=[1, 2, 3]))
        deviation = self.node("Sqrt", self.node("ReduceMean", self.node("Mul", x, x), axes=[1, 2, 3]))
        return self.node(
            "Div", x, self.node("Max", deviation, self.constant("least", np.float32(self._weights.least_deviation)))
        )

    def convolve(self, x, layer):
        kernel, biases = self._weights.of(layer)
        margin = kernel.shape[0] // 2
        kernel = self.constant(f"{layer}/weights", kernel.transpose(3, 2, 0, 1))
        return self.node(
            "Relu", self.node("Conv", x, kernel, self.constant(f"{layer}/biases", biases), pads=[margin] * 4)
        )

    def pool(self, x):
        return self.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")

    def normalize(self, x):
        size = 2 * layers.LRN_RADIUS + 1  # by which ONNX, unlike tf.nn.lrn, divides alpha
        return self.node("LRN", x, size=size, alpha=size * layers.LRN_ALPHA, beta=layers.LRN_BETA, bias=1.0)

    def connect(self, x, layer):
        matrix, biases = (self.constant(f"{layer}/{i}", value) for i, value in enumerate(self._weights.of(layer)))
        return self.node("Gemm", self.node("Flatten", x, axis=1), matrix, biases)

    def connect_locally(self, x, layer):
        """At each place the product of the 3x3 pixels around it and its own weights: see layers.connect_locally."""
        kernels, biases = self._weights.of(layer)
        height, width = kernels.shape[:2]
        x = self.node("Pad", x, self.constant(f"{layer}/margins", np.array([0, 1, 1, 0, 0, 1, 1, 0])))
        axes = self.constant(f"{layer}/axes", np.array([1, 2]))
        neighbours = []
        for top, left in np.ndindex(3, 3):
            first = self.constant(f"{layer}/{top}{left}/first", np.array([top, left]))
            end = self.constant(f"{layer}/{top}{left}/end", np.array([top + height, left + width]))
            neighbours.append(self.node("Slice", x, first, end, axes))
        patches = self.node("Transpose", self.node("Concat", *neighbours, axis=3), perm=[1, 2, 0, 3])
        products = self.node("MatMul", patches, self.constant(f"{layer}/weights", kernels))
        products = self.node("Transpose", products, perm=[2, 0, 1, 3])
        return self.node("Add", products, self.constant(f"{layer}/biases", biases))
