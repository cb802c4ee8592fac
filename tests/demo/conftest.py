"""A small model with labels, and a clip for it."""

import pytest
from clips import moving_pattern, write_video
from tiny_models import LABELS, make_keen_model, make_video_processor


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """It was saved with a protocol of several views, which the page leaves out."""
    folder = tmp_path_factory.mktemp("model")
    make_keen_model(id2label=dict(enumerate(LABELS))).save_pretrained(folder)
    make_video_processor(frame_sampling_rate=3, views="paper").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return str(write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", moving_pattern(50)))
