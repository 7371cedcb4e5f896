"""The texts keep their promises about commands, tests, files, code and packages."""

import ast
import math
import os
import pathlib
import re

import published
import pytest
from helpers import run_python
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
PATHS = (
    "README.md",
    "cifar10/README.md",
    "scripts/README.md",
    "scripts/RESULTS.md",
    "tests/README.md",
    ".github/CONTRIBUTING.md",
)
TEXTS = {path: (ROOT / path).read_text(encoding="utf-8") for path in PATHS}
README, LESSON = TEXTS["README.md"], TEXTS["cifar10/README.md"]
ALL = "\n".join(TEXTS.values())
NOT_OURS = {"help", "helpfull", "helpshort", "logdir", "name", "version"}  # of absl and TensorBoard, and any
MISTYPED = {"max_step"}  # in the example of what is refused

each_text = pytest.mark.parametrize("path", PATHS)


def blocks(text, language):
    """Returns the bodies of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def anchors(text):
    """Returns the anchors that GitHub gives a text's headings."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def defined_flags(node):
    """Returns the names of the flags that the DEFINE_ calls in a piece of syntax tree define."""
    calls = (call for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute))
    return {call.args[0].value for call in calls if call.func.attr.startswith("DEFINE_")}


def flags_of(script):
    """Returns the names of the flags of a script: its own, the package's, and those that it has flags.py define."""
    tree, shared = (ast.parse((ROOT / path).read_text()) for path in (f"scripts/{script}", "cifar10/flags.py"))
    functions = {node.name: node for node in shared.body if isinstance(node, ast.FunctionDef)}
    flags = defined_flags(tree)
    for node in shared.body:
        if isinstance(node, ast.Expr):
            flags |= defined_flags(node)
    called = set(re.findall(r"\bflags\.(define_\w+)\(", (ROOT / "scripts" / script).read_text()))
    while called:
        function = functions[called.pop()]
        flags |= defined_flags(function)
        called |= set(re.findall(r"\b(define_\w+)\(\)", ast.unparse(function))) - {function.name}
    deleted = (node for node in ast.walk(tree) if isinstance(node, ast.Delete))
    return flags - {target.attr for node in deleted for target in node.targets if isinstance(target, ast.Attribute)}


def test_every_test_that_a_text_names_exists():
    named = set(re.findall(r"`(test_\w+)`", ALL))
    written = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        written |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    assert len(named) > 60 and named <= written, named - written


@each_text
def test_every_file_that_a_text_names_exists(path):
    named = re.findall(r"`((?:\w+/)*\w+\.(?:py|json))`", TEXTS[path])
    made = {"timeline-50.json", "mine.py", "cifar10.py"}  # by the reader, or by a run
    for name in set(named) - made:
        folders = (ROOT, ROOT / "scripts", (ROOT / path).parent)
        assert any((folder / name).exists() for folder in folders), name


@each_text
def test_every_link_leads_somewhere(path):
    prose = re.sub(r"^```.*?^```$", "", TEXTS[path], flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / path).parent / name if name else ROOT / path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


def test_images_are_shown_and_small():
    shown = re.findall(r"!\[[^\]]+\]\(images/(\w+\.png)\)", LESSON)
    images = {image.name: image for image in (ROOT / "cifar10" / "images").glob("*")}
    assert set(shown) | {"dashboard.png"} == set(images) and "](cifar10/images/dashboard.png)" in README
    for path in images.values():
        with Image.open(path) as image:
            assert image.mode == "P" and path.stat().st_size < 200_000, path


def test_every_command_has_its_script_and_its_flags():
    written = re.sub(r"\\\n", " ", ALL)
    commands = re.findall(r"(?:\.venv/bin/|\$ |^|`)(cifar10_\w+\.py)\b([^\n`]*)", written, re.MULTILINE)
    commands = [command for command in commands if command[0] != "cifar10_input.py"]  # a module
    assert len(commands) > 50
    for script, arguments in commands:
        flags = flags_of(script) | NOT_OURS
        for flag in re.findall(r"--([a-z]\w+)", arguments.split("&&")[0]):
            assert flag in flags | MISTYPED or flag.removeprefix("no") in flags, (script, flag)


def test_every_flag_that_a_text_names_exists():
    source = "".join(path.read_text() for path in [*(ROOT / "scripts").glob("*.py"), ROOT / "cifar10" / "flags.py"])
    defined = set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", source)) | NOT_OURS | MISTYPED
    for flag in re.findall(r"--([a-z]\w+)", ALL):
        assert flag in defined or flag.removeprefix("no") in defined, flag


def test_the_manual_has_a_chapter_for_every_script():
    scripts = {path.name for path in (ROOT / "scripts").glob("cifar10_*.py")}
    assert set(re.findall(r"^## (\w+\.py)$", TEXTS["scripts/README.md"], re.MULTILINE)) == scripts
    assert set(re.findall(r"^\| \[(\w+\.py)\]", README, re.MULTILINE)) == scripts


def test_every_script_of_the_manual_can_be_called_by_its_path():
    for path in (ROOT / "scripts").glob("cifar10_*.py"):
        assert os.access(path, os.X_OK) and path.read_text().startswith("#!/usr/bin/env python3\n"), path


def test_a_reader_is_told_how_to_call_and_change_the_code_and_to_port_a_fork():
    for text, told in (
        (README, "source .venv/bin/activate"),
        (README, ".venv/bin/cifar10_train.py"),
        (README, "pip install -e '.[test]'"),
        (README, "cifar10.FLAGS.batch_size = "),
        (README, "\ncifar10.maybe_download_and_extract()\n"),  # of a program that has its data, and
        (README, "\n    for _ in range(100):\n"),  # an end
        (TEXTS["scripts/README.md"], "import tensorflow.compat.v1 as tf"),
        (TEXTS["scripts/README.md"], "In a folder with a `cifar10.py` of its own"),
        (TEXTS["scripts/README.md"], "`tf.contrib"),
    ):
        assert told in text, told


