"""Files and variables of any content: each is either right, or told in one line; no traceback, no wait, nothing lost.

All cases are made here, from tables and from a generator with a seed, and run through the functions that read them.
"""

import dataclasses
import datetime
import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys

import pytest
import tensorflow.compat.v1 as tf
from forkserver import environment
from helpers import SCRIPTS, run_script, save_network, write_images, write_noise

from cifar10 import errors, evaluation, flags, serving, settings
from cifar10.cluster import members
from cifar10.data import datasets, importing, pictures, records
from cifar10.errors import UserError
from cifar10.machine import ports, terminal
from cifar10.runs import checkpoints, fitting, history
from cifar10.runs.run import Run

DEEP = "[" * 100_000 + "]" * 100_000
NUMBERS = [-1, 0.5, 10**12, 10**19, 10**400, float("inf"), float("nan"), True, "7", "²", [7], {"n": 7}]
TEXTS = ["", "mnist", "\ud800", "\x1b[31mred", "a\nb", 5, 1.5, True, ["cifar10"], {"a": 1}]
HASH = "0" * 64

# {field of a run's record: values that no training writes there}.
WRONG_IN_RECORD = {
    "event": [5, True, ["start"], {}, None, "a\nb"],
    "time": [*TEXTS, "now", "2026-01-31", "2026-01-31T12:00:00", "2026-13-31T12:00:00+00:00", "\uff12026-01-31"],
    "dataset": TEXTS,
    "model": TEXTS,
    "recipe": TEXTS,
    "lrn": TEXTS,
    "conv": TEXTS,
    "use_fp16": [0, 1, "true", [], {}],
    "batch_size": [*NUMBERS, 0],
    "max_steps": [number for number in NUMBERS if number != 10**12],
    "num_held_out": NUMBERS,
    "seed": NUMBERS,
    "classes": [5, "cat", {}, [], ["cat", 5], ["cat", "\x1b[31mred"], ["\udcff"], ["a\nb"], [["cat"]], ["x"] * 257],
    "image_size": [*NUMBERS, 0, 33],
    "hyper_parameters": [5, [], {}, "a\nb"],
    "changed": [
        *(5, "momentum 0.5", [], {"speed": 1}, {"jitter": 1}, {"random_crops": "no"}),
        *({"learning_rate": number} for number in NUMBERS if number != 0.5),
        *({"frozen": layer} for layer in [*TEXTS, "softmax_linear"]),
    ],
    "init_from": [5, ["a"], {}, "a\nb"],
    "data": [5, "hash", [], {"train.bin": 5}, {"train.bin": None}, {"train.bin": "a\nb"}],
}
# {field of the manifest: values that no import writes there}.
SPLIT = [{"records": number, "sha256": HASH} for number in [*NUMBERS[:2], *NUMBERS[3:], 0]]
SPLIT += [5, "x", [], {}, {"records": 1}, {"sha256": HASH}, {"records": 1, "sha256": 5}, {"records": 1, "sha256": "ab"}]
WRONG_IN_MANIFEST = {
    "class_names": [
        5,
        "cat",
        {},
        [],
        ["cat"],
        ["cat", 5],
        ["cat", "cat"],
        ["a", "\x1b[0m"],
        ["a", "\udcff"],
        ["x"] * 300,
    ],
    "flip": [0, 1, "true", [], {}, None],
    "train": SPLIT,
    "test": SPLIT,
}
NO_JSON = [
    b"{",
    b"nonsense",
    b"\xff\xfe\x00",
    b"\x00" * 100,
    DEEP.encode(),
    b'{"a": ' * 50_000,
    b"1" * 5000,
    b"[1, 2]",
    b"5",
]
IN_METRICS = {"step": 1, "images": "test", "precision": 0.5, "correct": 1, "of": 2}
WRONG_IN_METRICS = [{"step": "1"}, {"images": 5}, {"images": "a\nb"}, {"correct": -1}, {"of": 0}, {"of": None}]
OF_CONSOLE = {"time": "2026-01-31T12:00:00+00:00", "step": 1, "loss": 2.5}
WRONG_OF_CONSOLE = [
    *({"loss": value} for value in (None, True, "2.5", [2.5], float("nan"), float("inf"), 10**400)),
    *({"step": value} for value in (None, -1, 0.5, "1", 10**19)),
    *({"time": value} for value in (None, 5, "", "now", "2026-01-31T12:00:00", "a\nb")),
]
NO_STEPS = ["²", "٣", "10000000000000000000000", "-5", "007", "5.0", "1e3", "", "x", "5 ", "\uff15"]
WORKERS = {"worker": ["a:1", "b:1"]}


