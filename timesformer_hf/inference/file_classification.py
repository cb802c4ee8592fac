"""Labels of many video files: what `timesformer-hf classify` does between its arguments and its output."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice

from .pipeline_timesformer import TimesformerVideoClassificationPipeline


Classify = Callable[[list[Future]], list[list[dict]]]  # videos that are read to the labels of each


class BusyTime:
    """
    For how much of the time something was busy, from when this is made until it is asked.

    Attributes:
        busy_seconds: what the clock says of the blocks `with busy.measured():` that are over.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock, self.start, self.busy_seconds = clock, clock(), 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        start = self.clock()
        try:
            yield
        finally:
            self.busy_seconds += self.clock() - start

    @property
    def seconds(self) -> float:
        return self.clock() - self.start

    @property
    def share(self) -> float:
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
    Label videos, in order: threads decode the next ones while the model is at a batch. What fails, fails for its video
    alone.

    Args:
        batch_size: how many videos the model takes at once.
        model_time: is told when the model is busy.
        num_workers: threads, one a core without it.
        settings: of a call of the pipeline.

    Yields:
        {"video", "predictions": [{"label", "score"}]} of each video, or {"video", "error"}.
    """

    def classify(batch: list[Future]) -> list[list[dict]]:
        with model_time.measured():
            return classifier(batch, batch_size=len(batch), prefetch_workers=0, **settings)

    preparation, _, _ = classifier._sanitize_parameters(prefetch_workers=num_workers, **settings)
    futures, names = iter(classifier.read_ahead(videos, batch_size, **preparation)), iter(videos)
    while batch := list(islice(futures, batch_size)):
        for video, outcome in zip(islice(names, len(batch)), label_batch(classify, batch), strict=True):
            yield _describe(video, outcome)


def label_batch(classify: Classify, videos: list[Future]) -> list[list[dict] | Exception]:
    """Of each video its labels, or the error of reading or classifying it."""
    errors = [video.exception() for video in videos]
    for error in errors:
        if error is not None and not isinstance(error, Exception):  # an interrupt
            raise error
    labels = iter(_label_each(classify, [video for video, error in zip(videos, errors, strict=True) if error is None]))
    return [next(labels) if error is None else error for error in errors]


def _label_each(classify: Classify, videos: list[Future]) -> list[list[dict] | Exception]:
    """As one batch. Where that fails, one by one: it may be one of them that the model can't take, or their number."""
    if not videos:
        return []
    try:
        return classify(videos)
    except Exception as error:
        if len(videos) == 1:
            return [error]
    # after the error is forgotten, which holds on to what filled the memory
    return [outcome for video in videos for outcome in _label_each(classify, [video])]


def _describe(video: str, outcome: list[dict] | Exception) -> dict:
    """As JSON can hold it."""
    if isinstance(outcome, Exception):
        return {"video": video, "error": str(outcome) or type(outcome).__name__}
    return {"video": video, "predictions": [{"label": row["label"], "score": row["score"]} for row in outcome]}