def test_examples_that_show_a_curve_save_and_evaluate_often():
    """Where a training is watched: with the defaults a curve of its precision would have two points."""
    watching = re.split(r"^## ", README, flags=re.MULTILINE)
    watching = [part for part in watching if part.startswith("Train, evaluate, watch")]
    watching += [block for block in blocks(LESSON, "bash") if "tensorboard --logdir" in block]
    assert len(watching) >= 2
    for part in watching:
        assert "--save_checkpoint_steps=500" in part
        evaluations = re.findall(r"^cifar10_eval\.py .*&$", part, re.MULTILINE) or [part]
        assert all("--eval_interval_secs=0" in each for each in evaluations), part


def test_exactly_two_commands_set_up():
    assert len(re.findall(r"^python3 -m venv", README, re.MULTILINE)) == 2


def test_the_readme_is_short_and_no_line_is_long():
    assert len(README.splitlines()) <= 220
    for path, text in TEXTS.items():
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for line in prose.splitlines():
            assert len(line) <= 125 or line.startswith(("|", "    ")), (path, line)


def test_excerpts_are_the_source():
    """A block that names its file holds code of it, in order, without a gap but where it says `...`."""
    excerpts = [block for block in blocks(LESSON, "python") if block.startswith("# ")]
    assert len(excerpts) >= 8
    for excerpt in excerpts:
        name, code = excerpt.removeprefix("# ").split("\n", 1)
        source = "".join((ROOT / name).read_text(encoding="utf-8").split())  # lines may be broken differently
        at = 0
        for part in re.split(r"^\s*\.\.\.$", code, flags=re.MULTILINE):
            found = source.find("".join(part.split()), at)
            assert found >= 0, (name, part)
            at = found


@pytest.mark.slow
@pytest.mark.parametrize(
    "path, printed", [("README.md", r"loss after 100 steps: [45]\.\d\d\n"), ("cifar10/README.md", r"9\.0\n")]
)
def test_the_programs_run(path, printed, full_size_dir, tmp_path):
    programs = [block for block in blocks(TEXTS[path], "python") if block.startswith("import ")]
    assert len(programs) == 1
    program = programs[0].replace("/tmp/mine", str(tmp_path / "train")).replace("range(100)", "range(2)")
    (tmp_path / "mine.py").write_text(program)
    done = run_python(tmp_path / "mine.py", f"--data_dir={full_size_dir}", cwd=ROOT, check=0)
    assert re.fullmatch(printed, done.stdout)


def test_deviations_are_numbered_without_a_gap():
    numbers = [int(number) for number in re.findall(r"^\| D(\d+) \|", LESSON, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 17
    code = "".join(path.read_text() for path in (ROOT / "cifar10").rglob("*.py"))
    assert set(numbers) == {int(number) for number in re.findall(r"\bD(\d+)\b", code)}  # where it deviates


def test_the_map_has_every_module_once():
    mapped = re.findall(r"^\| `([\w/]+\.py)` \|", LESSON, re.MULTILINE)
    modules = [path.relative_to(ROOT / "cifar10").as_posix() for path in (ROOT / "cifar10").rglob("*.py")]
    assert sorted(mapped) == sorted(name for name in modules if not name.endswith("/__init__.py"))


def test_each_of_twenty_changes_has_its_file():
    changes = re.findall(r"^\| (\d+) \| .+ \| `([\w/]+\.py)` \|$", TEXTS["tests/README.md"], re.MULTILINE)
    assert [int(number) for number, _ in changes] == list(range(1, 21))
    assert all((ROOT / path).exists() for _, path in changes)


def test_the_table_of_layers_is_what_the_shapes_say():
    """A convolution uses each weight once a place of its output, a product of matrices once."""
    rows = re.findall(r"^\| (\w+) \|.*\| ([\dx ]*)\| ([\d,]*) ?\| ([\d,]*) ?\|$", LESSON, re.MULTILINE)
    numbers = {name: (size, *(int(cell.replace(",", "") or 0) for cell in cells)) for name, size, *cells in rows}
    parameters = operations = 0
    for layer in published.LAYERS:
        weights = published.VARIABLES[f"{layer}/weights"]
        size = math.prod(weights)
        height, *rest = [int(side) for side in numbers[layer][0].split("x")]
        places = height * rest[0] if rest else 1
        expected = size + math.prod(published.VARIABLES[f"{layer}/biases"]), size * places
        assert numbers[layer][1:] == expected, layer
        parameters, operations = parameters + expected[0], operations + expected[1]
    assert numbers["sum"][1:] == (parameters, operations)
    backward = 2 * operations - numbers["conv1"][2]  # conv1 needs no gradient of its input
    per_image = 2 * (operations + backward) / 1e6
    assert f"{2 * operations / 1e6:.1f} MFLOP" in LESSON and f"{per_image:.1f} MFLOP an image" in LESSON
    assert f"{128 * per_image / 1e3:.1f} GFLOP a step" in LESSON


def test_requirements_are_those_of_setup():
    setup = next(
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Call) and node.keywords
    )
    keywords = {keyword.arg: keyword.value for keyword in setup.keywords if keyword.arg}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ast.literal_eval(keywords["install_requires"])
    scripts = {f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py")}
    assert set(ast.literal_eval(keywords["scripts"])) == scripts
