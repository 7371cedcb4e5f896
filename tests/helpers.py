"""What several test files need: processes, training in this one, checkpoints, image files, the network in NumPy."""

import importlib
import io
import json
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import published
import tensorflow.compat.v1 as tf
from PIL import Image

from cifar10.data import datasets, records
from cifar10.network import model, steps
from cifar10.runs import checkpoints, history
from cifar10.runs.run import RunOptions, TrainingGraph

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"


# The flags with which most tests train: few small steps, each with its line.
TRAIN_FLAGS = {
    "dataset": "synthetic",
    "data_url": None,
    "data_sha256": None,
    "batch_size": 16,
    "use_fp16": False,
    "input_pipeline": "dataset",
    "min_fraction_of_examples_in_queue": 0.4,
    "restart": False,
    "model": "tutorial",
    "recipe": "tutorial",
    "num_held_out": 0,
    "lrn": "auto",
    "microbatch_size": 8,
    "seed": 0,
    "log_device_placement": False,
    "log_frequency": 1,
}


EVAL_FLAGS = {
    "dataset": "synthetic",
    "data_url": None,
    "data_sha256": None,
    "batch_size": 128,
    "use_fp16": False,
    "eval_data": "test",
    "num_examples": 200,
    "views": "1",
    "model": None,
    "use_moving_averages": True,
    "eval_interval_secs": 0,
    "run_once": True,
}


def train(data_dir, train_dir, script="cifar10_train", **flags):
    """Runs a training script in this process."""
    values = {**TRAIN_FLAGS, "data_dir": str(data_dir), "train_dir": str(train_dir), **flags}
    importlib.import_module(script).run(**values)


def arguments(data_dir, train_dir, **flags):
    """Returns the command-line arguments of what `train` does."""
    values = {**TRAIN_FLAGS, "data_dir": data_dir, "train_dir": train_dir, **flags}
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def run_graph(run, train_op, loss, **options):
    """Trains what is no network for five steps, at a learning rate of 0.25."""
    graph = TrainingGraph(train_op, loss, tf.constant(0.25), tf.constant(0.0, tf.float64))
    options = RunOptions(run.train_dir, max_steps=5, **options)
    run.train(graph, steps.OneDevice(model.Network(), 1), options)


def custom_step(build, batch_size=1):
    """Returns a Step that build(images, labels, global_step) -> (train op, loss) builds in the place of the network."""

    class Custom(steps.OneDevice):
        def build(self, images, labels, recipe, global_step, learning_rate):
            return build(images, labels, global_step)

    return Custom(model.Network(), batch_size)


def evaluate(data_dir, checkpoint_dir, eval_dir, **flags):
    """Runs the evaluation script in this process; returns its results."""
    directories = {"data_dir": data_dir, "checkpoint_dir": checkpoint_dir, "eval_dir": eval_dir}
    values = {**EVAL_FLAGS, **{name: str(path) for name, path in directories.items()}, **flags}
    return importlib.import_module("cifar10_eval").run(**values)


def write_noise(dataset, data_dir, seed=0):
    """Writes a data set's files: labels in turn, and images of noise."""
    rng = np.random.RandomState(seed)
    os.makedirs(dataset.path(data_dir), exist_ok=True)
    for split in datasets.SPLITS:
        for path, (_, count) in zip(records.paths(dataset, data_dir, split), dataset.files(split), strict=True):
            data = rng.randint(0, 256, [count, datasets.RECORD_BYTES], dtype=np.uint8)
            data[:, 0] = np.arange(count) % dataset.num_classes
            data.tofile(path)


def run_script(name, *args, timeout=120, check=None):
    """Runs scripts/<name>.py as a user would, from another folder; returns the finished process."""
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, args)]
    process = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=os.path.expanduser("~"), env=environment()
    )
    if check is not None:
        assert process.returncode == check, process.stdout + process.stderr
    return process


def environment():
    """Returns the environment in which scripts find the package of this tree."""
    return {**os.environ, "PYTHONPATH": str(SCRIPTS.parent), "TF_CPP_MIN_LOG_LEVEL": "2"}


def take(tensors, batches, queue=False):
    """Returns the values of `tensors` for the first batches."""
    with tf.Session() as session:
        if queue:
            coordinator = tf.train.Coordinator()
            threads = tf.train.start_queue_runners(session, coordinator)
        values = [session.run(tensors) for _ in range(batches)]
        if queue:
            coordinator.request_stop()
            session.run([runner.queue.close(True) for runner in tf.get_collection(tf.GraphKeys.QUEUE_RUNNERS)])
            coordinator.join(threads)
    return values


def lopsided(count):
    """Returns noise, uint8 [count, 32, 32, 3], whose right half is brighter, in any crop of 24x24, too."""
    images = np.random.RandomState(0).randint(0, 60, [count, 32, 32, 3], dtype=np.uint8)
    images[:, :, 16:] += 180
    return images


def losses(train_dir):
    """Returns {step: loss}; a step that was trained twice keeps its last."""
    lines = (train_dir / history.METRICS).read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def assert_product_of_speeds(line, expected):
    """Checks examples/sec times sec/batch on a console line, as far as their printed digits tell it."""
    examples_per_sec, sec_per_batch = float(line[3]), float(line[4])
    rounding = 0.0005 * examples_per_sec + 0.05 * sec_per_batch + 0.001
    assert abs(examples_per_sec * sec_per_batch - expected) <= rounding


