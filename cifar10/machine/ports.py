"""Ports of this machine: who may connect to them, and who answers at them.

TensorFlow's server listens on every network interface, whatever address it is given, and asks nobody who he is: whoever
reaches its port can run what he likes as the user who started it. On Linux a filter in front of the port lets pass what
comes from this machine only. Where the system does not permit that, a network of its own, without any other machine in
it, has the same effect.
"""

import contextlib
import ctypes
import errno
import ipaddress
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys

from cifar10.errors import MAX_SHOWN, ClusterError

try:
    import fcntl
except ImportError:  # not on Windows, where nothing that needs it is called
    fcntl = None

PRIVATE = ["unshare", "--user", "--map-root-user", "--net", "--"]  # what starts a program in a network of its own

# Of Linux: linux/filter.h, linux/bpf_common.h, asm-generic/socket.h, linux/sockios.h, net/if.h.
_ATTACH_FILTER = 26
_BYTE, _WORD, _SHIFT_RIGHT, _IF_EQUAL, _RETURN = 0x30, 0x20, 0x74, 0x15, 0x06
_IP = 0xFFF00000  # offset of the packet's IP header
_GET_INTERFACE, _SET_INTERFACE = 0x8913, 0x8914
_UP = 1
_LOOPBACK = "lo"
_THIS_HOST = ("127.0.0.1", "[::1]", "localhost")  # as two addresses on one machine may call it

# A program of the Berkeley packet filter: (operation, next if true, next if false, operand). A packet passes if its IP
# version is 4 and the sender 127.x.x.x, or 6 and ::1. The kernel takes no such packets from a cable.
_PASS, _DROP = 14, 15
_PROGRAM = (
    (_BYTE, 1, 1, _IP),
    (_SHIFT_RIGHT, 2, 2, 4),
    (_IF_EQUAL, 3, 5, 4),
    (_BYTE, 4, 4, _IP + 12),
    (_IF_EQUAL, _PASS, _DROP, 127),
    (_IF_EQUAL, 6, _DROP, 6),
    (_WORD, 7, 7, _IP + 8),
    (_IF_EQUAL, 8, _DROP, 0),
    (_WORD, 9, 9, _IP + 12),
    (_IF_EQUAL, 10, _DROP, 0),
    (_WORD, 11, 11, _IP + 16),
    (_IF_EQUAL, 12, _DROP, 0),
    (_WORD, 13, 13, _IP + 20),
    (_IF_EQUAL, _PASS, _DROP, 1),
    (_RETURN, 0, 0, 0xFFFFFFFF),
    (_RETURN, 0, 0, 0),
)


def check_addresses(addresses, source):
    """Raises a ClusterError, which names their source, if the addresses are not all host:port, each another one."""
    first = {}
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not re.fullmatch(r"[!-~]+", host) or not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) >= 2**16:
            raise ClusterError(f"{source}: {address[:MAX_SHOWN]!r} is no address; write host:port")
        if addresses.count(address) > 1:
            raise ClusterError(f"{source}: {address} is there {addresses.count(address)} times")
        same = first.setdefault(("localhost" if host in _THIS_HOST else host.lower(), port), address)
        if same != address:
            raise ClusterError(f"{source}: {same} and {address} are one address; each worker has its own")


def is_loopback(address):
    """Returns whether the address, host:port, is reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def refuse_other_machines(addresses):
    """Raises a ClusterError if one of the addresses, host:port, is not of this machine only."""
    for address in addresses:
        if not is_loopback(address):
            raise ClusterError(
                f"{address} is another machine's address, and opening a port to other machines takes "
                "--listen_on_network, whose --help says what that means"
            )


def listen(address, on_network):
    """Returns a socket.socket that listens at the address, host:port; raises an OSError if that is not possible.

    on_network: whether to listen on all interfaces, because the name may be that of a relay, as in Kubernetes.
    """
    host, _, port = address.rpartition(":")
    if on_network:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("", int(port)), family=family, dualstack_ipv6=both)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host.strip("[]"), int(port)), family=family)


def answers(address, timeout_secs=1.0):
    """Returns whether somebody is at the address, host:port, and at work.

    The system accepts connections also for a process that has been stopped, or hangs. A server of HTTP/2, as
    TensorFlow's is, says its settings as soon as somebody connects (RFC 9113, section 3.4), the chief of a meeting
    greets; one that hangs says nothing.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout_secs) as each:
            return bool(each.recv(1))
    except OSError:
        return False


