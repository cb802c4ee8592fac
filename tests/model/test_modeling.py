"""The model against oracles that we did not write: transformers' built-in TimeSformer, its ViT, and plain maths."""

import copy

import pytest
import torch
from tiny_models import FLOAT32, SCHEMES, TINY, enable_checkpointing, make_clip, make_model
from transformers.models.timesformer.configuration_timesformer import TimesformerConfig as NativeConfig
from transformers.models.timesformer.modeling_timesformer import (
    TimesformerForVideoClassification as NativeForVideoClassification,
)
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES
from timesformer_hf.model.embedding_tables import resize_position_table, resize_time_table
from timesformer_hf.model.modeling_timesformer import TimesformerDropPath, TimesformerLayer


class TestAgainstBuiltIn:
    @pytest.fixture(params=["divided_space_time", "joint_space_time"])
    def models(self, request):
        ours = make_model(request.param).double()
        native = NativeForVideoClassification(NativeConfig(attention_type=request.param, num_labels=5, **TINY))
        native = native.double().eval()
        native.load_state_dict(ours.state_dict())
        return ours, native

    def test_outputs_and_gradients(self, models):
        ours, native = models
        clip, labels = make_clip(dtype=torch.float64), torch.tensor([1, 4])
        outputs, expected = ours(clip, labels=labels), native(clip, labels=labels)
        torch.testing.assert_close(outputs.logits, expected.logits, rtol=0, atol=1e-10)
        torch.testing.assert_close(outputs.loss, expected.loss, rtol=0, atol=1e-10)
        outputs.loss.backward()
        expected.loss.backward()
        gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
        expected_gradients = {name: parameter.grad for name, parameter in native.named_parameters()}
        torch.testing.assert_close(gradients, expected_gradients, rtol=0, atol=1e-10)

    def test_hidden_states_and_attentions(self, models):
        ours, native = models
        clip = make_clip(dtype=torch.float64)
        with torch.no_grad():
            outputs = ours(clip, output_hidden_states=True, output_attentions=True)
            expected = native(clip, output_hidden_states=True, output_attentions=True)
        torch.testing.assert_close(outputs.hidden_states, expected.hidden_states, rtol=0, atol=1e-10)
        torch.testing.assert_close(outputs.attentions, expected.attentions, rtol=0, atol=1e-10)
        last = ours.timesformer(clip).last_hidden_state
        torch.testing.assert_close(last, native.timesformer(clip).last_hidden_state, rtol=0, atol=1e-10)

    def test_tuples_are_the_built_ins(self, models):
        ours, native = models
        clip, labels = make_clip(dtype=torch.float64), torch.tensor([1, 4])
        arguments = {"labels": labels, "output_hidden_states": True, "output_attentions": True, "return_dict": False}
        outputs, expected = ours(clip, **arguments), native(clip, **arguments)
        assert len(expected) == 4  # loss, logits, hidden states, attentions
        torch.testing.assert_close(outputs[:4], expected, rtol=0, atol=1e-10)

    def test_space_only_hidden_states(self):
        ours = make_model("space_only").double()
        native = NativeForVideoClassification(NativeConfig(attention_type="space_only", num_labels=5, **TINY))
        native = native.double().eval()
        native.load_state_dict(ours.state_dict())
        clip = make_clip(dtype=torch.float64)
        outputs, expected = ours(clip, output_hidden_states=True), native(clip, output_hidden_states=True)
        torch.testing.assert_close(outputs.hidden_states, expected.hidden_states, rtol=0, atol=1e-10)
        # where the built-in stops, a prediction a frame, ours averages before the norm
        averaged = expected.hidden_states[-1].unflatten(0, (2, 4)).mean(1)
        logits = native.classifier(native.timesformer.layernorm(averaged))[:, 0]
        torch.testing.assert_close(outputs.logits, logits, rtol=0, atol=1e-10)
        assert outputs.logits.shape == (2, 5)


