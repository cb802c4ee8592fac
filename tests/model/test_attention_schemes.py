"""The table of schemes, and each of its steps against a mask over all pairs of tokens (`masked_attention`)."""

import copy
import dataclasses

import pytest
import torch
from tiny_models import SCHEMES, make_clip, make_model
from torch.utils.flop_counter import FlopCounterMode

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES, ATTENTION_STEPS, GLOBAL, LOCAL
from timesformer_hf.model.masked_attention import ATTENTION_PATTERNS, masked_attend, pattern_mask
from timesformer_hf.model.model_outputs import TimesformerClassifierOutput, TimesformerModelOutput
from timesformer_hf.model.modeling_timesformer import TimesformerLayer


# frames, height, width; patches of 8: even, odd in each dimension, one patch, one frame, rows or columns of one
SIZES = [
    (4, 32, 32),
    (3, 32, 48),
    (4, 24, 32),
    (2, 16, 40),
    (5, 24, 56),
    (1, 8, 8),
    (1, 40, 24),
    (6, 8, 40),
    (3, 56, 8),
]


def naive_attend(layer, step, hidden_states, grid, output_attentions, **kwargs):
    return (masked_attend(layer, step, hidden_states, grid),)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_equals_the_masked_twin(scheme, size, monkeypatch):
    """Hidden states and the gradients of every weight and pixel, in float64."""
    frames, height, width = size
    model = make_model(scheme, num_hidden_layers=2).double()
    naive = copy.deepcopy(model)
    clip = make_clip(2, frames, 3, height, width, dtype=torch.float64).requires_grad_()
    clip_of_naive = clip.detach().clone().requires_grad_()
    weights = torch.randn(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    outputs = model(clip, output_hidden_states=True)
    (outputs.logits @ weights).sum().backward()
    monkeypatch.setattr(TimesformerLayer, "attend", naive_attend)
    expected = naive(clip_of_naive, output_hidden_states=True)
    (expected.logits @ weights).sum().backward()

    torch.testing.assert_close(outputs.hidden_states, expected.hidden_states, rtol=0, atol=1e-10)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(clip.grad, clip_of_naive.grad, rtol=0, atol=1e-10)
    for (name, parameter), twin in zip(model.named_parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(
            parameter.grad, twin.grad, rtol=0, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("step", ATTENTION_STEPS, ids=lambda step: step.regroup.__name__)
@pytest.mark.parametrize("grid", [(4, 4, 6), (3, 5, 2), (1, 1, 1), (2, 1, 7)])
def test_restore_undoes_regroup(step, grid):
    tokens = torch.randn(2, 1 + grid[0] * grid[1] * grid[2], 3)
    restored = step.restore(step.regroup(tokens, grid), grid)
    assert restored[:, 1:].equal(tokens[:, 1:])
    if ATTENTION_PATTERNS[step].cls_takes_part:
        torch.testing.assert_close(restored[:, 0], tokens[:, 0])  # the mean of equal copies
    else:
        assert restored[:, 0].abs().max() == 0


def test_every_step_is_defined_by_a_mask_and_has_maps():
    assert set(ATTENTION_PATTERNS) == set(ATTENTION_STEPS)
    for outputs in (TimesformerModelOutput, TimesformerClassifierOutput):
        assert {step.maps for step in ATTENTION_STEPS} <= {field.name for field in dataclasses.fields(outputs)}


def test_local_and_global_masks_by_hand():
    """A clip of 2 frames of 4 x 2 patches; token order: rows, then columns, then frames."""
    grid = (2, 4, 2)
    first_patch = [(place // 4, place // 2 % 2, place % 2) for place in range(16)]
    local = [place for place, met in zip(first_patch, pattern_mask(LOCAL, grid)[0], strict=True) if met]
    assert local == [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]
    strided = [place for place, met in zip(first_patch, pattern_mask(GLOBAL, grid)[0], strict=True) if met]
    assert strided == [(0, 0, 0), (2, 0, 0)]


def test_local_and_global_steps_connect_any_two_patches():
    for grid in [(8, 14, 14), (3, 5, 7)]:
        connected = pattern_mask(LOCAL, grid).float() @ pattern_mask(GLOBAL, grid).float() > 0
        assert connected.all()


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [("divided_space_time", 121_392_558), ("sparse_local_global", 121_392_558), ("axial", 156_846_510)],
)
def test_parameters_of_the_paper(scheme, expected):
    """Paper, table 1: 121.4, 121.4 and 156.8 million, with Something-Something's 174 classes."""
    with torch.device("meta"):
        model = TimesformerForVideoClassification(TimesformerConfig(attention_type=scheme, num_labels=174))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_attention_maps_of_every_step(scheme):
    """5 frames of 4 x 3 patches: groups that differ in size, so that some keys are padding."""
    model = make_model(scheme)
    outputs = model(make_clip(2, 5, 3, 32, 24), output_attentions=True)
    patches = 4 * 3
    expected = {
        "divided_space_time": {"temporal_attentions": (2 * patches, 5), "attentions": (2 * 5, 1 + patches)},
        "joint_space_time": {"attentions": (2, 1 + patches * 5)},
        "space_only": {"attentions": (2 * 5, 1 + patches)},
        "sparse_local_global": {
            "local_attentions": (2 * 4, 2 * 2 * 5),
            "attentions": (2 * 8, 1 + 2 * 2 * 3),
        },
        "axial": {
            "temporal_attentions": (2 * patches, 5),
            "width_attentions": (2 * 4 * 5, 3),
            "attentions": (2 * 3 * 5, 1 + 4),
        },
    }[scheme]
    for name in ("temporal_attentions", "local_attentions", "width_attentions", "attentions"):
        maps = getattr(outputs, name)
        if name not in expected:
            assert maps is None
            continue
        groups, length = expected[name]
        assert [tuple(layer_maps.shape) for layer_maps in maps] == [(groups, 4, length, length)] * 3
        torch.testing.assert_close(maps[0].sum(-1), torch.ones(groups, 4, length))
    assert {step.maps for step in ATTENTION_SCHEMES[scheme].steps} == set(expected)


def test_padding_gets_no_attention():
    outputs = make_model("sparse_local_global")(make_clip(1, 5, 3, 32, 24), output_attentions=True)
    strided = outputs.attentions[0].unflatten(0, (2, 2, 2))  # starts in height, width, time
    keys = strided[:, :, :, 0, 0, 1:].unflatten(-1, (2, 2, 3))  # of CLS: height, width, time
    assert keys[0, 0, 0].min() > 0  # two rows, two columns, three frames from the first on
    assert keys[0, 1, 0][:, 1].abs().max() == 0  # from the second column there is one
    assert keys[0, 0, 1][:, :, 2].abs().max() == 0  # from the second frame there are two


@pytest.mark.parametrize("scheme", SCHEMES)
def test_arithmetic_is_that_of_the_groups(scheme):
    """No scheme computes more than it says: the pairs that the masks let meet, at a size without padding."""
    frames, rows, columns = grid = (4, 4, 6)
    model = make_model(scheme, num_hidden_layers=1)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.timesformer(make_clip(1, frames, 3, rows * 8, columns * 8))
    counted = counter.get_flop_counts()["TimesformerModel.encoder.layer.0"]
    products = sum(count for operation, count in counted.items() if operation.__name__ == "bmm")
    expected = 0
    for step in ATTENTION_SCHEMES[scheme].steps:
        # with space-only, a clip of one frame for each
        one = (1, rows, columns) if ATTENTION_SCHEMES[scheme].frames_apart else grid
        mask = pattern_mask(step, one)
        pairs = int(mask.sum())
        if ATTENTION_PATTERNS[step].cls_takes_part:
            groups = len(mask.unique(dim=0))
            pairs += 2 * len(mask) + groups  # patches and CLS meet once each way; CLS itself, in each group
        expected += pairs * (frames if ATTENTION_SCHEMES[scheme].frames_apart else 1)
    assert products == expected * 48 * 2 * 2  # scores and context, a multiplication and an addition each
