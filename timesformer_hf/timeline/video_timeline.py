"""What happens when in a video file: its windows, and the segments that follow from them."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from ..video.frame_stream import FrameStream, open_frame_stream
from ..video.video_options import VideoOptions
from ..video.video_processing_timesformer import TimesformerVideoProcessor
from ..video.video_sources import VideoSource
from .score_file import ScoreFile
from .segments import Segment, Window
from .stream_classifier import StreamClassifier
from .windows import MissingFrameError


_BATCH = 8  # windows
_MARGIN = 2.0  # seconds: so much earlier than its header says, a video may end without being decoded again
_SHOWN = 5  # labels of a window in the dictionary

Progress = Callable[[float, float | None], None]
"""Is called with the seconds of the video that are done, and its duration if the header has one."""


@dataclass(frozen=True)
class Timeline:
    """
    What happens when in a video.

    Attributes:
        video: the name of the video.
        duration: seconds.
        fps: frames per second.
        labels: the names of the scores.
        window, stride: length of a window and distance from one to the next, in seconds.
        windows: every window with the scores of all labels, in order.
        segments: stretches of time with a label, in order.
    """

    video: str
    duration: float
    fps: float
    labels: tuple[str, ...]
    window: float
    stride: float
    windows: tuple[Window, ...]
    segments: tuple[Segment, ...]

    @property
    def is_shorter_than_window(self) -> bool:
        """Whether the whole video is shorter than a window, so that its only window is shorter too."""
        return self.windows[-1].part == 0 and self.duration < self.window

    def to_dict(self) -> dict[str, Any]:
        """
        Return the timeline in the form of ActivityNet's results, for JSON.

        It is `{"video", "duration", "fps", "segments": [{"start", "end", "label", "score"}], "windows": [{"start",
        "end", "predictions": [{"label", "score"}]}]}`. Times are in seconds. A window has its five best labels.
        """
        segments = [{"start": s.start, "end": s.end, "label": s.label, "score": s.score} for s in self.segments]
        windows = [{"start": w.start, "end": w.end, "predictions": self._best(w)} for w in self.windows]
        about = {"video": self.video, "duration": self.duration, "fps": self.fps}
        return about | {"segments": segments, "windows": windows}

    def _best(self, window: Window) -> list[dict]:
        best = np.argsort(-window.scores, kind="stable")[:_SHOWN]
        return [{"label": self.labels[i], "score": float(window.scores[i])} for i in best]


def make_timeline(
    model: PreTrainedModel,
    processor: TimesformerVideoProcessor,
    video: VideoSource,
    *,
    window: float | None = None,
    stride: float | None = None,
    labels: Sequence[str] | None = None,
    threshold: float = 0.5,
    smoothing: int = 3,
    batch_size: int = _BATCH,
    shots: bool = False,
    options: VideoOptions | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: Progress = lambda seconds, duration: None,
) -> Timeline:
    """
    Classify the windows of a video of any length, and join them to segments.

    Each frame is decoded once, and only the frames of a window are in memory. The score of a window is that of the
    video-classification pipeline for its frames alone. A video that is shorter than a window has one window.

    Args:
        model, processor, window, stride, labels, threshold, smoothing, batch_size, shots: as in [`StreamClassifier`].
        video: as in [`decode_frames`].
        options: limits for reading the video (default: those of the processor).
        resume: name of a file for the scores of finished windows. If it exists from an interrupted call with the same
            video, model and settings, the call goes on there. It gives the same result, because batches stay the same.
            The caller deletes the file when the result is saved.
        progress: is called after every batch and about once for each second of the video.

    Raises:
        OSError, VideoReadError: if the video is unreadable.
        TypeError, ValueError: if an argument is not allowed, or `resume` is a file of another call.
        ImportError: if `shots` is set and PySceneDetect is missing.
    """
    settings = {"window": window, "stride": stride, "shots": shots, "batch_size": batch_size}
    arguments = settings | {"labels": labels, "threshold": threshold, "smoothing": smoothing}
    StreamClassifier(model, processor, fps=25.0, **arguments)  # checks them before the work starts
    options = processor.reading_options(options)
    kept = ScoreFile(resume, model, processor, video, settings)
    kept.load(batch_size)
    with kept:
        try:
            return _read(model, processor, video, options, arguments, kept, progress, None)
        except MissingFrameError:  # the video is shorter than its header says
            return _read(model, processor, video, options, arguments, kept, progress, 0.0)


def _read(
    model,
    processor,
    video: VideoSource,
    options: VideoOptions | None,
    arguments: dict,
    kept: ScoreFile,
    progress: Progress,
    keep_all_from: float | None,
) -> Timeline:
    windows: list[Window] = []
    with open_frame_stream(video, options) as stream:

        def make(keep_from: float) -> StreamClassifier:
            hidden = {"_known": list(kept.scores), "_keep_all_from": keep_from}
            return StreamClassifier(model, processor, stream.fps, on_window=windows.append, **arguments, **hidden)

        classifier = make(0.0)
        if keep_all_from is None and stream.duration:
            classifier = make(max(0.0, stream.duration - classifier.window - _MARGIN))
        segments = _feed(stream, classifier, windows, kept, progress)
    about = (stream.name, classifier.duration, stream.fps, tuple(classifier.labels))
    return Timeline(*about, classifier.window, classifier.stride, tuple(windows), tuple(segments))


def _feed(
    stream: FrameStream, classifier: StreamClassifier, windows: list[Window], kept: ScoreFile, progress: Progress
) -> list[Segment]:
    segments, told = [], -1
    for time, frame in stream.frames:
        segments += classifier.add(frame, time)
        kept.keep(windows)
        if math.floor(time) > told:
            told = math.floor(time)
            progress(time, stream.duration)
    segments += classifier.finish()
    kept.keep(windows)
    progress(classifier.duration, stream.duration)
    return segments
