"""The pipeline over several views of a video, against a slow twin (view_twins.py)."""

import copy
import math

import pytest
import torch
from tiny_models import LABELS
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, pipeline
from view_twins import (
    FRAME_SIZES,
    mean,
    original_views,
    paper_views,
    save_keen_classifier,
    softmax,
    twin_logits,
    write_videos,
)

from timesformer_hf import TimesformerVideoProcessor


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, str]:
    return write_videos(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_keen_classifier(tmp_path_factory.mktemp("model"))


def as_rows(scores: list[float], tolerance: float = 1e-4) -> list[dict]:
    ranked = sorted(zip(scores, LABELS, strict=True), reverse=True)
    return [{"label": label, "score": pytest.approx(score, abs=tolerance)} for score, label in ranked]


def nearly(rows: list[dict]) -> list[dict]:
    """Of another model with the same weights, whose place in memory may decide the order of sums."""
    return [row | {"score": pytest.approx(row["score"], abs=1e-5)} for row in rows]


class TestPipeline:
    """From a file to scores, against the twin from a file to scores; in float32, through the model."""

    @pytest.mark.parametrize("name", FRAME_SIZES)
    def test_original_views_are_the_twins(self, classifier, videos, name):
        logits = twin_logits(classifier.model, original_views(videos[name]))
        assert classifier(videos[name], views="original") == as_rows(softmax(mean(logits)))
        if name != "square":  # whose crops are all alike
            assert softmax(mean(logits)) != pytest.approx(mean([softmax(row) for row in logits]), abs=1e-3)

    @pytest.mark.parametrize("name", FRAME_SIZES)
    def test_paper_views_are_the_twins(self, classifier, videos, name):
        logits = twin_logits(classifier.model, paper_views(videos[name], classifier.video_processor))
        assert classifier(videos[name], views="paper") == as_rows(mean([softmax(row) for row in logits]))

    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_batches_change_no_score(self, classifier, videos, batch_size):
        settings = {"num_clips": 2, "num_crops": 3}
        expected = []
        for video in videos.values():
            views = classifier.video_processor(video, **settings, return_tensors="pt").pixel_values[0]
            expected.append(as_rows(mean([softmax(row) for row in twin_logits(classifier.model, views)])))
        assert classifier(list(videos.values()), batch_size=batch_size, **settings) == expected

    def test_averages_and_functions_take_effect(self, classifier, videos):
        logits = twin_logits(classifier.model, original_views(videos["wide"]))
        for settings, expected in (
            ({"average": "probabilities"}, mean([softmax(row) for row in logits])),
            ({"function_to_apply": "none"}, mean(logits)),
            ({"function_to_apply": "sigmoid"}, [1 / (1 + math.exp(-logit)) for logit in mean(logits)]),
        ):
            assert classifier(videos["wide"], views="original", **settings) == as_rows(expected, 1e-3)
        top = classifier(videos["wide"], views="original", top_k=2)
        assert top == as_rows(softmax(mean(logits)))[:2]

    def test_protocol_of_the_processor_takes_effect(self, folder, videos, classifier):
        processor = TimesformerVideoProcessor.from_pretrained(folder, views="original")
        stored = pipeline("video-classification", model=folder, video_processor=processor)
        for views in ("original", "paper"):
            settings = {} if views == "original" else {"views": views}
            assert stored(videos["wide"], **settings) == nearly(classifier(videos["wide"], views=views))

    def test_views_are_a_setting_of_the_pipeline(self, folder, videos, classifier):
        configured = pipeline("video-classification", model=folder, views="original")
        assert configured(videos["wide"]) == nearly(classifier(videos["wide"], views="original"))

    def test_several_labels_are_averaged_as_probabilities(self, classifier, videos):
        multi_label = copy.copy(classifier)
        multi_label.model = copy.deepcopy(classifier.model)
        multi_label.model.config.problem_type = "multi_label_classification"
        logits = twin_logits(classifier.model, paper_views(videos["wide"], classifier.video_processor))
        expected = mean([[1 / (1 + math.exp(-logit)) for logit in row] for row in logits])
        assert multi_label(videos["wide"], views="paper") == as_rows(expected)

    def test_half_precision_is_near(self, folder, videos, classifier):
        half = pipeline("video-classification", model=folder, dtype=torch.bfloat16)
        full = {row["label"]: row["score"] for row in classifier(videos["wide"], views="paper")}
        got = half(videos["wide"], views="paper")
        # bfloat16 keeps 8 bits of logits of about 1
        assert all(row["score"] == pytest.approx(full[row["label"]], abs=0.03) for row in got)

    def test_other_models_have_no_views(self, videos, tmp_path):
        small = {"image_size": 32, "num_frames": 4, "hidden_size": 32, "num_hidden_layers": 1}
        config = VideoMAEConfig(**small, num_attention_heads=2, intermediate_size=32, decoder_num_hidden_layers=1)
        VideoMAEForVideoClassification(config).save_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "VideoMAEImageProcessor"}')
        other = pipeline("video-classification", model=str(tmp_path))
        with pytest.raises(ValueError, match="num_clips: only a model with a TimesformerVideoProcessor"):
            other(videos["wide"], num_clips=2)