def told(error):
    """Asserts that an error is one line of bounded length, which any console can show."""
    text = str(error)
    assert len(text.splitlines()) == 1 and text.isprintable() and len(text) < 1000
    return text


def tree(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_record(folder, line):
    """Writes a record whose second line is the start that counts."""
    content = b'{"event": "stop"}\n' + (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n"
    (folder / history.RECORD).write_bytes(content)


def write_manifest(folder, **changes):
    split = {"records": 4, "sha256": HASH}
    manifest = {"class_names": ["cat", "dog"], "flip": True, "train": split, "test": split, **changes}
    path = folder / datasets.IMAGES_FOLDER
    path.mkdir(exist_ok=True)
    (path / datasets.MANIFEST).write_text(json.dumps(manifest))
    for name in datasets.IMAGES_FILES.values():
        (path / name).write_bytes(b"")
    return path / datasets.MANIFEST


@pytest.mark.parametrize("field", WRONG_IN_RECORD)
def test_a_field_of_the_record_that_no_training_writes_is_named_with_its_line(tmp_path, field):
    for value in WRONG_IN_RECORD[field]:
        write_record(tmp_path, {"event": "start", field: value})
        before = tree(tmp_path)
        with pytest.raises(UserError) as error:
            history.identity(str(tmp_path)) if field == "time" else history.recorded(str(tmp_path), field)
        assert told(error.value).startswith(f"{tmp_path / history.RECORD}: line 2: '{field}' is "), value
        assert tree(tmp_path) == before


@pytest.mark.parametrize("content", NO_JSON, ids=range(len(NO_JSON)))
def test_a_line_of_the_record_that_is_no_json_object_is_named(tmp_path, content):
    write_record(tmp_path, content)
    for read in (
        lambda: history.recorded(str(tmp_path), "dataset"),
        lambda: history.is_final(str(tmp_path), 5),
        lambda: history.identity(str(tmp_path)),
        lambda: settings.continued({"restart": False, "train_dir": str(tmp_path)}, set()),
        lambda: serving.class_names(None, str(tmp_path), str(tmp_path / "model.ckpt-5")),
    ):
        with pytest.raises(UserError) as error:
            read()
        assert told(error.value).startswith(f"{tmp_path / history.RECORD}: line 2 is no")


@pytest.mark.parametrize("content", [b"", b'{"event": "start", "datas', b"\0" * 300])
def test_a_record_that_was_emptied_is_not_taken_for_none(tmp_path, content):
    """As a machine that lost its power leaves it: the run would go on as the tutorial's, on other images."""
    (tmp_path / history.RECORD).write_bytes(content)
    assert history.recorded(str(tmp_path), "dataset") is None  # it may have just begun
    (tmp_path / "model.ckpt-5.index").write_bytes(b"")
    with pytest.raises(UserError, match=r"runs\.jsonl: has no whole line, though there are checkpoints; restore it"):
        history.recorded(str(tmp_path), "dataset")
    (tmp_path / history.RECORD).unlink()
    assert history.recorded(str(tmp_path), "dataset") is None


@pytest.mark.parametrize("step", NUMBERS)
def test_the_step_of_a_runs_end_is_checked(tmp_path, step):
    (tmp_path / history.RECORD).write_text(
        json.dumps({"event": "stop", "reason": history.FINISHED, "step": step}) + "\n"
    )
    if step == 10**12:
        assert not history.is_final(str(tmp_path), 5)
        return
    with pytest.raises(UserError) as error:
        history.is_final(str(tmp_path), 5)
    assert told(error.value).startswith(f"{tmp_path / history.RECORD}: line 1: 'step' is ")


@pytest.mark.parametrize("content", NO_JSON + WRONG_IN_METRICS, ids=range(len(NO_JSON + WRONG_IN_METRICS)))
def test_metrics_that_no_training_writes_are_told(tmp_path, content):
    line = content if isinstance(content, bytes) else json.dumps({**IN_METRICS, **content}).encode()
    (tmp_path / history.METRICS).write_bytes(b'{"step": 1, "loss": 2.5}\n' + line + b"\n")
    with pytest.raises(UserError) as error:
        history.evaluations(str(tmp_path))
    assert told(error.value).startswith(f"{tmp_path / history.METRICS}: line 2")


@pytest.mark.parametrize("content", NO_JSON + WRONG_OF_CONSOLE, ids=range(len(NO_JSON + WRONG_OF_CONSOLE)))
def test_console_lines_that_no_training_writes_are_told(tmp_path, content):
    """As the benchmark and the comparison read them."""
    line = content if isinstance(content, bytes) else json.dumps({**OF_CONSOLE, **content}).encode()
    good = json.dumps(OF_CONSOLE).encode()
    (tmp_path / history.METRICS).write_bytes(good + b"\n" + json.dumps(IN_METRICS).encode() + b"\n")
    noon = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)
    assert history.console_lines(str(tmp_path)) == {1: (2.5, noon)}
    (tmp_path / history.METRICS).write_bytes(good + b"\n" + line + b"\n")
    with pytest.raises(UserError) as error:
        history.console_lines(str(tmp_path))
    assert told(error.value).startswith(f"{tmp_path / history.METRICS}: line 2")


@pytest.mark.parametrize("field", WRONG_IN_MANIFEST)
def test_a_field_of_the_manifest_that_no_import_writes_is_named(tmp_path, field):
    for value in WRONG_IN_MANIFEST[field]:
        path = write_manifest(tmp_path, **{field: value})
        before = tree(tmp_path)
        with pytest.raises(UserError) as error:
            datasets.named(datasets.IMAGES, str(tmp_path))
        assert told(error.value).startswith(f"{path}: is not what the import wrote (its '{field}' is "), value
        assert tree(tmp_path) == before


@pytest.mark.parametrize("content", NO_JSON, ids=range(len(NO_JSON)))
def test_a_manifest_that_is_no_json_object_is_told(tmp_path, content):
    path = write_manifest(tmp_path)
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        datasets.named(datasets.IMAGES, str(tmp_path))
    assert told(error.value).startswith(f"{path}: is not what the import wrote (")


@pytest.mark.parametrize("step", NO_STEPS)
def test_a_checkpoints_name_without_a_step_is_no_checkpoint_and_stays(tmp_path, step):
    for ending in ("index", "data-00000-of-00001"):
        (tmp_path / f"model.ckpt-{step}.{ending}").write_bytes(b"somebody's")
    before = tree(tmp_path)
    assert checkpoints.paths(str(tmp_path)) == []
    assert checkpoints.newest_readable(str(tmp_path)) is None
    checkpoints.settle(str(tmp_path), None)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        *(content.decode("latin-1") for content in NO_JSON),
        *(
            json.dumps({"cluster": WORKERS, "task": {"type": "worker", "index": index}})
            for index in [*NUMBERS, "\uff10"]
        ),
        *(json.dumps({"cluster": WORKERS, "task": {"type": job}}) for job in (5, None, ["worker"], "\ud800", "")),
        *(
            json.dumps({"cluster": {"worker": [address]}, "task": {"type": "worker"}})
            for address in (
                *("a:²", "a:0", "a:65536", "a:٣", ":1", "a", "", "a b:1", "a\n:1", "a:1:", "\ud800:1", "a:-1", "a:1e3"),
            )
        ),
        *(
            json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker"}})
            for addresses in (
                *(5, "a:1", {}, [5], [None], [["a:1"]], ["a:1", "a:1"], ["A:1", "a:1"]),
                *(["localhost:1", "127.0.0.1:1"], ["[::1]:9", "localhost:9"]),
            )
        ),
        json.dumps({"cluster": {"chief": ["a:1"], "worker": ["a:1"]}, "task": {"type": "chief"}}),
        json.dumps({"cluster": {"chief": ["localhost:1"], "worker": ["127.0.0.1:1"]}, "task": {"type": "chief"}}),
        json.dumps({"sparseCluster": {"worker": {"0": "a:1"}}, "task": {"type": "worker", "index": 0}}),
    ],
)
def test_a_tf_config_that_describes_no_cluster_is_told(text):
    with pytest.raises(UserError) as error:
        members.from_tf_config(text)
    assert told(error.value).startswith("TF_CONFIG: ")


