"""Runs a script that was written for TensorFlow 1 or 0.x, untouched: python -m cifar10.v1 SCRIPT --its_flags

In the script and in what it imports, `tensorflow` is TensorFlow 1's interface to today's library, in graph mode, with
those of the removed names that forks of the tutorial use: see ADDED. The tutorial's modules are there as in its folder
(`import cifar10_input`) and as they once came with TensorFlow (`from tensorflow.models.image.cifar10 import cifar10`).
A module of such a name beside the script goes before them. In a folder with a cifar10.py of its own Python would take
that for this package: start the script from another folder, or with python -P -m cifar10.v1.
"""

import builtins
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import runpy
import sys
import sysconfig
import types

import numpy as np
import tensorflow as tensorflow2
import tensorflow.compat.v1 as tf

from cifar10 import cifar10_input, flags
from cifar10.errors import UserError
from cifar10.network import summaries

PACKAGE = sys.modules["cifar10"]
HOME = os.path.realpath(os.path.dirname(PACKAGE.__path__[0]))  # the folder that the package is in
USAGE = "usage: python -m cifar10.v1 SCRIPT [ARGUMENTS OF THE SCRIPT]"


# --- what TensorFlow had, and has no more ---


def _reordered(function, old, renamed=types.MappingProxyType({})):
    """Returns a function that takes its arguments in the order of TensorFlow 0.x, too, where a number came first.

    Args:
      function: of today.
      old: names of its parameters of today, in the order of 0.x.
      renamed: {name of 0.x: name of today}.
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        named = {renamed.get(name, name): value for name, value in kwargs.items()}
        if args and isinstance(args[0], int | np.integer):
            return function(**dict(zip(old, args, strict=False)), **named)
        return function(*args, **named)

    return call


def _cross_entropy(function):
    """Returns a function that takes logits and labels by position, too, as TensorFlow 0.x did."""

    @functools.wraps(function)
    def call(logits=None, labels=None, name=None, **others):
        return function(labels=labels, logits=logits, name=name, **others)

    return call


def _random_crop(image, size, seed=None, name=None):
    """Takes [height, width], too, as tf.image.random_crop did."""
    return tf.random_crop(image, [*size, image.shape[-1]] if len(size) < image.shape.rank else size, seed, name)


def _scalar_summary(tags, values, name=None):
    return summaries.scalar(tags, values)


def _histogram_summary(tag, values, name=None):
    return summaries.histogram(tag, tf.convert_to_tensor(values))


def _image_summary(tag, tensor, max_images=3, name=None):
    return summaries.image(tag, tensor, max_images)


def _prefetch_queue(tensors, capacity=8, num_threads=1, name=None):
    """Returns a queue that a thread keeps filled with the values of a list of tensors."""
    queue = tf.FIFOQueue(capacity, [t.dtype for t in tensors], [t.shape for t in tensors], name=name)
    tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue(tensors)] * num_threads))
    return queue


def _xavier_initializer(uniform=True, seed=None, dtype=tf.float32):
    return _variance_scaling_initializer(1.0, "FAN_AVG", uniform, seed, dtype)


def _variance_scaling_initializer(factor=2.0, mode="FAN_IN", uniform=False, seed=None, dtype=tf.float32):
    distribution = "uniform" if uniform else "truncated_normal"
    return tf.variance_scaling_initializer(factor, mode.lower(), distribution, seed, dtype)


def _l2_regularizer(scale):
    return lambda weights: scale * tf.nn.l2_loss(weights)


def _flatten(inputs):
    inputs = tf.convert_to_tensor(inputs)
    return tf.reshape(inputs, [-1, inputs.shape[1:].num_elements()])


_SUMMARIES = {
    "scalar_summary": _scalar_summary,
    "histogram_summary": _histogram_summary,
    "image_summary": _image_summary,
    "merge_summary": tf.summary.merge,
    "merge_all_summaries": tf.summary.merge_all,
}

# {part of TensorFlow: {name: what it is}}: names that are no more, and those whose arguments were others.
ADDED = {
    "": {
        **_SUMMARIES,
        "batch_matmul": tf.matmul,
        "complex_abs": tf.abs,
        "concat": _reordered(tf.concat, ("axis", "values", "name"), {"concat_dim": "axis"}),
        "concat_v2": tf.concat,
        "inv": tf.reciprocal,
        "mul": tf.multiply,
        "neg": tf.negative,
        "pack": tf.stack,
        "select": tf.where,
        "split": _reordered(
            tf.split,
            ("axis", "num_or_size_splits", "value", "name"),
            {"split_dim": "axis", "num_split": "num_or_size_splits"},
        ),
        "sub": tf.subtract,
        "unpack": tf.unstack,
    },
    "image": {"per_image_whitening": tf.image.per_image_standardization, "random_crop": _random_crop},
    "nn": {
        name: _cross_entropy(getattr(tf.nn, name))
        for name in (
            "sigmoid_cross_entropy_with_logits",
            "softmax_cross_entropy_with_logits",
            "sparse_softmax_cross_entropy_with_logits",
        )
    },
    "train": {"SummaryWriter": tf.summary.FileWriter},
    "contrib": {},
    "contrib.deprecated": _SUMMARIES,
    "contrib.framework": {
        "get_global_step": tf.train.get_global_step,
        "get_or_create_global_step": tf.train.get_or_create_global_step,
    },
    "contrib.layers": {
        "flatten": _flatten,
        "l2_regularizer": _l2_regularizer,
        "variance_scaling_initializer": _variance_scaling_initializer,
        "xavier_initializer": _xavier_initializer,
        "xavier_initializer_conv2d": _xavier_initializer,
    },
    "contrib.slim": {"flatten": _flatten, "l2_regularizer": _l2_regularizer},
    "contrib.slim.prefetch_queue": {"prefetch_queue": _prefetch_queue},
}

# The packages in which the tutorial came with TensorFlow.
PACKAGES = ("models.image.cifar10", "models.tutorials.image.cifar10")


class _Part(types.ModuleType):
    """A part of TensorFlow: its added names, and else those of today's modules, the first of them that has it."""

    def __init__(self, name, modules, added):
        super().__init__(name, doc=f"{name}, as scripts for TensorFlow 1 know it.")
        self.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
        self.__path__ = [path for module in modules for path in getattr(module, "__path__", [])]
        self._modules = modules
        self.__dict__.update(added)

    def __getattr__(self, name):
        for module in self._modules:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(
            f"{self.__name__}.{name}: neither is it in today's TensorFlow, nor does cifar10.v1 have it"
        )


