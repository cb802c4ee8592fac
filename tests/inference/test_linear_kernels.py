"""The kernels of an optimized model's linear layers: the products that an ordinary layer computes."""

import copy
import pickle

import pytest
import torch
from tiny_models import FLOAT32, make_clip, make_model
from torch import nn
from torch.nn import functional as F
from transformers.activations import GELUActivation

from timesformer_hf import TimesformerForVideoClassification, optimize_for_inference, quantize
from timesformer_hf.inference import encoder, linear_kernels, patch_embeddings
from timesformer_hf.inference.encoder import InferenceEncoder
from timesformer_hf.inference.int8_linear import Int8Linear, _to_uint8, has_int8_products
from timesformer_hf.inference.linear_kernels import KERNELS, InferenceLinear, fastest_kernel
from timesformer_hf.model import backends


# bfloat16 keeps 8 bits: operands and the result are each rounded by up to 1/256 of their value
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.02}


def kernel_or_skip(name: str, dtype: torch.dtype):
    kernel = KERNELS[name]
    if not kernel.supports(torch.empty(2, 2, dtype=dtype)):
        pytest.skip(f"this CPU or torch does not have the kernel {name} for {dtype}")
    return kernel


class TestKernels:
    @pytest.mark.parametrize("dtype", TOLERANCES)
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("name", KERNELS)
    def test_products(self, name, bias, dtype):
        """Beside the plain sums in float64, at odd sizes and with other numbers of rows than it was packed for."""
        kernel, generator = kernel_or_skip(name, dtype), torch.Generator().manual_seed(0)
        weight, stream, tokens = (torch.randn(*shape, generator=generator) for shape in ((19, 13), (7, 19), (7, 13)))
        shift = torch.randn(19, generator=generator) if bias else None
        weight, stream, tokens = (part.to(dtype) for part in (weight, stream, tokens))
        shift = None if shift is None else shift.to(dtype)
        packed, buffer = kernel.pack(weight, 5), tokens.new_empty(1000)
        assert torch.equal(kernel.unpack(packed), weight)
        product = F.linear(tokens.double(), weight.double(), None if shift is None else shift.double())
        expected = {"product": product, "gelu": F.gelu(product), "add": stream.double() + product}
        got = {
            "product": kernel.product(tokens, packed, shift, buffer).clone(),
            "gelu": kernel.gelu(tokens, packed, shift, buffer).clone(),
            "add": kernel.add(stream.clone(), tokens, packed, shift),
        }
        for form, values in got.items():
            assert values.dtype is dtype
            torch.testing.assert_close(
                values.double(), expected[form], rtol=TOLERANCES[dtype], atol=10 * TOLERANCES[dtype], msg=form
            )

    def test_the_fastest_is_chosen(self, monkeypatch):
        class Slow(linear_kernels.LinearKernel):
            name = "slow"

            def add(self, *args):
                [super(Slow, self).add(*args) for _ in range(50)]

        monkeypatch.setattr(linear_kernels, "KERNELS", {"slow": Slow(), "torch": KERNELS["torch"]})
        assert fastest_kernel(torch.rand(37, 41), 64) == "torch"

    def test_a_missing_operator_is_left_out(self, monkeypatch):
        kernel_or_skip("onednn", torch.float32)
        monkeypatch.setattr(torch.ops, "mkldnn", object())
        assert fastest_kernel(torch.rand(38, 41), 64) == "torch"
        with pytest.raises(ValueError, match=r"'onednn' can't multiply torch.float32 on cpu here; .* 'torch'"):
            InferenceLinear(nn.Linear(3, 4), 5, "onednn")

    def test_float64_has_the_plain_kernel(self):
        assert fastest_kernel(torch.rand(3, 4).double(), 5) == "torch"
        with pytest.raises(ValueError, match="must be one of 'torch'"):
            optimize_for_inference(make_model().double(), linear_kernel="onednn")
        with pytest.raises(ValueError, match="'mkl' can't"):
            optimize_for_inference(make_model(), linear_kernel="mkl")


