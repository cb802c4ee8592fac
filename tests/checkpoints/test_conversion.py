"""`timesformer-hf convert` and `info`: what they write and what they refuse. (Outputs: test_golden, test_image_vit.)"""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tiny_models import FILES, FLOAT32, GOLDEN, SCHEMES, TINY, make_clip, make_model, randomize
from transformers import AutoImageProcessor, AutoModelForVideoClassification, AutoVideoProcessor, ViTConfig, ViTModel

from timesformer_hf import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerModel,
    TimesformerVideoProcessor,
)
from timesformer_hf.checkpoints import conversion as checkpoint_conversion
from timesformer_hf.checkpoints.conversion import convert
from timesformer_hf.checkpoints.formats import FORMATS
from timesformer_hf.checkpoints.info import describe_checkpoint
from timesformer_hf.checkpoints.keys import rename_keys, restore_keys
from timesformer_hf.checkpoints.structure import infer_config_values
from timesformer_hf.cli import main
from timesformer_hf.data.label_lists import LABEL_LISTS, read_labels


ORIGINAL = GOLDEN / "divided_space_time.pyth"
HEADS = {"num_attention_heads": 4}


@pytest.fixture
def state():
    """The weights of the golden divided model, under the original names."""
    return torch.load(ORIGINAL, weights_only=True)["model_state"]


def save_original(path, state, **more):
    torch.save({"model_state": state} | more, path)
    return path


def with_classes(state: dict, classes: int) -> dict:
    head = {"model.head.weight": torch.randn(classes, 48) * 0.02, "model.head.bias": torch.zeros(classes)}
    return state | head


class TestKeyTables:
    @pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.signature)
    def test_round_trip(self, row):
        """Every format's names and back, for every scheme that it can name; the signature is among them."""
        schemes = []
        for scheme in SCHEMES:
            model = make_model(scheme)
            if row.keys.get("layernorm.{p}") == "timesformer.layernorm.{p}" or row.name == "vit":
                state = {f"timesformer.{name}": tensor for name, tensor in model.timesformer.state_dict().items()}
            else:
                state = model.state_dict()
            try:
                foreign = restore_keys(state, row.keys)
            except ValueError:
                continue
            schemes.append(scheme)
            again = rename_keys(foreign, row.keys)
            assert again.keys() == state.keys()
            assert all(again[name].equal(state[name]) for name in state)
            assert len(foreign) == len(state) + (0 if "[0]" not in str(row.keys) else 2 * 2 * TINY["num_hidden_layers"])
            assert row.signature in foreign or row.signature == "time_embed"
        expected = {
            "original": ["divided_space_time", "joint_space_time", "space_only"],
            "timesformer": SCHEMES,
            "vit": ["space_only"],
            "timm": ["space_only"],
        }
        divided = row.signature.endswith("attentions.1.norm.weight")
        expected["mmaction2"] = ["divided_space_time"] if divided else ["joint_space_time", "space_only"]
        missing = set(expected[row.name]) - set(schemes)
        assert not missing

    @pytest.mark.parametrize("prefix", ["", "vit."])
    def test_vit_names_are_transformers_own(self, prefix, tmp_path):
        """In memory and in a file, whatever transformers is installed."""
        vit = ViTModel(ViTConfig(**{name: TINY[name] for name in TINY if name != "num_frames"}))
        vit.save_pretrained(tmp_path)
        for state in (vit.state_dict(), load_file(tmp_path / "model.safetensors")):
            row = next(row for row in FORMATS if row.signature in state)
            assert row.name == "vit"
            assert len(rename_keys(state, row.keys)) == 4 + 2 + 3 * 12


# Every kind of the authors' model zoo: frames, size, classes, scheme; parameters, where they are published
ZOO = [
    (8, 224, 400, "divided_space_time", 121_566_352),
    (8, 224, 600, "divided_space_time", None),
    (8, 224, 174, "divided_space_time", 121_392_558),
    (16, 448, 400, "divided_space_time", 122_024_080),
    (16, 448, 174, "divided_space_time", None),
    (96, 224, 400, "divided_space_time", 121_633_936),
    (64, 224, 174, "divided_space_time", None),
    (8, 224, 1059, "divided_space_time", None),
    (8, 224, 400, "joint_space_time", 86_112_400),
    (8, 224, 400, "space_only", 86_106_256),
]