@contextlib.contextmanager
def reserved(count):
    """Yields so many free ports of 127.0.0.1, which no other program is given meanwhile, but one may listen at.

    Raises:
      ClusterError: there are not so many.
    """
    with contextlib.ExitStack() as stack:
        try:
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        except OSError as error:
            raise ClusterError(f"{count} workers: too many for this machine ({error.strerror}); start fewer") from None
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(("127.0.0.1", 0))
        yield [each.getsockname()[1] for each in sockets]


def close_to_others(port):
    """Closes the port at which this process listens to all other machines.

    Raises:
      ClusterError: the system does not permit it.
    """
    if is_alone():
        return
    try:
        _try_filter()
        for each in _sockets(port):
            _attach_filter(each)
    except OSError as error:
        raise ClusterError(
            f"port {port} cannot be closed to other machines ({error.strerror}): use --local_workers, or start "
            f"everything below '{' '.join(PRIVATE)}', or, in a closed network, give --listen_on_network"
        ) from None


def can_close():
    """Returns whether close_to_others works here."""
    try:
        return is_alone() or _try_filter()
    except OSError:
        return False


def is_alone():
    """Returns whether this process is in a network without any other machine."""
    return sys.platform == "linux" and all(
        name == _LOOPBACK or not _flags(name) & _UP for _, name in socket.if_nameindex()
    )


def move_to_private_network(command):
    """Goes on as another program, in a network that no other machine is in, if the system permits that.

    Args:
      command: the program and its arguments.

    Raises:
      ClusterError: the system does not permit it.
    """
    if not shutil.which(PRIVATE[0]) or subprocess.run([*PRIVATE, "true"], capture_output=True).returncode:
        raise ClusterError(
            "this system permits neither a filter in front of a port nor a network of one's own, so the ports of the "
            "cluster would be open to other machines: in a closed network, give --listen_on_network"
        )
    os.execvp(PRIVATE[0], [*PRIVATE, *command])


def raise_loopback():
    """Makes 127.0.0.1 work, which it does not yet in a network that has just been made."""
    flags = _flags(_LOOPBACK)
    if not flags & _UP:
        with socket.socket(type=socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SET_INTERFACE, struct.pack("16sh14x", _LOOPBACK.encode(), flags | _UP))


def _flags(interface):
    with socket.socket(type=socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", interface.encode(), 0)
        return struct.unpack("16sh14x", fcntl.ioctl(any_socket, _GET_INTERFACE, request))[1]


def _sockets(port):
    """Yields this process's sockets of a local port: the one that listens, and connections that it already has."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # of one that has been closed meanwhile
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as each:
                if each.family in (socket.AF_INET, socket.AF_INET6) and each.getsockname()[1] == port:
                    yield each


def _try_filter():
    """Returns True, or raises an OSError where the system has no such filter or does not permit it."""
    with socket.socket() as any_socket:
        _attach_filter(any_socket)
    return True


def _attach_filter(each):
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, "this system has no such filter")
    program = b"".join(
        # A jump is counted from the next instruction.
        struct.pack("HBBI", operation, *((then - i - 1, otherwise - i - 1) if operation == _IF_EQUAL else (0, 0)), k)
        for i, (operation, then, otherwise, k) in enumerate(_PROGRAM)
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    each.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", len(_PROGRAM), ctypes.addressof(buffer)))
