"""
Videos in object stores: `s3://`, `gs://`, `hf://` and every other protocol of fsspec.

The libraries of the stores find credentials as they always do: environment variables, configuration files, the identity
of the machine. They are never given to a log: secrets in URLs are taken out of every message.
"""

import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..video.printable import printable
from ..video.video_errors import VideoReadError
from ..video.video_folders import VIDEO_EXTENSIONS
from ..video.video_options import VideoOptions
from ..video.video_sources import VideoSource, is_url


SILENCE = 20.0  # seconds without an answer after which a server counts as gone
_FETCHED_BYTES = 2**26  # larger files are read by ranges: of a long video, a clip needs a small part
_CHUNK = 2**23  # bytes

_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(\w://[^\s?'\"]*)\?[^\s'\")]+")


def is_remote(name: str) -> bool:
    """Whether a name is a URL of any protocol, and not a path."""
    return _PROTOCOL.match(name) is not None


def without_secrets(text: str) -> str:
    """
    Return a text without the users, passwords and queries of the URLs in it: a query may be a signature.

    "https://me:secret@host/a.mp4?sig=1" -> "https://host/a.mp4?..."
    """
    return _QUERY.sub(r"\1?...", _USER.sub("", text))


@contextlib.contextmanager
def opened_video(name: str, options: VideoOptions) -> Iterator[VideoSource]:
    """
    Yield what a video is decoded from: a path and an http(s) URL as they are, and for other URLs a temporary copy on
    this machine's disk, which is removed after the block, or for a large file an open file that is read by ranges.

    Raises:
        VideoReadError: if the file can't be fetched or is larger than `max_bytes`, or the server is silent for 20
            seconds.
        ImportError: if a library for the protocol is missing.
    """
    if is_url(name) or not is_remote(name):
        yield name
        return
    shown = printable(without_secrets(name))
    system, path = _find_system(name)
    size = _asked(lambda: system.info(path)["size"], shown, options.deadline)
    if size > _FETCHED_BYTES:
        with _RangeReader(system, path, shown, options.deadline) as file:
            yield {"path": shown, "bytes": file}
        return
    with tempfile.TemporaryDirectory(prefix="timesformer-") as folder:
        copy = os.path.join(folder, "video")
        _fetch(system, path, shown, copy, options)
        try:
            yield copy
        except ImportError:
            raise
        except Exception as error:  # its message names the copy
            raise VideoReadError(str(error).replace(copy, shown)) from error


def find_remote_videos(folder: str) -> list[str]:
    """
    Return the videos in a remote folder and below it, in the order of their paths.

    Raises:
        ValueError: if there is none, or the folder can't be listed.
    """
    system, path = _find_system(folder)
    shown = printable(without_secrets(folder))
    found = sorted(_asked(lambda: system.find(path), shown))
    videos = [system.unstrip_protocol(name) for name in found if name.lower().endswith(VIDEO_EXTENSIONS)]
    if not videos:
        raise ValueError(f"There is no video in {shown}. A video ends in one of {' '.join(VIDEO_EXTENSIONS)}")
    return videos


def _find_system(url: str) -> tuple:
    """Return fsspec's file system for a URL, and the path in it."""
    try:
        import fsspec
    except ImportError as error:
        raise _missing(url, error) from error
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise _missing(url, error) from error
    except Exception as error:
        raise _failure(printable(without_secrets(url)), error) from error


def _missing(url: str, error: ImportError) -> ImportError:
    protocol = url.split("://")[0].lower()
    return ImportError(
        f'{protocol}:// needs a library that is not installed ({error}): pip install "timesformer_hf[remote]"'
    )


def _failure(shown: str, error: Exception) -> VideoReadError:
    reason = printable(without_secrets(str(error) or type(error).__name__))
    return VideoReadError(f"{shown}: can't be fetched ({type(error).__name__}: {reason})")


def _asked(ask: Callable[[], Any], shown: str, deadline: float = float("inf")) -> Any:
    """
    Return the answer of a server.

    Raises:
        VideoReadError: if it is an error, or there is none in time.
    """
    answers: list = []

    def wait() -> None:
        try:
            answers.append((ask(), None))
        except BaseException as error:
            answers.append((None, error))

    thread = threading.Thread(target=wait, daemon=True, name="remote")
    thread.start()
    seconds = max(0.001, min(SILENCE, deadline - time.monotonic()))
    thread.join(seconds)
    if not answers:
        late = "it takes longer than is allowed for a file" if seconds < SILENCE else f"no answer for {SILENCE:g} s"
        raise VideoReadError(f"{shown}: can't be fetched ({late})")
    answer, error = answers[0]
    if error is not None:
        raise _failure(shown, error) from error
    return answer


def _fetch(system, path: str, shown: str, copy: str, options: VideoOptions) -> None:
    """Copy a remote file to the disk of this machine."""
    with _RangeReader(system, path, shown, options.deadline) as remote, open(copy, "wb") as file:
        while chunk := remote.read(_CHUNK):
            if file.tell() + len(chunk) > options.max_bytes:
                raise VideoReadError(f"{shown}: has more bytes than the limit max_bytes={options.max_bytes:,}")
            file.write(chunk)


class _RangeReader:
    """A remote file, open for reading. A server that is silent, or too slow for the deadline, is an error."""

    def __init__(self, system, path: str, shown: str, deadline: float):
        self.name, self._deadline = shown, deadline
        self._file = self._ask(lambda: system.open(path, "rb"))

    def _ask(self, ask: Callable[[], Any]) -> Any:
        return _asked(ask, self.name, self._deadline)

    def read(self, size: int = -1) -> bytes:
        return self._ask(lambda: self._file.read(size))

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def __enter__(self) -> "_RangeReader":
        return self

    def __exit__(self, *error) -> None:
        with contextlib.suppress(Exception):
            self._file.close()
