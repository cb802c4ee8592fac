"""
The attention schemes of the paper (Section 3, Figure 2) as a table, with the pure functions that regroup tokens.

A block takes a sequence of tokens (batch, 1 + patches * frames, dim): CLS first, then the patches of a clip with the
frame index running fastest, so that the frames of one location lie side by side. `grid` is
(frames, rows, columns) and patches = rows * columns.

An attention step regroups that sequence into (groups, length, dim), attends inside every group, and restores the
sequence. A scheme is the steps of a block in their order. To add a scheme, add a row to `ATTENTION_SCHEMES`, and a
pair of functions if it groups tokens in a new way.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F


Grid = tuple[int, int, int]
TokenMap = Callable[[torch.Tensor, Grid], torch.Tensor]


def tokens_to_tubes(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch * patches, frames, dim): a location through time, without CLS."""
    frames = grid[0]
    return tokens[:, 1:].reshape(-1, frames, tokens.shape[-1])


def tubes_to_tokens(tubes: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch * patches, frames, dim) -> (batch, 1 + patches * frames, dim): zero for CLS, which took no part."""
    frames, rows, columns = grid
    patch_tokens = tubes.reshape(-1, rows * columns * frames, tubes.shape[-1])
    return F.pad(patch_tokens, (0, 0, 1, 0))


def tokens_to_frames(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch * frames, 1 + patches, dim): every frame with a copy of CLS."""
    frames, rows, columns = grid
    batch, _, dim = tokens.shape
    cls_token = tokens[:, :1].unsqueeze(1).expand(-1, frames, -1, -1)
    patch_tokens = tokens[:, 1:].reshape(batch, rows * columns, frames, dim).transpose(1, 2)
    return torch.cat((cls_token, patch_tokens), dim=2).flatten(0, 1)


def frames_to_tokens(frame_tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch * frames, 1 + patches, dim) -> (batch, 1 + patches * frames, dim): CLS is the mean of its copies."""
    frames = grid[0]
    frame_tokens = frame_tokens.reshape(-1, frames, *frame_tokens.shape[1:])
    cls_token = frame_tokens[:, :, 0].mean(dim=1, keepdim=True)
    patch_tokens = frame_tokens[:, :, 1:].transpose(1, 2).flatten(1, 2)
    return torch.cat((cls_token, patch_tokens), dim=1)


def keep_tokens(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, length, dim) -> the same: one group that holds every token, as in an image ViT."""
    return tokens


@dataclass(frozen=True)
class AttentionStep:
    """
    One attention of a block.

    Attributes:
        norm, attention, dense: names of its modules in a block. `dense` is a further linear layer after the output
            projection, which every step that is added to an image model carries; `None` for the image model's own.
        regroup: tokens -> groups (groups, length, dim).
        restore: groups -> tokens.
    """

    norm: str
    attention: str
    dense: str | None
    regroup: TokenMap
    restore: TokenMap


TIME = AttentionStep(
    "temporal_layernorm", "temporal_attention", "temporal_dense", regroup=tokens_to_tubes, restore=tubes_to_tokens
)
SPACE = AttentionStep("layernorm_before", "attention", None, regroup=tokens_to_frames, restore=frames_to_tokens)
ALL_TOKENS = AttentionStep("layernorm_before", "attention", None, regroup=keep_tokens, restore=keep_tokens)


@dataclass(frozen=True)
class AttentionScheme:
    """
    A row of the table.

    Attributes:
        steps: attention steps of a block, in order.
        frames_apart: every frame is a sequence of its own with its own CLS and without a time embedding; the final
            hidden states are averaged over frames.
    """

    steps: tuple[AttentionStep, ...]
    frames_apart: bool = False


ATTENTION_SCHEMES = {
    "divided_space_time": AttentionScheme(steps=(TIME, SPACE)),
    "joint_space_time": AttentionScheme(steps=(ALL_TOKENS,)),
    "space_only": AttentionScheme(steps=(ALL_TOKENS,), frames_apart=True),
}
