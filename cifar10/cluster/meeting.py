"""Where the workers meet before they train: at the chief's address, while TensorFlow's server is not there yet.

TensorFlow's collective ops work among processes that are there and alike, and once one is gone, those of the others
are of no use any more: all must begin anew. So they come here first, say what they were started with, and go on once
the last one has come; the chief tells them the step that training continues from. What is said is a line of JSON. Who
comes while the chief is still at its last training finds TensorFlow's server at the address, which does not greet as
the chief does, and tries again.
"""

import json
import socket
import socketserver
import threading
import time

from cifar10.cluster import members
from cifar10.errors import ClusterError

POLL_SECS = 0.5  # between two looks whether what is waited for has come; a signal waits as long
LINE_SECS = 10.0  # between two lines that say what is waited for
TALK_SECS = 5.0  # for one who is there to say something
_GREETING = b"cifar10\n"
_LONGEST = 2**16  # bytes of a line


class Waiting:
    """Says now and then what this process waits for, and gives up after a while."""

    def __init__(self, name, max_secs=0.0):
        """
        Args:
          name: of this process.
          max_secs: seconds after which to give up; 0: never.
        """
        self._name = name
        self._max_secs = max_secs
        self._since = self._told = time.monotonic()

    def is_long(self):
        """Returns whether it is time for a line."""
        return time.monotonic() - self._told >= LINE_SECS

    def look(self, missing):
        """Is called again and again while waiting.

        Args:
          missing: what is waited for, as text.

        Raises:
          ClusterError: it has not come for max_secs.
        """
        now = time.monotonic()
        waited = now - self._since
        if self._max_secs and waited >= self._max_secs:
            raise ClusterError(
                f"{self._name}: waited {waited:.0f} s for {missing}; see what became of it, or give it more "
                "--max_wait_secs"
            )
        if self.is_long():
            self._told = now
            print(f"{self._name}: waiting for {missing} since {waited:.0f} s", flush=True)


def lead(cluster, settings, start_step, max_wait_secs):
    """Waits, as the chief, until all other workers have come, and tells them the step to start from.

    Args:
      cluster: the members.Cluster.
      settings: {name: value} in which all must agree; values as JSON has them.
      start_step: int.
      max_wait_secs: seconds after which to give up; 0: never.

    Raises:
      ClusterError: the port is taken, or somebody has not come for max_wait_secs.
    """
    waiting = Waiting(cluster.name, max_wait_secs)
    with _Meeting(cluster, settings, start_step) as meeting:
        threading.Thread(target=meeting.serve_forever, args=[POLL_SECS], daemon=True).start()
        try:
            while not meeting.ends():
                waiting.look(cluster.describe(meeting.missing()))
                time.sleep(POLL_SECS)
        finally:
            meeting.over.set()
            meeting.shutdown()


def join(cluster, settings, max_wait_secs):
    """Goes to the meeting, as another worker, and returns the step that training starts from.

    Args:
      cluster, settings, max_wait_secs: see lead.

    Raises:
      ClusterError: the chief was started with other settings, or somebody has not come for max_wait_secs.
    """
    waiting = Waiting(cluster.name, max_wait_secs)
    host, _, port = cluster.workers[0].rpartition(":")
    while True:
        try:
            with (
                socket.create_connection((host.strip("[]"), int(port)), TALK_SECS) as each,
                each.makefile("rwb") as file,
            ):
                if file.read(len(_GREETING)) == _GREETING:
                    _say(file, {"task": cluster.task, "settings": settings})
                    while "missing" in (told := _hear(file)):
                        waiting.look(cluster.describe(told["missing"]))
                        _say(file, {})
                    if "refused" in told:
                        raise ClusterError(f"{cluster.name}: was started with {told['refused']}")
                    return told["start_step"]
        except (OSError, ValueError):
            pass  # it is not there, or not yet, or not any more
        waiting.look(cluster.describe([0]))
        time.sleep(POLL_SECS)


class _Meeting(socketserver.ThreadingTCPServer):
    """The chief's side.

    Attributes:
      here: {task: the _Guest who came last}.
      over: threading.Event: all have come, or the chief has given up.
    """

    def __init__(self, cluster, settings, start_step):
        super().__init__(None, _Guest, bind_and_activate=False)
        self.socket.close()
        self.socket = members.listen(cluster)
        self.cluster = cluster
        self.settings = settings
        self.start_step = start_step
        self.here = {}
        self.over = threading.Event()
        self._changing = threading.Lock()

    def missing(self):
        """Returns the tasks of those who have not come."""
        return [task for task in range(1, len(self.cluster.workers)) if task not in self.here]

    def ends(self):
        """Returns whether all have come; then nobody leaves any more."""
        with self._changing:
            if not self.missing():
                self.over.set()
            return self.over.is_set()

    def comes(self, task, guest):
        """Notes who has come; one who came as the same before is forgotten, for he must be gone."""
        with self._changing:
            self.here[task] = guest

    def leaves(self, task, guest):
        """Forgets a guest."""
        with self._changing:
            if not self.over.is_set() and self.here.get(task) is guest:
                del self.here[task]

    def handle_error(self, request, client_address):
        """Whoever is gone, or talks nonsense, is nobody's concern."""


class _Guest(socketserver.StreamRequestHandler):
    """The chief's side of one connection, in a thread of its own."""

    timeout = TALK_SECS

    def handle(self):
        meeting = self.server
        self.wfile.write(_GREETING)
        said = _hear(self.rfile)
        task, settings = int(said["task"]), said["settings"]
        if refused := self._difference(settings):
            _say(self.wfile, {"refused": refused})
            name = meeting.cluster.worker_name(task)
            print(f"{meeting.cluster.name}: refused {name}, which was started with {refused}", flush=True)
            return
        meeting.comes(task, self)
        try:
            while not meeting.over.wait(POLL_SECS):
                _say(self.wfile, {"missing": meeting.missing()})
                _hear(self.rfile)
        finally:
            meeting.leaves(task, self)
        if not meeting.missing() and meeting.here[task] is self:
            _say(self.wfile, {"start_step": meeting.start_step})

    def _difference(self, settings):
        """Returns the first setting that is another than the chief's, as text, or None."""
        for name, value in self.server.settings.items():
            if settings.get(name) != value:
                return f"{name}={settings.get(name)}, the chief with {name}={value}; start all with the same"
        return None


def _say(file, message):
    file.write(json.dumps(message).encode() + b"\n")
    file.flush()


def _hear(file):
    """Returns the next message; raises a ValueError if it is none, or broken off."""
    return json.loads(file.readline(_LONGEST))