class TestAnySize:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("shape", [(2, 1, 3, 32, 32), (1, 7, 3, 40, 24), (3, 12, 3, 8, 64)])
    def test_shapes(self, scheme, shape):
        model = make_model(scheme)
        outputs = model.timesformer(make_clip(*shape))
        tokens = 1 + shape[3] * shape[4] // 64 * (1 if scheme == "space_only" else shape[1])
        assert outputs.last_hidden_state.shape == (shape[0], tokens, 48)
        assert outputs.last_hidden_state.isfinite().all()

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_configured_rectangular(self, scheme):
        model = make_model(scheme, image_size=(16, 40), patch_size=[8, 4])
        assert model.config.grid_size == (2, 10)
        assert model.timesformer.embeddings.position_embeddings.shape == (1, 21, 48)
        assert model(make_clip(1, 4, 3, 16, 40)).logits.isfinite().all()

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_batch_entries_do_not_mix(self, scheme):
        model, clips = make_model(scheme).double(), make_clip(3, 6, 3, 16, 24, dtype=torch.float64)
        together = model(clips).logits
        alone = torch.cat([model(clip[None]).logits for clip in clips])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)

    def test_divided_attention_is_blind_where_the_paper_says(self):
        """A step at a time, by the gradient: a tube sees its own location, a frame only itself."""
        model = make_model(num_hidden_layers=1).double()
        layer, grid = model.timesformer.encoder.layer[0], (4, 2, 3)
        tokens = torch.randn(1, 25, 48, dtype=torch.float64, requires_grad=True)
        time, space = layer.steps
        index = 1 + 2 * 4 + 1  # patch 2 in frame 1: the frame index runs fastest

        def seen_by(step) -> list[int]:
            (gradient,) = torch.autograd.grad(layer.attend(step, tokens, grid)[0][0, index].sum(), tokens)
            return [int(i) for i in gradient[0].abs().sum(-1).nonzero()]

        assert seen_by(time) == [1 + 2 * 4 + frame for frame in range(4)]
        assert seen_by(space) == [0] + [1 + patch * 4 + 1 for patch in range(6)]
        assert layer.attend(time, tokens, grid)[0][0, 0].abs().max() == 0  # CLS takes no part in the time step

    @pytest.mark.parametrize("mode", ["nearest", "bicubic"])
    def test_forward_equals_resized_model(self, mode):
        model = make_model(interpolation_mode=mode).double()
        clip = make_clip(1, 6, 3, 48, 16, dtype=torch.float64)
        resized = copy.deepcopy(model)
        resized.resize_embeddings(num_frames=6, image_size=(48, 16))
        assert resized.timesformer.embeddings.time_embeddings.shape == (1, 6, 48)
        assert resized.timesformer.embeddings.position_embeddings.shape == (1, 1 + 6 * 2, 48)
        torch.testing.assert_close(model(clip).logits, resized(clip).logits, rtol=0, atol=1e-10)

    def test_nearest_resizing_copies_rows(self):
        table = torch.arange(1 + 4.0).reshape(1, 5, 1)
        doubled = resize_position_table(table, (2, 2), (4, 4), "nearest")
        assert doubled.flatten().tolist() == [0, 1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]
        assert resize_time_table(table[:, 1:], 6, "nearest").flatten().tolist() == [1, 1, 2, 3, 3, 4]


class TestInitialValues:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_initial_values_have_the_originals_statistics(self, scheme):
        torch.manual_seed(0)
        config = TimesformerConfig(attention_type=scheme, **TINY | {"hidden_size": 192, "intermediate_size": 768})
        state = TimesformerForVideoClassification(config).state_dict()
        added = [f"{step.dense}.weight" for step in ATTENTION_SCHEMES[scheme].steps if step.dense]
        zero = (*added, "time_embeddings")
        for name, tensor in state.items():
            if name.endswith(zero) or (name.endswith("bias") and "projection" not in name):
                assert tensor.abs().max() == 0, name
            elif "layernorm" in name:
                assert (tensor == 1).all(), name
            elif name.endswith("projection.weight"):  # torch's default: uniform, deviation 1 / sqrt(3 * fan_in)
                assert tensor.std() == pytest.approx((3 * 3 * 64) ** -0.5, rel=0.02)
            elif tensor.numel() > 1000:  # 1000 samples tell a deviation to about 7 % at three sigma
                assert tensor.std() == pytest.approx(0.02, rel=0.07), name
        assert sum(name.endswith(zero[:-1]) for name in state) == 3 * len(added)


