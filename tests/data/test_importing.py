"""The user's own pictures -> record files."""

import collections
import json
import os

import cifar10_import_images
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import evaluate, run_script, train
from PIL import Image

from cifar10.data import datasets, importing, records
from cifar10.errors import DataError
from cifar10.network import model

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def noise(seed, *shape):
    return np.random.RandomState(seed).randint(0, 256, shape or (32, 32, 3), dtype=np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def write_classes(folder, counts, first_seed=0):
    """Writes so many pictures of noise a class; returns {class name: [their pixels as bytes]}."""
    written = collections.defaultdict(list)
    for name, count in counts.items():
        for i in range(count):
            pixels = noise(first_seed)
            first_seed += 1
            save(folder / name / f"{i}.png", pixels)
            written[name].append(pixels.tobytes())
    return written


def run(data_dir, images_dir=None, csv=None, **options):
    """Runs the script in this process."""
    options = {"test_fraction": None, "seed": 0, "flip": True, **options}
    cifar10_import_images.run(images_dir=images_dir and str(images_dir), csv=csv, data_dir=str(data_dir), **options)


def load(data_dir, split):
    """Returns {class name: [pixels as bytes]} of an imported split."""
    dataset = datasets.named("images", str(data_dir))
    examples = records.load(dataset, str(data_dir), split)
    loaded = collections.defaultdict(list)
    for image, label in zip(examples.images, examples.labels, strict=True):
        loaded[dataset.class_names[label]].append(image.tobytes())
    return loaded


def refused(*args, **kwargs):
    """Returns the message with which the import refuses, which must be one line."""
    with pytest.raises(DataError) as caught:
        run(*args, **kwargs)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


@pytest.fixture
def pictures(tmp_path):
    return tmp_path / "pictures"


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


# --- from a folder to records ---


def test_a_folder_of_classes_comes_through_pixel_by_pixel(pictures, data_dir, capsys):
    written = write_classes(pictures, {"dog": 10, "cat": 15, "Zebra": 5})
    run(data_dir, pictures, test_fraction=0.2)
    assert datasets.named("images", data_dir).class_names == ("Zebra", "cat", "dog")
    train_split, test_split = load(data_dir, "train"), load(data_dir, "test")
    for name, pixels in written.items():
        assert sorted(train_split[name] + test_split[name]) == sorted(pixels)
        assert len(test_split[name]) == len(pixels) / 5
    folder = data_dir / "images-batches-bin"
    assert {path.name for path in folder.iterdir()} == {"train.bin", "test.bin", "batches.meta.txt", "images.json"}
    assert (folder / "batches.meta.txt").read_text() == "Zebra\ncat\ndog\n"
    assert (folder / "test.bin").stat().st_size == 6 * 3073
    assert capsys.readouterr().out == (
        f"3 classes, 24 pictures to train, 6 to test, in {folder}\n"
        f"Train on them with --dataset=images --data_dir={data_dir}\n"
    )


def test_folders_train_and_test_are_the_split(pictures, data_dir):
    train_split = write_classes(pictures / "train", {"cat": 3, "dog": 1})
    test_split = write_classes(pictures / "test", {"cat": 1, "dog": 4}, first_seed=100)
    run(data_dir, pictures)
    for split, written in (("train", train_split), ("test", test_split)):
        loaded = load(data_dir, split)
        assert {name: sorted(pixels) for name, pixels in loaded.items()} == {
            name: sorted(pixels) for name, pixels in written.items()
        }


@pytest.mark.parametrize(
    "names",
    [
        *(("train", name) for name in ("test", "validation", "val", "valid")),
        *(("Train", "Test"), ("training", "testing"), ("TRAIN", "Val")),
    ],
    ids="-".join,
)
def test_other_names_of_the_two_folders_are_the_split_not_two_classes(pictures, data_dir, names):
    train_split = write_classes(pictures / names[0], {"cat": 3, "dog": 1})
    test_split = write_classes(pictures / names[1], {"cat": 1, "dog": 2}, first_seed=100)
    run(data_dir, pictures)
    assert datasets.named("images", data_dir).class_names == ("cat", "dog")
    for split, written in (("train", train_split), ("test", test_split)):
        loaded = load(data_dir, split)
        assert {name: sorted(pixels) for name, pixels in loaded.items()} == {
            name: sorted(pixels) for name, pixels in written.items()
        }


def test_folders_train_and_test_without_folders_are_classes(pictures, data_dir):
    write_classes(pictures, {"train": 2, "test": 2, "tram": 2})
    run(data_dir, pictures)
    assert datasets.named("images", data_dir).class_names == ("test", "train", "tram")


def test_deeper_folders_belong_to_the_class_and_hidden_files_to_none(pictures, data_dir):
    written = write_classes(pictures, {"cat": 2, "dog/brown": 1, "dog/white/big": 1})
    write_classes(pictures, {".git": 1, "cat/.thumbnails": 1}, first_seed=50)
    (pictures / "cat" / "._0.png").write_bytes(b"not a picture")
    run(data_dir, pictures)
    loaded = load(data_dir, "train")["dog"] + load(data_dir, "test")["dog"]
    assert sorted(loaded) == sorted(written["dog/brown"] + written["dog/white/big"])
    assert sum(file["records"] for file in manifest_of(data_dir).values() if isinstance(file, dict)) == 4


def test_a_table_names_paths_and_labels(pictures, data_dir):
    written = write_classes(pictures, {"a": 3, "b": 2})
    lines = [f"a/{i}.png, {i}, kitten\n" for i in range(3)]
    lines += [f'{pictures / "b" / f"{i}.png"},{i},"dog, old"\n' for i in range(2)]
    table = pictures / "table.csv"
    table.write_text("\ufeffpath,id,label\n" + "".join(lines), encoding="utf-8")
    run(data_dir, csv=str(table))
    loaded = {name: load(data_dir, "train")[name] + load(data_dir, "test")[name] for name in ("kitten", "dog, old")}
    assert sorted(loaded["kitten"]) == sorted(written["a"])
    assert sorted(loaded["dog, old"]) == sorted(written["b"])


@pytest.mark.parametrize(("fraction", "counts"), [(0.0, (1, 1, 1)), (0.3, (1, 3, 30)), (1.0, (1, 9, 99))])
def test_every_class_is_in_both_files(pictures, fraction, counts):
    sources = [importing.Source(str(i), name) for name, n in zip("abc", (2, 10, 100), strict=True) for i in range(n)]
    split = importing._split(sources, ["a", "b", "c"], fraction, np.random.RandomState(0))
    chosen = collections.Counter(source.class_name for source in split if source.split == "test")
    assert tuple(chosen[name] for name in "abc") == counts


def test_one_seed_gives_one_set_of_files_and_another_another(pictures, tmp_path):
    write_classes(pictures, {"cat": 20, "dog": 20})
    for data_dir, seed in (("a", 7), ("b", 7), ("c", 8)):
        run(tmp_path / data_dir, pictures, seed=seed)
    a, b, c = ((tmp_path / name / "images-batches-bin" / "test.bin").read_bytes() for name in "abc")
    assert a == b != c


def test_classes_are_mixed_in_the_files(pictures, data_dir):
    """Evaluation takes the first --num_examples pictures, and a shuffling queue those that are near."""
    write_classes(pictures, {"cat": 60, "dog": 60})
    run(data_dir, pictures, test_fraction=0.5)
    labels = records.load(datasets.named("images", data_dir), data_dir, "test").labels
    assert 15 < np.count_nonzero(labels[1:] != labels[:-1]) < 45  # half of 59, give or take 3.8 by chance


@pytest.mark.parametrize("flip", [True, False])
def test_whether_training_may_mirror_them_is_remembered(pictures, data_dir, flip):
    write_classes(pictures, {"cat": 2, "dog": 2})
    run(data_dir, pictures, flip=flip)
    assert datasets.named("images", data_dir).flip is flip


# --- what is wrong with pictures ---


@pytest.mark.slow
def test_unreadable_pictures_are_named_up_to_a_bound_and_skipped(pictures, data_dir):
    write_classes(pictures, {"cat": 3, "dog": 3})
    for i in range(12):
        (pictures / "cat" / f"bad {i:02}.png").write_bytes(b"no picture")
    save(pictures / "dog" / "cut.jpg", noise(0, 99, 99, 3))
    os.truncate(pictures / "dog" / "cut.jpg", 4000)
    os.mkfifo(pictures / "dog" / "pipe.png")  # which nobody writes to
    (pictures / "dog" / "notes.txt").write_text("mine")
    process = run_script("cifar10_import_images", f"--images_dir={pictures}", f"--data_dir={data_dir}", check=0)
    ignored, *skipped, more, total, result, _ = process.stdout.splitlines()
    assert ignored == f"{pictures / 'dog' / 'notes.txt'}: ignored, not one of .bmp .gif .jpeg .jpg .png .webp"
    assert len(skipped) == 10 and more == "... and 4 more unreadable pictures"
    assert skipped[0] == (f"{pictures / 'cat' / 'bad 00.png'}: cannot be decoded (no JPEG, PNG, BMP, GIF or WebP file)")
    assert total == "14 of 20 pictures cannot be read and are left out"
    assert result.startswith("2 classes, 4 pictures to train, 2 to test, in ")


def test_same_pixels_are_reported_those_across_train_and_test_first(pictures, data_dir, capsys):
    for split, name, file, seed in [
        ("train", "cat", "1.png", 1),
        ("train", "cat", "2.bmp", 1),
        ("train", "cat", "3.png", 2),
        ("train", "dog", "1.png", 3),
        ("test", "cat", "1.png", 4),
        ("test", "dog", "1.png", 2),
        ("test", "dog", "2.png", 3),
    ]:
        save(pictures / split / name / file, noise(seed))
    run(data_dir, pictures)
    train_dir, test_dir = pictures / "train", pictures / "test"
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"{test_dir}/dog/1.png: same pixels as {train_dir}/cat/3.png (train and test, classes dog cat)",
        f"{test_dir}/dog/2.png: same pixels as {train_dir}/dog/1.png (train and test)",
        f"{train_dir}/cat/2.bmp: same pixels as {train_dir}/cat/1.png (train)",
        "3 pictures have the same pixels as another, 2 of them one to train and one to test; all are kept",
    ]
    assert sum(map(len, load(data_dir, "train").values())) == 4


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "{pictures}: holds no folder; make one for each class"),
        ({"cat": 2}, "Only the class 'cat' was found; a classifier needs at least two"),
        ({"cat": 2, "dog": 0}, "{pictures}/dog: holds no picture (.bmp .gif .jpeg .jpg .png .webp)"),
        ({"cat": 2, "dog": 1}, "Readable pictures of the class 'dog': 1 to train, 0 to test; each class"),
        ({"cat": 2, "dog\n": 2}, r"The class 'dog\n' has a character in its name that cannot be printed; rename it"),
        (
            {"cat": 2, "d\udcf6g": 2},
            r"The class 'd\udcf6g' has bytes in its name that are no UTF-8; rename it",
        ),
        ({"train/cat": 1, "test/cat": 1, "val/cat": 1}, "{pictures}: holds 'val' beside 'train' and 'test'"),
        ({"train/cat": 1, "val/cat": 1, "valid/cat": 1}, "{pictures}: holds 'valid' beside 'train' and 'val'"),
        ({"Train/cat": 1, "train/cat": 1, "test/cat": 1}, "{pictures}: holds 'train' beside 'Train' and 'test'"),
        ({"train/cat": 1, "val/cat": 1, "ship": 1}, "{pictures}: holds 'ship' beside 'train' and 'val'"),
        (
            {"train/cat": 1, "train/dog": 1},
            "{pictures}: holds 'train', which has folders itself, and no folder to test",
        ),
        ({"train/cat": 1, "ship": 1}, "{pictures}: holds 'train', which has folders itself, beside 'ship'"),
        ({"test/cat": 1, "val/cat": 1}, "{pictures}: holds 'test', which has folders itself, beside 'val'"),
        ({"train/cat": 1, "test": 1}, "{pictures}: 'train' has a folder per class, and 'test' has none; sort"),
        (
            {"train/cat": 1, "train/dog": 1, "test/dog": 1},
            "Readable pictures of the class 'cat': 1 to train, 0 to test; each class",
        ),
        ({str(i): 1 for i in range(257)}, "257 classes were found, but a label is one byte: give at most 256"),
    ],
)
def test_folders_that_make_no_data_set_are_refused(pictures, data_dir, counts, message):
    pictures.mkdir()
    for name, count in counts.items():
        (pictures / name).mkdir(parents=True)
        for i in range(count):
            save(pictures / name / f"{i}.png", noise(i, 1, 1, 3))
    assert refused(data_dir, pictures).startswith(message.format(pictures=pictures))
    assert not data_dir.exists()


