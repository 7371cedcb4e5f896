"""The parent of a local cluster, with shell commands in the place of its workers."""

import time

import pytest

from cifar10.cluster import local
from cifar10.errors import ClusterError

FIRST = 'case "$TF_CONFIG" in *\'"index": 0\'*)'  # begins what only worker 0 does


def shell(script):
    """Returns a command, which ignores the arguments that it is given besides."""
    return ["sh", "-c", script]


def test_all_end_well_with_the_chief():
    assert local.train(shell("exit 0"), 3) is None


def test_a_worker_that_fails_ends_all():
    started = time.monotonic()
    with pytest.raises(ClusterError, match=r"^worker 1 failed; what it says is above$"):
        local.train(shell(f"{FIRST} exec sleep 60;; esac; exit 3"), 2)
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_all_begin_anew_where_one_is_lost_but_not_for_ever(tmp_path, capfd):
    """The chief says which life it is in, and the other one is killed, or begins anew by itself."""
    (tmp_path / "lives").touch()
    says = f"echo {local.CHIEF} >>{tmp_path}/lives; exec sleep 60"
    with pytest.raises(ClusterError, match=r"^lost workers 31 times within 600 s; see above$"):
        local.train(shell(f"{FIRST} {says};; esac; sleep 0.1; kill -9 $$"), 2)
    assert len((tmp_path / "lives").read_text().split()) == 31
    assert capfd.readouterr().out.count("worker 1 was killed by SIGKILL; all begin anew\n") == 31
    (tmp_path / "lives").write_text("")
    ends = f"test $(wc -l <{tmp_path}/lives) -lt 3 || exit 0; exec sleep 60"
    local.train(shell(f"{FIRST} echo >>{tmp_path}/lives; {ends};; esac; sleep 0.1; exit {local.BEGIN_ANEW}"), 2)
    assert len((tmp_path / "lives").read_text()) == 3


def test_a_run_is_moved_aside_in_the_first_life_only():
    assert local.again(["program", "--restart"]) == ["program", "--restart", "--norestart"]
    assert local.again(local.again(["program"])) == ["program", "--norestart"]
