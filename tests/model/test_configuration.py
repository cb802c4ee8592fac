"""The config: its rules, each named in its error, and what it saves."""

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError

from timesformer_hf import TimesformerConfig, TimesformerModel


def test_defaults_are_the_paper_base_model():
    config = TimesformerConfig()
    assert (config.num_frames, config.image_size, config.patch_size, config.grid_size) == (8, 224, 16, (14, 14))
    assert config.attention_type == "divided_space_time"
    assert config.drop_path_rate == 0.0


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("image_size", 225, "image_size=225 must be a multiple of patch_size=16 in height"),
        ("image_size", (224, 100), r"image_size=\(224, 100\) must be a multiple of patch_size=16 in width"),
        ("image_size", [224], r"image_size=\[224\] must be a positive integer or a pair"),
        ("image_size", -16, "image_size=-16 must be a positive integer"),
        ("patch_size", (16, 0), r"patch_size=\(16, 0\) must be a positive integer or a pair"),
        ("num_frames", 0, "num_frames=0 must be at least 1"),
        ("num_channels", 0, "num_channels=0 must be at least 1"),
        ("num_hidden_layers", 0, "num_hidden_layers=0 must be at least 1"),
        ("intermediate_size", 0, "intermediate_size=0 must be at least 1"),
        ("drop_path_rate", 1.0, r"drop_path_rate=1\.0 must lie in \[0, 1\)"),
        ("drop_path_rate", -0.1, r"drop_path_rate=-0\.1 must lie in \[0, 1\)"),
        ("hidden_dropout_prob", 1.5, r"hidden_dropout_prob=1\.5 must lie in \[0, 1\)"),
        ("attention_probs_dropout_prob", 2, r"attention_probs_dropout_prob=2 must lie in \[0, 1\)"),
        ("layer_norm_eps", 0.0, r"layer_norm_eps=0\.0 must be positive and finite"),
        ("initializer_range", float("inf"), "initializer_range=inf must be positive and finite"),
        ("hidden_act", "GELU", "hidden_act='GELU' must be one of .*'gelu'"),
        ("problem_type", "ranking", "ranking"),
        ("attention_type", "axial_time", "attention_type='axial_time' must be one of 'divided_space_time', 'joint_sp"),
        ("interpolation_mode", "cubic", "interpolation_mode='cubic' must be one of 'nearest', 'bicubic'"),
    ],
)
def test_rules_are_named_in_their_errors(field, value, rule):
    with pytest.raises((ValueError, StrictDataclassFieldValidationError), match=rule):
        TimesformerConfig(**{field: value})


def test_heads_are_checked_when_a_model_is_made():
    """transformers' own tests of configs make one of width 37 with 12 heads."""
    config = TimesformerConfig(hidden_size=37)
    with pytest.raises(ValueError, match="num_attention_heads=12 must divide hidden_size=37"):
        TimesformerModel(config)


@pytest.mark.parametrize(("field", "value"), [("num_frames", "8"), ("drop_path_rate", "0.1"), ("image_size", 224.0)])
def test_types_are_checked(field, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"field '{field}'"):
        TimesformerConfig(**{field: value})


def test_fields_set_later_are_checked_by_the_model():
    config = TimesformerConfig()
    config.num_frames = 0
    with pytest.raises(ValueError, match="num_frames=0"):
        TimesformerModel(config)


@pytest.mark.parametrize(
    ("field", "value", "saved"),
    [
        ("drop_path_rate", 0.1, 0.1),
        ("drop_path_rate", 0.0, 0),
        ("image_size", (224, 224), 224),
        ("image_size", (160, 320), [160, 320]),
        ("patch_size", [14, 16], [14, 16]),
    ],
)
def test_saved_form_is_transformers_own(field, value, saved, tmp_path):
    """What the built-in model can express is saved as it wants it: `0` for no stochastic depth, a square as a side."""
    config = TimesformerConfig(**{"image_size": (112, 224), field: value})
    assert config.to_dict()[field] == saved
    assert type(config.to_dict()[field]) is type(saved)
    config.save_pretrained(tmp_path)
    loaded = TimesformerConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.grid_size == config.grid_size
