"""JSON lines that are whole."""

import json

import pytest

from cifar10.machine import locks
from cifar10.runs.journal import Journal


@pytest.mark.parametrize("torn", [b"", b'{"step": 2, "lo', b"\xff\xfe"])
def test_a_torn_line_is_replaced_by_the_next(tmp_path, torn):
    journal = Journal(tmp_path / "j.jsonl")
    journal.append({"step": 1})
    with open(journal.path, "ab") as file:
        file.write(torn)
    assert journal.last()["step"] == 1
    journal.append({"step": 2})
    assert [json.loads(line)["step"] for line in journal.path.read_bytes().splitlines()] == [1, 2]


def test_last_finds_the_last_line_with_the_wanted_values(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    assert journal.last() is None
    for event, step in (("start", 0), ("stop", 5), ("start", 5), ("stop", 7)):
        journal.append({"event": event, "step": step})
    assert (journal.last()["step"], journal.last(event="start")["step"]) == (7, 5)
    assert journal.last(event="other") is None


def test_a_lock_says_who_holds_it_and_is_free_afterwards(tmp_path):
    class Busy(Exception):
        pass

    def busy(holder):
        raise Busy(holder)

    path = tmp_path / "lock"
    with locks.held(path, busy), pytest.raises(Busy, match=r"^process \d+ on "), locks.held(path, busy):
        pass
    with locks.held(path, busy):
        pass
    assert path.read_text() == ""