def save_network(directory, steps, seed=3):
    """Saves checkpoints of random weights, whose moving averages are other random weights."""
    directory.mkdir(exist_ok=True)
    with tf.Graph().as_default(), tf.Session() as session:
        model.Network(seed=seed)(tf.zeros([1, 24, 24, 3]))
        global_step = tf.train.get_or_create_global_step()
        averages = tf.train.ExponentialMovingAverage(0.5)
        averages.apply(tf.trainable_variables())
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(max_to_keep=0, save_relative_paths=True)
        for step in steps:
            for variable in tf.trainable_variables():
                average = averages.average(variable)
                noise = np.random.RandomState(step).randn(*variable.shape.as_list()) * 0.05
                session.run(tf.assign(average, noise))
            session.run(global_step.assign(step))
            saver.save(session, str(directory / "model.ckpt"), global_step=step)


def final(train_dir):
    """Returns {name: value} of the newest checkpoint."""
    reader = tf.train.load_checkpoint(checkpoints.paths(str(train_dir))[-1])
    assert reader.get_variable_to_shape_map() == published.CHECKPOINT
    return {name: reader.get_tensor(name) for name in published.CHECKPOINT}


def assert_equal_to_the_last_bit(values, expected):
    for name, value in values.items():
        if not name.endswith("/avg"):  # of the losses, of which a mean of means may round
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def scene(height, width, seed=0):
    """An image with smooth and sharp parts, uint8 [height, width, 3]."""
    small = np.random.RandomState(seed).randint(0, 256, [6, 6, 3], dtype=np.uint8)
    pixels = np.array(Image.fromarray(small).resize((width, height), Image.BICUBIC))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = [250, 10, 99]
    return pixels


def encode(image, kind, **options):
    """Returns the bytes of a file that Pillow writes; image: an array or a PIL.Image."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def lanczos(size, new_size):
    """Returns the weights, [new_size, size], with which pixels add up to those of a resized line: the textbook's."""
    scale = size / new_size
    centers = (np.arange(new_size)[:, None] + 0.5) * scale
    distance = (np.arange(size) + 0.5 - centers) / max(scale, 1.0)
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def resized(image, size):
    """Resizes in NumPy, in float64; returns uint8 [size, size, 3]."""
    height, width, _ = image.shape
    values = np.einsum("ih,hwc,jw->ijc", lanczos(height, size), image.astype(np.float64), lanczos(width, size))
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def central_square(image):
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def palette(image):
    return Image.fromarray(image).convert("P", palette=Image.ADAPTIVE, colors=200)


RGB = scene(30, 40)


GREY = Image.fromarray(RGB).convert("L")


FILES = {
    "png": encode(RGB, "PNG"),
    "png, palette": encode(palette(RGB), "PNG"),
    "png, grey": encode(GREY, "PNG"),
    "png, black and white": encode(Image.fromarray(RGB).convert("1"), "PNG"),
    "jpeg": encode(RGB, "JPEG", quality=60),
    "jpeg, progressive": encode(RGB, "JPEG", progressive=True, subsampling=2),
    "jpeg, grey": encode(GREY, "JPEG"),
    "jpeg, CMYK": encode(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "bmp": encode(RGB, "BMP"),
    "bmp, grey": encode(GREY, "BMP"),
    "bmp, palette": encode(palette(RGB), "BMP"),
    "gif": encode(palette(RGB), "GIF"),
    "gif, animated": encode(palette(RGB), "GIF", save_all=True, append_images=[palette(scene(30, 40, seed=1))]),
}


def with_orientation(number, order, first=True):
    """Returns a JPEG file of RGB that states its orientation.

    Args:
      number: the orientation.
      order: the byte order of the Exif segment, < or >.
      first: whether that is the file's first segment, as the standard has it, or follows JFIF's, as cameras write it.
    """
    make = struct.pack(f"{order}HHI4s", 0x010F, 2, 4, b"abc\0")  # a tag before the one that counts
    entries = make + struct.pack(f"{order}HHIHH", 0x0112, 3, 1, number, 0)
    tiff = struct.pack(f"{order}2sHIH", {"<": b"II", ">": b"MM"}[order], 42, 8, 2) + entries + bytes(4)
    exif = struct.pack(">HH", 0xFFE1, 2 + 6 + len(tiff)) + b"Exif\0\0" + tiff
    content = FILES["jpeg"]
    assert content[2:11] == b"\xff\xe0\x00\x10JFIF\0"
    return content[:2] + exif + content[20:] if first else content[:20] + exif + content[20:]


def convolve(x, kernel):
    """5x5 convolution, stride 1, zero padding, in NumPy."""
    padded = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])
    patches = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
    return np.einsum("nhwcij,ijcf->nhwf", patches, kernel)


def pool(x):
    """3x3 max pooling of stride 2; SAME padding of an even size puts it all at the end."""
    padded = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(4, 5))


def normalize(x):
    """Local response normalization over 9 channels, as cuda-convnet's text defines it."""
    squares = np.pad(x**2, [(0, 0)] * 3 + [(4, 4)])
    sums = np.lib.stride_tricks.sliding_window_view(squares, 9, axis=3).sum(axis=4)
    return x * (1.0 + 0.001 / 9.0 * sums) ** -0.75


def network(x, v):
    """The network in NumPy, float64."""
    norm1 = normalize(pool(np.maximum(convolve(x, v["conv1/weights"]) + v["conv1/biases"], 0)))
    conv2 = np.maximum(convolve(norm1, v["conv2/weights"]) + v["conv2/biases"], 0)
    flat = pool(normalize(conv2)).reshape(len(x), -1)
    local3 = np.maximum(flat @ v["local3/weights"] + v["local3/biases"], 0)
    local4 = np.maximum(local3 @ v["local4/weights"] + v["local4/biases"], 0)
    return local4 @ v["softmax_linear/weights"] + v["softmax_linear/biases"]
