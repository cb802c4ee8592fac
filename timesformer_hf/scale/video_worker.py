"""
Labels or embeds videos in one process: the model is loaded once, and threads decode the next videos beside it.

A worker runs in the command itself, or as an actor on a Ray cluster. What is wrong with a video becomes the error of
its row.
"""

import hashlib
import math
import platform
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ..inference.feature_extraction import (
    EmbeddedVideo,
    check_name,
    check_settings,
    choose_sampling,
    compute_features,
    describe_settings,
    fingerprint,
    load_feature_model,
    load_video,
)
from ..inference.file_classification import NOT_FINITE, label_batch
from ..inference.linear_kernels import list_kernels
from ..inference.loading import load_pipeline, optimized
from ..inference.prefetching import default_workers, prefetch
from ..inference.processor import cpu_name
from ..output.terminal import loading_model
from ..shipped_models import CAMERA_MOTION
from ..video.printable import printable
from ..video.video_options import VideoOptions
from ..video.video_processing_timesformer import TimesformerVideoProcessor
from .remote_files import opened_video, without_secrets


@dataclass(frozen=True)
class FileLimits:
    """
    What a single file may cost. A file that exceeds a limit gets an error in its row.

    Attributes:
        seconds: the longest time for fetching and decoding a file.
        pixels: the most pixels (width times height) of a frame.
        memory: the most bytes for the decoded frames of a clip, and for a file that is downloaded.
    """

    seconds: float | None = None
    pixels: int | None = None
    memory: int | None = None

    def reading_options(self) -> VideoOptions:
        """Return the options for reading a video. The time for it starts now."""
        options = VideoOptions()
        if self.seconds is not None:
            options = replace(options, max_seconds=self.seconds, deadline=time.monotonic() + self.seconds)
        if self.pixels is not None:
            options = replace(options, max_frame_pixels=self.pixels)
        if self.memory is not None:
            frames = self.memory // 3  # a pixel takes 3 bytes
            smaller = {"max_clip_pixels": min(frames, options.max_clip_pixels), "max_bytes": self.memory}
            options = replace(options, **smaller)
        return options


@dataclass(frozen=True)
class WorkerSettings:
    """
    Everything that a worker must know. It can be sent to another machine.

    Attributes:
        model: a folder or a name on the Hub, or `None` for the shipped model.
        device, dtype, quantize: where and in what the model computes.
        sampling: settings of the frames and views of a video.
        batch_size: how many videos the model takes at once.
        level: of the features, or `None` for labels.
        scoring: how logits become scores for an evaluation, see `average_views`, or `None` for labels or features.
        time_audit: whether the scores are also those of rearranged frames, see `score_batch`.
        timeline: settings of the timeline of each video, see `make_timeline`, or `None`.
        top_k: how many labels a video gets.
        num_workers: threads that decode (default: one for each core, at most 8).
        threads: threads of the model on a CPU (default: those that torch has).
        kernels: of the linear layers, see [`list_kernels`] (default: the fastest, by a measurement).
        limits: of each file.
        weights: the hash that the model must have, which a worker elsewhere is told, see [`VideoWorker.weights`].
    """

    model: str | None
    device: str = "cpu"
    dtype: str = "auto"
    quantize: str | None = None
    sampling: dict = field(default_factory=dict)
    batch_size: int = 1
    level: str | None = None
    scoring: dict | None = None
    time_audit: bool = False
    timeline: dict | None = None
    top_k: int = 5
    num_workers: int | None = None
    threads: int | None = None
    kernels: dict[str, str] | None = None
    limits: FileLimits = FileLimits()
    weights: str | None = None

    @property
    def model_name(self) -> str:
        """The folder or name of the model on this machine."""
        return CAMERA_MOTION if self.model is None else self.model


@dataclass
class VideoRow:
    """
    The result for one video.

    Attributes:
        source: identifies the video with its content.
        video: its path or URL.
        error: why there is no result.
        timeline: see `Timeline`.
        predictions: `[{"label", "score"}]`, the likeliest first.
        feature: float32, see [`EmbeddedVideo`].
        frame_indices: the frames that the model got, where there is a feature.
        decode_seconds: the time for fetching, decoding and resizing the video in its thread.
        model_seconds: the video's share of the time that the model took for its batch.
    """

    source: str
    video: str
    error: str | None = None
    timeline: object | None = None
    predictions: list[dict] = field(default_factory=list)
    feature: np.ndarray | None = None
    frame_indices: list[int] = field(default_factory=list)
    decode_seconds: float = 0.0
    model_seconds: float = 0.0


