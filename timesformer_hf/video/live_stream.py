"""Live sources: cameras, network streams and the standard input, opened with time limits."""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .damaged_packets import Damage, decode_undamaged
from .frame_stream import FrameStream, header_rate, open_frame_stream, timed_frames
from .printable import printable
from .safe_opening import FORMATS, check_stream, demux, limit_decoder, most_coded_pixels
from .video_decoding import use_all_cores
from .video_errors import VideoReadError, describe_error
from .video_options import VideoOptions
from .video_stream import choose_stream


_CAMERA = re.compile(r"camera:(.+)")
# What FFmpeg may use for the scheme of a URL. A stream can't make it open a file.
_PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp,tls",
    "rtsps": "rtsp,rtsps,rtp,udp,tcp,tls",
    "http": "http,https,tcp,tls",
    "https": "http,https,tcp,tls",
    "udp": "udp",
    "tcp": "tcp",
}
_SECRET = re.compile(r"(?<=://)[^/@]*@")
OPENING_SECONDS = 15.0  # the longest wait for a connection, for the next data, and for the first picture


def is_network(source: str) -> bool:
    """Whether a live source is a URL that can be opened again."""
    return source.partition("://")[0].lower() in _PROTOCOLS and "://" in source


def is_camera(source: str) -> bool:
    """Whether a live source is a camera."""
    return _CAMERA.fullmatch(source) is not None


def describe_live(source: str) -> str:
    """Return the name of a live source for messages, without a password."""
    return "the standard input" if source == "-" else printable(_SECRET.sub("", source))


@contextmanager
def open_live_stream(
    source: str, options: VideoOptions | None = None, seconds: float = OPENING_SECONDS
) -> Iterator[FrameStream]:
    """
    Open a live source.

    Args:
        source: `camera:0`; an rtsp, http, udp or tcp URL; `-` for the standard input; or the path of a video file.
        options: limits for reading.
        seconds: the longest wait for a connection, for the next data, and for the first picture.

    Yields:
        the stream of frames, which can be read inside the `with` block. Its frames end where the connection breaks.

    Raises:
        VideoReadError: if the source can't be opened or contains no picture. The message names it and the reason.
        FileNotFoundError: if there is no such file or camera.
    """
    options, name = options or VideoOptions(), describe_live(source)
    if not (is_network(source) or is_camera(source) or source == "-"):
        if "://" in source:
            schemes = ", ".join(_PROTOCOLS)
            raise VideoReadError(f"{name}: a live source is camera:0, -, or a URL with one of {schemes}")
        with open_frame_stream(source, options) as stream:
            yield stream
        return
    import av

    try:
        container = _open(source, options, seconds)
    except _NoCameraError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoReadError(f"{name}: can't be opened ({describe_error(error)})") from error
    try:
        with container:
            video = choose_stream(container, None, name)
            if video is None:
                raise VideoReadError(f"{name}: has no video stream")
            check_stream(video, name, options)
            limit_decoder(video, options)
            use_all_cores(video)
            damage = Damage(name, options)
            packets = _with_first_picture(demux(container, video), damage, name, seconds)
            decoded = _counted(decode_undamaged(packets, video.codec_context, damage), damage)
            yield FrameStream(
                name, header_rate(video), None, timed_frames(decoded, video, container.format.name, name, options)
            )
    except av.error.FFmpegError as error:
        raise VideoReadError(f"{name}: broke ({describe_error(error)})") from error


def _counted(frames: Iterator, damage: Damage) -> Iterator:
    """Yield frames, and count them in `damage.frames`."""
    damage.frames = 0
    for frame in frames:
        damage.frames += 1
        yield frame


def _with_first_picture(packets: Iterator, damage: Damage, name: str, seconds: float) -> Iterator:
    """
    Yield packets.

    Raises:
        VideoReadError: if they give no picture for so many seconds.
    """
    end = time.monotonic() + seconds
    for packet in packets:
        if not damage.frames and time.monotonic() > end:
            raise VideoReadError(
                f"{name}: data come, but no picture could be decoded in {seconds:g} s. The stream may never send a key "
                "frame; let its encoder send one every few seconds"
            )
        yield packet


def _open(source: str, options: VideoOptions, seconds: float):
    """Return PyAV's container of a live source."""
    import av

    pixels = {"max_pixels": most_coded_pixels(options)}
    camera = _CAMERA.fullmatch(source)
    if camera:
        name, kind = _find_camera(camera[1])
        return av.open(name, "r", format=kind, timeout=(seconds, seconds))
    formats = [name for name in FORMATS if name != "mov"]  # whose index can promise any number of frames
    settings = pixels | {"format_whitelist": ",".join([*formats, "rtsp"])}
    if source == "-":
        settings["protocol_whitelist"] = "pipe"
        return av.open(_Input(), "r", options=settings, metadata_errors="replace")
    scheme = source.partition("://")[0].lower()
    settings["protocol_whitelist"] = _PROTOCOLS[scheme]
    if scheme.startswith("rtsp"):
        settings["rtsp_flags"] = "prefer_tcp"
    return av.open(source, "r", options=settings, timeout=(seconds, seconds), metadata_errors="replace")


class _NoCameraError(FileNotFoundError):
    """Raised if there is no such camera."""


class _Input:
    """The standard input, of which FFmpeg may only read the next bytes."""

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, as soon as there are some."""
        return sys.stdin.buffer.read1(size)


def _find_camera(number: str) -> tuple[str, str]:
    """
    Return FFmpeg's name and format of a camera.

    Raises:
        _NoCameraError: if there is no such camera. The message lists those that are there.
    """
    if sys.platform == "darwin":
        return number, "avfoundation"
    if os.name == "nt":
        return f"video={number}", "dshow"
    path = Path(f"/dev/video{number}")
    if not path.exists():
        there = sorted(f"camera:{file.name.removeprefix('video')}" for file in Path("/dev").glob("video[0-9]*"))
        raise _NoCameraError(
            f"camera:{printable(number)}: there is no such camera; this machine has {', '.join(there) or 'none'}"
        )
    return str(path), "v4l2"
