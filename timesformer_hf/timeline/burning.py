"""The film of a video with its labels burnt into the picture."""

import os
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from ..video.frame_stream import open_frame_stream
from ..video.video_sources import VideoSource
from .segments import Segment
from .video_timeline import Timeline


_CLOCK = 90_000  # ticks a second
_CODECS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}  # the first that PyAV has
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf")


def write_film(path: str | os.PathLike, timeline: Timeline, video: VideoSource) -> None:
    """
    Write the video as MP4, with the labels that hold at each moment in its lower left corner, without sound.

    The frames keep their times. An odd width or height loses a line of pixels, because the format needs even ones.

    Args:
        timeline: the timeline of the video.
        video: the video, as in [`decode_frames`].

    Raises:
        OSError, VideoReadError: if the video is unreadable.
    """
    import av

    codec = next(name for name in _CODECS if name in av.codecs_available)
    with open_frame_stream(video) as source, av.open(os.fspath(path), "w") as container:
        stream, captions = None, _Captions(timeline.segments)
        for time, read in source.frames:
            frame = read()
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(source.fps).limit_denominator(1001))
                stream.height, stream.width = (max(side // 2, 1) * 2 for side in frame.shape[:2])
                stream.pix_fmt, stream.options = "yuv420p", _CODECS[codec]
                stream.codec_context.time_base = Fraction(1, _CLOCK)
                size = stream.height, stream.width
            picture = av.VideoFrame.from_ndarray(_even(captions.draw(frame, time), *size), format="rgb24")
            picture.pts, picture.time_base = round(time * _CLOCK), Fraction(1, _CLOCK)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _even(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a frame with even sides: a line less, or for a side of one pixel, a line more."""
    more = [(0, max(height - frame.shape[0], 0)), (0, max(width - frame.shape[1], 0)), (0, 0)]
    return np.ascontiguousarray(np.pad(frame, more, mode="edge")[:height, :width])


class _Captions:
    """Draws the labels that hold at a time. The picture of a text is made once."""

    def __init__(self, segments: Sequence[Segment]):
        self._later, self._now = sorted(segments, key=lambda segment: -segment.start), []
        self._text, self._picture = "", None

    def draw(self, frame: np.ndarray, time: float) -> np.ndarray:
        """Return the frame with the labels of this time. Times must rise from call to call."""
        while self._later and self._later[-1].start <= time:
            self._now.append(self._later.pop())
        self._now = [segment for segment in self._now if segment.end > time]
        text = "\n".join(f"{' '.join(segment.label.split())}  {segment.score:.0%}" for segment in self._now)
        if not text:
            return frame
        if text != self._text or self._picture is None:
            self._text, self._picture = text, _draw_text(text, *frame.shape[:2])
        height, width = self._picture.shape[:2]
        frame = frame.copy()
        frame[-height:, :width] = self._picture
        return frame


def _draw_text(text: str, height: int, width: int) -> np.ndarray:
    """Return white text on black, at most as large as the frame: uint8 (height, width, 3)."""
    size = max(8, height // 16)
    while True:
        font = _load_font(size)
        box = PIL.ImageDraw.Draw(PIL.Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font=font)
        margin = size // 3
        need = round(box[2]) + 2 * margin, round(box[3]) + 2 * margin
        if size <= 8 or (need[0] <= width and need[1] <= height):
            break
        size -= 1
    picture = PIL.Image.new("RGB", (min(need[0], width), min(need[1], height)))
    PIL.ImageDraw.Draw(picture).multiline_text((margin, margin), text, font=font, fill="white")
    return np.asarray(picture)


def _load_font(size: int):
    for name in _FONTS:
        try:
            return PIL.ImageFont.truetype(name, size)
        except OSError:
            continue
    return PIL.ImageFont.load_default(size)
