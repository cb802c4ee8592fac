"""
The attention schemes of the paper (Section 3, Figure 2) as a table, with the pure functions that regroup tokens.

A block takes a sequence of tokens (batch, 1 + patches * frames, dim): CLS first, then the patches of a clip with the
frame index running fastest, so that the frames of one location lie side by side. Below, `tokens` is such a sequence,
`grid` is (frames, rows, columns), and patches = rows * columns.

An attention step regroups the sequence into (groups, length, dim), attends inside every group, and restores the
sequence. A scheme is the list of the steps of a block. To add a scheme, add a row to `ATTENTION_SCHEMES`, and a pair of
functions if it groups tokens in a new way.

No other public code exists for two of the schemes, `sparse_local_global` and `axial`. The paper leaves some choices
open there. They were made so that all schemes are alike:

- The last step is the attention of the image model. Each step before it is added, with its own norm, attention and
  linear layer. That linear layer starts at zero, so training starts from the image model with its attention limited to
  the groups of the last step. (This gives the paper's 121.4 and 156.8 million parameters.)
- CLS: in the last step each group gets a copy of CLS, and CLS takes the mean of the residuals of its copies, as in the
  published code of divided attention. So CLS sees the whole clip in every block. In an added step it is neither query
  nor key.
- "The neighboring F x H/2 x W/2 patches" are the quadrant of the frame that contains the query, through all frames.
  They are not a window centred on the query. So every query has the same number of keys, and dense attention is enough.
- "A stride of 2 patches" starts at the query. The query attends to the patches at an even distance from it in time,
  height and width. So every patch attends to itself, every patch is a key, and the two steps together connect any two
  patches.
- Odd sizes: the first half has one row, column or frame more. A side of 1 is one part instead of two. If groups differ
  in length, they are padded to one length and the padding is masked.
- Axial attention goes in the order of its name, T+W+H: time, width, height.

`masked_attention` defines each of these steps as a mask over all pairs of tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F


Grid = tuple[int, int, int]
_TokenMap = Callable[[torch.Tensor, Grid], torch.Tensor]


def _tokens_to_tubes(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Group tokens by location, without CLS: returns (batch * patches, frames, dim)."""
    frames = grid[0]
    return tokens[:, 1:].reshape(-1, frames, tokens.shape[-1])


