"""Processes of clusters, of which none is left in the end."""

import pytest
from processes import Process


@pytest.fixture
def start(tmp_path):
    """Starts the script with flags, and with a TF_CONFIG or without."""
    processes = []

    def start(flags, tf_config=None):
        processes.append(Process(tmp_path / f"{len(processes)}.log", flags, tf_config))
        return processes[-1]

    yield start
    for each in processes:
        each.clear()
