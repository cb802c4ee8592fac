"""
Stores labels in a Parquet file, one row for each video, also for those that failed. The columns are `path`, `label` and
`score` (the likeliest), `labels` and `scores` (the top ones), `error`, `decode_seconds` and `model_seconds`. The
schema's metadata says which model and settings made them.
"""

import os
from collections.abc import Collection, Iterable, Sequence

from ..output.parquet import import_pyarrow
from ..output.table_parts import TableParts
from .corpus_run import identify
from .video_worker import VideoRow


_ROWS_AT_ONCE = 2**14  # in a merge


class PredictionParts(TableParts):
    """
    The finished rows of a run, in parts. See [`TableParts`].

    Args:
        retry_errors: whether videos that failed count as not finished.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict, retry_errors: bool = False):
        self.retry_errors = retry_errors
        super().__init__(folder, settings, "classify")

    def finished_sources(self, part) -> list[tuple[int, str]]:
        """Return the row and the source of each video in a part that is finished."""
        rows = part.read(["source", "error"]).to_pylist()
        return [(i, row["source"]) for i, row in enumerate(rows) if not (self.retry_errors and row["error"])]

    def add_rows(self, rows: Sequence[VideoRow]) -> None:
        """Store rows as the next part. They are finished for this run, with an error or without."""
        self.write_table(_as_arrow(rows), [row.source for row in rows])

    def take_over(self, table: str | os.PathLike) -> None:
        """Store the rows without an error of a finished table, see [`TableParts.take_rows`]."""
        self.take_rows(table, "path", identify, _ROWS_AT_ONCE)

    def merge(self, sources: Collection[str], path: str | os.PathLike, metadata: dict, overwrite: bool = False) -> None:
        """Write the rows of `sources` to one file, see [`TableParts.merge_rows`]."""
        self.merge_rows(sources, path, metadata | {"settings": self.settings}, _ROWS_AT_ONCE, overwrite)


def count_errors(table: str | os.PathLike) -> int:
    """Return how many videos of a table of labels failed."""
    file = import_pyarrow().parquet.ParquetFile(table)
    return sum(len(rows) - rows.column(0).null_count for rows in file.iter_batches(columns=["error"]))


def _as_arrow(rows: Iterable[VideoRow]):
    """Return rows as an Arrow table."""
    pa = import_pyarrow()
    schema = {
        "path": pa.string(),
        "label": pa.string(),
        "score": pa.float64(),
        "labels": pa.list_(pa.string()),
        "scores": pa.list_(pa.float64()),
        "error": pa.string(),
        "decode_seconds": pa.float64(),
        "model_seconds": pa.float64(),
        "source": pa.string(),
    }
    return pa.Table.from_pylist([_as_dict(row) for row in rows], pa.schema(list(schema.items())))


def _as_dict(row: VideoRow) -> dict:
    labels, scores = ([found[name] for found in row.predictions] for name in ("label", "score"))
    return {
        "path": row.video,
        "label": labels[0] if labels else None,
        "score": scores[0] if scores else None,
        "labels": labels,
        "scores": scores,
        "error": row.error,
        "decode_seconds": row.decode_seconds,
        "model_seconds": row.model_seconds,
        "source": row.source,
    }
