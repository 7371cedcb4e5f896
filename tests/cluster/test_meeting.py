"""The meeting, with threads in the place of processes."""

import concurrent.futures
import json
import re
import socket
import threading
import time

import pytest
from processes import free_addresses

from cifar10.cluster import meeting, members
from cifar10.errors import ClusterError
from cifar10.machine import ports

SETTINGS = {"--seed": 0, "--lrn": "auto", "--microbatch_size": None}


@pytest.fixture
def clusters():
    """Three workers' descriptions."""
    addresses = free_addresses(3)
    return [members.from_hosts(addresses, task) for task in range(3)]


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def quick(monkeypatch):
    """Lines every so often, and little patience with who says nothing."""
    monkeypatch.setattr(meeting, "LINE_SECS", 1.0)
    monkeypatch.setattr(meeting, "TALK_SECS", 0.5)
    monkeypatch.setattr(meeting, "POLL_SECS", 0.1)


def test_all_go_on_together_once_the_last_has_come(clusters, pool):
    """They may come before the chief, and long after it."""
    first = pool.submit(meeting.join, clusters[1], SETTINGS, 30)
    time.sleep(0.2)
    chief = pool.submit(meeting.lead, clusters[0], SETTINGS, 123, 30)
    time.sleep(1.0)
    assert not first.done() and not chief.done()
    assert meeting.join(clusters[2], SETTINGS, 30) == first.result(5) == 123
    assert chief.result(5) is None


@pytest.mark.parametrize("name", SETTINGS)
def test_who_was_started_otherwise_is_told_which_flag_and_the_others_wait_on(clusters, pool, capfd, name):
    chief = pool.submit(meeting.lead, clusters[0], SETTINGS, 5, 30)
    expected = f"worker 1: was started with {name}=7, the chief with {name}={SETTINGS[name]}; start all with the same"
    with pytest.raises(ClusterError, match=f"^{re.escape(expected)}$"):
        meeting.join(clusters[1], {**SETTINGS, name: 7}, 30)
    said, end = "", time.monotonic() + 5
    while f"worker 0: refused worker 1, which was started with {name}=7" not in said:
        assert time.monotonic() < end, said  # the chief says it after it has told the worker
        said += capfd.readouterr().out
    assert not chief.done()
    others = [pool.submit(meeting.join, clusters[task], SETTINGS, 30) for task in (1, 2)]
    assert [other.result(5) for other in others] == [5, 5] and chief.result(5) is None


@pytest.mark.slow
def test_all_are_told_who_is_missing_and_there_is_an_end_to_waiting(clusters, pool, capfd, quick):
    chief = pool.submit(meeting.lead, clusters[0], SETTINGS, 5, 2.5)
    guest = pool.submit(meeting.join, clusters[1], SETTINGS, 0)
    address = clusters[0].workers[2]
    with pytest.raises(meeting.Missing, match=rf"^worker 0: waited \d s for worker 2 \({address}\); see what became"):
        chief.result(10)
    chief = pool.submit(meeting.lead, clusters[0], SETTINGS, 5, 30)  # it has been started again
    assert meeting.join(clusters[2], SETTINGS, 30) == guest.result(10) == 5
    chief.result(5)
    lines = capfd.readouterr().out.splitlines()
    for name in ("worker 0", "worker 1"):
        assert f"{name}: waiting for worker 2 ({address}) since 1 s" in lines
        assert f"{name}: waiting for worker 2 ({address}) since 2 s" in lines


def guest_by_hand(address, task, settings=SETTINGS):
    """Comes to a meeting; returns its connection, on which all that follows is left to the test."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            connection = socket.create_connection((host, int(port)), 5.0)
            break
        except OSError:
            time.sleep(0.05)
    assert connection.recv(100) == b'"cifar10"\n'
    connection.sendall(json.dumps({"task": task, "settings": settings}).encode() + b"\n")
    return connection


@pytest.mark.slow
@pytest.mark.parametrize("leaves", ["hangs", "dies"])
def test_who_came_and_is_gone_again_is_missed(clusters, pool, quick, leaves):
    """One who hangs keeps its connection, and says nothing."""
    chief = pool.submit(meeting.lead, clusters[0], SETTINGS, 5, 30)
    with guest_by_hand(clusters[0].address, 1) as gone:
        assert b"missing" in gone.recv(100)
        if leaves == "dies":
            gone.close()
        time.sleep(1.5)
        second = pool.submit(meeting.join, clusters[2], SETTINGS, 30)
        time.sleep(1.0)
        assert not chief.done() and not second.done()
        assert meeting.join(clusters[1], SETTINGS, 30) == second.result(5) == 5
    chief.result(5)


@pytest.mark.parametrize(
    "nonsense", [b"", b"PRI * HTTP/2.0\r\n\r\n", b"[]\n", b"{}\n", b'{"task": "1", "settings": {}}\n']
)
def test_strangers_do_no_harm(clusters, pool, quick, nonsense):
    chief = pool.submit(meeting.lead, clusters[0], SETTINGS, 5, 30)
    while not ports.answers(clusters[0].address):
        time.sleep(0.05)
    host, _, port = clusters[0].address.rpartition(":")
    with socket.create_connection((host, int(port)), 5.0) as stranger:
        stranger.sendall(nonsense)
        guests = [pool.submit(meeting.join, clusters[task], SETTINGS, 30) for task in (1, 2)]
        assert [guest.result(10) for guest in guests] == [5, 5]
    chief.result(5)


def test_a_server_of_something_else_at_the_chiefs_address_is_not_taken_for_the_chief(clusters, pool, quick):
    """As TensorFlow's is, while the chief has not noticed yet that a worker was lost and has come again."""
    host, _, port = clusters[0].address.rpartition(":")
    guest = pool.submit(meeting.join, clusters[1], SETTINGS, 30)
    with socket.create_server((host, int(port))) as server:
        for greeting in (b"\x00\x00\x18\x04\x00\x00\x00\x00\x00" + bytes(24), b'"another"\n'):
            connection, _ = server.accept()
            with connection:
                connection.sendall(greeting)
                assert connection.recv(100) == b""
    assert not guest.done()
    chief = threading.Thread(target=meeting.lead, args=[clusters[0], SETTINGS, 5, 30])
    chief.start()
    assert meeting.join(clusters[2], SETTINGS, 30) == guest.result(10) == 5
    chief.join()
