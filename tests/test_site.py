"""The site that mkdocs makes of docs/: its pages, and what .ci/run checks after it was built."""

import re

import pytest
from repository import REPOSITORY


DOCS = REPOSITORY / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
NAVIGATION = (REPOSITORY / "mkdocs.yml").read_text().partition("\nnav:\n")[2]


def test_the_navigation_has_every_page_once():
    found = re.findall(r": ([\w/]+\.md)$", NAVIGATION, re.MULTILINE)
    assert sorted(found) == PAGES


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"index.md"}))
def test_the_first_page_leads_to_every_page(page):
    assert f"({page})" in (DOCS / "index.md").read_text()
