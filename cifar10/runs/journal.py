"""A file of JSON lines that only grows, and whose lines are whole."""

import datetime
import json
import os

from cifar10.errors import RunError
from cifar10.machine import files

REMEDY = "mend that line, or move the file away"


class Journal:
    """JSON lines, of which one program at a time appends and any number read."""

    def __init__(self, path):
        self.path = path

    def append(self, values):
        """Appends one line, with the time in it.

        Raises:
          OSError: it cannot be written; then nothing of it is left.
        """
        line = json.dumps({"time": datetime.datetime.now().astimezone().isoformat(), **values}).encode() + b"\n"
        with open(self.path, "ab", buffering=0, opener=files.regular) as file:
            end = self._end_of_last_line()
            file.truncate(end)  # a line that a killed program or a full disk cut short
            try:
                written = file.write(line)
                if written != len(line):
                    file.write(line[written:])  # says why, by raising
            except OSError:
                file.truncate(end)
                raise

    def lines(self):
        """Returns the (number, dict) pairs of its whole lines, numbered from 1; none where there is no file.

        Raises:
          RunError: the file cannot be read, or a line is no JSON object.
        """
        try:
            with open(self.path, "rb", opener=files.regular) as file:
                whole = file.read().split(b"\n")[:-1]  # what follows the last line break was cut short
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            remedy = "make it readable" if isinstance(error, PermissionError) else "move it away"
            raise RunError(f"{self.path}: cannot be read ({error.strerror}); {remedy}") from None
        return [(number, self._parsed(number, line)) for number, line in enumerate(whole, 1) if line.strip()]

    def last(self, **wanted):
        """Returns the last line that has these values, as a dict, or None: also where there is no file."""
        return next((values for _, values in reversed(self.lines()) if wanted.items() <= values.items()), None)

    def _parsed(self, number, line):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:  # deep nesting
            raise RunError(f"{self.path}: line {number} is not JSON ({type(error).__name__}); {REMEDY}") from None
        if not isinstance(values, dict):
            raise RunError(f"{self.path}: line {number} is no JSON object; {REMEDY}")
        return values

    def _end_of_last_line(self):
        with open(self.path, "rb", opener=files.regular) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read() != b"\n":
                    file.seek(0)
                    return file.read().rfind(b"\n") + 1
        return size
