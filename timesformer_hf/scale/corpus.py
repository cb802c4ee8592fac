"""The videos of a corpus, from folders, lists and tables. They are read one after the other, never all at once."""

import contextlib
import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..output.parquet import import_pyarrow
from ..video.printable import printable
from ..video.video_folders import find_videos
from .remote_files import find_remote_videos, is_remote


_SEPARATORS = (",", ";", "\t")
_ROWS_AT_ONCE = 8192


class Corpus:
    """
    The videos that some inputs name, in their order. A video that is named twice comes twice.

    Lists and tables are read while one iterates, so one of ten million rows takes no memory. Relative paths in them
    start at their own folder.

    Args:
        inputs: each is the path or URL of a video; a folder, or a remote one that ends in `/`, which is searched;
            `@list.txt`, a text file with a path or URL a line; or a .csv, .tsv or .parquet table.
        column: the column of a table that has the paths.

    Raises:
        FileNotFoundError: if there is no such list or table.
        ValueError: if a table has no such column, a file is not what its name says, a folder has no video, or a .txt
            file has no `@`.
    """

    def __init__(self, inputs: Sequence[str], column: str = "path"):
        self._readers = [_make_reader(name, column) for name in inputs]

    def __iter__(self) -> Iterator[str]:
        for reader in self._readers:
            yield from reader

    def known_videos(self) -> list[str] | None:
        """Return the videos, or `None` where lists or tables name some."""
        if not all(isinstance(reader, _Known) for reader in self._readers):
            return None
        return [video for reader in self._readers for video in reader]

    def count(self) -> int | None:
        """Return the number of videos, or `None` where only reading a whole text file would tell it."""
        counts = [reader.count() for reader in self._readers]
        return None if None in counts else sum(counts)


def _make_reader(name: str, column: str):
    """Return what iterates over the videos of an input."""
    if name.startswith("@"):
        return _TextList(Path(name[1:]))
    if is_remote(name):
        return _Known(find_remote_videos(name) if name.endswith("/") else [name])
    if os.path.isdir(name):
        return _Known(find_videos([name]))
    ending = Path(name).suffix.lower()
    if ending == ".txt":
        raise ValueError(f"{printable(name)} is a text file, not a video; @{printable(name)} reads the paths in it")
    kind = _TABLES.get(ending)
    return _Known([name]) if kind is None else kind(Path(name), column)


class _Known:
    """Videos that are in memory."""

    def __init__(self, videos: list[str]):
        self.videos = videos

    def __iter__(self) -> Iterator[str]:
        return iter(self.videos)

    def count(self) -> int:
        return len(self.videos)


class _TextList:
    """A text file with a video a line. Empty lines don't count, and neither does white space around a line."""

    def __init__(self, path: Path):
        self.path = _existing(path, "list")
        if next(iter(self), None) is None:
            raise ValueError(f"{printable(path)} names no video; write a path or URL on each line")

    def __iter__(self) -> Iterator[str]:
        with _readable_text(self.path), self.path.open(encoding="utf-8-sig") as file:
            for line in file:
                if name := line.strip():
                    yield _from_here(self.path, name)

    def count(self) -> None:
        return None


class _TextTable:
    """A table in a text file, whose first line has the names of the columns."""

    def __init__(self, path: Path, column: str):
        self.path = _existing(path, "table")
        with _readable_text(path), path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
        headers = {separator: next(csv.reader([line], delimiter=separator), []) for separator in _SEPARATORS}
        self.separator = max(headers, key=lambda separator: len(headers[separator]))
        names = [name.strip() for name in headers[self.separator]]
        self.place = names.index(_find_column(path, column, names))

    def __iter__(self) -> Iterator[str]:
        with _readable_text(self.path), self.path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=self.separator, skipinitialspace=True)
            next(rows)
            for row in filter(None, rows):
                if len(row) <= self.place:
                    raise ValueError(f"{printable(self.path)}: line {rows.line_num} has fewer columns than the header")
                yield _from_here(self.path, row[self.place].strip())

    def count(self) -> None:
        return None


class _ParquetTable:
    """A table in a Parquet file."""

    def __init__(self, path: Path, column: str):
        self.path, pa = _existing(path, "table"), import_pyarrow()
        try:
            file = pa.parquet.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{printable(path)} is not a Parquet file ({error})") from error
        self.rows, names = file.metadata.num_rows, file.schema_arrow.names
        self.column = _find_column(path, column, names)
        kind = file.schema_arrow.field(self.column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise ValueError(f"{printable(path)}: the column {printable(self.column)} has {kind}, not paths as text")

    def __iter__(self) -> Iterator[str]:
        file = import_pyarrow().parquet.ParquetFile(self.path)
        for rows in file.iter_batches(_ROWS_AT_ONCE, columns=[self.column]):
            for name in rows.column(0).to_pylist():
                yield _from_here(self.path, name or "")

    def count(self) -> int:
        return self.rows


_TABLES = {".csv": _TextTable, ".tsv": _TextTable, ".parquet": _ParquetTable}


def _existing(path: Path, kind: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {kind} {printable(path)}")
    return path


@contextlib.contextmanager
def _readable_text(path: Path) -> Iterator[None]:
    """In the block a text file is read. If it is not UTF-8 or not a table, the error names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(path)} is not text in UTF-8 ({error}); save it in that encoding") from error
    except csv.Error as error:
        raise ValueError(f"{printable(path)} is not a table ({error})") from error


def _find_column(path: Path, column: str, names: Sequence[str]) -> str:
    """
    Return the column of this name, in whatever case.

    Raises:
        ValueError: if there is none.
    """
    found = [name for name in names if name == column] or [name for name in names if name.lower() == column.lower()]
    if len(found) != 1:
        raise ValueError(
            f"{printable(path)} has no column {printable(column)}; it has {printable(', '.join(names))}. --column "
            "names the one with the paths"
        )
    return found[0]


def _from_here(table: Path, name: str) -> str:
    """Return a path that starts at the folder of the list or table that contains it."""
    return name if not name or is_remote(name) else os.path.join(table.parent, name)
