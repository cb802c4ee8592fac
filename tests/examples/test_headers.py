"""Each program of examples/ begins with what it shows, the command that runs it, and what it prints or writes."""

import ast
import re

import pytest
from repository import EXAMPLES, REPOSITORY


PROGRAMS = [path for path in sorted(EXAMPLES.rglob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(EXAMPLES).as_posix())
def test_it_says_how_to_run_it_and_what_comes(path):
    header = ast.get_docstring(ast.parse(path.read_text()))
    words = set(header.replace(",", " ").replace(":", " ").split())
    assert f"    python {path.relative_to(REPOSITORY).as_posix()}" in header
    assert words & {"print", "prints", "write", "writes", "Write", "Writes", "render", "Render"}


def test_the_list_of_examples_is_complete():
    page = (EXAMPLES / "README.md").read_text()
    links = [EXAMPLES / link for link in re.findall(r"\]\(([\w./]+)\)", page)]
    assert all(link.exists() for link in links)
    listed = {link.parent if link.name == "README.md" else link for link in links}
    assert [path for path in PROGRAMS if not listed & {path, *path.parents}] == []
