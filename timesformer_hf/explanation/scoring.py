"""
Whether heat maps show what a model's answer depends on: deletion, insertion and the pointing game.

- Deletion and insertion (Petsiuk et al. 2018, "RISE", Section 4.3): the patches of a clip are replaced by grey in the
  order of their relevance, the most relevant first, or added to a blurred clip in that order. The score is the area
  under the curve of the class's probability. Good maps have a low deletion and a high insertion.
- Pointing game (Zhang et al. 2018, "Top-down Neural Attention by Excitation Backprop"): the share of clips whose most
  relevant patch has its centre in a box of its frame.

Each method stands beside two baselines that know nothing of the model: a random map, and a map of the centre.
"""

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from ..output.markdown_table import markdown_table
from ..video.video_folders import find_videos
from .boxes import Box, Boxes, read_boxes
from .relevance import METHODS, explain
from .video_explanation import label_scores, read_clip, visible_region


_BASELINES = ("random", "centre")
_METRICS = {"deletion": -1, "insertion": 1, "pointing game": 1}  # and whether more is better
_STEPS = 16  # of a curve
_BATCH = 8  # clips that the model takes at once
_CENTRE_WIDTH = 0.25  # standard deviation, as a share of a side
_GRADIENT_STEPS = 32

_Maps = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ClipToScore:
    """
    A clip and where its object is.

    Attributes:
        pixel_values: what the model gets, (frames, channels, height, width).
        boxes: the boxes of each frame, left, top, right and bottom as shares of what the model sees. `None` if nothing
            is known of this video.
    """

    pixel_values: torch.Tensor
    boxes: list[list[Box]] | None


def read_clips(
    folder: str, model, processor, report: Callable[[str], None], **sampling
) -> tuple[int, Iterator[ClipToScore]]:
    """
    Find the videos of a folder and its `boxes.csv`, and return their number and the clips, one after the other.

    Args:
        report: is told each video that can't be read, in a line.
        sampling: `num_frames` and `frame_sampling_rate`, see [`explain_video`].

    Raises:
        NotADirectoryError: if there is no such folder.
        ValueError: if it has no video, or `boxes.csv` is wrong.
    """
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; give one with videos to score")
    videos, boxes = find_videos([folder]), read_boxes(Path(folder))

    def clips() -> Iterator[ClipToScore]:
        for video in videos:
            try:
                yield _read_clip(video, model, processor, boxes, sampling)
            except (ValueError, OSError) as error:
                report(str(error) if video in str(error) else f"{video}: {error}")

    return len(videos), clips()


def _read_clip(video: str, model, processor, boxes: Boxes, sampling: dict) -> ClipToScore:
    frames, indices, _, pixel_values = read_clip(model, processor, video, **sampling)
    known = boxes.get(Path(video).resolve())
    if known is not None:
        height, width = frames.shape[1:3]
        top, left, bottom, right = visible_region(processor, height, width)

        def share(box: Box) -> Box:
            columns = [(side / width - left) / (right - left) for side in box[::2]]
            rows = [(side / height - top) / (bottom - top) for side in box[1::2]]
            return columns[0], rows[0], columns[1], rows[1]

        known = [[share(box) for box in known.get(index, [])] for index in indices]
    return ClipToScore(pixel_values, known)


