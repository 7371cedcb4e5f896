"""The README keeps its promises about commands, tests and packages."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_test_that_the_readme_names_exists():
    named = set(re.findall(r"`(test_\w+)`", README))
    written = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        written |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    assert len(named) > 10 and named <= written
    for path in re.findall(r"`(tests/[\w/]+\.py)`", README):
        assert (ROOT / path).exists(), path


def test_deviations_are_numbered_without_a_gap():
    numbers = [int(number) for number in re.findall(r"^\| D(\d+) \|", README, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 14


def test_exactly_two_commands_set_up():
    assert len(re.findall(r"^python3 -m venv", README, re.MULTILINE)) == 2


def test_every_flag_that_the_readme_names_exists():
    source = "".join(path.read_text() for path in [*(ROOT / "scripts").glob("*.py"), ROOT / "cifar10" / "flags.py"])
    defined = set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", source))
    for flag in re.findall(r"--([a-z]\w+)", README):
        assert flag.removeprefix("no") in defined or flag in defined | {"help", "logdir"}, flag


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
