"""
Every attention step as the paper's words define it: dense attention over all tokens, with a mask of the allowed pairs.

This is slow, and its memory grows with the square of the number of tokens. It is the slow twin of `attention_schemes`,
which regroups tokens instead; the tests check that both give the same result. A patch is (row, column, frame).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .attention_schemes import ALL_TOKENS, GLOBAL, HEIGHT, LOCAL, SPACE, TIME, WIDTH, AttentionStep, Grid


def _in_first_half(index: torch.Tensor, length: int) -> torch.Tensor:
    return 2 * index < length


@dataclass(frozen=True)
class _AttentionPattern:
    """
    Which patches attend to which in an attention step.

    Attributes:
        attends: function (query, key, (rows, columns, frames)) that returns whether the query attends to the key. Query
            and key are three tensors each: rows, columns and frames.
        cls_takes_part: whether CLS is a query and a key too.
    """

    attends: Callable[[tuple, tuple, tuple], torch.Tensor]
    cls_takes_part: bool


def _attends_to_all(query, key, sizes) -> torch.Tensor:
    """Attend to every patch of the clip (joint space-time attention)."""
    return torch.ones_like(query[0] == key[0])


def _attends_in_time(query, key, sizes) -> torch.Tensor:
    """Attend to the same location in every frame (paper, equation 11)."""
    return (query[0] == key[0]) & (query[1] == key[1])


def _attends_in_space(query, key, sizes) -> torch.Tensor:
    """Attend to every location of the same frame (paper, equation 6)."""
    return query[2] == key[2]


def _attends_in_width(query, key, sizes) -> torch.Tensor:
    """Attend to the same row of the same frame."""
    return (query[0] == key[0]) & (query[2] == key[2])


def _attends_in_height(query, key, sizes) -> torch.Tensor:
    """Attend to the same column of the same frame."""
    return (query[1] == key[1]) & (query[2] == key[2])


def _attends_locally(query, key, sizes) -> torch.Tensor:
    """Attend to the neighbouring F x H/2 x W/2 patches: the same quadrant, in every frame."""
    rows, columns, _ = sizes
    same_row_half = _in_first_half(query[0], rows) == _in_first_half(key[0], rows)
    return same_row_half & (_in_first_half(query[1], columns) == _in_first_half(key[1], columns))


def _attends_globally(query, key, sizes) -> torch.Tensor:
    """Attend with a stride of 2 patches in time, height and width, starting at the query."""
    return torch.stack([(one - other) % 2 == 0 for one, other in zip(query, key, strict=True)]).all(dim=0)


ATTENTION_PATTERNS = {
    ALL_TOKENS: _AttentionPattern(_attends_to_all, cls_takes_part=True),
    TIME: _AttentionPattern(_attends_in_time, cls_takes_part=False),
    SPACE: _AttentionPattern(_attends_in_space, cls_takes_part=True),
    WIDTH: _AttentionPattern(_attends_in_width, cls_takes_part=False),
    HEIGHT: _AttentionPattern(_attends_in_height, cls_takes_part=True),
    LOCAL: _AttentionPattern(_attends_locally, cls_takes_part=False),
    GLOBAL: _AttentionPattern(_attends_globally, cls_takes_part=True),
}


def pattern_mask(step: AttentionStep, grid: Grid) -> torch.Tensor:
    """
    Return a mask (patches * frames, patches * frames) that is True if the query (row) attends to the key (column).

    Rows and columns are in the order of the tokens, without CLS.
    """
    frames, rows, columns = grid
    sizes = (rows, columns, frames)
    place = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, 3)
    query = tuple(coordinate[:, None] for coordinate in place.T)
    key = tuple(coordinate[None, :] for coordinate in place.T)
    return ATTENTION_PATTERNS[step].attends(query, key, sizes)


def masked_attend(layer: nn.Module, step: AttentionStep, hidden_states: torch.Tensor, grid: Grid) -> torch.Tensor:
    """
    Return the residual of one attention step of a block in evaluation mode.

    [`TimesformerLayer.attend`] computes the same by groups.

    Args:
        layer: the block whose weights are used.
        hidden_states: (batch, 1 + patches * frames, hidden_size). The result has the same shape.
    """
    attention = getattr(layer, step.attention)
    head_dim = attention.attention.head_dim
    qkv = attention.attention.qkv(getattr(layer, step.norm)(hidden_states))
    query, key, value = (part.unflatten(-1, (-1, head_dim)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))

    def attend(query: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Attend where a mask allows: (batch, heads, queries, head_dim), (queries, keys) -> (batch, queries, dim)."""
        scores = query @ key.transpose(2, 3) / head_dim**0.5
        context = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1) @ value
        residual = attention.output(context.transpose(1, 2).flatten(2))
        return residual if step.dense is None else getattr(layer, step.dense)(residual)

    mask = pattern_mask(step, grid).to(hidden_states.device)
    if not ATTENTION_PATTERNS[step].cls_takes_part:
        patches = attend(query[:, :, 1:], F.pad(mask, (1, 0), value=False))
        return torch.cat((torch.zeros_like(patches[:, :1]), patches), dim=1)
    patches = attend(query[:, :, 1:], F.pad(mask, (1, 0), value=True))
    # In each group, CLS attends to itself and to the patches of that group.
    groups = F.pad(mask.unique(dim=0), (1, 0), value=True)
    cls_token = attend(query[:, :, :1].expand(-1, -1, len(groups), -1), groups).mean(dim=1, keepdim=True)
    return torch.cat((cls_token, patches), dim=1)
