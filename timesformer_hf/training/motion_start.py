"""
Initial values for a small TimeSformer that learns motion from scratch.

The original's initial values suit a start from an image ViT. From them, a model learns the direction of a movement only
after a long plateau. The direction is in products of the pixels of a patch with those of the next frame. Before a
gradient can point to those products, the model must tell frames and places apart, attend to neighbouring frames, and
ignore the mean brightness of a patch. The values here do all three from the start, and are weights like any others:

- The patch projection whitens: principal components of the data's patches at nearly the same strength (Coates and Ng
  2012).
- The tables are sines of time and place, in channels of their own.
- In the first steps across frames, each head attends to the same place in another frame: one before, one after, two
  before, and so on. Its values are the patch's strongest components (compare mimetic initialisation, Trockman and
  Kolter 2023).

Linear weights have a standard deviation of 0.6 / sqrt(inputs) instead of 0.02.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..model.attention_schemes import ALL_TOKENS, LOCAL, TIME
from ..model.modeling_timesformer import TimesformerForVideoClassification, TimesformerLayer


_TIME_CHANNELS = 8
_PLACE_CHANNELS = 8
_TIME_SHARPNESS = 3.0  # of the heads that look at another frame
_PLACE_SHARPNESS = 5.0  # of theirs that must find the same place there
_WHITENING = 0.25  # weaker components keep this power of their variance; 0 whitens them fully too
NEIGHBOURS = (-1, 1, -2, 2, -3, 3)  # the frames that the heads look at, in their order
_STEPS_ACROSS_FRAMES = (TIME, LOCAL, ALL_TOKENS)


@torch.no_grad()
def start_for_motion(model: TimesformerForVideoClassification, pixel_values: torch.Tensor) -> None:
    """
    Give a model initial values from which it learns motion.

    Args:
        model: a model of any attention scheme.
        pixel_values: some clips of the data (batch, frames, channels, height, width), normalised; a thousand frames are
            enough.

    Raises:
        ValueError: for a model with fewer than 32 channels, which is too narrow for the codes of time and place.
    """
    config = model.config
    if config.hidden_size < 32:
        raise ValueError(f"hidden_size={config.hidden_size} must be at least 32 to start for motion")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.6 * module.in_features**-0.5)
    nn.init.zeros_(model.classifier.weight)
    content = config.hidden_size - _TIME_CHANNELS - _PLACE_CHANNELS
    embeddings = model.timesformer.embeddings
    _start_patches(embeddings.patch_embeddings.projection, pixel_values.flatten(0, 1), content)
    _start_tables(embeddings, content)
    if not embeddings.scheme.frames_apart:
        for layer in model.timesformer.encoder.layer:
            for step in layer.steps:
                if step in _STEPS_ACROSS_FRAMES:
                    _start_attention(layer, step, config.num_attention_heads, content, 2 * config.num_frames)


def _start_patches(projection: nn.Conv2d, frames: torch.Tensor, components: int) -> None:
    """
    Let the projection compute the strongest principal components of patches, whitened.

    Args:
        frames: the frames that the components are found in, (frames, channels, height, width).
    """
    patches = F.unfold(frames.to(projection.weight), projection.kernel_size, stride=projection.stride)
    patches = patches.transpose(1, 2).flatten(0, 1).double()
    patches -= patches.mean(dim=0)
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    variances = variances.flip(0)[:components].clamp(min=1e-6)
    directions = directions.flip(1)[:, :components].T
    kept = (variances / variances[min(5, len(variances) - 1)]).clamp(max=1) ** _WHITENING
    gain = kept / variances.sqrt()
    gain = gain.clamp(max=gain[min(60, len(gain) - 1)])  # weaker components are mostly noise
    projection.weight.zero_()
    projection.bias.zero_()
    projection.weight[: len(gain)] = (
        (gain[:, None] * directions).to(projection.weight).unflatten(1, projection.weight.shape[1:])
    )


def _start_tables(embeddings: nn.Module, first: int) -> None:
    """Set the tables to sines of time and place in the channels from `first` on, elsewhere to zero. CLS is random."""
    place = first + _TIME_CHANNELS
    rows, columns = embeddings.position_grid()
    row = _half_waves(rows, _PLACE_CHANNELS // 4)[:, None].expand(-1, columns, -1)
    column = _half_waves(columns, _PLACE_CHANNELS // 4)[None].expand(rows, -1, -1)
    embeddings.position_embeddings.zero_()
    embeddings.position_embeddings[0, 1:, place:] = torch.cat((row, column), dim=-1).flatten(0, 1)
    nn.init.normal_(embeddings.cls_token, std=0.3)
    if not embeddings.scheme.frames_apart:
        embeddings.time_embeddings.zero_()
        frames = embeddings.time_embeddings.shape[1]
        angles = torch.arange(frames)[:, None] * _time_frequencies(2 * frames)
        embeddings.time_embeddings[0, :, first:place] = 1.5 * waves(angles)


def _half_waves(length: int, count: int) -> torch.Tensor:
    """Cosines and sines of 1 to `count` half waves over `length` places: (length, 2 * count)"""
    places = (torch.arange(length) + 0.5) / length * math.pi
    return waves(places[:, None] * torch.arange(1, count + 1))


def _time_frequencies(period: int) -> torch.Tensor:
    """The frequencies of the codes of time, in radians a frame: (_TIME_CHANNELS / 2,)"""
    return 2 * math.pi / period * torch.arange(1, _TIME_CHANNELS // 2 + 1)


def waves(angles: torch.Tensor) -> torch.Tensor:
    """(..., count) -> (..., 2 * count): the cosine and sine of each angle, side by side."""
    return torch.stack((angles.cos(), angles.sin()), dim=-1).flatten(-2)


def _start_attention(layer: TimesformerLayer, step, num_heads: int, content: int, period: int) -> None:
    """
    Let each head attend to the same place in one neighbouring frame. Its queries are the codes of time and place, and
    its keys are the same codes, with those of time turned back by that many frames.
    """
    attention = getattr(layer, step.attention)
    query, key, value = attention.attention.qkv.weight.unflatten(0, (3, num_heads, -1)).unbind(0)
    head_dim, width = query.shape[1:]
    places = slice(content + _TIME_CHANNELS, width)
    for head in range(num_heads):
        offset = NEIGHBOURS[head % len(NEIGHBOURS)]
        query[head] *= 0.3
        key[head] *= 0.3
        value[head] *= 0.1
        if head_dim >= _TIME_CHANNELS:
            query[head, :_TIME_CHANNELS, content : content + _TIME_CHANNELS] += _TIME_SHARPNESS * torch.eye(
                _TIME_CHANNELS
            )
            turned = _turn_back(offset * _time_frequencies(period))
            key[head, :_TIME_CHANNELS, content : content + _TIME_CHANNELS] += _TIME_SHARPNESS * turned
        if step is not TIME and head_dim >= _TIME_CHANNELS + _PLACE_CHANNELS:
            rows = slice(_TIME_CHANNELS, _TIME_CHANNELS + _PLACE_CHANNELS)
            query[head, rows, places] += _PLACE_SHARPNESS * torch.eye(_PLACE_CHANNELS)
            key[head, rows, places] += _PLACE_SHARPNESS * torch.eye(_PLACE_CHANNELS)
        strongest = min(head_dim, content)
        value[head, :strongest, :strongest] += torch.eye(strongest)
    nn.init.orthogonal_(attention.output.dense.weight)
    if step.dense is not None:
        nn.init.eye_(getattr(layer, step.dense).weight)


def _turn_back(angles: torch.Tensor) -> torch.Tensor:
    """A matrix that takes `angles` off the codes [`waves`] of angles: (count,) -> (2 * count, 2 * count)"""
    return torch.block_diag(*(torch.tensor([[c, s], [-s, c]]) for c, s in zip(angles.cos(), angles.sin(), strict=True)))
