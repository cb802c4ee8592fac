"""
Frames of a video file, decoded only as far as they are needed.

A reader first scans the packets without decoding them. So it knows how many frames there are, when each is shown and
where a decoder can start. With that, the caller chooses indices. Then the reader decodes what these frames need:

- It seeks to the key frame before a target if that lies ahead. Otherwise it decodes straight on.
- It leaves out non-reference frames that are not wanted.
- If there is much work, it decodes several stretches at the same time.

The frames are those of a full sequential decode, bit for bit, and so is their number. What comes out of the decoder is
checked against what the packets promised. If the scan or that check finds a contradiction, or timestamps are missing,
the reader decodes in one pass, and counts the frames if the packets don't tell their number.
"""

import io
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from .clip_buffer import ClipBuffer
from .damaged_packets import Damage, decode_undamaged
from .decoder_output import ContradictionError, DecoderOutput
from .decoding_plan import Stretch, choose_threads, cores_for_decoding, make_plan
from .display_orientation import turn_upright
from .frame_colours import convertible
from .frame_sizes import equalize_sizes
from .safe_opening import check_clip_size, check_stream, demux, limit_decoder, open_container
from .torchcodec_decoding import read_decoder, read_with_torchcodec
from .video_errors import CallersErrors, VideoReadError, translated_errors
from .video_options import VideoOptions
from .video_packets import PacketInspector, PacketScan, scan_packets
from .video_sources import VideoSource, describe_source, is_decoder, open_source
from .video_stream import choose_stream, describe_stream, frame_times


_ChooseIndices = Callable[[VideoMetadata], Sequence[int]]
_Opened = AbstractContextManager[tuple]  # a container and its video stream

# Containers with an index. Seeking in them lands on the requested key frame.
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
_SEEKABLE_FORMATS = (MP4, "matroska,webm")
# Containers with a timestamp for every packet. In a transport stream, packets that aren't needed are read and dropped.
_TIMED_FORMATS = (*_SEEKABLE_FORMATS, "mpegts")
KEPT_BYTES = 16 * 2**20  # the largest file without an index whose packets are kept in memory
# Decoders that can be told, packet by packet, to skip non-reference frames (B-frames).
_SKIPPING_CODECS = ("mpeg4", "mpeg2video", "mpeg1video")
# With threads, dav1d took 1.17 times as long on two cores, and FFmpeg decodes interlaced MPEG-4 to other pixels.
_CODECS_WITHOUT_THREADS = ("av1", "mpeg4")


