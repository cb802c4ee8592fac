"""
Several views of a video, the slow way: every frame decoded, indexed, scaled and sliced by hand, the model run view by
view, and scores averaged with Python's own numbers.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from clips import decode_all, moving_pattern, write_video
from tiny_models import LABELS, make_keen_model

from timesformer_hf import TimesformerVideoProcessor


SIZE = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "num_frames": 4}
RATE = 3

# Scaled to 32, the longer side is 41: 9 pixels to spare, half of which can be rounded in two ways.
FRAME_SIZES = {"wide": (48, 62), "tall": (62, 48), "square": (48, 48)}


def write_videos(folder: Path) -> dict[str, str]:
    """A video of each of FRAME_SIZES, at 25 frames a second: file names by names of sizes."""
    frames = {name: moving_pattern(40 + 7 * i, *size) for i, (name, size) in enumerate(FRAME_SIZES.items())}
    return {name: str(write_video(folder / f"{name}.mp4", frames[name])) for name in frames}


def save_keen_classifier(folder: Path) -> str:
    """A saved model whose views differ, and its processor, which scales the shorter side; the folder's name."""
    make_keen_model(id2label=dict(enumerate(LABELS))).save_pretrained(folder)
    TimesformerVideoProcessor(**SIZE, frame_sampling_rate=RATE).save_pretrained(folder)
    return str(folder)


def normalised(frames: list) -> torch.Tensor:
    """(frames, channels, height, width), as the authors do it: in floating point, before anything else."""
    return torch.stack([(torch.tensor(frame).permute(2, 0, 1) / 255 - 0.45) / 0.225 for frame in frames])


def original_views(path: str, num_frames: int = 4, rate: int = RATE, fps: float = 25.0, crop: int = 32):
    """From the facts about the authors' code alone: (3, frames, channels, crop, crop)."""
    frames = decode_all(path)
    length = rate * num_frames / 30 * fps
    start = max(len(frames) - length, 0) * 0 / 1
    indices = torch.linspace(start, start + length - 1, num_frames).clamp(0, len(frames) - 1).long().tolist()
    clip = normalised([frames[index] for index in indices])
    height, width = clip.shape[-2:]
    if height < width:
        height, width = crop, math.floor(width / height * crop)
    else:
        height, width = math.floor(height / width * crop), crop
    clip = F.interpolate(clip, size=(height, width), mode="bilinear", align_corners=False, antialias=False)
    views = []
    for place in (0, 1, 2):
        top, left = math.ceil((height - crop) / 2), math.ceil((width - crop) / 2)
        if height > width:
            top = (0, top, height - crop)[place]
        else:
            left = (0, left, width - crop)[place]
        views.append(clip[:, :, top : top + crop, left : left + crop])
    return torch.stack(views)


def paper_views(path: str, processor: TimesformerVideoProcessor, num_frames: int = 4, rate: int = RATE):
    """The clip in the middle, scaled as the processor scales without views, cut by hand: (3, frames, ...)."""
    frames = decode_all(path)
    start = (len(frames) - (num_frames - 1) * rate - 1) // 2
    chosen = [torch.tensor(frames[start + i * rate]) for i in range(num_frames)]
    (scaled,) = processor(torch.stack(chosen), do_center_crop=False, do_sample_frames=False, return_tensors="pt")[
        "pixel_values"
    ]
    height, width = scaled.shape[-2:]
    views = []
    for part in (0, 0.5, 1):
        top = math.floor((height - 32) * (part if height > width else 0.5))
        left = math.floor((width - 32) * (0.5 if height > width else part))
        views.append(scaled[:, :, top : top + 32, left : left + 32])
    return torch.stack(views)


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def mean(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def twin_logits(model, views: torch.Tensor) -> list[list[float]]:
    """View by view."""
    with torch.no_grad():
        return [model(pixel_values=view[None]).logits[0].tolist() for view in views]
