"""The results in the texts are those on record in results.json, and they are what was promised."""

import json
import pathlib
import re
import statistics

import pytest

from cifar10.network import recipes

ROOT = pathlib.Path(__file__).parents[2]
README, LESSON, PAGE = (
    (ROOT / path).read_text(encoding="utf-8") for path in ("README.md", "cifar10/README.md", "scripts/RESULTS.md")
)
RESULTS = json.loads((ROOT / "scripts" / "results.json").read_text(encoding="utf-8"))
TUTORIAL = {int(step): precisions for step, precisions in RESULTS["tutorial"]["precision"].items()}
ORIGINAL = {int(step): precisions for step, precisions in RESULTS["original"]["precision"].items()}
GRID = range(5_000, 100_001, 5_000)
LAST_TEN = list(zip(*RESULTS["tutorial"]["last_ten_checkpoints"].values(), strict=True))  # with averages, without
FAST = list(zip(*RESULTS["fast"]["precision"].values(), strict=True))
MUON = list(zip(*RESULTS["muon"]["precision"].values(), strict=True))
EPOCH = 50_000  # images
VIEWS = "precision in one view, in ten"
IMAGES = {  # of a whole training
    "construction": 100_000 * 128,
    "tutorial": 100_000 * 128,
    "fast, float32": RESULTS["fast"]["steps"] * 128,
    "fast, half": RESULTS["fast"]["steps"] * 128,
    "muon, half": RESULTS["muon"]["steps"] * 512,
}
SPEEDS = RESULTS["speed"]["images_per_second"]  # of each, as often, in turn


def minutes(name):
    """Returns how long a training takes on the machine of record."""
    return IMAGES[name] / statistics.median(SPEEDS[name]) / 60


def factor(name, slower):
    """Returns how many times less time one training takes than another one."""
    ratio = statistics.median(a / b for a, b in zip(SPEEDS[name], SPEEDS[slower], strict=True))
    return ratio * IMAGES[slower] / IMAGES[name]


def table(text, *heading):
    """Returns the rows, tuples of cells, of a text's table with these first columns."""
    lines = iter(text.splitlines())
    head = f"| {' | '.join(heading)} |".replace("|  |", "| |")
    next(line for line in lines if line.startswith(head))
    next(lines)
    rows = []
    while (line := next(lines)).startswith("|"):
        rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
    return rows


def test_every_command_on_record_is_in_a_text():
    texts = " ".join((README + LESSON + PAGE).split())  # a command may be on two lines
    commands = [record["command"] for record in RESULTS.values() if "command" in record]
    assert len(commands) >= 6
    for command in commands:
        assert command in texts, command


def test_the_readmes_rows():
    last = max(ORIGINAL)
    assert table(README, "", "steps") == [
        ("the original", f"{last:,}", "", f"{ORIGINAL[last][0]:.4f}"),
        ("`cifar10_train.py`", "100,000", f"{minutes('tutorial'):.0f} minutes", f"{TUTORIAL[100_000][0]:.4f}"),
        *(
            (
                f"`cifar10_train.py {flags}`",
                f"{RESULTS[recipe]['steps']:,}",
                f"{minutes(f'{recipe}, half'):.0f} minutes",
                f"{statistics.mean(precisions[0]):.4f} (mean of {len(precisions[0])})",
            )
            for recipe, flags, precisions in (
                ("fast", "--recipe=fast --use_fp16", FAST),
                ("muon", "--recipe=muon --batch_size=512 --use_fp16", MUON),
            )
        ),
    ]
    took = (
        f"the tutorial's own construction took as much as {minutes('construction'):.0f} minutes for its 100,000 steps"
    )
    assert took in " ".join(README.split())


def test_the_originals_first_checkpoint_gives_its_counts():
    averages, variables = (f"{round(10_000 * precision):,}" for precision in ORIGINAL[min(ORIGINAL)])
    assert f"the original printed: {averages} of 10,000" in " ".join(README.split())
    assert f"counts, {averages} with and {variables} without moving averages" in " ".join(LESSON.split())


def test_the_lesson_says_what_its_run_did():
    run = RESULTS["lesson"]
    last = max(run["precision"], key=int)
    test, train, raw = run["precision"][last]
    losses, sparsity = run["losses"]["9950"], run["sparsity"]["mean of the last 20 summaries"]
    decay = losses["local3/weight_loss"] + losses["local4/weight_loss"]
    for text in (
        f"At step {int(last):,} precision is {train:.3f} on the training images and {test:.3f} on the test images, "
        f"and {raw:.3f} without moving averages",
        f"After 1,000 steps, precision is {run['precision']['1000'][0]:.3f}; after {int(last):,}, {test:.3f}",
        f"The total falls from 4.67 to {losses['total_loss']:.2f}",
        f"weight decay, which falls from 2.37 to {decay:.2f}",
        f"Cross entropy is what tells: it falls from 2.30 to {losses['cross_entropy']:.2f}",
        f"conv2 grows sparse, {sparsity['conv2']:.2f} at the end",
        f"Of the cats, {run['confusion']['cat for dog']:.0%} are taken for dogs".replace("%", " %"),
    ):
        assert text in " ".join(LESSON.split()), text


