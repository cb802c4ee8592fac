"""`examples/scaling.py`, on some clips."""

import json
import subprocess
import sys

import pytest
from repository import REPOSITORY


@pytest.mark.slow
def test_small_runs(tmp_path):
    out = tmp_path / "scaling.json"
    words = ["--counts", "2", "3", "--cores", "1", "--actors", "--many", "8", "--size", "64", "48", "--out", str(out)]
    program = REPOSITORY / "examples" / "scaling.py"
    done = subprocess.run([sys.executable, program, *words], capture_output=True, text=True, check=True)
    results = json.loads(out.read_text())
    assert [(run["cores"], run["clips"]) for run in results["runs"]] == [(1, 2), (1, 3)]
    assert [row["clips"] for row in results["memory"]] == [2, 8]
    assert "| cores | clips | measured | planned | error of the plan |" in " ".join(done.stdout.split())