def test_256_classes_fit(pictures, data_dir):
    names = [f"class {i:03}" for i in range(256)]
    write_classes(pictures, dict.fromkeys(names, 2))
    run(data_dir, pictures)
    assert datasets.named("images", data_dir).class_names == tuple(names)
    labels = records.load(datasets.named("images", data_dir), data_dir, "test").labels
    assert sorted(labels) == list(range(256))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "its first line lacks the column 'label'; it must be path,label"),
        (b"path,class\na.png,cat\n", "its first line lacks the column 'label'; it must be path,label"),
        (b"path,label\n", "lists no pictures"),
        (b"path,label\na.png,cat\n\nb.png\n", "line 4 lacks a path or a label; complete or remove it"),
        (b"path,label\na.png,\xff\n", "is not a CSV file in UTF-8 ("),
        (b'path,label\n"' + b"a" * 140_000 + b'",cat\n', "is not a CSV file in UTF-8 ("),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, data_dir, content, message):
    table = tmp_path / "table.csv"
    if content is not None:
        table.write_bytes(content)
    assert refused(data_dir, csv=str(table)).startswith(f"{table}: {message}")


def test_a_folder_that_cannot_be_read_is_not_left_out_in_silence(pictures, data_dir, monkeypatch):
    """Root may read any folder, so that the refusal is played."""
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    write_classes(pictures, {"cat": 2, "dog": 2, "dog/secret": 2})
    monkeypatch.setattr(os, "scandir", denied)
    assert refused(data_dir, pictures).startswith(f"{pictures}/dog/secret: cannot be read (Permission denied); ")


