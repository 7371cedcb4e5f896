"""What TensorBoard shows beyond the tutorial's tags: in event files, by its data API, and in a real browser."""

import io
import json
import os
import re
import time
import urllib.parse
import urllib.request

import browser
import numpy as np
import published
import pytest
import tensorflow.compat.v1 as tf
from helpers import evaluate, train
from PIL import Image
from tensorboard import program
from tensorboard.plugins.custom_scalar import layout_pb2

from cifar10.data import datasets, records
from cifar10.errors import RunError
from cifar10.network import summaries
from cifar10.runs import dashboards, drawings

LAYOUT = "custom_scalars__config__"
CONSOLE = {"console/loss", "console/examples_per_sec", "console/sec_per_batch"}
CLASSES = datasets.SYNTHETIC.class_names


@pytest.fixture(scope="module")
def logdir(synthetic_dir, tmp_path_factory):
    """A folder with the runs `train`, traced in step 3, `towers`, and of two checkpoints of it `eval`, `eval_train`."""
    logdir = tmp_path_factory.mktemp("logdir")
    for max_steps, profile_steps in ((6, "3,4"), (11, None)):
        train(synthetic_dir, logdir / "train", max_steps=max_steps, save_summaries_steps=5, profile_steps=profile_steps)
        for eval_data, name in (("test", "eval"), ("train_eval", "eval_train")):
            evaluate(synthetic_dir, logdir / "train", logdir / name, eval_data=eval_data)
    train(
        synthetic_dir,
        logdir / "towers",
        script="cifar10_multi_gpu_train",
        num_gpus=2,
        batch_size=8,
        max_steps=6,
        save_summaries_steps=5,
    )
    return logdir


def events(run):
    """Yields the events of a run, file after file."""
    for path in sorted(run.glob("events.out.tfevents.*")):
        yield from tf.train.summary_iterator(str(path))


def values(run):
    """Returns {tag: [(step, value), …]} of a run."""
    found = {}
    for event in events(run):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value))
    return found


def text(value):
    return value.tensor.string_val[0].decode()


def image(value):
    return np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))


@pytest.mark.slow
def test_one_device_and_several_write_the_same_tags(logdir):
    tags = set(values(logdir / "train"))
    assert tags == set(values(logdir / "towers"))
    tutorials = published.SCALARS | published.HISTOGRAMS | {f"images/image/{i}" for i in range(3)}
    ours = CONSOLE | {"global_step/sec", "input/wait_ms", "conv1/filters/image", "run/text_summary", LAYOUT}
    assert tags == tutorials | ours


@pytest.mark.slow
def test_training_and_evaluation_write_one_layout_whose_charts_all_have_tags(logdir):
    """No tag with a bracket, of which TensorBoard would draw nothing."""
    layouts, tags = set(), set()
    for run in ("train", "towers", "eval", "eval_train"):
        found = values(logdir / run)
        layouts |= {value.tensor.string_val[0] for _, value in found[LAYOUT]}
        tags |= {tag for tag in found if found[tag][0][1].HasField("simple_value")}
    (layout,) = layouts
    charts = {}
    for category in layout_pb2.Layout.FromString(layout).category:
        for chart in category.chart:
            charts[chart.title] = [[t for t in tags if re.match(pattern, t)] for pattern in chart.multiline.tag]
    empty = {title for title, chart in charts.items() if not all(chart)}
    assert {title.removeprefix("precision, ") for title in empty} <= set(CLASSES)  # which nothing is taken for
    shown = {tag for chart in charts.values() for matches in chart for tag in matches}
    assert not [tag for tag in shown if "(" in tag]
    assert {tag for tag in shown if tag.startswith("recall/")} == {f"recall/{name}" for name in CLASSES}
    # Each class and each layer is alone on its chart, where a run has one colour.
    alone = [chart for title, chart in charts.items() if title.startswith(("recall, ", "precision, ", "sparsity, "))]
    assert len(alone) == 2 * len(CLASSES) + 5 and all(len(chart) == 1 and len(chart[0]) <= 1 for chart in alone)
    assert tags - shown == {tag for tag in tags if "(raw)" in tag} | {"global_step/sec"}


