"""Text for model cards, which strangers read: no path of this machine, and no label that breaks the page."""

import os
import re
from collections.abc import Sequence
from pathlib import Path


def is_local(source: str | os.PathLike) -> bool:
    """Whether a model or data is a path on this machine, and not a URL or a name on the Hub."""
    name = os.fspath(source)
    if os.path.exists(name) or os.path.isabs(name) or name.startswith((".", "~")) or "\\" in name:
        return True
    return "://" not in name and name.count("/") > 1  # a name on the Hub is owner/name


def public_name(source: str | os.PathLike) -> str:
    """Return the name of a model or of data without the folders that it lies in on this machine."""
    name = os.fspath(source)
    return re.split(r"[/\\]", str(Path(name).resolve()))[-1] if is_local(name) else name


def code_span(text: str) -> str:
    """Return text as code in Markdown, on one line, whatever characters it has."""
    line = " ".join(text.split()).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def table_cell(value) -> str:
    """Return a value as a cell of a Markdown table: on one line, without bars."""
    return " ".join(str(value).split()).replace("|", "\\|")


def licence_names(licence: str | Sequence[str] | None) -> str:
    """Return the licences that a card names. It may name one or a list of them."""
    return licence if isinstance(licence, str) else ", ".join(map(str, licence or ()))
