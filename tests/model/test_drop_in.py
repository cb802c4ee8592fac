"""What programs do with the model built into transformers gives the same with ours: the built-in is the oracle."""

import copy
import io
import types
import warnings

import pytest
import torch
from tiny_models import make_clip
from torch import nn
from transformers.models.timesformer.configuration_timesformer import TimesformerConfig as NativeConfig
from transformers.models.timesformer.modeling_timesformer import (
    TimesformerForVideoClassification as NativeForVideoClassification,
)

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification
from timesformer_hf.model.modeling_timesformer import computes_cls_alone


SIZES = {
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 3,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_labels": 5,
}
SCHEMES = ["divided_space_time", "joint_space_time"]  # with space_only the built-in's tokens are another average
LABELS = torch.tensor([1, 4])


def clip() -> torch.Tensor:
    return make_clip(2, 3, 3, 16, 16, dtype=torch.float64)


def make_pair(attention_type: str = "divided_space_time", **settings) -> tuple[nn.Module, nn.Module]:
    """The built-in model and ours, with the same random weights, in float64."""
    settings = SIZES | {"attention_type": attention_type} | settings
    torch.manual_seed(0)
    native = NativeForVideoClassification(NativeConfig(**settings)).double().eval()
    with torch.no_grad():
        for parameter in native.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    ours = TimesformerForVideoClassification(TimesformerConfig(**settings)).double().eval()
    ours.load_state_dict(native.state_dict())
    return native, ours


@pytest.fixture(params=SCHEMES)
def pair(request):
    return make_pair(request.param)


def check_equal(pair, use, **tolerance) -> None:
    """Both models give the same if used like this."""
    native, ours = pair
    expected = use(native)
    torch.testing.assert_close(use(ours), expected, **{"rtol": 0, "atol": 1e-10} | tolerance)


def loss_gradients(model) -> dict:
    torch.manual_seed(0)
    model(clip(), labels=LABELS).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("scheme", [*SCHEMES, "space_only"])
def test_parameters_have_the_built_ins_order(scheme):
    """The state of an optimizer stores parameters by their number."""
    native, ours = make_pair(scheme)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in native.named_parameters()]


# How programs call the modules inside: name -> use
INNER_CALLS = {
    "embeddings": lambda model: model.timesformer.embeddings(clip()),
    "patch_embeddings": lambda model: model.timesformer.embeddings.patch_embeddings(clip()),
    "layer": lambda model: model.timesformer.encoder.layer[0](model.timesformer.embeddings(clip()))[0],
    "layer with maps": lambda model: model.timesformer.encoder.layer[0](model.timesformer.embeddings(clip()), True)[:2],
    "encoder": lambda model: model.timesformer.encoder(model.timesformer.embeddings(clip())).last_hidden_state,
    "encoder, tuple": lambda model: model.timesformer.encoder(
        model.timesformer.embeddings(clip()), output_hidden_states=True, output_attentions=True, return_dict=False
    )[:3],
    "base model, positional": lambda model: model.timesformer(clip(), True, True, False)[:3],
    "classifier, positional": lambda model: model(clip(), None, True, True, False)[:3],
    "classifier, labels": lambda model: model(clip(), LABELS, None, None, False),
    "intermediate": lambda model: model.timesformer.encoder.layer[0].intermediate(clip().flatten(0, 3)),
    "attention": lambda model: model.timesformer.encoder.layer[0].attention(clip().flatten(1, 3), True),
    "attention by name": lambda model: model.timesformer.encoder.layer[0].attention.attention(
        hidden_states=clip().flatten(1, 3)
    ),
    "drop_path": lambda model: model.timesformer.encoder.layer[1].drop_path(clip()),
}


@pytest.mark.parametrize("use", INNER_CALLS.values(), ids=INNER_CALLS)
def test_inner_calls(pair, use):
    check_equal(pair, use)


ATTRIBUTES = (
    "timesformer.embeddings.num_patches",
    "timesformer.embeddings.attention_type",
    "timesformer.embeddings.patch_embeddings.num_patches",
    "timesformer.embeddings.patch_embeddings.image_size",
    "timesformer.embeddings.patch_embeddings.patch_size",
    "timesformer.encoder.layer.1.attention_type",
    "timesformer.encoder.layer.1.attention.attention.num_heads",
    "timesformer.encoder.layer.1.attention.attention.scale",
    "timesformer.encoder.layer.1.attention.attention.attn_drop.p",
    "num_labels",
)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_attributes(pair, attribute):
    def look(model):
        path, _, name = attribute.rpartition(".")
        return getattr(model.get_submodule(path), name)

    assert look(pair[1]) == look(pair[0])


