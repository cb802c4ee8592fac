"""The notebook is its text, runs, and has the outputs of a run."""

import base64
import json
import re
from runpy import run_path

import pytest
from repository import EXAMPLES, REPOSITORY


jupytext = pytest.importorskip("jupytext", reason="needs jupytext, which reads the notebook's text")
pytest.importorskip("nbclient", reason="needs nbclient, which runs a notebook")

NOTEBOOK = EXAMPLES / "tour.ipynb"
TOUR = run_path(str(REPOSITORY / "docs" / "tools" / "tour_notebook.py"))


def outputs(notebook: dict) -> list[dict]:
    return [output for cell in notebook["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]


def printed(notebook: dict) -> str:
    return "".join("".join(output.get("text", "")) for output in outputs(notebook))


@pytest.fixture(scope="module")
def kept() -> dict:
    return json.loads(NOTEBOOK.read_text())


def test_it_has_the_cells_of_its_text(kept):
    """Otherwise run: python docs/tools/tour_notebook.py"""
    cells = [(cell["id"], cell["cell_type"], "".join(cell["source"])) for cell in kept["cells"]]
    assert cells == [(cell["id"], cell["cell_type"], cell["source"]) for cell in TOUR["read_text"]().cells]


def test_it_has_outputs_and_is_small(kept):
    assert NOTEBOOK.stat().st_size < 1_000_000
    pictures = [output["data"] for output in outputs(kept) if "image/png" in output.get("data", {})]
    pictures += [output["data"] for output in outputs(kept) if "image/jpeg" in output.get("data", {})]
    assert len(pictures) >= 7
    for data in pictures:
        base64.b64decode("".join(data.get("image/png") or data["image/jpeg"]), validate=False)
    numbers = [cell["execution_count"] for cell in kept["cells"] if cell["cell_type"] == "code"]
    assert numbers == list(range(1, len(numbers) + 1))
    assert not [
        output for output in outputs(kept) if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    assert "/tmp/" not in printed(kept)  # nothing of the machine that wrote it
    check_results(printed(kept))


def check_results(text: str) -> None:
    """What the words around the outputs say is what comes out, on any machine."""
    (first,) = re.findall(r"^pan_right +(\d+\.\d)%", text, re.MULTILINE)
    assert float(first) > 90
    assert "labels that a mirror exchanges: ('left', 'right')" in text
    (accuracy,) = re.findall(r"^accuracy (\d+\.\d)%", text, re.MULTILINE)
    assert float(accuracy) > 85
    (turned,) = re.findall(r"^backwards, (\d+) of 64 clips", text, re.MULTILINE)
    assert int(turned) > 48
    segments = re.findall(r"^ *(\d+\.\d\d) s to +(\d+\.\d\d) s  (\w+) ", text, re.MULTILINE)
    assert {label for *_, label in segments} == {"right", "up", "left", "down"}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 80 s of one core, which other jobs may share
def test_it_runs(tmp_path, monkeypatch, kept):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other would take the cores of other tests
    notebook = TOUR["execute"](TOUR["read_text"](), tmp_path)
    check_results(printed(notebook))
    assert [output["output_type"] for output in outputs(notebook)] == [
        output["output_type"] for output in outputs(kept)
    ]