def anything(rng, depth=0):
    """Returns a value that JSON can hold, of any kind, often one that is nearly right."""
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, 1, -1, 10, 2**31, 2**32, 2**63, 2**64, 10**30, rng.randrange(10**6)])
    if kind == 2:
        return rng.choice([0.0, -0.0, 0.5, 1e308, float("inf"), float("-inf"), float("nan")])
    if kind in (3, 4):
        return rng.choice(["", "cifar10", "worker", "a:1", "²", "\ud800", "\x1b[2J", "a\nb", "x" * 10_000, HASH])
    if kind == 5:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    names = [
        *WRONG_IN_RECORD,
        *WRONG_IN_MANIFEST,
        "worker",
        "chief",
        "ps",
        "type",
        "index",
        "records",
        "sha256",
        "event",
    ]
    return {rng.choice(names): anything(rng, depth + 1) for _ in range(rng.randrange(5))}


@pytest.mark.parametrize("seed", range(5))
def test_generated_content_is_right_or_told_in_one_line(tmp_path, seed):
    """60 contents a seed, each as a record, a manifest and TF_CONFIG."""
    rng = random.Random(seed)
    outcomes = {"right": 0, "told": 0}
    for _ in range(60):
        fields = {name: anything(rng) for name in rng.sample([*WRONG_IN_RECORD, "event"], 5)}
        write_record(tmp_path, {"event": "start", **fields})
        changes = {name: anything(rng) for name in rng.sample(list(WRONG_IN_MANIFEST), 2)}
        write_manifest(tmp_path, **changes)
        config = json.dumps({"cluster": rng.choice([WORKERS, anything(rng)]), "task": anything(rng)})
        before = tree(tmp_path)
        for read in (
            lambda: settings.continued({"restart": False, "train_dir": str(tmp_path)}, set()),
            lambda: serving.class_names(None, str(tmp_path), str(tmp_path / "model.ckpt-5")),
            lambda: history.identity(str(tmp_path)),
            lambda: datasets.named(datasets.IMAGES, str(tmp_path)),
            lambda config=config: members.from_tf_config(config),
        ):
            try:
                read()
                outcomes["right"] += 1
            except UserError as error:
                told(error)
                outcomes["told"] += 1
        assert tree(tmp_path) == before
    assert min(outcomes.values()) > 10