def test_the_lesson_says_what_moving_averages_do():
    means = [statistics.mean(column) for column in LAST_TEN]
    ranges = [max(column) - min(column) for column in LAST_TEN]
    assert f"the averages reach {means[0]:.4f} and the variables {means[1]:.4f}" in LESSON
    assert f"vary by {ranges[0]:.4f}, the variables by {ranges[1]:.4f}" in " ".join(LESSON.split())
    fast = [statistics.mean(column) for column in FAST]
    assert f"{fast[0]:.4f} with them and {fast[1]:.4f} without" in " ".join(LESSON.split())
    assert f"ranges from {min(LAST_TEN[1]):.4f} to {max(LAST_TEN[1]):.4f}" in " ".join(PAGE.split())


def test_the_tutorials_table_is_the_run_on_record():
    expected = [
        (f"{step:,}", f"{step * 128 / EPOCH:.1f}", *(f"{precision:.4f}" for precision in TUTORIAL[step]))
        for step in GRID
    ]
    assert table(PAGE, "steps", "epochs", "precision @ 1", "without moving averages") == expected


def test_the_chart_has_the_same_numbers():
    lines = re.findall(r"^ +line \[(.*)\]$", PAGE, re.MULTILINE)
    for column, line in enumerate(lines):
        assert [float(value) for value in line.split(",")] == [TUTORIAL[step][column] for step in GRID]
    assert len(lines) == 2


def test_it_is_as_precise_as_the_original_at_each_of_its_steps_less_a_hundredth():
    """Ours at the last checkpoint before the original's."""
    rows = []
    for step, (original, original_without) in ORIGINAL.items():
        at = max(ours for ours in TUTORIAL if ours <= step)
        assert step - at < 500 and TUTORIAL[at][0] >= original - 0.01
        ours, ours_without = TUTORIAL[at]
        rows.append((f"{step:,}", f"{original:.4f}", f"{original_without:.4f}", f"{at:,}", f"{ours:.4f}"))
        rows[-1] += (f"{ours_without:.4f}",)
    assert len(rows) == 8 and table(PAGE, "the original: step", "precision @ 1") == rows


@pytest.mark.parametrize(
    ("recipe", "batch_size", "at_least"), [(recipes.FAST, 128, 4), (recipes.MUON, 512, 15)], ids=["fast", "muon"]
)
def test_a_recipe_reaches_the_tutorials_end_in_a_part_of_its_time(recipe, batch_size, at_least):
    record = RESULTS[recipe.name]
    assert record["steps"] == recipe.max_steps(EPOCH, batch_size)
    rows = [(seed, *precisions) for seed, precisions in record["precision"].items()]
    means = [statistics.mean(column) for column in list(zip(*rows, strict=True))[1:]]
    expected = [
        (seed, *(f"{precision:.4f}" for precision in precisions)) for seed, *precisions in [*rows, ("mean", *means)]
    ]
    section = PAGE[PAGE.index(f"### The {recipe.name} recipe".replace("muon", "Muon")) :]
    assert table(section, "seed", "precision @ 1") == expected
    assert means[0] >= TUTORIAL[100_000][0]
    half = f"{recipe.name}, half"
    assert factor(half, "construction") >= at_least
    stated = f"takes {minutes(half):.0f} minutes, {factor(half, 'tutorial'):.1f} times less than"
    assert stated in " ".join(section.split())
    assert f"and {factor(half, 'construction'):.1f} times less than the tutorial's own" in " ".join(section.split())


def test_the_trials_of_the_muon_recipe_are_those_on_record():
    expected = [(*what, f"{precision:.4f}") for *what, precision in RESULTS["muon"]["trials"]]
    assert table(PAGE, "epochs", "peak learning rate", "what else") == expected and len(expected) >= 6
    tuning = RESULTS["tuning"]
    stated = (
        f"{tuning['10 epochs']:.3f} in 10 epochs, {tuning['20 epochs']:.3f} in 20 and {tuning['60 epochs']:.3f} in 60"
    )
    assert stated in " ".join(PAGE.split())


def test_the_parts_of_the_muon_recipe_are_worth_what_is_on_record():
    ablation = RESULTS["muon"]["ablation"]
    expected = [
        (name, f"{statistics.mean(values):.4f}", f"{min(values):.4f} to {max(values):.4f}")
        for name, values in ablation.items()
    ]
    assert table(PAGE, "left out", "precision @ 1, mean") == expected
    assert len(expected) == 3 and {len(values) for values in ablation.values()} == {3}


