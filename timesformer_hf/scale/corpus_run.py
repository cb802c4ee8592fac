"""
A run over a corpus: its videos in chunks, through an engine, into the parts of a table.

The videos of a batch are fixed by their order in the corpus, whatever engine computes them, because the other videos of
a batch can change the last digits of a result.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from .remote_files import is_remote
from .video_worker import VideoRow, VideoWorker


Chunk = list[list[VideoRow]]  # batches, which one worker computes
Engine = Callable[[Iterable[Chunk]], Iterator[list[VideoRow]]]  # -> finished rows, some at a time, in any order

CHUNK_VIDEOS = 32
_MOST_SECONDS = 10.0  # of work that an interrupted run on this machine loses


@dataclass
class CorpusRun:
    """
    The state of a run.

    Attributes:
        batch_size: how many videos the model takes at once.
        is_done: whether the video with a source has its row already.
        batches_in_chunk: how many batches a worker gets at once (default: those of about 32 videos).
        sources: of all videos so far, in the order of the corpus, as keys. A video that comes twice is there once.
    """

    batch_size: int
    is_done: Callable[[str], bool]
    batches_in_chunk: int | None = None
    sources: dict[str, None] = field(default_factory=dict)

    def pending_chunks(self, videos: Iterable[str]) -> Iterator[Chunk]:
        """
        Yield the chunks of the videos that are not done.

        The batches are those of a run that was never interrupted, without the videos that are done.
        """
        batches = filter(None, self._pending_batches(videos))
        size = self.batches_in_chunk or max(1, CHUNK_VIDEOS // self.batch_size)
        while chunk := list(islice(batches, size)):
            yield chunk

    def _pending_batches(self, videos: Iterable[str]) -> Iterator[list[VideoRow]]:
        rows = self._new_rows(videos)
        while batch := list(islice(rows, self.batch_size)):
            yield [row for row in batch if not self.is_done(row.source)]

    def _new_rows(self, videos: Iterable[str]) -> Iterator[VideoRow]:
        for video in videos:
            source = identify(video)
            if source not in self.sources:
                self.sources[source] = None
                yield VideoRow(source, video)


def identify(video: str) -> str:
    """Return a hash of what identifies a video: its URL, or its absolute path, size and modification time."""
    about: list = [video]
    if not is_remote(video):
        about = [os.path.abspath(video)]
        try:
            stat = os.stat(video)
            about += [stat.st_size, stat.st_mtime_ns]
        except (OSError, ValueError):  # it may be there for a worker, or its row says what is wrong
            pass
    return hashlib.blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()


def run_here(worker: VideoWorker, chunks: Iterable[Chunk]) -> Iterator[list[VideoRow]]:
    """Compute chunks in this process, and yield the rows of some batches at a time, in order."""
    rows_at_once = 1 if worker.settings.level else CHUNK_VIDEOS  # features may be large
    rows, start = [], time.monotonic()
    batches = (batch for chunk in chunks for batch in chunk)
    for batch in worker.run(batches):
        rows += batch
        if len(rows) >= rows_at_once or time.monotonic() - start > _MOST_SECONDS:
            yield rows
            rows, start = [], time.monotonic()
    if rows:
        yield rows
