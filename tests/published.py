"""Names and figures of the tutorial that more than one test needs."""

# The ten variables and their shapes.
VARIABLES = {
    "conv1/weights": [5, 5, 3, 64],
    "conv1/biases": [64],
    "conv2/weights": [5, 5, 64, 64],
    "conv2/biases": [64],
    "local3/weights": [2304, 384],
    "local3/biases": [384],
    "local4/weights": [384, 192],
    "local4/biases": [192],
    "softmax_linear/weights": [192, 10],
    "softmax_linear/biases": [10],
}
LOSSES = ["local3/weight_loss", "local4/weight_loss", "cross_entropy", "total_loss"]

# What a checkpoint holds, and nothing else.
CHECKPOINT = {
    "global_step": [],
    **VARIABLES,
    **{f"{name}/ExponentialMovingAverage": shape for name, shape in VARIABLES.items()},
    **{f"{loss}/avg": [] for loss in LOSSES},
}

LAYERS = ["conv1", "conv2", "local3", "local4", "softmax_linear"]
HISTOGRAMS = {
    *(f"{layer}/activations" for layer in LAYERS),
    *VARIABLES,
    *(f"{name}/gradients" for name in VARIABLES),
}
SCALARS = {
    "learning_rate",
    *(f"{layer}/sparsity" for layer in LAYERS),
    *LOSSES,
    *(f"{loss} (raw)" for loss in LOSSES),
}
IMAGES = {"images"}

CONSOLE_LINE = (
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: step (\d+), loss = (\d+\.\d\d) "
    r"\((\d+\.\d) examples/sec; (\d+\.\d{3}) sec/batch\)$"
)
PRECISION_LINE = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: precision @ 1 = (\d\.\d{3})$"
