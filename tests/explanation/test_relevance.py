"""
The relevance of patches against products of full matrices over all tokens. These are filled in one by one, from the
maps that the model returns and the words of the paper, without the package's own regrouping.
"""

import itertools
import threading

import pytest
import torch
from tiny_models import SCHEMES, make_clip, make_keen_model, make_model
from torch import nn

from timesformer_hf import explain, optimize_for_inference, quantize
from timesformer_hf.explanation import relevance
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES


METHODS = ("gradient_rollout", "rollout")
EXACT = {"rtol": 0, "atol": 1e-10}


def odd_clip() -> torch.Tensor:
    """Two clips of 3 frames of 3 x 5 patches: nothing divides evenly."""
    return make_clip(2, 3, 3, 24, 40, dtype=torch.float64)


def group_of(maps: str, scheme: str, place: tuple[int, int, int]):
    """The group of a patch (row, column, frame), and where it comes in the order of groups."""
    row, column, frame = place
    if maps == "temporal_attentions":
        return row, column
    if maps == "width_attentions":
        return row, frame
    if maps == "local_attentions":
        return 2 * row >= 3 + 1, 2 * column >= 5 + 1  # the first half of an odd side is the longer one
    return {
        "divided_space_time": (frame,),
        "joint_space_time": (),
        "axial": (column, frame),
        "sparse_local_global": (row % 2, column % 2, frame % 2),
    }[scheme]


def full_matrices(maps: str, scheme: str, attention: torch.Tensor, batch: int, method: str) -> torch.Tensor:
    """
    The matrix of a step over all tokens (batch, tokens, tokens), with the identity added.

    Args:
        attention: what the step has for each pair of tokens of a group, (batch * groups, length, length).
    """
    places = list(itertools.product(range(3), range(5), range(3)))
    has_cls = maps == "attentions"
    members: dict = {}
    for token, place in enumerate(places, start=1):
        members.setdefault(group_of(maps, scheme, place), [0] * has_cls).append(token)
    names = sorted(members)
    attention = attention.unflatten(0, (batch, len(names)))
    full = torch.eye(1 + len(places), dtype=torch.float64).repeat(batch, 1, 1)
    if not has_cls and method == "rollout":
        full[:, 0, 0] += 1
    for number, name in enumerate(names):
        tokens = torch.tensor(members[name])
        where = padded_places(maps, scheme, members[name], places, attention.shape[-1])
        for query, at in zip(tokens, where, strict=True):
            share = 1 / len(names) if query == 0 and method == "rollout" else 1
            full[:, query, tokens] += share * attention[:, number, at][:, where]
    return full