class VideoWorker:
    """
    Labels or embeds videos, batch by batch.

    Args:
        settings: see [`WorkerSettings`].

    Attributes:
        description: all settings that decide the rows, as values for JSON.

    Raises:
        ValueError: if the model can't be loaded, a setting is not allowed, or the weights are not those of `settings`.
    """

    def __init__(self, settings: WorkerSettings):
        self.settings = settings
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.task = _find_task(settings)(settings)
        self.description = self.task.description
        if settings.weights not in (None, self.weights):
            raise ValueError(
                f"the model {settings.model_name} on {platform.node()} has other weights ({self.weights}) than where "
                f"the run was started ({settings.weights}); put the same files there"
            )
        self._model_is_free = threading.Lock()

    @property
    def model(self):
        """The model, as it computes."""
        return self.task.model

    @property
    def weights(self) -> str:
        """A hash of the weights: 16 hexadecimal digits."""
        return self.description["weights"]

    def describe_execution(self) -> dict:
        """
        Return what decides the last digits of the results besides the settings, as values for JSON.

        `kernels` are those of the linear layers, which another worker can be given.
        """
        return {
            "device": str(self.model.device),
            "cpu": cpu_name(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "batch_size": self.settings.batch_size,
            "kernels": list_kernels(self.model),
        }

    def run(self, batches: Iterable[list[VideoRow]]) -> Iterator[list[VideoRow]]:
        """
        Fill in the rows of batches, in order. A batch is one pass of the model, whoever computes it, because the other
        videos in a batch can change the last digits of a result.
        """
        sizes = deque()  # of the batches whose decoding has begun
        workers = self.settings.num_workers or default_workers()
        decoded = prefetch(self.decode, _flat(batches, sizes), workers, ahead=self.settings.batch_size + workers)
        try:
            for first in decoded:
                rest = islice(decoded, sizes.popleft() - 1)
                yield self.compute([future.result() for future in (first, *rest)])
        finally:
            decoded.close()

    def decode(self, row: VideoRow) -> tuple[VideoRow, Future]:
        """Decode a video. The future has what the task makes of it, or the error."""
        start, outcome = time.perf_counter(), Future()
        try:
            check_name(row.video)
            options = self.settings.limits.reading_options()
            with opened_video(row.video, options) as source:
                outcome.set_result(self.task.decode(row.video, source, options))
        except ImportError:  # no decoder is installed, so every video would fail
            raise
        except Exception as error:  # whatever it is, it is about this video
            outcome.set_exception(error)
        row.decode_seconds = time.perf_counter() - start
        return row, outcome

    def compute(self, decoded: list[tuple[VideoRow, Future]]) -> list[VideoRow]:
        """Fill in the rows of decoded videos, as one batch of the model."""
        rows = [row for row, _ in decoded]
        with self._model_is_free:
            start = time.perf_counter()
            self.task.compute(rows, [outcome for _, outcome in decoded])
            seconds = time.perf_counter() - start
        good = [row for row in rows if row.error is None]
        for row in rows:
            if row.error is not None:
                row.error = without_secrets(row.error)
                row.video = printable(row.video) if _is_not_utf8(row.video) else row.video
        for row in good:
            row.model_seconds = seconds / len(good)
        return rows


def _flat(lists: Iterable[list], lengths: deque[int]) -> Iterator:
    """Yield the entries of lists, one list after the other, and note the length of each list."""
    for entries in lists:
        lengths.append(len(entries))
        yield from entries


def _is_not_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def _describe(model, processor, settings: WorkerSettings, **more) -> dict:
    """Return all settings that decide the rows of a model that is not optimized yet."""
    if settings.quantize is not None:
        more["quantize"] = settings.quantize
    if getattr(model, "is_exported", False):  # its weights are in the files of a graph
        more["weights"] = _hash_files(Path(settings.model_name))
    return describe_settings(model, processor, settings.level or "labels", more)


def _hash_files(folder: Path) -> str:
    """Return a hash of the files in a folder: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


class _Classification:
    """Labels of videos, by the video-classification pipeline."""

    def __init__(self, settings: WorkerSettings):
        name = settings.model_name
        self.classifier = load_pipeline(name, settings.device, settings.dtype, settings.quantize)
        self.processor = self.classifier.video_processor
        model = self.classifier.model
        about = settings.sampling | {"top_k": settings.top_k, "labels": list(model.config.id2label.values())}
        self.description = _describe(model, self.processor, settings, **about)
        with loading_model(name):
            self.model = optimized(model, settings.quantize, settings.kernels)
        self.classifier.model = self.model
        self.settings = settings.sampling | {"top_k": settings.top_k}
        check_settings(self.model, self.processor, **settings.sampling)
        preparation, _, _ = self.classifier._sanitize_parameters(**self.settings)
        self.preprocess = partial(self.classifier.preprocess, **preparation)
        self.has_limits = _has_limits(self.processor, settings)

    def decode(self, video: str, source, options: VideoOptions):
        """Return the model's inputs for a video."""
        return self.preprocess(source, **({"video_options": options} if self.has_limits else {}))

    def compute(self, rows: list[VideoRow], inputs: list[Future]) -> None:
        """Set the predictions or the error of each video."""

        def classify(batch: list[Future]) -> list[list[dict]]:
            return self.classifier(batch, batch_size=len(batch), prefetch_workers=0, **self.settings)

        for row, outcome in zip(rows, label_batch(classify, inputs), strict=True):
            if isinstance(outcome, Exception):
                row.error = str(outcome) or type(outcome).__name__
            elif not all(math.isfinite(prediction["score"]) for prediction in outcome):
                row.error = NOT_FINITE
            else:
                row.predictions = [{"label": found["label"], "score": found["score"]} for found in outcome]


class _Features:
    """What features and scores have in common: a row of numbers for each video."""

    def decode(self, video: str, source, options: VideoOptions) -> EmbeddedVideo:
        """Return the video with its pixels, or with its error."""
        limits = {"video_options": options} if self.has_limits else {}
        return load_video(self.processor, video, self.sampling | limits, fetch=lambda: source)

    def compute(self, rows: list[VideoRow], loaded: list[Future]) -> None:
        """Set the feature or the error of each video."""
        videos = [_outcome(row.video, future) for row, future in zip(rows, loaded, strict=True)]
        self.fill(videos)
        for row, video in zip(rows, videos, strict=True):
            row.feature, row.frame_indices, row.error = video.feature, video.frame_indices, video.error


class _Embedding(_Features):
    """Features of videos."""

    def __init__(self, settings: WorkerSettings):
        name = settings.model_name
        with loading_model(name):
            model, self.processor = load_feature_model(name, settings.dtype, settings.device)
        given = (settings.sampling.get(key) for key in ("num_frames", "frame_sampling_rate"))
        self.sampling = choose_sampling(model, self.processor, *given)
        self.description = _describe(model, self.processor, settings, **self.sampling)
        self.has_limits = _has_limits(self.processor, settings)
        self.model, self.level = optimized(model, settings.quantize, settings.kernels), settings.level

    def fill(self, videos: list[EmbeddedVideo]) -> None:
        """Set the features of loaded videos."""
        compute_features(videos, lambda pixels: self.model.clip_features(pixels, self.level).float(), self.model)


class _Scoring(_Features):
    """Scores of videos, by the model of an evaluation."""

    def __init__(self, settings: WorkerSettings):
        from ..evaluation.measuring import load_model

        self.model, self.processor = load_model(settings.model_name, settings.dtype, settings.device)
        self.sampling, self.scoring, self.time_audit = settings.sampling, settings.scoring, settings.time_audit
        self.description = {"weights": fingerprint(self.model)}
        self.has_limits = _has_limits(self.processor, settings)
        if settings.quantize is not None:
            self.model = optimized(self.model, settings.quantize, settings.kernels)

    def fill(self, videos: list[EmbeddedVideo]) -> None:
        """Set the scores of loaded videos."""
        from ..evaluation.scoring import score_batch

        score_batch(self.model, videos, self.scoring, self.time_audit)


class _Timelines:
    """Timelines of videos, which are decoded while the model computes their windows."""

    def __init__(self, settings: WorkerSettings):
        name = settings.model_name
        classifier = load_pipeline(name, settings.device, settings.dtype)
        self.processor, self.settings = classifier.video_processor, settings.timeline
        self.description = _describe(classifier.model, self.processor, settings)
        self.model = optimized(classifier.model, kernels=settings.kernels)

    def decode(self, video: str, source, options: VideoOptions) -> tuple:
        """Return what `compute` reads."""
        if source != video:
            raise ValueError(f"{video}: a timeline reads files and http(s) URLs alone; fetch it first")
        return source, options

    def compute(self, rows: list[VideoRow], sources: list[Future]) -> None:
        """Set the timeline or the error of each video."""
        from ..timeline.video_timeline import make_timeline

        for row, future in zip(rows, sources, strict=True):
            try:
                source, options = future.result()
                row.timeline = make_timeline(self.model, self.processor, source, options=options, **self.settings)
            except (ValueError, OSError) as error:
                row.error = str(error) or type(error).__name__


def _find_task(settings: WorkerSettings) -> type:
    """Return what a worker with these settings does."""
    if settings.timeline is not None:
        return _Timelines
    if settings.scoring is not None:
        return _Scoring
    return _Classification if settings.level is None else _Embedding


def _has_limits(processor, settings: WorkerSettings) -> bool:
    """
    Return whether a video processor takes limits for files.

    Raises:
        ValueError: if it doesn't, but there are some.
    """
    has_limits = isinstance(processor, TimesformerVideoProcessor)
    if settings.limits != FileLimits() and not has_limits:
        raise ValueError(
            f"{settings.model_name} has a {type(processor).__name__}, which knows no limits of a file; leave out "
            "--max-seconds, --max-pixels and --max-memory"
        )
    return has_limits


def _outcome(name: str, future: Future) -> EmbeddedVideo:
    """Return the decoded video, or one with the error that reading it raised."""
    error = future.exception()
    return future.result() if error is None else EmbeddedVideo(name, error=str(error) or type(error).__name__)
