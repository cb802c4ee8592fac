"""Models that are exported in a second."""

from pathlib import Path

import pytest
import torch
from tiny_models import make_model, make_video_processor, save_classifier


# 14 x 14 patches, as the base model: resized to 16, onnxruntime's own nearest picks other entries than torch's.
SMALL = {
    "image_size": 28,
    "patch_size": 2,
    "num_frames": 4,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def small_model(scheme: str = "joint_space_time", **settings) -> torch.nn.Module:
    """With random weights, for clips of 28 x 28 pixels."""
    return make_model(scheme, **SMALL | settings)


def require_onnx() -> None:
    """Skip the test where a package of the ONNX export isn't installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason='ONNX export needs pip install "timesformer_hf[export]"')


def save_small_classifier(folder: Path) -> Path:
    """The small joint model with its processor, which scales the shorter side to 32 pixels."""
    processor = make_video_processor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})
    save_classifier(folder, processor, attention_type="joint_space_time", **SMALL)
    return folder
