"""
Tables in text files: `a,b` with commas, semicolons or tabs, as spreadsheets write them, or a list of `path label`.

A list has no header. Each line is a path, white space or a separator, and a label without white space. So are the lists
of Kinetics and Something-Something that the authors' code reads.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

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
    return list(iterate_text_table(path))


def iterate_text_table(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of [`read_text_table`] one by one, so that a table of any size needs no memory."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip()), "").strip("\r\n")
            file.seek(0)
            separator = next((separator for separator in _SEPARATORS if _is_header(_split(first, separator))), None)
            if separator is None and _is_list_entry(first):
                yield from (_split_entry(path, line) for line in file if line.strip())
            else:
                yield from _iterate_rows(path, file, separator or _SEPARATORS[0])
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(path)} is not text in UTF-8 ({error}); save it in that encoding") from error


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
        raise ValueError(f"{printable(path)}: the line {printable(line.strip())} has no label behind the path")
    return {"path": name, "label": label}


def _iterate_rows(path: Path, file: TextIO, separator: str) -> Iterator[dict[str, str]]:
    """Yield the rows below a header."""
    reader = csv.DictReader(file, delimiter=separator, skipinitialspace=True)
    try:
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                names = printable(", ".join(reader.fieldnames or ()))
                raise ValueError(f"{printable(path)}: row {number} has more or fewer columns than the header ({names})")
            yield row
    except csv.Error as error:
        raise ValueError(f"{printable(path)} is not a table ({error})") from error
