"""
Frames of a video file, decoded only as far as they are needed.

A reader first scans the packets, which costs no decoding, and so knows how many frames there are, when each is shown
and where a decoder can start. The caller chooses indices by that. Then it decodes: from the key frame before a target
where that lies ahead, straight on where it does not, and without the frames that no other refers to; where that is much
work, several stretches at a time. The frames are those of a full sequential decode, bit for bit; where the scan can't
promise that (no timestamps, a format without an index), it decodes in one pass.
"""

import io
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import numpy as np
from transformers.video_utils import VideoMetadata

from .decoding_plan import Stretch, choose_threads, cores_for_decoding, make_plan
from .video_packets import PacketInspector, PacketScan, scan_packets
from .video_sources import VideoReadError, VideoSource, describe_source, open_source


_ChooseIndices = Callable[[VideoMetadata], Sequence[int]]
_Opened = AbstractContextManager[tuple]  # a container and its video stream

# Containers with an index, in which seeking lands on the key frame that was asked for.
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
_SEEKABLE_FORMATS = (MP4, "matroska,webm")
# Those that say of every packet when it is shown. What isn't needed of a transport stream is read and passed over.
_TIMED_FORMATS = (*_SEEKABLE_FORMATS, "mpegts")
KEPT_BYTES = 16 * 2**20  # the largest one of which the packets are kept
# Decoders that leave out B-frames, to which no other refers, when they are told so packet by packet.
_SKIPPING_CODECS = ("mpeg4", "mpeg2video", "mpeg1video")
# dav1d took 1.17 times as long with threads, on two cores; of interlaced MPEG-4 FFmpeg's threads make other pixels.
_CODECS_WITHOUT_THREADS = ("av1", "mpeg4")


class ContradictionError(Exception):
    """What comes out of the decoder isn't what the packets promised."""