def padded_places(maps: str, scheme: str, tokens: list[int], places: list, length: int) -> list[int]:
    """Where the tokens of a group stand in its map: side by side, or with padding between them."""
    if maps == "local_attentions":
        rows, columns = 2, 3
        return [((p[0] % rows) * columns + p[1] % columns) * 3 + p[2] for p in (places[t - 1] for t in tokens)]
    if maps == "attentions" and scheme == "sparse_local_global":
        inner = [places[t - 1] for t in tokens[1:]]
        return [0] + [1 + ((r // 2) * 3 + c // 2) * 2 + f // 2 for r, c, f in inner]
    assert len(tokens) == length
    return list(range(length))


def brute_force(model: nn.Module, clip: torch.Tensor, target: int | None, method: str) -> torch.Tensor:
    """The relevance by full matrices, (batch, frames, rows, columns), for any scheme but `space_only`."""
    scheme, batch = model.config.attention_type, len(clip)
    outputs = model(clip, output_attentions=True)
    steps = [step.maps for step in ATTENTION_SCHEMES[scheme].steps]
    maps = [getattr(outputs, step)[block] for block in range(3) for step in steps]
    if method == "rollout":
        reduced = [one.detach().mean(dim=1) for one in maps]
    else:
        classes = outputs.logits.argmax(dim=1) if target is None else torch.full((batch,), target)
        gradients = torch.autograd.grad(outputs.logits[range(batch), classes].sum(), maps)
        reduced = [(one * other).clamp(min=0).detach().mean(dim=1) for one, other in zip(maps, gradients, strict=True)]
    product = torch.eye(1 + 45, dtype=torch.float64).expand(batch, -1, -1)
    for step, one in zip(steps * 3, reduced, strict=True):
        product = full_matrices(step, scheme, one, batch, method) @ product
    patches = product[:, 0, 1:].reshape(batch, 3, 5, 3).permute(0, 3, 1, 2)
    return patches / patches.sum(dim=(1, 2, 3), keepdim=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "space_only"])
@pytest.mark.parametrize("target", [None, 3])
def test_it_is_the_product_over_all_tokens(scheme, method, target):
    model, clip = make_keen_model(attention_type=scheme).double(), odd_clip()
    expected = brute_force(model, clip, target, method)
    torch.testing.assert_close(explain(model, clip, target, method), expected, **EXACT)
    assert expected.std() > 1e-4  # so that something can be wrong


@pytest.mark.parametrize("method", METHODS)
def test_space_only_is_each_frame_apart(method):
    """The matrix of a clip has a block for each frame, and the logit sees the mean of their CLS."""
    model, clip = make_keen_model(attention_type="space_only").double(), odd_clip()
    outputs = model(clip, output_attentions=True)
    gradients = torch.autograd.grad(outputs.logits[:, 3].sum(), outputs.attentions)
    row = torch.zeros(2, 3 * 16, dtype=torch.float64)
    row[:, ::16] = 1 / 3
    for attention, gradient in zip(reversed(outputs.attentions), reversed(gradients), strict=True):
        reduced = attention if method == "rollout" else (attention * gradient).clamp(min=0)
        blocks = reduced.mean(dim=1).unflatten(0, (2, 3))
        full = torch.stack([torch.eye(48) + torch.block_diag(*frames) for frames in blocks])
        row = (row.unsqueeze(1) @ full).squeeze(1)
    expected = row.unflatten(1, (3, 16))[:, :, 1:].unflatten(2, (3, 5)).detach()
    expected = expected / expected.sum(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(explain(model, clip, 3, method), expected, **EXACT)


def test_joint_attention_is_the_published_rollout():
    """Abnar and Zuidema: the product of (mean over heads + identity) / 2."""
    model, clip = make_keen_model(attention_type="joint_space_time").double(), odd_clip()
    with torch.no_grad():
        maps = model(clip, output_attentions=True).attentions
    product = torch.eye(46, dtype=torch.float64)
    for attention in maps:
        product = (0.5 * attention.mean(dim=1) + 0.5 * torch.eye(46, dtype=torch.float64)) @ product
    torch.testing.assert_close(product.sum(dim=2), torch.ones(2, 46, dtype=torch.float64), **EXACT)
    row = product[:, 0, 1:]
    expected = (row / row.sum(dim=1, keepdim=True)).reshape(2, 3, 5, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(explain(model, clip, method="rollout"), expected, **EXACT)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_a_share_of_one(scheme, method):
    found = explain(make_keen_model(attention_type=scheme), make_clip(), method=method)
    assert found.shape == (2, 4, 4, 4)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("scheme", "frames"), [(scheme, 4 if scheme == "sparse_local_global" else 3) for scheme in SCHEMES]
)
def test_equal_frames_have_equal_relevance(scheme, frames, method):
    """
    Where the time embedding is the same for every frame, as the initial one is. Sparse attention needs an
    even number of frames too: of three, the group of the second one is smaller.
    """
    model = make_keen_model(attention_type=scheme).double()
    if scheme != "space_only":
        model.base_model.embeddings.time_embeddings.data[:] = 0.3
    clip = odd_clip()[:, :1].repeat(1, frames, 1, 1, 1)
    shares = explain(model, clip, 1, method).sum(dim=(2, 3))
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / frames), **EXACT)
    if scheme != "space_only":
        model.base_model.embeddings.time_embeddings.data[:, 0, :9] += 1  # no norm takes that away
        assert explain(model, clip, 1, method).sum(dim=(2, 3)).std() > 1e-6


@pytest.mark.parametrize("scheme", SCHEMES)
def test_another_class_has_another_map(scheme):
    model, clip = make_keen_model(attention_type=scheme), make_clip()
    maps = [explain(model, clip, label) for label in range(5)]
    assert all((one - other).abs().sum() > 0.01 for one, other in itertools.combinations(maps, 2))
    rollouts = [explain(model, clip, label, "rollout") for label in range(2)]
    assert torch.equal(*rollouts)
    several = explain(model, clip, [4, 2])
    torch.testing.assert_close(several, torch.stack((maps[4][0], maps[2][1])))
    predicted = explain(model, clip)
    with torch.no_grad():
        classes = model(clip).logits.argmax(dim=1)
    torch.testing.assert_close(predicted, explain(model, clip, classes))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_any_backend_and_any_context(implementation):
    model, clip = make_model(), make_clip()
    expected = explain(model, clip)
    model.set_attn_implementation(implementation)
    with torch.inference_mode():
        torch.testing.assert_close(explain(model, clip), expected)
    assert model.config._attn_implementation == implementation
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_other_threads_may_use_the_model_meanwhile():
    """Another thread runs the same block in the middle of the first step."""
    model, clip = make_keen_model(), make_clip()
    expected = explain(model, clip)
    meddling = []

    def meddle(module, inputs):
        if not meddling:
            meddling.append(threading.Thread(target=lambda: model(clip)))
            meddling[0].start()
            meddling[0].join()

    def start_meddling(*args):
        hook = model.base_model.encoder.layer[-1].attention.attention.register_forward_pre_hook(meddle)
        try:
            return original(*args)
        finally:
            hook.remove()

    original = relevance._step_matrices
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relevance, "_step_matrices", start_meddling)
        torch.testing.assert_close(explain(model, clip), expected)
    assert len(meddling) == 1