@pytest.mark.slow
def test_the_console_is_charted_and_the_wait_for_input_is_a_part_of_the_step(logdir):
    found = values(logdir / "train")
    lines = [json.loads(line) for line in (logdir / "train" / "metrics.jsonl").read_text().splitlines()]
    for tag in CONSOLE:
        charted = [(step, value.simple_value) for step, value in found[tag]]
        expected = [(line["step"], line[tag.removeprefix("console/")]) for line in lines]
        np.testing.assert_allclose(charted, expected, rtol=1e-6)
    waits = [(step, value.simple_value) for step, value in found["input/wait_ms"]]
    assert [step for step, _ in waits] == [5, 10]
    slowest_ms = 1000 * max(line["sec_per_batch"] for line in lines[1:])
    assert all(0 < wait < slowest_ms for _, wait in waits)


@pytest.mark.slow
def test_a_run_describes_itself(logdir):
    (first, _), (resumed, _) = [(text(value), step) for step, value in values(logdir / "train")["run/text_summary"]]
    assert "| first step | 0 |" in first and "| first step | 6 |" in resumed
    assert "| synthetic: 10,000 training and 2,000 test images of 10 classes |" in first
    assert f"tensorflow {tf.version.VERSION}" in first and "disc, ring, square" in first
    assert "| images a step | 16 (towers: 2) |" in text(values(logdir / "towers")["run/text_summary"][0][1])
    assert "| images evaluated | 200 of 2,000 |" in text(values(logdir / "eval")["run/text_summary"][0][1])


@pytest.mark.slow
def test_recalls_add_up_to_the_precision_of_all(logdir, synthetic_dir):
    found = values(logdir / "eval")
    labels = records.load(datasets.SYNTHETIC, synthetic_dir, "test").labels[:200]
    for i, (step, precision) in enumerate(found["Precision @ 1"]):
        recalls = [found[f"recall/{name}"][i][1].simple_value for name in CLASSES]
        right = np.dot(recalls, np.bincount(labels))
        np.testing.assert_allclose(right / 200, precision.simple_value, rtol=1e-5)
        assert {found[tag][i][0] for tag in ("evaluation/confusion_matrix", "evaluation/classes/text_summary")} == {
            step
        }


def test_outcomes_follow_in_top_k(graph):
    """A tie counts as right, logits that are not finite as no class, and padding not at all."""
    inf, nan = np.inf, np.nan
    logits = [[1, 1, 0], [0, 1, 1], [0, 2, 1], [nan, nan, nan], [inf, 0, 0], [3, 0, 0]]
    labels = [1, 0, 1, 0, 0, -1]
    with tf.Session() as session:
        of = session.run(dashboards.outcomes(tf.constant(logits, tf.float32), tf.constant(labels)))
    assert of["correct"].tolist() == [True, False, True, False, False, False]
    assert of["predicted"].tolist() == [1, 1, 1, dashboards.NO_CLASS, dashboards.NO_CLASS, 0]
    e = np.e
    np.testing.assert_allclose(of["probability"][:3], [e / (2 * e + 1), e / (2 * e + 1), e**2 / (e**2 + e + 1)], 1e-6)
    np.testing.assert_allclose(of["label_probability"][1], 1 / (2 * e + 1), rtol=1e-6)


def outcomes(label, predicted, probability=None):
    """Returns `dashboards.outcomes` of a batch as it would come from a session."""
    label, predicted = np.asarray(label, np.int32), np.asarray(predicted, np.int32)
    probability = np.full(len(label), 0.5, np.float32) if probability is None else np.asarray(probability, np.float32)
    correct = label == predicted
    return {
        "label": label,
        "correct": correct,
        "predicted": predicted,
        "probability": probability,
        "label_probability": np.where(correct, probability, 1 - probability),
    }


def shown(found, images, class_names):
    """Returns {tag: value} of `dashboards.evaluation`."""
    return {value.tag: value for value in dashboards.evaluation(found, images, class_names).value}


def noise_images(count):
    return np.random.RandomState(0).randint(0, 256, [count, 32, 32, 3], dtype=np.uint8)