@pytest.mark.parametrize(("frames", "size", "classes", "scheme", "parameters"), ZOO)
def test_model_zoo_is_told_by_its_shapes(frames, size, classes, scheme, parameters):
    config = TimesformerConfig(num_frames=frames, image_size=size, num_labels=classes, attention_type=scheme)
    with torch.device("meta"):
        weights = TimesformerForVideoClassification(config).state_dict()
    values = infer_config_values(weights, "zoo")
    assert TimesformerConfig(**values).to_dict() == config.to_dict()
    assert ("num_frames" in values) == (scheme != "space_only")
    if parameters:
        assert sum(tensor.numel() for tensor in weights.values()) == parameters


class TestWhatIsWritten:
    def test_folder(self, tmp_path):
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

    def test_howto100m_has_no_published_list(self, state, tmp_path):
        conversion = convert(save_original(tmp_path / "a.pyth", with_classes(state, 1059)), tmp_path / "k", **HEADS)
        assert conversion.label_list is None
        assert conversion.model.config.id2label[1058] == "LABEL_1058"

    def test_mmaction2_statistics_and_licence(self, tmp_path):
        convert(GOLDEN / "mmaction2_joint_space_time.pth", tmp_path / "k", **HEADS)
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "k")
        assert (list(processor.image_mean), list(processor.image_std)) == ([0.5] * 3, [0.5] * 3)
        assert ModelCard.load(tmp_path / "k" / "README.md").data.license == "apache-2.0"

    def test_model_card(self, tmp_path):
        convert(ORIGINAL, tmp_path / "my-model", **HEADS)
        card = ModelCard.load(tmp_path / "my-model" / "README.md")
        assert card.data.license == "cc-by-nc-4.0"
        assert card.data.pipeline_tag == "video-classification"
        for fact in ("divided_space_time.pyth", "SHA-256 `c46d6c26a751", "| frames | 4 |", "32 x 32 pixels", "within "):
            assert fact in card.text
        convert(tmp_path / "my-model", tmp_path / "again")  # a folder's own licence is kept
        assert ModelCard.load(tmp_path / "again" / "README.md").data.license == "cc-by-nc-4.0"

    def test_label_file_and_none(self, tmp_path):
        (tmp_path / "labels.txt").write_text("one\ntwo\nthree\nfour\nfive\nsix\nseven\n")
        convert(ORIGINAL, tmp_path / "k", labels=str(tmp_path / "labels.txt"), **HEADS)
        assert TimesformerConfig.from_pretrained(tmp_path / "k").id2label[6] == "seven"
        with pytest.raises(ValueError, match="'ucf101' has 101 labels, the model 7 classes"):
            convert(ORIGINAL, tmp_path / "no", labels="ucf101", **HEADS)

    def test_resized(self, tmp_path):
        convert(ORIGINAL, tmp_path / "k", num_frames=6, image_size=(64, 32), **HEADS)
        model = TimesformerForVideoClassification.from_pretrained(tmp_path / "k")
        assert (model.config.num_frames, tuple(model.config.image_size)) == (6, (64, 32))
        plain = convert(ORIGINAL, tmp_path / "plain", **HEADS).model
        clip = make_clip(1, 6, 3, 64, 32)
        torch.testing.assert_close(model(clip).logits, plain(clip).logits, rtol=0, atol=0)
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "k")
        video = torch.randint(0, 256, (9, 3, 50, 90), dtype=torch.uint8)
        assert processor(video, return_tensors="pt").pixel_values.shape == (1, 6, 3, 64, 32)

    def test_a_square_is_resized_to_a_rectangle_of_as_many_patches(self, tmp_path):
        """And not taken for one that was trained as such a rectangle."""
        model = convert(ORIGINAL, tmp_path / "k", image_size=(16, 64), **HEADS).model
        expected = convert(ORIGINAL, tmp_path / "l", **HEADS).model
        clip = make_clip(1, 4, 3, 16, 64)
        torch.testing.assert_close(model(clip).logits, expected(clip).logits, rtol=0, atol=0)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_our_own_folders(self, scheme, tmp_path):
        """Also of a scheme that no other program has, and without a head."""
        model = make_model(scheme)
        model.save_pretrained(tmp_path / "a")
        conversion = convert(tmp_path / "a", tmp_path / "b")
        twin = "the masks that define its scheme" if scheme in ("sparse_local_global", "axial") else "built-in model"
        assert twin in conversion.checks[0]
        loaded = TimesformerForVideoClassification.from_pretrained(tmp_path / "b")
        assert loaded(make_clip()).logits.equal(model(make_clip()).logits)
        model.timesformer.save_pretrained(tmp_path / "headless")
        headless = convert(tmp_path / "headless", tmp_path / "c").model
        features = model.timesformer(make_clip()).last_hidden_state[:, 0]
        torch.testing.assert_close(headless(make_clip()).logits, features, **FLOAT32)

    def test_half_precision_is_kept(self, tmp_path):
        make_model().to(torch.bfloat16).save_pretrained(tmp_path / "a")
        convert(tmp_path / "a", tmp_path / "b")
        assert load_file(tmp_path / "b" / "model.safetensors")["classifier.weight"].dtype == torch.bfloat16

    def test_sharded_and_bin(self, tmp_path):
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
            assert loaded(make_clip()).logits.equal(model(make_clip()).logits)

    def test_mmaction2_to_the_original_format(self, tmp_path):
        name = "mmaction2_divided_space_time"
        convert(GOLDEN / f"{name}.pth", tmp_path / "a.pyth", to="original", **HEADS)
        convert(tmp_path / "a.pyth", tmp_path / "k", outputs=GOLDEN / f"{name}.safetensors", **HEADS)

    def test_without_the_prefix(self, state, tmp_path):
        bare = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        source = save_original(tmp_path / "a.pyth", bare)
        convert(source, tmp_path / "k", outputs=ORIGINAL.with_suffix(".safetensors"), from_format="original", **HEADS)

    def test_wrapped(self, state, tmp_path):
        """As distributed training saves it, and in containers of others."""
        state = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 3, "state_dict": {"model_state": state}}, tmp_path / "a.pyth")
        convert(tmp_path / "a.pyth", tmp_path / "k", outputs=ORIGINAL.with_suffix(".safetensors"), **HEADS)

    def test_shared_weights(self, state, tmp_path):
        state["model.blocks.1.norm1.bias"] = state["model.blocks.0.norm1.bias"]
        convert(save_original(tmp_path / "a.pyth", state), tmp_path / "k", **HEADS)
        weights = load_file(tmp_path / "k" / "model.safetensors")
        assert len(weights) == len(state)

    def test_what_had_to_be_assumed(self, tmp_path):
        model = make_model(hidden_size=128, num_attention_heads=2)
        model.save_pretrained(tmp_path / "a")
        back = convert(tmp_path / "a", tmp_path / "a.pyth", to="original")
        assert not back.assumed
        assert not back.notes
        conversion = convert(tmp_path / "a.pyth", tmp_path / "b")
        assert conversion.assumed == ["2 heads, of 64 channels each"]
        assert "Assumed: 2 heads" in (tmp_path / "b" / "README.md").read_text()
        loaded = TimesformerForVideoClassification.from_pretrained(tmp_path / "b")
        torch.testing.assert_close(loaded(make_clip()).logits, model(make_clip()).logits, rtol=0, atol=0)
        make_model().save_pretrained(tmp_path / "c")
        notes = convert(tmp_path / "c", tmp_path / "c.pyth", to="original").notes
        assert notes == ["the format doesn't hold the number of heads, 4: say it wherever it is loaded"]

    def test_the_sources_own_processing(self, tmp_path):
        make_model().save_pretrained(tmp_path / "a")
        settings = {"do_normalize": False, "rescale_factor": 1 / 127.5, "frame_sampling_rate": 4}
        settings |= {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
        (tmp_path / "a" / "video_preprocessor_config.json").write_text(json.dumps(settings))
        convert(tmp_path / "a", tmp_path / "b")
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "b")
        assert (processor.do_normalize, processor.rescale_factor) == (False, 1 / 127.5)
        assert (processor.frame_sampling_rate, dict(processor.size)["shortest_edge"]) == (4, 40)

    def test_squeezed_frames(self, tmp_path):
        make_model().save_pretrained(tmp_path / "a")
        size = {"height": 32, "width": 32}
        TimesformerVideoProcessor(size=size, do_center_crop=False, num_frames=4).save_pretrained(tmp_path / "a")
        convert(tmp_path / "a", tmp_path / "b")
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "b")
        assert processor.clip_size == (32, 32)
        assert not processor.do_center_crop

    @pytest.mark.parametrize(("name", "bgr"), [("timesformer-base-finetuned-ssv2", True), ("mine", False)])
    def test_bgr_of_folders(self, name, bgr, tmp_path):
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

    def test_timm_folder(self, tmp_path):
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

    def test_image_vit_statistics_and_new_head(self, tmp_path):
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