class TestAttentionBackends:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_sdpa_equals_eager(self, scheme):
        eager, sdpa = make_model(scheme).double(), make_model(scheme).double()
        assert sdpa.config._attn_implementation == "sdpa"
        eager.set_attn_implementation("eager")
        clip, labels = make_clip(2, 5, 3, 24, 40, dtype=torch.float64), torch.tensor([0, 1])
        outputs, expected = sdpa(clip, labels=labels), eager(clip, labels=labels)
        torch.testing.assert_close(outputs.logits, expected.logits, rtol=0, atol=1e-10)
        outputs.loss.backward()
        expected.loss.backward()
        for parameter, twin in zip(sdpa.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, twin.grad, rtol=0, atol=1e-10)

    @pytest.mark.slow
    @pytest.mark.parametrize("scheme", ["divided_space_time", "sparse_local_global"])
    def test_flex_equals_eager(self, scheme):
        """flex_attention compiles on the CPU, forward only; its heads are at least 16 wide. Some groups are padded."""
        model = make_model(scheme, hidden_size=64, num_hidden_layers=1)
        clip = make_clip(2, 5, 3, 24, 32)
        with torch.no_grad():
            expected = model(clip).logits
            model.set_attn_implementation("flex_attention")
            torch.testing.assert_close(model(clip).logits, expected, **FLOAT32)

    def test_unknown_backend(self):
        with pytest.raises(ValueError, match="nonsense"):
            make_model().set_attn_implementation("nonsense")

    def test_output_attentions_falls_back_to_eager(self):
        model, clip = make_model(), make_clip()
        logging.warning_once.cache_clear()
        with CaptureLogger(logging.get_logger("timesformer_hf.model.modeling_timesformer")) as log:
            outputs = model(clip, output_attentions=True)
        assert "`sdpa` attention returns no attention maps: using eager attention" in log.out
        assert model.config._attn_implementation == "sdpa"
        for maps in (*outputs.attentions, *outputs.temporal_attentions):
            torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))  # float32 sums of up to 17 terms
        assert len(outputs.attentions) == len(outputs.temporal_attentions) == 3
        torch.testing.assert_close(outputs.logits, model(clip).logits, **FLOAT32)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_maps_of_the_steps_there_are(self, scheme):
        outputs = make_model(scheme)(make_clip(), output_attentions=True)
        assert len(outputs.to_tuple()) == 1 + len(ATTENTION_SCHEMES[scheme].steps)  # logits first

    def test_return_dict_in_the_config(self):
        model = make_model(return_dict=False)
        outputs = model(make_clip(), labels=torch.tensor([0, 1]))
        assert isinstance(outputs, tuple)
        assert [value.shape for value in outputs] == [(), (2, 5)]
        assert isinstance(model.timesformer(make_clip()), tuple)

    def test_output_attentions_from_the_config(self):
        config = TimesformerConfig(num_labels=5, output_attentions=True, attn_implementation="eager", **TINY)
        outputs = TimesformerForVideoClassification(config).eval()(make_clip())
        assert len(outputs.attentions) == len(outputs.temporal_attentions) == 3
        assert outputs.temporal_attentions[0].shape == (2 * 16, 4, 4, 4)

    def test_dropout_only_in_training(self):
        model, clip = make_model(attention_probs_dropout_prob=0.5), make_clip()
        torch.testing.assert_close(model(clip).logits, model(clip).logits, rtol=0, atol=0)
        model.train()
        assert not torch.equal(model(clip).logits, model(clip).logits)


class TestStochasticDepth:
    def test_drops_whole_entries_and_keeps_the_mean(self):
        torch.manual_seed(0)
        drop_path = TimesformerDropPath(0.25).train()
        kept = drop_path(torch.ones(4000, 3, 2))
        per_entry = kept.flatten(1)
        assert per_entry.unique().tolist() == pytest.approx([0, 4 / 3])
        assert (per_entry == per_entry[:, :1]).all()
        assert kept.mean() == pytest.approx(1, abs=0.05)  # 4000 draws: deviation 0.009
        assert drop_path.eval()(kept) is kept

    def test_rates_rise_from_zero(self):
        model = make_model(drop_path_rate=0.1)
        rates = [layer.drop_path.drop_prob for layer in model.timesformer.encoder.layer]
        assert rates == pytest.approx([0.0, 0.05, 0.1])

    @pytest.mark.parametrize(("step", "entries"), [("time", 2 * 6), ("space", 2 * 4), ("mlp", 2)])
    def test_masks_per_tube_frame_and_clip(self, step, entries, monkeypatch):
        """As in the original: a time residual is dropped per tube, a space residual per frame, the MLP's per clip."""
        sizes = []
        monkeypatch.setattr(TimesformerDropPath, "forward", lambda self, x: sizes.append(x.shape[0]) or x)
        layer = TimesformerLayer(TimesformerConfig(**TINY), 0)
        layer(torch.randn(2, 1 + 6 * 4, 48), grid=(4, 2, 3))
        assert sizes[("time", "space", "mlp").index(step)] == entries


