"""CIFAR-100 and SVHN: files of their true formats -> batches of images and labels."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import sys
import tarfile
import threading

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import custom_step, evaluate, lopsided, take, train

from cifar10 import cifar10_input
from cifar10.data import crops, datasets, download, records
from cifar10.data.source import Source
from cifar10.errors import DataError
from cifar10.network import recipes
from cifar10.runs import trainer
from cifar10.runs.run import RunOptions


def file_of(content, url):
    return datasets.Archive(url, len(content), hashlib.sha256(content).hexdigest())


# --- what is published ---


def test_cifar100_is_the_published_one():
    # https://github.com/tensorflow/datasets/blob/master/tensorflow_datasets/url_checksums/cifar100.txt
    archive = datasets.CIFAR100.archive
    assert archive.url == "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    assert archive.size == 168513733
    assert archive.sha256 == "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
    fine, coarse = datasets.CIFAR100, datasets.CIFAR100_COARSE
    assert (fine.num_classes, coarse.num_classes) == (100, 20)
    for dataset in (fine, coarse):
        assert dataset.record_bytes == 3074
        assert [dataset.num_examples(split) for split in datasets.SPLITS] == [50_000, 10_000]
        assert list(dataset.class_names) == sorted(set(dataset.class_names))  # as the official lists are
    # The first training image's labels are 19 and 11, the first test image's 49 and 10.
    assert (fine.class_names[19], coarse.class_names[11]) == ("cattle", "large_omnivores_and_herbivores")
    assert (fine.class_names[49], coarse.class_names[10]) == ("mountain", "large_natural_outdoor_scenes")


def test_svhn_is_the_published_one():
    # https://github.com/tensorflow/datasets/blob/master/tensorflow_datasets/url_checksums/svhn_cropped.txt
    assert [(file.url, file.size, file.sha256) for file in datasets.SVHN.mat_files] == [
        (
            "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
            182040794,
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        ),
        (
            "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
            64275384,
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        ),
    ]
    assert [datasets.SVHN.num_examples(split) for split in datasets.SPLITS] == [73257, 26032]
    assert datasets.SVHN.class_names == tuple("0123456789")


# --- CIFAR-100 ---


@pytest.fixture
def small_cifar100(tmp_path, monkeypatch):
    """Lays the archive of a small CIFAR-100 into tmp_path; returns its records, uint8 [N, 3074], by split."""
    random = np.random.RandomState(0)
    content = {split: random.randint(0, 256, [count, 3074], np.uint8) for split, count in (("train", 50), ("test", 20))}
    for part in content.values():
        part[:, 0] = random.permutation(len(part)) % 20
        part[:, 1] = 99 - random.permutation(len(part)) % 100
    members = {f"cifar-100-binary/{split}.bin": part.tobytes() for split, part in content.items()}
    members |= {
        "cifar-100-binary/fine_label_names.txt": b"apple\n",
        "cifar-100-binary/coarse_label_names.txt": b"fish\n",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    archive = file_of(buffer.getvalue(), "http://127.0.0.1:1/cifar-100-binary.tar.gz")
    (tmp_path / archive.filename).write_bytes(buffer.getvalue())
    for dataset in (datasets.CIFAR100, datasets.CIFAR100_COARSE):
        small = dataclasses.replace(
            dataset, archive=archive, train_files=(("train.bin", 50),), test_files=(("test.bin", 20),)
        )
        monkeypatch.setitem(datasets.ALL, dataset.name, small)
    return content


@pytest.mark.parametrize(("name", "byte"), [("cifar100", 1), ("cifar100_coarse", 0)])
def test_a_hand_placed_cifar100_has_fine_and_coarse_labels(small_cifar100, tmp_path, graph, name, byte):
    dataset = datasets.named(name, tmp_path)
    download.ensure(dataset, tmp_path)
    for split, content in small_cifar100.items():
        examples = records.load(dataset, tmp_path, split)
        np.testing.assert_array_equal(examples.labels, content[:, byte])
        for image, row, column, colour in ((0, 0, 0, 0), (17, 3, 30, 1), (19, 31, 31, 2)):
            expected = content[image, 2 + 1024 * colour + 32 * row + column]
            assert examples.images[image, row, column, colour] == expected
    queue = tf.train.string_input_producer(records.paths(dataset, tmp_path, "train"), shuffle=False)
    record = cifar10_input.read_cifar10(queue, dataset)
    for i, (label, image) in enumerate(take([record.label, record.uint8image], 3, queue=True)):
        assert list(label) == [small_cifar100["train"][i, byte]]
        planes = small_cifar100["train"][i, 2:].reshape(3, 32, 32)
        np.testing.assert_array_equal(image, planes.transpose(1, 2, 0))


def test_fine_and_coarse_share_files_and_lock(small_cifar100, tmp_path):
    for name in ("cifar100", "cifar100_coarse"):
        download.ensure(datasets.named(name, tmp_path), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"cifar-100-binary", ".cifar-100-binary.lock", "cifar-100-binary.tar.gz"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "classes"), [("cifar100", 100), ("cifar100_coarse", 20)])
def test_cifar100_trains_and_evaluates(small_cifar100, tmp_path, name, classes):
    train(tmp_path, tmp_path / "run", dataset=name, max_steps=2)
    shapes = tf.train.load_checkpoint(str(tmp_path / "run" / "model.ckpt-2")).get_variable_to_shape_map()
    assert shapes["softmax_linear/weights"] == [192, classes]
    (result,) = evaluate(tmp_path, tmp_path / "run", tmp_path / "eval", dataset=name, num_examples=None)
    assert result.total == 20


def test_a_label_that_cifar100_does_not_have_is_refused(small_cifar100, tmp_path):
    dataset = datasets.named("cifar100_coarse", tmp_path)
    download.ensure(dataset, tmp_path)
    small_cifar100["train"][4, 0] = 20
    small_cifar100["train"].tofile(records.paths(dataset, tmp_path, "train")[0])
    with pytest.raises(DataError, match="record 4 has label 20, expected 0 to 19"):
        records.load(dataset, tmp_path, "train")


# --- SVHN ---


@pytest.fixture
def small_svhn(tmp_path, monkeypatch):
    """Makes a small SVHN, whose files are at `site`; returns (site, {split: images, y})."""
    matlab = pytest.importorskip("scipy.io")
    site = tmp_path / "site"
    site.mkdir()
    content, files = {}, []
    for split, count in (("train", 40), ("test", 20)):
        images, y = lopsided(count), np.arange(count, dtype=np.uint8)[:, None] % 10 + 1
        path = site / f"{split}_32x32.mat"
        matlab.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": y}, do_compression=True)
        content[split] = images, y
        files.append(file_of(path.read_bytes(), f"http://127.0.0.1:1/{path.name}"))
    small = dataclasses.replace(
        datasets.SVHN, mat_files=tuple(files), train_files=(("train.bin", 40),), test_files=(("test.bin", 20),)
    )
    monkeypatch.setitem(datasets.ALL, "svhn", small)
    return site, content


@pytest.fixture
def no_retries(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 0.0)


@pytest.fixture
def svhn_dir(small_svhn, tmp_path):
    """A data_dir with the MATLAB files in it, as a user would put them there."""
    small_svhn[0].rename(tmp_path / "data")
    return tmp_path / "data"


def test_hand_placed_matlab_files_become_records(small_svhn, svhn_dir, capsys):
    dataset = datasets.named("svhn", svhn_dir)
    download.ensure(dataset, svhn_dir)
    folder = svhn_dir / "svhn-batches-bin"
    assert capsys.readouterr().out == f"Converting the svhn data set to {folder}\n"
    assert {path.name for path in folder.iterdir()} == {"train.bin", "test.bin"}
    for split, (images, _) in small_svhn[1].items():
        examples = records.load(dataset, svhn_dir, split)
        np.testing.assert_array_equal(examples.images, images)
        # y runs 1, 2, … 10, 1, …, where 10 means the digit 0.
        assert [dataset.class_names[label] for label in examples.labels[:11]] == list("12345678901")
    (svhn_dir / "train_32x32.mat").unlink()
    download.ensure(dataset, svhn_dir)  # what is converted stays
    assert capsys.readouterr().out == ""


@contextlib.contextmanager
def served(folder):
    """Yields the URL of a server of the files in a folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("mirror", [True, False])