def _tubes_to_tokens(tubes: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Restore tokens from (batch * patches, frames, dim), with zeros for CLS, which took no part."""
    frames, rows, columns = grid
    patch_tokens = tubes.reshape(-1, rows * columns * frames, tubes.shape[-1])
    return F.pad(patch_tokens, (0, 0, 1, 0))


def _tokens_to_frames(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Group tokens by frame, each with a copy of CLS: returns (batch * frames, 1 + patches, dim)."""
    return _add_cls_copies(patch_grid(tokens, grid).flatten(1, 2).transpose(1, 2), tokens)


def frames_to_tokens(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Restore tokens from (batch * frames, 1 + patches, dim). CLS is the mean of its copies."""
    cls_token, patches = _average_cls_copies(groups, grid[0])
    return torch.cat((cls_token, patches.transpose(1, 2).flatten(1, 2)), dim=1)


def _tokens_to_rows(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Group tokens by row of a frame, without CLS: returns (batch * rows * frames, columns, dim)."""
    return patch_grid(tokens, grid).transpose(2, 3).flatten(0, 2)


def _rows_to_tokens(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Restore tokens from (batch * rows * frames, columns, dim), with zeros for CLS, which took no part."""
    frames, rows, _ = grid
    return _with_zero_cls(groups.unflatten(0, (-1, rows, frames)).transpose(2, 3))


def _tokens_to_columns(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Group tokens by column of a frame, each with a copy of CLS: returns (batch * columns * frames, 1 + rows, dim)."""
    return _add_cls_copies(patch_grid(tokens, grid).permute(0, 2, 3, 1, 4).flatten(1, 2), tokens)


def _columns_to_tokens(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Restore tokens from (batch * columns * frames, 1 + rows, dim). CLS is the mean of its copies."""
    frames, _, columns = grid
    cls_token, patches = _average_cls_copies(groups, columns * frames)
    patches = patches.unflatten(1, (columns, frames)).permute(0, 3, 1, 2, 4)
    return torch.cat((cls_token, patches.flatten(1, 3)), dim=1)


def _tokens_to_quadrants(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """
    Group tokens by quadrant of the frame, through all frames, without CLS.

    Returns (batch * 4, rows / 2 * columns / 2 * frames, dim). If the quadrants differ in size, the smaller ones are
    padded with zeros.
    """
    _, rows, columns = grid
    patches = _pad_to_halves(patch_grid(tokens, grid), (1, 2))
    patches = patches.unflatten(2, (_num_halves(columns), _half_length(columns)))
    patches = patches.unflatten(1, (_num_halves(rows), _half_length(rows)))
    return patches.transpose(2, 3).flatten(3, 5).flatten(0, 2)


def _quadrants_to_tokens(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Restore tokens from (batch * 4, rows / 2 * columns / 2 * frames, dim), with zeros for CLS."""
    frames, rows, columns = grid
    patches = groups.unflatten(1, (_half_length(rows), _half_length(columns), frames))
    patches = patches.unflatten(0, (-1, _num_halves(rows), _num_halves(columns))).transpose(2, 3)
    return _with_zero_cls(crop(patches.flatten(3, 4).flatten(1, 2), (rows, columns)))


def _tokens_to_strides(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """
    Group every second frame, row and column, from each of the 8 possible starts, with a copy of CLS.

    Returns (batch * 8, 1 + rows / 2 * columns / 2 * frames / 2, dim). If the groups differ in size, the smaller ones
    are padded with zeros.
    """
    frames, rows, columns = grid
    patches = _pad_to_halves(patch_grid(tokens, grid), (1, 2, 3))
    for dimension, side in ((3, frames), (2, columns), (1, rows)):
        patches = patches.unflatten(dimension, (_half_length(side), _num_halves(side)))
    patches = patches.permute(0, 2, 4, 6, 1, 3, 5, 7)
    return _add_cls_copies(patches.flatten(4, 6).flatten(1, 3), tokens)


def _strides_to_tokens(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Restore tokens from (batch * 8, 1 + rows / 2 * columns / 2 * frames / 2, dim). CLS is the mean of its copies."""
    frames, rows, columns = grid
    starts = (_num_halves(rows), _num_halves(columns), _num_halves(frames))
    cls_token, patches = _average_cls_copies(groups, starts[0] * starts[1] * starts[2])
    if torch.compiler.is_exporting():  # there, a side of 1 gets a second start without a patch
        cls_copies = groups.unflatten(0, (-1, *starts))[..., 0, :]
        cls_token = _average_where(cls_copies, _real_starts(grid, groups.device)).unsqueeze(1)
    halves = (_half_length(rows), _half_length(columns), _half_length(frames))
    patches = patches.unflatten(2, halves).unflatten(1, starts)
    patches = patches.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)
    return torch.cat((cls_token, crop(patches, (rows, columns, frames)).flatten(1, 3)), dim=1)


def _keep_tokens(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return `tokens` unchanged: one group contains every token, as in an image ViT."""
    return tokens


def patch_grid(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return the patches of `tokens`, without CLS, as (batch, rows, columns, frames, dim)."""
    frames, rows, columns = grid
    return tokens[:, 1:].unflatten(1, (rows, columns, frames))


def _with_zero_cls(patches: torch.Tensor) -> torch.Tensor:
    """Make tokens from patches (batch, rows, columns, frames, dim), with zeros for CLS."""
    return F.pad(patches.flatten(1, 3), (0, 0, 1, 0))


def _add_cls_copies(groups: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Put a copy of CLS before each group: (batch, groups, length, dim) -> (batch * groups, 1 + length, dim)."""
    cls_token = tokens[:, :1].unsqueeze(1).expand(-1, groups.shape[1], -1, -1)
    return torch.cat((cls_token, groups), dim=2).flatten(0, 1)


def _average_cls_copies(groups: torch.Tensor, num_groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split (batch * groups, 1 + length, dim) into the mean CLS (batch, 1, dim) and (batch, groups, length, dim)."""
    groups = groups.unflatten(0, (-1, num_groups))
    return groups[:, :, 0].mean(dim=1, keepdim=True), groups[:, :, 1:]


def _real_starts(grid: Grid, device: torch.device) -> torch.Tensor:
    """Return which of the 8 starts of a stride have a patch: (2, 2, 2), by height, width and time."""
    frames, rows, columns = grid
    in_rows, in_columns, in_frames = (torch.arange(2, device=device) < side for side in (rows, columns, frames))
    return in_rows[:, None, None] & in_columns[:, None] & in_frames


def _average_where(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Average the values (batch, *sides, dim) where `chosen` (*sides) is True: returns (batch, dim)."""
    weights = (chosen / chosen.sum()).flatten().to(values.dtype)
    return weights @ values.flatten(1, -2)


def _num_halves(length: int) -> int:
    """Return in how many parts a side is halved: two, or one for a single patch. Exported graphs pad it to two."""
    return 2 if torch.compiler.is_exporting() else min(length, 2)


def _half_length(length: int) -> int:
    """Return the length of the halves of a side, of the longer one if they differ."""
    return (length + _num_halves(length) - 1) // _num_halves(length)


def _pad_to_halves(patches: torch.Tensor, dimensions: tuple[int, ...]) -> torch.Tensor:
    """Pad those `dimensions` of (batch, rows, columns, frames, dim) with zeros that have no equal halves."""
    sides = [_num_halves(n) * _half_length(n) if i in dimensions else n for i, n in enumerate(patches.shape)]
    if torch.compiler.is_exporting():  # the same operations for every size: add one zero, then crop
        padded = F.pad(patches, [amount for i in (4, 3, 2, 1, 0) for amount in (0, int(i in dimensions))])
        return crop(padded, tuple(sides[1:4]))
    missing = [side - n for side, n in zip(sides, patches.shape, strict=True)]
    return F.pad(patches, [side for amount in reversed(missing) for side in (0, amount)])


def crop(patches: torch.Tensor, sides: tuple[int, ...]) -> torch.Tensor:
    """Keep the first entries of the dimensions after the batch, as many in each as `sides` says."""
    if torch.compiler.is_exporting():  # a slice would fix in the graph whether the size is odd
        for dimension, side in enumerate(sides, start=1):
            patches = patches.index_select(dimension, torch.arange(side, device=patches.device))
        return patches
    return patches[(slice(None), *map(slice, sides))]


@dataclass(frozen=True)
class AttentionStep:
    """
    One attention step of a block.

    Attributes:
        norm, attention, dense: names of the step's modules in a block. `dense` is a second linear layer after the
            output projection. Every added step has it; it is `None` in the image model's own step.
        maps: name of the step's attention maps in the outputs.
        regroup: function from tokens to groups (groups, length, dim).
        restore: function from groups to tokens.
        halved: dimensions of the grid that the step halves. If one of them has no equal halves, groups are padded.
    """

    norm: str
    attention: str
    dense: str | None
    maps: str
    regroup: _TokenMap
    restore: _TokenMap
    halved: tuple[int, ...] = ()

    def real_tokens(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor | None:
        """
        Return which tokens of the groups are real: (groups, length), False for padding. `None` means no padding.

        An exported graph serves every grid. So there a step that halves never returns `None`.
        """
        if not self.halved:
            return None
        if not torch.compiler.is_exporting() and all(grid[side] % _num_halves(grid[side]) == 0 for side in self.halved):
            return None
        return self.regroup(torch.ones_like(tokens[..., :1]), grid)[..., 0] > 0


def _added_step(name: str, regroup: _TokenMap, restore: _TokenMap, halved: tuple[int, ...] = ()) -> AttentionStep:
    """Return a step that an image model doesn't have."""
    modules = (f"{name}_layernorm", f"{name}_attention", f"{name}_dense")
    return AttentionStep(*modules, f"{name}_attentions", regroup, restore, halved)


def _image_step(regroup: _TokenMap, restore: _TokenMap, halved: tuple[int, ...] = ()) -> AttentionStep:
    """Return a step that takes the place of the image model's attention."""
    return AttentionStep("layernorm_before", "attention", None, "attentions", regroup, restore, halved)


TIME = _added_step("temporal", _tokens_to_tubes, _tubes_to_tokens)
WIDTH = _added_step("width", _tokens_to_rows, _rows_to_tokens)
LOCAL = _added_step("local", _tokens_to_quadrants, _quadrants_to_tokens, halved=(1, 2))
ALL_TOKENS = _image_step(_keep_tokens, _keep_tokens)
SPACE = _image_step(_tokens_to_frames, frames_to_tokens)
HEIGHT = _image_step(_tokens_to_columns, _columns_to_tokens)
GLOBAL = _image_step(_tokens_to_strides, _strides_to_tokens, halved=(0, 1, 2))


@dataclass(frozen=True)
class AttentionScheme:
    """
    An attention scheme: a row of the table below.

    Attributes:
        steps: attention steps of a block, in order. The last is the image model's own.
        frames_apart: whether every frame is a separate sequence, with its own CLS and without a time embedding. The
            final hidden states are then averaged over frames.
    """

    steps: tuple[AttentionStep, ...]
    frames_apart: bool = False


ATTENTION_SCHEMES = {
    "divided_space_time": AttentionScheme(steps=(TIME, SPACE)),
    "joint_space_time": AttentionScheme(steps=(ALL_TOKENS,)),
    "space_only": AttentionScheme(steps=(ALL_TOKENS,), frames_apart=True),
    "sparse_local_global": AttentionScheme(steps=(LOCAL, GLOBAL)),
    "axial": AttentionScheme(steps=(TIME, WIDTH, HEIGHT)),
}
"""The attention schemes by name: the values that `attention_type` of a config can have."""

ATTENTION_STEPS = tuple(dict.fromkeys(step for scheme in ATTENTION_SCHEMES.values() for step in scheme.steps))
