"""
Tables in text files: `a,b` with commas, semicolons or tabs, as spreadsheets write them, or a list of `path label`.

A list has no header. Each line is a path, white space or a separator, and a label without white space. So are the lists
of Kinetics and Something-Something that the authors' code reads.
"""

import csv
import io
from pathlib import Path

from ..video.printable import printable
from ..video.video_folders import VIDEO_EXTENSIONS
from ..video.video_sources import is_url
from .labelled_videos import has_columns


TEXT_TABLES = (".csv", ".tsv", ".txt")
_SEPARATORS = (",", ";", "\t")


def read_text_table(path: Path) -> list[dict[str, str]]:
    """
    Return the rows of a table by the names of its columns, in lower case. A list has the columns `path` and `label`.

    Raises:
        ValueError: if the file is not text in UTF-8, or a row doesn't fit the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(path)} is not text in UTF-8 ({error}); save it in that encoding") from error
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = next((separator for separator in _SEPARATORS if _is_header(_split(first, separator))), None)
    if separator is None and _is_list_entry(first):
        return [_split_entry(path, line) for line in text.splitlines() if line.strip()]
    return _read_rows(path, text, separator or _SEPARATORS[0])


def _split(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _is_header(names: list[str]) -> bool:
    return has_columns(name.strip().lower() for name in names)


def _is_list_entry(line: str) -> bool:
    """Whether a line without a header starts with the path or URL of a video."""
    name, label = _cut(line)
    return bool(label) and (is_url(name) or name.lower().endswith(VIDEO_EXTENSIONS))


def _cut(line: str) -> tuple[str, str]:
    """Return the path and the label in a line of a list. The path may contain spaces."""
    line = line.strip()
    parts = line.rsplit(maxsplit=1) if line.split()[1:] else [line]
    for separator in _SEPARATORS:
        if separator in parts[-1]:
            parts = line.rsplit(separator, 1)
    name, label = parts if len(parts) == 2 else (line, "")
    return name.strip().rstrip(",;").strip('"'), label.strip().strip('"')


def _split_entry(path: Path, line: str) -> dict[str, str]:
    name, label = _cut(line)
    if not label:
        raise ValueError(f"{printable(path)}: the line {printable(line)} has no label behind the path")
    return {"path": name, "label": label}


def _read_rows(path: Path, text: str, separator: str) -> list[dict[str, str]]:
    """Return the rows below a header."""
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{printable(path)} is not a table ({error})") from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            names = printable(", ".join(name for name in rows[0] if name is not None))
            raise ValueError(f"{printable(path)}: row {number} has more or fewer columns than the header ({names})")
    return rows
