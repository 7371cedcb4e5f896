"""Who may connect to the ports of a cluster, and who answers at them."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys

import pytest
import tensorflow.compat.v1 as tf
from forkserver import environment
from processes import free_addresses

from cifar10.cluster import local, members
from cifar10.errors import ClusterError
from cifar10.machine import ports


def test_other_machines_are_refused_unless_they_are_allowed():
    with pytest.raises(ClusterError, match=r"^a:2222 is another machine's address, and .* takes --listen_on_network"):
        members.serve(members.from_hosts(["127.0.0.1:1", "a:2222"], 0), tf.ConfigProto())
    with pytest.raises(ClusterError, match=r"^a:2222 is another machine's address"):
        members.listen(members.from_hosts(["127.0.0.1:1", "a:2222"], 0))
    for address, loopback in (("localhost:1", True), ("127.1.2.3:1", True), ("[::1]:1", True), ("10.0.0.1:1", False)):
        assert ports.is_loopback(address) == loopback


def own_address():
    """Returns an address of this machine that is none of loopback's, or None."""
    with socket.socket(type=socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(("192.0.2.1", 9))  # sends nothing
            return any_socket.getsockname()[0]
        except OSError:
            return None


@pytest.mark.skipif(not own_address() or not ports.can_close(), reason="needs a network, and leave to filter")
def test_a_port_of_tensorflows_server_is_closed_to_all_but_this_machine():
    """TensorFlow listens on all interfaces; a packet that comes from the machine's network address is dropped."""
    (address,) = free_addresses(1)
    outside = f"{own_address()}:{address.rpartition(':')[2]}"
    here = members.from_hosts([address], 0)
    server = tf.train.Server(tf.train.ClusterSpec({"worker": [address]}), job_name="worker", task_index=0)
    assert ports.answers(address) and ports.answers(outside)
    files = len(os.listdir("/proc/self/fd"))
    ports.close_to_others(int(address.rpartition(":")[2]))
    assert len(os.listdir("/proc/self/fd")) <= files
    assert ports.answers(address) and not ports.answers(outside)
    with tf.Graph().as_default(), tf.Session(server.target) as session:
        assert session.run(tf.constant(1) + 1) == 2
    assert here.is_chief


@pytest.mark.skipif(not own_address(), reason="needs a network")
def test_the_meeting_is_closed_to_other_machines_unless_they_are_allowed():
    (address,) = free_addresses(1)
    port = address.rpartition(":")[2]
    for open_to_all in (False, True):
        here = dataclasses.replace(members.from_hosts([address], 0), listen_on_network=open_to_all)
        with members.listen(here):
            for host, connects in (("127.0.0.1", True), (own_address(), open_to_all)):
                try:
                    socket.create_connection((host, int(port)), 1.0).close()
                    assert connects
                except OSError:
                    assert not connects


def test_a_port_that_is_taken_gets_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        here = members.from_hosts([address], 0)
        with pytest.raises(
            ClusterError, match=rf"^{address}: cannot be listened at \(Address already in use.*another program"
        ):
            members.listen(here)


@pytest.mark.slow
def test_a_process_that_hangs_does_not_answer():
    """The system accepts connections for it all the same. TensorFlow's server, when it is at work, does answer."""
    (address,) = free_addresses(1)
    code = f"""
import tensorflow.compat.v1 as tf
server = tf.train.Server(tf.train.ClusterSpec({{"worker": ["{address}"]}}), job_name="worker", task_index=0)
print("here", flush=True)
server.join()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) as process:
        try:
            assert process.stdout.readline() == b"here\n" and ports.answers(address)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)  # all of its threads have stopped
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), 1.0).close()
            assert not ports.answers(address)
            process.send_signal(signal.SIGCONT)
            assert ports.answers(address)
        finally:
            process.kill()
    assert not ports.answers(address)


def test_where_a_port_cannot_be_closed_nothing_is_started(monkeypatch):
    def refuse(each):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(ports, "_attach_filter", refuse)
    monkeypatch.setattr(ports, "is_alone", lambda: False)
    monkeypatch.setattr(ports, "PRIVATE", ["no-such-program"])
    here = members.from_hosts(free_addresses(1), 0)
    with pytest.raises(ClusterError, match=r"cannot be closed to other machines \(Operation not permitted\)"):
        members.serve(here, tf.ConfigProto())
    with pytest.raises(ClusterError, match="permits neither a filter in front of a port nor a network of one's own"):
        local.train(["true"], 1)


@pytest.mark.slow
def test_a_network_of_its_own_reaches_this_process_and_nobody_else():
    code = """
from cifar10.machine import ports
import socket
assert ports.is_alone()
ports.raise_loopback()
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), 1.0).close()
assert not ports.answers("192.0.2.1:9")
"""
    if subprocess.run([*ports.PRIVATE, "true"], capture_output=True).returncode:
        pytest.skip("this system does not permit it")
    subprocess.run([*ports.PRIVATE, sys.executable, "-c", code], env=environment(), check=True)
    assert not ports.is_alone() or own_address() is None
