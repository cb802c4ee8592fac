"""`evaluate --time-audit`: the scores of rearranged frames, and what is concluded from them."""

import numpy as np
import pytest
import torch
from tiny_models import FLOAT32, make_keen_model

from timesformer_hf.evaluation.scoring import score_batch
from timesformer_hf.evaluation.time_audit import ARRANGEMENTS, is_lower, time_audit_results, time_audit_text
from timesformer_hf.inference.feature_extraction import EmbeddedVideo


SCORING = {"average": "probabilities", "function": "softmax"}
NAMES = ["as they are", "reversed", "shuffled", "middle frame only"]


def loaded(*shapes: tuple[int, ...]) -> list[EmbeddedVideo]:
    generator = torch.Generator().manual_seed(0)
    return [EmbeddedVideo(f"{n}.mp4", pixel_values=torch.randn(s, generator=generator)) for n, s in enumerate(shapes)]


class TestScores:
    def test_they_are_those_of_rearranged_clips(self):
        model = make_keen_model()
        videos = loaded((5, 3, 32, 32), (4, 3, 32, 32), (5, 3, 32, 32))
        clips = [video.pixel_values for video in videos]
        videos.insert(1, EmbeddedVideo("broken.mp4", error="can't be decoded"))
        score_batch(model, videos, SCORING, time_audit=True)
        assert videos.pop(1).feature is None
        for video, clip in zip(videos, clips, strict=True):
            order = ARRANGEMENTS["shuffled"](len(clip), video.video)
            assert sorted(order) == list(range(len(clip)))
            middle = clip[len(clip) // 2].expand_as(clip)
            with torch.no_grad():
                batch = torch.stack((clip, clip.flip(0), clip[order], middle))
                expected = model(batch).logits.softmax(-1).flatten()
            torch.testing.assert_close(torch.from_numpy(video.feature), expected, **FLOAT32)
            assert expected.unflatten(0, (4, 5)).std(dim=0).max() > 1e-3  # so that they can be confused
            assert video.pixel_values is None

    def test_views_are_rearranged_each_by_itself(self):
        model, (video,) = make_keen_model(), loaded((3, 4, 3, 32, 32))
        views = video.pixel_values
        score_batch(model, [video], SCORING, time_audit=True)
        with torch.no_grad():
            expected = model(views.flip(1)).logits.softmax(-1).mean(0)
        torch.testing.assert_close(torch.from_numpy(video.feature[5:10]), expected, **FLOAT32)

    def test_a_model_that_keeps_frames_apart_does_not_see_their_order(self):
        model, (video,) = make_keen_model(attention_type="space_only"), loaded((4, 3, 32, 32))
        score_batch(model, [video], SCORING, time_audit=True)
        same, middle = video.feature.reshape(4, 5)[:3], video.feature[15:]
        np.testing.assert_allclose(same, same[:1].repeat(3, axis=0), rtol=1e-4, atol=1e-5)
        assert np.abs(middle - same[0]).max() > 1e-3

    def test_the_shuffled_order_is_the_videos_own_and_always_the_same(self):
        orders = [tuple(ARRANGEMENTS["shuffled"](8, name)) for name in ("a.mp4", "b.mp4", "c.mp4", "x/a.mp4")]
        assert orders[0] == orders[3]  # wherever the video lies
        assert len(set(orders)) == 3

    def test_what_the_model_does_not_take_is_an_error(self):
        (video,) = loaded((4, 3, 32, 36))
        score_batch(make_keen_model(), [video], SCORING, time_audit=True)
        assert "width=36 of pixel_values" in video.error
        assert video.feature is None


class TestConclusions:
    def scores(self, *accuracies: int, videos: int = 20) -> tuple[np.ndarray, np.ndarray]:
        """Scores for two labels by which the first `accuracies` videos of each arrangement are right."""
        labels = np.arange(videos) % 2
        scores = np.zeros((videos, 4, 2))
        for arrangement, right in enumerate(accuracies):
            predictions = np.where(np.arange(videos) < right, labels, 1 - labels)
            scores[np.arange(videos), arrangement, predictions] = 1
        return scores, labels

    @pytest.mark.parametrize(
        ("accuracies", "expected"),
        [
            ((20, 20, 20, 20), "These videos can be told from a single frame"),
            ((20, 20, 20, 15), "can be told from a single frame"),  # five of 20 is within chance
            ((20, 20, 20, 10), "Several frames help, but their order does not matter"),
            ((20, 20, 10, 10), "The order of the frames matters, but not its direction"),
            ((20, 4, 12, 10), "The direction of time matters"),
            ((12, 2, 2, 2), "Nothing follows: the model is not clearly better than a guess"),
        ],
    )
    def test_one_sentence(self, accuracies, expected):
        results = time_audit_results(*self.scores(*accuracies))
        assert expected in results["conclusion"]
        assert [row["frames"] for row in results["arrangements"]] == NAMES
        assert [row["accuracy"] for row in results["arrangements"]] == [right / 20 for right in accuracies]
        text = time_audit_text(results)
        assert text.endswith(results["conclusion"])
        assert f"{accuracies[1] / 20:9.2%}  (" in text

    def test_the_sign_test_is_exact(self):
        """Six heads of six have a chance of 1/64, five of five 1/32, nine of ten 11/1024, eight of ten 56/1024."""

        def test(lost: int, gained: int) -> bool:
            before = np.array([True] * (lost + 3) + [False] * (gained + 3))
            after = np.array([False] * lost + [True] * 3 + [True] * gained + [False] * 3)
            return is_lower(before, after)

        assert [test(6, 0), test(5, 0), test(9, 1), test(8, 2), test(0, 9), test(0, 0)] == [1, 0, 1, 0, 0, 0]
