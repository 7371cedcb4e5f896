"""Where the workers meet before they train: at the chief's address, while TensorFlow's server is not there yet.

TensorFlow's collective ops work among processes that are there and alike, and once one is gone, those of the others
are of no use any more: all must begin anew. So they come here first, say what they were started with, and go on once
the last one has come; the chief tells them the step that training continues from. What is said is a line of JSON. Who
comes while the chief is still at its last training finds TensorFlow's server at the address, which does not greet as
the chief does, and tries again.
"""

import contextlib
import json
import socket
import time

from cifar10.cluster import members
from cifar10.errors import ClusterError

POLL_SECS = 0.5  # between two looks whether what is waited for has come; a signal waits as long
LINE_SECS = 8.0  # between two lines that say what is waited for; to find that out takes another second or two
TALK_SECS = 3.0  # for one who is there to say something
_GREETING = "cifar10"
_LONGEST = 2**16  # bytes of a line
_LOST = (OSError, ValueError)  # of who is gone, or hangs


class Missing(ClusterError):
    """Somebody has not come."""


class Waiting:
    """Says now and then what this process waits for, and gives up after a while."""

    def __init__(self, name, max_secs=0.0):
        """name: of this process; max_secs: seconds after which to give up, 0: never."""
        self._name = name
        self._max_secs = max_secs
        self._since = self._told = time.monotonic()

    def look(self, missing):
        """Is called again and again while waiting; missing: function that returns what is waited for, as text.

        Raises:
          Missing: it has not come for max_secs.
        """
        now = time.monotonic()
        waited = now - self._since
        if self._max_secs and waited >= self._max_secs:
            raise Missing(
                f"{self._name}: waited {waited:.0f} s for {missing()}; see what became of it, or give it more "
                "--max_wait_secs"
            )
        if now - self._told >= LINE_SECS:
            self._told = now
            print(f"{self._name}: waiting for {missing()} since {waited:.0f} s", flush=True)


def lead(cluster, settings, start_step, max_wait_secs):
    """Waits, as the chief, until all other workers have come, and tells them the step to start from.

    Args:
      cluster: the members.Cluster.
      settings: {name: value} in which all must agree; values as JSON has them.
      start_step: int.
      max_wait_secs: seconds after which to give up; 0: never.

    Raises:
      ClusterError: the port is taken.
      Missing: somebody has not come for max_wait_secs.
    """
    waiting = Waiting(cluster.name, max_wait_secs)
    others = range(1, len(cluster.workers))
    asked, guests = time.monotonic(), {}  # task: its _Line
    with members.listen(cluster) as listener, contextlib.ExitStack() as stack:
        listener.settimeout(POLL_SECS)
        while missing := [task for task in others if task not in guests]:
            with contextlib.suppress(*_LOST):
                line = _Line(stack.enter_context(listener.accept()[0]))
                if (task := _admitted(cluster, settings, line)) is not None:
                    guests[task] = line  # whoever came as the same before is gone
            if len(guests) == len(others) or time.monotonic() - asked >= POLL_SECS:
                asked = time.monotonic()
                guests = {task: line for task, line in guests.items() if line.asks({"missing": missing})}
            waiting.look(lambda missing=missing: cluster.describe(missing))
        for line in guests.values():
            with contextlib.suppress(OSError):  # who is gone now will be missed at the first collective
                line.say({"start_step": start_step})


def join(cluster, settings, max_wait_secs):
    """Goes to the meeting, as another worker, and returns the step that training starts from.

    Args as of lead.

    Raises:
      ClusterError: the chief was started with other settings.
      Missing: somebody has not come for max_wait_secs.
    """
    waiting = Waiting(cluster.name, max_wait_secs)
    host, _, port = cluster.workers[0].rpartition(":")
    while True:
        with (
            contextlib.suppress(*_LOST),
            socket.create_connection((host.strip("[]"), int(port)), TALK_SECS) as connection,
        ):
            line = _Line(connection)
            if line.hear() == _GREETING:
                line.say({"task": cluster.task, "settings": settings})
                while "missing" in (told := line.hear()):
                    waiting.look(lambda told=told: cluster.describe(told["missing"]))
                    line.say({})
                if "refused" in told:
                    raise ClusterError(f"{cluster.name}: was started with {told['refused']}")
                return told["start_step"]
        waiting.look(lambda: cluster.describe([0]))
        time.sleep(POLL_SECS)


class _Line:
    """A connection on which one says and hears messages, of which each is a value of JSON."""

    def __init__(self, connection):
        connection.settimeout(TALK_SECS)
        self._connection = connection
        self._reader = connection.makefile("rb")

    def say(self, message):
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def hear(self):
        """Returns the next message; raises a ValueError if it is none, or broken off."""
        return json.loads(self._reader.readline(_LONGEST))

    def asks(self, message):
        """Says something that is to be answered; returns whether it is, whatever the answer."""
        with contextlib.suppress(*_LOST):
            self.say(message)
            self.hear()
            return True
        return False


def _admitted(cluster, settings, line):
    """Greets somebody at the chief's; returns the task that has come, or None if it must not stay."""
    line.say(_GREETING)
    match line.hear():
        case {"task": int(task), "settings": dict(found)}:
            differing = next((name for name, value in settings.items() if found.get(name) != value), None)
            if differing is None:
                return task
            refused = f"{differing}={found.get(differing)}, the chief with {differing}={settings[differing]}"
            line.say({"refused": f"{refused}; start all with the same"})
            print(f"{cluster.name}: refused {cluster.worker_name(task)}, which was started with {refused}", flush=True)
    return None  # also of somebody else's program