def test_recall_precision_and_table_of_a_small_example():
    """Of 4 cats 3 are found, of 5 'cats' 3 are cats; there is no emu, and what is taken for one is none."""
    label = [0, 0, 0, 0, 1, 1, 1, 2]
    predicted = [0, 0, 0, 1, 0, 0, 1, 3]
    found = shown(outcomes(label, predicted), noise_images(8), ("cat", "dog", "yak", "emu"))
    scalars = {tag: round(value.simple_value, 6) for tag, value in found.items() if value.HasField("simple_value")}
    assert scalars == {
        "recall/cat": 0.75,
        "precision/cat": 0.6,
        "recall/dog": 0.333333,
        "precision/dog": 0.5,
        "recall/yak": 0.0,
        "precision/emu": 0.0,
    }
    assert text(found["evaluation/classes/text_summary"]).splitlines() == [
        "| class | images | recall | precision | most often taken for |",
        "| --- | --- | --- | --- | --- |",
        "| yak | 1 | 0.000 |  | emu (1) |",
        "| dog | 3 | 0.333 | 0.500 | cat (2) |",
        "| cat | 4 | 0.750 | 0.600 | dog (1) |",
        "| emu | 0 |  | 0.000 |  |",
    ]


def test_the_surest_mistakes_come_first_with_their_names(monkeypatch):
    captions = []
    monkeypatch.setattr(drawings, "_fit", lambda text, width: captions.append(text) or text)
    images = noise_images(4)
    of = outcomes([0, 0, 1, 1], [1, 0, 0, 0], [0.6, 0.99, 0.7, 0.9])
    grid = image(shown(of, images, ("cat", "dog"))["evaluation/mistakes"])
    found = [text for text in captions if " " in text]
    assert found == ["dog 0.10", "cat 0.90", "dog 0.30", "cat 0.70", "cat 0.40", "dog 0.60"]
    top = next(i for i in range(40) if (grid[i : i + 96 : 3, :96:3] == images[3]).all())
    for tile, index in enumerate([3, 2, 0]):
        left = tile * (drawings.WIDTH // 3)
        np.testing.assert_array_equal(grid[top : top + 96 : 3, left : left + 96 : 3], images[index])
    assert "evaluation/mistakes" not in shown(outcomes([0, 1], [0, 1]), images[:2], ("cat", "dog"))


@pytest.mark.parametrize("classes", [2, 10, 20, 100, 256])
def test_rows_of_the_matrix_are_true_classes_and_columns_predicted_ones(classes):
    """All images of class 1 are taken for class 0, and there are no others."""
    counts = np.zeros([classes, classes], int)
    counts[1, 0] = 7
    matrix = np.asarray(drawings.confusion_matrix(counts, [f"class {i}" for i in range(classes)]))
    assert matrix.shape[1] == drawings.WIDTH and matrix.shape[0] < 1.3 * drawings.WIDTH
    grey = (matrix == drawings.GREY).all(axis=2)
    top, bottom = np.flatnonzero(grey.mean(axis=1) > 0.4)  # the frame
    left, right = np.flatnonzero(grey.mean(axis=0) > 0.4)
    cell = (right - left - 1) // classes
    assert right - left == bottom - top == classes * cell + 1
    full = (matrix == drawings.FULL).all(axis=2)
    assert full[top + 1 + cell : top + 1 + 2 * cell, left + 1 : left + 1 + cell].mean() > 0.5  # the rest is its number
    assert full.sum() <= cell**2


def test_many_classes_with_any_names():
    """Up to 256 classes: a matrix and the 20 worst; names that mean something in tags and tables are no trouble."""
    label = np.repeat(np.arange(256), 2)
    predicted = np.where(label < 20, label + 1, label)
    found = shown(outcomes(label, predicted), noise_images(512), [f"n{i}" for i in range(256)])
    rows = text(found["evaluation/classes/text_summary"]).splitlines()
    assert len(rows) == 2 + dashboards.MAX_CLASSES
    assert rows[2] == "| n0 | 2 | 0.000 |  | n1 (2) |" and rows[3] == "| n1 | 2 | 0.000 | 0.000 | n2 (2) |"
    assert not [tag for tag in found if tag.startswith(("recall/", "precision/"))]

    names = ("a (b)", "a|b", "a/b", "c")
    found = shown(outcomes([0, 1, 2, 3], [0, 1, 2, 3]), noise_images(4), names)
    assert {tag for tag in found if tag.startswith("recall/")} == {
        "recall/a_b_",
        "recall/a_b_1",
        "recall/a_b_2",
        "recall/c",
    }
    assert "| a&#124;b | 1 | 1.000 | 1.000 |  |" in text(found["evaluation/classes/text_summary"])


def test_filters_are_tiles_in_which_grey_is_zero(graph):
    kernel = np.random.RandomState(0).randn(5, 4, 3, 7).astype(np.float32)
    kernel[..., 5] = 0
    kernel[2, 1, 0, 6] = -9.0  # the largest, so black
    summaries.filters("conv1/filters", tf.constant(kernel))
    with tf.Session() as session:
        (value,) = tf.Summary.FromString(session.run(summaries.merged())).value
    tiles = image(value)
    assert value.tag == "conv1/filters/image" and tiles.shape == (3 * 6, 3 * 5, 3)
    for i in range(7):
        top, left = i // 3 * 6, i % 3 * 5
        expected = 127.5 + 127.5 * kernel[..., i] / 9.0
        np.testing.assert_allclose(tiles[top : top + 5, left : left + 4], expected, atol=0.5 + 1e-4)
    assert tiles[14, 1, 0] == 0 and set(tiles[6:11, 10:14].ravel()) == {128}
    assert (tiles[:, 4] == 255).all() and (tiles[5] == 255).all() and (tiles[12:, 5:] == 255).all()


@pytest.mark.slow
def test_filters_shown_are_the_first_layers_and_those_of_the_step(logdir):
    (_, first), *_ = values(logdir / "train")["conv1/filters/image"]
    tiles = image(first)
    weights = tf.train.load_variable(str(logdir / "train" / "model.ckpt-0"), "conv1/weights")
    assert tiles.shape == (48, 48, 3)
    expected = 127.5 + 127.5 * weights[..., 9] / np.abs(weights).max()
    np.testing.assert_allclose(tiles[6:11, 6:11], expected, atol=0.5 + 1e-4)


@pytest.mark.slow
def test_a_trace_is_of_its_steps_and_tells_when_conv2_ran(logdir):
    assert [path.name for path in (logdir / "train").glob("timeline*")] == ["timeline-3.json"]
    trace = json.loads((logdir / "train" / "timeline-3.json").read_text())["traceEvents"]
    products = ("Conv2D", "MatMul")  # by Winograd's algorithm a convolution is products of matrices
    convolutions = [
        event
        for event in trace
        if event["ph"] == "X"
        and event["args"]["name"].startswith("conv2/")
        and any(p in event["name"] for p in products)
    ]
    assert len(convolutions) >= 2 and all(event["dur"] >= 0 for event in convolutions)  # two micro-batches
    (traced,) = [event for event in events(logdir / "train") if event.HasField("tagged_run_metadata")]
    assert traced.tagged_run_metadata.tag == "step_3"
    metadata = tf.RunMetadata.FromString(traced.tagged_run_metadata.run_metadata)
    nodes = {node.node_name for device in metadata.step_stats.dev_stats for node in device.node_stats}
    assert {event["args"]["name"] for event in convolutions} <= {name.partition(":")[0] for name in nodes}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("7", "give two steps a,b with a less than b, such as 50,53"),
        ("5,5", "give two steps a,b with a less than b, such as 50,53"),
        ("-1,5", "give two steps a,b with a less than b, such as 50,53"),
        ("10,12", "training ends at step 10; give steps before that"),
    ],
)
def test_steps_to_trace_that_make_no_sense_are_refused(steps, message, synthetic_dir, tmp_path):
    with pytest.raises(RunError) as error:
        train(synthetic_dir, tmp_path / "train", max_steps=10, profile_steps=steps)
    assert str(error.value) == f"--profile_steps={steps}: {message}"
    assert not (tmp_path / "train").exists()