def decode_frames(
    source: VideoSource,
    choose: _ChooseIndices,
    backend: str = "pyav",
    *,
    stream: int | None = None,
    options: VideoOptions | None = None,
    **changes: Any,
) -> tuple[np.ndarray, VideoMetadata]:
    """
    Decode the frames of a video whose indices `choose` returns.

    Args:
        source: a path, an http(s) URL, the bytes of a file, an open binary file, an entry `{"path", "bytes"}` of a data
            set, or a `VideoDecoder` of torchcodec.
        choose: function from the metadata of the video to the indices of the wanted frames, which count the frames in
            order of display. Indices may repeat, and their order is free. If the packets promised a wrong number of
            frames, it is asked again with the right one.
        backend: the decoder:

            - `"pyav"`
            - `"torchcodec"`, if it is installed
            - `"torchcodec-cuda"`, which decodes on the GPU by NVDEC. Its conversion to RGB rounds differently.
        stream: which of the video streams, counted from 0. By default it is the one that is marked as the default. If
            several are, or none is, it is the one with the largest frames.
        options: limits, and what happens to damaged videos.
        changes: single fields of [`VideoOptions`], for example `strict=True`.

    Returns:
        RGB frames, uint8 (frames, height, width, 3), upright; and the metadata of the video, with `frames_indices`.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: if a path can't be opened.
        VideoReadError: if the video is unreadable, exceeds a limit, or doesn't have the stream. The message names it
            and the reason.
        ValueError: if the backend is unknown, or `choose` returns no index or one outside the video.
        ImportError: if the backend isn't installed.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"Unknown decoder backend {backend!r}; it must be one of {', '.join(map(repr, _BACKENDS))}")
    options, name, callers = replace(options or VideoOptions(), **changes), describe_source(source), CallersErrors()
    choose = callers.watch(partial(_choose_frames, choose, name, options))
    with translated_errors(name, callers):
        if is_decoder(source):
            frames, metadata = read_decoder(source, choose)
        else:
            frames, metadata = _BACKENDS[backend](open_source(source, options), name, choose, stream, options)
        if isinstance(frames, list):
            frames = equalize_sizes(frames, name, options)
        metadata.height, metadata.width = frames.shape[1:3]  # upright
        vars(metadata).pop("find_frame_times", None)
        return frames, metadata


def _choose_frames(choose: _ChooseIndices, name: str, options: VideoOptions, metadata: VideoMetadata) -> list[int]:
    """
    Return the indices of the wanted frames.

    Raises:
        VideoReadError: if the video has no frame, or the wanted frames exceed a limit.
        ValueError: if there is no index, or one outside the video.
    """
    total = metadata.total_num_frames
    if total == 0:
        raise VideoReadError(f"{name}: its video stream contains no frame that can be decoded")
    indices = list(choose(metadata))
    if not indices or not all(0 <= index < total and index == int(index) for index in indices):
        raise ValueError(f"{name}: frames {indices} were asked for; choose at least one of 0 to {total - 1}")
    check_clip_size(len(indices), metadata.width, metadata.height, name, options)
    return list(map(int, indices))


def _read_with_pyav(
    file: str | io.IOBase, name: str, choose: _ChooseIndices, number: int | None, options: VideoOptions
) -> tuple[np.ndarray | list[np.ndarray], VideoMetadata]:
    frames, damage = None, Damage(name, options)
    with open_pyav(file, name, number, options) as opened:
        container, stream = opened
        if container.format.name == MP4:
            check_complete(container, stream, name)
        packets = _keep_packets(container, stream, options)
        scan = scan_packets(packets or demux(container, stream, options), stream)
        metadata = describe_stream(stream, scan)
        metadata.find_frame_times = partial(frame_times, stream, scan)
        is_sparse = scan.pts is not None and _is_timed(container, stream)
        if scan.is_exact:
            metadata.frames_indices = choose(metadata)
            options = options.for_frames(len(metadata.frames_indices))
            limit_decoder(stream, options)
        reopen = partial(open_pyav, file, name, number, options)
        if scan.is_exact and is_sparse:
            shareable = isinstance(file, (str, io.BytesIO))
            frames = _decode_sparsely(opened, packets, scan, metadata.frames_indices, reopen, shareable, options)
    if frames is not None:
        return frames, metadata
    if scan.is_exact and not is_sparse:
        frames, _ = decode_in_order(reopen, metadata.frames_indices, damage, options)
    if frames is None:
        frames = _decode_and_count(reopen, metadata, choose, damage, options)
    damage.report()
    return frames, metadata


def _decode_and_count(
    reopen: Callable[[], _Opened],
    metadata: VideoMetadata,
    choose: _ChooseIndices,
    damage: Damage,
    options: VideoOptions,
) -> np.ndarray | list[np.ndarray]:
    """
    Return the wanted frames of a video by decoding all of it, and write the number of its frames into the metadata.

    The promised number is tried first. If the decoder gives another one, `choose` is asked again.
    """
    try:
        wanted = choose(metadata)
    except ValueError:  # it may be right for the number that is counted
        wanted = [sys.maxsize]
    frames, decoded = decode_in_order(reopen, wanted, damage, options, True)
    damage.check_any_frame(decoded)
    if frames is None or decoded != metadata.total_num_frames:
        metadata.total_num_frames = decoded
        wanted = choose(metadata)
        frames, _ = decode_in_order(reopen, wanted, damage, options)
    metadata.frames_indices = wanted
    return frames


@contextmanager
def open_pyav(file: str | io.IOBase, name: str, number: int | None, options: VideoOptions) -> Iterator[tuple]:
    """Open a source: yield the container and its video stream, and turn FFmpeg's errors into `VideoReadError`."""
    with open_container(file, name, options) as container:
        import av

        stream = choose_stream(container, number, name)
        if stream is None:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
            raise VideoReadError(f"{name}: has no video stream (streams in it: {kinds})")
        for other in container.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        check_stream(stream, name, options)
        limit_decoder(stream, options)
        yield container, stream


