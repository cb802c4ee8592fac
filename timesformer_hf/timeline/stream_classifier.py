"""Frames in, segments out: the classifier of live streams, which also does the work for files."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedModel

from ..video.video_processing_timesformer import TimesformerVideoProcessor
from ..video.video_sampling import check_count
from .segments import Segment, SegmentBuilder, Window
from .shots import ShotDetector
from .window_scoring import WindowScorer, check_number, find_labels
from .windows import Clip, Pixels, Windows


class StreamClassifier:
    """
    Classifies a stream of frames in windows, and returns segments as they end. Its memory does not grow.

    A file that is fed frame by frame gives exactly the segments of [`make_timeline`] with the same `batch_size`.

    Example:

    ```python
    >>> classifier = StreamClassifier(model, processor, fps=25)
    >>> for frame in frames:  # RGB, uint8 (height, width, 3)
    ...     for segment in classifier.add(frame):
    ...         print(segment)
    >>> classifier.finish()
    ```

    Args:
        model: a video classifier.
        processor: its [`TimesformerVideoProcessor`].
        fps: frames per second of the stream. Frames are put on a regular grid of this rate.
        window, stride: length of a window and distance from one to the next, in seconds. They are rounded to whole
            frames. By default a window is the span of the processor's own sampling (10 s if it samples whole videos),
            and the stride is half of the window.
        labels: names of the labels that may become segments (default: all).
        threshold: a segment begins where the smoothed score reaches this value, and ends below 0.7 times it.
        smoothing: odd number of windows over whose scores the mean is taken. 1 turns smoothing off.
        batch_size: windows that the model takes at once. More than 1 delays live results.
        shots: whether windows and segments end at shot boundaries, which PySceneDetect finds.
        on_window: is called with every window that has been scored.

    Attributes:
        window, stride: the values that are used, in seconds.
        labels: the names of all scores.

    Raises:
        TypeError, ValueError: if an argument is not allowed. An unknown label is answered with the nearest names.
        ImportError: if `shots` is set and PySceneDetect is missing.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: TimesformerVideoProcessor,
        fps: float,
        *,
        window: float | None = None,
        stride: float | None = None,
        labels: Sequence[str] | None = None,
        threshold: float = 0.5,
        smoothing: int = 3,
        batch_size: int = 1,
        shots: bool = False,
        on_window: Callable[[Window], None] = lambda window: None,
        _known: Sequence[np.ndarray] = (),
        _keep_all_from: float = 0.0,
    ):
        check_number("fps", fps, "frames per second")
        check_number("window", window)
        check_number("stride", stride)
        check_count("batch_size", batch_size)
        check_count("smoothing", smoothing)
        if smoothing % 2 == 0:
            raise ValueError(f"smoothing={smoothing} must be odd, so that a window is in the middle of its neighbours")
        if not math.isfinite(threshold):
            raise ValueError(f"threshold={threshold} must be a finite number")
        self._scorer = WindowScorer(model, processor, fps)
        length = self._scorer.own_length() if window is None else max(1, round(window * fps))
        step = max(1, length // 2) if stride is None else max(1, round(stride * fps))
        self.fps: float = float(fps)
        self.window: float = length / fps
        self.stride: float = step / fps
        self.labels: list[str] = self._scorer.labels
        self._shots = ShotDetector(fps) if shots else None
        keep_all_from = math.inf if math.isinf(_keep_all_from) else round(_keep_all_from * fps)
        self._windows = Windows(
            length, step, self._scorer.choose, self._prepare, 0 if shots else keep_all_from, len(_known)
        )
        several = model.config.problem_type == "multi_label_classification"
        allowed = find_labels(labels, self.labels)
        self._segments = SegmentBuilder(self.labels, allowed, threshold, several, smoothing)
        self._batch_size, self._waiting, self._on_window = batch_size, [], on_window
        self._known, self._scored, self._checked = _known, 0, False

    @property
    def duration(self) -> float:
        """The time of all frames so far, in seconds."""
        return self._windows.end / self.fps

    def add(self, frame: Pixels, time: float | None = None) -> list[Segment]:
        """
        Take the next frame. Return the segments that have ended.

        Args:
            frame: RGB, uint8 (height, width, 3), or a function that returns it. The function is called only if the
                frame is needed.
            time: when the frame is shown, in seconds. By default it follows the frame before. A missing frame is
                replaced by the one before it. After a gap that is longer than a window, new windows begin.

        Raises:
            TypeError, ValueError: if the frame has another dtype or shape, or the time is not a number from 0 on.
        """
        if time is not None and not 0 <= time < math.inf:
            raise ValueError(f"time={time} must be a number of seconds from 0 on")
        index = self._windows.end if time is None else round(time * self.fps)
        clips = []
        if self._shots is not None and index >= self._windows.end:
            pixels = frame() if callable(frame) else frame
            _check_frame(pixels)
            frame = pixels
            if self._shots.is_cut(pixels):
                clips += self._windows.cut()
        clips += self._windows.add(index, frame)
        return self._take(clips)

    def finish(self) -> list[Segment]:
        """
        End the windows and segments here. Return the segments that have ended.

        Frames that are added later begin new windows, as after a break in a live stream.
        """
        ended = self._take(self._windows.cut())
        return ended + self._score_waiting() + self._segments.end_part()

    def skip(self) -> None:
        """
        Tell that many frames are missing here. No window contains frames from before and after; segments go on.

        Frames from before that are not in a complete window yet are forgotten.
        """
        self._windows.skip()

    def _take(self, clips: list[Clip]) -> list[Segment]:
        ended = []
        for clip in clips:
            self._waiting.append(clip)
            if len(self._waiting) == self._batch_size:
                ended += self._score_waiting()
        return ended

    def _score_waiting(self) -> list[Segment]:
        clips, self._waiting = self._waiting, []
        if not clips:
            return []
        if self._scored + len(clips) <= len(self._known):
            scores = self._known[self._scored : self._scored + len(clips)]
        else:
            scores = self._scorer.score([clip.frames for clip in clips])
        self._scored += len(clips)
        ended = []
        for clip, row in zip(clips, scores, strict=True):
            window = Window(clip.first / self.fps, (clip.first + clip.length) / self.fps, row, clip.part)
            self._on_window(window)
            ended += self._segments.add(window)
        return ended

    def _prepare(self, pixels: np.ndarray):
        _check_frame(pixels)
        prepared = self._scorer.prepare(pixels)
        if not self._checked:
            self._scorer.check_memory(self._windows.length, prepared)
            self._checked = True
        return prepared


def _check_frame(frame: np.ndarray) -> None:
    if not isinstance(frame, np.ndarray):
        raise TypeError(f"A frame must be a NumPy array, got {type(frame).__name__}")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise ValueError(f"A frame must be RGB, uint8 (height, width, 3), got {frame.dtype} {frame.shape}")