def decode_frames(
    source: VideoSource, choose: _ChooseIndices, backend: str = "pyav"
) -> tuple[np.ndarray, VideoMetadata]:
    """
    Decode the frames of a video whose indices `choose` returns.

    Args:
        source: a path, an http(s) URL, the bytes of a file, or an open binary file.
        choose: from what is known of the video to indices in order of display; they may repeat, in any order.
        backend: `"pyav"`; `"torchcodec"` where that is installed; `"torchcodec-cuda"`, which decodes on the
            GPU (by NVDEC; it converts to RGB with roundings of its own).

    Returns:
        RGB frames, uint8 (frames, height, width, 3), upright; and what is known of the video, with `frames_indices`.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: where a path can't be opened.
        VideoReadError: where the file holds no video that can be decoded.
        ValueError: for an unknown backend.
        ImportError: where the backend isn't installed.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"Unknown decoder backend {backend!r}; it must be one of {', '.join(map(repr, _BACKENDS))}")
    name = describe_source(source)
    frames, metadata = _BACKENDS[backend](open_source(source), name, choose)
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        listing = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise VideoReadError(f"{name}: the frames change size half-way, {listing} (height x width)")
    metadata.height, metadata.width = frames[0].shape[:2]  # upright
    return np.stack(frames), metadata


def _choose_frames(choose: _ChooseIndices, metadata: VideoMetadata, name: str) -> list[int]:
    """
    The indices that are wanted of a video.

    Raises:
        ValueError: where there are none, or one that the video doesn't have.
    """
    indices, total = list(choose(metadata)), metadata.total_num_frames
    if not indices or not all(0 <= index < total and index == int(index) for index in indices):
        raise ValueError(f"{name}: frames {indices} were asked for; it must be at least one of 0 to {total - 1}")
    return list(map(int, indices))


def _read_with_pyav(file: str | io.IOBase, name: str, choose: _ChooseIndices) -> tuple[list[np.ndarray], VideoMetadata]:
    reopen = partial(_open_pyav, file, name)
    frames = None
    with reopen() as opened:
        container, stream = opened
        if container.format.name == MP4:
            _check_complete(container, stream, name)
        packets = _keep_packets(container, stream)
        scan = scan_packets(packets or container.demux(stream), stream)
        metadata = _describe_stream(stream, scan)
        if scan.num_frames is None:
            metadata.total_num_frames = _count_frames(reopen, name)
        metadata.frames_indices = _choose_frames(choose, metadata, name)
        if scan.pts is not None and _is_timed(container, stream):
            shareable = isinstance(file, (str, io.BytesIO))
            frames = _decode_sparsely(opened, packets, scan, metadata.frames_indices, reopen, shareable)
    if frames is not None:
        return frames, metadata
    frames, decoded = decode_in_order(reopen, metadata.frames_indices)
    if frames is None:  # the packets promised more frames than there are
        _check_any_frame(decoded, name)
        metadata.total_num_frames = decoded
        metadata.frames_indices = _choose_frames(choose, metadata, name)
        frames, _ = decode_in_order(reopen, metadata.frames_indices)
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
    if isinstance(file, io.BytesIO):
        file = io.BytesIO(file.getvalue())  # a reader of its own; the bytes are shared
    elif hasattr(file, "seek"):
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
            for other in container.streams:
                if other is not streams[0]:
                    other.discard = av.stream.Discard.all
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise VideoReadError(
            f"{name}: can't be decoded ({error.strerror}); it is truncated, damaged or no video"
        ) from error


def _check_complete(container, stream, name: str) -> None:
    """
    Raises:
        VideoReadError: where the index, which an MP4 has in front or at its end, points beyond the end of the file.
    """
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > container.size:
        raise VideoReadError(f"{name}: truncated; its index reaches to byte {end:,}, the file has {container.size:,}")


def _is_timed(container, stream) -> bool:
    """
    Whether the timestamps of packets are those of the frames. AVI numbers them in order of decoding; of MPEG-4 FFmpeg
    tells the order of display from the pictures' kinds, and H.264 may say that the two are the same.
    """
    if container.format.name == "avi":
        return stream.codec_context.codec.canonical_name == "mpeg4" or PacketInspector(stream).keeps_order
    return container.format.name in _TIMED_FORMATS


def _count_frames(reopen: Callable[[], _Opened], name: str) -> int:
    """How many frames there are, by decoding them all."""
    _, decoded = decode_in_order(reopen, [sys.maxsize])
    _check_any_frame(decoded, name)
    return decoded


def _check_any_frame(decoded: int, name: str) -> None:
    if decoded == 0:
        raise VideoReadError(f"{name}: its video stream holds no frame that can be decoded")


def _describe_stream(stream, scan: PacketScan) -> VideoMetadata:
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


def _keep_packets(container, stream) -> list | None:
    """Those of a small file without an index: reading it costs more than decoding some frames, so it is read once."""
    if container.format.name in _SEEKABLE_FORMATS or not 0 < container.size <= KEPT_BYTES:
        return None
    return list(container.demux(stream))


def _decode_sparsely(
    opened: tuple,
    packets: list | None,
    scan: PacketScan,
    indices: Sequence[int],
    reopen: Callable[[], _Opened],
    shareable: bool,
) -> list[np.ndarray] | None:
    """
    The frames at `indices`, from the key frames before them. `None` where the decoder contradicts the packets or
    fails: then decoding in order has the last word.
    """
    from av.error import FFmpegError

    container, stream = opened
    seekable = container.format.name in _SEEKABLE_FORMATS
    plan = make_plan(
        scan, indices, stream.width * stream.height, cores_for_decoding(), shareable, _gains_from_threads(stream)
    )
    # The scan has left the container at its end.
    first = partial(nullcontext, opened) if seekable or packets else reopen
    others = len(plan.shares) - 1
    tasks = ([first] + [reopen] * others, plan.shares, [plan.threads] * (1 + others), [packets] + [None] * others)
    frames: dict[int, np.ndarray] = {}
    try:
        with ThreadPoolExecutor(len(plan.shares)) as pool:
            for part in (pool.map if others else map)(_decode_share, *tasks):
                frames |= part
        return [frames[scan.pts[index]] for index in indices]
    except (KeyError, ContradictionError, VideoReadError, FFmpegError):
        return None


def _decode_share(
    opener: Callable[[], _Opened], stretches: list[Stretch], threads: int, kept: list | None
) -> dict[int, np.ndarray]:
    """The targets of some stretches, by timestamp. `kept` are all packets, where they needn't be read again."""
    frames: dict[int, np.ndarray] = {}
    with opener() as (container, stream):
        _set_threads(stream, threads)
        inspector, packets = PacketInspector(stream), iter(kept or container.demux(stream))
        for stretch in stretches:
            if container.format.name in _SEEKABLE_FORMATS:
                container.seek(stretch.key, stream=stream)
                packets = container.demux(stream)
            frames |= _decode_stretch(stream.codec_context, packets, inspector, stretch)
    return frames


