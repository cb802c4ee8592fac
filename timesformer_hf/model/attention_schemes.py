"""
The attention schemes of the paper (Section 3, Figure 2) as a table, with the pure functions that regroup tokens.

A block takes a sequence of tokens (batch, 1 + patches * frames, dim): CLS first, then the patches of a clip with the
frame index running fastest, so that the frames of one location lie side by side. `grid` is
(frames, rows, columns) and patches = rows * columns.

An attention step regroups that sequence into (groups, length, dim), attends inside every group, and restores the
sequence. A scheme is the steps of a block in their order. To add a scheme, add a row to `ATTENTION_SCHEMES`, and a
pair of functions if it groups tokens in a new way.

Two of the schemes, `sparse_local_global` and `axial`, have no public code but this. What the paper leaves open there
was chosen so that all schemes are alike:

- The last step is the image model's own. Each step before it is an added one with a norm, an attention and a linear
  layer of its own, which starts at zero, so that training starts from the image model with its attention limited to
  the last step's groups. (This gives the paper's 121.4 and 156.8 million parameters.)
- CLS: in the last step each group gets a copy of it, and it takes the mean of their residuals, as in the published
  code of divided attention; so it sees the whole clip in every block. In an added step it is neither query nor key.
- "The neighboring F x H/2 x W/2 patches" are a block of a fixed partition, the quadrants of the frame through all
  frames, not a window that is centred on the query: the same number of keys everywhere, and plain dense attention.
- "A stride of 2 patches" starts at the query: it meets the patches at an even distance from it in time, height and
  width. So every patch meets itself, none is left out as a key, and the two steps together connect any two patches.
- Odd sizes: the first half has one row, column or frame more; a side of 1 is one part instead of two. Groups are
  padded to one length, and the padding is masked, only where they differ.
- Axial attention goes time, width, height: the order of its name, T+W+H.

`masked_attention` writes each of these steps down as a mask over all pairs of tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F


Grid = tuple[int, int, int]
_TokenMap = Callable[[torch.Tensor, Grid], torch.Tensor]


def _tokens_to_tubes(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch * patches, frames, dim): a location through time, without CLS."""
    frames = grid[0]
    return tokens[:, 1:].reshape(-1, frames, tokens.shape[-1])


def _tubes_to_tokens(tubes: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch * patches, frames, dim) -> (batch, 1 + patches * frames, dim): zero for CLS, which took no part."""
    frames, rows, columns = grid
    patch_tokens = tubes.reshape(-1, rows * columns * frames, tubes.shape[-1])
    return F.pad(patch_tokens, (0, 0, 1, 0))


def _tokens_to_frames(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch * frames, 1 + patches, dim): every frame with a copy of CLS."""
    return _add_cls_copies(patch_grid(tokens, grid).flatten(1, 2).transpose(1, 2), tokens)


def frames_to_tokens(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch * frames, 1 + patches, dim) -> (batch, 1 + patches * frames, dim): CLS is the mean of its copies."""
    cls_token, patches = _average_cls_copies(groups, grid[0])
    return torch.cat((cls_token, patches.transpose(1, 2).flatten(1, 2)), dim=1)


def _tokens_to_rows(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch * rows * frames, columns, dim), without CLS."""
    return patch_grid(tokens, grid).transpose(2, 3).flatten(0, 2)


def _rows_to_tokens(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch * rows * frames, columns, dim) -> (batch, 1 + patches * frames, dim): zero for CLS, which took no part."""
    frames, rows, _ = grid
    return _without_cls(groups.unflatten(0, (-1, rows, frames)).transpose(2, 3))


def _tokens_to_columns(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch * columns * frames, 1 + rows, dim): each with a copy of CLS."""
    return _add_cls_copies(patch_grid(tokens, grid).permute(0, 2, 3, 1, 4).flatten(1, 2), tokens)