class TestPackedModel:
    """A model whose weights lie in another order is the same model."""

    @pytest.fixture
    def packed(self):
        kernel_or_skip("onednn", torch.float32)
        return optimize_for_inference(make_model(), linear_kernel="onednn")

    @pytest.mark.parametrize("scheme", ["divided_space_time", "joint_space_time", "space_only", "sparse_local_global"])
    def test_answers(self, scheme):
        kernel_or_skip("onednn", torch.float32)
        model, clip = make_model(scheme), make_clip()
        with torch.no_grad():
            packed = optimize_for_inference(model, linear_kernel="onednn")
            torch.testing.assert_close(packed(clip).logits, model(clip).logits, **FLOAT32)
        assert "kernel=onednn" in repr(packed)

    def test_copies(self, packed):
        clip = make_clip()
        with torch.no_grad():
            expected = packed(clip).logits
            for copied in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
                assert torch.equal(copied(clip).logits, expected)
                assert copied.timesformer.encoder.layer[0].output.dense.kernel == "onednn"
            double = copy.deepcopy(packed).double()
            torch.testing.assert_close(double(clip.double()).logits.float(), expected, **FLOAT32)

    def test_gradients_and_saving(self, packed, tmp_path):
        model, clip = make_model(), make_clip().requires_grad_()
        (expected,) = torch.autograd.grad(model(clip).logits[:, 1].sum(), clip)
        (got,) = torch.autograd.grad(packed(clip).logits[:, 1].sum(), clip)
        torch.testing.assert_close(got, expected, **FLOAT32)
        packed.save_pretrained(tmp_path)
        loaded = TimesformerForVideoClassification.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(clip).logits, model(clip).logits, **FLOAT32)
        assert sum(p.numel() for p in packed.parameters()) < sum(p.numel() for p in model.parameters())  # folded


def random_heads(*shape: int, dtype: torch.dtype = torch.float64, **options) -> tuple[torch.Tensor, ...]:
    """Return a query, a key and a value for (groups, heads, queries, length, head_dim)."""
    groups, heads, queries, length, head_dim = shape
    generator = torch.Generator().manual_seed(0)
    sizes = ((groups, heads, tokens, head_dim) for tokens in (queries, length, length))
    return tuple(torch.randn(*size, generator=generator, dtype=dtype, **options) for size in sizes)


