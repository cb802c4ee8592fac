"""A model whose answers change with the frames, its processor, and videos for timelines."""

import pytest
from clips import moving_pattern, write_video
from tiny_models import LABELS, make_keen_model, make_video_processor


@pytest.fixture(scope="session")
def model():
    return make_keen_model(id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)})


@pytest.fixture(scope="session")
def processor():
    return make_video_processor(frame_sampling_rate=3)


@pytest.fixture(scope="session")
def film(tmp_path_factory) -> str:
    """83 frames, 3.32 s."""
    return str(write_video(tmp_path_factory.mktemp("film") / "film.mkv", moving_pattern(83)))
