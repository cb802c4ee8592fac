"""
The clips with a known truth: boxes against the pixels, labels against the shipped model;
one step of training.
"""

import importlib
import sys

import numpy as np
import pytest
import torch
from repository import EXAMPLES

from timesformer_hf import CAMERA_MOTION, TimesformerForVideoClassification
from timesformer_hf.explanation.boxes import read_boxes


av = pytest.importorskip("av", reason="clips are encoded and decoded")


@pytest.fixture(scope="module")
def moving_object():
    sys.path.insert(0, str(EXAMPLES / "moving_object"))
    yield importlib.import_module("moving_object")
    sys.path.remove(str(EXAMPLES / "moving_object"))


def test_boxes_are_where_the_pixels_change(moving_object):
    """What differs between the first and last frame, beyond the noise, is inside the boxes of these two."""
    for seed in range(8):
        clip = moving_object.render(np.random.default_rng(seed), "direction", 64, 8)
        changed = np.abs(clip.frames[0].astype(int) - clip.frames[-1]).max(axis=-1) > 60
        assert changed.sum() > 20
        inside = np.zeros_like(changed)
        for left, top, right, bottom in clip.boxes[[0, -1]]:
            columns, rows = np.arange(64) + 0.5, np.arange(64)[:, None] + 0.5
            inside |= (columns > left - 1) & (columns < right + 1) & (rows > top - 1) & (rows < bottom + 1)
        assert (changed & ~inside).sum() <= 3
        direction = np.sign((clip.boxes[-1] - clip.boxes[0])[:2])
        assert tuple(direction) == tuple(moving_object.DIRECTIONS.values())[clip.label]


def test_the_shipped_model_knows_the_cameras_movements(moving_object):
    rng = np.random.default_rng(0)
    clips = [moving_object.render(rng, "camera", 64, 8) for _ in range(30)]
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).permute(0, 1, 4, 2, 3).float() / 255
    model = TimesformerForVideoClassification.from_pretrained(CAMERA_MOTION)
    with torch.no_grad():
        predicted = model((frames - 0.45) / 0.225).logits.argmax(dim=1)
    labels = [tuple(moving_object.CAMERA)[clip.label] for clip in clips]
    assert sum(model.config.id2label[int(one)] == label for one, label in zip(predicted, labels, strict=True)) >= 27


@pytest.mark.parametrize("task", ["direction", "pattern"])
def test_clips_and_model_are_written(moving_object, task, tmp_path, monkeypatch):
    monkeypatch.setattr(moving_object, "STRUCTURE", moving_object.STRUCTURE | {"num_hidden_layers": 1})
    words = ["moving_object.py", str(tmp_path), "--task", task, "--clips", "1", "--steps", "1", "--batch-size", "2"]
    monkeypatch.setattr(sys, "argv", words)
    assert moving_object.main() == 0
    labels = moving_object.TASKS[task]
    assert sorted(path.parent.name for path in tmp_path.glob("clips/*/*.mp4")) == sorted(labels)
    boxes = read_boxes(tmp_path / "clips")
    assert len(boxes) == len(labels)
    assert all(sorted(frames) == list(range(30)) for frames in boxes.values())
    model = TimesformerForVideoClassification.from_pretrained(tmp_path / "model")
    assert tuple(model.config.id2label.values()) == labels