def _parts():
    """Returns {name of a module: _Part} of all of ADDED and of PACKAGES, and of the packages that they are in."""
    tutorial = {"cifar10": PACKAGE, "cifar10_input": cifar10_input}
    added = {**ADDED, **dict.fromkeys(PACKAGES, tutorial)}
    for name in list(added):
        while name := name.rpartition(".")[0]:
            added.setdefault(name, {})
    parts = {}
    for name in sorted(added):  # a package before what is in it
        path = f"tensorflow.{name}".rstrip(".")
        module = getattr(tf, name, None) if name else tf
        modules = [module] if module else []
        parts[path] = _Part(path, modules if name else [tf, tensorflow2], added[name])
        if name:
            outer, _, last = path.rpartition(".")
            setattr(parts[outer], last, parts[path])
    return parts


# --- the tutorial's folder ---


class _Evaluation(importlib.machinery.SourceFileLoader):
    """Loads cifar10_eval.py, and defines its flags, as importing the tutorial's did."""

    def exec_module(self, module):
        super().exec_module(module)
        flags.define_data_flags()
        module.define_flags()


class _Folder(importlib.abc.MetaPathFinder):
    """Finds the tutorial's modules at the top level, where no others of their names are found."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "cifar10_input":
            return importlib.util.spec_from_loader(fullname, _Alias())
        if fullname == "cifar10_eval":
            for folder in (os.path.join(HOME, "scripts"), sysconfig.get_path("scripts")):
                file = os.path.join(folder, f"{fullname}.py")
                if os.path.isfile(file):
                    return importlib.util.spec_from_file_location(fullname, file, loader=_Evaluation(fullname, file))
        return None


class _Alias(importlib.abc.Loader):
    """Gives cifar10.cifar10_input itself, so that what a fork sets in it counts."""

    def create_module(self, spec):
        return cifar10_input

    def exec_module(self, module):
        pass


def install():
    """Lets this process's `import tensorflow` mean TensorFlow 1, and `import cifar10_input` the tutorial's module."""
    tf.disable_v2_behavior()
    builtins.xrange = range  # of Python 2, which forks that are Python 3 otherwise still call
    sys.modules.update(_parts())
    sys.meta_path.append(_Folder())


def _make_way(folder):
    """Leaves its name to a fork's own module cifar10 beside the script, and its flags, which that defines itself."""
    if os.path.exists(os.path.join(folder, "cifar10.py")) or os.path.isdir(os.path.join(folder, "cifar10")):
        print(f"cifar10.v1: the script has a cifar10 of its own in {folder}, and uses that", file=sys.stderr)
        for name in [name for name in sys.modules if name == "cifar10" or name.startswith("cifar10.")]:
            del sys.modules[name]
        flags.undefine()


def main(argv):
    """Runs the script argv[0], with argv as its command line."""
    if not argv:
        sys.exit(USAGE)
    script = argv[0]
    if not os.path.isfile(script):
        sys.exit(f"cifar10.v1: {script}: is no file; {USAGE}")
    folder = os.path.realpath(os.path.dirname(os.path.abspath(script)))
    sys.argv[:] = argv
    if getattr(sys.flags, "safe_path", False):  # of Python 3.11, where nothing stands for the current folder
        sys.path.insert(0, folder)
    else:
        sys.path[0] = folder
    install()
    if folder != HOME:
        _make_way(folder)
    try:
        runpy.run_path(script, run_name="__main__")
    except UserError as error:
        sys.exit(f"{os.path.basename(script)}: {error}")
    except SyntaxError as error:
        line = "" if error.lineno is None else f", line {error.lineno}"  # of a file that is no text there is none
        sys.exit(
            f"cifar10.v1: {error.filename or script}{line}: {error.msg}; if that is Python 2, convert it first, "
            "for instance with 2to3"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