# TensorBoard starts its data server and forgets it; whoever looks for what was not closed finds that.
forgetful = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:html5lib:DeprecationWarning"
)


@pytest.fixture(scope="module")
def tensorboard(logdir):
    """The address of a TensorBoard that has read the runs."""
    server = program.TensorBoard()
    server.configure(argv=[None, "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"])
    url = server.launch().rstrip("/")
    end = time.monotonic() + 30
    while not all("Precision @ 1" in get(url, "scalars/tags").get(run, {}) for run in ("eval", "eval_train")):
        assert time.monotonic() < end, get(url, "scalars/tags")
        time.sleep(0.2)
    yield url  # while `server` is there, and with it the pipe at whose end TensorBoard's data server ends


def get(url, path, **query):
    """Returns the answer of TensorBoard's data API, which is JSON but for images and graphs."""
    with urllib.request.urlopen(f"{url}/data/plugin/{path}?{urllib.parse.urlencode(query)}") as answer:
        body = answer.read()
        return json.loads(body) if "json" in answer.headers["Content-Type"] else body


@forgetful
@pytest.mark.slow
def test_tensorboard_serves_charts_images_tables_and_compute_times(tensorboard):
    for run in ("eval", "eval_train"):
        points = get(tensorboard, "scalars/scalars", run=run, tag="Precision @ 1")
        assert [step for _, step, _ in points] == [6, 11]
    (matrix, *_) = get(tensorboard, "images/images", run="eval", tag="evaluation/confusion_matrix", sample=0)
    query = dict(urllib.parse.parse_qsl(matrix["query"]))
    assert Image.open(io.BytesIO(get(tensorboard, "images/individualImage", **query))).width == drawings.WIDTH
    layout = get(tensorboard, "custom_scalars/layout")
    assert [category["title"] for category in layout["category"]] == list(dashboards.layout(CLASSES))
    tables = get(tensorboard, "text/text", run="eval", tag="evaluation/classes/text_summary")
    assert "<table>" in tables[0]["text"]
    assert b"conv2/" in get(tensorboard, "graphs/run_metadata", run="train", tag="step_3")


