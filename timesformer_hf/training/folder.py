"""
The folder of a training: whether a training may begin or go on there, and the table of its videos.
"""

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path

from ..data.labelled_videos import LabelledVideos, check_text
from ..model.configuration_timesformer import TimesformerConfig
from ..output.atomic import output_file, remove_leftovers
from ..video.video_sources import is_url
from .adapters import base_model
from .callbacks import last_checkpoint
from .trainer import ClipTrainingArguments


# The fields of a config that may change when a training goes on: weights keep their shapes and their meaning.
_MAY_CHANGE = ("drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")


def find_checkpoint(training: ClipTrainingArguments, *data: str | None) -> str | None:
    """
    The checkpoint to go on from, if there is one and the options ask for it.

    Args:
        data: the sources of the training and the validation videos.

    Raises:
        ValueError: where the output folder holds a training that must not be overwritten, or other files that would be,
            or where it is in the folder of the data.
    """
    folder = Path(training.output_dir)
    remove_leftovers(folder)
    for videos in filter(None, data):
        if Path(videos).is_dir() and folder.resolve().is_relative_to(Path(videos).resolve()):
            reason = f"{folder} lies in {videos}, where it would be taken for a class"
            raise ValueError(f"{reason}; give another --output_dir")
    checkpoint = last_checkpoint(folder) if training.resume else training.resume_from_checkpoint
    if checkpoint is not None or training.process_index:
        return checkpoint and str(checkpoint)
    if (folder / "config.json").exists() or (next(folder.glob("checkpoint-*"), None) and not training.resume):
        how = "has no whole checkpoint to go on from" if training.resume else "go on with --resume"
        raise ValueError(f"{folder} holds a training already: {how}, or give another --output_dir")
    if foreign := [name for name in ("README.md", "results.json") if (folder / name).exists()]:  # written last of all
        raise ValueError(f"{folder} holds {' and '.join(foreign)} of something else; give another --output_dir")
    return None


def check_same_model(model, checkpoint: str) -> None:
    """
    Check that a training of `model` can go on from a checkpoint.

    Raises:
        ValueError: for a checkpoint of another model, whose weights don't fit or would mean something else.
    """
    stored = TimesformerConfig.from_json_file(Path(checkpoint, "config.json"))
    before, now = (json.loads(config.to_json_string(use_diff=False)) for config in (stored, base_model(model).config))
    names = ["id2label", "problem_type", *(name for name in TimesformerConfig.__annotations__ if name in now)]
    changed = [name for name in names if before[name] != now[name] and name not in _MAY_CHANGE]
    if changed:
        differences = "".join(f"\n  {name}: {before[name]}, now {now[name]}" for name in changed)
        raise ValueError(
            f"{checkpoint} is of another model than this command starts with:{differences}\n"
            "Give --model and the settings that the training began with, or start another one in another --output_dir"
        )


def write_splits(splits: Mapping[str, LabelledVideos], path: Path, resumed: bool) -> None:
    """
    Write the videos of each split to a table that [`read_labelled_videos`] takes.

    Args:
        splits: name of a split -> its videos.
        resumed: whether the training goes on; then the table that is there must be the same.

    Raises:
        ValueError: where a training that goes on began with other videos, or a name is not text.
    """
    check_text(text for videos in splits.values() for video in videos for text in (video.name, *video.labels))
    rows = [["path", "label", "group", "split"]]
    for split, videos in splits.items():
        for video in videos:
            name = video.name if is_url(video.name) or video.fetch else os.path.abspath(video.name)
            rows.append([name, "|".join(video.labels), video.group, split])
    if resumed and path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            if list(csv.reader(file)) != rows:
                raise ValueError(f"The data are not those that this training began with, which {path} lists")
    with output_file(path, overwrite=True) as new, new.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