class TestLoss:
    def loss(self, labels: torch.Tensor, **settings) -> torch.Tensor:
        model = make_model(**settings)
        outputs = model(make_clip(), labels=labels)
        assert model.config.problem_type == settings.get("problem_type")  # never written by a call
        self.logits = outputs.logits
        return outputs.loss

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
    def test_single_label_is_cross_entropy(self, dtype):
        loss = self.loss(torch.tensor([3, 1], dtype=dtype))
        expected = -self.logits.log_softmax(-1)[[0, 1], [3, 1]].mean()
        torch.testing.assert_close(loss, expected)

    def test_an_ignored_clip_has_no_say(self):
        loss = self.loss(torch.tensor([3, -100]))
        torch.testing.assert_close(loss, -self.logits.log_softmax(-1)[0, 3])

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
    def test_multi_label_is_binary_cross_entropy(self, dtype):
        targets = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
        loss = self.loss(targets.to(dtype))
        probabilities = self.logits.sigmoid()
        expected = -torch.where(targets == 1, probabilities, 1 - probabilities).log().mean()
        torch.testing.assert_close(loss, expected)

    def test_one_label_of_many_or_none(self):
        """A single yes-or-no question, with labels as a column or not."""
        settings = {"num_labels": 1, "problem_type": "multi_label_classification"}
        losses = [self.loss(labels, **settings) for labels in (torch.tensor([1, 0]), torch.tensor([[1.0], [0.0]]))]
        expected = -(self.logits[0].sigmoid().log() + (1 - self.logits[1].sigmoid()).log()).mean() / 2
        torch.testing.assert_close(torch.stack(losses), expected.expand(2))

    def test_regression_is_the_mean_square(self):
        loss = self.loss(torch.tensor([0.5, 2.0]), num_labels=1)
        torch.testing.assert_close(loss, ((self.logits[:, 0] - torch.tensor([0.5, 2.0])) ** 2).mean())
        targets = torch.arange(10.0).reshape(2, 5)
        loss = self.loss(targets, problem_type="regression")
        torch.testing.assert_close(loss, ((self.logits - targets) ** 2).mean())

    def test_one_model_takes_both_kinds(self):
        """The built-in model remembers the first batch's kind in its config."""
        model = make_model()
        single = model(make_clip(), labels=torch.tensor([1, 2])).loss
        model(make_clip(), labels=torch.ones(2, 5))
        torch.testing.assert_close(model(make_clip(), labels=torch.tensor([1, 2])).loss, single)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (torch.tensor([0, 5]), r"labels must lie in 0\.\.4 .* got \[5\]"),
            (torch.tensor([0, -1]), r"labels must lie in 0\.\.4 .* got \[-1\]"),
            (torch.tensor([0, 1, 2]), r"must have shape \(2,\) or \(2, 1\), got \(3,\)"),
            (torch.tensor([[0, 2, 1, 0, 0], [1, 0, 0, 0, -100]]), r"labels must lie in \[0, 1\].* got \[2, -100\]"),
            (torch.ones(2, 4), r"must have shape \(2, 5\), got \(2, 4\)"),
        ],
    )
    def test_bad_labels(self, labels, message):
        with pytest.raises(ValueError, match=message):
            make_model()(make_clip(), labels=labels)

    def test_labels_of_another_type(self):
        with pytest.raises(TypeError, match="labels must be a tensor, got list"):
            make_model()(make_clip(), labels=[0, 1])

    def test_float_labels_for_a_single_label_problem(self):
        with pytest.raises(ValueError, match=r"must be integers, got torch\.float32"):
            make_model(problem_type="single_label_classification")(make_clip(), labels=torch.tensor([1.0, 2.0]))