def test_one_of_a_thing_is_in_the_singular(tmp_path, tiny, noise):
    assert [errors.counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    with pytest.raises(UserError, match=r"^--num_examples=2: the data has only 1 image; give no more$"):
        evaluation.Evaluator(noise.part(0, 1), 2, 1)
    with pytest.raises(UserError, match=r"^--num_held_out=1: the data has only 1 training image; give fewer$"):
        records.num_trained_on(dataclasses.replace(tiny, train_files=(("train.bin", 1),)), 1)
    one = dataclasses.replace(tiny, train_files=(("data_batch_1.bin", 1),))
    path = tmp_path / one.folder / "data_batch_1.bin"
    write_noise(one, tmp_path)
    content = path.read_bytes()
    path.write_bytes(b"\x0b" + content[1:])
    with pytest.raises(UserError, match=r"record 0 has label 11, expected 0 to 9 \(1 such record\); "):
        records.load(one, tmp_path, "train")
    path.write_bytes(b"\0")
    with pytest.raises(
        UserError, match=r"expected 1 record of 3073 bytes = 3073 bytes, found 1 byte \(0 records and 1 b"
    ):
        records.load(one, tmp_path, "train")


@pytest.mark.parametrize("name", [history.RECORD, datasets.MANIFEST])
def test_a_pipe_in_the_place_of_a_file_is_told_at_once(tmp_path, name):
    path = write_manifest(tmp_path)
    path.unlink()
    os.mkfifo(tmp_path / name if name == history.RECORD else path)
    with pytest.raises(UserError, match="it is no regular file") as error:
        if name == history.RECORD:
            history.recorded(str(tmp_path), "dataset")
        else:
            datasets.named(datasets.IMAGES, str(tmp_path))
    told(error.value)


NO_INT64 = "99999999999999999999"
TRAIN = ("--dataset=synthetic", "--train_dir=run")


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (
            "import_images",
            ["--images_dir=.", "--test_fraction=nan"],
            "flag --test_fraction=nan: give a number, not NaN",
        ),
        ("distributed_train", ["--hang_secs=nan"], "flag --hang_secs=nan: give a number, not NaN"),
        ("train", ["--momentum=nan"], "flag --momentum=nan: give a number, not NaN"),
        ("train", [f"--seed={NO_INT64}"], f"flag --seed={NO_INT64}: {NO_INT64} is not an integer in the range [0, 429"),
        (
            "train",
            ["--batch_size=2147483648"],
            "flag --batch_size=2147483648: 2147483648 is not an integer in",
        ),
        (
            "train",
            [f"--max_steps={10**18}"],
            f"flag --max_steps={10**18}: {10**18} is not an integer in the range [0, ",
        ),
        ("eval", [f"--num_examples={NO_INT64}"], f"flag --num_examples={NO_INT64}: give at most 9223372036854775807"),
        ("train", ["--train_dir=a\nb"], r"flag --train_dir='a\nb': holds a control character; choose another path"),
        ("eval", ["--eval_dir=\x1b[31m"], r"flag --eval_dir='\x1b[31m': holds a control character; choose another"),
        ("multi_gpu_train", ["--num_gpus=1000000000"], "flag --num_gpus=1000000000: 1000000000 is not an integer in"),
        ("compare", ["--setups=0towers"], "flag --setups=['0towers']: write them as one, 2towers, 2workers or"),
        ("benchmark", ["--worker=input/none"], "flag --worker=input/none: this is for the benchmark itself; leave it"),
        ("benchmark", ["--modes="], "flag --modes=[]: choose from end_to_end,fixed_batch,"),
        (
            "benchmark",
            ["--json=missing/file"],
            "--json=missing/file: cannot be written (No such file or directory); ch",
        ),
        ("plot", ["--out=curves", "."], "--out=curves: does not say what to write; end it in .png or .svg"),
        ("plot", ["--tags=", "."], "flag --tags=[]: name at least one, as in console/loss"),
        ("plot", ["--out=", "."], "--out=: does not say what to write; end it in .png or .svg"),
        ("train", [*TRAIN, "--init_from=missing"], "No checkpoint file missing.index; give --init_from as …/model.ck"),
        (
            "train",
            [*TRAIN, "--init_from=."],
            "No checkpoint file found in .; train first, choose another --init_from, or",
        ),
    ],
)
def test_a_flag_that_cannot_be_meant_is_told_before_anything_is_done(tmp_path, script, arguments, message):
    process = run_script(f"cifar10_{script}", *arguments, check=1, cwd=str(tmp_path))
    assert message in process.stderr and "Traceback" not in process.stderr
    assert tree(tmp_path) == {}


