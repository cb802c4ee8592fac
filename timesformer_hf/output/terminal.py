"""Controls what the commands print besides their results."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .hub import HubUnreachableError, hub_or_stored


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, for example "1 segment" or "2 segments"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Let transformers log only errors and show no progress bars inside the block."""
    from transformers import logging

    verbosity, progress_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress_bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def loading_model(name: str | os.PathLike) -> Iterator[None]:
    """
    The block loads the model `name`, with transformers quiet.

    Raises:
        ValueError: for whatever goes wrong in the block. The message names the model and says why.
    """
    with quiet_transformers():
        try:
            with hub_or_stored(name):
                yield
        except Exception as error:  # the boundary to the user: whatever it is, it is about this model
            raise ValueError(loading_error(name, error)) from error


def loading_error(name: str | os.PathLike, error: Exception) -> str:
    """The message that says why a model can't be loaded. `name` is a folder or a name on the Hub."""
    if isinstance(error, HubUnreachableError):
        return f"can't load the model: {error}"
    missing = "" if Path(name).is_dir() else "there is no such folder, and as a name on the Hub: "
    reason = str(error).strip().split("\n\n")[0]  # what follows is advice for programmers
    return f"can't load the model {name}: {missing}{reason}"


def video_error(video: str, error: str) -> str:
    """What is wrong with a video, in a line that names the video once."""
    return error if video in error else f"{video}: {error}"
