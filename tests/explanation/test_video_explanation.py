"""The explanation of a video file: the pipeline's label and frames, the part that the model sees, times in between."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from clips import decode_all, moving_pattern, write_sound, write_video
from tiny_models import LABELS, make_keen_model, make_model, make_video_processor
from transformers import pipeline

from timesformer_hf import VideoReadError, explain, explain_video
from timesformer_hf.explanation.video_explanation import read_span, shrink, visible_region


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    return str(write_video(tmp_path_factory.mktemp("video") / "clip.mp4", moving_pattern(40)))


@pytest.fixture(scope="module")
def model():
    return make_keen_model(id2label=dict(enumerate(LABELS)))


@pytest.mark.parametrize("settings", [{}, {"frame_sampling_rate": 6}, {"fps": 5}, {"frame_sampling": "segments"}])
def test_label_score_and_frames_are_the_pipelines(video, model, settings):
    processor = make_video_processor(**settings)
    found = explain_video(model, processor, video)
    (best, *_) = pipeline("video-classification", model=model, video_processor=processor)(video)
    assert found.label == found.predicted == best["label"]
    assert found.score == pytest.approx(best["score"], abs=1e-5)
    frames = None if "fps" in settings else model.config.num_frames
    inputs = processor(video, num_frames=frames, return_tensors="pt", return_metadata=True)
    assert found.frame_indices == list(inputs["video_metadata"][0].frames_indices)
    np.testing.assert_allclose(found.relevance, explain(model, inputs.pixel_values)[0], atol=1e-7)
    every = decode_all(video)
    np.testing.assert_array_equal(found.frames, [every[index] for index in found.frame_indices])
    assert found.fps == 25
    np.testing.assert_allclose(found.frame_relevance.sum(), 1, rtol=1e-6)


def test_another_label_and_other_sampling(video, model):
    found = explain_video(model, make_video_processor(), video, "Sleeping", "rollout", 3, 5)
    assert (found.label, found.method) == ("sleeping", "rollout")
    assert found.frame_indices == [14, 19, 24]
    inputs = make_video_processor()(video, num_frames=3, frame_sampling_rate=5, return_tensors="pt")
    with torch.no_grad():
        scores = model(inputs.pixel_values).logits.softmax(-1)[0]
    assert found.score == pytest.approx(scores[4].item(), abs=1e-5)
    assert found.predicted == LABELS[scores.argmax()]


def test_a_video_with_fewer_frames_repeats_its_last(tmp_path, model):
    path = write_video(tmp_path / "short.mp4", moving_pattern(2))
    found = explain_video(model, make_video_processor(), path)
    assert found.frame_indices == [0, 1, 1, 1]
    assert len(found.frames) == 4
    frames, indices = read_span(found, make_video_processor(), path)
    assert indices == [0, 1]
    assert len(frames) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": {"shortest_edge": 32}},
        {"size": {"shortest_edge": 40}},
        {"size": {"shortest_edge": 32}, "do_center_crop": False},
        {"do_resize": False},
        {"do_resize": False, "do_center_crop": False},
    ],
)
@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48), (64, 64)])
def test_the_region_is_what_the_processor_leaves(settings, height, width):
    """Measured on frames whose pixels say where they are."""
    processor = make_video_processor(do_normalize=False, **settings)
    top, left, bottom, right = visible_region(processor, height, width)
    for axis, size, region in ((0, height, (top, bottom)), (1, width, (left, right))):
        ramp = (np.arange(size) + 0.5) / size * 250
        frame = np.broadcast_to(ramp[:, None] if axis == 0 else ramp[None], (height, width))
        frames = np.repeat(np.repeat(frame[None, ..., None], 3, axis=-1), 1, axis=0).round().astype(np.uint8)
        seen = processor(frames, do_sample_frames=False, return_tensors="pt").pixel_values[0, 0, 0].numpy() * 255 / 250
        places = seen.mean(axis=1 - axis)
        half = (places[-1] - places[0]) / (len(places) - 1) / 2
        assert (places[0] - half, places[-1] + half) == pytest.approx(region, abs=0.03)


def test_relevance_between_frames_is_linear(video, model):
    found = explain_video(model, make_video_processor(frame_sampling_rate=7), video)
    at = found.relevance_at(range(40))
    for place in np.ndindex(found.relevance.shape[1:]):
        expected = np.interp(range(40), found.frame_indices, found.relevance[:, *place])
        np.testing.assert_allclose(at[:, *place], expected, atol=1e-7)
    twice = replace(found, frame_indices=[3, 3, 3, 9])
    np.testing.assert_allclose(twice.relevance_at([3, 9]), [found.relevance[:3].mean(axis=0), found.relevance[3]])
    once = replace(found, frame_indices=[3] * 4)
    np.testing.assert_allclose(once.relevance_at([3, 4]), found.relevance.mean(axis=0)[None].repeat(2, axis=0))


def test_the_film_of_a_long_video_is_bounded(tmp_path, model, monkeypatch):
    monkeypatch.setattr("timesformer_hf.explanation.video_explanation._MAX_FILM_FRAMES", 9)
    monkeypatch.setattr("timesformer_hf.explanation.video_explanation._DECODED_AT_ONCE", 4)
    path = write_video(tmp_path / "long.mp4", moving_pattern(40))
    found = explain_video(model, make_video_processor(), path)
    frames, indices = read_span(found, make_video_processor(), path)
    assert indices == np.linspace(0, 30, 9).round().tolist()
    every = decode_all(path)
    np.testing.assert_array_equal(frames, [every[index] for index in indices])


def test_large_frames_are_made_small():
    frames = np.zeros((2, 720, 1280, 3), np.uint8)
    frames[:, :, 640:] = 200
    small = shrink(frames)
    assert small.shape == (2, 360, 640, 3)
    assert (small[:, :, :320] == 0).all()
    assert (small[:, :, 320:] == 200).all()


class TestBadInput:
    def test_a_label_that_the_model_does_not_have_is_told_before_decoding(self, model):
        with pytest.raises(ValueError, match=r"no label 'fall'\. The nearest of its 5 labels: 'falling'"):
            explain_video(model, make_video_processor(), "/no/such/video.mp4", "fall")

    def test_files_that_are_no_video(self, model, tmp_path, corrupt):
        with pytest.raises(VideoReadError, match=r"sound\.mp4: has no video stream \(streams in it: audio\)"):
            explain_video(model, make_video_processor(), write_sound(tmp_path / "sound.mp4"))
        with pytest.raises(VideoReadError, match=r"corrupt\.mp4"):
            explain_video(model, make_video_processor(), corrupt)
        with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
            explain_video(model, make_video_processor(), tmp_path / "none.mp4")

    def test_processors_that_do_not_fit(self, model, video):
        with pytest.raises(ValueError, match=r"several views of a video.*views=None"):
            explain_video(model, make_video_processor(num_clips=2), video)
        with pytest.raises(TypeError, match="needs a TimesformerVideoProcessor, got NoneType"):
            explain_video(model, None, video)
        with pytest.raises(TypeError, match="TimesformerModel"):
            explain_video(make_model().base_model, make_video_processor(), video)
        with pytest.raises(ValueError, match=r"for regression.* explain\(model"):
            explain_video(make_model(problem_type="regression"), make_video_processor(), video)

    def test_several_labels_have_a_probability_each(self, video):
        model, processor = make_model(problem_type="multi_label_classification"), make_video_processor()
        with torch.no_grad():
            logits = model(processor(video, return_tensors="pt").pixel_values).logits[0]
        assert explain_video(model, processor, video, 3).score == pytest.approx(logits[3].sigmoid().item(), abs=1e-5)
