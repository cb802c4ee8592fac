"""int8, by torchao and by our own layers: what the rounding does to random weights."""

import copy

import pytest
import torch
from tiny_models import make_clip, make_model
from transformers import TorchAoConfig

from timesformer_hf import TimesformerForVideoClassification, optimize_for_inference
from timesformer_hf.inference.encoder import InferenceEncoder
from timesformer_hf.inference.quantization import quantization_config, quantize


# int8 has 7 bits and a sign: each operand of a product is off by up to 1/254 of the largest of its row, at random. Our
# own layers take the largest of all tokens of a clip, and round attention to bfloat16.
INT8 = 0.05


@pytest.fixture(autouse=True)
def torchao():
    pytest.importorskip("torchao.quantization", reason="needs torchao")


def off_by(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("optimize", [False, True])
def test_int8_is_near_and_optimized_alike(optimize, monkeypatch):
    """In another number format, or the answers would be equal; in the layout of the optimized encoder, too."""
    runs, run = [], InferenceEncoder.run
    monkeypatch.setattr(InferenceEncoder, "run", lambda *args, **kwargs: runs.append(1) or run(*args, **kwargs))
    model, clip = make_model(), make_clip()
    with torch.inference_mode():
        expected = model(clip).logits
        model = optimize_for_inference(model) if optimize else copy.deepcopy(model)
        difference = off_by(quantize(model, "int8")(clip).logits, expected)
    assert 1e-4 < difference < INT8
    assert bool(runs) == optimize


def test_config_of_transformers_quantizes_on_loading(tmp_path):
    model, clip = make_model(), make_clip()
    model.save_pretrained(tmp_path)
    config = TorchAoConfig(quantization_config("int8"))
    quantized = TimesformerForVideoClassification.from_pretrained(tmp_path, quantization_config=config)
    with torch.inference_mode():
        assert 1e-4 < off_by(quantized(clip).logits, model(clip).logits) < INT8
    with pytest.raises(ValueError, match="optimize it first"):
        optimize_for_inference(quantized)


def test_bad_names_are_refused():
    with pytest.raises(ValueError, match="'int4'; it must be one of 'int8', 'fp8'"):
        quantize(make_model(), "int4")