CARD = "tf-custom-scalar-multi-line-chart-card"
LINES = """$$('path[stroke][d*="L"]', card.shadowRoot).length"""  # two a line: as it is, and smoothed
OPEN_ALL = "$$('tf-category-paginated-view').filter(c => !c.opened).map(c => $$('.heading', c.shadowRoot)[0].click())"


@pytest.mark.slow
@forgetful
@pytest.mark.skipif(
    not browser.CHROMIUM and not os.environ.get("CIFAR10_REQUIRE_CHROMIUM"),
    reason="there is no Chromium, and CIFAR10_REQUIRE_CHROMIUM is not set",
)
def test_the_pages_show_it_in_a_browser(tensorboard):
    """Every chart of the layout with its lines drawn, the images loaded, tables and layers there, and no error."""
    assert browser.CHROMIUM, "CIFAR10_REQUIRE_CHROMIUM is set, but there is no Chromium"
    lines = {title: 1 for charts in dashboards.layout(CLASSES).values() for title in charts}
    lines.update({title: 0 for title in lines if title.startswith("precision, ")})  # of a class nothing is taken for
    lines["Precision @ 1"] = 2  # test and training images, on one chart
    with browser.Browser() as page:
        page.open(f"{tensorboard}/?page=1#custom_scalars")
        for title, least in lines.items():
            page.wait_for(f"$$('{CARD}').some(card => card.title == '{title}' && {LINES} >= {2 * least})")
        assert page.evaluate(f"$$('{CARD}').map(card => card.title)") == list(lines)  # none is there twice
        # A class alone on its chart: a line a run, of either colour, as it is and smoothed.
        found = page.evaluate(
            f"$$('{CARD}').filter(card => /^(recall|precision), /.test(card.title)).map(card => {LINES})"
        )
        assert len(found) == 2 * len(CLASSES) and max(found) <= 2 * len(("eval", "eval_train"))
        assert page.errors == []

        page.open(f"{tensorboard}/?page=2#images")
        page.wait_for(f"$$('tf-category-paginated-view').length >= 4 && ({OPEN_ALL}, true)")
        for tag, width in {
            "conv1/filters/image": 48,
            "evaluation/confusion_matrix": drawings.WIDTH,
            "evaluation/mistakes": drawings.WIDTH,
            "images/image/0": 24,
        }.items():
            loaded = f"$$('img', card.shadowRoot).some(image => image.naturalWidth == {width})"
            page.wait_for(f"$$('tf-image-loader').some(card => card.tag == '{tag}' && {loaded})")
        assert page.errors == []

        page.open(f"{tensorboard}/?page=3#text")
        for words in ("synthetic: 10,000 training and 2,000 test images of 10 classes", "checkers"):
            page.wait_for(f"$$('td').some(cell => cell.textContent.includes('{words}'))")

        page.open(f"{tensorboard}/?page=4#scalars")
        page.wait_for(f"$$('tf-category-paginated-view').length >= 10 && ({OPEN_ALL}, true)")
        for tag in ("cross_entropy (raw)", "cross_entropy", "learning_rate", "console/loss", "input/wait_ms"):
            page.wait_for(f"$$('tf-scalar-card').some(card => card.tag == '{tag}' && {LINES})")

        page.open(f"{tensorboard}/?page=5#graphs")
        for layer in ("input", "conv1", "softmax_linear"):
            page.wait_for(f"$$('g.node').some(node => node.dataset.name == '{layer}')")
        assert page.errors == []
