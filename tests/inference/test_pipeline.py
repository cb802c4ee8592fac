"""From a file to its labels: `pipeline("video-classification")`."""

import sys

import numpy as np
import PIL.Image
import pytest
import torch
from clips import moving_pattern, write_video
from transformers import pipeline

from timesformer_hf import TimesformerVideoProcessor, VideoReadError
from timesformer_hf.video.video_errors import VideoWarning


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    clips = tmp_path_factory.mktemp("clips")
    sizes = [(48, 64), (64, 48), (96, 96)]
    return [str(write_video(clips / f"{i}.mp4", moving_pattern(20 + 20 * i, *size))) for i, size in enumerate(sizes)]


def scores(classifier, video, **settings) -> list[dict]:
    """What the pipeline should say, step by step."""
    inputs = classifier.video_processor(video, return_tensors="pt", **settings)
    with torch.no_grad():
        probabilities = classifier.model(**inputs).logits[0].softmax(-1)
    ranked = sorted(enumerate(probabilities.tolist()), key=lambda pair: -pair[1])
    return [{"label": classifier.model.config.id2label[i], "score": pytest.approx(p, abs=1e-6)} for i, p in ranked]


class TestPipeline:
    def test_one_video_gives_ranked_scores(self, classifier, videos):
        assert classifier(videos[0]) == scores(classifier, videos[0])
        assert classifier(videos[0], top_k=2) == scores(classifier, videos[0])[:2]

    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_a_list_gives_the_scores_of_each(self, classifier, videos, batch_size):
        expected = [scores(classifier, video) for video in videos]
        assert classifier(videos, batch_size=batch_size) == expected

    def test_num_frames_takes_effect(self, classifier, videos):
        assert classifier(videos[2], num_frames=9) == scores(classifier, videos[2], num_frames=9)

    def test_frame_sampling_rate_takes_effect(self, classifier, videos):
        """The built-in pipeline ignores it with a video processor."""
        expected = scores(classifier, videos[2], frame_sampling="center", frame_sampling_rate=3)
        assert classifier(videos[2], frame_sampling_rate=3) == expected
        assert classifier(videos[2]) != expected

    def test_rate_of_the_saved_processor_takes_effect(self, folder, videos):
        processor = TimesformerVideoProcessor.from_pretrained(folder, frame_sampling_rate=3)
        classifier = pipeline("video-classification", model=folder, video_processor=processor)
        assert classifier(videos[2]) == scores(classifier, videos[2])
        assert classifier(videos[2]) == classifier(videos[2], frame_sampling_rate=3)

    def test_dtype_and_device_take_effect(self, folder, videos, classifier):
        half = pipeline("video-classification", model=folder, dtype=torch.bfloat16, device="cpu")
        assert half.model.dtype == torch.bfloat16
        for got, expected in zip(half(videos), classifier(videos), strict=True):
            full = {row["label"]: row["score"] for row in expected}
            # bfloat16 keeps 8 bits of logits of about 1
            assert all(row["score"] == pytest.approx(full[row["label"]], abs=0.03) for row in got)

    def test_a_video_of_one_frame_has_scores(self, classifier, tmp_path):
        path = write_video(tmp_path / "one.mp4", moving_pattern(1))
        assert len(classifier(str(path))) == 5

    def test_corrupt_file_in_a_batch_is_named(self, classifier, videos, corrupt):
        with pytest.raises(VideoReadError, match=r"corrupt\.mp4: can't be decoded"):
            classifier([videos[0], corrupt, videos[1]], batch_size=2)

    def test_several_videos_in_one_entry_are_refused(self, classifier, videos):
        with pytest.raises(ValueError, match="One entry has 2 videos; give the pipeline a list"):
            classifier(tuple(videos[:2]))

    def test_fps_of_the_saved_processor_takes_effect(self, folder, videos):
        processor = TimesformerVideoProcessor.from_pretrained(folder, fps=5)
        classifier = pipeline("video-classification", model=folder, video_processor=processor)
        assert classifier(videos[0]) == scores(classifier, videos[0], fps=5)

    def test_works_without_torchcodec(self, classifier, videos, monkeypatch):
        monkeypatch.setitem(sys.modules, "torchcodec", None)
        assert len(classifier(videos[0])) == 5


class TestFrames:
    """Frames that the caller hands over."""

    @pytest.fixture
    def frames(self, classifier) -> list:
        return moving_pattern(classifier.model.config.num_frames)

    def test_a_list_of_pictures_is_one_clip(self, classifier, frames):
        expected = scores(classifier, np.stack(frames))
        images = [PIL.Image.fromarray(frame) for frame in frames]
        for clip in (np.stack(frames), frames, images, tuple(frames), [torch.from_numpy(frame) for frame in frames]):
            assert classifier(clip) == expected

    def test_a_list_of_clips_is_several_videos(self, classifier, frames):
        expected = scores(classifier, np.stack(frames))
        assert classifier([frames, np.stack(frames)], batch_size=2) == [expected, expected]

    def test_a_clip_is_not_sampled_again(self, folder, frames):
        processor = TimesformerVideoProcessor.from_pretrained(folder, frame_sampling_rate=4)
        classifier = pipeline("video-classification", model=folder, video_processor=processor)
        assert classifier(frames) == scores(classifier, frames, do_sample_frames=False)

    def test_sampling_can_be_named_or_left_out(self, classifier, videos, frames):
        assert classifier(videos[2], frame_sampling="segments") == scores(
            classifier, videos[2], frame_sampling="segments"
        )
        assert classifier(frames * 2, do_sample_frames=False) == scores(classifier, frames * 2, do_sample_frames=False)
        assert classifier(frames * 2, do_sample_frames=False) != classifier(frames * 2)

    def test_unknown_sampling_is_refused(self, classifier, videos):
        with pytest.raises(ValueError, match="frame_sampling='random' must be one of 'uniform', 'center'"):
            classifier(videos[0], frame_sampling="random")

    def test_no_videos_are_refused(self, classifier):
        with pytest.raises(ValueError, match="The list of videos is empty; give at least one video"):
            classifier([])

    def test_a_picture_is_warned_of(self, classifier, tmp_path):
        PIL.Image.new("RGB", (64, 48)).save(tmp_path / "picture.png")
        with pytest.warns(VideoWarning, match=r"picture\.png has a single frame, so nothing moves"):
            classifier(str(tmp_path / "picture.png"))
