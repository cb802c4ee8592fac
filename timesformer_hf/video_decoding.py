"""
Frames of a video file, decoded only as far as they are needed.

A reader first scans the packets, which costs no decoding, and so knows how many frames there are, when each is shown
and where a decoder can start. The caller chooses indices by that. Then it decodes: from the key frame before a target
where that lies ahead, straight on where it does not. The frames are those of a full sequential decode, bit for bit;
where the scan can't promise that (no timestamps, a format without an index), it decodes in one pass.
"""

import http.client
import io
import os
import string
import urllib.parse
import urllib.request
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers.video_utils import VideoMetadata


VideoSource = str | os.PathLike | bytes | io.IOBase
ChooseIndices = Callable[[VideoMetadata], Sequence[int]]

URL_TIMEOUT = 30  # seconds without a byte
# Containers with an index, in which seeking lands on the key frame that was asked for.
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
SEEKABLE_FORMATS = (MP4, "matroska,webm")


class VideoReadError(ValueError):
    """A file that holds no video that can be decoded. The message names the file and the reason."""


def is_video_source(video) -> bool:
    """Whether `video` is something to decode: a path, a URL, the bytes of a file or an open binary file."""
    return isinstance(video, (str, os.PathLike, bytes, bytearray)) or hasattr(video, "read")


def describe_source(source: VideoSource) -> str:
    """How an error message names a source."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return str(getattr(source, "name", f"<{type(source).__name__}>"))


def decode_frames(
    source: VideoSource, choose: ChooseIndices, backend: str = "pyav"
) -> tuple[np.ndarray, VideoMetadata]:
    """
    Decode the frames of a video whose indices `choose` returns.

    Args:
        source: a path, an http(s) URL, the bytes of a file, or an open binary file.
        choose: from what is known of the video to indices in order of display; they may repeat, in any order.
        backend: `"pyav"`, or `"torchcodec"` where that is installed.

    Returns:
        RGB frames, uint8 (frames, height, width, 3), upright; and what is known of the video, with `frames_indices`.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: where a path can't be opened.
        VideoReadError: where the file holds no video that can be decoded.
        ValueError: for an unknown backend.
        ImportError: where the backend isn't installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"Unknown decoder backend {backend!r}; it must be one of {', '.join(map(repr, BACKENDS))}")
    name = describe_source(source)
    frames, metadata = BACKENDS[backend](open_source(source), name, choose)
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        listing = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise VideoReadError(f"{name}: the frames change size half-way, {listing} (height x width)")
    metadata.height, metadata.width = frames[0].shape[:2]  # upright
    return np.stack(frames), metadata


def open_source(source: VideoSource) -> str | io.IOBase:
    """A source as a readable path or a seekable binary file, checked before a decoder sees it."""
    name = describe_source(source)
    if isinstance(source, (bytes, bytearray)):
        source = io.BytesIO(source)
    elif isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        source = _download(source)
    if not hasattr(source, "read"):
        path = Path(source).absolute()  # FFmpeg takes what stands before a colon for a protocol
        if not os.fspath(source):
            raise FileNotFoundError("The path of the video is empty")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; give the video files in it, one by one")
        with path.open("rb") as file:  # FileNotFoundError, PermissionError
            if not file.read(1):
                raise VideoReadError(f"{path} is empty")
        return str(path)
    if not source.seekable():
        source = io.BytesIO(source.read())
    if not source.seek(0, os.SEEK_END):
        raise VideoReadError(f"{name} is empty")
    source.seek(0)
    return source


