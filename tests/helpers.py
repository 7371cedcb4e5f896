"""What several test files need: processes, training in this one, checkpoints, image files, the network in NumPy."""

import hashlib
import importlib
import io
import json
import os
import pathlib
import struct
import subprocess
import tempfile
import zlib

import forkserver
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
    "image_size": 24,
    "recipe": "tutorial",
    "num_held_out": 0,
    "lrn": "auto",
    "conv": "auto",
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


def run_graph(run, train_op, loss, validation=None, **options):
    """Trains what is no network, for five steps unless told otherwise, at a learning rate of 0.25."""
    graph = TrainingGraph(train_op, loss, tf.constant(0.25), tf.constant(0.0, tf.float64))
    options = RunOptions(run.train_dir, **{"max_steps": 5, **options})
    run.train(graph, steps.OneDevice(model.Network(), 1), options, validation=validation)


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


def write_images(data_dir, class_names, seed=0):
    """Writes what an import of images of noise, two of each class to train and one to test, writes.

    Returns:
      The sha256 of the file to train on.
    """
    folder = os.path.join(data_dir, datasets.IMAGES_FOLDER)
    os.makedirs(folder)
    manifest = {"class_names": class_names, "flip": True}
    for split, count in (("train", 2), ("test", 1)):
        labels = np.repeat(np.arange(len(class_names)), count)
        images = np.random.RandomState(seed).randint(0, 256, [len(labels), 32, 32, 3], dtype=np.uint8)
        content = datasets.encode(images, labels).tobytes()
        with open(os.path.join(folder, datasets.IMAGES_FILES[split]), "wb") as file:
            file.write(content)
        manifest[split] = {"records": len(labels), "sha256": hashlib.sha256(content).hexdigest()}
    with open(os.path.join(folder, datasets.MANIFEST), "w") as file:
        json.dump(manifest, file)
    return manifest["train"]["sha256"]


def run_python(*command, timeout=120, check=None, cwd=None, env=None):
    """Runs what stands behind `python`, but for the import of TensorFlow (see forkserver).

    Returns:
      The finished process.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, open(os.devnull) as nothing:
        with forkserver.Program(command, nothing, out, err, cwd, env) as program:
            program.wait(timeout)
        out.seek(0)
        err.seek(0)
        process = subprocess.CompletedProcess(command, program.returncode, out.read(), err.read())
    if check is not None:
        assert process.returncode == check, process.stdout + process.stderr
    return process


def run_script(name, *args, cwd="~", **options):
    """Runs scripts/<name>.py as a user would, from another folder; see run_python."""
    return run_python(SCRIPTS / f"{name}.py", *args, cwd=os.path.expanduser(cwd), **options)


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


def recorded_losses(train_dir):
    """Returns {step: loss}; a step that was trained twice keeps its last."""
    lines = (train_dir / history.METRICS).read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


def assert_product_of_speeds(line, expected):
    """Checks examples/sec times sec/batch on a console line, as far as their printed digits tell it."""
    examples_per_sec, sec_per_batch = float(line[3]), float(line[4])
    rounding = 0.0005 * examples_per_sec + 0.05 * sec_per_batch + 0.001
    assert abs(examples_per_sec * sec_per_batch - expected) <= rounding


def save_network(directory, steps, seed=3, averages_seed=None, num_classes=10):
    """Saves checkpoints of random weights, whose moving averages are other random weights, of each step's own seed."""
    directory.mkdir(exist_ok=True)
    with tf.Graph().as_default(), tf.Session() as session:
        model.Network(seed=seed, num_classes=num_classes)(tf.zeros([1, 24, 24, 3]))
        global_step = tf.train.get_or_create_global_step()
        averages = tf.train.ExponentialMovingAverage(0.5)
        averages.apply(tf.trainable_variables())
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(max_to_keep=0, save_relative_paths=True)

        def assign(variable, value):
            session.run(variable.initializer, {variable.initializer.inputs[1]: value})

        for step in steps:
            for variable in tf.trainable_variables():
                random = np.random.RandomState(step if averages_seed is None else averages_seed)
                assign(averages.average(variable), random.randn(*variable.shape.as_list()) * 0.05)
            assign(global_step, step)
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