def test_matlab_files_are_downloaded_and_verified(small_svhn, tmp_path, monkeypatch, mirror):
    monkeypatch.setenv("no_proxy", "*")
    site, content = small_svhn
    dataset = datasets.named("svhn", tmp_path)
    with served(site) as url:
        if not mirror:
            files = tuple(dataclasses.replace(file, url=f"{url}/{file.filename}") for file in dataset.mat_files)
            dataset = dataclasses.replace(dataset, mat_files=files)
        download.ensure(dataset, tmp_path / "data", url=f"{url}/" if mirror else None)
        np.testing.assert_array_equal(records.load(dataset, tmp_path / "data", "test").images, content["test"][0])
        (site / "test_32x32.mat").write_bytes((site / "train_32x32.mat").read_bytes())
        with pytest.raises(DataError, match=rf"^Cannot download {url}/test_32x32.mat: got \d+ bytes, sha256"):
            download.ensure(dataset, tmp_path / "other", url=url)
    assert not (tmp_path / "other" / "svhn-batches-bin").exists()


def test_without_a_network_the_message_names_the_file_to_place(small_svhn, tmp_path, no_retries):
    with pytest.raises(DataError, match=r"By hand: put train_32x32\.mat \(\d+ bytes, sha256 \w+\) into "):
        download.ensure(datasets.named("svhn", tmp_path), tmp_path / "data")


