"""Downloads of videos into memory, by http and https alone, with a limit on their size and their time."""

import contextlib
import http.client
import io
import socket
import string
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from functools import partial

from .printable import printable
from .video_errors import VideoReadError
from .video_options import VideoOptions


_SILENCE = 20  # seconds without a byte after which a server counts as gone
_CHUNK = 2**16  # bytes


def is_url(video: str) -> bool:
    """Whether a string is an http(s) URL and not a path."""
    return video.lower().startswith(("http://", "https://"))


def download(url: str, options: VideoOptions) -> io.BytesIO:
    """
    Return the content of an http(s) URL.

    Raises:
        VideoReadError: if it can't be downloaded, is too large or takes too long, or if a redirect leads to another
            protocol. The message names the URL and the reason.
    """
    deadline, name = _Deadline(options.max_seconds), printable(url)
    try:
        quoted = urllib.parse.quote(url, safe=string.punctuation)  # spaces and characters outside ASCII
        with _open(quoted, deadline) as response:
            content = read_limited(partial(_read_some, response), name, options.max_bytes)
        if deadline.is_over:  # the end of the content is where the socket was shut
            raise TimeoutError
        return content
    except VideoReadError:
        raise
    except Exception as error:  # OSError, HTTPException, ValueError, and what urllib makes of a socket that was shut
        reason = f"it takes longer than max_seconds={options.max_seconds:g}" if deadline.is_over else error
        raise VideoReadError(f"{name}: can't be downloaded ({printable(reason)})") from error
    finally:
        deadline.end()


def read_limited(read, name: str, max_bytes: int) -> io.BytesIO:
    """
    Return everything that `read(size)` gives, chunk by chunk.

    Raises:
        VideoReadError: if it is more than `max_bytes`, or not bytes.
    """
    content = io.BytesIO()
    while chunk := read(_CHUNK):
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise VideoReadError(f"{name}: its read() gives {type(chunk).__name__}, not bytes; open it in binary mode")
        content.write(chunk)
        if content.tell() > max_bytes:
            raise VideoReadError(
                f"{name}: has more bytes than the limit max_bytes={max_bytes:,}; raise it if you trust it"
            )
    content.seek(0)
    return content


def _read_some(response, size: int) -> bytes:
    chunk = response.read1(size)
    if not chunk and response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return chunk


class _Deadline:
    """Shuts every socket that it was given, so that whoever waits for it gets an error, when the time is over."""

    def __init__(self, seconds: float):
        self.end_time, self.is_over, self.sockets = time.monotonic() + seconds, False, []
        self.timer = threading.Timer(seconds, self._shut)
        self.timer.daemon = True
        self.timer.start()

    def add(self, connected: socket.socket) -> None:
        self.sockets.append(connected)
        if self.is_over:
            self._shut()

    def end(self) -> None:
        self.timer.cancel()

    def _shut(self) -> None:
        self.is_over = True
        for connected in self.sockets:
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # the connection below TLS

    @property
    def seconds_of_silence(self) -> float:
        """How long to wait for a byte: never longer than there is time."""
        return max(min(_SILENCE, self.end_time - time.monotonic()), 0.001)


class _Watched:
    """A mixin of connections: the socket is shut when the time is over."""

    def __init__(self, *args, deadline: _Deadline, **kwargs):
        super().__init__(*args, **kwargs)
        self.deadline = deadline

    def connect(self) -> None:
        self.timeout = self.deadline.seconds_of_silence
        super().connect()
        self.deadline.add(self.sock)


class _HTTP(_Watched, http.client.HTTPConnection):
    pass


class _HTTPS(_Watched, http.client.HTTPSConnection):
    pass


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, deadline: _Deadline):
        super().__init__()
        self.deadline = deadline

    def http_open(self, request):
        return self.do_open(partial(_HTTP, deadline=self.deadline), request)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline):
        super().__init__()
        self.deadline = deadline

    def https_open(self, request):
        return self.do_open(partial(_HTTPS, deadline=self.deadline), request)


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone."""

    def redirect_request(self, request, file, code, message, headers, new_url):
        file.close()  # urllib reads the whole body next, however long it is
        if not is_url(new_url):
            raise urllib.error.URLError(f"it redirects to {new_url!r}, which is not http or https")
        return super().redirect_request(request, file, code, message, headers, new_url)


def _open(url: str, deadline: _Deadline):
    """Open a URL. urllib's own opener also has handlers for ftp:, file: and data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _HTTPHandler(deadline),
        _HTTPSHandler(deadline),
        _RedirectHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener.open(url, timeout=deadline.seconds_of_silence)
