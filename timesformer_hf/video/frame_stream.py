"""All frames of a video in order of display, one at a time, with the time of each: for videos of any length."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from .damaged_packets import Damage, decode_undamaged
from .frame_sizes import scale_frame
from .safe_opening import demux
from .video_decoding import MP4, check_complete, open_pyav, to_rgb, use_all_cores
from .video_errors import CallersErrors, VideoReadError, VideoWarning, translated_errors
from .video_options import VideoOptions
from .video_sources import VideoSource, describe_source, is_decoder, open_source


TimedFrame = tuple[float, Callable[[], np.ndarray]]
"""The time of a frame in seconds, and a function that returns its RGB pixels, uint8 (height, width, 3), upright."""

# Frame rates that a header can mean. FFmpeg gives the clock's rate, for example 90,000, where it knows no other.
_PLAUSIBLE_RATES = (0.01, 1000)
_UNKNOWN_RATE = 25.0
# A time that goes back by more seconds than this belongs to another recording. Smaller ones are errors of the file.
_RESTART = 1.0


@dataclass
class FrameStream:
    """
    The frames of an open video, in order of display.

    Attributes:
        name: the name of the video for messages.
        fps: frames per second, as the header says; 25 where it doesn't.
        duration: length in seconds as the header says. It can be wrong. `None` if unknown.
        frames: iterator over the frames; it can be used once. Times start at 0 and rise.
    """

    name: str
    fps: float
    duration: float | None
    frames: Iterator[TimedFrame] = field(repr=False)


@contextmanager
def open_frame_stream(
    source: VideoSource, options: VideoOptions | None = None, *, stream: int | None = None, **changes
) -> Iterator[FrameStream]:
    """
    Open a video to decode all its frames once, from the start to the end. Only a few frames are in memory.

    The frames are those of [`decode_frames`] with all indices, bit for bit. Damaged packets are left out, and frames
    that change size are scaled to the size of the first one; a warning says so.

    Args:
        source, options, stream, changes: as in [`decode_frames`].

    Yields:
        the stream of frames, which can be read inside the `with` block.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: if a path can't be opened.
        VideoReadError: if the video is unreadable, exceeds a limit, or contains no frame. The message names it.
        TypeError: if the source is a decoder of torchcodec.
    """
    if is_decoder(source):
        raise TypeError("A decoder of torchcodec can't be read in one pass; give the path or the bytes of the video")
    options, name, callers = replace(options or VideoOptions(), **changes), describe_source(source), CallersErrors()
    with (
        translated_errors(name, callers),
        open_pyav(open_source(source, options), name, stream, options) as (container, video),
    ):
        if container.format.name == MP4:
            check_complete(container, video, name)
        use_all_cores(video)
        damage = Damage(name, options)
        decoded = _counted(decode_undamaged(demux(container, video, options), video.codec_context, damage), damage)
        frames = timed_frames(decoded, video, container.format.name, name, options)
        with callers.remembered():
            yield FrameStream(name, header_rate(video), _header_duration(container, video), frames)


def header_rate(stream) -> float:
    """Return the frames per second of PyAV's stream, or 25 if its header has no plausible rate."""
    low, high = _PLAUSIBLE_RATES
    rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    return next((rate for rate in rates if low <= rate <= high), _UNKNOWN_RATE)


def _header_duration(container, stream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration and container.duration > 0 else None


def _counted(frames: Iterator, damage: Damage) -> Iterator:
    """Yield frames. At the end, check that there was one, and warn of damaged packets."""
    number = 0
    for frame in frames:
        number += 1
        yield frame
    damage.check_any_frame(number)
    damage.report()


def timed_frames(frames: Iterator, stream, format_name: str, name: str, options: VideoOptions) -> Iterator[TimedFrame]:
    """
    Yield the time and the pixels of PyAV's frames. Times start at 0 and rise.

    AVI numbers frames in order of decoding, and other files have no times at all. There, times follow from the rate.
    """
    clock, size, coded = _Clock(1 / header_rate(stream)), None, []  # `coded` has the sizes before turning, so far
    for frame in frames:
        has_time = frame.pts is not None and stream.time_base and format_name != "avi"
        time = clock.read(float(frame.pts * stream.time_base) if has_time else None)
        if (frame.width, frame.height) not in coded:
            coded.append((frame.width, frame.height))
            size = size or to_rgb(frame).shape[:2]
            if len(coded) > 1:
                _tell_change(f"{name}: the frames change size at {time:.2f} s, from {coded[0]} to {coded[-1]}", options)
        is_first_size = (frame.width, frame.height) == coded[0]
        yield time, partial(to_rgb, frame) if is_first_size else partial(_scaled, frame, size)


def _tell_change(about: str, options: VideoOptions) -> None:
    """
    Warn that frames change size.

    Raises:
        VideoReadError: if `options.strict` is set.
    """
    if options.strict:
        raise VideoReadError(f"{about} (width, height); re-encode it")
    warnings.warn(
        f"{about} (width, height); all are scaled to the first size. strict=True refuses it", VideoWarning, stacklevel=3
    )


def _scaled(frame, size: tuple[int, int]) -> np.ndarray:
    return scale_frame(to_rgb(frame), *size)


class _Clock:
    """Turns the times of frames into times that start at 0 and rise, also where recordings were joined."""

    def __init__(self, period: float):
        self.period, self.shift, self.last = period, None, -period

    def read(self, time: float | None) -> float:
        """Return the time of the next frame. `time` is what the file says, in seconds."""
        expected = self.last + self.period
        if time is not None:
            if self.shift is None or time - self.shift < self.last - _RESTART:
                self.shift = time - expected
            time -= self.shift
        self.last = expected if time is None or time <= self.last else time
        return self.last
