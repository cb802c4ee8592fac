"""Labels of videos as a model numbers them, and scores of loaded videos."""

import numpy as np
import pytest
import torch
from tiny_models import make_model

from timesformer_hf import encode_labels
from timesformer_hf.data.labelled_videos import LabelledVideo, LabelledVideos
from timesformer_hf.evaluation.scoring import list_sources, score_batch
from timesformer_hf.inference.feature_extraction import EmbeddedVideo


NAMES = ["running", "sitting", "jumping"]


def videos(*labels: str, multi_label: bool = False) -> LabelledVideos:
    items = [LabelledVideo("a.mp4", tuple(filter(None, label.split("|"))), "a.mp4") for label in labels]
    return LabelledVideos(items, NAMES, multi_label)


class TestLabels:
    def test_they_are_numbers_of_the_model(self):
        assert encode_labels(videos("jumping", "Running", "jumping"), NAMES).tolist() == [2, 0, 2]

    def test_several_are_a_row_of_zeros_and_ones(self):
        found = encode_labels(videos("jumping|running", "", "sitting", multi_label=True), NAMES)
        assert found.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]

    def test_one_that_the_model_does_not_know_is_named(self):
        message = "doesn't know 1 of the 2 labels of the data: flying. It knows running, sitting, jumping"
        with pytest.raises(ValueError, match=message):
            encode_labels(videos("running", "flying"), NAMES)

    def test_two_that_differ_by_punctuation_are_not_taken_for_one(self):
        with pytest.raises(ValueError, match="doesn't know 1 of the 2 labels of the data: Jumping_"):
            encode_labels(videos("jumping", "Jumping_"), NAMES)

    def test_numbers_need_names(self):
        with pytest.raises(ValueError, match="--label_names says what they stand for"):
            encode_labels(videos("0", "1"), NAMES)


def test_a_video_that_is_listed_twice_has_two_sources():
    assert list_sources(videos("running", "sitting", "running")) == ["a.mp4", "a.mp4 (2)", "a.mp4 (3)"]


class TestScores:
    SCORING = {"average": "probabilities", "function": "softmax"}

    def test_views_are_averaged_and_other_shapes_have_a_pass_of_their_own(self):
        model = make_model()
        clips = [torch.randn(3, 4, 3, 32, 32), torch.randn(4, 3, 32, 32), torch.randn(3, 4, 3, 32, 32)]
        loaded = [EmbeddedVideo(f"{number}.mp4", pixel_values=clip) for number, clip in enumerate(clips)]
        loaded.insert(1, EmbeddedVideo("broken.mp4", error="can't be decoded"))
        score_batch(model, loaded, self.SCORING)
        assert loaded.pop(1).feature is None
        for video, clip in zip(loaded, clips, strict=True):
            with torch.no_grad():
                expected = model(clip.reshape(-1, 4, 3, 32, 32)).logits.softmax(-1).mean(0)
            np.testing.assert_allclose(video.feature, expected, atol=1e-5)
            assert video.pixel_values is None

    def test_a_shape_that_the_model_does_not_take_is_an_error_of_its_videos(self):
        loaded = [EmbeddedVideo("odd.mp4", pixel_values=torch.zeros(4, 3, 32, 36))]
        score_batch(make_model(), loaded, self.SCORING)
        assert "width=36 of pixel_values" in loaded[0].error