def _download(url: str) -> io.BytesIO:
    try:
        quoted = urllib.parse.quote(url, safe=string.punctuation)  # spaces and what isn't ASCII
        with urllib.request.urlopen(quoted, timeout=URL_TIMEOUT) as response:
            return io.BytesIO(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
        raise VideoReadError(f"{url}: can't be downloaded ({error})") from error


@dataclass(frozen=True)
class PacketScan:
    """
    What the packets of a video tell without decoding.

    Attributes:
        pts: timestamps of the shown frames in order of display, in units of the stream's time base; `None` where the
            packets don't order the frames (missing or repeated timestamps).
        key_pts: those of the frames at which a decoder can start, ascending.
        num_frames: shown frames; `None` where the packets don't tell, because the stream doesn't start with a key
            frame and so its first ones can't be decoded.
    """

    pts: list[int] | None
    key_pts: list[int]
    num_frames: int | None

    def key_before(self, pts: int) -> int:
        """The last key frame shown at or before `pts`, or the first one."""
        return self.key_pts[max(bisect_right(self.key_pts, pts) - 1, 0)]


def read_with_pyav(file: str | io.IOBase, name: str, choose: ChooseIndices) -> tuple[list[np.ndarray], VideoMetadata]:
    with _open_pyav(file, name) as (container, stream):
        if container.format.name == MP4:
            check_complete(container, stream, name)
        scan = scan_packets(container, stream)
        metadata = describe_stream(stream, scan)
        can_seek = container.format.name in SEEKABLE_FORMATS and scan.pts is not None
    if scan.num_frames is None:
        metadata.total_num_frames = count_frames(file, name)
    metadata.frames_indices = list(choose(metadata))
    if can_seek:
        with _open_pyav(file, name) as (container, stream):
            frames = decode_by_timestamp(container, stream, scan, metadata.frames_indices)
        if frames is not None:
            return frames, metadata
    with _open_pyav(file, name) as (container, stream):
        frames, decoded = decode_in_order(container, stream, metadata.frames_indices)
    if frames is None:  # the packets promised more frames than there are
        check_any_frame(decoded, name)
        metadata.total_num_frames = decoded
        metadata.frames_indices = list(choose(metadata))
        with _open_pyav(file, name) as (container, stream):
            frames, _ = decode_in_order(container, stream, metadata.frames_indices)
    return frames, metadata


@contextmanager
def _open_pyav(file: str | io.IOBase, name: str) -> Iterator[tuple]:
    """The container and its video stream, a decoder's errors translated."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Decoding a video file needs PyAV: pip install av. (Frames that are decoded already need nothing.)"
        ) from error
    if hasattr(file, "seek"):
        file.seek(0)
    try:
        with av.open(file) as container:
            streams = [
                stream
                for stream in container.streams.video
                if not stream.disposition & av.stream.Disposition.attached_pic
            ]
            if not streams:
                kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
                raise VideoReadError(f"{name}: has no video stream (streams in it: {kinds})")
            streams[0].thread_type = "AUTO"
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise VideoReadError(
            f"{name}: can't be decoded ({error.strerror}); it is truncated, damaged or no video"
        ) from error


def check_complete(container, stream, name: str) -> None:
    """
    Raises:
        VideoReadError: where the index, which an MP4 has in front or at its end, points beyond the end of the file.
    """
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > container.size:
        raise VideoReadError(f"{name}: truncated; its index reaches to byte {end:,}, the file has {container.size:,}")


def scan_packets(container, stream) -> PacketScan:
    """Read every packet of the stream without decoding it."""
    shown, keys, hidden, starts_with_key = [], [], False, None
    for packet in container.demux(stream):
        if packet.size == 0:  # the flush at the end
            continue
        starts_with_key = packet.is_keyframe if starts_with_key is None else starts_with_key
        if packet.is_discard:  # cut off by an edit list: decoded, never shown
            hidden = True
            continue
        shown.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    if not starts_with_key:
        return PacketScan(pts=None, key_pts=[], num_frames=None)
    ordered = None not in shown and len(set(shown)) == len(shown) and not hidden
    return PacketScan(sorted(shown) if ordered else None, sorted(keys) if ordered else [], num_frames=len(shown))


def count_frames(file: str | io.IOBase, name: str) -> int:
    """How many frames there are, by decoding them all."""
    with _open_pyav(file, name) as (container, stream):
        _, decoded = decode_in_order(container, stream, [-1])
    check_any_frame(decoded, name)
    return decoded


def check_any_frame(decoded: int, name: str) -> None:
    if decoded == 0:
        raise VideoReadError(f"{name}: its video stream holds no frame that can be decoded")


def describe_stream(stream, scan: PacketScan) -> VideoMetadata:
    """What transformers wants to know of a video. The frame rate is the measured one where the header has none."""
    fps = float(stream.average_rate) if stream.average_rate else None
    duration = None
    if scan.pts and stream.time_base:
        seconds = float((scan.pts[-1] - scan.pts[0]) * stream.time_base)
        if fps is None and seconds > 0:
            fps = (len(scan.pts) - 1) / seconds
        duration = seconds + (1 / fps if fps else 0)
    return VideoMetadata(
        total_num_frames=scan.num_frames or 0,
        fps=fps,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        duration=duration,
        video_backend="pyav",
    )


def decode_by_timestamp(container, stream, scan: PacketScan, indices: Sequence[int]) -> list[np.ndarray] | None:
    """
    The frames at `indices`, skipping what lies between one target and the key frame before the next. `None` where the
    decoder's timestamps turn out not to be those of the packets.
    """
    frames: dict[int, np.ndarray] = {}
    decoded = container.decode(stream)
    position = None  # timestamp of the last decoded frame
    for target in sorted({scan.pts[index] for index in indices}):
        key = scan.key_before(target)
        if (position is not None and key > position) or (position is None and key > scan.key_pts[0]):
            container.seek(key, stream=stream)
            decoded = container.decode(stream)
        for frame in decoded:
            position = frame.pts
            if position is None or position >= target:
                break
        if position != target:
            return None
        frames[target] = to_rgb(frame)
    return [frames[scan.pts[index]] for index in indices]


def decode_in_order(container, stream, indices: Sequence[int]) -> tuple[list[np.ndarray] | None, int]:
    """
    The frames at `indices`, by counting in one pass from the start, and how many frames were decoded. `None` for the
    frames where there are fewer than the indices need.
    """
    wanted, frames, decoded = set(indices), {}, 0
    for index, frame in enumerate(container.decode(stream)):
        decoded = index + 1
        if index in wanted:
            frames[index] = to_rgb(frame)
            if len(frames) == len(wanted):
                return [frames[index] for index in indices], decoded
    return None, decoded


def to_rgb(frame) -> np.ndarray:
    """A decoded frame as RGB, uint8 (height, width, 3), turned upright where the file says how it was held."""
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as numpy's
    return np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns)


def read_with_torchcodec(
    file: str | io.IOBase, name: str, choose: ChooseIndices
) -> tuple[list[np.ndarray], VideoMetadata]:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError) as error:  # it is not installed, or FFmpeg's libraries are not
        raise ImportError(
            'decoder="torchcodec" needs torchcodec, pip install "timesformer_hf[torchcodec]", and FFmpeg\'s shared '
            f"libraries: {error}"
        ) from error
    with _translated_torchcodec_errors(name):
        decoder = VideoDecoder(file, seek_mode="exact", dimension_order="NHWC")
    about = decoder.metadata
    metadata = VideoMetadata(
        total_num_frames=len(decoder),
        fps=about.average_fps,
        width=about.width,
        height=about.height,
        duration=about.duration_seconds,
        video_backend="torchcodec",
    )
    metadata.frames_indices = list(choose(metadata))
    with _translated_torchcodec_errors(name):
        frames = decoder.get_frames_at(metadata.frames_indices).data.numpy()
    return list(frames), metadata


@contextmanager
def _translated_torchcodec_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise VideoReadError(f"{name}: can't be decoded by torchcodec ({error})") from error


BACKENDS = {"pyav": read_with_pyav, "torchcodec": read_with_torchcodec}
