"""Each program of examples/ begins with what it shows, the command that runs it, and what it prints or writes."""

import ast

import pytest
from repository import EXAMPLES, REPOSITORY


PROGRAMS = [path for path in sorted(EXAMPLES.rglob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(EXAMPLES).as_posix())
def test_it_says_how_to_run_it_and_what_comes(path):
    header = ast.get_docstring(ast.parse(path.read_text()))
    words = set(header.replace(",", " ").replace(":", " ").split())
    assert f"    python {path.relative_to(REPOSITORY).as_posix()}" in header
    assert words & {"print", "prints", "write", "writes", "Write", "Writes", "render", "Render"}