def test_one_hash_for_two_files_is_refused(small_svhn, svhn_dir):
    with pytest.raises(DataError, match=r"^svhn comes in 2 files, which one sha256 cannot verify$"):
        download.ensure(datasets.named("svhn", svhn_dir), svhn_dir, sha256="0" * 64)


def test_without_scipy_one_line_says_how_to_get_it_before_any_download(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    monkeypatch.setattr(download, "_download", lambda *_: pytest.fail("downloads"))
    with pytest.raises(
        DataError, match=r"^--dataset=svhn needs scipy \(.*\); install it: pip install 'cifar10\[svhn\]'$"
    ):
        download.ensure(datasets.SVHN, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MATLAB 5.0 MAT-file, but that is all", "cannot be read: "),
        ({"X": lopsided(40).transpose(1, 2, 3, 0)}, "cannot be read: 'y'; another file is needed"),
        (
            {"X": lopsided(39).transpose(1, 2, 3, 0), "y": np.ones([39, 1], np.uint8)},
            "has uint8 X [32, 32, 3, 39] and y [39, 1], expected uint8 X [32, 32, 3, 40] and y [40, 1] from 1 to 10",
        ),
        ({"X": lopsided(40).transpose(1, 2, 3, 0), "y": np.zeros([40, 1], np.uint8)}, "has uint8 X [32, 32, 3, 40]"),
        (
            {"X": lopsided(40).transpose(1, 2, 3, 0), "y": np.ones([39, 1], np.uint8)},
            "has uint8 X [32, 32, 3, 40] and y [39, 1]",
        ),
        ({"X": lopsided(40), "y": np.ones([40, 1], np.uint8)}, "has uint8 X [40, 32, 32, 3]"),
    ],
)
def test_other_matlab_files_are_refused(small_svhn, svhn_dir, content, message):
    path = svhn_dir / "train_32x32.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pytest.importorskip("scipy.io").savemat(path, content)
    dataset = datasets.named("svhn", svhn_dir)
    files = (file_of(path.read_bytes(), dataset.mat_files[0].url), dataset.mat_files[1])
    with pytest.raises(DataError) as caught:
        download.ensure(dataclasses.replace(dataset, mat_files=files), svhn_dir)
    assert str(caught.value).startswith(f"{path} {message}")
    assert len(str(caught.value).splitlines()) == 1
    assert not (svhn_dir / "svhn-batches-bin").exists()


# --- flips ---


def fraction_mirrored(images):
    """Returns the fraction of lopsided images whose left half is brighter, a scalar tensor."""
    left, right = tf.split(images, 2, axis=2)
    mirrored = tf.reduce_mean(left, axis=[1, 2, 3]) > tf.reduce_mean(right, axis=[1, 2, 3])
    return tf.reduce_mean(tf.cast(mirrored, tf.float32))


@pytest.mark.parametrize(("flip", "low", "high"), [(True, 0.4, 0.6), (False, 0.0, 0.0)])
def test_flips_can_be_switched_off(graph, flip, low, high):
    examples = records.Examples(lopsided(200), np.zeros(200, np.int32))
    images, _ = cifar10_input.distorted_inputs(examples, 200, 0, distortions=crops.Distortions(flip=flip))
    fractions = take(fraction_mirrored(images), 3)
    assert low <= min(fractions) <= max(fractions) <= high


def test_without_flips_all_other_distortions_are_the_same(graph):
    step, kinds = tf.constant(7, tf.int64), [crops.Distortions(flip=flip) for flip in (True, False)]
    draws = [crops.draw(3, step, 50, kind) for kind in kinds]
    ((top, left, _, *colours), (same_top, same_left, flips, *same_colours)) = take(draws, 1)[0]
    for one, same in zip((top, left, *colours), (same_top, same_left, *same_colours), strict=True):
        np.testing.assert_array_equal(one, same)
    assert not flips.any()


@pytest.mark.parametrize("pipeline", ["dataset", "queue"])
@pytest.mark.parametrize(("flip", "low", "high"), [(False, 0.0, 0.0), (True, 0.2, 0.8)])
def test_training_on_digits_never_mirrors_them(small_svhn, svhn_dir, tmp_path, monkeypatch, pipeline, flip, low, high):
    """The loss of this training is the fraction of mirrored images in its batch."""
    if flip:  # as other data sets are, so that the test can tell
        monkeypatch.setitem(datasets.ALL, "svhn", dataclasses.replace(datasets.ALL["svhn"], flip=True))

    step = custom_step(
        lambda images, labels, global_step: (tf.assign_add(global_step, 1), fraction_mirrored(images)), 40
    )
    data = trainer.TrainingData(Source(datasets.ALL["svhn"], str(svhn_dir)), pipeline=pipeline)
    options = RunOptions(str(tmp_path / "run"), max_steps=4, log_frequency=1)
    trainer.train(step, data, recipes.TUTORIAL, options)
    with open(tmp_path / "run" / "metrics.jsonl") as lines:
        losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 4 and low <= min(losses) <= max(losses) <= high
