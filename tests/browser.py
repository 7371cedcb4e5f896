"""A real browser for tests: headless Chromium, driven through a pair of pipes, with nothing else to install."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--remote-debugging-pipe",  # commands on file descriptor 3, answers on 4, as JSON that ends in a zero byte
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1500,9000",  # so high that TensorBoard, which draws what can be seen, draws all
]
# $$(selector) gives the elements that match, also those inside of shadow roots, of which TensorBoard is full.
DEEP = """
window.$$ = (selector, root = document) => [...root.querySelectorAll('*')].flatMap(e =>
    (e.matches(selector) ? [e] : []).concat(e.shadowRoot ? $$(selector, e.shadowRoot) : []));
"""


class Browser:
    """One page of a Chromium that is started for it; a context manager.

    Attributes:
      errors: the messages of what the page's scripts threw since it was opened.
    """

    def __enter__(self):
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._commands = os.pipe()
        self._answers, theirs_out = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out)]  # neither 3 nor 4
        actions = [
            (os.POSIX_SPAWN_DUP2, ends[0], 3),
            (os.POSIX_SPAWN_DUP2, ends[1], 4),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        arguments = [CHROMIUM, *FLAGS, f"--user-data-dir={self._home.name}/profile", "about:blank"]
        environment = {**os.environ, "HOME": self._home.name, "TMPDIR": self._home.name}  # to leave nothing elsewhere
        self._process = os.posix_spawn(CHROMIUM, arguments, environment, file_actions=actions, setpgroup=0)
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self._received, self._sent, self._session, self.errors = b"", 0, None, []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")
        self._call("Runtime.enable")
        self._call("Page.addScriptToEvaluateOnNewDocument", source=DEEP)
        return self

    def __exit__(self, *_):
        os.close(self._commands)  # of which it ends
        end = time.monotonic() + 10
        while not (ended := os.waitpid(self._process, os.WNOHANG)[0]) and time.monotonic() < end:
            time.sleep(0.05)
        if not ended:
            os.killpg(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
        os.close(self._answers)
        self._home.cleanup()

    def open(self, url):
        """Loads a page."""
        self.errors.clear()
        self._call("Page.navigate", url=url)

    def evaluate(self, script):
        """Returns the value of a JavaScript expression in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script, seconds=30):
        """Returns the value of a JavaScript expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"not so after {seconds} s: {script}; the page's errors: {self.errors}"
            time.sleep(0.1)
        return value

    def screenshot(self, path):
        """Writes what the page shows as a PNG file."""
        with open(path, "wb") as file:
            file.write(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method, **parameters):
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("method") == "Runtime.exceptionThrown":
                details = answer["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            if answer.get("id") == self._sent:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _receive(self, seconds=60):
        while b"\0" not in self._received:
            assert select.select([self._answers], [], [], seconds)[0], "Chromium does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, "Chromium has ended"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)
