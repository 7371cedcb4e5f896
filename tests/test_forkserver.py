"""A program does in a fork of the server what it does in a process of its own."""

import os
import re
import signal
import subprocess
import sys

import pytest
from forkserver import Program, environment
from helpers import SCRIPTS, arguments, assert_equal_to_the_last_bit, final

# What a script finds, printed; {end} is how it ends.
PROBE = """
import atexit, os, signal, sys, threading
atexit.register(print, "at the end")
print(__name__, __file__, sys.argv, sys.orig_argv, sys.path, os.getcwd(), sorted(os.environ.items()), sep="\\n")
print(repr(sys.stdin.read()), [stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)])
print([signal.getsignal(signum) for signum in sorted(signal.valid_signals())], signal.pthread_sigmask(0, []))
print(sorted(os.listdir("/proc/self/fd")), [thread.name for thread in threading.enumerate()])
print(os.getpgrp(), os.getsid(0), os.umask(0))
print("grün", file=sys.stderr)
print("not flushed", end="")
{end}
"""
ENDS = {
    "": 0,
    "sys.exit(3)": 3,
    "sys.exit('for a reason')": 1,
    "raise ValueError('of a bug')": 1,
    "os._exit(4)": 4,
    "os.kill(os.getpid(), signal.SIGKILL)": -9,
    "signal.raise_signal(signal.SIGINT)": -2,
    "os.execv(sys.executable, [sys.executable, '-c', 'print(5, flush=True)'])": 0,
}


def run(start, command, cwd, **options):
    """Runs what stands behind `python`; returns (exit code, stdout, stderr)."""
    names = [cwd / name for name in ("stdin", "stdout", "stderr")]
    names[0].write_text("typed\n")
    with open(names[0]) as stdin, open(names[1], "w") as stdout, open(names[2], "w") as stderr:
        env = {**environment(), "MINE": "größer"}
        process = start(command, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, **options)
        process.wait(120)
    return process.returncode, names[1].read_text(), names[2].read_text()


def python(command, **options):
    """Starts a process of its own."""
    return subprocess.Popen([sys.executable, *map(str, command)], **options)


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), ENDS.items())
def test_a_fork_finds_and_leaves_what_a_process_of_its_own_does(tmp_path, end, code):
    path = tmp_path / "probe.py"
    path.write_text(PROBE.replace("{end}", end))
    expected, found = (run(start, [path, "--a=b", "c\udcff"], tmp_path) for start in (python, Program))
    assert expected[0] == code and "größer" in expected[1]
    assert found[0] == code and found[1].splitlines() == expected[1].splitlines()
    # Of a traceback, the frames that are above the script's are the server's.
    assert re.sub(r'(?s)(Traceback.*?)  File.*?(?=  File "[^"]*/probe.py")', r"\1", found[2]) == expected[2]


@pytest.mark.slow
def test_a_text_and_a_module_find_what_they_do_in_a_process_of_their_own(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE.replace("{end}", ""))
    text = PROBE.replace("__file__", "0").replace("{end}", "")
    for command in (["-c", text, "-a", "b"], ["-m", "probe", "--a=b"]):
        expected, found = (run(start, command, tmp_path) for start in (python, Program))
        assert expected[0] == 0 and found == expected


@pytest.mark.slow
def test_signals_are_ignored_from_the_beginning(tmp_path):
    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    text = PROBE.replace("__file__", "0").replace("{end}", "")
    expected = run(python, ["-c", text], tmp_path, preexec_fn=ignore)
    assert run(Program, ["-c", text], tmp_path, ignoring=[signal.SIGINT]) == expected
    assert run(Program, ["-c", text], tmp_path) != expected


@pytest.mark.slow
def test_pipes_are_written_read_and_closed(tmp_path):
    text = "import sys; print(sys.stdin.read().upper()); print('grün', file=sys.stderr); sys.exit(3)"
    program = Program(["-c", text], *[subprocess.PIPE] * 3)
    assert program.communicate("größer", 60) == ("GRÖSSER\n", "grün\n") and program.returncode == 3
    with Program(["-c", "print('ready', flush=True); import time; time.sleep(60)"], stdout=subprocess.PIPE) as program:
        assert program.stdout.readline() == "ready\n"
    assert program.returncode == -signal.SIGKILL and program.stdout.closed
    with pytest.raises(subprocess.TimeoutExpired):
        Program(["-c", "import time; time.sleep(60)"], stderr=subprocess.PIPE).communicate(timeout=0.2)


@pytest.mark.slow
def test_a_training_in_a_fork_is_one_in_a_process_of_its_own(synthetic_dir, tmp_path):
    """To the last bit; its console's lines differ in the time and the speed."""
    trainings = []
    for start in (python, Program):
        folder = tmp_path / start.__name__
        folder.mkdir()
        flags = arguments(synthetic_dir, folder / "train", max_steps=3)
        code, out, err = run(start, [SCRIPTS / "cifar10_train.py", *flags], folder)
        losses = re.findall(r": (step \d+, loss = \d+\.\d+) \(", out)
        said = [line.replace(str(folder), "") for line in err.splitlines() if "cifar10_eval.py" in line]
        assert code == 0 and len(losses) == 3 and len(said) == 1
        trainings.append((losses, said, final(folder / "train")))
    (*expected, expected_values), (*found, values) = trainings
    assert found == expected
    assert_equal_to_the_last_bit(values, expected_values)


@pytest.mark.slow
def test_forks_run_side_by_side_and_are_killed_one_by_one(tmp_path):
    path = tmp_path / "sleep.py"
    path.write_text("import time\ntime.sleep(60)\n")
    with open(os.devnull, "r+") as nothing:
        first, second = (Program([path], *[nothing] * 3) for _ in range(2))
    assert first.poll() is None and second.poll() is None and first.pid != second.pid
    first.kill()
    assert first.wait(10) == first.poll() == -signal.SIGKILL and second.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.1)
    second.send_signal(signal.SIGTERM)
    assert second.wait(10) == -signal.SIGTERM