def test_files_that_a_table_lists_but_are_not_there_are_skipped(pictures, data_dir, capsys):
    write_classes(pictures, {"a": 2, "b": 2})
    table = pictures / "table.csv"
    lines = [f"{name}/{i}.png,{name}\n" for name in "ab" for i in range(3)]
    table.write_text("path,label\n" + "".join(lines))
    run(data_dir, csv=str(table))
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"{pictures}/a/2.png: cannot be read (No such file or directory)"


def test_a_folder_that_is_not_there_and_a_fraction_for_a_given_split_are_refused(pictures, data_dir):
    assert refused(data_dir, pictures).startswith(f"{pictures}: cannot be read (No such file or directory)")
    for split in datasets.SPLITS:
        write_classes(pictures / split, {"cat": 1, "dog": 1})
    assert refused(data_dir, pictures, test_fraction=0.5).startswith("--test_fraction=0.5: ")


# --- what is on the disk ---


def test_an_existing_data_set_is_never_replaced(pictures, data_dir):
    write_classes(pictures, {"cat": 2, "dog": 2})
    run(data_dir, pictures)
    folder = data_dir / "images-batches-bin"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert refused(data_dir, pictures, seed=9) == (
        f"{folder}: is there already; move it away, or choose another --data_dir"
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_import_that_breaks_off_leaves_nothing(pictures, data_dir, monkeypatch, error):
    def broken(path, content):
        raise error

    write_classes(pictures, {"cat": 2, "dog": 2})
    with monkeypatch.context() as patch:
        patch.setattr(importing, "_write", broken)
        with pytest.raises((DataError, KeyboardInterrupt)):
            run(data_dir, pictures)
    assert list(data_dir.iterdir()) == []
    run(data_dir, pictures)


def manifest_of(data_dir):
    return json.loads((data_dir / "images-batches-bin" / "images.json").read_text())


def test_damaged_data_sets_are_told_by_their_hashes(pictures, data_dir):
    write_classes(pictures, {"cat": 4, "dog": 4})
    run(data_dir, pictures)
    dataset = datasets.named("images", data_dir)
    folder = data_dir / "images-batches-bin"
    path = folder / "train.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{path}: expected sha256 \w+, found .*; move its folder away and import"):
        records.load(dataset, data_dir, "train")
    records.load(dataset, data_dir, "test")
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"^{path}: expected 6 records .*; move its folder away and import"):
        records.load(dataset, data_dir, "train")
    path.unlink()
    with pytest.raises(DataError, match=f"^Failed to find file: {path}; move its folder away and import"):
        datasets.named("images", data_dir)


