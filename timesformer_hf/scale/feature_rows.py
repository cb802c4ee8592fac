"""Stores the features that workers return, see `inference/feature_table.py` for the table."""

import os
from collections.abc import Sequence

from ..inference.feature_extraction import EmbeddedVideo
from ..inference.feature_table import FeatureParts
from .corpus_run import identify
from .video_worker import VideoRow


class FeatureRows(FeatureParts):
    """The finished rows of a run, in parts. See [`FeatureParts`]. A video that failed is not finished."""

    def add_rows(self, rows: Sequence[VideoRow]) -> None:
        """Store the features of rows. One whose feature has another shape than the first one gets an error instead."""
        videos = [EmbeddedVideo(row.video, row.feature, row.frame_indices, row.error) for row in rows]
        self.add(videos, [row.source for row in rows])
        for row, video in zip(rows, videos, strict=True):
            row.error = video.error

    def take_over(self, table: str | os.PathLike) -> None:
        """Store the rows of a finished table, see [`TableParts.take_rows`]."""
        self.take_rows(table, "video", identify, rows_at_once=1)
