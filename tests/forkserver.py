"""Python programs in processes that are forks of one, the server, which has imported TensorFlow once for all.

The import takes seconds, which is more than most programs need for the rest. The server does nothing else: it builds no
graph, opens no session and starts no thread, so that a fork of it stands where a program stands after it has imported
TensorFlow. It goes on with its own arguments, folder, environment variables, files and signals that are ignored, and
ends as any program does.

The server has read before what Python and TensorFlow read when they are started or imported: PYTHONIOENCODING and
TF_CPP_MIN_LOG_LEVEL. Tests of these start Python.
"""

import atexit
import concurrent.futures
import contextlib
import functools
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}
MAX_BYTES = 2**17  # of a request, which arrives in one piece


def environment():
    """Returns the environment in which scripts find the package of this tree."""
    return {**os.environ, "PYTHONPATH": ROOT, "TF_CPP_MIN_LOG_LEVEL": "2"}


class Program:
    """A running program, with what tests need of subprocess.Popen."""

    def __init__(self, command, stdin=None, stdout=None, stderr=None, cwd=None, env=None, ignoring=()):
        """Starts it.

        Args:
          command: what stands behind `python`: [path of a script, or -m and a module, or -c and a text, *arguments].
          stdin, stdout, stderr: its files; None: those of this process; subprocess.PIPE: this process has the other
            end, as an attribute of that name, whose text is UTF-8.
          cwd: its current folder; None: that of this process.
          env: {name: value}, its environment variables; None: environment().
          ignoring: the signals that it ignores from the beginning, as nohup's and what a shell starts with `&`.
        """
        self.stdin = self.stdout = self.stderr = None
        with contextlib.ExitStack() as theirs:
            descriptors = []
            for number, (name, file) in enumerate(zip(STREAMS, (stdin, stdout, stderr), strict=True)):
                if file == subprocess.PIPE:
                    reader, writer = os.pipe()
                    ends = os.fdopen(reader, encoding="utf-8"), os.fdopen(writer, "w", encoding="utf-8")
                    file, ours = ends if name == "stdin" else ends[::-1]
                    theirs.enter_context(file)
                    setattr(self, name, ours)
                descriptors.append(number if file is None else file if isinstance(file, int) else file.fileno())
            self._reports, reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            descriptors.append(theirs.enter_context(reports).fileno())
            request = {
                "command": [str(each) for each in command],
                "cwd": str(cwd or os.getcwd()),
                "env": dict(environment() if env is None else env),
                "ignoring": list(ignoring),
            }
            socket.send_fds(_server(), [json.dumps(request).encode()], descriptors)
        self.pid = int(self._reports.recv(MAX_BYTES))
        self.returncode = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Kills it if it still runs."""
        self.kill()
        self.wait()
        for pipe in filter(None, (self.stdin, self.stdout, self.stderr)):
            pipe.close()

    def communicate(self, input=None, timeout=None):
        """Writes a text, if there is one; returns (stdout, stderr), what came where they are pipes, at the end."""
        with self, concurrent.futures.ThreadPoolExecutor(2) as pool:
            pipes = (self.stdout, self.stderr)
            texts = [pool.submit(pipe.read) if pipe and not pipe.closed else None for pipe in pipes]
            if self.stdin:
                with self.stdin:
                    self.stdin.write(input or "")
            try:
                self.wait(timeout)
            finally:
                self.kill()  # which ends the threads
            return tuple(text and text.result() for text in texts)

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


def subprocesses():
    """Returns what a module can have in the place of `subprocess`, if all that it starts is Python."""

    def popen(command, text=True, **options):
        assert command[0] == sys.executable and text
        return Program(command[1:], **options)

    def run(command, **options):
        program = popen(command, **options)
        out, err = program.communicate()
        return subprocess.CompletedProcess(command, program.returncode, out, err)

    return types.SimpleNamespace(Popen=popen, run=run, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)


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
    import tensorflow.compat.v1  # noqa: F401

    gc.freeze()  # what was imported is no garbage, and its memory remains shared
    request, (*descriptors, report) = _serve(socket.socket(fileno=int(sys.argv[1])))
    for (name, mode), descriptor in zip(STREAMS.items(), descriptors, strict=True):
        stream = getattr(sys, name)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
        raw = os.fdopen(stream.fileno(), f"{mode}b", 0 if stream.write_through else -1, closefd=False)
        anew = io.TextIOWrapper(raw, stream.encoding, stream.errors, write_through=stream.write_through)
        anew.reconfigure(line_buffering=name == "stderr" or anew.isatty())
        setattr(sys, name, anew)
        setattr(sys, f"__{name}__", anew)
    _report(socket.socket(fileno=report))
    for signum in request["ignoring"]:
        signal.signal(signum, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    first, *arguments = command = request["command"]
    sys.orig_argv = [sys.executable, *command]
    if first == "-c":
        text, *arguments = arguments
        sys.argv, sys.path[0] = [first, *arguments], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(text, "<string>", "exec"), main.__dict__)
    elif first == "-m":
        sys.argv, sys.path[0] = arguments, os.getcwd()
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = command, os.path.dirname(first)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    _main()
