"""
The rows of a table while a run makes them: parts, which are Parquet files in a folder beside the output.

A run stores what is finished as a part. At the end the parts are merged. So a run that was interrupted can be continued
by another one with the same settings. Each row has a `source` that identifies what it was made from.
"""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from .atomic import alone_in, output_file, output_folder, remove_folder
from .parquet import import_pyarrow


Place = tuple[Path, int]  # a part and the row in it


class TableParts:
    """
    The finished rows of a run.

    Args:
        folder: the folder of the parts. It is created if it doesn't exist.
        settings: all settings that decide the rows. They must equal those that the folder was started with.
        command: the name of the command that makes the table, for error messages.

    Attributes:
        places: of each finished source, its part and the row in it.

    Raises:
        ValueError: where the settings differ, or where the folder was not made by a run.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict, command: str = "embed"):
        self.folder, self.settings, self.command = Path(folder), settings, command
        if not self.folder.exists():
            with output_folder(self.folder) as new:
                (new / "settings.json").write_text(json.dumps(settings, indent=2))
        self.check_settings(_read_settings(self.folder, command), f"{self.folder} contains a run")
        self.places: dict[str, Place] = {}
        self.next_number = 0
        for part in sorted(self.folder.glob(f"{'[0-9]' * 8}.parquet")):
            self.register(part)

    def check_settings(self, begun: dict, what: str) -> None:
        """
        Check that the settings of rows that are there already are those of this run.

        Args:
            what: says in the message what has the other settings.

        Raises:
            ValueError: where they differ.
        """
        if changes := differences(begun, self.settings):
            raise ValueError(
                f"{what} with other settings: {'; '.join(changes)}. Give the same settings to continue it, delete that "
                "folder to start again, or choose another output"
            )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """
        Keep other runs out of the folder in the block.

        Raises:
            BlockingIOError: if another run is using it.
        """
        with alone_in(self.folder):
            yield

    def register(self, part: Path) -> None:
        """
        Take the rows of a part into account.

        Raises:
            ValueError: if the part is damaged.
        """
        pa = import_pyarrow()
        try:
            sources = self.finished_sources(pa.parquet.ParquetFile(part))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{part} is damaged ({error}); delete it, and its videos are done again") from error
        self.places |= {source: (part, row) for row, source in sources}
        self.next_number = int(part.stem) + 1

    def finished_sources(self, part) -> Iterable[tuple[int, str]]:
        """Return the row and the source of everything in a part, an open Parquet file, that is finished."""
        return enumerate(part.read(["source"]).column("source").to_pylist())

    def write_table(self, table, sources: Sequence[str]) -> None:
        """Write an Arrow table, whose rows have these sources, as the next part, completely or not at all."""
        part = self.folder / f"{self.next_number:08d}.parquet"
        with output_file(part) as path:
            import_pyarrow().parquet.write_table(table, path)
        self.places |= {source: (part, row) for row, source in enumerate(sources)}
        self.next_number += 1

    def take_rows(
        self, table: str | os.PathLike, column: str, identify: Callable[[str], str], rows_at_once: int
    ) -> None:
        """
        Store the rows of a finished table as parts, without those that have an error, so that only the others are done
        again.

        Args:
            column: has the names of what the rows were made from.
            identify: returns the source that belongs to a name.
            rows_at_once: so many rows form a part.

        Raises:
            ValueError: if it is not a table of the command, or was made with other settings.
        """
        pa = import_pyarrow()
        try:
            file = pa.parquet.ParquetFile(table)
            settings = json.loads(file.schema_arrow.metadata[b"settings"])
            file.schema_arrow.field(column)
        except (pa.ArrowInvalid, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{table} is not a table made by timesformer-hf {self.command} ({error})") from error
        if changes := differences(settings, self.settings):
            raise ValueError(
                f"{table} was made with other settings: {'; '.join(changes)}. Give the same settings, or another output"
            )
        for batch in file.iter_batches(rows_at_once):
            rows = pa.Table.from_batches([batch]).replace_schema_metadata(None)
            sources = [identify(name) for name in rows.column(column).to_pylist()]
            errors = rows.column("error").to_pylist() if "error" in rows.column_names else [None] * len(sources)
            kept = [i for i, source in enumerate(sources) if errors[i] is None and source not in self.places]
            if kept:
                rows = rows.append_column("source", pa.array(sources, pa.string()))
                self.write_table(rows.take(kept), [sources[i] for i in kept])

    def merge_rows(
        self,
        sources: Collection[str],
        path: str | os.PathLike,
        metadata: dict,
        rows_at_once: int,
        overwrite: bool = False,
    ) -> None:
        """
        Write the rows of `sources` to one file, in that order, without those that have none. Then remove the parts,
        unless they contain other rows, of a run that was interrupted.

        Args:
            metadata: is stored in the schema, everything but text as JSON.
            rows_at_once: so many rows are in memory, and form a row group.
        """
        pa = import_pyarrow()
        first = next(self.places[source] for source in sources if source in self.places)
        schema = pa.parquet.read_schema(first[0])
        schema = schema.remove(schema.get_field_index("source")).with_metadata(
            {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
        )
        places = (self.places[source] for source in sources if source in self.places)
        with output_file(path, overwrite) as new, pa.parquet.ParquetWriter(new, schema) as writer:
            for some in _batched(places, rows_at_once):
                writer.write_table(read_rows(some, schema.names).replace_schema_metadata(schema.metadata))
        known = sources if isinstance(sources, dict) else set(sources)
        if all(source in known for source in self.places):
            self.remove()

    def remove(self) -> None:
        """Delete the folder of parts."""
        remove_folder(self.folder)


def _batched(items: Iterable, size: int) -> Iterator[list]:
    """Yield lists of this size, the last of which may be shorter."""
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def _read_settings(folder: Path, command: str) -> dict:
    """
    Return the settings that a folder of parts was started with.

    Raises:
        ValueError: where the folder was not made by a run.
    """
    foreign = f"{folder} is not a started run of timesformer-hf {command}"
    try:
        begun = json.loads((folder / "settings.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{foreign} ({error}); move it away") from error
    if not isinstance(begun, dict):
        raise ValueError(f"{foreign}; move it away")
    return begun


def differences(old: dict, new: dict) -> list[str]:
    """Return one phrase for each setting that differs between two runs. A missing setting counts as `None`."""
    return [
        f"{name} was {old.get(name)!r} and now is {new.get(name)!r}"
        for name in dict.fromkeys((*new, *old))
        if old.get(name) != new.get(name)
    ]


def read_rows(places: Sequence[Place], columns: list[str]):
    """Return the rows at these places as an Arrow table. Consecutive rows of a part are read together."""
    pa = import_pyarrow()
    tables = []
    for part, group in groupby(places, key=itemgetter(0)):
        tables.append(pa.parquet.read_table(part, columns=columns).take([row for _, row in group]))
    return pa.concat_tables(tables)
