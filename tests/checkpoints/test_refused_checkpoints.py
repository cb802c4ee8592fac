"""What `convert` refuses, and that it writes nothing then."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import HEADS, ORIGINAL, TINY, make_model, save_original
from transformers import ViTConfig, ViTModel

from timesformer_hf.checkpoints import conversion as checkpoint_conversion
from timesformer_hf.checkpoints.conversion import convert
from timesformer_hf.cli import main


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
        self.refuse(tmp_path / "a.pth", tmp_path, "has no weights. Found: .*Expected: a state dict")

    def test_wrong_format(self, tmp_path):
        self.refuse(
            ORIGINAL, tmp_path, "not in the format 'mmaction2'; it is the authors' .pyth", from_format="mmaction2"
        )
        self.refuse(ORIGINAL, tmp_path, "Unknown format 'tf'; it must be one of original, mmaction2", from_format="tf")
        self.refuse(ORIGINAL, tmp_path, "Unknown target 'onnx'; it must be one of transformers, original", to="onnx")

    def test_nothing_there(self, tmp_path):
        self.refuse(tmp_path / "a.pyth", tmp_path, "there is no such file or folder")
        self.refuse(
            "nobody/nothing",
            tmp_path,
            "nobody/nothing is neither a path here .* Hub can't be reached",
        )
        (tmp_path / "empty").mkdir()
        self.refuse(tmp_path / "empty", tmp_path, r"has no weights: it contains none of model\.safetensors")

    @pytest.mark.parametrize("size", [0, 100, 20_000])
    def test_half_written(self, tmp_path, size):
        (tmp_path / "a.pyth").write_bytes(ORIGINAL.read_bytes()[:size])
        self.refuse(tmp_path / "a.pyth", tmp_path, "a.pyth is damaged, incomplete or not a checkpoint")
        save_file({"a": torch.zeros(10_000)}, tmp_path / "a.safetensors")
        whole = (tmp_path / "a.safetensors").read_bytes()
        (tmp_path / "a.safetensors").write_bytes(whole[:size])
        self.refuse(
            tmp_path / "a.safetensors", tmp_path, "a.safetensors is damaged, incomplete or not a safetensors file"
        )

    @pytest.mark.parametrize("text", ["version https://git-lfs.github.com/spec/v1", "hello", "root:x:0:0:root", "{}"])
    def test_text_is_no_checkpoint(self, tmp_path, text):
        (tmp_path / "a.pth").write_text(text)
        self.refuse(tmp_path / "a.pth", tmp_path, "a.pth (is damaged|has no weights)")

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
    def test_index_of_shards_that_names_no_files_beside_it(self, tmp_path, index):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "model.safetensors.index.json").write_text(json.dumps(index))
        self.refuse(tmp_path / "a", tmp_path, "is not an index of weights: .* must name files in the same folder")

    def test_a_shard_missing_or_changed(self, tmp_path):
        make_model().save_pretrained(tmp_path / "a", max_shard_size="50kB")
        shard = sorted((tmp_path / "a").glob("*.safetensors"))[0]
        tensors = load_file(shard)
        save_file(dict(list(tensors.items())[1:]), shard)
        self.refuse(tmp_path / "a", tmp_path, f"the files that it lists differ in {next(iter(tensors))}")
        shard.unlink()
        self.refuse(tmp_path / "a", tmp_path, f"is incomplete: {shard.name}, which .* lists, is missing")

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"num_hidden_layers": "2"}, "can't be used: .*num_hidden_layers"),
            ({"image_size": None}, "can't be used: .*image_size"),
            ({"attention_type": 3}, "can't be used: .*attention_type"),
            ({"num_attention_heads": 0}, "can't be used: .*num_attention_heads=0 must be at least 1"),
            ({"id2label": {"1": "a", "2": "b"}}, "can't be used: no class 0"),
            ({"model_type": "bert"}, "its config.json says model type 'bert'"),
            ({"num_frames": 9}, "contradicts its weights: num_frames=9, the weights say 4"),
            ({"image_size": 64}, "contradicts its weights: image_size=64, the weights say 32"),
        ],
    )
    def test_config_with_values_that_cannot_be(self, tmp_path, values, message):
        make_model().save_pretrained(tmp_path / "a")
        path = tmp_path / "a" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        self.refuse(tmp_path / "a", tmp_path, message)
        assert main(["info", str(tmp_path / "a")]) == 2

    @pytest.mark.parametrize("config", ["[]", "null", "3"])
    def test_config_that_is_no_object(self, tmp_path, config):
        make_model().save_pretrained(tmp_path / "a")
        (tmp_path / "a" / "config.json").write_text(config)
        self.refuse(tmp_path / "a", tmp_path, "must contain an object")

    @pytest.mark.parametrize(
        "values", [{"image_mean": "x"}, {"image_mean": [0.5]}, {"image_std": [0, 0, 0]}, {"image_std": [1, None, 1]}]
    )
    def test_statistics_that_cannot_be(self, tmp_path, values):
        make_model().save_pretrained(tmp_path / "a")
        (tmp_path / "a" / "preprocessor_config.json").write_text(json.dumps(values))
        self.refuse(tmp_path / "a", tmp_path, "it must be 3 numbers, and a standard deviation must be positive")

    @pytest.mark.parametrize("wrong", [torch.zeros(7, 48, dtype=torch.int64), torch.eye(48).to_sparse()])
    def test_weights_that_are_no_dense_floats(self, state, tmp_path, wrong):
        source = save_original(tmp_path / "a.pyth", state | {"model.head.weight": wrong})
        self.refuse(source, tmp_path, r"not dense floating-point numbers: model\.head\.weight")

    def test_embeddings_of_other_dimensions(self, state, tmp_path):
        source = save_original(tmp_path / "a.pyth", state | {"model.patch_embed.proj.weight": torch.zeros(48, 192)})
        self.refuse(source, tmp_path, r"a patch projection \(48, 192\), .* must be \(width, channels, height, width\)")

    def test_heads_that_the_config_contradicts(self, tmp_path):
        make_model().save_pretrained(tmp_path / "a")
        self.refuse(tmp_path / "a", tmp_path, "states 4 heads, not --num-attention-heads 2", num_attention_heads=2)

    def test_sizes_that_do_not_fit(self, tmp_path):
        self.refuse(ORIGINAL, tmp_path, "image_size=33 must be a multiple of patch_size=8", image_size=33)

    @pytest.mark.parametrize("settings", [{"hidden_act": "relu"}, {"layer_norm_eps": 0.1}])
    def test_what_the_original_format_does_not_hold(self, settings, tmp_path):
        make_model(**settings).save_pretrained(tmp_path / "a")
        self.refuse(tmp_path / "a", tmp_path, "constants are fixed in it: .* the logits differ by", to="original")

    def test_original_needs_a_name_for_a_file(self, tmp_path):
        with pytest.raises(ValueError, match=r"OUT must be a file name that ends in \.pyth, \.pth, \.pt, got"):
            convert(ORIGINAL, tmp_path / "x.safetensors", to="original", **HEADS)

    def test_empty_names(self, tmp_path):
        self.refuse("", tmp_path, "The name of the checkpoint is empty")
        with pytest.raises(ValueError, match="The output name '' is empty"):
            convert(ORIGINAL, "", **HEADS)

    def test_out_under_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(NotADirectoryError, match=r"can't be created: .*file is a file"):
            convert(ORIGINAL, tmp_path / "file" / "model", **HEADS)

    def test_code_is_never_run(self, tmp_path):
        class Harmful:
            def __reduce__(self):
                return (open, (str(tmp_path / "harm"), "w"))

        torch.save({"model_state": {"a": torch.zeros(1)}, "meta": Harmful()}, tmp_path / "a.pyth")
        self.refuse(tmp_path / "a.pyth", tmp_path, "contains more than weights: loading it would run .*open")
        (tmp_path / "b.pyth").write_bytes(pickle.dumps(Harmful()))
        self.refuse(tmp_path / "b.pyth", tmp_path, "b.pyth (contains more than weights|is )")
        assert not (tmp_path / "harm").exists()

    def test_keys_left_over_and_missing(self, state, tmp_path):
        source = save_original(
            tmp_path / "a.pyth", state | {"model.extra": torch.zeros(1), "ema.decay": torch.zeros(1)}
        )
        self.refuse(source, tmp_path, r"looks like .*, but doesn't fit: 2 unknown keys .*: model\.extra, ema\.decay")
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

    def test_positions_that_are_no_square(self, state, tmp_path):
        state["model.pos_embed"] = torch.zeros(1, 1 + 12, 48)
        source = save_original(tmp_path / "a.pyth", state)
        self.refuse(source, tmp_path, "has 12 positions of 8 x 8 pixels, which are not a square; give .* --image-size")
        convert(source, tmp_path / "rectangle", image_size=(24, 32), **HEADS)
        vit = ViTModel(
            ViTConfig(**{name: TINY[name] for name in TINY if name != "num_frames"} | {"image_size": (24, 32)})
        )
        save_file({name: tensor.clone() for name, tensor in vit.state_dict().items()}, tmp_path / "vit.safetensors")
        convert(tmp_path / "vit.safetensors", tmp_path / "from_vit", image_size=(24, 32), **HEADS)

    def test_number_of_heads_unknown_or_no_divisor(self, tmp_path):
        self.refuse(ORIGINAL, tmp_path, "the width 48, which is not a multiple of 64", num_attention_heads=None)
        self.refuse(ORIGINAL, tmp_path, "--num-attention-heads 5 must divide", num_attention_heads=5)

    def test_wrong_heads_differ_from_the_outputs(self, tmp_path):
        outputs = ORIGINAL.with_suffix(".safetensors")
        self.refuse(ORIGINAL, tmp_path, "differs from the outputs in .* by", num_attention_heads=2, outputs=outputs)

    def test_file_of_outputs_without_logits(self, tmp_path):
        save_file({"a": torch.zeros(1)}, tmp_path / "o.safetensors")
        self.refuse(ORIGINAL, tmp_path, "lacks pixel_values with logits; it has a", outputs=tmp_path / "o.safetensors")

    def test_a_twin_that_differs(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoint_conversion, "difference_from_built_in", lambda *arguments: float("nan"))
        self.refuse(ORIGINAL, tmp_path, "differs from transformers' built-in model .* nothing was written")

    def test_weights_that_are_no_numbers(self, state, tmp_path):
        state["model.norm.weight"][3] = float("nan")
        source = save_original(tmp_path / "a.pyth", state)
        self.refuse(source, tmp_path, r"1 weights of .* contain NaN or infinity: timesformer\.layernorm\.weight")

    def test_scheme_is_not_for_a_timesformer(self, tmp_path):
        self.refuse(ORIGINAL, tmp_path, "--attention-type is only for image ViTs", attention_type="axial")

    def test_config_that_contradicts(self, tmp_path):
        make_model().save_pretrained(tmp_path / "a")
        path = tmp_path / "a" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 2}))
        self.refuse(tmp_path / "a", tmp_path, "contradicts its weights: num_hidden_layers=2, the weights say 3")
        path.write_text("{")
        self.refuse(tmp_path / "a", tmp_path, "config.json is not JSON")

    @pytest.mark.parametrize("labels", ["kinetics400", "nonsense", "EMPTY", "TWICE", "BINARY"])
    def test_labels_that_do_not_fit(self, tmp_path, labels):
        texts = {"EMPTY": b"\n", "TWICE": b"a\nb\na\n", "BINARY": b"\xff\xfe\x00"}
        messages = {
            "kinetics400": "'kinetics400' has 400 labels, but the model has 7 classes",
            "nonsense": r"'nonsense' is neither a label list \(diving48, hmdb51, kinetics400",
            "EMPTY": "must have a label in every line; line 1 is empty",
            "TWICE": "names labels more than once: a",
            "BINARY": "is not a text file",
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
        self.refuse(tmp_path / "a", tmp_path, "only square frames; this model is for 32 x 64 pixels", to="original")