def png(samples, kind, bits=8, interlaced=False, palette=b"", transparency=b""):
    """Returns a PNG file (ISO/IEC 15948) of kinds that Pillow does not write.

    Args:
      samples: integers [height, width, channels].
      kind: its colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha.
      bits: of a sample.
      interlaced: whether the rows come in Adam7's seven passes.
      palette, transparency: contents of the chunks PLTE and tRNS; left out where empty.
    """

    def rows(samples):
        height, width, channels = samples.shape
        if not samples.size:
            return b""
        planes = (samples.reshape(height, width * channels, 1) >> np.arange(bits)[::-1]) & 1
        packed = np.packbits(planes.reshape(height, -1).astype(np.uint8), axis=1)
        return np.pad(packed, [(0, 0), (1, 0)]).tobytes()  # each row begins with its filter, 0

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = passes if interlaced else [(0, 0, 1, 1)]
    height, width, _ = samples.shape
    data = b"".join(rows(samples[top::down, left::across]) for top, left, down, across in passes)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"tRNS", transparency), (b"IDAT", zlib.compress(data))]
    content = b"".join(chunk(name, content) for name, content in chunks if content)
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def gif(image, place=(0, 0), margin=(0, 0), **options):
    """Returns a GIF file whose frame lies at `place` (left, top) of a canvas with a `margin` (right, bottom) beside it.

    Args:
      image: PIL.Image of mode P.
      place, margin: pixels.
      options: of Pillow.
    """
    content = bytearray(encode(image, "GIF", **options))
    struct.pack_into("<HH", content, 6, *(sum(sizes) for sizes in zip(image.size, place, margin, strict=True)))
    start = 13 + 3 * 2 ** (content[10] % 8 + 1)
    struct.pack_into("<HH", content, content.index(b"\x2c\0\0\0\0", start) + 1, *place)
    return bytes(content)


def jpegs(image):
    """Returns {kind: JPEG file}; image: uint8 [height, width, 3]."""
    grey, other = Image.fromarray(image).convert("L"), Image.fromarray(image[::-1])
    return {
        "jpeg": encode(image, "JPEG", quality=60),
        "jpeg, progressive": encode(image, "JPEG", progressive=True, subsampling=2),
        "jpeg, 4:4:4": encode(image, "JPEG", subsampling=0),
        "jpeg, grey": encode(grey, "JPEG"),
        "jpeg, CMYK": encode(Image.fromarray(image).convert("CMYK"), "JPEG"),
        "jpeg, of two (MPO)": encode(image, "MPO", save_all=True, append_images=[other]),
    }


def lossless(image):
    """Returns {kind: (file, the pixels in it)} of what predict, import and an exported model read.

    Args:
      image: uint8 [height, width, 3].
    """
    height, width, _ = image.shape
    rng = np.random.RandomState(0)
    alpha = rng.randint(0, 256, [height, width, 1], dtype=np.uint8)
    low = rng.randint(0, 256, [height, width, 3], dtype=np.uint8)
    deep = image.astype(np.uint16) * 256 + low
    grey = image[..., :1]
    of_four = [[0, 0, 0], [250, 10, 99], [9, 200, 30], [1, 2, 255]]
    indices = image[..., :1] // 64
    four = Image.fromarray(indices[..., 0])
    four.putpalette(bytes(np.array(of_four, np.uint8)))
    few = np.array(of_four, np.uint8)[indices[..., 0]]
    many = palette(image)
    many_rgb = np.asarray(many.convert("RGB"))
    first, later = Image.fromarray(image), palette(image[::-1])
    with_margin = np.pad(few, [(2, 4), (3, 5), (0, 0)])  # of black, which is the first colour
    around = np.broadcast_to(np.uint8(of_four[2]), with_margin.shape).copy()
    around[2:-4, 3:-5] = few

    def threes(plane):
        return np.repeat(plane, 3, axis=-1)

    plte, trns = bytes(np.array(of_four, np.uint8)), bytes([0, 255, 99, 7])
    return {
        "png": (encode(image, "PNG"), image),
        "png, alpha": (encode(np.dstack([image, alpha]), "PNG"), image),
        "png, one transparent colour": (encode(image, "PNG", transparency=tuple(map(int, image[0, 0]))), image),
        "png, interlaced": (png(image, 2, interlaced=True), image),
        "png, 16 bits": (png(deep, 2, 16), image),
        "png, 16 bits, alpha": (png(np.dstack([deep, alpha]), 6, 16), image),
        "png, grey": (encode(grey[..., 0], "PNG"), threes(grey)),
        "png, grey, alpha": (png(np.dstack([grey, alpha]), 4), threes(grey)),
        "png, grey, 16 bits": (encode(deep[..., 0], "PNG"), threes(grey)),
        "png, grey, 16 bits, alpha": (png(np.dstack([deep[..., :1], alpha]), 4, 16), threes(grey)),
        "png, grey, 4 bits": (png(grey >> 4, 0, 4), threes(grey >> 4) * 17),
        "png, grey, 2 bits": (png(grey >> 6, 0, 2), threes(grey >> 6) * 85),
        "png, black and white": (png(grey >> 7, 0, 1), threes(grey >> 7) * 255),
        "png, palette": (encode(many, "PNG"), many_rgb),
        "png, palette, 2 bits": (png(indices, 3, 2, palette=plte), few),
        "png, palette, alpha": (png(indices, 3, 2, interlaced=True, palette=plte, transparency=trns), few),
        "png, animated": (encode(first, "PNG", save_all=True, append_images=[Image.fromarray(image[::-1])]), image),
        "bmp": (encode(image, "BMP"), image),
        "bmp, alpha": (encode(np.dstack([image, alpha]), "BMP"), image),
        "bmp, grey": (encode(grey[..., 0], "BMP"), threes(grey)),
        "bmp, palette": (encode(many, "BMP"), many_rgb),
        "gif": (encode(many, "GIF"), many_rgb),
        "gif, interlaced": (encode(four, "GIF", interlace=1), few),
        "gif, animated": (encode(many, "GIF", save_all=True, append_images=[later]), many_rgb),
        "gif, transparent": (encode(four, "GIF", transparency=2, optimize=False), few),
        "gif, margins": (gif(four, (3, 2), (5, 4), optimize=False), with_margin),
        "gif, transparent margins": (gif(four, (3, 2), (5, 4), transparency=2, optimize=False), around),
    }