class TestRefused:
    """Nothing is written then, and no temporary folder stays."""

    @pytest.fixture(autouse=True)
    def nothing_written(self, tmp_path):
        yield
        assert not list(tmp_path.glob("k*"))
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

    def refuse(self, source, tmp_path, message, **settings):
        out = tmp_path / ("k.pyth" if settings.get("to") == "original" else "k")
        with pytest.raises((ValueError, OSError), match=message):
            convert(source, out, **HEADS | settings)

    def test_unknown_layout(self, tmp_path):
        source = save_original(tmp_path / "a.pth", {"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)})
        self.refuse(source, tmp_path, r"unknown layout\. Found 2 weights: conv1\.weight, fc\.bias.*Known: original")

    @pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {}, torch.zeros(2)])
    def test_no_weights(self, tmp_path, content):
        torch.save(content, tmp_path / "a.pth")
        self.refuse(tmp_path / "a.pth", tmp_path, "holds no weights. Found: .*Known: a state dict")

    def test_wrong_format(self, tmp_path):
        self.refuse(
            ORIGINAL, tmp_path, "not in the format 'mmaction2'; it is the authors' .pyth", from_format="mmaction2"
        )
        self.refuse(ORIGINAL, tmp_path, "Unknown format 'tf'; it must be one of original, mmaction2", from_format="tf")
        self.refuse(ORIGINAL, tmp_path, "Unknown target 'onnx'; it must be one of transformers, original", to="onnx")

    def test_nothing_there(self, tmp_path):
        self.refuse(tmp_path / "a.pyth", tmp_path, "there is no such file or folder")
        self.refuse("nobody/nothing", tmp_path, "nobody/nothing: there is no such file or folder, and .* from the Hub")
        (tmp_path / "empty").mkdir()
        self.refuse(tmp_path / "empty", tmp_path, r"holds no weights: none of model\.safetensors")

    @pytest.mark.parametrize("size", [0, 100, 20_000])
    def test_half_written(self, tmp_path, size):
        (tmp_path / "a.pyth").write_bytes(ORIGINAL.read_bytes()[:size])
        self.refuse(tmp_path / "a.pyth", tmp_path, "a.pyth is (damaged|no checkpoint)")
        save_file({"a": torch.zeros(10_000)}, tmp_path / "a.safetensors")
        whole = (tmp_path / "a.safetensors").read_bytes()
        (tmp_path / "a.safetensors").write_bytes(whole[:size])
        self.refuse(
            tmp_path / "a.safetensors", tmp_path, "a.safetensors is damaged, half-written or no safetensors file"
        )

    @pytest.mark.parametrize("text", ["version https://git-lfs.github.com/spec/v1", "hello", "root:x:0:0:root", "{}"])
    def test_text(self, tmp_path, text):
        (tmp_path / "a.pth").write_text(text)
        self.refuse(tmp_path / "a.pth", tmp_path, "a.pth (is damaged|holds no weights)")

    @pytest.mark.parametrize(
        "index",
        [
            {},
            {"weight_map": []},
            {"weight_map": {}},
            {"weight_map": {"a": 3}},
            {"weight_map": {"a": "../a.safetensors"}},
            {"weight_map": {"a": "/etc/passwd"}},
        ],
    )
    def test_index(self, tmp_path, index):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "model.safetensors.index.json").write_text(json.dumps(index))
        self.refuse(tmp_path / "a", tmp_path, "is no index of weights: its weight_map must name files beside it")

    def test_a_shard_missing_or_changed(self, tmp_path):
        make_model().save_pretrained(tmp_path / "a", max_shard_size="50kB")
        shard = sorted((tmp_path / "a").glob("*.safetensors"))[0]
        tensors = load_file(shard)
        save_file(dict(list(tensors.items())[1:]), shard)
        self.refuse(tmp_path / "a", tmp_path, f"the files that it lists differ in {next(iter(tensors))}")
        shard.unlink()
        self.refuse(tmp_path / "a", tmp_path, f"is incomplete: {shard.name}, which .* names, is missing")

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"num_hidden_layers": "2"}, "can't be used: .*num_hidden_layers"),
            ({"image_size": None}, "can't be used: .*image_size"),
            ({"attention_type": 3}, "can't be used: .*attention_type"),
            ({"num_attention_heads": 0}, "can't be used: .*num_attention_heads=0 must be at least 1"),
            ({"id2label": {"1": "a", "2": "b"}}, "can't be used: no class 0"),
            ({"model_type": "bert"}, "its config.json is of model type 'bert'"),
            ({"num_frames": 9}, "contradicts its weights: num_frames=9, the weights say 4"),
            ({"image_size": 64}, "contradicts its weights: image_size=64, the weights say 32"),
        ],
    )
    def test_config(self, tmp_path, values, message):
        make_model().save_pretrained(tmp_path / "a")
        path = tmp_path / "a" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        self.refuse(tmp_path / "a", tmp_path, message)
        assert main(["info", str(tmp_path / "a")]) == 2

    @pytest.mark.parametrize("config", ["[]", "null", "3"])
    def test_config_that_is_no_object(self, tmp_path, config):
        make_model().save_pretrained(tmp_path / "a")
        (tmp_path / "a" / "config.json").write_text(config)
        self.refuse(tmp_path / "a", tmp_path, "must hold an object")

    @pytest.mark.parametrize(
        "values", [{"image_mean": "x"}, {"image_mean": [0.5]}, {"image_std": [0, 0, 0]}, {"image_std": [1, None, 1]}]
    )
    def test_preprocessor(self, tmp_path, values):
        make_model().save_pretrained(tmp_path / "a")
        (tmp_path / "a" / "preprocessor_config.json").write_text(json.dumps(values))
        self.refuse(tmp_path / "a", tmp_path, "it must be 3 numbers, a deviation positive")

    @pytest.mark.parametrize("wrong", [torch.zeros(7, 48, dtype=torch.int64), torch.eye(48).to_sparse()])
    def test_no_plain_weights(self, state, tmp_path, wrong):
        source = save_original(tmp_path / "a.pyth", state | {"model.head.weight": wrong})
        self.refuse(source, tmp_path, r"no dense floating-point numbers: model\.head\.weight")

    def test_embeddings_of_other_dimensions(self, state, tmp_path):
        source = save_original(tmp_path / "a.pyth", state | {"model.patch_embed.proj.weight": torch.zeros(48, 192)})
        self.refuse(source, tmp_path, r"a patch projection \(48, 192\), .* must be \(width, channels, height, width\)")

    def test_heads_that_the_config_contradicts(self, tmp_path):
        make_model().save_pretrained(tmp_path / "a")
        self.refuse(tmp_path / "a", tmp_path, "states 4 heads, --num-attention-heads 2", num_attention_heads=2)

    def test_sizes_that_do_not_fit(self, tmp_path):
        self.refuse(ORIGINAL, tmp_path, "image_size=33 must be a multiple of patch_size=8", image_size=33)

    @pytest.mark.parametrize("settings", [{"hidden_act": "relu"}, {"layer_norm_eps": 0.1}])
    def test_what_the_original_format_does_not_hold(self, settings, tmp_path):
        make_model(**settings).save_pretrained(tmp_path / "a")
        self.refuse(tmp_path / "a", tmp_path, "differs from what it is with the authors' constants", to="original")

    def test_original_needs_a_name_for_a_file(self, tmp_path):
        with pytest.raises(ValueError, match=r"OUT must be a file that ends in \.pyth, \.pth, \.pt, got .*safetensors"):
            convert(ORIGINAL, tmp_path / "x.safetensors", to="original", **HEADS)

    def test_empty_names(self, tmp_path):
        self.refuse("", tmp_path, "The name of the checkpoint is empty")
        with pytest.raises(ValueError, match="The name of the output, '', is empty"):
            convert(ORIGINAL, "", **HEADS)

    def test_out_under_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(NotADirectoryError, match=r"can't be made: .*file is a file"):
            convert(ORIGINAL, tmp_path / "file" / "model", **HEADS)

    def test_code_is_never_run(self, tmp_path):
        class Harmful:
            def __reduce__(self):
                return (open, (str(tmp_path / "harm"), "w"))

        torch.save({"model_state": {"a": torch.zeros(1)}, "meta": Harmful()}, tmp_path / "a.pyth")
        self.refuse(tmp_path / "a.pyth", tmp_path, "holds more than weights: loading it would run .*open")
        (tmp_path / "b.pyth").write_bytes(pickle.dumps(Harmful()))
        self.refuse(tmp_path / "b.pyth", tmp_path, "b.pyth (holds more than weights|is )")
        assert not (tmp_path / "harm").exists()

    def test_keys_left_over_and_missing(self, state, tmp_path):
        source = save_original(
            tmp_path / "a.pyth", state | {"model.extra": torch.zeros(1), "ema.decay": torch.zeros(1)}
        )
        self.refuse(source, tmp_path, r"not quite the authors' \.pyth: 2 unknown keys .*: model\.extra, ema\.decay")
        del state["model.blocks.1.norm2.bias"], state["model.blocks.2.temporal_fc.weight"]
        message = r"2 missing: .*layer\.1\.layernorm_after\.bias, .*layer\.2\.temporal_dense\.weight"
        self.refuse(save_original(tmp_path / "b.pyth", state), tmp_path, message)

    def test_a_block_missing(self, state, tmp_path):
        state = {name: tensor for name, tensor in state.items() if ".blocks.1." not in name}
        self.refuse(save_original(tmp_path / "a.pyth", state), tmp_path, "lacks the blocks 1 of 3")

    def test_a_shape_that_does_not_fit(self, state, tmp_path):
        state["model.blocks.2.mlp.fc1.weight"] = torch.zeros(7, 48)
        source = save_original(tmp_path / "a.pyth", state)
        self.refuse(
            source, tmp_path, r"1 of another shape: .*layer\.2\.intermediate.* \(7, 48\) instead of \(192, 48\)"
        )

    def test_no_square(self, state, tmp_path):
        state["model.pos_embed"] = torch.zeros(1, 1 + 12, 48)
        source = save_original(tmp_path / "a.pyth", state)
        self.refuse(source, tmp_path, "has 12 positions of 8 x 8 pixels, which is no square: give .* --image-size")
        convert(source, tmp_path / "rectangle", image_size=(24, 32), **HEADS)
        vit = ViTModel(
            ViTConfig(**{name: TINY[name] for name in TINY if name != "num_frames"} | {"image_size": (24, 32)})
        )
        save_file({name: tensor.clone() for name, tensor in vit.state_dict().items()}, tmp_path / "vit.safetensors")
        convert(tmp_path / "vit.safetensors", tmp_path / "from_vit", image_size=(24, 32), **HEADS)

    def test_heads(self, tmp_path):
        self.refuse(ORIGINAL, tmp_path, "48 wide, no multiple of 64: say how many heads", num_attention_heads=None)
        self.refuse(ORIGINAL, tmp_path, "--num-attention-heads 5 does not divide", num_attention_heads=5)

    def test_wrong_heads_differ_from_the_outputs(self, tmp_path):
        outputs = ORIGINAL.with_suffix(".safetensors")
        self.refuse(ORIGINAL, tmp_path, "differs from the outputs in .* by", num_attention_heads=2, outputs=outputs)

    def test_outputs_file(self, tmp_path):
        save_file({"a": torch.zeros(1)}, tmp_path / "o.safetensors")
        self.refuse(ORIGINAL, tmp_path, "holds no pixel_values with logits, but a", outputs=tmp_path / "o.safetensors")

    def test_a_twin_that_differs(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoint_conversion, "difference_from_built_in", lambda *arguments: float("nan"))
        self.refuse(ORIGINAL, tmp_path, "differs from transformers' built-in model .* nothing was written")

    def test_no_number(self, state, tmp_path):
        state["model.norm.weight"][3] = float("nan")
        source = save_original(tmp_path / "a.pyth", state)
        self.refuse(source, tmp_path, r"1 weights of .* hold NaN or infinity: timesformer\.layernorm\.weight")

    def test_scheme_of_a_timesformer(self, tmp_path):
        self.refuse(ORIGINAL, tmp_path, "--attention-type is for image ViTs", attention_type="axial")

    def test_config_that_contradicts(self, tmp_path):
        make_model().save_pretrained(tmp_path / "a")
        path = tmp_path / "a" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 2}))
        self.refuse(tmp_path / "a", tmp_path, "contradicts its weights: num_hidden_layers=2, the weights say 3")
        path.write_text("{")
        self.refuse(tmp_path / "a", tmp_path, "config.json is no JSON")

    @pytest.mark.parametrize("labels", ["kinetics400", "nonsense", "EMPTY", "TWICE", "BINARY"])
    def test_labels(self, tmp_path, labels):
        texts = {"EMPTY": b"\n", "TWICE": b"a\nb\na\n", "BINARY": b"\xff\xfe\x00"}
        messages = {
            "kinetics400": "'kinetics400' has 400 labels, the model 7 classes",
            "nonsense": r"'nonsense' is neither a label list \(diving48, hmdb51, kinetics400",
            "EMPTY": "must have a label in every line; line 1 is empty",
            "TWICE": "names labels more than once: a",
            "BINARY": "is no text file",
        }
        if labels in texts:
            (tmp_path / labels).write_bytes(texts[labels])
        self.refuse(ORIGINAL, tmp_path, messages[labels], labels=str(tmp_path / labels) if labels in texts else labels)

    @pytest.mark.parametrize("scheme", ["sparse_local_global", "axial"])
    def test_schemes_that_the_original_has_not(self, scheme, tmp_path):
        make_model(scheme).save_pretrained(tmp_path / "a")
        self.refuse(tmp_path / "a", tmp_path, f"The authors' code has no {scheme} attention", to="original")

    def test_rectangles_that_the_original_has_not(self, tmp_path):
        make_model(image_size=(32, 64)).save_pretrained(tmp_path / "a")
        self.refuse(tmp_path / "a", tmp_path, "no rectangular sizes; this model is for 32 x 64 pixels", to="original")


