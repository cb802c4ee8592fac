"""Where a training starts: labels, heads, sizes, processors, and what of the model is trained."""

import pytest
import torch
from finetuning import SIZE, TINY, save_image_vit, save_model, weights

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES
from timesformer_hf.training.adapters import add_lora
from timesformer_hf.training.start import (
    LabelMismatchError,
    freeze,
    match_labels,
    start_from_checkpoint,
    start_from_scratch,
)


class TestLabels:
    def test_they_are_matched_by_their_letters(self):
        known = {0: "air drumming", 1: "LABEL_1", 2: "swim"}
        assert match_labels("m", ["Air_Drumming", "swim"], known) == {"Air_Drumming": 0, "swim": 2}
        assert match_labels("m", ["a"], {0: "LABEL_0", 1: "LABEL_1"}) is None

    def test_other_labels_are_refused_with_both_lists(self):
        with pytest.raises(LabelMismatchError) as caught:
            match_labels("m", ["cat", "dog"], {0: "swim", 1: "cat"})
        message = str(caught.value)
        assert "was trained on other labels: it lacks 1 of the data's 2" in message
        assert "the data's:       cat, dog\n" in message
        assert "the checkpoint's: swim, cat\n" in message
        assert "--reset_head" in message

    @pytest.mark.parametrize(
        ("data", "known"),
        [
            (["-1", "+1"], ["1", "2"]),
            (["c++", "C"], ["c", "d"]),
            (["!", "?"], ["...", "d"]),
            (["Up", "up"], ["up", "down"]),
            (["go!"], ["go", "go?"]),
        ],
    )
    def test_two_labels_do_not_become_one(self, data, known):
        with pytest.raises(LabelMismatchError, match="other labels: it lacks"):
            match_labels("m", data, dict(enumerate(known)))
        assert match_labels("m", known, dict(enumerate(known))) == {known[0]: 0, known[1]: 1}


class TestModels:
    @pytest.fixture
    def base(self, tmp_path):
        return save_model(tmp_path / "base", ["a", "b"])

    def test_a_new_head_leaves_the_rest_as_it_is(self, base):
        """The head has the original's initial values."""
        model, _, label2id = start_from_checkpoint(base, ["x", "y"], reset_head=True)
        assert label2id == {"x": 0, "y": 1}
        assert model.config.id2label == {0: "x", 1: "y"}
        stored = weights(base)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, stored[name]) == (not name.startswith("classifier"))
        assert not model.classifier.bias.any()
        assert model.classifier.weight.std().item() == pytest.approx(0.02, rel=0.3)

    def test_frames_and_size_can_be_others(self, base):
        settings = {"num_frames": 6, "image_size": (48, 32), "drop_path_rate": 0.2}
        model, processor, _ = start_from_checkpoint(base, ["a", "b"], **settings)
        assert (model.config.num_frames, model.config.image_size, model.config.drop_path_rate) == (6, (48, 32), 0.2)
        assert model.timesformer.embeddings.time_embeddings.shape[1] == 6
        assert processor.num_frames == 6
        assert dict(processor.crop_size) | {} == {"height": 48, "width": 32}

    @pytest.mark.parametrize("scheme", ATTENTION_SCHEMES)
    def test_an_image_vit_takes_any_attention_frames_and_size(self, scheme, tmp_path):
        """Its pixels are normalised as they were."""
        vit = save_image_vit(tmp_path / "vit")
        settings = {"attention_type": scheme, "num_frames": 6, "image_size": (32, 48)}
        model, processor, label2id = start_from_checkpoint(vit, ["cat", "dog"], **settings)
        assert (model.config.attention_type, model.config.num_frames) == (scheme, 6)
        assert tuple(model.config.image_size) == (32, 48)
        assert label2id == {"cat": 0, "dog": 1}
        assert (list(processor.image_mean), list(processor.image_std)) == ([0.5] * 3, [0.4] * 3)
        assert model(torch.zeros(1, 6, 3, 32, 48)).logits.shape == (1, 2)

    def test_squeezed_frames_stay_squeezed(self, base):
        TimesformerVideoProcessor(num_frames=4, size=SIZE, do_center_crop=False).save_pretrained(base)
        for settings, size in (({}, (32, 32)), ({"image_size": (48, 32)}, (48, 32))):
            _, processor, _ = start_from_checkpoint(base, ["a", "b"], **settings)
            assert not processor.do_center_crop
            assert processor.clip_size == size
        for settings in ({"size": {"shortest_edge": 32}}, {"size": SIZE, "do_resize": False}):
            TimesformerVideoProcessor(num_frames=4, do_center_crop=False, **settings).save_pretrained(base)
            _, processor, _ = start_from_checkpoint(base, ["a", "b"])
            assert processor.do_center_crop
            assert processor.do_resize
            assert processor.clip_size == (32, 32)

    def test_a_processor_of_several_views_becomes_one_of_single_views(self, base):
        TimesformerVideoProcessor(num_frames=4, num_crops=3, do_flip_channel_order=True).save_pretrained(base)
        _, processor, _ = start_from_checkpoint(base, ["a", "b"])
        assert processor.num_crops is None
        assert processor.do_flip_channel_order

    def test_a_new_model_has_the_labels_of_the_data(self):
        config = TimesformerConfig(**TINY, attention_type="axial")
        model, processor, label2id = start_from_scratch(config, ["a", "b", "c"])
        assert model.config.attention_type == "axial"
        assert model.config.num_labels == 3
        assert label2id == {"a": 0, "b": 1, "c": 2}
        assert dict(processor.crop_size) | {} == SIZE


class TestWhatIsTrained:
    @pytest.fixture
    def tiny(self):
        return TimesformerForVideoClassification(TimesformerConfig(**TINY, num_labels=2))

    @pytest.mark.parametrize(
        ("what", "frozen"),
        [
            ("backbone", ("timesformer.",)),
            ("embeddings", ("timesformer.embeddings.",)),
            ("1", ("timesformer.embeddings.", "timesformer.encoder.layer.0.")),
        ],
    )
    def test_what_is_frozen_needs_no_gradient(self, what, frozen, tiny):
        freeze(tiny, what)
        kept = {name for name, parameter in tiny.named_parameters() if not parameter.requires_grad}
        assert kept == {name for name, _ in tiny.named_parameters() if name.startswith(frozen)}

    def test_more_blocks_than_there_are_cannot_be_frozen(self, tiny):
        message = "freeze='3' must be 'backbone', 'embeddings' or a number of first blocks, 0 to 2"
        with pytest.raises(ValueError, match=message):
            freeze(tiny, "3")

    def test_lora_trains_a_new_time_table(self, tiny):
        pytest.importorskip("peft")
        adapted = add_lora(tiny, 2, train_embeddings=True)
        trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
        assert any(name.endswith("modules_to_save.default.time_embeddings") for name in trained)
        assert not any("layernorm" in name for name in trained)