def test_configs_of_the_modules():
    model = make_pair()[1]
    encoder = model.timesformer.encoder
    assert encoder.config is encoder.layer[1].config is model.config


class TestHooks:
    def test_a_hook_on_any_one_module_sees_what_the_built_ins_does(self, pair):
        """One hook at a time, so that no other hook makes the model compute everything."""
        twice = {"timesformer.embeddings.pos_drop", "timesformer.embeddings.time_drop"}  # see differences.md
        names = [name for name, module in pair[0].named_modules() if name and name not in twice]
        assert len(names) > 40
        for name in names:

            def see(model, name=name):
                seen = []
                handle = model.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[-1]))
                model(clip())
                handle.remove()
                return [output if isinstance(output, torch.Tensor) else output[0] for output in seen]

            check_equal(pair, see, msg=lambda message, name=name: f"{name}: {message}")

    @pytest.mark.parametrize(
        "name", ["timesformer", "timesformer.layernorm", "timesformer.encoder.layer.1.output.dense"]
    )
    def test_inputs_and_gradients(self, pair, name):
        """As Grad-CAM sees them, at the end of the network."""

        def see(model):
            seen = []
            module = model.get_submodule(name)
            handles = [module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))]
            if name != "timesformer":
                handles.append(module.register_full_backward_hook(lambda module, into, out: seen.append(out[0])))
            model(clip()).logits[:, 2].sum().backward()
            for handle in handles:
                handle.remove()
            return seen

        check_equal(pair, see)

    def test_global_hooks(self, pair):
        def see(model):
            seen = []

            def note(module, inputs, output):
                if isinstance(module, nn.LayerNorm):
                    seen.append(output)

            handle = nn.modules.module.register_module_forward_hook(note)
            try:
                model(clip(), labels=LABELS).loss.backward()
            finally:
                handle.remove()
            return seen

        check_equal(pair, see)

    def test_an_output_that_a_hook_changes(self, pair):
        def use(model):
            def change(module, inputs, output):
                return (output[0] * 2, *output[1:])

            handles = [layer.register_forward_hook(change) for layer in model.timesformer.encoder.layer]
            logits = model(clip()).logits
            for handle in handles:
                handle.remove()
            return logits

        check_equal(pair, use)

    def test_attention_rollout(self, pair):
        """The maps, as the dropout after the softmax sees them; no flag asks for them."""

        def see(model):
            seen = []
            for name, module in model.named_modules():
                if name.endswith("attn_drop"):
                    module.register_forward_hook(lambda module, inputs, output: seen.append(output))
            model(clip())
            return seen

        check_equal(pair, see)

    def test_patched_forward_of_the_last_block(self, pair):
        def use(model):
            model, seen = copy.deepcopy(model), []
            norm = model.timesformer.encoder.layer[-1].layernorm_after

            def forward(self, hidden_states):
                seen.append(hidden_states)
                return nn.LayerNorm.forward(self, hidden_states)

            norm.forward = types.MethodType(forward, norm)
            model(clip(), labels=LABELS).loss.backward()
            return seen

        check_equal(pair, use)

    @pytest.mark.parametrize("kind", ["forward", "full_backward", "backward_pre"])
    def test_each_call_fires_once_and_gradients_stay(self, pair, kind):
        """Norms and activations are computed again in the backward pass, but not those that somebody watches."""
        watched = ("layernorm_before", "layernorm_after", "temporal_layernorm", "intermediate_act_fn")

        def use(model):
            model, calls = copy.deepcopy(model).train(), []
            for name, module in model.named_modules():
                if name.endswith(watched):
                    register = {
                        "forward": module.register_forward_hook,
                        "full_backward": module.register_full_backward_hook,
                        "backward_pre": module.register_full_backward_pre_hook,
                    }[kind]
                    register(lambda *call, name=name: calls.append(name))
            gradients = loss_gradients(model)
            return gradients | {"calls": torch.tensor([sum(map(ord, name)) for name in sorted(calls)])}

        check_equal(pair, use)

    def test_retain_grad_inside_a_hook(self, pair):
        def use(model):
            seen = []

            def keep(module, inputs, output):
                output.retain_grad()
                seen.append(output)

            model.timesformer.encoder.layer[0].layernorm_after.register_forward_hook(keep)
            model.timesformer.encoder.layer[1].intermediate.intermediate_act_fn.register_forward_hook(keep)
            model(clip(), labels=LABELS).loss.backward()
            return [output.grad for output in seen]

        check_equal(pair, use)

    def test_without_hooks_the_last_block_computes_cls_alone(self):
        model, rows = make_pair()[1], []
        dense = model.timesformer.encoder.layer[-1].output.dense
        dense.forward = lambda hidden_states: (
            rows.append(hidden_states.shape[1]) or nn.Linear.forward(dense, hidden_states)
        )
        model(clip())
        del dense.forward
        assert computes_cls_alone(model.timesformer)
        original = type(dense).forward
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.Linear, "forward", lambda self, x: rows.append(x.shape[1]) or original(self, x))
            assert not computes_cls_alone(model.timesformer)  # somebody's forward, which may mix tokens
        assert rows == [13]
        handle = dense.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[1]))
        assert not computes_cls_alone(model.timesformer)
        model(clip())
        handle.remove()
        assert rows == [13, 13]