class TestProductAttention:
    """On a CPU, short groups are computed by two products, and without gradients longer ones too."""

    @pytest.mark.parametrize("shape", [(5, 3, 4, 4, 6), (2, 3, 1, 7, 6), (1, 2, 33, 33, 6)])
    @pytest.mark.parametrize("memory", [2**23, 2000, 1])
    def test_is_attention(self, shape, memory, monkeypatch):
        """Also in parts of some groups, of some heads, and of some queries."""
        monkeypatch.setattr(backends, "_MEMORY_AT_ONCE", memory)
        monkeypatch.setattr(backends, "LARGEST_REUSED_MEMORY", 16 * memory)
        query, key, value = random_heads(*shape, requires_grad=True)
        context, probabilities = backends.product_attention_forward(None, query, key, value, None, 0.3)
        expected = F.scaled_dot_product_attention(query, key, value, scale=0.3).transpose(1, 2)
        torch.testing.assert_close(context, expected, rtol=0, atol=1e-10)
        assert probabilities is None
        weights = torch.randn(context.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        got = torch.autograd.grad((context * weights).sum(), (query, key, value))
        want = torch.autograd.grad((expected * weights).sum(), (query, key, value))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
        with torch.no_grad():
            context, _ = backends.product_attention_forward(None, query, key, value, None, 0.3)
        torch.testing.assert_close(context, expected, rtol=0, atol=1e-10)
        assert context.is_contiguous()

    def test_parts_cover_everything_once(self, monkeypatch):
        monkeypatch.setattr(backends, "_MEMORY_AT_ONCE", 3000)
        monkeypatch.setattr(backends, "LARGEST_REUSED_MEMORY", 1000)
        query, key, _ = random_heads(3, 5, 11, 13, 4)
        seen = torch.zeros(3, 5, 11)
        parts = list(backends._parts(query, key))
        for part in parts:
            seen[part] += 1
        assert (seen == 1).all()
        assert len(parts) > 3 * 5

    @pytest.mark.parametrize("length", [33, 64, 197])
    def test_by_convolution(self, length, monkeypatch):
        """Where MKL is slow, float32 goes through oneDNN's convolution: sums of at most 197 products in 24 bits."""
        kernel_or_skip("onednn", torch.float32)
        monkeypatch.setattr(backends, "_HAS_SLOW_MKL", True)
        calls, product = [], backends._grouped_product
        monkeypatch.setattr(backends, "_grouped_product", lambda *operands: calls.append(1) or product(*operands))
        query, key, value = random_heads(1, 6, length, length, 8)
        expected = F.scaled_dot_product_attention(query, key, value, scale=0.3).transpose(1, 2)
        with torch.no_grad():
            assert backends.faster_than_sdpa(query.float(), key.float())
            monkeypatch.setattr(backends, "_LONGEST_BY_CONVOLUTION", length - 1)
            assert backends.faster_than_sdpa(query.float(), key.float()) is None
            heads = (tensor.float() for tensor in (query, key, value))
            context, _ = backends.product_attention_forward(None, *heads, None, 0.3)
        assert calls
        torch.testing.assert_close(context.double(), expected, rtol=0, atol=2e-6)

    @pytest.mark.parametrize("length", [1, 8, 15, 16, 40])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_softmax(self, length, dtype):
        scores = 30 * torch.randn(5, 7, length, generator=torch.Generator().manual_seed(0)).to(dtype)
        scores[0] += 1000  # nothing overflows
        with torch.no_grad():
            got = backends._softmax(scores).double()
        # float32: sums and exponentials in 24 bits; bfloat16: the result is rounded once, to 8 bits
        tolerance = {torch.float64: 1e-10, torch.float32: 2e-6, torch.bfloat16: 2**-8}[dtype]
        torch.testing.assert_close(got, scores.double().softmax(-1), rtol=tolerance, atol=1e-10)

    @pytest.mark.slow
    def test_a_graph_of_a_model_in_bfloat16(self):
        """Nothing in the choice of the backend breaks the graph."""
        torch.compiler.reset()
        model, clip = make_model().bfloat16(), make_clip().bfloat16()
        with torch.inference_mode():
            expected = model(clip).logits
            got = torch.compile(model, fullgraph=True)(clip).logits
        torch.testing.assert_close(got, expected, rtol=0, atol=0.05)  # 8 bits, rounded at other places

    @pytest.mark.parametrize(
        ("dtype", "length", "emulated", "expected"),
        [
            (torch.bfloat16, 8, (), True),
            (torch.bfloat16, 257, (), False),
            (torch.bfloat16, 8, (torch.bfloat16,), False),
            (torch.float32, 8, (), True),
            (torch.float32, 33, (), False),
            (torch.float64, 8, (), False),
        ],
    )
    def test_where_it_is_used(self, dtype, length, emulated, expected, monkeypatch):
        monkeypatch.setattr(backends, "_EMULATED", emulated)
        monkeypatch.setattr(backends, "_HAS_SLOW_MKL", False)
        query = torch.zeros(2, 3, length, 4, dtype=dtype, requires_grad=True)
        assert (backends.faster_than_sdpa(query, query) is not None) == expected
        with torch.no_grad():  # then no probabilities are kept, so groups of any length can be computed in parts
            in_parts = dtype is torch.bfloat16 and not emulated
            assert (backends.faster_than_sdpa(query, query) is not None) == (expected or in_parts)


@pytest.mark.skipif(not has_int8_products(), reason="this CPU or torch has no int8 products")
class TestInt8:
    @pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 3.0], [-5.0, -2.0], [-0.017, 2.54], [-1e-30, 1e-30]])
    def test_rounding(self, values):
        tokens = torch.cat([torch.linspace(*values, 999), torch.tensor(values)])
        integers, scale, zero_point = _to_uint8(tokens)
        again = scale * (integers.double() - zero_point)
        assert (again - tokens).abs().max() <= 0.5001 * scale
        assert integers.dtype is torch.uint8

    @pytest.mark.parametrize("head_dim", [None, 4])
    def test_products(self, head_dim):
        """Each of 24 products is rounded by up to 1/127 and 1/254 of the largest values, so their sum by about 2 %."""
        generator = torch.Generator().manual_seed(0)
        linear = nn.Linear(24, 24)
        layer = Int8Linear(InferenceLinear(linear, 7, head_dim=head_dim))
        tokens, stream = (torch.randn(2, 5, 24, generator=generator) for _ in range(2))
        with torch.no_grad():
            expected = linear(tokens)
            torch.testing.assert_close(layer(tokens), expected, rtol=0, atol=0.03)
            if head_dim is None:
                torch.testing.assert_close(layer.add_product(stream, tokens), stream + expected, rtol=0, atol=0.03)
                flat = expected.flatten(0, 1)
                torch.testing.assert_close(layer.product(tokens).float(), flat, rtol=0, atol=0.03)
                gelu = layer.activated_product(tokens, GELUActivation(), None)
                torch.testing.assert_close(gelu, F.gelu(flat), rtol=0, atol=0.03)
                relu = layer.activated_product(tokens, nn.ReLU(), None)
                torch.testing.assert_close(relu, F.relu(flat), rtol=0, atol=0.03)

    def test_a_clip_does_not_depend_on_its_batch(self):
        model, clip = quantize(optimize_for_inference(make_model()), "int8"), make_clip(3, 4, 3, 32, 32)
        clip[1] *= 30
        with torch.inference_mode():
            torch.testing.assert_close(model(clip).logits[:1], model(clip[:1]).logits, rtol=0, atol=1e-6)
        assert isinstance(model.timesformer.encoder, InferenceEncoder)
        assert isinstance(model.timesformer.encoder.layer[0].output.dense, Int8Linear)

    def test_copies_and_what_it_can_not(self, tmp_path):
        model, clip = quantize(optimize_for_inference(make_model()), "int8"), make_clip()
        with torch.no_grad():
            expected = model(clip).logits
            assert torch.equal(copy.deepcopy(model)(clip).logits, expected)
            model(clip, output_attentions=True)
        with pytest.raises(ValueError, match="int8 has no gradients"):
            model(clip.requires_grad_())
        with pytest.raises(ValueError, match="can't be trained"):
            model.train()
        with pytest.raises(ValueError, match="int8 can't be saved"):
            model.save_pretrained(tmp_path / "model")
        with pytest.raises(ValueError, match=r"can't become torch.bfloat16 on cpu"):
            model.to(torch.bfloat16)


