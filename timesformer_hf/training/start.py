"""
How a training starts: a checkpoint becomes a model with the head, size and labels of the data, and with a video
processor that fits.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.files import read_checkpoint
from ..checkpoints.formats import find_format
from ..checkpoints.processors import HUB_BGR, save_processors
from ..data.label_matching import match_names
from ..model.configuration_timesformer import TimesformerConfig, as_pair, stored_config_values
from ..model.modeling_timesformer import TimesformerForVideoClassification
from ..video.video_processing_timesformer import TimesformerVideoProcessor


_LABELS_SHOWN = 8


class LabelMismatchError(ValueError):
    """A checkpoint whose labels are not those of the data. The message shows both."""


def start_from_checkpoint(
    name: str | os.PathLike[str],
    label_names: Sequence[str],
    reset_head: bool = False,
    problem_type: str = "single_label_classification",
    **settings: Any,
) -> tuple[TimesformerForVideoClassification, TimesformerVideoProcessor, dict[str, int]]:
    """
    A model to train on other data, its processor, and the number that it gives each of the data's labels.

    A TimeSformer that knows all labels of the data, whatever their case and punctuation, keeps its head and its
    numbers. A TimeSformer without names of labels and an image ViT get a new head.

    Args:
        name: folder or Hub name of a TimeSformer or an image ViT, or a file of the latter.
        label_names: the labels of the data.
        reset_head: start a new head for the labels of the data, whatever the checkpoint's are.
        settings: `attention_type`, `num_frames`, `image_size`, `drop_path_rate` or `attn_implementation`, for values
            other than the checkpoint's (from an image ViT: other than the paper's).

    Raises:
        LabelMismatchError: where the checkpoint has other labels, unless `reset_head`.
        OSError, ValueError: where there is no such checkpoint, or it is of another model.
    """
    fields = {"problem_type": problem_type} | {key: value for key, value in settings.items() if value is not None}
    stored = stored_config_values(name, {})
    if stored.get("model_type") != TimesformerConfig.model_type:
        label2id = {label: number for number, label in enumerate(label_names)}
        model, processor = _start_from_image_vit(name, label2id, fields)
    else:
        known = TimesformerConfig.from_dict(stored).id2label
        label2id = None if reset_head else match_labels(name, label_names, known)
        model = TimesformerForVideoClassification.from_pretrained(name, **fields)
        if label2id is None:
            label2id = {label: number for number, label in enumerate(label_names)}
            _replace_head(model, label2id)
        processor = stored_processor(name)
    return model.float(), _fit_processor(processor, model.config), label2id


@torch.no_grad()
def _replace_head(model: TimesformerForVideoClassification, label2id: Mapping[str, int]) -> None:
    """Give a model a head for other labels, with the original's initial values."""
    model.config.id2label = {number: label for label, number in label2id.items()}
    model.config.label2id = dict(label2id)
    model.num_labels = len(label2id)
    model.classifier = nn.Linear(model.config.hidden_size, len(label2id), dtype=model.dtype)
    nn.init.trunc_normal_(model.classifier.weight, std=model.config.initializer_range)
    nn.init.zeros_(model.classifier.bias)


def _start_from_image_vit(
    name: str | os.PathLike[str], label2id: Mapping[str, int], fields: dict
) -> tuple[TimesformerForVideoClassification, TimesformerVideoProcessor]:
    """A TimeSformer from an image ViT, with a new head, and a processor that normalises pixels as the ViT's does."""
    checkpoint = read_checkpoint(name)
    id2label = {number: label for label, number in label2id.items()}
    model = TimesformerForVideoClassification.from_image_vit(checkpoint, id2label=id2label, **fields)
    with tempfile.TemporaryDirectory() as folder:
        save_processors(checkpoint, find_format(checkpoint), model.config, bgr=False, folder=Path(folder))
        return model, TimesformerVideoProcessor.from_pretrained(folder)


