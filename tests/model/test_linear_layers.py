"""Linear layers by oneDNN, which are faster than torch's own where MKL is slow."""

import pytest
import torch
from tiny_models import FLOAT32, make_model
from torch import nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from timesformer_hf.model import backends
from timesformer_hf.model.backends import _OneDnnProduct, apply_linear


pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"), reason="this torch was built without oneDNN's operators"
)
# Sums in another order: float32 has 24 bits, and at most 300 products are added.
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture
def taken(monkeypatch) -> list:
    """Let oneDNN be preferred at all sizes. The list has an entry for each layer that it computed."""
    monkeypatch.setattr(backends, "_HAS_SLOW_MKL", True)
    monkeypatch.setattr(backends, "_LEAST_ROWS", 1)
    monkeypatch.setattr(backends, "_LEAST_WEIGHT", 1)
    calls, apply = [], _OneDnnProduct.apply
    monkeypatch.setattr(_OneDnnProduct, "apply", lambda *args: calls.append(1) or apply(*args))
    return calls


def make_layer(bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(33, 17, bias=bias).to(dtype), torch.randn(3, 7, 33, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "every second"])
def test_outputs_and_gradients_are_those_of_torch(taken, bias, layout):
    layer, tokens = make_layer(bias)
    change = {
        "contiguous": lambda x: x,
        "transposed": lambda x: x.transpose(0, 1),
        "every second": lambda x: x[:, ::2],
    }[layout]
    inputs = [tokens, *layer.parameters()]
    output, expected = apply_linear(layer, change(tokens)), layer(change(tokens))
    assert taken
    assert output.shape == expected.shape
    torch.testing.assert_close(output, expected, **CLOSE)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((output * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        **CLOSE,
    )


def test_gradients_of_gradients(taken):
    layer, tokens = make_layer()

    def penalty(output: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (gradient,) = torch.autograd.grad((output**3).sum(), tokens, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), [tokens, layer.weight, layer.bias])

    torch.testing.assert_close(penalty(apply_linear(layer, tokens)), penalty(layer(tokens)), rtol=1e-4, atol=1e-3)
    assert taken


def test_frozen_weights_get_no_gradient(taken):
    layer, tokens = make_layer()
    layer.requires_grad_(False)
    apply_linear(layer, tokens).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(tokens.grad, layer.weight.sum(0).expand_as(tokens), **CLOSE)
    assert len(taken) == 2  # the output, and the gradient of the tokens


@pytest.mark.parametrize("scheme", ["divided_space_time", "joint_space_time", "space_only"])
def test_the_model_computes_the_same(taken, scheme, monkeypatch):
    model = make_model(scheme)
    torch.manual_seed(0)
    clip = torch.randn(2, 4, 3, 32, 32)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss = model(pixel_values=clip, labels=torch.tensor([0, 1])).loss
        loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()} | {"loss": loss.detach()}

    fast = gradients()
    assert taken
    monkeypatch.setattr(backends, "_HAS_SLOW_MKL", False)
    taken.clear()
    torch.testing.assert_close(fast, gradients(), **FLOAT32)
    assert not taken


class _Doubled(nn.Linear):
    def forward(self, tokens):
        return 2 * super().forward(tokens)


class TestWhereSomethingElseMustSeeTheLayer:
    def test_other_dtypes(self, taken):
        for dtype in (torch.float64, torch.bfloat16):
            layer, tokens = make_layer(dtype=dtype)
            assert torch.equal(apply_linear(layer, tokens), layer(tokens))
        assert not taken

    def test_hooks_and_other_classes(self, taken):
        layer, tokens = make_layer()
        seen = []
        layer.register_forward_hook(lambda *args: seen.append(1))
        apply_linear(layer, tokens)
        other = _Doubled(33, 17)
        assert torch.equal(apply_linear(other, tokens), other(tokens))
        assert seen
        assert not taken

    def test_small_products(self, taken, monkeypatch):
        layer, tokens = make_layer()
        monkeypatch.setattr(backends, "_LEAST_ROWS", 22)
        apply_linear(layer, tokens)  # 21 rows
        assert not taken
        monkeypatch.setattr(backends, "_LEAST_ROWS", 21)
        apply_linear(layer, tokens)
        assert taken

    def test_autocast(self, taken):
        layer, tokens = make_layer()
        with torch.autocast("cpu", torch.bfloat16):
            assert apply_linear(layer, tokens).dtype is torch.bfloat16
        assert not taken

    def test_transforms(self, taken):
        layer, tokens = make_layer()
        mapped = torch.func.vmap(lambda clip: apply_linear(layer, clip))(tokens)
        torch.testing.assert_close(mapped, layer(tokens), **CLOSE)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(tokens.detach(), torch.ones_like(tokens))
            tangent = forward_ad.unpack_dual(apply_linear(layer, dual)).tangent
        torch.testing.assert_close(tangent, layer.weight.sum(1).expand_as(tangent), **CLOSE)
        assert not taken

    def test_counters_of_operations(self, taken):
        layer, tokens = make_layer()
        with FlopCounterMode(display=False) as counter:
            apply_linear(layer, tokens)
        assert counter.get_total_flops() == 2 * 21 * 33 * 17
        assert not taken

    def test_tracing(self, taken):
        layer, tokens = make_layer()
        layer.requires_grad_(False)
        traced = torch.jit.trace(lambda tokens: apply_linear(layer, tokens), tokens.detach(), check_trace=False)
        assert "aten::linear" in str(traced.graph)
        assert not taken
