"""What the backward pass makes again: gradients are those of a model that keeps everything, which takes more memory."""

import copy
from contextlib import contextmanager

import pytest
import torch
from tiny_models import SCHEMES, enable_checkpointing, make_clip, make_model
from torch.profiler import profile
from torch.utils.checkpoint import checkpoint

from timesformer_hf.model import modeling_timesformer
from timesformer_hf.model.activation_recompute import recomputed


LABELS = torch.tensor([1, 4])


@contextmanager
def kept(module, make):
    """In place of `recomputed`."""
    yield make()


@pytest.fixture
def remade(monkeypatch) -> list:
    """Each value that was made again in the backward pass."""
    values = []

    @contextmanager
    def counted(module, make):
        def noted():
            value = make()
            values.append(value.shape)
            return value

        with recomputed(module, noted) as value:
            values.clear()
            yield value

    monkeypatch.setattr(modeling_timesformer, "recomputed", counted)
    return values


def gradients(model, **kwargs) -> dict:
    torch.manual_seed(0)  # of dropout and stochastic depth
    model(make_clip(dtype=model.dtype), labels=LABELS, **kwargs).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def gradients_of_all_kept(model, monkeypatch) -> dict:
    with monkeypatch.context() as context:
        context.setattr(modeling_timesformer, "recomputed", kept)
        return gradients(copy.deepcopy(model))


@pytest.mark.parametrize("settings", [{}, {"hidden_dropout_prob": 0.3, "drop_path_rate": 0.4, "qkv_bias": False}])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradients_are_those_of_all_kept(scheme, settings, monkeypatch, remade):
    model = make_model(scheme, **settings).double().train()
    expected = gradients_of_all_kept(model, monkeypatch)
    torch.testing.assert_close(gradients(model), expected, rtol=0, atol=1e-10)
    per_block = len(model.timesformer.scheme.steps) + 1 + (not settings)  # norms; the activation, where no dropout is
    assert len(remade) == 3 * per_block


def test_gradients_of_adapters_are_those_of_all_kept(monkeypatch):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["qkv", "intermediate.dense", "output.dense"], r=2, init_lora_weights=False)
    model = peft.get_peft_model(make_model().double().train(), config)
    with monkeypatch.context() as context:
        context.setattr(modeling_timesformer, "recomputed", kept)
        twin = copy.deepcopy(model)
        twin(pixel_values=make_clip(dtype=torch.float64), labels=LABELS).loss.backward()
    model(pixel_values=make_clip(dtype=torch.float64), labels=LABELS).loss.backward()
    expected = {name: parameter.grad for name, parameter in twin.named_parameters() if parameter.requires_grad}
    got = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_second_derivatives_are_those_of_all_kept(monkeypatch):
    def penalty(model):
        model.set_attn_implementation("eager")
        loss = model(make_clip(dtype=torch.float64), labels=LABELS).loss
        (first,) = torch.autograd.grad(loss, [model.timesformer.embeddings.cls_token], create_graph=True)
        return torch.autograd.grad(first.square().sum(), [model.timesformer.encoder.layer[0].intermediate.dense.weight])

    model = make_model().double().train()
    got = penalty(model)
    monkeypatch.setattr(modeling_timesformer, "recomputed", kept)
    torch.testing.assert_close(got, penalty(model), rtol=0, atol=1e-10)


def bytes_kept(run) -> int:
    with profile(profile_memory=True) as profiler:
        result = run()
    del result
    return sum(event.self_cpu_memory_usage for event in profiler.key_averages())


def test_norms_and_activations_are_not_kept(monkeypatch):
    """For each of `tokens` numbers: two norms and the wide activation of three blocks (the last one's is CLS alone)."""
    model = make_model().train()
    model(make_clip())
    less = bytes_kept(lambda: model(make_clip(), labels=LABELS).loss)
    monkeypatch.setattr(modeling_timesformer, "recomputed", kept)
    more = bytes_kept(lambda: model(make_clip(), labels=LABELS).loss)
    tokens, copies = 2 * 65, 2 * 4 * 17  # in all; with CLS in every frame
    saved = 3 * (tokens - 2 + copies) * 48 + 2 * tokens * (48 + 96)
    assert more - less == pytest.approx(4 * saved, rel=0.02)


class TestPrecedence:
    def test_gradient_checkpointing_goes_first(self, monkeypatch):
        model = make_model().double().train()
        expected = gradients_of_all_kept(model, monkeypatch)
        enable_checkpointing(model)
        torch.testing.assert_close(gradients(model), expected, rtol=0, atol=1e-10)
        plain = bytes_kept(lambda: model(make_clip(dtype=torch.float64), labels=LABELS).loss)
        monkeypatch.setattr(modeling_timesformer, "recomputed", kept)
        assert bytes_kept(lambda: model(make_clip(dtype=torch.float64), labels=LABELS).loss) == plain

    def test_a_checkpoint_around_the_model_goes_first(self, monkeypatch):
        model = make_model().double().train()
        expected = gradients_of_all_kept(model, monkeypatch)
        clip = make_clip(dtype=torch.float64)
        checkpoint(lambda: model(clip, labels=LABELS).loss, use_reentrant=False).backward()
        got = {name: parameter.grad for name, parameter in model.named_parameters()}
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)

    def test_other_hooks_see_every_tensor(self, monkeypatch):
        def numbers(model) -> int:
            seen = []
            with torch.autograd.graph.saved_tensors_hooks(lambda x: seen.append(x.numel()) or x, lambda x: x):
                model(make_clip(), labels=LABELS)
            return sum(seen)

        model = make_model().train()
        seen = numbers(model)
        monkeypatch.setattr(modeling_timesformer, "recomputed", kept)
        assert seen == numbers(model)

    def test_transforms_of_torch_func_go_first(self, monkeypatch):
        model = make_model().double()
        parameters = dict(model.named_parameters())

        def loss(values):
            return torch.func.functional_call(model, values, (make_clip(dtype=torch.float64), LABELS)).loss

        expected = gradients_of_all_kept(model, monkeypatch)
        torch.testing.assert_close(torch.func.grad(loss)(parameters), expected, rtol=0, atol=1e-10)

    def test_without_gradients_nothing_is_recomputed(self, remade):
        with torch.no_grad():
            make_model()(make_clip())
        assert not remade
