"""Docstrings of the package: whoever meets a public name reads on one line what it is or does."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import REPOSITORY

import timesformer_hf


PACKAGE = REPOSITORY / "timesformer_hf"
# Sections of a docstring: they say something about what a first line has named.
SECTIONS = re.compile(r"(Args|Arguments|Attributes|Example|Examples|Note|Raises|Returns|Yields):")
# A capital letter, code, a number, or shapes: "(batch, frames, ...) -> (batch, dim)".
FIRST_LETTER = re.compile(r"[A-Z`\d(\[]")
# "name (`bool`, *optional*): ...", which transformers' `auto_docstring` reads in the classes of keyword arguments.
SETTING = re.compile(r"\w+ \(`.*\):$")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_definitions(path: Path) -> Iterator[tuple[str, Definition]]:
    """Qualified names and definitions of a file's public functions and classes, and of the classes' public methods."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, Definition) and not method.name.startswith("_"):
                        yield f"{node.name}.{method.name}", method


def fault(docstring: str) -> str | None:
    """What is wrong with how a docstring begins, if anything is."""
    lines = inspect.cleandoc(docstring).splitlines()
    if not lines:
        return "is empty"
    if SECTIONS.match(lines[0]):
        return "begins with a section, not with what this is"
    if SETTING.match(lines[0]):
        return None
    if not FIRST_LETTER.match(lines[0]):
        return "begins with no capital letter, code, number or shape"
    if len(lines) > 1 and SECTIONS.match(lines[1]):
        return "needs a blank line before its first section"
    phrase = " ".join(lines[: lines.index("")] if "" in lines else lines)
    if not (phrase.endswith((".", ":", "!", "?", ".)")) or " -> " in phrase or lines[1:2] == [""]):
        return "has no end: a full stop or a colon"
    return None


def offenders(package: Path) -> list[str]:
    """One line for each docstring that doesn't begin with a phrase of its own."""
    found = []
    for path in sorted(package.rglob("*.py")):
        for name, node in public_definitions(path):
            docstring = ast.get_docstring(node, clean=False)
            if docstring is not None and (wrong := fault(docstring)):
                shown = (inspect.cleandoc(docstring).splitlines() or [""])[0]
                found.append(f"{path.relative_to(package)}:{node.lineno} {name} {wrong}: {shown!r}")
    return found


def test_every_docstring_begins_with_a_phrase_of_its_own():
    found = offenders(PACKAGE)
    assert not found, f"{len(found)} docstrings:\n" + "\n".join(found)


def test_every_exported_name_has_a_docstring():
    exported = {name: getattr(timesformer_hf, name) for name in timesformer_hf.__all__}
    definitions = {
        name: value for name, value in exported.items() if inspect.isclass(value) or inspect.isroutine(value)
    }
    without = [name for name, value in definitions.items() if not value.__doc__]
    # A class without one inherits its base's; a data class without one gets its signature.
    without += [
        name
        for name, value in definitions.items()
        if name not in without and inspect.isclass(value) and has_only_a_signature_or_its_bases(value)
    ]
    assert not without, f"{len(without)} exported names have no docstring: {', '.join(without)}"


def has_only_a_signature_or_its_bases(value: type) -> bool:
    """Whether the docstring of a class isn't its own."""
    return "__doc__" not in vars(value) or value.__doc__.startswith(f"{value.__name__}(")


@pytest.mark.parametrize(
    ("docstring", "is_faulty"),
    [
        ("The logits of a clip.", False),
        ("\n    The logits of a clip.\n\n    Raises:\n        ValueError: no clip.\n    ", False),
        ("The logits of a clip, over a line that\n    ends below.", False),
        ("`{video, predictions}` or `{video, error}`.", False),
        ("(batch, frames, dim) -> (batch, dim)", False),
        ("The logits. (Of a clip.)", False),
        ("224 -> 224, 256x448 -> (256, 448)", False),
        ("size (`int`, *optional*):\n        The side.", False),
        ("Raises:\n        ValueError: no clip.", True),
        ("\n    Args:\n        clip: a clip.\n    ", True),
        ("logits of a clip.", True),
        ("The logits of a clip", True),
        ("The logits.\n    Raises:\n        ValueError: no clip.", True),
        ("", True),
    ],
)
def test_planted_faults_are_found(docstring, is_faulty, tmp_path):
    (tmp_path / "module.py").write_text(f'def function():\n    """{docstring}"""\n')
    assert bool(offenders(tmp_path)) == is_faulty
