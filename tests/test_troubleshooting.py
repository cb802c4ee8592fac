"""docs/troubleshooting.md: each message on the page is one that the package can give."""

import ast
import re

import pytest
from repository import REPOSITORY


PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
MESSAGES = [text for _, text in re.findall(r"^### (`+) ?(.*?) ?\1$", PAGE, re.MULTILINE)]


def fill(text: str) -> str:
    """A message with one `...` for each part that differs from case to case."""
    return re.sub(r"(\.\.\.)+", "...", text)


def literals(tree: ast.AST) -> set[str]:
    """The first lines of the texts of a module, docstrings aside, with `...` for what is filled in."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
            found.add("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside | docstrings:
            found.add(node.value)
    return {fill(text.partition("\n")[0]) for text in found}


@pytest.fixture(scope="module")
def texts() -> set[str]:
    trees = (ast.parse(path.read_text()) for path in (REPOSITORY / "timesformer_hf").rglob("*.py"))
    return set().union(*map(literals, trees))


def test_the_page_has_the_messages_that_users_meet():
    assert len(MESSAGES) >= 25
    assert len(set(MESSAGES)) == len(MESSAGES)
    assert all(len(re.sub(r"\W|\.\.\.", "", message)) > 8 for message in MESSAGES), "a message that fits anything"


@pytest.mark.parametrize("message", MESSAGES)
def test_the_package_can_give_the_message(texts, message):
    assert fill(message) in texts


def test_each_message_has_an_answer():
    """What stands below a heading is more than the next heading."""
    answers = re.split(r"^#+ .*$", PAGE, flags=re.MULTILINE)[1:]
    headings = re.findall(r"^#+ .*$", PAGE, re.MULTILINE)
    empty = [
        heading
        for heading, answer in zip(headings, answers, strict=True)
        if heading.startswith("###") and not answer.strip()
    ]
    assert not empty


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ('raise ValueError("no such file")', "no such file"),
        ('raise ValueError(f"{path}{more} has {n!r} frames; " "give more")', "... has ... frames; give more"),
        ('print(f"first\\nsecond {x}")', "first"),
    ],
)
def test_how_texts_are_found(code, text):
    assert text in literals(ast.parse(code))
    assert not literals(ast.parse('def f():\n    """no such file"""'))
