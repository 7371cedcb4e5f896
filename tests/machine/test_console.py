"""Output that cannot be written, and what a console cannot show: real pipes, and a device that is always full."""

import os
import signal
import subprocess
import sys

import pytest
from forkserver import Program
from helpers import SCRIPTS, arguments, run_script, save_network

from cifar10.runs import checkpoints

FULL = "/dev/full"
needs_full = pytest.mark.skipif(not os.path.exists(FULL), reason="there is no device that is always full")

PRINTS = """
import sys, types
package = types.ModuleType("cifar10")  # its __init__ would spend seconds on TensorFlow
package.__path__ = [sys.argv[1]]
sys.modules["cifar10"] = package
from cifar10.machine import console, signals
console.install()
def write():
    for i in range(5):
        print("gr\\u00fcn", "\\udcff", i, flush=True)
if sys.argv[2] == "deferred":
    with signals.deferred() as request:
        write()
    print("signal", request.signum, file=sys.stderr)
else:
    with signals.raised():
        write()
    print("went on", file=sys.stderr)
"""


def run_prints(kind, stdout, encoding="utf-8"):
    """Runs PRINTS; returns (exit code, stdout as far as it is a pipe, lines of stderr)."""
    command = [sys.executable, "-c", PRINTS, str(SCRIPTS.parent / "cifar10"), kind]
    values = {**os.environ, "PYTHONIOENCODING": encoding}
    process = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=values, timeout=60)
    return process.returncode, process.stdout, process.stderr.decode().splitlines()


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "<&- 1>&- 2>&-"])
def test_a_closed_stream_gives_its_number_to_no_file(tmp_path, closed):
    """TensorFlow writes its warnings to number 2, whatever file that is."""
    script = PRINTS.partition("def write")[0] + (
        "print('lost')\nprint('lost', file=sys.stderr)\nfile = open(sys.argv[2], 'w')\nfile.write(str(file.fileno()))\n"
    )
    (tmp_path / "script.py").write_text(script)
    arguments = [str(tmp_path / "script.py"), str(SCRIPTS.parent / "cifar10"), str(tmp_path / "number")]
    process = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", sys.executable, *arguments], timeout=60)
    assert process.returncode == 0 and int((tmp_path / "number").read_text()) > 2


@pytest.fixture
def closed_pipe():
    """The end to write to of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_a_console_without_a_reader_is_the_loss_of_the_terminal_or_the_end(closed_pipe):
    assert run_prints("deferred", closed_pipe) == (0, None, [f"signal {signal.SIGHUP.value}"])
    assert run_prints("raised", closed_pipe) == (1, None, [])


@needs_full
@pytest.mark.parametrize(("kind", "last"), [("deferred", "signal None"), ("raised", "went on")])
def test_a_console_that_is_full_is_said_once_and_ends_nothing(kind, last):
    with open(FULL, "w") as full:
        code, _, lines = run_prints(kind, full)
    assert code == 0
    assert lines == ["Output cannot be written (No space left on device); going on without it", last]


def test_a_console_shows_what_it_can_of_any_text():
    for encoding, shown in (("ascii", b"gr\\xfcn \\udcff 0"), ("utf-8", b"gr\xc3\xbcn \\udcff 0")):
        code, out, _ = run_prints("raised", subprocess.PIPE, encoding)
        assert code == 0 and out.splitlines()[0] == shown


def start(script, *args, **options):
    return Program([SCRIPTS / f"{script}.py", *args], stderr=subprocess.PIPE, **options)


@pytest.mark.slow
def test_training_whose_reader_has_enough_saves_and_ends(synthetic_dir, tmp_path):
    """As in `cifar10_train.py | head -1`."""
    with start(
        "cifar10_train", *arguments(synthetic_dir, tmp_path, max_steps=100_000), stdout=subprocess.PIPE
    ) as process:
        assert ": step 0," in process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(timeout=60) == 128 + signal.SIGHUP
    saved = checkpoints.newest_readable(str(tmp_path))
    step = checkpoints.step(saved)
    assert step >= 1 and "Traceback" not in err
    assert err.splitlines()[-1] == f"cifar10_train.py: ended by SIGHUP at step {step}; saved as {saved}"


@pytest.mark.slow
@needs_full
def test_training_on_a_full_console_ends_as_ever_and_says_that_output_was_lost(synthetic_dir, tmp_path):
    with open(FULL, "w") as full:
        process = start("cifar10_train", *arguments(synthetic_dir, tmp_path, max_steps=3), stdout=full)
        err = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 1 and "Traceback" not in "".join(err)
    assert err.count("Output cannot be written (No space left on device); going on without it") == 1
    assert err[-1] == "cifar10_train.py: done, but output was lost (No space left on device)"
    assert checkpoints.newest_readable(str(tmp_path)) == f"{tmp_path}/model.ckpt-3"


@pytest.mark.slow
@needs_full
def test_results_that_cannot_be_written_are_no_success(synthetic_dir, tmp_path):
    save_network(tmp_path / "train", [5])
    (tmp_path / "a.png").write_bytes(b"no picture")
    flags = [f"--checkpoint_dir={tmp_path / 'train'}", f"--data_dir={synthetic_dir}"]
    with open(FULL, "w") as full:
        evaluation = start(
            *("cifar10_eval", *flags, "--dataset=synthetic", "--run_once", f"--eval_dir={tmp_path / 'eval'}"),
            stdout=full,
        )
        err = evaluation.communicate(timeout=120)[1].splitlines()
    assert evaluation.returncode == 1
    assert err[-1] == "cifar10_eval.py: done, but output was lost (No space left on device)"


@pytest.mark.slow
def test_a_path_that_is_no_utf8_is_refused_where_tensorflow_opens_it(tmp_path):
    process = run_script("cifar10_train", f"--train_dir={tmp_path}/" + os.fsdecode(b"\xff"), check=1)
    assert "is not UTF-8, as TensorFlow needs a path" in process.stdout + process.stderr
    assert "Traceback" not in process.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_is_no_error():
    for flag in ("-h", "--help"):
        assert "--train_dir: " in run_script("cifar10_train", flag, check=0).stdout