@pytest.mark.parametrize(
    ("kernel", "dtype", "attention"),
    [
        ("torch", torch.float32, "sdpa"),
        ("onednn", torch.float32, "sdpa"),
        ("torch", torch.float64, "sdpa"),  # torch's own attention, as on other processors
        ("torch", torch.float32, "eager"),
    ],
)
def test_a_large_clip_goes_through_in_parts(kernel, dtype, attention, monkeypatch):
    """So the allocator reuses memory. Seven rows of the MLP fit in float32, and fewer tokens of the wider layers."""
    kernel_or_skip(kernel, dtype)
    model = make_model().to(dtype)
    model.set_attn_implementation(attention)
    whole = optimize_for_inference(model, linear_kernel=kernel)
    clips = torch.randn(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)
    with torch.inference_mode():
        expected = whole(clips).logits
        rows = []
        for module in ("inference.encoder", "inference.patch_embeddings", "model.backends"):
            monkeypatch.setattr(f"timesformer_hf.{module}.LARGEST_REUSED_MEMORY", 2 * 7 * 96 * 4)
        normalize = encoder._normalize
        monkeypatch.setattr(
            encoder,
            "_normalize",
            lambda tokens, norm: rows.append(tokens.numel() // tokens.shape[-1]) or normalize(tokens, norm),
        )
        torch.testing.assert_close(whole(clips).logits, expected, **FLOAT32)
    *rows, of_last_attention = sorted(rows)  # there, CLS alone asks
    assert max(rows) <= 7
    assert of_last_attention == 4 * 17
    assert len(rows) > 20


@pytest.mark.skipif(not has_int8_products(), reason="this CPU or torch has no int8 products")
def test_a_large_clip_goes_through_in_parts_in_int8(monkeypatch):
    """Each part has a range of its own, so it is rounded a little otherwise than the whole clip."""
    model = quantize(optimize_for_inference(make_model()), "int8")
    clips = make_clip()[:1]
    with torch.inference_mode():
        expected, rows, product = model(clips).logits, [], Int8Linear._product
        monkeypatch.setattr("timesformer_hf.inference.encoder.LARGEST_REUSED_MEMORY", 2 * 7 * 96 * 4)
        monkeypatch.setattr(
            Int8Linear,
            "_product",
            lambda self, tokens, **settings: (
                rows.append((self.head_dim, len(tokens))) or product(self, tokens, **settings)
            ),
        )
        got = model(clips).logits
    assert max(length for head_dim, length in rows if head_dim) <= 7  # queries, keys and values
    # as in TestInt8: about 2 % of values of about 1
    torch.testing.assert_close(got, expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory", [2**25, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_patches_are_embedded_by_a_product(bias, memory, dtype, monkeypatch):
    monkeypatch.setattr(patch_embeddings, "LARGEST_REUSED_MEMORY", memory)
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 20, (4, 6), stride=(4, 6), bias=bias, dtype=dtype)
    pixels = torch.randn(5, 3, 16, 30, dtype=dtype)
    with torch.no_grad():
        kernel = "onednn" if KERNELS["onednn"].supports(convolution.weight) else "torch"
        got = patch_embeddings.embed_patches(pixels, convolution.weight, convolution.bias, kernel)
        tolerance = 1e-10 if dtype is torch.float64 else 2e-6  # sums of 72 products, of about 1, in 24 bits
        torch.testing.assert_close(got, convolution(pixels), rtol=0, atol=tolerance)
    assert got.stride(1) == 1  # the features of a patch lie together, as a product writes them


def test_the_convolution_of_patches_has_gradients():
    model = make_model()
    optimized, clip = optimize_for_inference(model), make_clip().requires_grad_()
    convolution = optimized.timesformer.embeddings.patch_embeddings.projection
    assert type(convolution) is patch_embeddings.PatchConvolution
    assert type(model.timesformer.embeddings.patch_embeddings.projection) is nn.Conv2d
    (got,) = torch.autograd.grad(optimized(clip).logits.sum(), clip)
    (expected,) = torch.autograd.grad(model(clip).logits.sum(), clip)
    torch.testing.assert_close(got, expected, **FLOAT32)
    names = linear_kernels.list_kernels(optimize_for_inference(model, linear_kernel="torch"))
    assert names["timesformer.embeddings.patch_embeddings.projection"] == "torch"
    convolution.kernel = "another"
    linear_kernels.set_kernels(optimized, names)
    assert linear_kernels.list_kernels(optimized) == names
    overlapping = nn.Conv2d(3, 5, 4, stride=2)
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = overlapping(pixels)
        overlapping.__class__ = patch_embeddings.PatchConvolution
        assert torch.equal(overlapping(pixels), expected)
