"""Asks once whether the Hub can be reached, so that nobody waits for a library's repeated attempts."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator


_SECONDS = 6
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class HubUnreachableError(OSError):
    """Something is neither here nor stored from before, and the Hub can't be reached. The message says why."""


@contextlib.contextmanager
def hub_or_stored(name: str | os.PathLike) -> Iterator[None]:
    """
    In the block, files of the Hub are used if it can be reached, and otherwise only those stored from before.

    Args:
        name: what the block reads. If it is a local path, the Hub is not asked.

    Raises:
        HubUnreachableError: in place of an `OSError` in the block, if the Hub can't be reached.
    """
    from huggingface_hub import constants

    if os.path.exists(name) or not _HUB_NAME.fullmatch(os.fspath(name)):
        yield
        return
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _why_unreachable(constants.ENDPOINT)
    offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, reason is not None
    try:
        yield
    except OSError as error:
        if reason is None:
            raise
        raise HubUnreachableError(
            f"{name} is neither a path here nor stored from before, and the Hub can't be reached ({reason})"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def _why_unreachable(address: str) -> str | None:
    """Return why there is no answer from the Hub's address within a few seconds, or `None` if there is one."""
    from huggingface_hub.utils import get_session

    outcome = [f"{address} has not answered for {_SECONDS} seconds"]

    def ask() -> None:
        try:
            get_session().head(address, timeout=_SECONDS)
            outcome[0] = None
        except Exception as error:  # whatever it is, there is no answer
            outcome[0] = f"{address}: {error}"

    thread = threading.Thread(target=ask, daemon=True)  # because the look-up of a name has no time limit of its own
    thread.start()
    thread.join(_SECONDS)
    return outcome[0]
