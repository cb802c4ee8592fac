"""What `convert` writes, from every format. (Outputs: test_golden, test_image_vit.)"""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tiny_models import (
    FLOAT32,
    GOLDEN,
    HEADS,
    ORIGINAL,
    SCHEMES,
    TINY,
    make_clip,
    make_model,
    save_original,
    with_classes,
)
from transformers import AutoImageProcessor, AutoModelForVideoClassification, AutoVideoProcessor, ViTConfig, ViTModel

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.checkpoints.conversion import convert
from timesformer_hf.checkpoints.info import describe_checkpoint
from timesformer_hf.checkpoints.parity import ParityError
from timesformer_hf.data.label_lists import read_labels


class TestWhatIsWritten:
    def test_folder_loads_by_the_auto_classes(self, tmp_path):
        conversion = convert(ORIGINAL, tmp_path / "k", **HEADS)
        assert sorted(path.name for path in (tmp_path / "k").iterdir()) == [
            "README.md",
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "video_preprocessor_config.json",
        ]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["k"]
        model = AutoModelForVideoClassification.from_pretrained(tmp_path / "k")
        assert isinstance(model, TimesformerForVideoClassification)
        assert model.dtype == torch.float32
        assert "transformers' built-in model" in conversion.checks[0]
        for processor in (
            AutoVideoProcessor.from_pretrained(tmp_path / "k"),
            AutoImageProcessor.from_pretrained(tmp_path / "k"),
        ):
            assert list(processor.image_mean) == [0.45] * 3
            assert list(processor.image_std) == [0.225] * 3
            assert not processor.do_flip_channel_order
            assert dict(processor.crop_size) == {"height": 32, "width": 32}
        assert AutoVideoProcessor.from_pretrained(tmp_path / "k").num_frames == 4

    def test_the_built_in_model_loads_it(self, tmp_path):
        from transformers.models.timesformer.modeling_timesformer import TimesformerForVideoClassification as Native

        convert(ORIGINAL, tmp_path / "k", **HEADS)
        native, info = Native.from_pretrained(tmp_path / "k", output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert native.config.num_attention_heads == 4

    @pytest.mark.parametrize(("classes", "label_list"), [(400, "kinetics400"), (600, "kinetics600"), (174, "ssv2")])
    def test_labels_of_the_published_weights(self, state, tmp_path, classes, label_list):
        source = save_original(tmp_path / "a.pyth", with_classes(state, classes), epoch=15)
        conversion = convert(source, tmp_path / "k", **HEADS)
        assert conversion.label_list == label_list
        config = TimesformerConfig.from_pretrained(tmp_path / "k")
        assert [config.id2label[index] for index in range(classes)] == read_labels(label_list)
        assert config.label2id[config.id2label[7]] == 7
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "k")
        assert processor.do_flip_channel_order == (label_list == "ssv2")  # trained on BGR
        assert processor.frame_sampling == ("segments" if label_list == "ssv2" else None)
        assert AutoImageProcessor.from_pretrained(tmp_path / "k").do_flip_channel_order == (label_list == "ssv2")
        again = convert(tmp_path / "k", tmp_path / "k2")  # which the folder still knows
        assert (again.label_list, again.bgr) == (label_list, label_list == "ssv2")

    def test_bgr_without_the_names(self, state, tmp_path):
        """Labels that are left out, or named otherwise, don't change what the weights were trained on."""
        source = save_original(tmp_path / "a.pyth", with_classes(state, 174))
        conversion = convert(source, tmp_path / "a", labels="none", **HEADS)
        assert (conversion.label_list, conversion.bgr) == (None, True)
        assert conversion.model.config.id2label[0] == "LABEL_0"
        assert AutoVideoProcessor.from_pretrained(tmp_path / "a").do_flip_channel_order
        (tmp_path / "own.txt").write_text("\n".join(f"action {i}" for i in range(174)))
        conversion = convert(source, tmp_path / "b", labels=str(tmp_path / "own.txt"), **HEADS)
        assert not conversion.bgr
        assert any(phrase.startswith("RGB, because its labels are not") for phrase in conversion.assumed)
        conversion = convert(source, tmp_path / "c", labels=str(tmp_path / "own.txt"), bgr=False, **HEADS)
        assert not any(phrase.startswith("RGB") for phrase in conversion.assumed)

    def test_howto100m_has_no_published_list(self, state, tmp_path):
        conversion = convert(save_original(tmp_path / "a.pyth", with_classes(state, 1059)), tmp_path / "k", **HEADS)
        assert conversion.label_list is None
        assert conversion.model.config.id2label[1058] == "LABEL_1058"

    def test_mmaction2_models_keep_their_statistics_and_licence(self, tmp_path):
        convert(GOLDEN / "mmaction2_joint_space_time.pth", tmp_path / "k", **HEADS)
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "k")
        assert (list(processor.image_mean), list(processor.image_std)) == ([0.5] * 3, [0.5] * 3)
        assert ModelCard.load(tmp_path / "k" / "README.md").data.license == "apache-2.0"

    def test_model_card_states_source_and_licence(self, tmp_path):
        convert(ORIGINAL, tmp_path / "my-model", **HEADS)
        card = ModelCard.load(tmp_path / "my-model" / "README.md")
        assert card.data.license == "cc-by-nc-4.0"
        assert card.data.pipeline_tag == "video-classification"
        for fact in ("divided_space_time.pyth", "SHA-256 `c46d6c26a751", "| frames | 4 |", "32 x 32 pixels", "within "):
            assert fact in card.text
        convert(tmp_path / "my-model", tmp_path / "again")  # a folder's own licence is kept
        assert ModelCard.load(tmp_path / "again" / "README.md").data.license == "cc-by-nc-4.0"

    def test_labels_come_from_a_file_of_the_right_length(self, tmp_path):
        (tmp_path / "labels.txt").write_text("one\ntwo\nthree\nfour\nfive\nsix\nseven\n")
        convert(ORIGINAL, tmp_path / "k", labels=str(tmp_path / "labels.txt"), **HEADS)
        assert TimesformerConfig.from_pretrained(tmp_path / "k").id2label[6] == "seven"
        with pytest.raises(ValueError, match="'ucf101' has 101 labels, but the model has 7 classes"):
            convert(ORIGINAL, tmp_path / "no", labels="ucf101", **HEADS)

    def test_other_sizes_are_resized(self, tmp_path):
        convert(ORIGINAL, tmp_path / "k", num_frames=6, image_size=(64, 32), **HEADS)
        model = TimesformerForVideoClassification.from_pretrained(tmp_path / "k")
        assert (model.config.num_frames, tuple(model.config.image_size)) == (6, (64, 32))
        plain = convert(ORIGINAL, tmp_path / "plain", **HEADS).model
        clip = make_clip(1, 6, 3, 64, 32, dtype=torch.float64)
        torch.testing.assert_close(model.double()(clip).logits, plain.double()(clip).logits, rtol=0, atol=1e-10)
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "k")
        video = torch.randint(0, 256, (9, 3, 50, 90), dtype=torch.uint8)
        assert processor(video, return_tensors="pt").pixel_values.shape == (1, 6, 3, 64, 32)

    def test_a_square_is_resized_to_a_rectangle_of_as_many_patches(self, tmp_path):
        """And not taken for one that was trained as such a rectangle."""
        model = convert(ORIGINAL, tmp_path / "k", image_size=(16, 64), **HEADS).model
        expected = convert(ORIGINAL, tmp_path / "l", **HEADS).model
        clip = make_clip(1, 4, 3, 16, 64, dtype=torch.float64)
        torch.testing.assert_close(model.double()(clip).logits, expected.double()(clip).logits, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_our_own_folders_are_converted_with_and_without_a_head(self, scheme, tmp_path):
        """Also of a scheme that no other program has, and without a head."""
        model = make_model(scheme)
        model.save_pretrained(tmp_path / "a")
        conversion = convert(tmp_path / "a", tmp_path / "b")
        twin = "the masks that define its scheme" if scheme in ("sparse_local_global", "axial") else "built-in model"
        assert twin in conversion.checks[0]
        loaded = TimesformerForVideoClassification.from_pretrained(tmp_path / "b")
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(loaded(make_clip()).logits, model(make_clip()).logits, **FLOAT32)
        model.timesformer.save_pretrained(tmp_path / "headless")
        headless = convert(tmp_path / "headless", tmp_path / "c").model
        features = model.timesformer(make_clip()).last_hidden_state[:, 0]
        torch.testing.assert_close(headless(make_clip()).logits, features, **FLOAT32)

    def test_half_precision_is_kept(self, tmp_path):
        make_model().to(torch.bfloat16).save_pretrained(tmp_path / "a")
        convert(tmp_path / "a", tmp_path / "b")
        assert load_file(tmp_path / "b" / "model.safetensors")["classifier.weight"].dtype == torch.bfloat16

    def test_sharded_and_bin_weights_are_read(self, tmp_path):
        model = make_model()
        model.save_pretrained(tmp_path / "a", max_shard_size="50kB")
        assert len(list((tmp_path / "a").glob("*.safetensors"))) > 1
        convert(tmp_path / "a", tmp_path / "b")
        (tmp_path / "bin").mkdir()
        torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
        model.config.save_pretrained(tmp_path / "bin")
        convert(tmp_path / "bin", tmp_path / "c")
        for folder in ("b", "c"):
            loaded = TimesformerForVideoClassification.from_pretrained(tmp_path / folder)
            torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
            torch.testing.assert_close(loaded(make_clip()).logits, model(make_clip()).logits, **FLOAT32)

    def test_mmaction2_goes_to_the_original_format_and_back(self, tmp_path):
        name = "mmaction2_divided_space_time"
        convert(GOLDEN / f"{name}.pth", tmp_path / "a.pyth", to="original", **HEADS)
        convert(tmp_path / "a.pyth", tmp_path / "k", outputs=GOLDEN / f"{name}.safetensors", **HEADS)

    def test_names_may_lack_the_prefix(self, state, tmp_path):
        bare = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        source = save_original(tmp_path / "a.pyth", bare)
        convert(source, tmp_path / "k", outputs=ORIGINAL.with_suffix(".safetensors"), from_format="original", **HEADS)

    def test_weights_are_found_in_wrappers(self, state, tmp_path):
        """As distributed training saves it, and in containers of others."""
        state = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 3, "state_dict": {"model_state": state}}, tmp_path / "a.pyth")
        convert(tmp_path / "a.pyth", tmp_path / "k", outputs=ORIGINAL.with_suffix(".safetensors"), **HEADS)

    def test_shared_weights_are_written_each(self, state, tmp_path):
        state["model.blocks.1.norm1.bias"] = state["model.blocks.0.norm1.bias"]
        convert(save_original(tmp_path / "a.pyth", state), tmp_path / "k", **HEADS)
        weights = load_file(tmp_path / "k" / "model.safetensors")
        assert len(weights) == len(state)

    def test_what_had_to_be_assumed_is_said(self, tmp_path):
        model = make_model(hidden_size=128, num_attention_heads=2)
        model.save_pretrained(tmp_path / "a")
        back = convert(tmp_path / "a", tmp_path / "a.pyth", to="original")
        assert not back.assumed
        assert not back.notes
        conversion = convert(tmp_path / "a.pyth", tmp_path / "b")
        assert conversion.assumed == ["2 heads, of 64 channels each"]
        assert "Assumed: 2 heads" in (tmp_path / "b" / "README.md").read_text()
        loaded = TimesformerForVideoClassification.from_pretrained(tmp_path / "b")
        torch.testing.assert_close(loaded(make_clip()).logits, model(make_clip()).logits, **FLOAT32)
        make_model().save_pretrained(tmp_path / "c")
        notes = convert(tmp_path / "c", tmp_path / "c.pyth", to="original").notes
        assert notes == ["the format doesn't store the number of heads, 4: give it when you load it"]

    def test_processing_of_the_source_is_kept(self, tmp_path):
        make_model().save_pretrained(tmp_path / "a")
        settings = {"do_normalize": False, "rescale_factor": 1 / 127.5, "frame_sampling_rate": 4}
        settings |= {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
        (tmp_path / "a" / "video_preprocessor_config.json").write_text(json.dumps(settings))
        convert(tmp_path / "a", tmp_path / "b")
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "b")
        assert (processor.do_normalize, processor.rescale_factor) == (False, 1 / 127.5)
        assert (processor.frame_sampling_rate, dict(processor.size)["shortest_edge"]) == (4, 40)

    def test_squeezing_of_the_source_is_kept(self, tmp_path):
        make_model().save_pretrained(tmp_path / "a")
        size = {"height": 32, "width": 32}
        TimesformerVideoProcessor(size=size, do_center_crop=False, num_frames=4).save_pretrained(tmp_path / "a")
        convert(tmp_path / "a", tmp_path / "b")
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "b")
        assert processor.clip_size == (32, 32)
        assert not processor.do_center_crop

    @pytest.mark.parametrize(("name", "bgr"), [("timesformer-base-finetuned-ssv2", True), ("mine", False)])
    def test_only_the_authors_ssv2_folders_are_bgr(self, name, bgr, tmp_path):
        """The authors' models on the Hub don't say that they need BGR; another model with these labels may not."""
        model = make_model(id2label=dict(enumerate(read_labels("ssv2"))))
        model.save_pretrained(tmp_path / name)
        (tmp_path / name / "preprocessor_config.json").write_text(
            json.dumps(
                {"image_mean": [0.45] * 3, "image_std": [0.225] * 3, "image_processor_type": "VideoMAEImageProcessor"}
            )
        )
        assert convert(tmp_path / name, tmp_path / "b").bgr == bgr
        assert describe_checkpoint(tmp_path / name)["channels"] == ("BGR" if bgr else "RGB")
        convert(tmp_path / name, tmp_path / "c", bgr=not bgr)
        assert AutoVideoProcessor.from_pretrained(tmp_path / "c").do_flip_channel_order == (not bgr)

    def test_timm_folders_keep_labels_and_statistics(self, tmp_path):
        vision_transformer = pytest.importorskip("timm.models.vision_transformer", reason="the test extra has timm")
        settings = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 1, "num_classes": 2}
        (tmp_path / "timm").mkdir()
        model = vision_transformer.VisionTransformer(**settings)
        save_file(model.state_dict(), tmp_path / "timm" / "model.safetensors")
        config = {"architecture": "vit", "global_pool": "token", "label_names": ["cat", "dog"]}
        config["pretrained_cfg"] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
        conversion = convert(tmp_path / "timm", tmp_path / "k")
        assert conversion.model.config.id2label == {0: "cat", 1: "dog"}
        assert list(AutoVideoProcessor.from_pretrained(tmp_path / "k").image_mean) == [0.485, 0.456, 0.406]
        (tmp_path / "timm" / "config.json").write_text(json.dumps(config | {"global_pool": "avg"}))
        with pytest.raises(ValueError, match=r"pools its patches \(global_pool='avg'\)"):
            convert(tmp_path / "timm", tmp_path / "l")

    def test_an_image_vit_keeps_its_statistics_and_gets_a_new_head(self, tmp_path):
        vit = ViTModel(ViTConfig(**{name: TINY[name] for name in TINY if name != "num_frames"}))
        vit.save_pretrained(tmp_path / "vit")
        (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3]}))
        conversion = convert(tmp_path / "vit", tmp_path / "k", attention_type="axial", num_frames=3, labels="hmdb51")
        assert conversion.model.config.num_frames == 3
        assert conversion.model.config.id2label[0] == "brush_hair"
        assert "new and untrained" in conversion.notes[0]
        assert "datasets" not in ModelCard.load(tmp_path / "k" / "README.md").data.to_dict()
        assert list(AutoVideoProcessor.from_pretrained(tmp_path / "k").image_mean) == [0.1, 0.2, 0.3]
        assert list(AutoVideoProcessor.from_pretrained(tmp_path / "k").image_std) == [0.5] * 3


def test_a_constant_that_the_authors_code_lacks_is_named(tmp_path):
    folder = tmp_path / "model"
    make_model(layer_norm_eps=0.1, hidden_act="gelu").save_pretrained(folder)
    with pytest.raises(ParityError, match=r"fixed in it: layer_norm_eps=0\.1 \(theirs: 1e-06\)\. With their values"):
        convert(folder, tmp_path / "a.pyth", to="original")
    assert not (tmp_path / "a.pyth").exists()
