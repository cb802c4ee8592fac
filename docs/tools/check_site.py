"""
Check a site that was built: `python docs/tools/check_site.py site`.

mkdocs itself checks the links between pages (`strict`). This checks that every file that a page shows or runs is in the
site, and that no page, script or style sheet of ours asks another host for anything.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


# What a browser loads by itself when it shows a page: from these attributes, and from styles. A link isn't among it.
_LOADING = {
    ("link", "href"),
    *((tag, "src") for tag in ("script", "img", "iframe", "source", "video", "audio", "embed")),
}
_IN_STYLES = re.compile(r"""url\(\s*["']?([^"')]+)""")
# `<link rel=...>` that loads nothing.
_NOT_LOADED = {"canonical", "next", "prev", "alternate", "index"}


class _Resources(HTMLParser):
    """The addresses that the elements of a page load."""

    def __init__(self):
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "link" and attributes.get("rel") in _NOT_LOADED:
            return
        for name, value in attributes.items():
            if value and ((tag, name) in _LOADING or name == "srcset"):
                self.addresses += [part.split()[0] for part in value.split(",")] if name == "srcset" else [value]


def faults(site: Path) -> list[str]:
    """One line for each address that a page or style sheet loads from elsewhere, or that the site lacks."""
    pages = sorted(site.rglob("*.html"))
    if not pages:
        return [f"{site} has no page"]
    found = []
    for file in [*pages, *sorted(site.rglob("*.css"))]:
        text = file.read_text()
        addresses = _IN_STYLES.findall(text)
        if file.suffix == ".html":
            resources = _Resources()
            resources.feed(text)
            addresses += resources.addresses
        for address in addresses:
            if fault := _fault(site, file, address):
                found.append(f"{file.relative_to(site)}: {address} {fault}")
    return found


def _fault(site: Path, file: Path, address: str) -> str | None:
    parts = urlsplit(address)
    if parts.scheme == "data":
        return None
    if parts.scheme or parts.netloc:
        return "is loaded from elsewhere"
    path = unquote(parts.path)
    target = site / path.lstrip("/") if path.startswith("/") else file.parent / path
    return None if not path or target.exists() else "is not in the site"


def main() -> None:
    """Print what is wrong with the site that the first argument names, and exit with 1 if anything is."""
    found = faults(Path(sys.argv[1]))
    print("\n".join(found) or "The site loads nothing from elsewhere, and lacks nothing.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
