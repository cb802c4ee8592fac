"""CITATION.cff and .github/: what people read who cite, report or contribute."""

import tomllib

import pytest
from repository import REPOSITORY


TEMPLATES = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.md"))


def front_matter(text: str) -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(text)


def test_the_citation_is_the_package_and_the_paper():
    citation = front_matter((REPOSITORY / "CITATION.cff").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert citation["title"] == project["name"]
    assert citation["abstract"] == project["description"]
    assert citation["license"] == project["license"]
    assert citation["keywords"] == project["keywords"]
    assert citation["authors"] == project["authors"]
    assert citation.keys() >= {"cff-version", "message"}
    (paper,) = citation["references"]
    assert paper["url"] == "https://arxiv.org/abs/2102.05095"
    assert [author["family-names"] for author in paper["authors"]] == ["Bertasius", "Wang", "Torresani"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_github_accepts_the_issue_templates(path):
    _, header, body = path.read_text().split("---\n", 2)
    assert front_matter(header).keys() == {"name", "about", "labels"}
    assert body.strip()


def test_contributing_has_the_command_of_the_readme():
    """The one that .ci/run reads from there and runs."""
    (command,) = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if ".venv-test &&" in line]
    assert command in (REPOSITORY / ".github" / "CONTRIBUTING.md").read_text().splitlines()
