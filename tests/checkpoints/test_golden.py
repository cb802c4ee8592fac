"""Foreign checkpoints, converted, with the outputs that their own code gave in float64 (tests/golden/README.md)."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import FILES, GOLDEN

from timesformer_hf import TimesformerForVideoClassification
from timesformer_hf.checkpoints.conversion import convert


CASES = [(name, case) for name in FILES[:3] for case in ("native", "frames6", "size48", "rect32x64")]
CASES += [(name, "native") for name in FILES[3:]]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    for name in FILES:
        convert(GOLDEN / name, folder / name, num_attention_heads=4)
    return folder


@pytest.mark.parametrize(("name", "case"), CASES)
def test_outputs_are_those_of_the_foreign_code(converted, name, case):
    model = TimesformerForVideoClassification.from_pretrained(converted / name).double().eval()
    tensors = load_file((GOLDEN / name).with_suffix(".safetensors"))
    clip = tensors[f"{case}.pixel_values"].double()
    with torch.no_grad():
        features, logits = model.timesformer(clip).last_hidden_state[:, 0], model(clip).logits
    torch.testing.assert_close(features, tensors[f"{case}.features"], rtol=0, atol=1e-10)
    torch.testing.assert_close(logits, tensors[f"{case}.logits"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", FILES[:3])
def test_back_to_the_original_format(converted, name, tmp_path):
    """The file that comes back has the same keys and the same values, bit for bit."""
    convert(converted / name, tmp_path / name, to="original")
    expected, state = (torch.load(path, weights_only=True)["model_state"] for path in (GOLDEN / name, tmp_path / name))
    assert state.keys() == expected.keys()
    assert all(state[key].equal(expected[key]) for key in expected)