def not_exported(image):
    """Returns the same of what predict and import read, but an exported model does not."""
    black_and_white = Image.fromarray(image).convert("1")
    alpha = np.random.RandomState(0).randint(1, 256, image.shape[:2], dtype=np.uint8)
    return {
        "webp": (encode(image, "WEBP", lossless=True), image),
        "webp, alpha": (encode(np.dstack([image, alpha]), "WEBP", lossless=True, exact=True), image),
        "bmp, black and white": (encode(black_and_white, "BMP"), np.asarray(black_and_white.convert("RGB"))),
    }


def bmp(bits, compression, palette, data):
    """Returns a BMP file (version 3) of 4x2 pixels: the lower row comes first, and rows fill whole words.

    Args:
      bits: of a pixel.
      compression: 0 none, 1 run lengths, 3 none, with masks in the palette's place.
      palette: bytes, four each: blue, green, red, 0.
      data: the rows.
    """
    header = struct.pack("<IIIHHIIIIII", 40, 4, 2, 1, bits, compression, len(data), 0, 0, len(palette) // 4, 0)
    offset = 54 + len(palette)
    return b"BM" + struct.pack("<III", offset + len(data), 0, offset) + header + palette + data


def _bmp_by_hand():
    palette = bytes([0, 0, 255, 0, 0, 255, 0, 0, 255, 20, 9, 0])
    three = np.uint8([(255, 0, 0), (0, 255, 0), (9, 20, 255)])[np.array([[0, 1, 2, 0], [1, 1, 1, 2]])]
    of_16_bits = np.array([[0x7C00, 0x03E0, 0x001F, 0x7C00]] * 2, "<u2")
    primaries = np.uint8([[(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 0)]] * 2)
    red_last = np.pad(three[::-1, :, ::-1], [(0, 0), (0, 0), (1, 0)])
    return {
        "bmp, 4 bits": (bmp(4, 0, palette, bytes([0x11, 0x12, 0, 0, 0x01, 0x20, 0, 0])), three),
        "bmp, run lengths": (bmp(8, 1, palette, bytes([3, 1, 1, 2, 0, 0, 1, 0, 1, 1, 1, 2, 1, 0, 0, 1])), three),
        "bmp, 16 bits": (bmp(16, 0, b"", of_16_bits.tobytes()), primaries),
        "bmp, masks": (bmp(32, 3, struct.pack("<III", 0xFF000000, 0xFF0000, 0xFF00), red_last.tobytes()), three),
    }


# {kind: (file, pixels)} of what predict and import read, but Pillow does not write and an exported model does not read.
BMP_BY_HAND = _bmp_by_hand()


FILES = {**{kind: file for kind, (file, _) in lossless(RGB).items()}, **jpegs(RGB)}


def exif(number, order="<"):
    """Returns Exif data that state an orientation; order: the byte order, < or >."""
    make = struct.pack(f"{order}HHI4s", 0x010F, 2, 4, b"abc\0")  # a tag before the one that counts
    entries = make + struct.pack(f"{order}HHIHH", 0x0112, 3, 1, number, 0)
    return struct.pack(f"{order}2sHIH", {"<": b"II", ">": b"MM"}[order], 42, 8, 2) + entries + bytes(4)


def with_exif(data, behind=b""):
    """Returns a JPEG file of RGB with Exif data.

    Args:
      data: the Exif data.
      behind: the segments that come before: none, as the standard has it, or JFIF's, as cameras write it, or others.
    """
    content = FILES["jpeg"]
    assert content[2:11] == b"\xff\xe0\x00\x10JFIF\0"
    return content[:2] + behind + struct.pack(">HH", 0xFFE1, 8 + len(data)) + b"Exif\0\0" + data + content[20:]


JFIF = FILES["jpeg"][2:20]


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
