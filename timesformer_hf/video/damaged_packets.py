"""Damaged packets: the decoder goes on without them, as ffmpeg does, and a warning says so."""

import errno
import warnings
from collections.abc import Iterator

from .video_errors import VideoReadError, VideoWarning, describe_error
from .video_options import VideoOptions


class Damage:
    """
    Notes the packets of a video that can't be decoded.

    Args:
        name: the name of the video for messages.
        options: with `strict`, the first such packet raises an error.
    """

    def __init__(self, name: str, options: VideoOptions):
        self.name, self.strict, self.max_pixels = name, options.strict, options.max_frame_pixels
        self.packets = 0  # that can't be decoded
        self.first: Exception | None = None

    def note(self, error: Exception) -> None:
        """
        Note the error of a packet.

        Raises:
            VideoReadError: with `strict`.
        """
        self.packets, self.first = self.packets + 1, self.first or error
        if self.strict:
            raise self._refusal() from error

    def check_any_frame(self, frames: int) -> None:
        """
        Check that at least one frame was decoded.

        Raises:
            VideoReadError: if there is none. The message gives the reason.
        """
        if not frames and self.first is not None:
            raise self._refusal() from self.first
        if not frames:
            raise VideoReadError(f"{self.name}: its video stream contains no frame that can be decoded")

    def report(self) -> None:
        """Warn if there were damaged packets."""
        if self.packets:
            warnings.warn(
                f"{self.name}: {self.packets} damaged packets were left out ({describe_error(self.first)}); frames "
                "near them may be wrong. strict=True refuses such a video",
                VideoWarning,
                stacklevel=2,
            )

    def _refusal(self) -> VideoReadError:
        reason = describe_error(self.first)
        if getattr(self.first, "errno", None) == errno.EINVAL:  # what FFmpeg says of such frames
            reason += f", as for frames of more pixels than the limit max_frame_pixels={self.max_pixels:,}"
        return VideoReadError(f"{self.name}: can't be decoded ({reason}); it is truncated, damaged or not a video")


def decode_undamaged(packets: Iterator, context, damage: Damage) -> Iterator:
    """Yield the frames of all packets that can be decoded, and note the others."""
    from av.error import FFmpegError

    damage.packets = 0  # a video may be decoded twice
    for packet in _end_at_error(packets, damage):
        if packet is not None and packet.size == 0:  # a decoder would take an empty packet for the end
            continue
        try:
            frames = context.decode(packet)
        except FFmpegError as error:
            damage.note(error)
            continue
        yield from frames


def _end_at_error(packets: Iterator, damage: Damage) -> Iterator:
    """Yield the packets up to the place from which the file can't be read, and then `None` for the end."""
    from av.error import FFmpegError

    try:
        yield from packets
    except FFmpegError as error:
        damage.note(error)
    yield None
