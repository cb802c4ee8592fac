"""The short measurement of `timesformer-hf plan`: a worker on some videos, as a run over a corpus would use it."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace

from ..inference.processor import cpu_name
from ..model.cost import count_multiply_accumulates
from ..video.decoding_plan import count_cores
from ..video.printable import printable
from .plan import Measurement
from .video_worker import VideoRow, VideoWorker, WorkerSettings


_OTHER_BATCH = {True: 8, False: 1}  # whether one video at a time was measured -> the batch to compare with


def measure_worker(
    settings: WorkerSettings, videos: Sequence[str], seconds: float, program_seconds: float
) -> tuple[VideoWorker, Measurement]:
    """
    Measure how long a worker takes for the videos, which are used again and again.

    Args:
        settings: of the worker.
        videos: paths.
        seconds: how long each part of the measurement takes at least.
        program_seconds: the time of the whole program for one video.

    Returns:
        the worker, and what was measured.

    Raises:
        ValueError: if the model can't be loaded, or a video can't be decoded.
    """
    worker = VideoWorker(settings)
    inputs = [_decoded(worker, video) for video in videos]
    _compute(worker, inputs)  # the first call is slower
    video_seconds = _video_seconds(worker, videos, seconds)
    measured = Measurement(
        machine=cpu_name(),
        cores=count_cores(),
        device=str(worker.model.device),
        startup_seconds=max(0.0, program_seconds - video_seconds),
        decode_core_seconds=_decode_core_seconds(worker, videos, seconds),
        model_seconds=_model_seconds(worker, inputs, seconds),
        video_seconds=video_seconds,
    )
    return worker, measured


def measure_changes(
    worker: VideoWorker, measured: Measurement, videos: Sequence[str], seconds: float
) -> Iterator[tuple[str, Measurement]]:
    """
    Yield what else could be set, in words, and the measurement as it would then be.

    Half and twice the frames, another batch, bfloat16 and int8 are measured. For larger frames, the time of the model
    follows from its multiply-accumulates. A change that the model or the machine doesn't allow is left out.
    """
    settings, frames = worker.settings, worker.model.config.num_frames
    frames = settings.sampling.get("num_frames", frames)
    batch = _OTHER_BATCH[settings.batch_size == 1]
    changes = {
        f"{frames // 2} frames": {"sampling": settings.sampling | {"num_frames": max(1, frames // 2)}},
        f"{frames * 2} frames": {"sampling": settings.sampling | {"num_frames": frames * 2}},
        f"batches of {batch}": {"batch_size": batch},
        "bfloat16": {"dtype": "bfloat16", "quantize": None},
        "int8": {"dtype": "float32", "quantize": "int8"},
    }
    for words, change in changes.items():
        if all(getattr(settings, name) == value for name, value in change.items()):
            continue
        try:
            other = VideoWorker(replace(settings, **change))
            inputs = [_decoded(other, video) for video in videos]
            _compute(other, inputs)
            decode = _decode_core_seconds(other, videos, seconds) if "sampling" in change else None
            yield words, measured.changed(decode, _model_seconds(other, inputs, seconds))
        except (ValueError, TypeError, ImportError, RuntimeError):  # this machine or model can't
            continue
    yield from _larger_frames(worker, measured)


def _larger_frames(worker: VideoWorker, measured: Measurement) -> Iterator[tuple[str, Measurement]]:
    config = worker.model.config
    if not isinstance(config.image_size, int) or getattr(worker.model, "is_exported", False):
        return
    side = 2 * config.image_size
    growth = count_multiply_accumulates(config, image_size=side) / count_multiply_accumulates(config)
    yield f"frames of {side} x {side}", measured.changed(model_seconds=growth * measured.model_seconds)


def _decoded(worker: VideoWorker, video: str) -> Future:
    """
    Return the model's inputs for a video.

    Raises:
        ValueError: if it can't be decoded.
    """
    _, outcome = worker.decode(VideoRow(video, video))
    if outcome.exception() is not None:
        raise ValueError(f"{printable(video)} can't be measured: {outcome.exception()}")
    return outcome


def _compute(worker: VideoWorker, inputs: Sequence[Future]) -> None:
    batch = list(itertools.islice(itertools.cycle(inputs), worker.settings.batch_size))
    rows = worker.compute([(VideoRow("", ""), outcome) for outcome in batch])
    if rows[0].error is not None:
        raise ValueError(f"the model can't be measured: {rows[0].error}")


def _decode_core_seconds(worker: VideoWorker, videos: Sequence[str], seconds: float) -> float:
    def decode_all() -> None:
        for video in videos:
            _decoded(worker, video)

    return _median_seconds(decode_all, seconds, time.process_time) / len(videos)


def _model_seconds(worker: VideoWorker, inputs: Sequence[Future], seconds: float) -> float:
    return _median_seconds(lambda: _compute(worker, inputs), seconds, time.perf_counter) / worker.settings.batch_size


def _median_seconds(work: Callable[[], None], seconds: float, clock: Callable[[], float]) -> float:
    """Do the work again and again for so many seconds, and return the median of its time."""
    end, times = time.perf_counter() + seconds, []
    while not times or time.perf_counter() < end:
        start = clock()
        work()
        times.append(clock() - start)
    return statistics.median(times)


def _video_seconds(worker: VideoWorker, videos: Sequence[str], seconds: float) -> float:
    """
    Return the time for a video in a running worker.

    The clock starts when its threads have decoded ahead. When it stops, as many other videos are decoded ahead.
    """
    size, endless = worker.settings.batch_size, itertools.cycle(videos)
    batches = ([VideoRow(video, video) for video in itertools.islice(endless, size)] for _ in itertools.count())
    running = worker.run(batches)
    for _ in range(max(2, len(videos) // size)):
        next(running)
    start, done = time.perf_counter(), 0
    while not done or time.perf_counter() - start < 2 * seconds:
        next(running)
        done += size
    spent = time.perf_counter() - start
    running.close()
    return spent / done
