"""Errors that are the user's to mend: the message is one line that names the thing, what was found and the remedy."""

import json
import re

MAX_SHOWN = 60  # characters of a value in a message


class UserError(Exception):
    """Anything that ends a script with one line and exit code 1."""


class DataError(UserError, ValueError):
    """A data set that is missing, incomplete or damaged."""


class GraphError(UserError, ValueError, RuntimeError):
    """A graph that cannot be built in this way."""


class RunError(UserError):
    """A run or checkpoint that cannot go on."""


class ClusterError(UserError):
    """A cluster that is described wrongly, may not be, or of which a part is missing."""


class Lost(Exception):
    """Other processes that a step needs are gone, or hang. The step has changed nothing, and the run is saved."""


def refuse_scheme(name, path):
    """Raises a UserError if a path has a scheme, as gs:// and file:// are: files here are this machine's.

    Args:
      name: what the error calls it.
      path: the path; anything that is no string passes.
    """
    if isinstance(path, str) and (scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path)):
        raise UserError(
            f"{name}: paths with a scheme such as {scheme[0]} are not served; mount the storage, or copy from it "
            "and to it, and give a path of this machine"
        )


def reason(error):
    """Returns the first line of an error's message, which in TensorFlow may run over many."""
    if hasattr(error, "node_def") and type(error.__context__) is type(error):
        error = error.__context__  # the op's own, before a session put lines on where its node was defined in front
    text = getattr(error, "strerror", None) or str(getattr(error, "message", error))
    return (text.strip().splitlines() or [type(error).__name__])[0]


def counted(number, noun):
    """Returns a number with its noun: `1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shortened(value):
    """Returns a value out of somebody's JSON as JSON again, in ASCII, on one line of bounded length."""
    try:
        text = json.dumps(value)
    except RecursionError:  # deep nesting
        return f"a nested {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