def _columns_to_tokens(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch * columns * frames, 1 + rows, dim) -> (batch, 1 + patches * frames, dim): CLS, the mean of its copies."""
    frames, _, columns = grid
    cls_token, patches = _average_cls_copies(groups, columns * frames)
    patches = patches.unflatten(1, (columns, frames)).permute(0, 3, 1, 2, 4)
    return torch.cat((cls_token, patches.flatten(1, 3)), dim=1)


def _tokens_to_quadrants(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """
    (batch, 1 + patches * frames, dim) -> (batch * 4, rows / 2 * columns / 2 * frames, dim), without CLS: the four
    quadrants of the frame through time. Padded with zeros where they differ in size.
    """
    _, rows, columns = grid
    patches = _pad_to_halves(patch_grid(tokens, grid), (1, 2))
    patches = patches.unflatten(2, (halves(columns), half(columns))).unflatten(1, (halves(rows), half(rows)))
    return patches.transpose(2, 3).flatten(3, 5).flatten(0, 2)


def _quadrants_to_tokens(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch * 4, rows / 2 * columns / 2 * frames, dim) -> (batch, 1 + patches * frames, dim): zero for CLS."""
    frames, rows, columns = grid
    patches = groups.unflatten(1, (half(rows), half(columns), frames))
    patches = patches.unflatten(0, (-1, halves(rows), halves(columns))).transpose(2, 3)
    return _without_cls(crop(patches.flatten(3, 4).flatten(1, 2), (rows, columns)))


