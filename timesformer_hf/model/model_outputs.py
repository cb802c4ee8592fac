"""The outputs of the models, and the features of a clip: pure arithmetic on the normalised tokens."""

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
            Normalised tokens: CLS, then the patches with the frame index running fastest. With `space_only` they are
            the mean over frames, `(batch, 1 + patches, hidden_size)`.
        hidden_states (tuple of `num_hidden_layers + 1` tensors, with `output_hidden_states=True`):
            Input of the first block, and output of each block before the final norm. With `space_only` they are
            `(batch * frames, 1 + patches, hidden_size)`.
        attentions (tuple of `num_hidden_layers` tensors, with `output_attentions=True`):
            Attention probabilities in the last step of each block, `(groups, heads, length, length)`. The scheme
            decides groups and length:

            - `divided_space_time` (space attention) and `space_only`: `batch * frames`, `1 + patches`
            - `joint_space_time`: `batch`, `1 + patches * frames`
            - `axial` (height attention): `batch * columns * frames`, `1 + rows`
            - `sparse_local_global` (global attention): `batch * 8`, `1 + patches / 4 * frames / 2`. There is a group
              for each start of the stride in height, width and time.
        temporal_attentions (same):
            Attention probabilities in the time step, `(batch * patches, heads, frames, frames)`. `None` if the scheme
            has no such step, as for the next two.
        local_attentions (same):
            Attention probabilities in the local step, `(batch * 4, heads, length, length)` with a length of
            `patches / 4 * frames`. The groups are the quadrants of the frames.
        width_attentions (same):
            Attention probabilities in the width step, `(batch * rows * frames, heads, columns, columns)`.
    """

    temporal_attentions: tuple[torch.FloatTensor, ...] | None = None
    local_attentions: tuple[torch.FloatTensor, ...] | None = None
    width_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class TimesformerClassifierOutput(ImageClassifierOutput):
    """
    Output of [`TimesformerForVideoClassification`].

    It has the `loss`, `logits` (batch, num_labels), and hidden states and attention maps as in
    [`TimesformerModelOutput`].
    """

    temporal_attentions: tuple[torch.FloatTensor, ...] | None = None
    local_attentions: tuple[torch.FloatTensor, ...] | None = None
    width_attentions: tuple[torch.FloatTensor, ...] | None = None


def _cls_feature(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return CLS: (batch, 1 + patches * frames, dim) -> (batch, dim)."""
    return tokens[:, 0]


def _frame_features(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Average the patches of each frame, without CLS: (batch, 1 + patches * frames, dim) -> (batch, frames, dim)."""
    return patch_grid(tokens, grid).mean(dim=(1, 2))


def _patch_features(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return the patches without CLS: (batch, 1 + patches * frames, dim) -> (batch, frames, rows, columns, dim)."""
    return patch_grid(tokens, grid).permute(0, 3, 1, 2, 4)


FEATURE_LEVELS = {"clip": _cls_feature, "frame": _frame_features, "patch": _patch_features}


def check_level(level: str) -> None:
    """
    Check that `level` is a level of features.

    Raises:
        ValueError: if it is not. The message lists the levels.
    """
    if level not in FEATURE_LEVELS:
        raise ValueError(f"level={level!r} must be one of {', '.join(map(repr, FEATURE_LEVELS))}")
