"""What the page shows of a clip: its labels, the film of what the model looks at, and its timeline."""

import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ..explanation.drawing import write_film
from ..explanation.video_explanation import explain_video, load_explainable, read_span
from ..inference.file_classification import NOT_FINITE
from ..output.terminal import loading_model
from ..timeline.video_timeline import Timeline, make_timeline
from ..video.printable import printable
from ..video.video_errors import VideoWarning


SHOWN_LABELS = 5
_MODELS_IN_MEMORY = 2

Progress = Callable[[float, str], None]
"""Is called with the done part, from 0 to 1, and with a text."""


class ClipError(Exception):
    """Raised if a clip or a model gives no result. The message is for the reader of the page."""


@dataclass(frozen=True)
class Analyst:
    """
    Answers the questions of the page on a clip.

    `label`, `explain` and `find_times` take the name of a model and the path of a clip. They raise `ClipError` if these
    are unusable. The last two models stay in memory.

    Attributes:
        device: where the models run.
    """

    device: str = "cpu"
    _kept: Callable = field(default_factory=lambda: lru_cache(_MODELS_IN_MEMORY)(_load_model), repr=False)

    def load(self, name: str) -> tuple:
        """
        Return a model and its processor.

        Raises:
            ValueError: if it can't be loaded or explained.
        """
        return self._kept(name, self.device)

    def label(self, name: str, clip: str | None) -> tuple[dict[str, float], list[str]]:
        """Return the best labels of a clip with their scores, as the pipeline gives them, and the warnings."""
        from transformers import pipeline

        if clip is None:
            raise ClipError("Drop a clip on the page or choose one first.")
        with _readable_errors(clip), _kept_warnings() as notes:
            model, processor = self.load(name)
            classifier = pipeline("video-classification", model=model, video_processor=processor, device=self.device)
            rows = classifier(clip, top_k=SHOWN_LABELS)
            if not all(math.isfinite(row["score"]) for row in rows):
                raise ValueError(NOT_FINITE)
        return {row["label"]: row["score"] for row in rows}, [_without_folder(note, clip) for note in notes]

    def explain(self, name: str, clip: str, film: str | os.PathLike) -> None:
        """Write the film of what the model looks at to the file `film`."""
        with _readable_errors(clip), _kept_warnings():  # they are those of the labels
            model, processor = self.load(name)
            explanation = explain_video(model, processor, clip)
            write_film(film, explanation, *read_span(explanation, processor, clip))

    def find_times(self, name: str, clip: str, progress: Progress) -> Timeline:
        """Return what happens when in the clip."""

        def tell(seconds: float, duration: float | None) -> None:
            progress(min(seconds / duration, 1) if duration else 0, f"{seconds:.0f} s of the clip are done")

        with _readable_errors(clip), _kept_warnings():
            model, processor = self.load(name)
            return make_timeline(model, processor, clip, progress=tell)


def _load_model(name: str, device: str) -> tuple:
    with loading_model(name):
        return load_explainable(name, device)


@contextmanager
def _readable_errors(clip: str) -> Iterator[None]:
    """Turn the errors of bad input into `ClipError`, without the folder to which the clip was uploaded."""
    try:
        yield
    except MemoryError as error:
        raise ClipError(f"{Path(clip).name}: there is not enough memory for this clip; try a shorter one") from error
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise ClipError(_without_folder(str(error), clip)) from error


@contextmanager
def _kept_warnings() -> Iterator[list[str]]:
    """In the block, warnings about videos are not shown but kept as text."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VideoWarning)
        yield notes
    notes += [str(warning.message) for warning in caught if issubclass(warning.category, VideoWarning)]


def _without_folder(text: str, clip: str) -> str:
    return printable(text.replace(clip, Path(clip).name))
