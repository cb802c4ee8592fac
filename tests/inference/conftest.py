"""Fixtures of the tests of inference: a saved model, its pipeline, some videos."""

from functools import partial

import pytest
from tiny_models import save_classifier
from transformers import pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A saved model with its processor."""
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def classifier(folder):
    """The pipeline of that model."""
    return pipeline("video-classification", model=folder, device="cpu")


@pytest.fixture(scope="module")
def serial(classifier):
    """Every video when its turn has come: the slow twin of reading ahead."""
    return partial(classifier, prefetch_workers=0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    """Five short ones of five sizes."""
    from clips import moving_pattern, write_video  # which skips what asks for it where PyAV isn't installed

    folder = tmp_path_factory.mktemp("clips")
    sizes = [(48, 64), (64, 48), (96, 96), (32, 80), (40, 40)]
    return [str(write_video(folder / f"{i}.mp4", moving_pattern(12 + 3 * i, *size))) for i, size in enumerate(sizes)]
