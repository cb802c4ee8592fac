"""The error for videos that can't be read, and the translation of every other error into it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .printable import printable


class VideoReadError(ValueError):
    """Raised if a video is unreadable, so that it can't be decoded. The message names the video and the reason."""


class VideoWarning(UserWarning):
    """Warns that a video gives a clip, but perhaps not the one that was meant. The message says why."""


class RepeatedFramesWarning(VideoWarning):
    """Warns that a video is too short for its clip, most of which are copies of one frame."""


# Errors that leave the video functions as they are. An interrupt is not an `Exception`, so it does too.
_DOCUMENTED = (VideoReadError, FileNotFoundError, IsADirectoryError, PermissionError, ImportError, MemoryError)


class CallersErrors:
    """Remembers the errors of a function that the caller gave. They stay as they are."""

    def __init__(self):
        self.errors: list[Exception] = []

    def __contains__(self, error: Exception) -> bool:
        return any(error is known for known in self.errors)

    def watch(self, function: Callable) -> Callable:
        """Return the function. If it raises, its error is remembered."""

        def watched(*args):
            with self.remembered():
                return function(*args)

        return watched

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """Remember the error that leaves the block."""
        try:
            yield
        except Exception as error:
            self.errors.append(error)
            raise


@contextmanager
def translated_errors(name: str, callers: CallersErrors) -> Iterator[None]:
    """Turn every error inside the block into `VideoReadError`, except for documented errors and the caller's own."""
    try:
        yield
    except _DOCUMENTED:
        raise
    except Exception as error:
        if error in callers:
            raise
        raise VideoReadError(f"{name}: can't be decoded ({describe_error(error)})") from error


def describe_error(error: Exception) -> str:
    """Return the reason that an error gives, on one line: FFmpeg's own words, or the class and the message."""
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".removesuffix(": ")
    return printable(reason)
