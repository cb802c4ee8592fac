"""Starting from an image ViT of transformers or timm: their own outputs are the oracle."""

from functools import partial

import pytest
import torch
from tiny_models import FLOAT32, SCHEMES, TINY, make_clip, randomize
from transformers import ViTConfig, ViTForImageClassification, ViTModel
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from timesformer_hf import TimesformerForVideoClassification, TimesformerModel
from timesformer_hf.checkpoints.image_vit import read_image_vit
from timesformer_hf.checkpoints.parity import IMAGE_CLIPS, difference_from_image_vit
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES


SETTINGS = {name: TINY[name] for name in TINY if name != "num_frames"}


def make_vit(model_class=ViTForImageClassification, **settings):
    config = ViTConfig(**SETTINGS | {"id2label": {0: "cat", 1: "dog", 2: "bird"}} | settings)
    return randomize(model_class(config)).double().eval()


def images(*shape: int) -> torch.Tensor:
    return make_clip(*(shape or (2, 3, 32, 32)), dtype=torch.float64)


@pytest.mark.parametrize("scheme", ["divided_space_time", "space_only"])
@pytest.mark.parametrize("frames", [1, 5])
def test_identical_frames_give_the_vits_outputs(scheme, frames):
    vit = make_vit()
    model = TimesformerForVideoClassification.from_image_vit(vit, attention_type=scheme, num_frames=frames)
    clip = images().unsqueeze(1).expand(-1, frames, -1, -1, -1)
    tokens = model.timesformer(clip).last_hidden_state
    expected = vit.vit(images()).last_hidden_state
    torch.testing.assert_close(tokens[:, 0], expected[:, 0], rtol=0, atol=1e-10)
    if scheme == "divided_space_time":
        last_frame = tokens[:, 1:].unflatten(1, (16, frames))[:, :, -1]
        torch.testing.assert_close(last_frame, expected[:, 1:], rtol=0, atol=1e-10)
    torch.testing.assert_close(model(clip).logits, vit(images()).logits, rtol=0, atol=1e-10)
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "bird"}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("settings", [{}, {"image_size": (24, 40)}, {"patch_size": 16}, {"qkv_bias": False}])
def test_every_scheme_computes_the_vit_where_it_can(scheme, settings):
    """What `convert` checks: clips on which a scheme's last step meets what the ViT's attention meets."""
    vit = make_vit(**settings)
    model = TimesformerForVideoClassification.from_image_vit(vit, attention_type=scheme, num_frames=3)
    weights, _, _ = read_image_vit(vit)
    assert difference_from_image_vit(model, weights) <= 1e-10
    with torch.no_grad():
        model.timesformer.encoder.layer[1].attention.output.dense.weight.mul_(1.001)
    assert difference_from_image_vit(model, weights) > 1e-5  # the check sees a small error
    assert set(IMAGE_CLIPS) == set(ATTENTION_SCHEMES)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_added_steps_are_copies_that_start_at_zero(scheme):
    model = TimesformerModel.from_image_vit(make_vit(ViTModel), attention_type=scheme)
    *added, own = ATTENTION_SCHEMES[scheme].steps
    for layer in model.encoder.layer:
        for step in added:
            for name, twin in ((step.attention, own.attention), (step.norm, own.norm)):
                copies, originals = getattr(layer, name).state_dict(), getattr(layer, twin).state_dict()
                assert all(copies[key].equal(originals[key]) for key in originals)
                assert all(copies[key].data_ptr() != originals[key].data_ptr() for key in originals)
            assert getattr(layer, step.dense).weight.abs().max() == 0
    if not ATTENTION_SCHEMES[scheme].frames_apart:
        assert model.embeddings.time_embeddings.shape == (1, 8, 48)
        assert model.embeddings.time_embeddings.abs().max() == 0


@pytest.mark.parametrize("source", ["model", "folder", "file", "state dict", "file's state dict", "headless"])
def test_every_kind_of_source_gives_the_same_model(source, tmp_path):
    """A state dict by itself doesn't tell the heads; transformers' epsilon, 1e-12, is known."""
    vit = make_vit()
    vit.save_pretrained(tmp_path)
    heads = {"num_attention_heads": 4}
    sources = {
        "model": (vit, {}),
        "folder": (tmp_path, {}),
        "file": (tmp_path / "model.safetensors", {}),  # with the config beside it
        "state dict": (vit.state_dict(), heads),
        "file's state dict": (torch_file(tmp_path / "vit.bin", vit.state_dict()), heads),
        "headless": (vit.vit.state_dict(), heads),
    }
    given, settings = sources[source]
    model = TimesformerModel.from_image_vit(given, **settings)
    features = model(images().unsqueeze(1)).last_hidden_state[:, 0]
    torch.testing.assert_close(features, vit.vit(images()).last_hidden_state[:, 0], rtol=0, atol=1e-10)


def torch_file(path, state_dict):
    torch.save(state_dict, path)
    return path


def test_a_timm_vit_gives_its_outputs(tmp_path):
    vision_transformer = pytest.importorskip("timm.models.vision_transformer", reason="the test extra has timm")
    timm_model = vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=2, mlp_ratio=2, num_heads=2, num_classes=7
    )
    timm_model = randomize(timm_model).double().eval()
    for source in (timm_model.state_dict(), torch_file(tmp_path / "timm.pth", timm_model.state_dict()), timm_model):
        model = TimesformerForVideoClassification.from_image_vit(source, num_frames=3)  # 2 heads of 64 channels
        clip = images().unsqueeze(1).expand(-1, 3, -1, -1, -1)
        torch.testing.assert_close(model(clip).logits, timm_model(images()), rtol=0, atol=1e-10)


