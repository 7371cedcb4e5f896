"""What is for somebody at a terminal only."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time

import published
import pytest
from forkserver import Program
from helpers import FILES, SCRIPTS, arguments, save_network

from cifar10.machine import terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_says_how_far_it_is_and_what_is_left(monkeypatch):
    """The first one is slow; then 5 in 2.5 seconds, so that the last 4 take two. Then the line is taken away."""
    screen, now = Terminal(), [100.0]
    monkeypatch.setattr(sys, "stderr", screen)
    progress = terminal.Progress("step", 1010, clock=lambda: now[0])
    for done, secs in ((1000, 100.1), (1001, 130.5), (1006, 133.0), (1007, 133.1)):  # the first and last: too soon
        now[0] = secs
        progress.show(done)
    progress.close()
    lines = [line for line in screen.getvalue().split("\r") if line]
    assert lines == ["step 1,001 of 1,010", "step 1,006 of 1,010, 2 s left", " " * 29]
    assert screen.getvalue().endswith("\r") and "\n" not in screen.getvalue()


def test_nothing_is_shown_where_nobody_looks(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    now = [0.0]
    progress = terminal.Progress("step", 10, clock=lambda: now[0])
    now[0] = 5.0
    progress.show(5)
    progress.close()
    terminal.say("hello")
    assert log.getvalue() == ""


def test_a_line_of_progress_may_be_hidden(monkeypatch):
    screen, now = Terminal(), [0.0]
    monkeypatch.setattr(sys, "stderr", screen)
    progress = terminal.Progress("picture", 10, clock=lambda: now[0], hidden=True)
    now[0] = 5.0
    progress.show(5)
    progress.close()
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("secs", "said"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (6000, "1.7 h"), (360000, "100.0 h")]
)
def test_durations_are_said_as_people_do(secs, said):
    assert terminal.duration(secs) == said


def on_a_terminal(script, *flags, pause_at=None):
    """Runs a script whose standard error is a terminal; returns what it printed on standard output, and there.

    It stands still for a while after a line of standard output with `pause_at`, so that it has lasted long enough.
    """
    ours, theirs = pty.openpty()
    with Program([SCRIPTS / f"{script}.py", *flags], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        out = ""
        for line in process.stdout:
            out += line
            if pause_at and pause_at in line:
                process.send_signal(signal.SIGSTOP)
                time.sleep(1.2 * terminal.FIRST_SECS)
                process.send_signal(signal.SIGCONT)
        code = process.wait(60)
    screen = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        screen += part
    os.close(ours)
    assert code == 0, screen
    return out, screen.decode()


@pytest.mark.slow
def test_a_training_on_a_terminal_shows_more_and_prints_the_same(synthetic_dir, tmp_path):
    flags = arguments(synthetic_dir, tmp_path / "train", max_steps=30)
    out, screen = on_a_terminal("cifar10_train", *flags, pause_at=": step 9,")
    console = [line for line in out.splitlines() if re.match(published.CONSOLE_LINE, line)]
    assert len(console) == 30
    assert (
        f"To watch it: tensorboard --logdir {tmp_path / 'train'}, then "
        "http://localhost:6006/?smoothing=0#custom_scalars&_smoothingWeight=0" in screen
    )
    assert re.search(r"\rstep \d+ of 30, \d+ s left *\r", screen)
    assert re.search(r"ended at step 30 with loss .*, 30 steps in \d+ s; saved as ", screen)
    assert "tensorboard" not in out and " of 30" not in out and "ended" not in out


@pytest.mark.slow
def test_predictions_of_many_pictures_say_what_is_left(tmp_path):
    """Standard output, which is no terminal, has the predictions alone."""
    save_network(tmp_path / "train", [5])
    (tmp_path / "pictures").mkdir()
    for i in range(1500):
        (tmp_path / "pictures" / f"{i:04}.png").write_bytes(FILES["png"])
    out, screen = on_a_terminal(
        "cifar10_predict", f"--checkpoint_dir={tmp_path / 'train'}", "--batch_size=32", tmp_path / "pictures"
    )
    lines = out.splitlines()
    assert len(lines) == 1500 and all(line.startswith(f"{tmp_path}/pictures/") for line in lines)
    assert re.search(r"\rpicture [\d,]+ of 1,500(, \d+ s left)? *\r", screen)
    assert screen.endswith(" \r")  # nothing of it stays
