"""Models small enough for a test, clips for them, the golden checkpoints, and how closely two paths agree."""

from pathlib import Path

import torch
from torch import nn

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES


SCHEMES = list(ATTENTION_SCHEMES)
TINY = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
LABELS = ("running", "sitting", "jumping", "falling", "sleeping")

# Two ways to compute the same in float32: sums of some hundred terms in another order.
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}

# Foreign checkpoints with the outputs of their own code (golden/README.md); other programs know these schemes alone.
GOLDEN = Path(__file__).parent / "golden"
FOREIGN_SCHEMES = ("divided_space_time", "joint_space_time", "space_only")
FILES = [f"{scheme}.pyth" for scheme in FOREIGN_SCHEMES] + [f"mmaction2_{scheme}.pth" for scheme in FOREIGN_SCHEMES]
ORIGINAL = GOLDEN / "divided_space_time.pyth"
HEADS = {"num_attention_heads": 4}  # which such files don't hold


def randomize(model: nn.Module) -> nn.Module:
    """Weights that leave nothing zero, so that no term can hide."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.1)
    return model


def make_model(attention_type: str = "divided_space_time", **settings) -> TimesformerForVideoClassification:
    """A model of TINY sizes with random weights and 5 labels."""
    config = TimesformerConfig(attention_type=attention_type, **TINY | {"num_labels": 5} | settings)
    return randomize(TimesformerForVideoClassification(config)).eval()


def make_keen_model(**settings) -> TimesformerForVideoClassification:
    """One whose logits differ between the views of a video by about 1, far beyond any tolerance here."""
    model = make_model(**settings)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(2)
    model.classifier.weight.data *= 3
    return model


def enable_checkpointing(model: nn.Module, **settings) -> None:
    """By the name of it that isn't deprecated in the installed transformers."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(settings) if settings else enable()


def make_clip(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random pixels, always the same: two clips that a tiny model takes, or of another shape."""
    return torch.randn(*(shape or (2, 4, 3, 32, 32)), generator=torch.Generator().manual_seed(1)).to(dtype)


def make_video_processor(**settings) -> TimesformerVideoProcessor:
    """One whose clips a tiny model takes; both sides of a frame are scaled to 32 pixels."""
    size = {"height": 32, "width": 32}
    return TimesformerVideoProcessor(**{"size": size, "crop_size": size, "num_frames": 4} | settings)


def save_classifier(folder: Path, processor: TimesformerVideoProcessor | None = None, **settings) -> str:
    """A folder with a model whose labels have names, and its processor; its name."""
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    make_model(**labels | settings).save_pretrained(folder)
    (processor or make_video_processor()).save_pretrained(folder)
    return str(folder)


def load_original() -> dict[str, torch.Tensor]:
    """The weights of the golden divided model, under the original names."""
    return torch.load(ORIGINAL, weights_only=True)["model_state"]


def save_original(path: Path, state: dict, **more) -> Path:
    """A file as the authors' code writes it, with `more` beside the weights."""
    torch.save({"model_state": state} | more, path)
    return path


def with_classes(state: dict, classes: int) -> dict:
    """The original weights with a new head."""
    head = {"model.head.weight": torch.randn(classes, 48) * 0.02, "model.head.bias": torch.zeros(classes)}
    return state | head
