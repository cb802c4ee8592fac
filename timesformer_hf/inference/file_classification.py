"""Classifies many video files: the work of `timesformer-hf classify` between its arguments and its output."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice

from .pipeline_timesformer import TimesformerVideoClassificationPipeline


Classify = Callable[[list[Future]], list[list[dict]]]  # futures of decoded videos -> the labels of each


NOT_FINITE = "its scores are not finite: the model's weights are broken, or overflow in float16 (use float32)"


class BusyTime:
    """
    Measures for what share of the time something was busy, for example a model. The time starts with the constructor.

    Attributes:
        busy_seconds: the time spent so far in blocks `with busy.measured():`.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self.restart()

    def restart(self) -> None:
        """Start again from zero."""
        self.start, self.busy_seconds = self.clock(), 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count the time of this block as busy."""
        start = self.clock()
        try:
            yield
        finally:
            self.busy_seconds += self.clock() - start

    @property
    def seconds(self) -> float:
        """The time since the constructor."""
        return self.clock() - self.start

    @property
    def share(self) -> float:
        """The busy part of the time, from 0 to 1."""
        return self.busy_seconds / self.seconds if self.seconds > 0 else 0.0


def classify_files(
    classifier: TimesformerVideoClassificationPipeline,
    videos: Sequence[str],
    batch_size: int,
    model_time: BusyTime,
    num_workers: int | None = None,
    **settings,
) -> Iterator[dict]:
    """
    Classify videos in order. Threads decode the next videos while the model computes. An error affects only its video.

    Args:
        classifier: the pipeline.
        videos: paths or URLs.
        batch_size: how many videos the model takes at once.
        model_time: measures when the model is busy.
        num_workers: number of decoding threads (default: one for each core).
        settings: arguments for a call of the pipeline, for example `top_k`.

    Yields:
        {"video", "predictions": [{"label", "score"}]} for each video, or {"video", "error"}.
    """

    def classify(batch: list[Future]) -> list[list[dict]]:
        with model_time.measured():
            return classifier(batch, batch_size=len(batch), prefetch_workers=0, **settings)

    preparation, _, _ = classifier._sanitize_parameters(prefetch_workers=num_workers, **settings)
    futures, names = iter(classifier.read_ahead(videos, batch_size, **preparation)), iter(videos)
    while batch := list(islice(futures, batch_size)):
        for video, outcome in zip(islice(names, len(batch)), label_batch(classify, batch), strict=True):
            yield _as_json_line(video, outcome)


def label_batch(classify: Classify, videos: list[Future]) -> list[list[dict] | Exception]:
    """Return the labels of each video, or the error that reading or classifying it raised."""
    errors = [video.exception() for video in videos]
    for error in errors:
        if error is not None and not isinstance(error, Exception):  # an interrupt
            raise error
    labels = iter(_label_each(classify, [video for video, error in zip(videos, errors, strict=True) if error is None]))
    return [next(labels) if error is None else error for error in errors]


def _label_each(classify: Classify, videos: list[Future]) -> list[list[dict] | Exception]:
    """
    Classify videos as one batch. If that fails, because of one video or of their number, classify them one by one.
    """
    if not videos:
        return []
    try:
        return classify(videos)
    except Exception as error:
        if len(videos) == 1:
            return [error]
    # outside the except block, because the error keeps the tensors of the failed batch in memory
    return [outcome for video in videos for outcome in _label_each(classify, [video])]


def _as_json_line(video: str, outcome: list[dict] | Exception) -> dict:
    """Return one line of `classify --json`: `{video, predictions}` or `{video, error}`."""
    if isinstance(outcome, Exception):
        return {"video": video, "error": str(outcome) or type(outcome).__name__}
    if not all(math.isfinite(row["score"]) for row in outcome):
        return {"video": video, "error": NOT_FINITE}
    return {"video": video, "predictions": [{"label": row["label"], "score": row["score"]} for row in outcome]}