def test_no_relevance_at_all_is_the_same_everywhere():
    """A classifier of zeros has a gradient of zero."""
    model = make_model()
    model.classifier.weight.data.zero_()
    found = explain(model, make_clip())
    assert torch.equal(found, torch.full((2, 4, 4, 4), 1 / 64))


def test_half_precision_is_near_float32():
    model, clip = make_keen_model(), make_clip()
    found = explain(model.bfloat16(), clip, 0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, explain(model.float(), clip, 0), rtol=0, atol=0.02)


def test_one_block_at_a_time_is_in_memory(monkeypatch):
    """No tensor is as large as (tokens x tokens), and the maps of a block are gone before the next one's are made."""
    model, clip = make_model("divided_space_time"), make_clip(1, 16, 3, 32, 32)
    tokens, largest, alive = 1 + 16 * 16, [], []
    original = relevance._step_matrices

    def watched(*args):
        with torch.autograd.graph.saved_tensors_hooks(lambda kept: largest.append(kept.numel()) or kept, lambda x: x):
            return original(*args)

    def forward_without_graph(module, inputs, output):
        alive.append(torch.is_grad_enabled())

    monkeypatch.setattr(relevance, "_step_matrices", watched)
    model.base_model.encoder.layer[0].register_forward_hook(forward_without_graph)
    explain(model, clip)
    assert max(largest) < tokens * tokens
    assert alive == [False, True]  # first without a graph, then again with one


class TestTargets:
    @pytest.fixture
    def model(self):
        return make_model(id2label=dict(enumerate(["pan left", "pan_right", "zoom in", "shake", "static"])))

    def test_a_name_is_a_class(self, model):
        clip = make_clip()
        torch.testing.assert_close(explain(model, clip, "Zoom_In"), explain(model, clip, 2))
        torch.testing.assert_close(explain(model, clip, ["shake", "static"]), explain(model, clip, [3, 4]))

    def test_a_name_that_it_does_not_have(self, model):
        with pytest.raises(
            ValueError, match=r"no label 'pan lefft'\. The nearest of its 5 labels: 'pan left', 'pan_ri"
        ):
            explain(model, make_clip(), "pan lefft")
        with pytest.raises(ValueError, match="nearest of its 5 labels: 'zoom in'"):
            explain(model, make_clip(), "zoom")

    @pytest.mark.parametrize(
        ("target", "error", "message"),
        [
            (5, ValueError, "target=5 must be from 0 to 4"),
            (-1, ValueError, "target=-1 must be from 0 to 4"),
            ([1], ValueError, "target has 1 classes for 2 clips"),
            (1.0, TypeError, "'float' object is not iterable"),
            ([1.0, 2.0], TypeError, r"target=1\.0 must be the number or the name"),
            (torch.tensor([0, 9]), ValueError, "target=9 must be from 0 to 4"),
        ],
    )
    def test_one_that_is_none(self, model, target, error, message):
        with pytest.raises(error, match=message):
            explain(model, make_clip(), target)


class TestBadInput:
    def test_another_method(self):
        with pytest.raises(ValueError, match="method='gradcam' must be one of 'gradient_rollout', 'rollout'"):
            explain(make_model(), make_clip(), method="gradcam")

    def test_models_without_the_attention_that_is_asked_for(self):
        model, clip = make_model(), make_clip()
        with pytest.raises(ValueError, match=r"optimized for inference .* from before optimize_for_inference"):
            explain(optimize_for_inference(model), clip)
        with pytest.raises(ValueError, match="optimized for inference"):
            explain(optimize_for_inference(make_model("joint_space_time")), clip)
        with pytest.raises(ValueError, match=r"training mode.*model\.eval"):
            explain(make_model().train(), clip)
        with pytest.raises(TypeError, match=r"got timesformer_hf\.model\.modeling_timesformer\.TimesformerModel"):
            explain(model.base_model, clip)

    def test_a_quantized_model(self):
        pytest.importorskip("torchao", reason="quantizing needs torchao")
        with pytest.raises(ValueError, match="quantized, so it no longer gives the exact attention"):
            explain(quantize(make_model(), "int8"), make_clip())

    def test_pixels_that_do_not_fit(self):
        with pytest.raises(ValueError, match="pixel_values must have 5 dimensions"):
            explain(make_model(), make_clip(4, 3, 32, 32))

    def test_broken_weights(self):
        model = make_model()
        model.classifier.weight.data[:] = float("nan")
        with pytest.raises(ValueError, match=r"not finite in torch\.float32"):
            explain(model, make_clip())
