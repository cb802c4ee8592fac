"""Opens files from strangers: only real containers, only the given file, and no more memory than is allowed."""

import contextlib
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .index_size import count_promised_frames
from .video_errors import VideoReadError, describe_error
from .video_options import VideoOptions


# The formats that are opened, by FFmpeg's names. Each of them holds its frames itself. Other formats of FFmpeg are
# lists that make it open other files (concat, hls, dash, imf, image2, mlv, avs), connections (rtsp, sdp), or programs
# that draw (lavfi, sbg). FFmpeg finds out the format from the content.
_CONTAINERS = (
    *("mov", "matroska", "mpegts", "mpeg", "avi", "flv", "live_flv", "kux", "asf", "asf_o", "ogg", "mxf", "gxf", "nut"),
    *("ivf", "nuv", "nsv", "rm", "wtv", "dv", "gif", "apng", "amv", "lxf", "pva", "ty", "dhav", "mpjpeg", "avif"),
    *("4xm", "bink", "cine", "film_cpk", "flic", "idcin", "lmlm4", "moflex", "mtv", "mv", "mvi", "r3d", "roq", "rpl"),
    *("ser", "smk", "smjpeg", "thp", "tiertexseq", "vivo", "wc3movie", "xmv", "yop", "filmstrip", "swf", "viv"),
)
_RAW_STREAMS = (
    *("h261", "h263", "h264", "hevc", "vvc", "evc", "m4v", "mpegvideo", "mjpeg", "mjpeg_2000", "vc1", "vc1test"),
    *("av1", "obu", "cavsvideo", "avs2", "avs3", "dirac", "dnxhd", "yuv4mpegpipe", "ipu", "apv"),
)
_PICTURES = tuple(
    f"{name}_pipe" for name in ("jpeg", "png", "webp", "bmp", "tiff", "j2k", "jpegxl", "ppm", "pgm", "qoi", "gif")
)
FORMATS = (*_CONTAINERS, *_RAW_STREAMS, *_PICTURES, "webp", "jpegxl_anim")
_PLAYLISTS = ("hls", "dash", "concat")
_PLAYLIST_PROTOCOLS = ("file", "http", "https", "tcp", "tls", "crypto", "data")
# FFmpeg looks for the streams of a file without a header in this many bytes, or as many as it is told.
_OWN_PROBE, _FURTHEST_PROBE = 5_000_000, 2**28


def _find_settings(options: VideoOptions, probe_size: int) -> dict[str, str]:
    """Return FFmpeg's options for opening a file."""
    formats = (*FORMATS, *_PLAYLISTS) if options.allow_playlists else FORMATS
    protocols = _PLAYLIST_PROTOCOLS if options.allow_playlists else ("file",)
    probing = {"probesize": str(probe_size), "analyzeduration": str(10**12)} if probe_size else {}
    return probing | {
        "format_whitelist": ",".join(formats),
        "protocol_whitelist": ",".join(protocols),
        "max_pixels": most_coded_pixels(options),
    }


def most_coded_pixels(options: VideoOptions) -> str:
    """Return the limit for the decoder. Frames are coded in whole blocks, so they can be larger than they are shown."""
    return str(2 * options.max_frame_pixels + 2**16)


@contextmanager
def open_container(file: str | io.IOBase, name: str, options: VideoOptions) -> Iterator:
    """
    Open a path or a binary file, as `open_source` returns it, and yield PyAV's container.

    Raises:
        VideoReadError: if the file is not a video, or FFmpeg raises an error inside the block.
        ImportError: if PyAV is missing.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Decoding a video file needs PyAV: pip install av. (Decoded frames don't need it.)"
        ) from error
    _check_index_size(file, name, options)
    try:
        with _open_with_streams(file, options) as container:
            yield container
    except av.error.ArgumentError as error:  # what FFmpeg says of a format that is not in the list
        raise VideoReadError(
            f"{name}: is not in a format that is read ({describe_error(error)}). A playlist needs "
            "allow_playlists=True, because it opens other files"
        ) from error
    except av.error.FFmpegError as error:
        raise VideoReadError(
            f"{name}: can't be decoded ({describe_error(error)}); it is truncated, damaged or not a video"
        ) from error


def _open_with_streams(file: str | io.IOBase, options: VideoOptions):
    """Return PyAV's container. If no video is near the start, FFmpeg looks for it in the rest of the file."""
    container = _open(file, options)
    if container.streams.video or not _FURTHEST_PROBE > container.size > _OWN_PROBE:
        return container
    size = container.size
    container.close()
    return _open(file, options, probe_size=size)


def _open(file: str | io.IOBase, options: VideoOptions, probe_size: int = 0):
    import av

    if isinstance(file, io.BytesIO):
        file = io.BytesIO(file.getvalue())  # a separate reader of the same bytes
    elif hasattr(file, "seek"):
        file.seek(0)
    # PyAV would take a mode from the file, and fail at metadata that is not UTF-8
    return av.open(file, "r", options=_find_settings(options, probe_size), metadata_errors="replace")


def demux(container, stream, options: VideoOptions | None = None) -> Iterator:
    """
    Yield the packets of a stream. The last one is empty and tells the decoder to give its last frames.

    Raises:
        TimeoutError: at the first packet after the deadline of the options.
    """
    deadline = (options or VideoOptions()).deadline
    try:
        for packet in container.demux(stream):
            if time.monotonic() > deadline:
                raise TimeoutError("reading it takes longer than is allowed for a file")
            yield packet
    except IndexError:  # PyAV also looks for the packets of streams that began after the file was opened
        return


def _check_index_size(file: str | io.IOBase, name: str, options: VideoOptions) -> None:
    """
    Check how many frames the index of an MP4 file promises. FFmpeg takes memory for all of them when it opens the file.

    Raises:
        VideoReadError: if they are more than the limit.
    """
    with open(file, "rb") if isinstance(file, (str, os.PathLike)) else contextlib.nullcontext(file) as opened:
        promised = count_promised_frames(opened, options.max_index_frames)
    if promised > options.max_index_frames:
        raise VideoReadError(
            f"{name}: its index promises {promised:,} frames or more, above the limit "
            f"max_index_frames={options.max_index_frames:,}; raise it if you trust the file"
        )


def check_stream(stream, name: str, options: VideoOptions) -> None:
    """
    Check that a stream can be decoded, before it is.

    Raises:
        VideoReadError: if there is no decoder for it, or its frames have more pixels than the limit.
    """
    if stream.codec_context is None:
        raise VideoReadError(f"{name}: there is no decoder for the codec of its video")
    if stream.width * stream.height > options.max_frame_pixels:
        raise VideoReadError(
            f"{name}: its frames have {stream.width:,} x {stream.height:,} pixels, more than the limit "
            f"max_frame_pixels={options.max_frame_pixels:,}; raise it if you trust the file"
        )


def check_clip_size(frames: int, width: int, height: int, name: str, options: VideoOptions) -> None:
    """
    Check the size of a clip before it is decoded.

    Raises:
        VideoReadError: if its frames have more pixels than the limit.
    """
    if frames * width * height > options.max_clip_pixels:
        raise VideoReadError(
            f"{name}: {frames:,} frames of {width:,} x {height:,} pixels were asked for, more than the limit "
            f"max_clip_pixels={options.max_clip_pixels:,}; choose fewer frames, or raise it"
        )


def limit_decoder(stream, options: VideoOptions) -> None:
    """Let the decoder refuse frames that are too large. Must be called before the first packet is decoded."""
    stream.codec_context.options = {"max_pixels": most_coded_pixels(options)}
