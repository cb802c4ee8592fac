"""examples/micro_timesformer.py: short, alone, and equal to the package and to the code of the formats."""

import ast

import pytest
import torch
from repository import EXAMPLES, load_example
from safetensors.torch import load_file
from tiny_models import FILES, FOREIGN_SCHEMES, GOLDEN, TINY, make_clip, make_model

from timesformer_hf import TimesformerConfig, count_parameters
from timesformer_hf.checkpoints.conversion import convert


EXAMPLE = EXAMPLES / "micro_timesformer.py"
EXACT = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(scope="module")
def micro():
    return load_example("micro_timesformer")


def test_short_and_without_the_package():
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) < 200
    nodes = list(ast.walk(ast.parse(text)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported == {"math", "torch", "torch.nn"}


@pytest.mark.parametrize("name", FILES)
def test_golden_outputs(micro, name, tmp_path):
    """At every size of the golden cases, other numbers of frames and other sizes of a frame included."""
    convert(GOLDEN / name, tmp_path / "model", num_attention_heads=4)
    sizes = TINY | {"intermediate_size": 192, "num_labels": 7}
    scheme = name.removeprefix("mmaction2_").partition(".")[0]
    model = micro.MicroTimesformer(scheme, **sizes).double().eval()
    model.load_state_dict(load_file(tmp_path / "model" / "model.safetensors"))
    tensors = load_file((GOLDEN / name).with_suffix(".safetensors"))
    cases = {key.partition(".")[0] for key in tensors}
    assert "native" in cases
    with torch.no_grad():
        for case in cases:
            clips = tensors[f"{case}.pixel_values"].double()
            torch.testing.assert_close(model.embed(clips), tensors[f"{case}.features"], **EXACT)
            torch.testing.assert_close(model(clips), tensors[f"{case}.logits"], **EXACT)


@pytest.mark.parametrize("scheme", FOREIGN_SCHEMES)
@pytest.mark.parametrize("settings", [{}, {"num_frames": 1, "num_hidden_layers": 1}, {"num_attention_heads": 1}])
def test_equal_to_the_package(micro, scheme, settings):
    """With random weights, the gradients of all weights included."""
    ours = make_model(scheme, **settings).double()
    model = micro.MicroTimesformer(scheme, **TINY | {"num_labels": 5} | settings).double()
    model.load_state_dict(ours.state_dict())
    clips = make_clip(2, 3, 3, 32, 40, dtype=torch.float64)
    logits, expected = model(clips), ours(clips).logits
    torch.testing.assert_close(logits, expected, **EXACT)
    logits.square().sum().backward()
    expected.square().sum().backward()
    gradients = dict(model.named_parameters())
    for weight, parameter in ours.named_parameters():
        torch.testing.assert_close(gradients[weight].grad, parameter.grad, **EXACT)


def test_what_it_prints(micro, capsys):
    """The sizes of the paper's three models, with the numbers of parameters that the package counts too."""
    micro.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["TimeSformer", "TimeSformer-HR", "TimeSformer-L"]
    for line, frames, size in zip(lines, (8, 16, 96), (224, 448, 224), strict=True):
        count = count_parameters(TimesformerConfig(num_frames=frames, image_size=size, num_labels=400))
        assert f" {frames} frames of {size} x {size}: {count / 1e6:.2f} M parameters" in line
