"""The Python of docs/*.md runs as written, page by page, in a copy of what it names."""

import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import pytest
from repository import REPOSITORY

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification
from timesformer_hf.benchmark.page import performance_page
from timesformer_hf.benchmark.results import read_results
from timesformer_hf.cli import _parse
from timesformer_hf.commands.evaluate import parse_arguments as parse_evaluate
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES
from timesformer_hf.model.masked_attention import ATTENTION_PATTERNS


pytest.importorskip("av", reason="the pages decode the sample clip")

PAGES = sorted(path.name for path in (REPOSITORY / "docs").glob("*.md") if "```python" in path.read_text())


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page, tmp_path, monkeypatch, request):
    samples = Path("timesformer_hf", "samples")
    shutil.copytree(REPOSITORY / samples, tmp_path / samples)
    monkeypatch.chdir(tmp_path)
    for registered in (TimesformerConfig, TimesformerForVideoClassification):  # by a page, for what it saves
        monkeypatch.setattr(registered, "_auto_class", None)
    for table in (ATTENTION_SCHEMES, ATTENTION_PATTERNS):  # a page adds rows
        request.addfinalizer(partial(_restore, table, dict(table)))
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / page).read_text(), re.DOTALL)
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": "__main__"})


def _restore(table: dict, rows: dict) -> None:
    table.clear()
    table.update(rows)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page, so that links can lead to them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    pages = [REPOSITORY / "README.md", REPOSITORY / "examples" / "camera_motion" / "README.md"]
    folders = [REPOSITORY / "docs", REPOSITORY / ".github"]
    for page in (*pages, *(path for folder in folders for path in folder.rglob("*.md"))):
        for link, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text()):
            target = page.parent / link if link else page
            assert link.startswith("https://") or target.exists(), f"{page.name}: {link}"
            if anchor and target.suffix == ".md" and not link.startswith("https://"):
                assert anchor in anchors(target), f"{page.name}: {link}#{anchor}"


def commands_of(page: str) -> list[str]:
    """The lines of a page's blocks that call `timesformer-hf`, with continued lines joined."""
    blocks = re.findall(r"```(?:bash|text)\n(.*?)```", (REPOSITORY / "docs" / page).read_text(), re.DOTALL)
    lines = [line.strip() for line in "".join(blocks).replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ") for line in lines if re.match(r"(\$ )?timesformer-hf [a-z]", line)]


COMMANDS = [command for page in sorted((REPOSITORY / "docs").glob("*.md")) for command in commands_of(page.name)]


@pytest.mark.parametrize("command", [command for command in dict.fromkeys(COMMANDS) if " finetune " not in command])
def test_commands_have_only_options_that_exist(command):
    """Those of `finetune` are run (tests/commands/test_training_page.py)."""
    words = shlex.split(re.split(r" [|>]+ ", command)[0])[1:]
    if words[0] == "evaluate":
        parse_evaluate(words[1:])
    else:
        assert _parse(words).run


def test_glossary_is_in_order_and_explains_its_own_words():
    page = (REPOSITORY / "docs" / "glossary.md").read_text()
    terms = [term.strip("`").lower() for term in re.findall(r"^\| \*\*(.*?)\*\* \|", page, re.MULTILINE)]
    assert terms == sorted(terms)
    entries = {word for term in terms for word in term.split(", ")}
    used = {word.lower() for word in re.findall(r"(?<!\*)\*(\w[\w ]*)\*(?!\*)", page)} - {"italics"}
    assert used
    assert {word for word in used if not {word, word.removesuffix("s"), word.removesuffix("es")} & entries} == set()


def test_performance_page_is_what_the_results_say():
    """As `timesformer-hf bench --page docs/performance.md docs/performance/*.json` writes it."""
    results = [read_results(path) for path in sorted((REPOSITORY / "docs" / "performance").glob("*.json"))]
    page = performance_page(results, "performance.svg")
    assert (REPOSITORY / "docs" / "performance.md").read_text() == page
