"""Nothing in the tests reaches the network, and parallel runs (`-n`) share the cores; set before torch reads it."""

import os
import signal

import pytest


os.environ.setdefault("HF_HUB_OFFLINE", "1")
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background; tests send themselves ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def corrupt(tmp_path) -> str:
    """A file whose name alone is that of a video."""
    path = tmp_path / "corrupt.mp4"
    path.write_text("no video at all")
    return str(path)