def check_complete(container, stream, name: str) -> None:
    """
    Check that an MP4 file contains everything in its index.

    Raises:
        VideoReadError: if the index points beyond the end of the file.
    """
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > container.size:
        raise VideoReadError(
            f"{name}: truncated; its index reaches to byte {end:,}, the file has {container.size:,} bytes"
        )


def _is_timed(container, stream) -> bool:
    """
    Whether the timestamps of the packets are those of the frames.

    AVI numbers packets in order of decoding. For MPEG-4, FFmpeg finds the order of display from the kinds of pictures.
    For H.264, the scan has found that both orders are the same.
    """
    if container.format.name == "avi":
        return stream.codec_context.codec.canonical_name in ("mpeg4", "h264")
    return container.format.name in _TIMED_FORMATS


def _keep_packets(container, stream, options: VideoOptions) -> list | None:
    """
    Return the packets of a small file without an index, and `None` for other files.

    Reading such a file costs more than decoding some frames, so it is read only once.
    """
    if container.format.name in _SEEKABLE_FORMATS or not 0 < container.size <= KEPT_BYTES:
        return None
    return list(demux(container, stream, options))


def _decode_sparsely(
    opened: tuple,
    packets: list | None,
    scan: PacketScan,
    indices: Sequence[int],
    reopen: Callable[[], _Opened],
    shareable: bool,
    options: VideoOptions,
) -> np.ndarray | list[np.ndarray] | None:
    """
    Return the frames at `indices`, decoded from the key frames before them.

    The result is `None` if the decoder contradicts the packets or fails. Then decoding in order decides.
    """
    from av.error import FFmpegError

    container, stream = opened
    seekable = container.format.name in _SEEKABLE_FORMATS
    plan = make_plan(
        scan, indices, stream.width * stream.height, cores_for_decoding(), shareable, _gains_from_threads(stream)
    )
    # The scan has read the container to its end, so without seeking or kept packets it must be opened again.
    first = partial(nullcontext, opened) if seekable or packets else reopen
    others = len(plan.shares) - 1
    clip = ClipBuffer([scan.pts[index] for index in indices])
    decode = partial(_decode_share, clip, frozenset(scan.pts), options)
    tasks = ([first] + [reopen] * others, plan.shares, [plan.threads] * (1 + others), [packets] + [None] * others)
    try:
        with ThreadPoolExecutor(len(plan.shares)) as pool:
            for _ in (pool.map if others else map)(decode, *tasks):
                pass
    except (ContradictionError, VideoReadError, FFmpegError):
        return None
    return clip.frames() if clip.is_complete else None


def _decode_share(
    clip: ClipBuffer,
    promised: frozenset[int],
    options: VideoOptions,
    opener: Callable[[], _Opened],
    stretches: list[Stretch],
    threads: int,
    kept: list | None,
) -> None:
    """Decode the targets of some stretches into the clip. `kept` contains all packets if they were kept in memory."""
    with opener() as (container, stream):
        _set_threads(stream, threads)
        inspector, packets = PacketInspector(stream), iter(kept or demux(container, stream, options))
        for stretch in stretches:
            if container.format.name in _SEEKABLE_FORMATS:
                container.seek(stretch.key, stream=stream)
                packets = demux(container, stream, options)
            output = DecoderOutput(stretch, promised, inspector.codec)
            for frame in _decode_stretch(stream.codec_context, packets, inspector, output):
                clip.put(frame.pts, to_rgb(frame))


def _decode_stretch(context, packets: Iterator, inspector: PacketInspector, output: DecoderOutput) -> Iterator:
    """
    Yield the targets of a stretch.

    The decoder gets no packet after the last target, in order of decoding. Non-reference frames that are not targets
    are kept from the decoder, or the decoder skips them.
    """
    stretch = output.stretch
    missing = len(stretch.targets)
    for packet in itertools.dropwhile(lambda packet: packet.pts != stretch.key, packets):
        is_target = packet.pts in stretch.targets
        if not is_target and inspector.is_non_reference(packet):
            continue
        if inspector.codec in _SKIPPING_CODECS:
            context.skip_frame = "DEFAULT" if is_target else "NONREF"
        if is_target or inspector.codec not in _SKIPPING_CODECS:
            output.expect(packet.pts)
        yield from output.check(decode_packet(context, packet))
        missing -= is_target
        if not missing:
            break
    yield from output.check(decode_packet(context, None))
    context.flush_buffers()
    output.finish()


