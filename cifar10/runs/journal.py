"""A file of JSON lines that only grows, and whose lines are whole."""

import contextlib
import datetime
import json
import os


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
        with open(self.path, "ab", buffering=0) as file:
            end = self._end_of_last_line()
            file.truncate(end)  # a line that a killed program or a full disk cut short
            try:
                written = file.write(line)
                if written != len(line):
                    file.write(line[written:])  # says why, by raising
            except OSError:
                file.truncate(end)
                raise

    def last(self, **wanted):
        """Returns the last line that has these values, as a dict, or None: also where there is no file."""
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                lines = file.readlines()
        except OSError:
            return None
        for line in reversed(lines):
            try:
                values = json.loads(line)
            except ValueError:
                continue
            if isinstance(values, dict) and wanted.items() <= values.items():
                return values
        return None

    def having(self, name):
        """Returns the lines that have a value of this name, as dicts, oldest first: none where there is no file."""
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                lines = file.readlines()
        except OSError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [values for values in found if isinstance(values, dict) and name in values]

    def _end_of_last_line(self):
        with open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read() != b"\n":
                    file.seek(0)
                    return file.read().rfind(b"\n") + 1
        return size
