"""What the models return, and what a feature of a clip is made of: pure arithmetic on the model's normalised tokens."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput

from .attention_schemes import Grid, patch_grid


@dataclass
class TimesformerModelOutput(BaseModelOutput):
    """
    Output of [`TimesformerModel`].

    Attributes:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, 1 + patches * frames, hidden_size)`):
            Normalised tokens: CLS, then the patches with the frame index running fastest. With `space_only`
            `(batch, 1 + patches, hidden_size)`, the mean over frames.
        hidden_states (tuple of `num_hidden_layers + 1` tensors, with `output_hidden_states=True`):
            Input of the first block and output of each, before the final norm. With `space_only`
            `(batch * frames, 1 + patches, hidden_size)`.
        attentions (tuple of `num_hidden_layers` tensors, with `output_attentions=True`):
            Probabilities of the last step of a block, `(groups, heads, length, length)`: of the space attention,
            `(batch * frames, heads, 1 + patches, 1 + patches)`; of the joint attention, `(batch, heads, 1 + patches *
            frames, 1 + patches * frames)`; of the height attention of `axial`, `(batch * columns * frames, heads, 1 +
            rows, 1 + rows)`; of the global attention of `sparse_local_global`, with a group for each start of the
            stride in height, width and time, `(batch * 8, heads, 1 + patches / 4 * frames / 2, same)`.
        temporal_attentions, local_attentions, width_attentions (same):
            Probabilities of a further step; `None` where the scheme has no such step. Time: `(batch * patches, heads,
            frames, frames)`. Local: the quadrants of the frames, `(batch * 4, heads, patches / 4 * frames, same)`.
            Width: `(batch * rows * frames, heads, columns, columns)`.
    """

    temporal_attentions: tuple[torch.FloatTensor, ...] | None = None
    local_attentions: tuple[torch.FloatTensor, ...] | None = None
    width_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class TimesformerClassifierOutput(ImageClassifierOutput):
    """
    Output of [`TimesformerForVideoClassification`]: `loss`, `logits` (batch, num_labels), and hidden states and
    attention maps as in [`TimesformerModelOutput`].
    """

    temporal_attentions: tuple[torch.FloatTensor, ...] | None = None
    local_attentions: tuple[torch.FloatTensor, ...] | None = None
    width_attentions: tuple[torch.FloatTensor, ...] | None = None


def _cls_feature(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch, dim)"""
    return tokens[:, 0]


def _frame_features(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch, frames, dim): the mean of a frame's patches, without CLS."""
    return patch_grid(tokens, grid).mean(dim=(1, 2))


def _patch_features(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch, frames, rows, columns, dim), without CLS."""
    return patch_grid(tokens, grid).permute(0, 3, 1, 2, 4)


FEATURE_LEVELS = {"clip": _cls_feature, "frame": _frame_features, "patch": _patch_features}


def check_level(level: str) -> None:
    """
    Raises:
        ValueError: for a level that there isn't; the message lists those there are.
    """
    if level not in FEATURE_LEVELS:
        raise ValueError(f"level={level!r} must be one of {', '.join(map(repr, FEATURE_LEVELS))}")
