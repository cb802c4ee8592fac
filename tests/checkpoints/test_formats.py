"""Which format a checkpoint is in: its keys and back, and configs told by shapes."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import SCHEMES, TINY, make_model, randomize
from transformers import ViTConfig, ViTModel

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification, TimesformerModel
from timesformer_hf.checkpoints.formats import FORMATS
from timesformer_hf.checkpoints.info import describe_checkpoint
from timesformer_hf.checkpoints.keys import rename_keys, restore_keys
from timesformer_hf.checkpoints.structure import infer_config_values


class TestKeyTables:
    @pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.signature)
    def test_names_of_every_format_and_back(self, row):
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


def test_saved_headless_model_is_not_an_image_vit(tmp_path):
    """Its keys have no prefix, as a ViT's; the fused query, key and value tell them apart."""
    randomize(TimesformerModel(TimesformerConfig(**TINY))).save_pretrained(tmp_path)
    assert describe_checkpoint(tmp_path)["format"] == "timesformer"
