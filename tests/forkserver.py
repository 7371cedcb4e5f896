"""Scripts in processes that are forks of one, the server, which has imported TensorFlow and cifar10 once for all.

The imports take seconds, which is more than most scripts need for the rest. The server does nothing else: it builds no
graph, opens no session and starts no thread, so that a fork of it stands where a script stands after its imports. It
goes on with its own arguments, folder, environment variables and files, and ends as any program does.

The server has read before what Python and TensorFlow read when they are started or imported: PYTHONIOENCODING,
TF_CPP_MIN_LOG_LEVEL, whether standard output is a terminal, which signals are ignored. Tests of these start Python.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAX_BYTES = 2**17  # of a request, which arrives in one piece


def environment():
    """Returns the environment in which scripts find the package of this tree."""
    return {**os.environ, "PYTHONPATH": ROOT, "TF_CPP_MIN_LOG_LEVEL": "2"}


class Script:
    """A running script, with some of the methods of subprocess.Popen."""

    def __init__(self, path, arguments, files, cwd, env):
        """Starts it.

        Args:
          path, arguments: of the script.
          files: its standard input, output and error.
          cwd: its current folder.
          env: {name: value}, its environment variables.
        """
        self._reports, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"argv": [str(path), *map(str, arguments)], "cwd": str(cwd), "env": dict(env)}
        with theirs:
            descriptors = [*(file.fileno() for file in files), theirs.fileno()]
            socket.send_fds(_server(), [json.dumps(request).encode()], descriptors)
        self.pid = int(self._reports.recv(MAX_BYTES))
        self.returncode = None

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._reports], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            with self._reports:
                self.returncode = int(self._reports.recv(MAX_BYTES))
        return self.returncode

    def poll(self):
        try:
            return self.wait(timeout=0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, signum):
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self):
        self.send_signal(signal.SIGKILL)


@functools.cache
def _server():
    """Starts the server; returns the socket that it reads until that is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno())]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment())
    atexit.register(server.wait)
    atexit.register(ours.close)  # which comes first
    return ours


def _serve(connection):
    """Forks for each request; returns in the fork, or at the end."""
    while True:
        message, descriptors, *_ = socket.recv_fds(connection, MAX_BYTES, 4)
        with contextlib.suppress(ChildProcessError):  # none is left
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not message:
            sys.exit()
        if not os.fork():
            connection.close()
            return json.loads(message), descriptors
        for descriptor in descriptors:
            os.close(descriptor)


def _report(report):
    """Forks again; the parent says which process the script is, and how it ended. Returns in the child."""
    if pid := os.fork():
        report.send(str(pid).encode())
        report.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
        os._exit(0)
    report.close()


def _main():
    import cifar10  # noqa: F401

    gc.freeze()  # what was imported is no garbage, and its memory remains shared
    request, (*descriptors, report) = _serve(socket.socket(fileno=int(sys.argv[1])))
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    _report(socket.socket(fileno=report))
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    sys.orig_argv = [sys.executable, *sys.argv]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _main()
