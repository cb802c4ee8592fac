"""README.md: what it shows is what its commands print, its pictures are ours, and on PyPI no link leads nowhere."""

import re
import shlex
import shutil
import tomllib
from runpy import run_path

import numpy as np
import PIL.Image
import pytest
from repository import REPOSITORY, SAMPLE
from tiny_models import save_classifier
from transformers import pipeline

import timesformer_hf
from timesformer_hf.cli import main


pytest.importorskip("av", reason="the commands decode the sample clip")

README = (REPOSITORY / "README.md").read_text()
TEXTS = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
SPEED = r"\d+\.\d s, \d+\.\d a second; the model was busy \d+% of the time"


def shown(capsys) -> list[str]:
    """What was printed: the lines of each stream in their order, with the times left out."""
    output = capsys.readouterr()
    return sorted(re.sub(SPEED, "TIMES", line) for line in (output.err + output.out).splitlines())


def expected(text: str) -> list:
    """The same of a block. A score may differ by 0.02 %, as on another processor."""
    return sorted(re.sub(SPEED, "TIMES", line) for line in text.splitlines())


def scores(lines: list[str]) -> dict[str, float]:
    rows = (re.fullmatch(r"  (\w+) +(\d+\.\d\d)%", line) for line in lines)
    return {row[1]: float(row[2]) for row in rows if row}


def test_the_first_command_prints_what_is_shown(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    (command,) = re.findall(r"^python3 -m venv \.venv .* && (timesformer-hf .*)$", README, re.MULTILINE)
    assert main(shlex.split(command)[1:]) == 0
    found, wanted = shown(capsys), expected(TEXTS[0])
    assert scores(found) == pytest.approx(scores(wanted), abs=0.021)
    assert len(scores(wanted)) == 5
    assert {line for line in found if "%" not in line} == {line for line in wanted if "%" not in line}


def test_the_first_lines_of_python_run():
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    *lines, last = block.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    code, _, comment = last.partition("  # ")
    assert eval(code, names) == eval(comment) == "pan_right"


@pytest.mark.parametrize("environment", [".venv", ".venv-test"])
def test_ci_finds_one_command_for_each_environment(environment):
    """.ci/run takes all lines that begin so, as one command."""
    assert len(re.findall(rf"^python3 -m venv {re.escape(environment)} ", README, re.MULTILINE)) == 1


def test_it_is_short_and_leads_to_every_page():
    """By itself, or by the site's first page, which has the others (tests/test_site.py)."""
    assert len(README.splitlines()) < 150
    links = set(re.findall(r"\]\(docs/([\w/]+\.md)\)", README))
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md")}
    assert links <= pages
    assert "index.md" in links or links >= pages - {"index.md"}


def test_the_other_lines_of_python_run(tmp_path, monkeypatch):
    """With a tiny model in place of the Hub's."""
    monkeypatch.chdir(tmp_path)
    for name in ("clip.mp4", "a.mp4", "b.mp4"):
        shutil.copy(SAMPLE, tmp_path / name)
    _, block = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shown = "facebook/timesformer-base-finetuned-k400"
    assert shown in block
    exec(block.replace(shown, save_classifier(tmp_path / "model")), {"pipeline": pipeline})


def page_at_pypi() -> str:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    page = README
    for substitution in settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        assert re.search(substitution["pattern"], page), substitution
        page = re.sub(substitution["pattern"], substitution["replacement"], page)
    assert settings["project"]["dynamic"] == ["readme", "version"]
    return page


def test_on_pypi_nothing_leads_into_the_repository():
    page = page_at_pypi()
    assert re.findall(r"\]\((?!https://)", README)
    assert not re.findall(r"\]\((?!https://)", page)
    assert "https://arxiv.org/abs/2102.05095" in page
    for words in ("<!--", "![", "clone", "docs/", "pip install .", '".[', "\n\n\n"):
        assert words not in page, words
    for heading in ("## Start", "## Train on your own videos", "## Beside other code", "## Licence"):
        assert heading in page


def test_on_pypi_the_first_command_names_the_sample():
    """In words that a shell turns into its path."""
    (command,) = re.findall(r"^python3 -m venv \.venv .*$", page_at_pypi(), re.MULTILINE)
    install, classify = command.split(" && ")[2:]
    assert shlex.split(install) == ["pip", "install", "timesformer_hf"]
    assert shlex.split(classify)[:2] == ["timesformer-hf", "classify"]
    (code,) = re.findall(r"python -c '(.*)'", classify)
    assert eval(code.partition("print(")[2].removesuffix(")")) == str(SAMPLE)


def test_the_moving_pictures_are_small_and_move():
    pictures = [REPOSITORY / path for path in re.findall(r"!\[.*?\]\((docs/\w+\.webp)\)", README)]
    assert len(pictures) == 2
    assert sum(path.stat().st_size for path in pictures) < 1.5e6
    for path in pictures:
        with PIL.Image.open(path) as picture:
            assert picture.size == (400, 350)
            assert picture.n_frames > 20


@pytest.mark.slow
def test_the_moving_pictures_are_those_of_the_command(tmp_path):
    """The pixels may differ as much as another release of a codec makes them differ."""
    pytest.importorskip("scenedetect", reason="the timeline ends at cuts")
    run_path(str(REPOSITORY / "docs" / "tools" / "readme_pictures.py"))["main"](tmp_path)
    for name in ("overlay.webp", "timeline.webp"):
        with PIL.Image.open(tmp_path / name) as made, PIL.Image.open(REPOSITORY / "docs" / name) as kept:
            assert made.n_frames == kept.n_frames
            for number in range(0, made.n_frames, 5):
                made.seek(number)
                kept.seek(number)
                difference = np.asarray(made.convert("RGB"), np.float64) - np.asarray(kept.convert("RGB"))
                assert np.abs(difference).mean() < 4, (name, number)


def test_types_are_marked_and_the_sample_is_shipped():
    assert (REPOSITORY / "timesformer_hf" / "py.typed").exists()
    assert str(SAMPLE) == timesformer_hf.SAMPLE_CLIP