def decode_packet(context, packet) -> list:
    """Give a packet to the decoder and return the frames that come out. `None` flushes the remaining frames."""
    return context.decode(packet)


def decode_in_order(
    reopen: Callable[[], _Opened],
    indices: Sequence[int],
    damage: Damage,
    options: VideoOptions,
    to_end: bool = False,
) -> tuple[np.ndarray | list[np.ndarray] | None, int]:
    """
    Decode in one pass from the start, and return the frames at `indices` and the number of decoded frames.

    The pass ends at the last wanted frame, or with `to_end`, at the end of the video. Packets that can't be decoded are
    left out and noted in `damage`.

    The frames are `None` if the video has fewer frames than the indices need.
    """
    clip, decoded = ClipBuffer(indices), 0
    with reopen() as (container, stream):
        cores = cores_for_decoding() if _gains_from_threads(stream) else 1
        _set_threads(stream, choose_threads(stream.width * stream.height, max(indices) + 1, cores))
        packets = demux(container, stream, options)
        for index, frame in enumerate(decode_undamaged(packets, stream.codec_context, damage)):
            decoded = index + 1
            if index in clip:
                clip.put(index, to_rgb(frame))
            if clip.is_complete and not to_end:
                break
    return clip.frames() if clip.is_complete else None, decoded


def use_all_cores(stream) -> None:
    """Let the decoder use all cores, for a video of any length. Must be called before the first packet is decoded."""
    cores = cores_for_decoding() if _gains_from_threads(stream) else 1
    _set_threads(stream, choose_threads(stream.width * stream.height, sys.maxsize, cores))


def _gains_from_threads(stream) -> bool:
    return stream.codec_context.codec.canonical_name not in _CODECS_WITHOUT_THREADS


def _set_threads(stream, threads: int) -> None:
    """
    Set the number of threads. Must be called before the first packet is decoded.

    It is 1 if the caller reads FFmpeg's log by `av.logging.set_level`: threads of FFmpeg would wait for Python's global
    lock to log, while Python waits for them.
    """
    from av.logging import get_level

    threads = threads if get_level() is None else 1
    stream.thread_type = "AUTO" if threads > 1 else "NONE"
    stream.codec_context.thread_count = threads


def to_rgb(frame) -> np.ndarray:
    """Return a decoded frame as RGB, uint8 (height, width, 3), upright as the file's display matrix says."""
    from av.sidedata.sidedata import SideDataContainer

    # `frame.side_data` would tie the frame to itself, and Python would keep its pixels until it looks for such cycles.
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")
    picture = convertible(frame).to_ndarray(format="rgb24", threads=1)
    return picture if matrix is None else turn_upright(picture, bytes(matrix))


def _read_with_torchcodec(
    file: str | io.IOBase,
    name: str,
    choose: _ChooseIndices,
    number: int | None,
    options: VideoOptions,
    device: str = "cpu",
) -> tuple[np.ndarray, VideoMetadata]:
    """Decode with torchcodec the same stream of the same formats as with PyAV, within the same limits."""
    with open_pyav(file, name, number, options) as (_, stream):
        index = stream.index  # counts the streams of all kinds

    def find_frame_times() -> list[float] | None:
        position = None if isinstance(file, str) else file.tell()  # torchcodec reads on from there
        with open_pyav(file, name, number, options) as (container, stream):
            times = frame_times(stream, scan_packets(demux(container, stream, options), stream))
        if position is not None:
            file.seek(position)
        return times

    def choose_by_time(metadata: VideoMetadata) -> list[int]:
        metadata.find_frame_times = find_frame_times
        return choose(metadata)

    return read_with_torchcodec(file, name, choose_by_time, device, index)


_BACKENDS = {
    "pyav": _read_with_pyav,
    "torchcodec": _read_with_torchcodec,
    "torchcodec-cuda": partial(_read_with_torchcodec, device="cuda"),
}
