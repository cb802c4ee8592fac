"""Sources of a video: a path, a URL, bytes or an open file. They are checked before a decoder opens them."""

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
    """Raised if a video is unreadable, so that it can't be decoded. The message names the video and the reason."""


def is_video_source(video) -> bool:
    """Whether `video` must be decoded: a path, a URL, the bytes of a file or an open binary file."""
    return isinstance(video, (str, os.PathLike, bytes, bytearray)) or hasattr(video, "read")


def describe_source(source: VideoSource) -> str:
    """Return the name of a source for error messages."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return str(getattr(source, "name", f"<{type(source).__name__}>"))


def open_source(source: VideoSource) -> str | io.IOBase:
    """
    Return a source as a path or a seekable binary file that a decoder can open.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: if a path can't be opened.
        VideoReadError: if the source is empty or a URL can't be downloaded.
    """
    name = describe_source(source)
    if isinstance(source, (bytes, bytearray)):
        source = io.BytesIO(source)
    elif isinstance(source, str) and is_url(source):
        source = _download(source)
    if not hasattr(source, "read"):
        path = Path(source).absolute()  # FFmpeg reads the part before a colon as a protocol
        if not os.fspath(source):
            raise FileNotFoundError("The path of the video is empty; give the path of a file")
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
        quoted = urllib.parse.quote(url, safe=string.punctuation)  # spaces and characters outside ASCII
        with urllib.request.urlopen(quoted, timeout=_URL_TIMEOUT) as response:
            return io.BytesIO(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
        raise VideoReadError(f"{url}: can't be downloaded ({error})") from error


def is_url(video: str) -> bool:
    """Whether a string is an http(s) URL and not a path."""
    return video.lower().startswith(("http://", "https://"))