def _decode_stretch(context, packets: Iterator, inspector: PacketInspector, stretch: Stretch) -> dict[int, np.ndarray]:
    """
    The targets of a stretch, by timestamp. The decoder gets no packet after the last of them, in the order of
    decoding, and none, or leaves it out, that isn't wanted and that no other refers to.
    """
    frames, missing = {}, len(stretch.targets)
    for packet in itertools.dropwhile(lambda packet: packet.pts != stretch.key, packets):
        is_target = packet.pts in stretch.targets
        if not is_target and inspector.is_unreferenced(packet):
            continue
        if inspector.codec in _SKIPPING_CODECS:
            context.skip_frame = "DEFAULT" if is_target else "NONREF"
        frames |= _convert_targets(decode_packet(context, packet), stretch, inspector)
        missing -= is_target
        if not missing:
            frames |= _convert_targets(decode_packet(context, None), stretch, inspector)
            context.flush_buffers()
            break
    return frames


def decode_packet(context, packet) -> list:
    """The frames that come out when this packet goes in; all that are left where it is `None`."""
    return context.decode(packet)


def _convert_targets(decoded: list, stretch: Stretch, inspector: PacketInspector) -> dict[int, np.ndarray]:
    """
    Raises:
        ContradictionError: where a frame is damaged, the one to start at isn't a key frame for the decoder, or frames
            depend on where it started.
    """
    for frame in decoded:
        keyless = frame.pts == stretch.key and not frame.key_frame
        # Of interlaced MPEG-4 FFmpeg takes distances in time from the first B-frame that it meets.
        if frame.is_corrupt or keyless or (inspector.codec == "mpeg4" and frame.interlaced_frame):
            raise ContradictionError
    return {frame.pts: to_rgb(frame) for frame in decoded if frame.pts in stretch.targets}


def decode_in_order(reopen: Callable[[], _Opened], indices: Sequence[int]) -> tuple[list[np.ndarray] | None, int]:
    """
    The frames at `indices`, by counting in one pass from the start, and how many frames were decoded. `None` for the
    frames where there are fewer than the indices need.
    """
    wanted, frames, decoded = set(indices), {}, 0
    with reopen() as (container, stream):
        cores = cores_for_decoding() if _gains_from_threads(stream) else 1
        _set_threads(stream, choose_threads(stream.width * stream.height, max(indices) + 1, cores))
        for index, frame in enumerate(container.decode(stream)):
            decoded = index + 1
            if index in wanted:
                frames[index] = to_rgb(frame)
                if len(frames) == len(wanted):
                    return [frames[index] for index in indices], decoded
    return None, decoded


def _gains_from_threads(stream) -> bool:
    return stream.codec_context.codec.canonical_name not in _CODECS_WITHOUT_THREADS


def _set_threads(stream, threads: int) -> None:
    """Before the decoder starts."""
    stream.thread_type = "AUTO" if threads > 1 else "NONE"
    stream.codec_context.thread_count = threads


def to_rgb(frame) -> np.ndarray:
    """A decoded frame as RGB, uint8 (height, width, 3), turned upright where the file says how it was held."""
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as numpy's
    return np.rot90(frame.to_ndarray(format="rgb24", threads=1), quarter_turns)


def _read_with_torchcodec(
    file: str | io.IOBase, name: str, choose: _ChooseIndices, device: str = "cpu"
) -> tuple[list[np.ndarray], VideoMetadata]:
    """`device`: `"cuda"` decodes on the GPU, by NVDEC. The frames come back to the CPU."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError) as error:  # it is not installed, or FFmpeg's libraries are not
        raise ImportError(
            'decoder="torchcodec" needs torchcodec, pip install "timesformer_hf[torchcodec]", and FFmpeg\'s shared '
            f"libraries: {error}"
        ) from error
    with _translated_torchcodec_errors(name):
        decoder = VideoDecoder(file, seek_mode="exact", dimension_order="NHWC", device=device)
    about = decoder.metadata
    metadata = VideoMetadata(
        total_num_frames=len(decoder),
        fps=about.average_fps,
        width=about.width,
        height=about.height,
        duration=about.duration_seconds,
        video_backend="torchcodec",
    )
    metadata.frames_indices = _choose_frames(choose, metadata, name)
    with _translated_torchcodec_errors(name):
        frames = decoder.get_frames_at(metadata.frames_indices).data.cpu().numpy()
    return list(frames), metadata


@contextmanager
def _translated_torchcodec_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise VideoReadError(f"{name}: can't be decoded by torchcodec ({error})") from error


_BACKENDS = {
    "pyav": _read_with_pyav,
    "torchcodec": _read_with_torchcodec,
    "torchcodec-cuda": partial(_read_with_torchcodec, device="cuda"),
}
