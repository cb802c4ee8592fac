"""What the model leaves out by itself, and `optimize_for_inference`: the same answers."""

import copy

import pytest
import torch
from tiny_models import FLOAT32, SCHEMES, TINY, make_clip, make_model
from transformers.models.timesformer.configuration_timesformer import TimesformerConfig as NativeConfig
from transformers.models.timesformer.modeling_timesformer import (
    TimesformerForVideoClassification as NativeForVideoClassification,
)

from timesformer_hf import (
    TimesformerForVideoClassification,
    TimesformerVideoProcessor,
    optimize_for_inference,
    quantize,
)
from timesformer_hf.benchmark.matrix_products import _ProductRecorder, total_multiply_accumulates
from timesformer_hf.inference.encoder import InferenceEncoder, has_grid_layout
from timesformer_hf.inference.int8_linear import has_int8_products
from timesformer_hf.inference.linear_kernels import KERNELS
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES


GRID_SCHEMES = [name for name, scheme in ATTENTION_SCHEMES.items() if has_grid_layout(scheme)]


@pytest.fixture
def runs(monkeypatch) -> list[int]:
    """How many clips each run through the encoder's own layout had."""
    clips, run = [], InferenceEncoder.run

    def counted(self, hidden_states, *args, **kwargs):
        clips.append(len(hidden_states))
        return run(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(InferenceEncoder, "run", counted)
    return clips


def float64_model(scheme: str, **settings):
    return make_model(scheme, **settings).double()


def close(got, expected) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


class TestLastBlock:
    """The classifier computes its last block for CLS alone."""

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_logits_and_gradients(self, scheme):
        model, clip, labels = float64_model(scheme).train(), make_clip(dtype=torch.float64), torch.tensor([1, 4])
        whole = copy.deepcopy(model)
        model(clip, labels=labels).loss.backward()
        logits = whole.classifier(whole.timesformer(clip).last_hidden_state[:, 0])
        torch.nn.functional.cross_entropy(logits, labels).backward()
        expected = {name: parameter.grad for name, parameter in whole.named_parameters()}
        close({name: parameter.grad for name, parameter in model.named_parameters()}, expected)

    def test_computes_less(self):
        model, clip = make_model(), make_clip()
        model.set_attn_implementation("eager")
        # torch's own counter puts hooks on every module, and with a hook everything is computed
        with torch.no_grad(), _ProductRecorder() as less:
            model(clip)
        with torch.no_grad(), _ProductRecorder() as whole:
            model(clip, output_hidden_states=True)
        frames, patches = 2 * 4, 16  # of both clips; of a frame
        attention = frames * patches * (17 * 48 * 2 + 48 * 48)  # scores, sums and projections of all queries but CLS
        mlp = frames * patches * 48 * 96 * 2
        saved = total_multiply_accumulates(whole.products) - total_multiply_accumulates(less.products)
        assert saved == attention + mlp

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_clip_features(self, scheme):
        model, clip = float64_model(scheme), make_clip(dtype=torch.float64)
        close(model.timesformer.clip_features(clip), model.timesformer(clip).last_hidden_state[:, 0])

    @pytest.mark.parametrize("asked", ["output_hidden_states", "output_attentions"])
    def test_inner_states_are_of_all_tokens(self, asked):
        outputs = make_model()(make_clip(), **{asked: True})
        last = outputs.hidden_states[-1] if asked == "output_hidden_states" else outputs.attentions[-1]
        assert last.shape[1:] == ((65, 48) if asked == "output_hidden_states" else (4, 17, 17))


class TestOptimizeForInference:
    @pytest.mark.parametrize("qkv_bias", [True, False])
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_same_answers(self, scheme, qkv_bias, runs):
        model, clip = float64_model(scheme, qkv_bias=qkv_bias), make_clip(2, 3, 3, 40, 24).double()
        optimized = optimize_for_inference(model)
        with torch.no_grad():
            close(optimized(clip).logits, model(clip).logits)
            close(
                optimized.timesformer(clip).last_hidden_state,
                model.timesformer(clip).last_hidden_state,
            )
            for level in ("clip", "frame", "patch"):
                close(optimized.timesformer.clip_features(clip, level), model.timesformer.clip_features(clip, level))
        assert len(runs) == (5 if scheme in GRID_SCHEMES else 0)

    @pytest.mark.parametrize("scheme", ["divided_space_time", "joint_space_time"])
    def test_same_answers_as_the_built_in_model(self, scheme, runs):
        model, clip = float64_model(scheme), make_clip(dtype=torch.float64)
        native = NativeForVideoClassification(NativeConfig(attention_type=scheme, num_labels=5, **TINY)).double().eval()
        native.load_state_dict(model.state_dict())
        with torch.no_grad():
            close(optimize_for_inference(model)(clip).logits, native(clip).logits)
        assert runs == [2]

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_inner_states(self, scheme):
        """At an even size: in a padded group, what a query that isn't there attends to is anything."""
        model, clip = float64_model(scheme), make_clip(dtype=torch.float64)
        with torch.no_grad():
            expected = model(clip, output_hidden_states=True, output_attentions=True)
            got = optimize_for_inference(model)(clip, output_hidden_states=True, output_attentions=True)
        assert got.keys() == expected.keys()
        for name in expected:
            close(got[name], expected[name])

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_gradient_of_the_pixels(self, scheme):
        model, clip = float64_model(scheme), make_clip(dtype=torch.float64).requires_grad_()
        (expected,) = torch.autograd.grad(model(clip).logits[:, 1].sum(), clip)
        (got,) = torch.autograd.grad(optimize_for_inference(model)(clip).logits[:, 1].sum(), clip)
        close(got, expected)

    @pytest.mark.parametrize("place", ["encoder.layer.0.intermediate.dense", "embeddings.patch_embeddings.projection"])
    def test_layers_that_are_not_its_own(self, place):
        """Their part in the answers would be lost: an adapter's, a parametrization's."""
        model = make_model("divided_space_time")
        torch.nn.utils.parametrizations.weight_norm(model.timesformer.get_submodule(place))
        with pytest.raises(ValueError, match=rf"{place} is a Parametrized\w+, which isn't one of the model's own"):
            optimize_for_inference(model)

    def test_adapters(self):
        """They must be merged before: what is folded gives them other inputs."""
        peft = pytest.importorskip("peft")
        settings = peft.LoraConfig(target_modules=["qkv"], init_lora_weights=False)
        model = make_model("divided_space_time")
        optimized = optimize_for_inference(model)
        # by PEFT's own means: the `add_adapter` of a new transformers may refuse every PEFT that there is
        peft.inject_adapter_in_model(settings, model)
        with pytest.raises(ValueError, match="merge adapters"):
            optimize_for_inference(model.eval())
        peft.inject_adapter_in_model(settings, optimized)
        with torch.no_grad(), pytest.raises(ValueError, match="merge it, then optimize"):
            optimized.eval()(make_clip())

    def test_merged_adapter(self, runs):
        peft = pytest.importorskip("peft")
        model, clip = float64_model("divided_space_time"), make_clip(dtype=torch.float64)
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv"], init_lora_weights=False)).eval()
        with torch.no_grad():
            expected = adapted(clip).logits
            close(optimize_for_inference(adapted.merge_and_unload())(clip).logits, expected)
        assert runs == [2]

    def test_gradients_of_the_last_weights(self):
        optimized = optimize_for_inference(float64_model("divided_space_time"))
        weight = optimized.timesformer.encoder.layer[-1].output.dense.weight.requires_grad_()
        optimized(make_clip(dtype=torch.float64)).logits.sum().backward()
        assert weight.grad.abs().max() > 0

    @pytest.mark.parametrize("backend", ["eager", "sdpa"])
    @pytest.mark.parametrize("scheme", GRID_SCHEMES)
    def test_attention_backends(self, scheme, backend, runs):
        model, clip = float64_model(scheme), make_clip(dtype=torch.float64)
        model.set_attn_implementation(backend)
        with torch.no_grad():
            close(optimize_for_inference(model)(clip).logits, model(clip).logits)
        assert len(runs) == 1

    @pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
    def test_activations_and_a_narrow_mlp(self, activation, runs):
        """The memory for queries, keys and values is more than the MLP's."""
        model = float64_model("divided_space_time", hidden_act=activation, intermediate_size=40)
        clip = make_clip(dtype=torch.float64)
        with torch.inference_mode():
            close(optimize_for_inference(model)(clip).logits, model(clip).logits)
        assert runs == [2]

    @pytest.mark.parametrize("cls_only", [False, True])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_emulated_dtypes(self, dtype, cls_only, runs):
        """Without instructions for them, the blocks compute in float32 what the weights of 16 bits say."""
        model = optimize_for_inference(make_model("divided_space_time").to(dtype))
        encoder, generator = model.timesformer.encoder, torch.Generator().manual_seed(0)
        tokens = torch.randn(2, 65, 48, generator=generator).to(dtype)
        encoder.emulated_dtypes = (dtype,)
        with torch.no_grad():
            got = encoder(tokens, grid=(4, 4, 4), cls_only=cls_only)[0]
            expected = copy.deepcopy(encoder).float()(tokens.float(), grid=(4, 4, 4), cls_only=cls_only)[0]
            encoder.emulated_dtypes = ()
            inexact = encoder(tokens, grid=(4, 4, 4), cls_only=cls_only)[0]
        # rounded once, at the end: by half the distance to the next number, beside float32's sums in another order
        torch.testing.assert_close(got.float(), expected, rtol=torch.finfo(dtype).eps / 2, atol=1e-5)
        assert (inexact.float() - expected).abs().mean() > 1.5 * (got.float() - expected).abs().mean()
        assert encoder.layer[0].intermediate.dense.weight.dtype is dtype
        assert len(runs) == 3

    @pytest.mark.parametrize(
        ("capabilities", "expected"),
        [
            ({"architecture": "x86_64", "avx512_f": True}, (torch.bfloat16, torch.float16)),
            ({"architecture": "x86_64", "avx512_bf16": True}, (torch.float16,)),
            ({"architecture": "aarch64", "bf16": True, "fp16_arith": True}, ()),
        ],
    )
    def test_which_dtypes_are_emulated(self, capabilities, expected, monkeypatch):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        model = optimize_for_inference(make_model("divided_space_time"))
        assert model.timesformer.encoder.emulated_dtypes == expected

    @pytest.mark.parametrize(("clips", "expected"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3])])
    def test_clips_in_parts(self, clips, expected, runs, monkeypatch):
        """On a CPU a large batch goes through the blocks in parts that fit its memory."""
        model, clip = float64_model("divided_space_time"), make_clip(3, 4, 3, 32, 32).double()
        monkeypatch.setattr("timesformer_hf.inference.encoder.LARGEST_REUSED_MEMORY", clips * 65 * 96 * 8)
        with torch.no_grad():
            close(optimize_for_inference(model)(clip).logits, model(clip).logits)
        assert runs == expected

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
    def test_number_formats(self, dtype, tolerance):
        """bfloat16 has 8 bits: folding rounds a product of weights once instead of its factors."""
        model, clip = make_model(), make_clip()
        expected = model(clip).logits
        optimized = optimize_for_inference(model.to(dtype))
        assert {parameter.dtype for parameter in optimized.parameters()} == {dtype}
        with torch.no_grad():
            torch.testing.assert_close(optimized(clip).logits.float(), expected, rtol=0, atol=tolerance)

    def test_autocast(self, runs):
        model, clip = make_model(), make_clip()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logits = optimize_for_inference(model)(clip).logits
        assert logits.dtype == torch.bfloat16
        assert runs == []
        torch.testing.assert_close(logits.float(), model(clip).logits, rtol=0, atol=0.05)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_is_saved_as_any_other(self, scheme, tmp_path):
        model, clip = float64_model(scheme), make_clip(dtype=torch.float64)
        optimized = optimize_for_inference(model)
        assert optimized.state_dict().keys() == model.state_dict().keys()
        optimized.save_pretrained(tmp_path)
        loaded = TimesformerForVideoClassification.from_pretrained(tmp_path)
        close(loaded(clip).logits, model(clip).logits)
        if scheme in ("divided_space_time", "joint_space_time"):
            close(NativeForVideoClassification.from_pretrained(tmp_path)(clip).logits, model(clip).logits)
        again = optimize_for_inference(loaded)
        with torch.no_grad():
            close(again(clip).logits, model(clip).logits)

    def test_leaves_the_model_as_it_is(self):
        model = make_model()
        before = copy.deepcopy(model.state_dict())
        optimize_for_inference(model)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_loads_no_weights(self):
        model = make_model()
        with pytest.raises(RuntimeError, match="temporal_dense: a model of optimize_for_inference can't load weights"):
            optimize_for_inference(model).load_state_dict(model.state_dict())

    def test_a_copy_and_another_format_answer_alike(self):
        optimized, clip = optimize_for_inference(make_model()), make_clip()
        with torch.no_grad():
            expected = optimized(clip).logits
            torch.testing.assert_close(copy.deepcopy(optimized)(clip).logits, expected, **FLOAT32)
            torch.testing.assert_close(optimized.double()(clip.double()).logits.float(), expected, **FLOAT32)

    @pytest.mark.slow
    @pytest.mark.parametrize("kernel", ["torch", "onednn"])
    @pytest.mark.parametrize("scheme", GRID_SCHEMES)
    def test_compiled(self, scheme, kernel):
        if not KERNELS[kernel].supports(torch.empty(1, 1)):
            pytest.skip(f"this CPU or torch does not have the kernel {kernel}")
        torch.compiler.reset()
        model, clip = make_model(scheme), make_clip()
        compiled = torch.compile(optimize_for_inference(model, linear_kernel=kernel), fullgraph=True)
        with torch.inference_mode():
            torch.testing.assert_close(compiled(clip).logits, model(clip).logits, **FLOAT32)

    @pytest.mark.slow
    @pytest.mark.skipif(not has_int8_products(), reason="this CPU or torch has no int8 products")
    def test_compiled_in_int8(self):
        torch.compiler.reset()
        model, clip = quantize(optimize_for_inference(make_model()), "int8"), make_clip(1, 4, 3, 32, 32)
        with torch.inference_mode():
            expected = model(clip).logits
            compiled = torch.compile(model, fullgraph=True)
            # a sum in another order can round a token to the next integer
            torch.testing.assert_close(compiled(clip).logits, expected, rtol=0, atol=0.02 * expected.abs().max())

    def test_takes_a_timesformer_in_evaluation_mode(self):
        with pytest.raises(TypeError, match="takes a TimeSformer of timesformer_hf, got Linear"):
            optimize_for_inference(torch.nn.Linear(1, 1))
        with pytest.raises(ValueError, match="training mode"):
            optimize_for_inference(make_model().train())
        with pytest.raises(ValueError, match="already optimized for inference"):
            optimize_for_inference(optimize_for_inference(make_model()))
        model = make_model()
        model.classifier.to("meta")
        with pytest.raises(ValueError, match=r"offloaded.*\(cpu, meta\)"):
            optimize_for_inference(model)
        model = make_model()
        model.is_quantized = True
        with pytest.raises(ValueError, match="optimize it first"):
            optimize_for_inference(model)


