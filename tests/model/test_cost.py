"""What the schemes cost: the numbers of the paper, and formulas written down by hand."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from timesformer_hf import TimesformerConfig
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES
from timesformer_hf.model.cost import (
    PAPER_VARIANTS,
    count_multiply_accumulates,
    count_parameters,
    model_cost,
    scheme_cost,
)


SCHEMES = list(ATTENTION_SCHEMES)


SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


def by_hand(scheme: str, frames: int, rows: int, columns: int, dim: int, mlp: int, layers: int) -> int:
    """
    Multiply-accumulates of the blocks. Of an attention over `queries` tokens that meet `keys` each: q, k, v and the
    output projection, 4 dim^2 a token, and scores and context, 2 dim a pair. An added step has one more layer, dim^2.
    """

    def attention(queries: int, keys: int, matrices: int) -> int:
        return queries * (matrices * dim**2 + 2 * dim * keys)

    patches = rows * columns
    tokens = 1 + frames * patches
    time = attention(frames * patches, frames, 5)
    steps = {
        "divided_space_time": time + attention(frames * (1 + patches), 1 + patches, 4),
        "joint_space_time": attention(tokens, tokens, 4),
        "space_only": attention(frames * (1 + patches), 1 + patches, 4),
        "sparse_local_global": attention(frames * patches, frames * patches // 4, 5)
        + attention(8 + frames * patches, 1 + frames * patches // 8, 4),
        "axial": time + attention(frames * patches, columns, 5) + attention(frames * columns * (1 + rows), 1 + rows, 4),
    }
    mlp_tokens = frames * (1 + patches) if scheme == "space_only" else tokens
    return layers * (steps[scheme] + mlp_tokens * 2 * dim * mlp)


def patches_and_head(frames: int, rows: int, columns: int, dim: int, patch: int, labels: int) -> int:
    return frames * rows * columns * dim * 3 * patch**2 + dim * labels


@pytest.mark.parametrize("frames", [8, 96])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_multiply_accumulates_by_hand(scheme, frames):
    """At even sizes, where no group is padded."""
    grid = (frames, 14, 14)
    expected = by_hand(scheme, *grid, 768, 3072, 12) + patches_and_head(*grid, 768, 16, 400)
    assert scheme_cost(scheme, frames, 224).multiply_accumulates == expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_multiply_accumulates_of_another_size_by_hand(scheme):
    """Rectangular, of an odd number of columns where the scheme halves none; not the size that the config has."""
    grid = (6, 4, 10 if scheme == "sparse_local_global" else 9)
    config = TimesformerConfig(attention_type=scheme, num_labels=5, **SMALL)
    counted = count_multiply_accumulates(config, grid[0], (grid[1] * 16, grid[2] * 16))
    assert counted == by_hand(scheme, *grid, 48, 96, 2) + patches_and_head(*grid, 48, 16, 5)


def test_multiply_accumulates_count_padding():
    """3 frames of 3 x 5 patches: the groups are as long as those of 4 frames of 4 x 6 are."""
    config = TimesformerConfig(attention_type="sparse_local_global", patch_size=8, image_size=32, **SMALL)
    padded = count_multiply_accumulates(config, 3, (24, 40))
    local, strided = 4 * (2 * 3 * 3), 8 * (1 + 2 * 3 * 2)  # tokens in quadrants of 2 x 3, in strides
    steps = local * (5 * 48**2 + 2 * 48 * 18) + strided * (4 * 48**2 + 2 * 48 * 13)
    assert padded == 2 * (steps + (1 + 45) * 2 * 48 * 96) + patches_and_head(3, 3, 5, 48, 8, 2)


@pytest.mark.parametrize(("variant", "expected"), [("base", 0.587), ("HR", 5.108), ("L", 7.140)])
def test_multiply_accumulates_of_the_paper(variant, expected):
    """Paper, table 3: 0.59, 5.11 and 7.14 "TFLOPs"."""
    assert round(scheme_cost("divided_space_time", *PAPER_VARIANTS[variant]).tera_over_crops, 3) == expected


@pytest.mark.parametrize(
    ("scheme", "num_labels", "size", "expected"),
    [
        ("divided_space_time", 174, (8, 224), 121_392_558),
        ("sparse_local_global", 174, (8, 224), 121_392_558),
        ("axial", 174, (8, 224), 156_846_510),
        ("space_only", 400, (8, 224), 86_106_256),
        ("joint_space_time", 400, (8, 224), 86_112_400),
        ("divided_space_time", 400, (8, 224), 121_566_352),
        ("divided_space_time", 400, (16, 448), 122_024_080),
        ("divided_space_time", 400, (96, 224), 121_633_936),
    ],
)
def test_parameters_are_the_published_ones(scheme, num_labels, size, expected):
    config = TimesformerConfig(attention_type=scheme, num_labels=num_labels, num_frames=size[0], image_size=size[1])
    assert count_parameters(config) == expected


class OnlyShapes(TorchDispatchMode):
    """Fails where a tensor with values is made."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        assert all(leaf.is_meta for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)), function
        return outputs


def test_allocates_nothing():
    """Joint attention over 96 frames has 18,817 tokens: 17 GB of scores a block."""
    config = TimesformerConfig(attention_type="joint_space_time")
    with OnlyShapes():
        assert count_parameters(config) > 0
        assert count_multiply_accumulates(config, 96) > 0


def test_the_config_stays_as_it_is():
    config = TimesformerConfig(**SMALL)
    before = config.to_dict()
    cost = model_cost(config, 16, (32, 64))
    assert (cost.num_frames, cost.image_size) == (16, (32, 64))
    assert config.to_dict() == before
    assert cost.multiply_accumulates == count_multiply_accumulates(config, 16, (32, 64))


def test_size_that_no_model_has():
    with pytest.raises(ValueError, match="multiple of"):
        model_cost(TimesformerConfig(**SMALL), 8, 100)
