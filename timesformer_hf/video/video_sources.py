"""What a video can be read from: a path, an address, bytes, an open file; checked before a decoder sees it."""

import http.client
import io
import os
import string
import urllib.parse
import urllib.request
from pathlib import Path


VideoSource = str | os.PathLike | bytes | io.IOBase

_URL_TIMEOUT = 30  # seconds without a byte


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


def open_source(source: VideoSource) -> str | io.IOBase:
    """A source as a readable path or a seekable binary file, checked before a decoder sees it."""
    name = describe_source(source)
    if isinstance(source, (bytes, bytearray)):
        source = io.BytesIO(source)
    elif isinstance(source, str) and is_url(source):
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
        with urllib.request.urlopen(quoted, timeout=_URL_TIMEOUT) as response:
            return io.BytesIO(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
        raise VideoReadError(f"{url}: can't be downloaded ({error})") from error


def is_url(video: str) -> bool:
    """Whether a string is an address, and not a path."""
    return video.lower().startswith(("http://", "https://"))
