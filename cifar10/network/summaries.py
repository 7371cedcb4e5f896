"""What TensorBoard shows, under which tag.

tf.summary prefixes every tag with the current name scope and makes it unique, which turns `conv1/activations` into
`conv1/conv1/activations` and `cross_entropy (raw)` into `cross_entropy__raw_`. The raw ops used here take the tag as
data, so a tag is what the caller wrote, whichever tower or scope it is called in. A tag that the graph has already, as
where a network is built twice, gets a suffix: two of a name cannot be merged. Summary kernels exist for CPUs only.
"""

import math
import re

import tensorflow.compat.v1 as tf

# A histogram takes about 40 ns a value on one core: half a second for all of them, every 100 steps. Of this many values
# and images (D16) it has the same shape.
MAX_HISTOGRAM_VALUES = 2**18
MAX_HISTOGRAM_IMAGES = 16

_TAGS = "tag: "  # no node's name has a space in it


def _summary(op, tag, tag_argument="tag", **inputs):
    name = re.sub(r"[^A-Za-z0-9_.\-]", "_", tag.rpartition("/")[2])  # of the graph node only
    with tf.device("/cpu:0"):
        summary = op(name=name, **{tag_argument: _unused(tag)}, **inputs)
    tf.add_to_collection(tf.GraphKeys.SUMMARIES, summary)
    return summary


def _unused(tag):
    """Returns the tag, or in a graph that has it already the tag with a suffix, `_1` and so on.

    The graph itself remembers, as it does for its nodes' names; under names that no node has. The names of the first
    level are kept from the nodes, too, because tf.summary makes tags of those.
    """
    graph = tf.get_default_graph()
    with tf.name_scope(None):
        unused = graph.unique_name(f"{_TAGS}{tag}").removeprefix(_TAGS)
        if "/" not in unused:
            graph.unique_name(unused)
    return unused


def scalar(tag, value):
    """Adds a scalar chart named `tag` (value: a scalar tensor); returns the serialized summary, a string."""
    return _summary(tf.raw_ops.ScalarSummary, tag, "tags", values=value)


def histogram(tag, values):
    """Adds a histogram named `tag` (values: any shape); returns the serialized summary, a string.

    Of more than MAX_HISTOGRAM_VALUES it takes an even sample: every k-th, k having no factor in common with the number
    of values, so that no row, column or channel is left out.
    """
    size = values.shape.num_elements() or 0
    if size > MAX_HISTOGRAM_VALUES:
        stride = next(k for k in range(-(-size // MAX_HISTOGRAM_VALUES), size) if math.gcd(k, size) == 1)
        values = tf.reshape(values, [-1])[::stride]
    return _summary(tf.raw_ops.HistogramSummary, tag, values=values)


def image(tag, images, max_outputs=3):
    """Adds images named `tag`/image/0… (images: [batch, height, width, 1, 3 or 4]); returns it serialized."""
    return _summary(tf.raw_ops.ImageSummary, tag, tensor=images, max_images=max_outputs)


def filters(tag, kernel):
    """Adds one image, `tag`/image, of a convolution's filters: a tile each, in which grey is 0.

    Args:
      tag: str.
      kernel: float32 [height, width, 1 or 3, filters]; its colours are the tile's.

    Returns:
      The serialized summary, a string.
    """
    height, width, depth, count = kernel.shape.as_list()
    columns = math.isqrt(count - 1) + 1
    rows = -(-count // columns)
    with tf.device("/cpu:0"), tf.name_scope("filters"):
        largest = tf.reduce_max(tf.abs(kernel))
        shades = tf.cast(tf.round(127.5 * (1.0 + tf.div_no_nan(kernel, largest))), tf.uint8)
        tiles = tf.pad(shades, [[0, 1], [0, 1], [0, 0], [0, rows * columns - count]], constant_values=255)
        tiles = tf.reshape(tiles, [height + 1, width + 1, depth, rows, columns])
        wall = tf.reshape(tf.transpose(tiles, [3, 0, 4, 1, 2]), [1, rows * (height + 1), columns * (width + 1), depth])
        return image(tag, wall, max_outputs=1)


def activation(layer, parts):
    """Adds `<layer>/activations` and `<layer>/sparsity` for a layer's output.

    They are the histogram of the first MAX_HISTOGRAM_IMAGES images and the fraction of zeros in all.

    Args:
      layer: str.
      parts: the output, as a list of tensors [images, ...] that together are the batch.
    """
    histogram(f"{layer}/activations", parts[0][:MAX_HISTOGRAM_IMAGES])
    # Not tf.nn.zero_fraction, whose tf.cond puts two functions a layer on the graph page.
    zeros = [tf.reduce_sum(tf.cast(tf.equal(part, 0), tf.float32)) for part in parts]
    sizes = [tf.cast(tf.size(part), tf.float32) for part in parts]
    scalar(f"{layer}/sparsity", tf.add_n(zeros) / tf.add_n(sizes))


def scalars(values):
    """Returns the tf.Summary of what is known outside of the graph: {tag: number}."""
    return tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])


def merged():
    """Merges the graph's summaries into one string tensor; of several towers only the first one's."""

    def shown(summary):
        tower = re.match(r"tower_(\d+)/", summary.op.name)
        return tower is None or tower[1] == "0"

    summaries = [s for s in tf.get_collection(tf.GraphKeys.SUMMARIES) if shown(s)]
    return tf.summary.merge(summaries, name="merged_summaries")