class Noise(nn.Module):
    """A norm or an activation that is random, as somebody may put one in."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, hidden_states):
        return self.module(hidden_states) * (1 + 0.5 * torch.randn_like(hidden_states))


class Shift(nn.Module):
    """A module that mixes tokens, as adapters for videos do."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, hidden_states):
        hidden_states = self.module(hidden_states)
        return hidden_states + hidden_states.mean(dim=1, keepdim=True)


class Wrapped(nn.Module):
    """Around a block, with the arguments of the built-in's."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states, output_attentions=False):
        hidden_states, *maps = self.layer(hidden_states, output_attentions)
        return hidden_states.flip(1) * 0.5, *maps


class PlainAttention(nn.Module):
    """An attention of one's own in place of the model's, with the arguments and the results of the built-in's."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states, output_attentions=False):
        return (self.attention.output.dense(hidden_states.cumsum(1)),)


def replace_layers(replace):
    def change(model):
        layers = model.timesformer.encoder.layer
        for index, layer in enumerate(layers):
            layers[index] = replace(layer) or layer

    return change


def set_attribute(layer, name: str, wrap) -> None:
    """layer.name = wrap(layer.name), where the name may have dots."""
    path, _, name = name.rpartition(".")
    parent = layer.get_submodule(path)
    setattr(parent, name, wrap(getattr(parent, name)))


def new_projection(model):
    torch.manual_seed(1)
    model.timesformer.embeddings.patch_embeddings.projection = nn.Conv2d(4, 16, 8, stride=8).double()


def stem(model):
    torch.manual_seed(1)
    embeddings = model.timesformer.embeddings.patch_embeddings
    embeddings.projection = nn.Sequential(nn.Conv2d(4, 3, 1).double(), embeddings.projection)


def finer_projection(model):
    torch.manual_seed(1)
    model.timesformer.embeddings.patch_embeddings.projection = nn.Conv2d(3, 16, 4, stride=4).double()


def square_positions(model):
    """For 3 x 3 patches; the config still says 2 x 2."""
    torch.manual_seed(1)
    table = torch.randn(1, 10, 16, dtype=torch.float64)
    model.timesformer.embeddings.position_embeddings = nn.Parameter(table)


def more_times(model):
    torch.manual_seed(1)
    model.timesformer.embeddings.time_embeddings = nn.Parameter(torch.randn(1, 5, 16, dtype=torch.float64))


SURGERY = {
    "fewer layers": lambda model: setattr(model.timesformer.encoder, "layer", model.timesformer.encoder.layer[:1]),
    "new head": lambda model: setattr(model, "classifier", nn.Sequential(nn.Dropout(0.5), model.classifier).eval()),
    "no final norm": lambda model: setattr(model.timesformer, "layernorm", nn.Identity()),
    "wrapped layers": replace_layers(Wrapped),
    "own attention": replace_layers(lambda layer: set_attribute(layer, "attention", PlainAttention)),
    "token mixing in the MLP": replace_layers(lambda layer: set_attribute(layer, "output", Shift)),
    "token mixing in the activation": replace_layers(
        lambda layer: set_attribute(layer, "intermediate.intermediate_act_fn", Shift)
    ),
    "token mixing around the MLP": replace_layers(lambda layer: set_attribute(layer, "intermediate", Shift)),
    "token mixing at the end": lambda model: setattr(
        model.timesformer, "layernorm", Shift(model.timesformer.layernorm)
    ),
    "another scale": replace_layers(lambda layer: setattr(layer.attention.attention, "scale", 1.0)),
    "four channels": new_projection,
    "a stem of two convolutions": stem,
    "smaller patches": finer_projection,
    "other positions": square_positions,
    "other times": more_times,
}


