"""
The scores of labelled videos: decoded in worker processes, scored in batches, and stored batch by batch, so that a run
that was cut off goes on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.label_matching import match_names
from ..data.labelled_videos import LabelledVideo, LabelledVideos
from ..inference.feature_extraction import EmbeddedVideo, compute_features, load_video
from ..inference.feature_table import FeatureParts, source_of
from ..output.table_parts import read_rows
from ..output.terminal import video_error
from ..video.multi_view import average_views, score_views
from ..video.printable import printable
from ..video.video_processing_timesformer import TimesformerVideoProcessor
from .time_audit import score_arrangements


def encode_labels(videos: LabelledVideos, names: Sequence[str]) -> np.ndarray:
    """
    The labels of videos as the numbers that a model gives them. They are matched by name as for training.

    Args:
        names: the labels that the model knows, in order.

    Returns:
        integers (videos,); or where a video may have several labels, 0 or 1 for each of them (videos, labels).

    Raises:
        ValueError: for labels that the model doesn't have.
    """
    used = dict.fromkeys(label for video in videos for label in video.labels)
    label2id = match_names(list(used), dict(enumerate(names)))
    if unknown := [label for label in used if label not in label2id]:
        hint = "; for labels that are numbers, --label_names says what they stand for"
        raise ValueError(
            f"The model doesn't know {len(unknown)} of the {len(used)} labels of the data: {_some(unknown)}. It knows "
            f"{_some(names)}. They are matched by name{hint if all(map(str.isdecimal, unknown)) else ''}"
        )
    if not videos.multi_label:
        return np.array([label2id[video.labels[0]] for video in videos])
    targets = np.zeros((len(videos), len(names)), dtype=np.int64)
    for row, video in zip(targets, videos, strict=True):
        row[[label2id[label] for label in video.labels]] = 1
    return targets


def _some(names: Sequence[str]) -> str:
    """The first ten names."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


class SharedParts:
    """
    The scores that are stored already, of this run and of one that was cut off. Each process adds to a folder of its
    own and reads those of all.

    Args:
        folder: of the parts of all processes.
        process: the number of this one.
        settings: what decides the scores. Parts that were made with others are refused.
        videos: all videos of the run.

    Raises:
        ValueError: where the scores that are there were made with other settings.
    """

    def __init__(self, folder: Path, process: int, settings: dict, videos: LabelledVideos):
        self.folder, self.settings = folder, settings
        self.videos, self.sources = videos, list_sources(videos)
        self.own = FeatureParts(self.folder / f"{process:05d}", self.settings)
        self.begun_with = self.places()

    def places(self) -> dict[str, tuple[Path, int]]:
        """The part and the row in it of each source that is done, whichever process has done it."""
        parts = [FeatureParts(path, self.settings) for path in sorted(self.folder.glob("[0-9]*"))]
        return {source: place for part in parts for source, place in part.places.items()}

    def is_done(self, index: int) -> bool:
        """Whether a video was done when this run began."""
        return self.sources[index] in self.begun_with

    def add(self, indices: Sequence[int], videos: Sequence[EmbeddedVideo]) -> None:
        """Store the scores of a batch."""
        self.own.add(videos, [self.sources[index] for index in indices])

    def read(self) -> tuple[list[int], np.ndarray]:
        """
        The indices of the videos that are done, and their scores (videos, labels).

        Raises:
            ValueError: where none is done.
        """
        places = self.places()
        done = [index for index, source in enumerate(self.sources) if source in places]
        if not done:
            raise ValueError("none of the videos could be read: there is nothing to measure")
        scores = read_rows([places[self.sources[index]] for index in done], ["feature"]).column("feature")
        return done, scores.combine_chunks().flatten().to_numpy().reshape(len(done), -1)


def list_sources(videos: LabelledVideos) -> list[str]:
    """The text by which a stored row is recognised as that of a video. A video that is listed twice has two."""
    times, sources = Counter(), []
    for video in videos:
        source = source_of(video.name)
        times[source] += 1
        sources.append(source if times[source] == 1 else f"{source} ({times[source]})")
    return sources


class VideosToScore(Dataset):
    """Indices with the loaded videos, decoded in the worker processes of a DataLoader."""

    def __init__(self, videos: LabelledVideos, processor: TimesformerVideoProcessor, sampling: dict):
        self.videos, self.processor, self.sampling = videos, processor, sampling

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[int, EmbeddedVideo]:
        return index, load_labelled_video(self.processor, self.videos[index], self.sampling)


def load_labelled_video(processor: TimesformerVideoProcessor, video: LabelledVideo, sampling: dict) -> EmbeddedVideo:
    """Decode and sample a video of any source. What is wrong with it becomes its error."""
    return load_video(processor, video.name, sampling, fetch=lambda: video.source)


Batch = list[tuple[int, EmbeddedVideo]]  # videos with their indices


def score_batches(model, batches: Iterable[Batch], scoring: dict, time_audit: bool = False) -> Iterator[Batch]:
    """
    Score the videos of batch after batch, and yield them.

    Args:
        scoring: how logits become scores, as of [`average_views`].
        time_audit: see [`score_batch`].
    """
    for batch in batches:
        score_batch(model, [video for _, video in batch], scoring, time_audit)
        yield batch


def store_scores(
    batches: Iterable[Batch], parts: SharedParts, strict: bool, report: Callable[[int, list[str]], None]
) -> list[dict]:
    """
    Store batch after batch of scored videos.

    Args:
        strict: stop at the first video that fails.
        report: is told after each batch how many videos it had, and the errors among them.

    Returns:
        the videos that failed: `{video, error}`.

    Raises:
        ValueError: for the first video that fails, if `strict`.
    """
    failures = []
    for batch in batches:
        indices, videos = zip(*batch, strict=True)
        parts.add(indices, videos)
        failed = [video for video in videos if video.error is not None]
        errors = [video_error(printable(video.video), printable(video.error)) for video in failed]
        if errors and strict:
            raise ValueError(f"{errors[0]} (the first video that can't be read, and --strict)")
        failures += [{"video": video.video, "error": video.error} for video in failed]
        report(len(batch), errors)
    return failures


def score_batch(model, videos: Iterable[EmbeddedVideo], scoring: dict, time_audit: bool = False) -> None:
    """
    Set the scores of loaded videos, those of one shape together (all of them, if they are cropped).

    With `time_audit`, a video has the scores of each of `ARRANGEMENTS`, one after the other.
    """
    if time_audit:
        score_arrangements(videos, lambda rearranged: score_batch(model, rearranged, scoring))
        return

    def compute(pixel_values: torch.Tensor) -> torch.Tensor:
        views = pixel_values if pixel_values.ndim == 6 else pixel_values.unsqueeze(1)
        return average_views(score_views(model, views, views_per_pass=1), **scoring)

    compute_features(videos, compute, model, "scores")