class TestBadPixels:
    @pytest.mark.parametrize(
        ("clip", "message"),
        [
            (torch.zeros(4, 3, 32, 32), r"5 dimensions .* got 4: \(4, 3, 32, 32\)"),
            (torch.zeros(1, 3, 4, 32, 32), r"3 channels in dimension 2 .* got 4: .* try transpose\(1, 2\)"),
            (torch.zeros(1, 4, 1, 32, 32), r"3 channels in dimension 2 .* got 1"),
            (torch.zeros(0, 4, 3, 32, 32), r"at least one clip in dimension 0 .* got \(0, 4, 3, 32, 32\)"),
            (torch.zeros(1, 0, 3, 32, 32), r"at least one frame in dimension 1 .* got \(1, 0, 3, 32, 32\)"),
            (torch.zeros(1, 4, 3, 30, 32), r"height=30 of pixel_values .* multiple of the patch height, 8"),
            (torch.zeros(1, 4, 3, 32, 12), r"width=12 of pixel_values .* multiple of the patch width, 8"),
        ],
    )
    def test_shapes_that_cannot_be_are_told(self, clip, message):
        with pytest.raises(ValueError, match=message):
            make_model()(clip)

    def test_attention_mask(self):
        assert make_model()(make_clip(), attention_mask=None).logits.isfinite().all()
        with pytest.raises(ValueError, match="takes no attention_mask"):
            make_model()(make_clip(), attention_mask=torch.ones(2, 65))

    def test_an_array_is_told_from_a_tensor(self):
        with pytest.raises(TypeError, match=r"got ndarray, which is not a tensor\. Use a video processor"):
            make_model()(make_clip().numpy())

    @pytest.mark.parametrize("clip", [torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8), [[1.0]], None])
    def test_types_that_cannot_be_are_told(self, clip):
        with pytest.raises(TypeError, match="pixel_values must be a floating-point tensor"):
            make_model()(clip)

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_black_gives_finite_outputs(self, scheme, dtype):
        assert make_model(scheme).to(dtype)(torch.zeros(1, 4, 3, 32, 32)).logits.isfinite().all()


class TestPrecisionAndMemory:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
    def test_half_precision(self, scheme, dtype, tolerance):
        """
        fp32 pixels are cast. Three blocks of rounding at 2^-8 (bf16) or 2^-11 (fp16) on logits of about 1; a tenth
        of that is seen.
        """
        model, clip = make_model(scheme), make_clip()
        expected = model(clip).logits
        logits = copy.deepcopy(model).to(dtype)(clip).logits
        assert logits.dtype == dtype
        torch.testing.assert_close(logits.float(), expected, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_training(self, dtype):
        model = make_model(drop_path_rate=0.1).to(dtype).train()
        model(make_clip(), labels=torch.tensor([0, 1])).loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_autocast(self):
        model, clip = make_model(), make_clip()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(clip).logits
        torch.testing.assert_close(logits.float(), model(clip).logits, rtol=0, atol=0.1)

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_gradient_checkpointing(self, scheme, use_reentrant):
        plain, checkpointed = make_model(scheme).double().train(), make_model(scheme).double().train()
        enable_checkpointing(checkpointed, use_reentrant=use_reentrant)
        clip, labels = make_clip(dtype=torch.float64).requires_grad_(), torch.tensor([0, 1])
        for model in (plain, checkpointed):
            model(clip, labels=labels).loss.backward()
        for parameter, twin in zip(checkpointed.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, twin.grad, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_gradients_by_finite_differences(self, scheme):
        model = make_model(scheme, num_hidden_layers=1, image_size=16, hidden_size=8, num_attention_heads=2).double()
        clip = make_clip(1, 2, 3, 16, 8, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: model(x).logits, clip)


class TestCompile:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_one_graph_for_every_shape(self, scheme):
        """
        fullgraph with dynamic batch and frames: no compilation past the second shape, except one for odd sizes, which
        need a mask, where a scheme halves the clip.
        """
        torch.compiler.reset()
        model, compilations = make_model(scheme), []

        def count(graph, inputs):
            compilations.append(tuple(inputs[0].shape) if isinstance(inputs[0], torch.Tensor) else None)
            return graph

        compiled = torch.compile(model, fullgraph=True, backend=count)
        with torch.no_grad():
            for batch, frames in [(2, 4), (3, 6), (4, 5), (5, 8), (2, 7), (6, 3)]:
                clip = make_clip(batch, frames, 3, 32, 32)
                torch.testing.assert_close(compiled(clip).logits, model(clip).logits, **FLOAT32)
        assert len(compilations) <= (3 if scheme == "sparse_local_global" else 2)

    def test_attention_maps_of_a_compiled_model(self):
        """transformers installs the hooks that record them in the first call that asks, which can't be compiled."""
        torch.compiler.reset()
        model, clip = make_model(), make_clip()
        expected = model(clip, output_attentions=True)
        outputs = torch.compile(model, fullgraph=True, backend="eager")(clip, output_attentions=True)
        torch.testing.assert_close(outputs.attentions, expected.attentions, **FLOAT32)
        torch.testing.assert_close(outputs.temporal_attentions, expected.temporal_attentions, **FLOAT32)

    @pytest.mark.slow
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_inductor(self, scheme):
        torch.compiler.reset()
        model, clip = make_model(scheme), make_clip()
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(clip).logits, model(clip).logits, **FLOAT32)
        compiled(clip, labels=torch.tensor([0, 1])).loss.backward()
