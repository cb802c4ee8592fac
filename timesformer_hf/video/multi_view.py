"""
Several views of a video: clips of it at different times, and crops of each clip at different places.

This file cuts views out of decoded frames, lets a model score them, and averages their scores into those of the video.
A view is one input of the model, (frames, channels, height, width). The views of a video are ordered by clip, and in
each clip by crop.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from .video_sampling import check_count


_CROPS = (1, 3)  # 1: the centre; 3: the start, centre and end of the longer side
AVERAGES = ("probabilities", "logits")


@dataclass(frozen=True)
class ViewSettings:
    """
    The views that are made of a video, and how their scores are averaged.

    Attributes:
        num_clips, num_crops: number of clips, and number of crops of each clip. `None` means not set. If neither is
            set, a video has no views.
        frame_sampling: name of the policy in `FRAME_SAMPLING` that chooses the frames of a clip, or `None`.
        average: which values of the views are averaged: `"probabilities"` or `"logits"`.
        exact_scaling: whether to scale the shorter side to the size of the crop, after normalising, in floating point
            and without antialiasing. Otherwise frames are scaled as without views.
        center_rounds_up: whether a centre between two pixels is rounded up.
    """

    num_clips: int | None = None
    num_crops: int | None = None
    frame_sampling: str | None = None
    average: str = "probabilities"
    exact_scaling: bool = False
    center_rounds_up: bool = False

    @property
    def has_views(self) -> bool:
        """Whether a video has views."""
        return self.num_clips is not None or self.num_crops is not None


VIEW_PROTOCOLS: dict[str, ViewSettings] = {
    # "a single temporal clip in the middle", "3 spatial crops", "averaging the scores" (Section 4)
    "paper": ViewSettings(num_clips=1, num_crops=3, frame_sampling="center", average="probabilities"),
    # The authors' code with the settings of their models. It sums up logits, which ranks labels as their mean does.
    "original": ViewSettings(
        num_clips=1,
        num_crops=3,
        frame_sampling="original",
        average="logits",
        exact_scaling=True,
        center_rounds_up=True,
    ),
}


def resolve_views(given: Mapping, stored: Mapping) -> ViewSettings:
    """
    Return the settings that result from those of a call and those of the processor.

    A single setting of the call has priority over the protocol that the call names as `views`, and this protocol has
    priority over the processor. But a processor that samples `"segments"`, as the models of Something-Something are
    tested, keeps this policy with every protocol.

    Args:
        given, stored: `views`, `num_clips`, `num_crops` and `frame_sampling` of the call and of the processor. `None`
            means not set.

    Raises:
        TypeError, ValueError: if the number of clips, the number of crops or the protocol is not allowed.
    """
    views = given.get("views") or stored.get("views")
    if views is not None and views not in VIEW_PROTOCOLS:
        raise ValueError(f"views={views!r} must be one of {', '.join(map(repr, VIEW_PROTOCOLS))}")
    chosen = _named_settings(given)
    if given.get("views") is None:
        chosen = _named_settings(stored) | chosen
    elif stored.get("frame_sampling") == "segments":
        chosen = {"frame_sampling": "segments"} | chosen
    settings = replace(VIEW_PROTOCOLS.get(views, ViewSettings()), **chosen)
    for name in ("num_clips", "num_crops"):
        if name in chosen:
            check_count(name, chosen[name])
    if settings.num_crops not in (None, *_CROPS):
        raise ValueError(f"num_crops={settings.num_crops!r} must be 1 (the centre) or 3 (along the longer side)")
    return settings


def _named_settings(settings: Mapping) -> dict:
    names = ("num_clips", "num_crops", "frame_sampling")
    return {name: settings[name] for name in names if settings.get(name) is not None}


def crop_offsets(
    size: tuple[int, int], crop_size: tuple[int, int], num_crops: int, center_rounds_up: bool = False
) -> list[tuple[int, int]]:
    """
    Return where the crops of a frame start.

    One crop lies in the centre. Three crops lie at the start, centre and end of the longer side, and are centred on the
    other side. In a square, the width counts as the longer side.

    size=(4, 9), crop_size=(4, 4): [(0, 0), (0, 2), (0, 5)], with `center_rounds_up` [(0, 0), (0, 3), (0, 5)]

    Args:
        size, crop_size: height and width in pixels.

    Returns:
        (top, left) of each crop.

    Raises:
        ValueError: if the crop is larger than the frame.
    """
    (height, width), (crop_height, crop_width) = size, crop_size
    spare_rows, spare_columns = height - crop_height, width - crop_width
    if min(spare_rows, spare_columns) < 0:
        raise ValueError(
            f"A frame of {height}x{width} pixels is too small for a crop of {crop_height}x{crop_width} (height x "
            "width); set do_resize=True and a size of at least crop_size"
        )
    half = math.ceil if center_rounds_up else math.floor
    top, left = half(spare_rows / 2), half(spare_columns / 2)
    if num_crops == 1:
        return [(top, left)]
    if height > width:
        return [(0, left), (top, left), (spare_rows, left)]
    return [(top, 0), (top, left), (top, spare_columns)]


def scaled_size(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """
    Return height and width scaled to a shorter side, with the longer side rounded down.

    The ratio of the sides is computed before it is multiplied, as in the authors' code. Its floating-point rounding can
    make a difference of one pixel.

    size=(240, 320), shorter_side=224 -> (224, 298)
    """
    height, width = size
    if min(size) == shorter_side:
        return size
    longer_side = math.floor(max(size) / min(size) * shorter_side)
    return (longer_side, shorter_side) if width < height else (shorter_side, longer_side)


def scale_exactly(frames: torch.Tensor, shorter_side: int) -> torch.Tensor:
    """Scale floating-point frames (frames, channels, height, width) bilinearly, without antialiasing."""
    size = scaled_size(tuple(frames.shape[-2:]), shorter_side)
    return F.interpolate(frames, size=size, mode="bilinear", align_corners=False)


def cut_crops(clips: torch.Tensor, crop_size: tuple[int, int], settings: ViewSettings) -> torch.Tensor:
    """
    Cut the crops out of clips.

    Args:
        clips: (clips, frames, channels, height, width).
        crop_size: height and width in pixels.

    Returns:
        (clips * num_crops, frames, channels, *crop_size), ordered by clip, and in each clip by crop.

    Raises:
        ValueError: if the crop is larger than the frames.
    """
    height, width = crop_size
    size = tuple(clips.shape[-2:])
    offsets = crop_offsets(size, crop_size, settings.num_crops, settings.center_rounds_up)
    crops = [clips[..., top : top + height, left : left + width] for top, left in offsets]
    return torch.stack(crops, dim=1).flatten(0, 1)


def score_views(
    model: Callable[[torch.Tensor], Any], pixel_values: torch.Tensor, views_per_pass: int | None = None
) -> torch.Tensor:
    """
    Return the logits of every view.

    Args:
        model: a model that takes `pixel_values` (batch, frames, channels, height, width) and returns logits (batch,
            labels).
        pixel_values: (batch, views, frames, channels, height, width).
        views_per_pass: how many views of each video go through the model at once, to limit memory. `None` means all.

    Returns:
        logits (batch, views, labels).

    Raises:
        TypeError: if `views_per_pass` is not an integer.
        ValueError: if `views_per_pass` is below 1, or `pixel_values` doesn't have 6 dimensions.
    """
    if pixel_values.ndim != 6:
        raise ValueError(
            "pixel_values must have 6 dimensions (batch, views, frames, channels, height, width), got "
            f"{pixel_values.ndim}: {tuple(pixel_values.shape)}"
        )
    if views_per_pass is not None:
        check_count("views_per_pass", views_per_pass)
    passes = pixel_values.split(views_per_pass or pixel_values.shape[1], dim=1)
    logits = [model(pixel_values=views.flatten(0, 1)).logits.unflatten(0, views.shape[:2]) for views in passes]
    return torch.cat(logits, dim=1)


_SCORE_FUNCTIONS = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}


def average_views(logits: torch.Tensor, average: str = "probabilities", function: str = "softmax") -> torch.Tensor:
    """
    Return the scores of videos from the logits of their views.

    Args:
        logits: (..., views, labels).
        average: `"probabilities"` applies `function` to the logits of each view, and then averages the results over the
            views. `"logits"` averages the logits first, which ranks labels as the sum of the logits does.
        function: `"softmax"`; `"sigmoid"`, for videos with several labels; or `"none"`.

    Returns:
        scores (..., labels), float32 or float64.

    Raises:
        ValueError: if `average` or `function` is unknown.
    """
    if average not in AVERAGES:
        raise ValueError(f"average={average!r} must be one of {', '.join(map(repr, AVERAGES))}")
    if function not in _SCORE_FUNCTIONS:
        raise ValueError(f"function={function!r} must be one of {', '.join(map(repr, _SCORE_FUNCTIONS))}")
    logits = logits if logits.dtype == torch.float64 else logits.float()  # sums in half precision are inexact
    score = _SCORE_FUNCTIONS[function]
    return score(logits).mean(-2) if average == "probabilities" else score(logits.mean(-2))
