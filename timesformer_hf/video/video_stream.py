"""Which video stream of a file is decoded, and what is known of it."""

from fractions import Fraction

from transformers.video_utils import VideoMetadata

from .video_errors import VideoReadError
from .video_packets import PacketScan


def choose_stream(container, number: int | None, name: str):
    """
    Return a video stream of a container, or `None` if it has none. Pictures of covers don't count.

    Without a `number`, it is the stream that is marked as the default. If several are, or none is, it is the one with
    the largest frames, and the first one of those.

    Raises:
        VideoReadError: if there is no stream of this number.
    """
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if number is None:
        return max(streams, key=_preference, default=None)
    if streams and number not in range(len(streams)):
        raise VideoReadError(f"{name}: stream {number} was asked for; its video streams are 0 to {len(streams) - 1}")
    return streams[number] if streams else None


def _preference(stream) -> tuple[bool, int]:
    from av.stream import Disposition

    size = 0 if stream.codec_context is None else stream.width * stream.height  # no decoder, so no size is known
    return bool(stream.disposition & Disposition.default), size


def describe_stream(stream, scan: PacketScan) -> VideoMetadata:
    """Return transformers' metadata of a video stream."""
    seconds = float(scan.span * stream.time_base) if scan.span and stream.time_base else 0.0
    fps = frame_rate(stream.average_rate, scan.num_frames - 1, seconds)
    duration = None if scan.span is None or not stream.time_base else seconds + (1 / fps if fps else 0)
    return VideoMetadata(
        total_num_frames=scan.num_frames,
        fps=fps,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        duration=duration,
        video_backend="pyav",
    )


def frame_times(stream, scan: PacketScan) -> list[float] | None:
    """Return when each frame is shown, in seconds after the first one, or `None` if the packets don't tell it."""
    if not scan.pts or not stream.time_base:
        return None
    step = float(stream.time_base)
    return [(pts - scan.pts[0]) * step for pts in scan.pts]


def known_frame_times(metadata: VideoMetadata) -> list[float] | None:
    """
    Return when each frame of a video is shown, in seconds after the first one, or `None` if that is unknown.

    While frames are chosen, metadata have the attribute `find_frame_times`, a function without arguments.
    """
    times = getattr(metadata, "find_frame_times", lambda: None)()
    return times if times and len(times) == metadata.total_num_frames else None


def frame_rate(in_header: Fraction | None, steps: int, seconds: float) -> float | None:
    """
    Return the number of frames per second. `steps` steps from frame to frame take so many seconds, or 0 if unknown.

    If frames come at regular times, the header's number is exact, and timestamps may be rounded. So the header's number
    is taken if it agrees with the timestamps up to 1 % or one frame.
    """
    rate = float(in_header) if in_header else None
    is_unfit = rate is None or abs(rate * seconds - steps) > max(1, 0.01 * steps)
    return steps / seconds if seconds and is_unfit else rate