class TestSurgery:
    @pytest.mark.parametrize("change", SURGERY.values(), ids=SURGERY)
    def test_logits_and_gradients(self, change):
        for model in (pair := make_pair()):
            change(model)
        channels = 4 if change in (new_projection, stem) else 3
        pixels = make_clip(2, 3, channels, 16, 16, dtype=torch.float64)

        def use(model):
            outputs = model(pixels, labels=LABELS)
            outputs.loss.backward()
            return outputs.logits, {name: parameter.grad for name, parameter in model.named_parameters()}

        check_equal(pair, use)

    @pytest.mark.parametrize("name", ["layernorm_after", "temporal_layernorm", "intermediate.intermediate_act_fn"])
    @pytest.mark.parametrize(
        "noise", [Noise, lambda module: nn.Sequential(module, nn.Dropout(0.4)), lambda _: nn.RReLU()]
    )
    def test_random_modules_have_right_gradients(self, name, noise):
        for model in (pair := make_pair()):
            set_attribute(model.timesformer.encoder.layer[0], name, noise)
            model.train()
        check_equal(pair, loss_gradients)

    def test_embeddings_of_ones_own(self):
        class Embeddings(nn.Module):
            def __init__(self, embeddings):
                super().__init__()
                self.embeddings = embeddings

            def forward(self, pixel_values):
                return self.embeddings(pixel_values) * 2

        for model in (pair := make_pair()):
            model.timesformer.embeddings = Embeddings(model.timesformer.embeddings)
        check_equal(pair, lambda model: model(clip()).logits)

    def test_positions_that_are_no_grid(self):
        model = make_pair()[1]
        model.timesformer.embeddings.position_embeddings = nn.Parameter(torch.zeros(1, 8, 16, dtype=torch.float64))
        with pytest.raises(
            ValueError, match=r"7 position embeddings .* neither the config's grid of 2 x 2 nor a square"
        ):
            model(clip())

    def test_tokens_that_fit_no_clip(self):
        layer = make_pair()[1].timesformer.encoder.layer[0]
        with pytest.raises(ValueError, match=r"13 tokens of patches don't fit the config's 3 frames.* grid="):
            layer(torch.zeros(2, 14, 16, dtype=torch.float64))


class TestTransforms:
    def test_gradients_of_each_clip(self, pair):
        def use(model):
            parameters = dict(model.named_parameters())

            def loss(parameters, pixels, label):
                return torch.func.functional_call(model, parameters, (pixels[None],), {"labels": label[None]}).loss

            return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, clip(), LABELS)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vmap's, about speed
            check_equal(pair, use)
            check_equal(pair, lambda model: torch.func.vmap(lambda pixels: model(pixels[None]).logits)(clip()))

    def test_double_backward_with_eager_attention(self, pair):
        pair[1].set_attn_implementation("eager")

        def use(model):
            pixels = clip().requires_grad_()
            (gradient,) = torch.autograd.grad(model(pixels, labels=LABELS).loss, pixels, create_graph=True)
            gradient.square().sum().backward()
            return pixels.grad

        check_equal(pair, use)

    def test_old_onnx_exporter_with_any_batch(self):
        onnxruntime = pytest.importorskip("onnxruntime", reason="the export is run in onnxruntime")
        pytest.importorskip("onnx", reason="torch's exporter needs onnx")
        model = make_pair()[1].float()
        file, axes = io.BytesIO(), {"pixel_values": {0: "batch"}, "logits": {0: "batch"}}
        names = {"input_names": ["pixel_values"], "output_names": ["logits"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(model, (clip().float(),), file, dynamo=False, dynamic_axes=axes, **names)
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        three = make_clip(3, 3, 3, 16, 16)
        (logits,) = session.run(None, {"pixel_values": three.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(three).logits, rtol=1e-4, atol=1e-5)  # float32
