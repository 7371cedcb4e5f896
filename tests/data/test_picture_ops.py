"""Files' bytes -> the network's input as graph ops, which must equal what import and prediction read."""

import io
import itertools

import cifar10_import_images
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import (
    BMP_BY_HAND,
    FILES,
    JFIF,
    RGB,
    central_square,
    encode,
    exif,
    gif,
    jpegs,
    lossless,
    not_exported,
    resized,
    scene,
    with_exif,
)
from PIL import Image, ImageOps

from cifar10 import cifar10_input, exporting, serving
from cifar10.data import crops, datasets, picture_ops, pictures, records


def decoder():
    """Returns a function that decodes files' bytes by the graph."""
    with tf.Graph().as_default() as graph:
        content = tf.placeholder(tf.string, [])
        image = picture_ops.decode(content)
    session = tf.Session(graph=graph)
    return lambda one: session.run(image, {content: one})


@pytest.fixture(scope="module")
def decode():
    return decoder()


@pytest.mark.parametrize(
    ("height", "width"), [(32, 32), (1, 1), (5, 7), (31, 33), (24, 24), (200, 300), (301, 200), (1, 500)]
)
def test_an_image_of_any_size_is_cropped_and_resized_as_numpy_does(graph, height, width):
    image = scene(height, width)
    pixels = tf.placeholder(tf.uint8, [None, None, 3])
    outputs = [picture_ops.fit(pixels, crop) for crop in ("central", "whole")]
    assert [output.shape.as_list() for output in outputs] == [[32, 32, 3], [24, 24, 3]]
    with tf.Session() as session:
        central, whole = session.run(outputs, {pixels: image})
        batch = session.run(picture_ops.fit(tf.constant(image[np.newaxis]), "central"))
    for ours, expected in ((central, resized(central_square(image), 32)), (whole, resized(image, 24))):
        difference = np.abs(ours.astype(int) - expected)
        assert ours.dtype == np.uint8 and difference.max() <= 1 and difference.mean() < 1e-3
    np.testing.assert_array_equal(batch[0], central)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_a_32x32_image_reaches_the_network_as_in_evaluation_to_the_last_bit(graph, noise, kind, tmp_path):
    """From a file through the graph, and read by pictures."""
    labels = np.zeros(20, np.int32)
    images = cifar10_input.inputs(True, records.Examples(noise.images[:20], labels), 20)[0]
    contents = tf.placeholder(tf.string, [])
    ours = picture_ops.fit(picture_ops.decode(contents), "central")
    batch = tf.placeholder(tf.uint8, [20, 32, 32, 3])
    with tf.Session() as session:
        files = [encode(image, kind) for image in noise.images[:20]]
        values = np.stack([session.run(ours, {contents: file}) for file in files])
        np.testing.assert_array_equal(values, noise.images[:20])
        expected, actual = session.run([images, crops.central_crop(batch)], {batch: values})
    np.testing.assert_array_equal(expected, actual)
    for file, image in zip(files, noise.images, strict=False):
        (tmp_path / "file").write_bytes(file)
        np.testing.assert_array_equal(pictures.load(str(tmp_path / "file")), image)


def test_decoding_gives_the_pixels_that_are_in_the_file_to_the_last_bit(decode):
    for kind, (file, pixels) in lossless(RGB).items():
        np.testing.assert_array_equal(decode(file), pixels, kind)


def test_decoding_jpeg_equals_pillow_to_the_last_bit(decode):
    for kind, content in jpegs(RGB).items():
        expected = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
        np.testing.assert_array_equal(decode(content), expected, kind)