@pytest.mark.parametrize("content", ["", "[]", '{"class_names": ["cat", "dog"]}', '{"class_names": 5}'])
def test_a_manifest_that_the_import_did_not_write_is_refused(data_dir, content):
    path = data_dir / "images-batches-bin" / "images.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(DataError, match=rf"^{path}: is not what the import wrote \(.*\); move its folder away"):
        datasets.named("images", data_dir)


def test_training_without_an_import_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"images\.json; import your pictures with cifar10_import_images\.py, or"):
        train(tmp_path / "data", tmp_path / "train", dataset="images", max_steps=1)
    assert not (tmp_path / "train").exists()


def test_a_data_dir_one_folder_too_deep_is_told(pictures, data_dir):
    write_classes(pictures, {"cat": 2, "dog": 2})
    run(data_dir, pictures)
    folder = data_dir / datasets.IMAGES_FOLDER
    with pytest.raises(DataError) as error:
        datasets.named("images", str(folder))
    assert str(error.value) == f"{folder}: holds the files themselves; --data_dir is the folder above, {data_dir}"


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_fraction_that_leaves_nothing_to_train_or_test_is_refused(pictures, data_dir, fraction):
    write_classes(pictures, {"cat": 9, "dog": 9})
    assert refused(data_dir, pictures, test_fraction=fraction).startswith(f"--test_fraction={fraction:g}: each class ")
    assert not data_dir.exists()