def test_a_report_that_is_there_outlives_a_benchmark_that_fails(tmp_path):
    (tmp_path / "report").write_text("hours of measurements")
    arguments = ("--dataset=images", f"--data_dir={tmp_path}", f"--json={tmp_path}/report")
    run_script("cifar10_benchmark", *arguments, check=1)
    assert (tmp_path / "report").read_text() == "hours of measurements"


def test_a_relative_path_in_a_folder_that_was_removed_is_told(monkeypatch):
    def lost():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", lost)
    with pytest.raises(SystemExit, match=r": --train_dir=run: the current folder is not there any more; change to ano"):
        flags._refuse_lost_folder("train_dir", "run")


def test_standard_streams_that_are_closed_are_missed_by_nobody(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert not terminal.is_there()
    with pytest.raises(UserError, match=r"^-: standard input is closed; give it a picture, as in < FILE$"):
        pictures.load("-")


def test_a_signal_while_a_script_imports_ends_it_without_a_traceback(tmp_path):
    """The imports, which take seconds, are here modules that say when they are reached, and wait."""
    for name in ("absl", "cifar10", "numpy", "tensorflow"):
        (tmp_path / f"{name}.py").write_text("import time\nprint('reached', flush=True)\ntime.sleep(60)\n")
    values = environment() | {"PYTHONPATH": str(tmp_path)}
    for script in sorted(SCRIPTS.glob("cifar10_*.py")):
        process = subprocess.Popen(
            [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=values
        )
        assert process.stdout.readline() == "reached\n", script
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (-signal.SIGINT, ""), script


def test_an_import_that_another_one_outruns_says_so_and_leaves_it(tmp_path, monkeypatch):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / "pictures" / name / f"{i}.png")
    monkeypatch.setattr(importing, "_report_duplicates", lambda *_: write_images(str(tmp_path), ["his", "hers"]))
    folder = tmp_path / datasets.IMAGES_FOLDER
    with pytest.raises(UserError, match=rf"^{folder}: is there already; move it away, or choose another --data_dir$"):
        importing.write(importing.of_folder(str(tmp_path / "pictures")), str(tmp_path), None, 0, True)
    assert datasets.named(datasets.IMAGES, str(tmp_path)).class_names == ("his", "hers")
    assert sorted(path.name for path in tmp_path.iterdir()) == [datasets.IMAGES_FOLDER, "pictures"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_folder_or_pipe_in_the_place_of_a_record_file_is_told(tmp_path, tiny, make):
    write_noise(tiny, tmp_path)
    path = records.paths(tiny, tmp_path, "train")[0]
    os.remove(path)
    make(path)
    with pytest.raises(UserError, match=rf"^{path}: is no regular file; "):
        records.load(tiny, tmp_path, "train")


def test_a_checkpoint_of_strings_is_of_another_network(tmp_path, graph):
    """As TensorFlow 2 writes them, and a SavedModel's variables are."""
    path = str(tmp_path / "ckpt-1")
    checkpoints.write(path, {"_CHECKPOINTABLE_OBJECT_GRAPH": b"\n\0", "v/.ATTRIBUTES/VARIABLE_VALUE": 1.0})
    assert checkpoints.fault(path) is None
    assert serving.find_checkpoint(None, str(tmp_path)) == path
    expected = {"conv1/biases": tf.get_variable("conv1/biases", [64])}
    assert fitting.difference(path, expected).startswith("of another network: conv1/biases is not there; ")


def test_checkpoints_none_of_which_can_be_read_are_not_called_missing(tmp_path):
    (tmp_path / "model.ckpt-5.index").write_bytes(b"damaged")
    for named, flag in (((None, str(tmp_path)), "checkpoint_dir"), ((str(tmp_path), None, "init_from"), "init_from")):
        with pytest.raises(UserError) as error:
            serving.find_checkpoint(*named)
        assert told(error.value) == f"{tmp_path}: none of its checkpoints can be read; choose another --{flag}"


def test_another_data_set_is_refused_before_it_is_looked_for(tmp_path):
    """So that none is downloaded for a run that cannot go on with it."""
    values = {"restart": False, "train_dir": str(tmp_path), "dataset": "cifar100", "model": "tutorial"}
    write_record(tmp_path, {"event": "start", "dataset": "images", "model": "tutorial"})
    assert settings.continued(values, {"dataset"})["dataset"] == "cifar100"  # it has saved nothing yet
    (tmp_path / "model.ckpt-5.index").write_bytes(b"")
    with pytest.raises(UserError, match=rf"^{tmp_path}: was trained with --dataset=images, not cifar100; choose that"):
        settings.continued(values, {"dataset"})
    assert settings.continued(values, {"model"})["dataset"] == "images"
    assert settings.continued(values | {"restart": True}, {"dataset"})["dataset"] == "cifar100"


def test_a_run_that_goes_on_says_that_init_from_is_for_a_new_one(tmp_path, capsys):
    save_network(tmp_path / "run", [5])
    write_record(tmp_path / "run", {"event": "start", "init_from": f"{tmp_path}/first"})
    for init_from, said in (
        (f"{tmp_path}/run/../first", ""),
        (
            f"{tmp_path}/other",
            f"{tmp_path}/run: goes on with its own weights; --init_from={tmp_path}/other is for a new",
        ),
    ):
        with Run(str(tmp_path / "run"), description={"init_from": init_from, "learning_rate": "0.1"}):
            assert capsys.readouterr().out.partition(" run: choose")[0] == said
    assert "other" not in (tmp_path / "run" / history.RECORD).read_text()  # so that it is said the next time, too


def test_the_reason_of_a_sessions_error_is_the_ops_own(tmp_path, graph):
    with tf.Session() as session, pytest.raises(tf.errors.OpError) as error:
        session.run(tf.raw_ops.ReadFile(filename=str(tmp_path / "missing")))
    assert errors.reason(error.value) == f"{tmp_path / 'missing'}; No such file or directory"


def test_more_workers_than_the_machine_has_ports_are_told(monkeypatch):
    def refuse():
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", refuse)
    with (
        pytest.raises(UserError, match=r"^9 workers: too many for this machine \(Too many open files\); start fewer$"),
        ports.reserved(9),
    ):
        pass
