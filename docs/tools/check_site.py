"""
Check a site that was built: `python docs/tools/check_site.py site`.

mkdocs itself checks the links between pages (`strict`). This checks that every file that a page shows or runs is in the
site, and that no page, script or style sheet of ours asks another host for anything.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


# What a browser loads by itself when it shows a page. A link that a reader clicks is not among it.
_LOADING = {
    ("link", "href"),
    *((tag, "src") for tag in ("script", "img", "iframe", "source", "video", "audio", "embed")),
}
# `<link rel=...>` that loads nothing.
_NOT_LOADED = {"canonical", "next", "prev", "alternate", "index"}


class _Resources(HTMLParser):
    """The addresses that a page loads, and the text of its scripts and styles."""

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
    """One line for each address that a page loads from elsewhere, or that the site lacks."""
    found = []
    pages = sorted(site.rglob("*.html"))
    if not pages:
        return [f"{site} has no page"]
    for page in pages:
        resources = _Resources()
        resources.feed(page.read_text())
        for address in resources.addresses:
            parts = urlsplit(address)
            shown = f"{page.relative_to(site)}: {address}"
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                found.append(f"{shown} is loaded from elsewhere")
                continue
            path = unquote(parts.path)
            target = site / path.lstrip("/") if path.startswith("/") else page.parent / path
            if path and not target.exists():
                found.append(f"{shown} is not in the site")
    return found


def main() -> None:
    """Print what is wrong with the site that the first argument names, and exit with 1 if anything is."""
    found = faults(Path(sys.argv[1]))
    print("\n".join(found) or "The site loads nothing from elsewhere, and lacks nothing.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