def test_cuda_convnet_and_the_networks_without_normalization_are_those_on_record():
    networks = RESULTS["networks"][VIEWS]
    expected = [(name, *(f"{value:.4f}" for value in values)) for name, values in networks.items()]
    assert table(PAGE, "network", "one view") == expected and len(expected) == 4
    assert networks["tutorial"][0] == RESULTS["muon"]["precision"]["0"][0]
    curve = RESULTS["cuda_convnet"][f"epochs, {VIEWS}"]
    expected = [(str(epochs), *(f"{value:.4f}" for value in values)) for epochs, *values in curve]
    assert table(PAGE, "epochs", "one view") == expected and len(expected) >= 5


def test_the_exercises_are_answered_with_what_is_on_record():
    exercises = {row[0]: row for row in table(LESSON, "exercise", "command", "expected", "measured")}
    assert len(exercises) == 8
    seconds = {name: statistics.median(values) for name, values in RESULTS["seconds_to_step_0"].items()}
    queue, networks = RESULTS["queue"], RESULTS["networks"][VIEWS]
    _, *of_local = RESULTS["cuda_convnet"][f"epochs, {VIEWS}"][-1]
    means = [statistics.mean(column) for column in LAST_TEN]
    towers = RESULTS["devices"]["setups"]["2 towers x 64"]
    for exercise, expected in {
        "Fill fewer images before the first step": [
            f"{seconds['queue:0.05']:.1f} s from the command to step 0, against {seconds['queue:0.4']:.1f} s with 0.4",
            f"and {seconds['dataset:0.4']:.1f} s without a queue",
            f"{queue['precision']['0.05'][0]:.4f} against {queue['precision']['0.4'][0]:.4f}",
        ],
        "Reproduce cuda-convnet's network, whose top layers are locally connected (2,112,970 parameters)": [
            f"{of_local[0]:.4f} in one view, {of_local[1]:.4f} in ten"
        ],
        "Remove norm1 and norm2": [
            f"{networks['tutorial_without_lrn'][0]:.4f} against {networks['tutorial'][0]:.4f}",
            f"{networks['cuda_convnet_without_lrn'][0]:.4f} against {networks['cuda_convnet'][0]:.4f}",
        ],
        "Evaluate without the moving averages": [f"{means[1]:.4f} against {means[0]:.4f}"],
        "Compare one GPU at 128 with two at 64": [
            f"weights that differ by {towers['largest_weight_difference']:g}, losses equal to "
            f"{towers['largest_loss_difference']:.0e} at every step, {towers['ratio']:.2f} times the images/s"
        ],
    }.items():
        for text in expected:
            assert text in exercises[exercise][3]


def test_towers_and_workers_did_the_same_as_one_process():
    setups = RESULTS["devices"]["setups"]
    expected = [
        (
            name,
            f"{setup['largest_loss_difference']:.0e}",
            f"{setup['largest_weight_difference']:g}",
            f"{setup['precision']:.3f}",
        )
        for name, setup in setups.items()
    ]
    assert table(PAGE, "devices", "largest difference of a loss, at any step") == expected and len(expected) == 4
    for setup in setups.values():
        assert setup["largest_loss_difference"] < 1e-3
        assert abs(setup["precision"] - setups["1 x 128"]["precision"]) < 0.02
    setups = RESULTS["workers"]["setups"]
    expected = [
        (
            name,
            f"{setup['images_per_second']:,}",
            f"{setup['ratio']:.2f}",
            f"{setup['megabytes_per_step']:.2f}",
        )
        for name, setup in setups.items()
    ]
    assert table(PAGE, "devices", "images/s") == expected
    assert setups["2 workers x 64"]["ratio"] >= 0.8


def test_workers_send_what_their_algebra_says():
    """A gather sends all N - 1 times; a ring sends N - 1 of N parts to be added up, and N - 1 to be handed round."""
    rows = table(PAGE, "workers x images", "how", "MB a worker and step")
    assert len(rows) == 5
    for devices, how, megabytes, slow, fast, computing in rows:
        n, images = (int(number.replace(",", "")) for number in devices.split(" x "))
        factors = (2304 + 384 + 384 + 192) * images
        plain = 1_068_298 - 2304 * 384 - 384 * 192 + 1  # and the cross entropy
        if how == "ring, no factors":
            factors, plain = 0, 1_068_298
        numbers = (n - 1) * (plain + factors) if how == "gather" else 2 * (n - 1) / n * plain + (n - 1) * factors
        expected = 4 * numbers / 1e6
        assert megabytes == f"{expected:.2f}", devices
        assert (slow, fast) == (f"{8 * expected / 10:.1f} ms", f"{8 * expected / 100:.1f} ms")
        assert computing == f"{1000 * images / 3500:.1f} ms"
