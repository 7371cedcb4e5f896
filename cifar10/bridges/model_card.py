"""What whoever gets an exported network must know of it, as far as it is on record."""

LICENSE = (
    "The code that made it is under the Apache License 2.0. The weights come from the images that it was trained on; "
    "whether you may use them and pass them on depends on the terms of those."
)
LIMITS = (
    "It sees 24x24 pixels, and knows its own classes only: an image of anything else gets one of them too, maybe with "
    "a high probability."
)
UNKNOWN = "not on record"
MAX_LENGTH = 2000  # characters of a value


def text(title, class_names, files, start, evaluations):
    """Returns the card, in Markdown.

    Args:
      title: what is exported.
      class_names: one name a class.
      files: {file of the export: what it is}.
      start: the record of the training's newest start, a dict; empty: there is none.
      evaluations: lines that say how it was measured.
    """
    data = start.get("data")
    hashes = data.items() if isinstance(data, dict) else ()
    versions = start.get("versions")
    versions = versions.items() if isinstance(versions, dict) else ()
    arguments = start.get("arguments")
    command = [start.get("program"), *(arguments if isinstance(arguments, list) else ())]
    rows = {
        "classes": ", ".join(class_names),
        "network": start.get("model", UNKNOWN),
        "trained on": start.get("dataset", UNKNOWN),
        "began with": start.get("init_from", "random weights" if start else UNKNOWN),
        "SHA-256 of that": ", ".join(f"{name} {value}" for name, value in hashes) or UNKNOWN,
        "recipe": start.get("recipe", UNKNOWN),
        "hyper-parameters": start.get("hyper_parameters", UNKNOWN),
        "command": " ".join(map(str, command)) if command[0] else UNKNOWN,
        "versions": ", ".join(f"{name} {value}" for name, value in versions) or UNKNOWN,
        "precision": "; ".join(evaluations) or f"{UNKNOWN}: cifar10_train.py --eval_every_steps records it",
    }
    lines = [f"# {_cell(title)}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    lines += ["", *(f"- `{name}`: {what}" for name, what in files.items()), "", LIMITS, "", LICENSE, ""]
    return "\n".join(lines)


def _cell(value):
    """Returns a value in one line of a table, whatever it holds."""
    shown = "".join(c if c.isprintable() else " " for c in str(value)[:MAX_LENGTH])
    return shown.replace("|", "&#124;").replace("<", "&lt;")