def test_a_timm_module_tells_its_heads_and_constants():
    """Heads, epsilon, activation and pooling, which its weights don't tell."""
    timm = pytest.importorskip("timm", reason="the test extra has timm")
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_classes": 7}
    make = timm.models.vision_transformer.VisionTransformer
    norm = partial(torch.nn.LayerNorm, eps=1e-3)
    timm_model = randomize(make(num_heads=8, norm_layer=norm, act_layer="quick_gelu", **settings)).double().eval()
    model = TimesformerForVideoClassification.from_image_vit(timm_model, num_frames=1)
    assert model.config.num_attention_heads == 8
    torch.testing.assert_close(model(images().unsqueeze(1)).logits, timm_model(images()), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match=r"pools its patches \(global_pool='avg'\)"):
        TimesformerForVideoClassification.from_image_vit(
            make(num_heads=8, global_pool="avg", fc_norm=False, **settings)
        )


def test_new_classes_start_a_new_head():
    vit = make_vit()
    model = TimesformerForVideoClassification.from_image_vit(vit, id2label=dict(enumerate("abcde")))
    assert model.classifier.weight.shape == (5, 48)
    assert model.config.id2label[4] == "e"
    same = TimesformerForVideoClassification.from_image_vit(vit, num_labels=3)
    assert same.classifier.weight.equal(vit.classifier.weight)
    assert same.config.id2label[0] == "LABEL_0"  # as asked: three classes, without names


def test_another_size_is_resized_and_saved(tmp_path):
    vit = make_vit()
    with CaptureLogger(logging.get_logger("timesformer_hf.model.modeling_timesformer")) as log:
        model = TimesformerForVideoClassification.from_image_vit(vit.float(), num_frames=2, image_size=(64, 48))
    assert "Resized the embeddings (nearest) from 2 frames of 4 x 4 patches to 2 frames of 8 x 6" in log.out
    model.save_pretrained(tmp_path)
    loaded = TimesformerForVideoClassification.from_pretrained(tmp_path)
    clip = make_clip(1, 2, 3, 64, 48)
    torch.testing.assert_close(loaded(clip).logits, model(clip).logits, **FLOAT32)


def test_label2id_dtype_and_attention():
    model = TimesformerForVideoClassification.from_image_vit(
        make_vit(), label2id={"a": 0, "b": 1}, dtype=torch.bfloat16, attn_implementation="eager"
    )
    assert model.config.id2label == {0: "a", 1: "b"}
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"


def test_half_precision_is_kept():
    model = TimesformerForVideoClassification.from_image_vit(make_vit().to(torch.bfloat16))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


class TestBadInput:
    def test_a_timesformer_is_refused(self, tmp_path):
        TimesformerForVideoClassification.from_image_vit(make_vit()).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="is a TimeSformer of transformers, not an image ViT"):
            TimesformerModel.from_image_vit(tmp_path)

    def test_weights_left_over_are_refused(self):
        state = make_vit(ViTModel).state_dict() | {"layers.0.layer_scale1.lambda1": torch.ones(48)}
        with pytest.raises(ValueError, match=r"1 unknown keys in the checkpoint: layers\.0\.layer_scale1\.lambda1"):
            TimesformerModel.from_image_vit(state, num_attention_heads=4)

    def test_missing_weights_are_refused(self):
        state = make_vit(ViTModel).state_dict()
        del state["layers.1.attention.k_proj.weight"]
        with pytest.raises(ValueError, match=r"missing .*encoder\.layer\.1\.attention\.attention\.qkv\.weight"):
            TimesformerModel.from_image_vit(state, num_attention_heads=4)

    def test_unknown_scheme_is_refused(self):
        with pytest.raises(ValueError, match=r"attention_type='nonsense' must be one of .*'axial'"):
            TimesformerModel.from_image_vit(make_vit(), attention_type="nonsense")

    @pytest.mark.parametrize(
        ("settings", "error", "message"),
        [
            (
                {"num_label": 5},
                TypeError,
                "doesn't take num_label: the image model fixes the structure. It takes image_size",
            ),
            ({"hidden_size": 96}, TypeError, "doesn't take hidden_size"),
            ({"num_labels": 3, "id2label": {0: "a"}}, ValueError, "num_labels=3, but id2label names 1 classes"),
            ({"id2label": {1: "a", 2: "b"}}, ValueError, "can't be used: no class 0"),
            ({"num_attention_heads": 2}, ValueError, "states 4 heads, not --num-attention-heads 2"),
            ({"image_size": 33}, ValueError, "image_size=33 must be a multiple of patch_size=8"),
        ],
    )
    def test_settings_that_contradict_the_weights_are_refused(self, settings, error, message):
        with pytest.raises(error, match=message):
            TimesformerForVideoClassification.from_image_vit(make_vit(), **settings)

    def test_a_source_without_weights_is_refused(self):
        with torch.device("meta"):
            vit = ViTModel(ViTConfig(**SETTINGS))
        with pytest.raises(ValueError, match="is on the meta device"):
            TimesformerModel.from_image_vit(vit)

    def test_another_type_of_source_is_refused(self):
        with pytest.raises(ValueError, match=r"the state dict has an unknown layout\. Found 1 weights: conv1"):
            TimesformerModel.from_image_vit({"conv1": torch.zeros(1)})
        with pytest.raises(FileNotFoundError, match="nowhere: there is no such file or folder"):
            TimesformerModel.from_image_vit("nowhere")