class TestOutputFolder:
    def test_existing_is_refused_unless_overwritten(self, tmp_path):
        convert(ORIGINAL, tmp_path / "k", **HEADS)
        before = (tmp_path / "k" / "config.json").read_bytes()
        with pytest.raises(FileExistsError, match="k exists; give another name, or --overwrite"):
            convert(ORIGINAL, tmp_path / "k", num_frames=9, **HEADS)
        assert (tmp_path / "k" / "config.json").read_bytes() == before
        convert(ORIGINAL, tmp_path / "k", num_frames=9, overwrite=True, **HEADS)
        assert TimesformerConfig.from_pretrained(tmp_path / "k").num_frames == 9
        assert sorted(path.name for path in tmp_path.iterdir()) == ["k"]

    def test_only_models_are_overwritten(self, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "thesis.tex").write_text("my life's work")
        for overwrite, message in (
            (False, "exists; give another name"),
            (True, "is more than an output: it holds thesis.tex. It is not overwritten"),
        ):
            with pytest.raises(FileExistsError, match=message):
                convert(ORIGINAL, tmp_path / "thesis", overwrite=overwrite, **HEADS)
        assert (tmp_path / "thesis" / "thesis.tex").exists()

    def test_a_trainers_folder_is_not_overwritten(self, tmp_path):
        """It holds a model, and what a model doesn't need: its checkpoints, one of them the source."""
        make_model().save_pretrained(tmp_path / "run")
        make_model().save_pretrained(tmp_path / "run" / "checkpoint-5")
        (tmp_path / "run" / "optimizer.pt").write_bytes(b"")
        with pytest.raises(FileExistsError, match=r"it holds checkpoint-5, optimizer\.pt"):
            convert(tmp_path / "run" / "checkpoint-5", tmp_path / "run", overwrite=True)
        assert (tmp_path / "run" / "checkpoint-5" / "model.safetensors").exists()

    def test_source_as_output(self, tmp_path):
        model = make_model()
        model.save_pretrained(tmp_path / "a")
        convert(tmp_path / "a", tmp_path / "a", num_frames=6, overwrite=True)
        assert TimesformerConfig.from_pretrained(tmp_path / "a").num_frames == 6
        with pytest.raises(FileExistsError, match=r"lies in .*, which would be replaced"):
            convert(tmp_path / "a" / "model.safetensors", tmp_path / "a", overwrite=True)

    def test_links(self, tmp_path):
        """The folder that a link leads to is replaced, and not the link."""
        convert(ORIGINAL, tmp_path / "k", **HEADS)
        (tmp_path / "link").symlink_to(tmp_path / "k")
        convert(ORIGINAL, tmp_path / "link", num_frames=6, overwrite=True, **HEADS)
        assert (tmp_path / "link").is_symlink()
        assert TimesformerConfig.from_pretrained(tmp_path / "k").num_frames == 6
        (tmp_path / "nowhere").symlink_to(tmp_path / "nothing")
        with pytest.raises(FileExistsError, match="nowhere exists"):
            convert(ORIGINAL, tmp_path / "nowhere", **HEADS)

    def test_only_regular_files_are_overwritten(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.pyth")
        with pytest.raises(FileExistsError, match=r"pipe\.pyth is no regular file; it is not overwritten"):
            convert(ORIGINAL, tmp_path / "pipe.pyth", to="original", overwrite=True, **HEADS)

    @pytest.mark.parametrize("to", ["transformers", "original"])
    def test_full_disk(self, to, tmp_path):
        """The system refuses to write a file past 50 kB: nothing stays, and what was there is still there."""
        out = tmp_path / ("k.pyth" if to == "original" else "k")
        convert(ORIGINAL, out, to=to, **HEADS)
        before = digest(tmp_path)
        limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
        limit += "from timesformer_hf.cli import main; sys.exit(main(sys.argv[1:]))"
        arguments = [
            "convert",
            str(ORIGINAL),
            str(out),
            "--to",
            to,
            "--num-attention-heads",
            "4",
            "--overwrite",
        ]
        result = subprocess.run([sys.executable, "-c", limit, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 2, result.stderr
        assert result.stderr.splitlines()[-1].startswith("timesformer-hf: ")  # after warnings of torch or torchao
        assert "Traceback" not in result.stderr
        assert digest(tmp_path) == before

    def test_terminated(self, tmp_path):
        """By a signal in the middle of writing: nothing of it stays."""
        code = """if True:
            import os, signal, sys
            from timesformer_hf import TimesformerForVideoClassification
            from timesformer_hf.cli import main

            TimesformerForVideoClassification.save_pretrained = lambda *arguments: os.kill(os.getpid(), signal.SIGTERM)
            main(sys.argv[1:])
        """
        arguments = ["convert", str(ORIGINAL), str(tmp_path / "k"), "--num-attention-heads", "4"]
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 143, result.stderr
        assert not list(tmp_path.iterdir())


def digest(folder) -> dict:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestCommands:
    def test_convert(self, tmp_path, capsys):
        arguments = ["convert", str(ORIGINAL), str(tmp_path / "k"), "--num-attention-heads", "4", "--image-size", "64"]
        assert main([*arguments, "--check", str(ORIGINAL.with_suffix(".safetensors"))]) == 0
        output = capsys.readouterr().out
        assert "divided_space_time, 4 frames, size 64, 7 classes" in output
        assert "checked: logits equal to those in divided_space_time.safetensors, within" in output
        assert main(arguments) == 2
        assert "exists; give another name, or --overwrite" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main([*arguments[:-1], "1x2x3"])
        assert "1x2x3 must be a side, 224, or a height and a width, 256x448" in capsys.readouterr().err

    @pytest.mark.parametrize("name", FILES)
    def test_info_of_foreign_files(self, name):
        about = describe_checkpoint(GOLDEN / name, num_attention_heads=4)
        assert about["format"] == ("mmaction2" if "mmaction2" in name else "original")
        assert about["attention_type"] == name.removeprefix("mmaction2_").partition(".")[0]
        assert about["num_frames"] == (None if "space_only" in name else 4)
        assert (about["image_size"], about["patch_size"], about["num_labels"]) == ((32, 32), (8, 8), 7)
        assert about["missing"] == ["config.json", "preprocessor_config.json", "class names"]
        assert about["left_over"] == []
        config = TimesformerConfig(
            **TINY | {"intermediate_size": 192}, num_labels=7, attention_type=about["attention_type"]
        )
        expected = sum(parameter.numel() for parameter in TimesformerForVideoClassification(config).parameters())
        assert about["parameters"] == expected

    def test_info_prints(self, tmp_path, capsys, state):
        source = save_original(tmp_path / "a.pyth", with_classes(state, 174))
        del state["model.norm.bias"]
        assert main(["info", str(source), "--num-attention-heads", "4"]) == 0
        output = capsys.readouterr().out
        assert "classes:    174, those of ssv2" in output
        assert "pixels:     BGR, mean 0.45, deviation 0.225" in output
        assert main(["info", str(save_original(source, state)), "--num-attention-heads", "4", "--json"]) == 0
        assert "weight timesformer.layernorm.bias" in json.loads(capsys.readouterr().out)["missing"]
        assert main(["info", str(tmp_path / "nothing")]) == 2
        assert "there is no such file or folder" in capsys.readouterr().err

    def test_info_loads_no_weights(self, tmp_path):
        make_model().save_pretrained(tmp_path)
        about = describe_checkpoint(tmp_path)
        assert about["format"] == "timesformer"
        assert about["dtypes"] == ["float32"]
        checkpoint = checkpoint_conversion.read_checkpoint(tmp_path, shapes_only=True)
        assert all(tensor.is_meta for tensor in checkpoint.state_dict.values())
        foreign = checkpoint_conversion.read_checkpoint(ORIGINAL, shapes_only=True)
        assert all(tensor.is_meta for tensor in foreign.state_dict.values())

    def test_info_of_a_vit(self, tmp_path):
        ViTModel(ViTConfig(**{name: TINY[name] for name in TINY if name != "num_frames"})).save_pretrained(tmp_path)
        about = describe_checkpoint(tmp_path)
        assert (about["attention_type"], about["num_labels"]) == ("image model", 0)
        assert about["missing"] == ["preprocessor_config.json", "a head"]


def test_label_lists():
    assert {name: len(read_labels(name)) for name in LABEL_LISTS} == {
        "diving48": 48,
        "hmdb51": 51,
        "kinetics400": 400,
        "kinetics600": 600,
        "ssv2": 174,
        "ucf101": 101,
    }


def test_saved_headless_model_is_not_an_image_vit(tmp_path):
    """Its keys have no prefix, as a ViT's; the fused query, key and value tell them apart."""
    randomize(TimesformerModel(TimesformerConfig(**TINY))).save_pretrained(tmp_path)
    assert describe_checkpoint(tmp_path)["format"] == "timesformer"