def test_a_gif_whose_first_frame_is_smaller_than_a_later_one_is_read_on_its_canvas(decode):
    """TensorFlow takes the largest frame for the canvas; the first has margins, a palette and a comment of its own."""
    small, large = (Image.fromarray(scene(*size)[..., 0] // 32) for size in ((20, 30), (40, 50)))
    for image in (small, large):
        image.putpalette(bytes(np.random.RandomState(0).randint(0, 256, 24, dtype=np.uint8)))
    first = gif(small, (4, 6), (16, 14), comment=b"x" * 300, transparency=5, optimize=False)
    later = encode(large, "GIF")
    start = 13 + 3 * 2 ** (later[10] % 8 + 1)
    content = first[:-1] + later[start:]  # without the trailer of the one, and without the header of the other
    image = Image.open(io.BytesIO(content))
    assert image.size == (50, 40) and image.n_frames == 2
    image.seek(0)
    ours = decode(content)
    np.testing.assert_array_equal(ours, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(ours[6:26, 4:34], np.asarray(small.convert("RGB")))


@pytest.mark.parametrize("behind", [b"", JFIF, JFIF + b"\xff\xfe\0\5abc\xff\xff\xff\xed\0\4ab"])
def test_a_jpeg_is_turned_as_its_exif_orientation_says(decode, behind):
    """The Exif segment is the first; or follows JFIF's; or a comment, bytes to fill with and another segment, too."""
    for case in itertools.product(range(10), "<>"):
        file = with_exif(exif(*case), behind)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
        assert expected.size == ((30, 40) if case[0] in (5, 6, 7, 8) else (40, 30))
        np.testing.assert_array_equal(decode(file), np.array(expected), str(case))


@pytest.mark.parametrize("is_before", [True, False])
def test_a_png_is_turned_as_its_exif_orientation_says_before_or_behind_the_pixels(decode, is_before):
    for number in range(10):
        file = encode(RGB, "PNG", exif=exif(number))
        begin = file.index(b"eXIf") - 4
        chunk = file[begin : file.index(b"IDAT") - 4]
        if not is_before:
            file = file[:begin] + file[begin + len(chunk) : -12] + chunk + file[-12:]
        np.testing.assert_array_equal(decode(file), ImageOps.exif_transpose(Image.open(io.BytesIO(file))), str(number))


def test_damaged_exif_turns_nothing_and_stops_nothing(decode):
    rng = np.random.RandomState(0)
    whole = exif(6)
    cut = [whole[:length] for length in range(3, 31)]  # the number is at 30
    wrong = [rng.bytes(n) for n in range(0, 200, 5)]
    high = [order + b"\xff" * 40 for order in (b"II", b"MM")]
    endless = [b"II*\0\x08\0\0\0\xff\xff"]
    with tf.Graph().as_default(), tf.Session() as session:
        content = tf.placeholder(tf.string, [])
        orientation = picture_ops.orientation(content, 0, tf.strings.length(content))
        assert session.run(orientation, {content: whole}) == 6
        for damaged in [*cut, *wrong, *high, *endless, *FILES.values()]:
            assert not 2 <= session.run(orientation, {content: damaged}) <= 8, damaged
    for data in (b"", whole[:20], *high, *endless):
        np.testing.assert_array_equal(decode(with_exif(data)), decode(FILES["jpeg"]))


REFUSED = {
    "empty": b"",
    "text": b"hello, world",
    "one byte": b"B",
    "jpeg, its first bytes only": b"\xff\xd8\xff",
    "jpeg, cut": FILES["jpeg"][:-300],
    "png, cut": FILES["png"][:-100],
    "gif, cut": FILES["gif"][:-100],
    "bmp, cut": FILES["bmp"][:-100],
    "tiff": encode(RGB, "TIFF"),
    **{kind: content for kind, (content, _) in {**not_exported(RGB), **BMP_BY_HAND}.items()},
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_decoded_is_an_error(decode, kind):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(REFUSED[kind])


def test_too_many_pixels_are_refused_before_they_are_decoded(decode, monkeypatch):
    """As many as RGB has are taken, and one row more is not; of a GIF the canvas counts."""
    more = np.pad(RGB, [(0, 1), (0, 0), (0, 0)])
    monkeypatch.setattr(picture_ops, "MAX_PIXELS", RGB.shape[0] * RGB.shape[1])
    bounded = decoder()
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
        assert bounded(encode(RGB, kind)).shape == RGB.shape
        assert decode(encode(more, kind)).shape == more.shape
        with pytest.raises(tf.errors.InvalidArgumentError, match="pixels; make it smaller"):
            bounded(encode(more, kind))
    with pytest.raises(tf.errors.InvalidArgumentError, match="pixels; make it smaller"):
        bounded(gif(Image.fromarray(RGB).quantize(8), margin=(0, 1)))


class PixelsAsProbabilities(serving.TrainedNetwork):
    """A network that gives the pixels which it is shown, of all that Predictor and export bring before it."""

    def probabilities(self, images, microbatch_size=0, conv="auto"):
        return tf.cast(tf.reshape(images, [-1, 32 * 32 * 3]), tf.float32)

    def restore(self, session):
        pass


@pytest.mark.slow
def test_import_prediction_and_export_see_the_same_pixels(tmp_path):
    """Within one grey level, of each kind, in several sizes, and with each orientation."""
    sizes = [(32, 32), (7, 5), (24, 31), (61, 100), (150, 90)]
    files = {}
    for size in sizes:
        image = scene(*size)
        kinds = {**{kind: content for kind, (content, _) in lossless(image).items()}, **jpegs(image)}
        files.update({f"{kind} {size}": content for kind, content in kinds.items()})
    for kind in ("JPEG", "PNG"):
        prefix = b"Exif\0\0" if kind == "JPEG" else b""
        for number in range(1, 9):
            files[f"{kind}, orientation {number}"] = encode(scene(40, 61), kind, exif=prefix + exif(number))
    assert len(files) > 180

    # Import: each file a class of its own, to train and to test, so that the labels tell which is which.
    names = list(files)
    paths = [tmp_path / "train" / f"{i:03}" / "file.png" for i in range(len(files))]
    for path, content in zip(paths, files.values(), strict=True):
        for split in datasets.SPLITS:
            copy = tmp_path / split / path.parent.name / path.name
            copy.parent.mkdir(parents=True)
            copy.write_bytes(content)
    (tmp_path / "pictures").mkdir()
    for split in datasets.SPLITS:
        (tmp_path / split).rename(tmp_path / "pictures" / split)
    paths = [tmp_path / "pictures" / path.relative_to(tmp_path) for path in paths]
    cifar10_import_images.run(
        images_dir=str(tmp_path / "pictures"), csv=None, data_dir=str(tmp_path), test_fraction=None, seed=0, flip=True
    )
    examples = records.load(datasets.named("images", str(tmp_path)), str(tmp_path), "train")
    imported = examples.images[np.argsort(examples.labels)].astype(int)
    assert len(imported) == len(files)

    network = PixelsAsProbabilities("", tuple(str(i) for i in range(32 * 32 * 3)))
    results = serving.Predictor(network, batch_size=50).predict(map(str, paths))
    predicted = np.stack([pixels for _, pixels in results]).reshape(imported.shape)
    exporting.export(network, str(tmp_path / "export"))
    signature = tf.compat.v2.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    answer = signature(image_bytes=tf.constant(list(files.values())))
    order = np.argsort(answer["classes"].numpy().astype(int), axis=1)  # the export has the largest first
    exported = np.take_along_axis(answer["probabilities"].numpy(), order, axis=1).reshape(imported.shape)

    np.testing.assert_array_equal(predicted, imported)
    for name, one, other in zip(names, imported, exported, strict=True):
        assert np.abs(one - other).max() <= 1, name