class TestRawPixels:
    @pytest.mark.parametrize("settings", [{}, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.4, 0.3]}])
    @pytest.mark.parametrize("left_out", [None, "do_normalize", "do_rescale"])
    def test_same_answers(self, settings, left_out):
        size = {"height": 32, "width": 32}
        settings = settings | ({left_out: False} if left_out else {})
        processor = TimesformerVideoProcessor(size=size, do_center_crop=False, num_frames=4, **settings)
        generator = torch.Generator().manual_seed(0)
        video = torch.randint(0, 256, (4, 3, 48, 40), dtype=torch.uint8, generator=generator)
        normalised = processor(video, return_tensors="pt").pixel_values
        raw = processor(video, do_rescale=False, do_normalize=False, return_tensors="pt").pixel_values
        assert raw.dtype == torch.uint8
        model = float64_model("divided_space_time")
        optimized = optimize_for_inference(model, processor)
        with torch.no_grad():
            expected = model(normalised.double()).logits
            # the processor normalises in float32
            torch.testing.assert_close(optimized(raw).logits, expected, rtol=1e-4, atol=1e-5)
            close(optimized(normalised.double()).logits, expected)
        assert optimized.state_dict().keys() == model.state_dict().keys()

    def test_pixels_are_checked(self):
        optimized = optimize_for_inference(make_model(), TimesformerVideoProcessor())
        with pytest.raises(ValueError, match="3 channels"):
            optimized(torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8))
        with pytest.raises(TypeError, match="floating-point tensor"):
            optimized(torch.zeros(1, 4, 3, 32, 32, dtype=torch.int64))
        with pytest.raises(TypeError, match=r"uint8|floating-point"):
            optimize_for_inference(make_model())(torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8))

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_training_mode_is_refused_at_once(self, scheme):
        optimized = optimize_for_inference(make_model(scheme))
        with pytest.raises(ValueError, match=r"can't be trained: .* Train the model that"):
            optimized.train()
        assert not optimized.eval().training
