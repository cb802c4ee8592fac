"""Foreign checkpoints, with the outputs that their own code gave in float64 (tests/golden/README.md)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification
from timesformer_hf.checkpoint_keys import MMACTION2_DIVIDED, MMACTION2_UNDIVIDED, ORIGINAL, rename_keys


GOLDEN = Path(__file__).parent / "golden"
SCHEMES = ("divided_space_time", "joint_space_time", "space_only")
ORIGINAL_CASES = [(scheme, case) for scheme in SCHEMES for case in ("native", "frames6", "size48", "rect32x64")]


def load_golden_model(path: Path, table: dict[str, str], scheme: str) -> TimesformerForVideoClassification:
    checkpoint = torch.load(path, weights_only=True)
    state_dict = checkpoint["state_dict"] if "state_dict" in checkpoint else checkpoint["model_state"]
    config = TimesformerConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        num_labels=7,
        attention_type=scheme,
    )
    model = TimesformerForVideoClassification(config).double().eval()
    model.load_state_dict(rename_keys(state_dict, table), strict=True)
    return model


def assert_equals_golden(model: TimesformerForVideoClassification, golden: Path, case: str) -> None:
    tensors = load_file(golden)
    with torch.no_grad():
        features = model.timesformer(tensors[f"{case}.pixel_values"].double()).last_hidden_state[:, 0]
        logits = model(tensors[f"{case}.pixel_values"].double()).logits
    torch.testing.assert_close(features, tensors[f"{case}.features"], rtol=0, atol=1e-10)
    torch.testing.assert_close(logits, tensors[f"{case}.logits"], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("scheme", "case"), ORIGINAL_CASES)
def test_original_checkpoint(scheme, case):
    model = load_golden_model(GOLDEN / f"{scheme}.pyth", ORIGINAL, scheme)
    assert_equals_golden(model, GOLDEN / f"{scheme}.safetensors", case)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_mmaction2_checkpoint(scheme):
    table = MMACTION2_DIVIDED if scheme == "divided_space_time" else MMACTION2_UNDIVIDED
    model = load_golden_model(GOLDEN / f"mmaction2_{scheme}.pth", table, scheme)
    assert_equals_golden(model, GOLDEN / f"mmaction2_{scheme}.safetensors", "native")


def test_unknown_keys_are_listed():
    with pytest.raises(ValueError, match=r"2 unknown keys in the checkpoint: a\.b, c"):
        rename_keys({"a.b": torch.zeros(1), "model.cls_token": torch.zeros(1), "c": torch.zeros(1)}, ORIGINAL)
