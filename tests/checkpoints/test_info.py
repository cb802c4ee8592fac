"""What `describe_checkpoint` finds out without loading weights."""

import pytest
from tiny_models import FILES, GOLDEN, ORIGINAL, TINY, make_model
from transformers import ViTConfig, ViTModel

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification
from timesformer_hf.checkpoints import conversion as checkpoint_conversion
from timesformer_hf.checkpoints.info import describe_checkpoint


@pytest.mark.parametrize("name", FILES)
def test_facts_of_foreign_files(name):
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


def test_loads_no_weights(tmp_path):
    make_model().save_pretrained(tmp_path)
    about = describe_checkpoint(tmp_path)
    assert about["format"] == "timesformer"
    assert about["dtypes"] == ["float32"]
    checkpoint = checkpoint_conversion.read_checkpoint(tmp_path, shapes_only=True)
    assert all(tensor.is_meta for tensor in checkpoint.state_dict.values())
    foreign = checkpoint_conversion.read_checkpoint(ORIGINAL, shapes_only=True)
    assert all(tensor.is_meta for tensor in foreign.state_dict.values())


def test_facts_of_a_vit(tmp_path):
    ViTModel(ViTConfig(**{name: TINY[name] for name in TINY if name != "num_frames"})).save_pretrained(tmp_path)
    about = describe_checkpoint(tmp_path)
    assert (about["attention_type"], about["num_labels"]) == ("image model", 0)
    assert about["missing"] == ["preprocessor_config.json", "a head"]