def _tokens_to_strides(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """
    (batch, 1 + patches * frames, dim) -> (batch * 8, 1 + rows / 2 * columns / 2 * frames / 2, dim): every second
    frame, row and column from each start, with a copy of CLS. Padded with zeros where they differ in size.
    """
    frames, rows, columns = grid
    patches = _pad_to_halves(patch_grid(tokens, grid), (1, 2, 3))
    for dimension, side in ((3, frames), (2, columns), (1, rows)):
        patches = patches.unflatten(dimension, (half(side), halves(side)))
    patches = patches.permute(0, 2, 4, 6, 1, 3, 5, 7)
    return _add_cls_copies(patches.flatten(4, 6).flatten(1, 3), tokens)


def _strides_to_tokens(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """
    (batch * 8, 1 + rows / 2 * columns / 2 * frames / 2, dim) -> (batch, 1 + patches * frames, dim): CLS is the mean
    of its copies.
    """
    frames, rows, columns = grid
    starts = (halves(rows), halves(columns), halves(frames))
    cls_token, patches = _average_cls_copies(groups, starts[0] * starts[1] * starts[2])
    if torch.compiler.is_exporting():  # there, a side of 1 has a second start, where no patch is
        cls_copies = groups.unflatten(0, (-1, *starts))[..., 0, :]
        cls_token = _average_where(cls_copies, _real_starts(grid, groups.device)).unsqueeze(1)
    patches = patches.unflatten(2, (half(rows), half(columns), half(frames))).unflatten(1, starts)
    patches = patches.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)
    return torch.cat((cls_token, crop(patches, (rows, columns, frames)).flatten(1, 3)), dim=1)


def _keep_tokens(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, length, dim) -> the same: one group that holds every token, as in an image ViT."""
    return tokens


def patch_grid(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(batch, 1 + patches * frames, dim) -> (batch, rows, columns, frames, dim), without CLS."""
    frames, rows, columns = grid
    return tokens[:, 1:].unflatten(1, (rows, columns, frames))


def _without_cls(patches: torch.Tensor) -> torch.Tensor:
    """(batch, rows, columns, frames, dim) -> (batch, 1 + patches * frames, dim), zero for CLS."""
    return F.pad(patches.flatten(1, 3), (0, 0, 1, 0))


def _add_cls_copies(groups: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(batch, groups, length, dim) -> (batch * groups, 1 + length, dim), with CLS, the first of `tokens`."""
    cls_token = tokens[:, :1].unsqueeze(1).expand(-1, groups.shape[1], -1, -1)
    return torch.cat((cls_token, groups), dim=2).flatten(0, 1)


def _average_cls_copies(groups: torch.Tensor, num_groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch * groups, 1 + length, dim) -> CLS (batch, 1, dim) and the rest (batch, groups, length, dim)"""
    groups = groups.unflatten(0, (-1, num_groups))
    return groups[:, :, 0].mean(dim=1, keepdim=True), groups[:, :, 1:]


def _real_starts(grid: Grid, device: torch.device) -> torch.Tensor:
    """(2, 2, 2), by height, width and time: whether a stride has a patch that it can start from."""
    frames, rows, columns = grid
    in_rows, in_columns, in_frames = (torch.arange(2, device=device) < side for side in (rows, columns, frames))
    return in_rows[:, None, None] & in_columns[:, None] & in_frames


def _average_where(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(batch, *sides, dim), chosen (*sides) -> (batch, dim)"""
    weights = (chosen / chosen.sum()).flatten().to(values.dtype)
    return weights @ values.flatten(1, -2)


def halves(length: int) -> int:
    """In how many parts a side of that length is halved: one patch can't be. (An exported graph pads it to two.)"""
    return 2 if torch.compiler.is_exporting() else min(length, 2)


def half(length: int) -> int:
    """The length of those parts, the longer where they differ."""
    return (length + halves(length) - 1) // halves(length)


def _pad_to_halves(patches: torch.Tensor, dimensions: tuple[int, ...]) -> torch.Tensor:
    """Zeros at the end of the `dimensions` of (batch, rows, columns, frames, dim) that have no equal halves."""
    sides = [halves(n) * half(n) if i in dimensions else n for i, n in enumerate(patches.shape)]
    if torch.compiler.is_exporting():  # whatever the size: one zero more, and then as many as it takes
        padded = F.pad(patches, [amount for i in (4, 3, 2, 1, 0) for amount in (0, int(i in dimensions))])
        return crop(padded, tuple(sides[1:4]))
    missing = [side - n for side, n in zip(sides, patches.shape, strict=True)]
    return F.pad(patches, [side for amount in reversed(missing) for side in (0, amount)])


def crop(patches: torch.Tensor, sides: tuple[int, ...]) -> torch.Tensor:
    """The first of each of the dimensions after the batch, as many as `sides` says."""
    if torch.compiler.is_exporting():  # the graph of a slice would fix whether the size is odd
        for dimension, side in enumerate(sides, start=1):
            patches = patches.index_select(dimension, torch.arange(side, device=patches.device))
        return patches
    return patches[(slice(None), *map(slice, sides))]


@dataclass(frozen=True)
class AttentionStep:
    """
    One attention of a block.

    Attributes:
        norm, attention, dense: names of its modules in a block. `dense` is a further linear layer after the output
            projection, which every step that is added to an image model carries; `None` for the image model's own.
        maps: name of its attention maps in the outputs.
        regroup: tokens -> groups (groups, length, dim).
        restore: groups -> tokens.
        halved: the dimensions of the grid that it halves; where one has no equal halves, groups are padded.
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
        (batch, 1 + patches * frames, dim) -> (groups, length), False where the groups are padded; `None` where no
        group of that grid is. An exported graph, which serves every grid, has always got one.
        """
        if not self.halved:
            return None
        if not torch.compiler.is_exporting() and all(grid[side] % halves(grid[side]) == 0 for side in self.halved):
            return None
        return self.regroup(torch.ones_like(tokens[..., :1]), grid)[..., 0] > 0


def _added_step(name: str, regroup: _TokenMap, restore: _TokenMap, halved: tuple[int, ...] = ()) -> AttentionStep:
    """A step that an image model doesn't have."""
    modules = (f"{name}_layernorm", f"{name}_attention", f"{name}_dense")
    return AttentionStep(*modules, f"{name}_attentions", regroup, restore, halved)


def _image_step(regroup: _TokenMap, restore: _TokenMap, halved: tuple[int, ...] = ()) -> AttentionStep:
    """The step that takes the place of an image model's attention."""
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
    A row of the table.

    Attributes:
        steps: attention steps of a block, in order; the image model's own is the last.
        frames_apart: every frame is a sequence of its own with its own CLS and without a time embedding; the final
            hidden states are averaged over frames.
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
ATTENTION_STEPS = tuple(dict.fromkeys(step for scheme in ATTENTION_SCHEMES.values() for step in scheme.steps))
