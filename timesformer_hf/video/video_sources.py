"""
Sources of a video: a path, a URL, bytes, an open file, an entry of a data set, or a decoder of torchcodec.

They are checked before a decoder opens them.
"""

import io
import os
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from .printable import printable
from .video_downloads import download, is_url, read_limited
from .video_errors import VideoReadError, describe_error
from .video_options import VideoOptions


class _Decoder(Protocol):
    """What is used of a `VideoDecoder` of torchcodec."""

    metadata: Any

    def get_frames_at(self, indices: list[int]) -> Any: ...


VideoSource = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | io.IOBase | IO[bytes] | Mapping[str, Any] | _Decoder
)

# Open files that unpack while they are read. Going back in them starts again, so they are unpacked into memory at once.
_UNPACKING = ("gzip", "bz2", "lzma", "zipfile", "zlib", "_compression", "compression")


def is_video_source(video) -> bool:
    """
    Whether `video` must be decoded.

    It is a path, a URL, the bytes of a file, an open binary file, an entry `{"path", "bytes"}` of a data set, or a
    `VideoDecoder` of torchcodec.
    """
    known = isinstance(video, (str, os.PathLike, bytes, bytearray, memoryview))
    return known or hasattr(video, "read") or _is_entry(video) or is_decoder(video)


def is_decoder(video) -> bool:
    """Whether `video` is a `VideoDecoder` of torchcodec, as the library `datasets` gives one for a video."""
    return hasattr(video, "get_frames_at") and hasattr(video, "metadata")


def _is_entry(video) -> bool:
    """Whether `video` is what `datasets` gives for an undecoded video: its bytes, its path, or both."""
    return isinstance(video, Mapping) and bool(video) and video.keys() <= {"path", "bytes"}


def describe_source(source: VideoSource) -> str:
    """Return the name of a source for error messages, without characters that control a terminal."""
    if isinstance(source, (str, os.PathLike)):
        return printable(os.fsdecode(source))
    if _is_entry(source) and source.get("path"):
        return describe_source(source["path"])
    return printable(getattr(source, "name", f"<{type(source).__name__}>"))


def open_source(source: VideoSource, options: VideoOptions | None = None) -> str | io.IOBase:
    """
    Return a source as a path or a seekable binary file that FFmpeg can open.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: if a path can't be opened.
        VideoReadError: if the source is empty, too large for memory, or a URL that can't be downloaded.
    """
    options = options or VideoOptions()
    name = describe_source(source)
    if _is_entry(source):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, (bytes, bytearray, memoryview)):
        file = io.BytesIO(source)
    elif isinstance(source, str) and is_url(source):
        file = download(source, options)
    elif hasattr(source, "read"):
        file = _open_file(source, name, options)
    else:
        file = _open_path(source, options)
    if not isinstance(file, str) and not _find_size(file):
        raise VideoReadError(f"{name} is empty")
    return file


def _open_path(source: str | os.PathLike, options: VideoOptions) -> str | io.BytesIO:
    """Return the absolute path of a file, or the content of a pipe, which can be read only once."""
    if not isinstance(source, (str, os.PathLike)):
        raise VideoReadError(f"A video must be a path, a URL, bytes or an open file, got {type(source).__name__}")
    path = Path(os.fsdecode(source)).absolute()  # FFmpeg reads the part before a colon as a protocol
    if not os.fspath(source):
        raise FileNotFoundError("The path of the video is empty; give the path of a file")
    if "\0" in str(path):
        raise FileNotFoundError(f"{printable(path)}: there is no such file, because no name contains a zero byte")
    if path.is_dir():
        raise IsADirectoryError(f"{printable(path)} is a folder; give the video files in it, one by one")
    with path.open("rb") as file:  # FileNotFoundError, PermissionError
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            return read_limited(file.read1, printable(path), options.max_bytes)
    if not about.st_size and not _has_content(path):
        raise VideoReadError(f"{printable(path)} is empty")
    return str(path)


def _has_content(path: Path) -> bool:
    """Whether a file has a first byte, although its size is 0, as in /proc."""
    with path.open("rb") as file:
        return bool(file.read(1))


def _open_file(source, name: str, options: VideoOptions) -> io.IOBase:
    """Return an open file if it can seek, and otherwise a copy of its content in memory."""
    if isinstance(source, io.TextIOBase):
        raise VideoReadError(f"{name}: is open as text; open it in binary mode")
    try:
        if type(source).__module__.split(".")[0] not in _UNPACKING and _find_size(source) is not None:
            return source if type(source) is io.BytesIO else Reader(source)
        if _find_size(source) is not None:
            source.seek(0)
        return read_limited(partial(_read, source), name, options.max_bytes)
    except VideoReadError:
        raise
    except Exception as error:  # whatever the object raises, it is about this video
        raise VideoReadError(f"{name}: can't be read ({describe_error(error)})") from error


def _read(source, size: int):
    try:
        return source.read(size)
    except TypeError:  # its read() takes no size
        return source.read()


def _find_size(source) -> int | None:
    """Return the number of bytes of an open file, and go to its start. The result is `None` if it can't seek."""
    try:
        if hasattr(source, "seekable") and not source.seekable():
            return None
        source.seek(0, os.SEEK_END)
        size = source.tell()
        source.seek(0)
        return size
    except (AttributeError, NotImplementedError, TypeError, OSError, ValueError):  # or it is closed
        return None


class Reader:
    """
    An open file as PyAV takes it: only its bytes, without its `mode` or name.

    PyAV writes to a file whose `mode` is "wb", and copies more bytes than it has room for if a `read` gives too many.
    """

    def __init__(self, file):
        self.file = file

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes."""
        content = self.file.read(size)
        if not isinstance(content, (bytes, bytearray, memoryview)) or 0 <= size < len(content):
            raise OSError(f"read({size}) gave {type(content).__name__} of length {len(content)}")
        return bytes(content)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position and return it. Not every object returns it from its own `seek`."""
        self.file.seek(position, whence)
        return self.file.tell()

    def tell(self) -> int:
        """Return the position."""
        return self.file.tell()

    def seekable(self) -> bool:
        """Whether `seek` works, which was tried."""
        return True