# --- the way to the network ---


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["dataset", "queue"])
def test_imported_pictures_train_and_evaluate_with_their_number_of_classes(pictures, tmp_path, pipeline, monkeypatch):
    """Three colours, of which a few steps learn enough to beat chance; either script builds as many logits."""
    widths = []

    def inference(*args, **kwargs):
        logits = network(*args, **kwargs)
        widths.append(logits.shape[1])
        return logits

    network = model.NETWORKS["tutorial"]
    monkeypatch.setitem(model.NETWORKS, "tutorial", inference)
    for i, (name, colour) in enumerate({"blue": BLUE, "green": GREEN, "red": RED}.items()):
        for j in range(20):
            pixels = np.clip(np.array(colour) * 0.6 + noise(100 * i + j) * 0.4, 0, 255).astype(np.uint8)
            save(pictures / name / f"{j}.png", pixels)
    data_dir, train_dir = tmp_path / "data", tmp_path / "train"
    run(data_dir, pictures, test_fraction=0.25)
    train(data_dir, train_dir, dataset="images", max_steps=30, input_pipeline=pipeline)
    shapes = tf.train.load_checkpoint(str(train_dir / "model.ckpt-30")).get_variable_to_shape_map()
    assert shapes["softmax_linear/weights"] == [192, 3] and shapes["softmax_linear/biases"] == [3]
    (result,) = evaluate(data_dir, train_dir, tmp_path / "eval", dataset="images", num_examples=None)
    assert result.total == 15 and result.correct > 10
    assert widths == [3, 3]


@pytest.mark.slow
def test_a_command_line_without_pictures_is_refused(tmp_path):
    process = run_script("cifar10_import_images", f"--data_dir={tmp_path}", check=1)
    assert "Exactly one of (images_dir, csv) must have a value other than None" in process.stdout + process.stderr
    assert "Traceback" not in process.stderr
