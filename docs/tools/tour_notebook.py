"""
Writes the notebook examples/tour.ipynb from its text, examples/tour.py, with the outputs of running it.

    python docs/tools/tour_notebook.py

It needs jupytext, nbclient and ipykernel, and takes some minutes on two cores.
"""

from collections.abc import Iterable
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode


REPOSITORY = Path(__file__).parents[2]
TEXT = REPOSITORY / "examples" / "tour.py"
NOTEBOOK = TEXT.with_suffix(".ipynb")


def read_text() -> NotebookNode:
    """The notebook as its text has it, without outputs. Cells are numbered, so that the file is always the same."""
    notebook = jupytext.read(TEXT)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in `folder`, and keep what they print and draw. What goes to the standard error is left out."""
    NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in notebook.cells:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"] = _joined(output for output in cell["outputs"] if output.get("name") != "stderr")
    notebook["metadata"].pop("language_info", None)  # it names the release of Python
    return notebook


def _joined(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Outputs in which one print follows the other, as one. How often they are sent depends on the time they take."""
    joined = []
    for output in outputs:
        if joined and output["output_type"] == joined[-1]["output_type"] == "stream":
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    return joined


if __name__ == "__main__":
    jupytext.write(execute(read_text(), REPOSITORY), NOTEBOOK)
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1000:.0f} kB")