def score_clips(model, clips: Iterable[ClipToScore], seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """
    Score every method and baseline on clips. The class is the predicted one.

    Integrated gradients (Sundararajan et al. 2017) are among the methods if captum is installed. That is another
    package's way to explain a model, so it is a check from outside.

    Args:
        model: a classifier in eval mode.
        seed: of the random maps.

    Returns:
        metric -> method -> a value for each clip. The pointing game has one for each clip with boxes.

    Raises:
        ValueError: if there is no clip.
    """
    generator = torch.Generator().manual_seed(seed)
    scores: dict[str, dict[str, list[float]]] = {metric: {} for metric in _METRICS}
    for clip in clips:
        pixel_values = clip.pixel_values.to(model.device)
        maps = _make_maps(model, pixel_values, generator)
        for method, relevance in maps.items():
            values = deletion_and_insertion(model, pixel_values, relevance)
            if clip.boxes is not None:
                hits = centres_in_boxes(relevance.shape, clip.boxes)
                hit = hits.mean() if method == "random" else hits.flatten()[relevance.argmax()]
                values["pointing game"] = float(hit)
            for metric, value in values.items():
                scores[metric].setdefault(method, []).append(value)
    if not scores["deletion"]:
        raise ValueError("none of the videos could be read: there is nothing to score")
    return scores


def _make_maps(model, pixel_values: torch.Tensor, generator: torch.Generator) -> _Maps:
    """Return a map of each method and baseline for a clip, (frames, rows, columns)."""
    batch = pixel_values.unsqueeze(0)
    maps = {method: explain(model, batch, method=method)[0].cpu() for method in METHODS}
    shape = maps[METHODS[0]].shape
    if importlib.util.find_spec("captum") is not None:
        maps["integrated_gradients"] = _integrated_gradients(model, batch, shape)
    return maps | {"random": torch.rand(shape, generator=generator), "centre": centre_map(shape)}


def _integrated_gradients(model, pixel_values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return captum's attribution from a grey clip, its absolute values summed over each patch."""
    from captum.attr import IntegratedGradients

    with torch.no_grad():
        target = int(model(pixel_values).logits.argmax())
    attribute = IntegratedGradients(lambda clips: model(clips).logits).attribute
    found = attribute(pixel_values, target=target, n_steps=_GRADIENT_STEPS, internal_batch_size=_BATCH)
    found = found[0].abs().sum(dim=1, keepdim=True)
    return F.adaptive_avg_pool2d(found, shape[1:])[:, 0].detach().float().cpu()


def centre_map(shape: Sequence[int]) -> torch.Tensor:
    """Return a map (frames, rows, columns) that is highest in the centre of frames. The middle frame comes first."""
    axes = [(torch.arange(side) + 0.5) / side - 0.5 for side in shape]
    time, row, column = torch.meshgrid(*axes, indexing="ij")
    return torch.exp(-(row**2 + column**2) / (2 * _CENTRE_WIDTH**2)) - 1e-4 * time.abs()


@torch.no_grad()
def deletion_and_insertion(model, pixel_values: torch.Tensor, relevance: torch.Tensor) -> dict[str, float]:
    """
    Return the areas under the curves of the predicted class's probability, from 0 to 1.

    Args:
        pixel_values: a clip, (frames, channels, height, width).
        relevance: (frames, rows, columns). Among equal patches the order is that of memory.
    """
    order = relevance.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    patch = pixel_values.shape[-1] // relevance.shape[-1]
    target = int(model(pixel_values.unsqueeze(0)).logits.argmax())
    curves = {}
    for metric, before, after in (
        ("deletion", pixel_values, torch.zeros_like(pixel_values)),
        ("insertion", _blurred(pixel_values, patch), pixel_values),
    ):
        counts = torch.linspace(0, len(order), _STEPS + 1).round()
        changed = (rank < counts[:, None]).unflatten(1, relevance.shape).to(pixel_values.device)
        curves[metric] = _area(_probabilities(model, before, after, changed, target))
    return curves


def _probabilities(model, before: torch.Tensor, after: torch.Tensor, changed: torch.Tensor, target: int) -> list[float]:
    """Return the probability of a class for each mask (masks, frames, rows, columns) of the patches from `after`."""
    found = []
    for masks in changed.split(_BATCH):
        pixels = F.interpolate(masks.to(before.dtype), size=before.shape[-2:], mode="nearest").unsqueeze(2)
        logits = model(torch.where(pixels > 0, after, before)).logits.float()
        found += label_scores(logits, model.config.problem_type)[:, target].tolist()
    return found


def _blurred(pixel_values: torch.Tensor, patch: int) -> torch.Tensor:
    """Blur frames with a standard deviation of a patch, so that patches lose what is in them."""
    kernel = [min(4 * patch + 1, 2 * ((side - 1) // 2) + 1) for side in pixel_values.shape[:-3:-1]]
    return gaussian_blur(pixel_values, kernel, [patch, patch])


def _area(curve: Sequence[float]) -> float:
    """Return the area under a curve over [0, 1], by the trapezoidal rule."""
    return (sum(curve) - (curve[0] + curve[-1]) / 2) / (len(curve) - 1)


def centres_in_boxes(shape: Sequence[int], boxes: Sequence[Sequence[Box]]) -> torch.Tensor:
    """
    Return whether the centre of each patch is in a box of its frame: 0 or 1, (frames, rows, columns).

    Args:
        boxes: the boxes of each frame, left, top, right and bottom as shares of the frame.
    """
    _, rows, columns = shape
    row = ((torch.arange(rows) + 0.5) / rows)[:, None]
    column = ((torch.arange(columns) + 0.5) / columns)[None]
    found = torch.zeros(tuple(shape))
    for frame, inside in zip(boxes, found, strict=True):
        for left, top, right, bottom in frame:
            inside[(row >= top) & (row <= bottom) & (column >= left) & (column <= right)] = 1
    return found


def score_table(scores: dict[str, dict[str, list[float]]]) -> str:
    """
    Return the scores as a Markdown table with intervals, and sentences that say which baselines are not beaten.

    The intervals contain the mean over very many such clips with 95 % confidence (normal approximation).
    """
    metrics = [metric for metric in _METRICS if scores[metric]]
    methods = list(scores[metrics[0]])
    heads = ["method", *(f"{metric} ({'lower' if _METRICS[metric] < 0 else 'higher'} is better)" for metric in metrics)]
    rows = [[method, *(_mean_text(scores[metric][method]) for metric in metrics)] for method in methods]
    counts = ", ".join(f"{metric}: {len(scores[metric][methods[0]])} clips" for metric in metrics)
    sentences = [_verdict(scores, metrics, method) for method in methods if method not in _BASELINES]
    return "\n".join([markdown_table(heads, rows), "", f"Mean and 95 % interval. {counts}.", *sentences])


def _mean_text(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {_half_interval(values):.3f}"


def _half_interval(values: Sequence[float]) -> float:
    return 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def _verdict(scores: dict, metrics: Sequence[str], method: str) -> str:
    """Return a sentence on where a method is not better than a baseline, clip by clip, with 95 % confidence."""
    failures = []
    for metric in metrics:
        for baseline in _BASELINES:
            gain = _METRICS[metric] * np.subtract(scores[metric][method], scores[metric][baseline])
            if not gain.mean() - _half_interval(gain) > 0:
                failures.append(f"{baseline} in {metric}")
    if not failures:
        return f"{method} is better than both baselines in {', '.join(metrics)}."
    return f"{method} is NOT better than {', '.join(failures)}."