def start_from_scratch(
    config: TimesformerConfig,
    label_names: Sequence[str],
    problem_type: str = "single_label_classification",
) -> tuple[TimesformerForVideoClassification, TimesformerVideoProcessor, dict[str, int]]:
    """A model with the original's initial values, its processor and the number of each label."""
    id2label = dict(enumerate(label_names))
    label2id = {label: number for number, label in id2label.items()}
    values = config.to_dict() | {"id2label": id2label, "label2id": label2id, "problem_type": problem_type}
    model = TimesformerForVideoClassification(TimesformerConfig.from_dict(values))
    return model, _fit_processor(TimesformerVideoProcessor(), model.config), label2id


def match_labels(
    checkpoint: str | os.PathLike[str], label_names: Sequence[str], known: Mapping[int, str]
) -> dict[str, int] | None:
    """
    The number of each label in a checkpoint, or `None` where the checkpoint doesn't name its labels.

    Raises:
        LabelMismatchError: where it lacks one.
    """
    if all(name == f"LABEL_{number}" for number, name in known.items()):
        return None
    found = match_names(label_names, known)
    if missing := [name for name in label_names if name not in found]:
        raise LabelMismatchError(
            f"{checkpoint} was trained on other labels: it lacks {len(missing)} of the data's {len(label_names)}.\n"
            f"  the data's:       {listing(label_names)}\n"
            f"  the checkpoint's: {listing(list(known.values()))}\n"
            "--reset_head keeps what the model has learnt to see and starts a new head for the data's labels"
        )
    return found


def listing(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are in all."""
    more = f", ... ({len(names)} in all)" if len(names) > _LABELS_SHOWN else ""
    return ", ".join(names[:_LABELS_SHOWN]) + more


def stored_processor(name: str | os.PathLike[str]) -> TimesformerVideoProcessor:
    """The video processor of a checkpoint, or one with the paper's settings where it has none."""
    from transformers import AutoVideoProcessor

    try:
        processor = AutoVideoProcessor.from_pretrained(name)
    except (OSError, ValueError):  # no preprocessor file
        processor = TimesformerVideoProcessor()
    if HUB_BGR.fullmatch(os.fspath(name)):
        processor.do_flip_channel_order = True
    return processor


def _fit_processor(processor: TimesformerVideoProcessor, config: TimesformerConfig) -> TimesformerVideoProcessor:
    """
    The processor with the model's frames and size, and one view of a video. If it squeezed whole frames into a size
    before, it does so with the new size; otherwise it crops.
    """
    height, width = as_pair(config.image_size)
    size = {"height": height, "width": width}
    values = processor.to_dict()
    if not processor.do_center_crop and processor.clip_size is not None:
        values["size"] = size
    elif processor.clip_size != (height, width):
        values |= {"size": {"shortest_edge": max(height, width)}, "crop_size": size, "do_center_crop": True}
    values |= {"do_resize": True, "do_sample_frames": True, "num_frames": config.num_frames}
    values |= {"fps": None, "num_clips": None, "num_crops": None, "views": None}
    return TimesformerVideoProcessor.from_dict(values)


def freeze(model: TimesformerForVideoClassification, what: str) -> None:
    """
    Keep a part of the model as it is.

    Args:
        what: `"backbone"` (all but the head), `"embeddings"`, or a number N (the embeddings and the first N blocks).

    Raises:
        ValueError: for another value, or more blocks than there are.
    """
    backbone = model.timesformer
    if what == "backbone":
        parts = [backbone]
    elif what == "embeddings" or (what.isdecimal() and int(what) <= len(backbone.encoder.layer)):
        parts = [backbone.embeddings, *(backbone.encoder.layer[: int(what)] if what.isdecimal() else ())]
    else:
        raise ValueError(
            f"freeze={what!r} must be 'backbone', 'embeddings' or a number of first blocks, 0 to "
            f"{len(backbone.encoder.layer)}"
        )
    for part in parts:
        part.requires_grad_(False)
