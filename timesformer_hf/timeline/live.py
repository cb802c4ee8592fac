"""Live streams: a thread reads and decodes, the caller classifies, and a bounded queue is between them."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from ..video.frame_stream import TimedFrame
from ..video.live_stream import OPENING_SECONDS, describe_live, is_camera, is_network, open_live_stream
from ..video.video_errors import VideoReadError
from ..video.video_options import VideoOptions
from ..video.video_processing_timesformer import TimesformerVideoProcessor
from .segments import Segment
from .stream_classifier import StreamClassifier


_QUEUED = 64  # frames between the decoder and the model
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds before a broken stream is tried again


@dataclass(frozen=True)
class _Started:
    """A connection was made."""

    fps: float


@dataclass(frozen=True)
class _Ended:
    """A connection has ended."""

    reason: str


@dataclass(frozen=True)
class _Dropped:
    """Frames were dropped here."""


class LiveReader:
    """
    Reads a live source in a thread. It never holds more than 64 decoded frames.

    Where the caller is slower than a camera or a network stream, frames are dropped until no frame waits any more. So
    whole windows are left out, and the others have all their frames. The standard input and files have no frames
    dropped, because their writer can wait.

    Args:
        source: as in [`open_live_stream`].
        options: limits for reading.
        give_up: a network stream that breaks is tried again, until there was no frame for so many seconds.

    Attributes:
        frames: number of decoded frames so far.
        dropped: how many of them were dropped.
        error: the error that ended the source, or `None`.
    """

    def __init__(self, source: str, options: VideoOptions | None = None, give_up: float = 60.0):
        self.source, self.options, self.give_up = source, options, give_up
        self.frames, self.dropped, self.error = 0, 0, None
        self._drops, self._reopens = is_network(source) or is_camera(source), is_network(source)
        self._queue: queue.Queue = queue.Queue(_QUEUED)
        self._is_dropping = False
        self._stop = threading.Event()
        self._began: float | None = None  # when the first frame came
        self._end = 0.0  # the time of all frames so far, in seconds
        self._thread = threading.Thread(target=self._read, name="live", daemon=True)

    def __enter__(self) -> "LiveReader":
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._stop.set()
        self._thread.join(timeout=1)  # it may wait for the network; it ends with the program

    def __iter__(self) -> Iterator:
        """Yield what happens: connections that start and end, and frames between them."""
        while True:
            try:
                event = self._queue.get(timeout=0.5)  # so that Ctrl-C is noticed
            except queue.Empty:
                continue
            if event is None:
                return
            yield event

    def _read(self) -> None:
        """Read connection after connection, until the source ends or was silent for too long."""
        pause, silent_since, reason = _FIRST_PAUSE, time.monotonic(), ""
        while not self._stop.is_set():
            frames = self.frames
            try:
                self._read_connection(min(OPENING_SECONDS, self.give_up))
                reason = f"{describe_live(self.source)}: the stream has ended"
            except Exception as error:  # whatever it is, the caller's thread must raise it
                self.error, reason = error, str(error)
            if not self._reopens or isinstance(self.error, (TypeError, ImportError)):
                break
            if self.frames > frames:
                pause, silent_since = _FIRST_PAUSE, time.monotonic()
            if time.monotonic() - silent_since > self.give_up:
                self.error = VideoReadError(f"{reason}. It was tried again for {self.give_up:g} s")
                break
            self._put(_Ended(f"{reason}; trying again"))
            self.error = None
            self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._put(None)

    def _read_connection(self, seconds: float) -> None:
        with open_live_stream(self.source, self.options, seconds) as stream:
            shift = None
            for at, read in stream.frames:
                if self._stop.is_set():
                    return
                if shift is None:
                    now = time.monotonic()
                    self._began = now if self._began is None else self._began
                    shift = max(now - self._began, self._end)  # a recording can be sent faster than it plays
                    self._put(_Started(stream.fps))
                self.frames += 1
                self._end = shift + at + 1 / stream.fps
                self._put_frame((shift + at, read))

    def _put_frame(self, frame: TimedFrame) -> None:
        """Queue a frame. Where the queue is full, drop frames until it is empty, or wait where nothing is dropped."""
        if self._is_dropping and self._queue.empty():
            self._is_dropping = False
            self._put(_Dropped())
        if self._drops:
            self._is_dropping |= self._queue.full()
        if self._is_dropping:
            self.dropped += 1
        else:
            self._put(frame)

    def _put(self, event) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(event, timeout=0.2)
                return
            except queue.Full:
                continue


def classify_live(
    model: PreTrainedModel,
    processor: TimesformerVideoProcessor,
    source: str,
    *,
    options: VideoOptions | None = None,
    give_up: float = 60.0,
    report: Callable[[str], None] = lambda message: None,
    **settings: Any,
) -> Iterator[Segment]:
    """
    Yield the segments of a live source as they end. Times are in seconds since the first frame.

    The memory is bounded: 64 decoded frames, and the frames of a window. Where the model is slower than a camera or a
    network stream, frames are dropped and counted. A network stream that breaks is tried again; segments end there.

    Args:
        model, processor, settings: as in [`StreamClassifier`].
        source: `camera:0`; an rtsp, http, udp or tcp URL; `-` for the standard input; or the path of a video file.
        options: limits for reading.
        give_up: a network stream is tried again until there was no frame for so many seconds.
        report: is called with messages on breaks and dropped frames.

    Raises:
        OSError, VideoReadError: if the source can't be read, or not any more.
        TypeError, ValueError: if an argument is not allowed.
    """
    classifier, told = None, 0

    def count_dropped() -> None:
        nonlocal told
        if reader.dropped > told:
            told = reader.dropped
            report(f"{told:,} of {reader.frames:,} frames were dropped, because the model is slower than the source")

    with LiveReader(source, options, give_up) as reader:
        try:
            for event in reader:
                if isinstance(event, _Started):
                    classifier = classifier or StreamClassifier(model, processor, event.fps, **settings)
                elif isinstance(event, _Ended):
                    yield from classifier.finish() if classifier else ()
                    count_dropped()
                    report(event.reason)
                elif isinstance(event, _Dropped):
                    classifier.skip()
                else:
                    at, read = event
                    yield from classifier.add(read, at)
        except KeyboardInterrupt:
            yield from classifier.finish() if classifier else ()
            count_dropped()
            raise
        yield from classifier.finish() if classifier else ()
        count_dropped()
        if reader.error is not None:
            raise reader.error
