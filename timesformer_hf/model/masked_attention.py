"""
Every attention step as the paper's words define it: dense attention over all tokens, with a mask of who meets whom.

Slow, and in memory the square of the clip: the twin that `attention_schemes`, which regroups tokens instead, is tested
against. A patch is (row, column, frame).
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
class _Meeting:
    """
    Which patches an attention lets meet.

    Attributes:
        meets: (query, key, (rows, columns, frames)) -> whether they do. A query and a key are three tensors: rows,
            columns and frames.
        cls_takes_part: whether CLS is a query and a key too.
    """

    meets: Callable[[tuple, tuple, tuple], torch.Tensor]
    cls_takes_part: bool


def _meets_always(query, key, sizes) -> torch.Tensor:
    """Joint space-time attention: every patch of the clip."""
    return torch.ones_like(query[0] == key[0])


def _meets_in_time(query, key, sizes) -> torch.Tensor:
    """The same place in every frame (paper, equation 8)."""
    return (query[0] == key[0]) & (query[1] == key[1])


def _meets_in_space(query, key, sizes) -> torch.Tensor:
    """Every place of the same frame (paper, equation 7)."""
    return query[2] == key[2]


def _meets_in_width(query, key, sizes) -> torch.Tensor:
    """The same row of the same frame."""
    return (query[0] == key[0]) & (query[2] == key[2])


def _meets_in_height(query, key, sizes) -> torch.Tensor:
    """The same column of the same frame."""
    return (query[1] == key[1]) & (query[2] == key[2])


def _meets_locally(query, key, sizes) -> torch.Tensor:
    """The neighbouring F x H/2 x W/2 patches: the same quadrant, in every frame."""
    rows, columns, _ = sizes
    same_row_half = _in_first_half(query[0], rows) == _in_first_half(key[0], rows)
    return same_row_half & (_in_first_half(query[1], columns) == _in_first_half(key[1], columns))


def _meets_globally(query, key, sizes) -> torch.Tensor:
    """A stride of 2 patches along time and both dimensions of space, from the query on."""
    return torch.stack([(one - other) % 2 == 0 for one, other in zip(query, key, strict=True)]).all(dim=0)


MEETINGS = {
    ALL_TOKENS: _Meeting(_meets_always, cls_takes_part=True),
    TIME: _Meeting(_meets_in_time, cls_takes_part=False),
    SPACE: _Meeting(_meets_in_space, cls_takes_part=True),
    WIDTH: _Meeting(_meets_in_width, cls_takes_part=False),
    HEIGHT: _Meeting(_meets_in_height, cls_takes_part=True),
    LOCAL: _Meeting(_meets_locally, cls_takes_part=False),
    GLOBAL: _Meeting(_meets_globally, cls_takes_part=True),
}


def meeting_mask(step: AttentionStep, grid: Grid) -> torch.Tensor:
    """(patches * frames, patches * frames) in the order of tokens: True where a query (row) meets a key (column)."""
    frames, rows, columns = grid
    sizes = (rows, columns, frames)
    place = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, 3)
    query = tuple(coordinate[:, None] for coordinate in place.T)
    key = tuple(coordinate[None, :] for coordinate in place.T)
    return MEETINGS[step].meets(query, key, sizes)


def masked_attend(layer: nn.Module, step: AttentionStep, hidden_states: torch.Tensor, grid: Grid) -> torch.Tensor:
    """
    The residual of one step of a block in evaluation mode, as [`TimesformerLayer.attend`] computes it by groups.

    Args:
        layer: the block, whose weights are used.
        hidden_states: (batch, 1 + patches * frames, hidden_size), and the same is returned.
    """
    attention = getattr(layer, step.attention)
    head_dim = attention.attention.head_dim
    qkv = attention.attention.qkv(getattr(layer, step.norm)(hidden_states))
    query, key, value = (part.unflatten(-1, (-1, head_dim)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))

    def attend(query: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """(batch, heads, queries, head_dim), mask (queries, keys) -> (batch, queries, hidden_size)"""
        scores = query @ key.transpose(2, 3) / head_dim**0.5
        context = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1) @ value
        residual = attention.output(context.transpose(1, 2).flatten(2))
        return residual if step.dense is None else getattr(layer, step.dense)(residual)

    mask = meeting_mask(step, grid).to(hidden_states.device)
    if not MEETINGS[step].cls_takes_part:
        patches = attend(query[:, :, 1:], F.pad(mask, (1, 0), value=False))
        return torch.cat((torch.zeros_like(patches[:, :1]), patches), dim=1)
    patches = attend(query[:, :, 1:], F.pad(mask, (1, 0), value=True))
    groups = F.pad(mask.unique(dim=0), (1, 0), value=True)  # CLS meets itself and one set of patches after the other
    cls_token = attend(query[:, :, :1].expand(-1, -1, len(groups), -1), groups).mean(dim=1, keepdim=True)
    return torch.cat((cls_token, patches), dim=1)
