"""Deletion, insertion and the pointing game, against plain loops and models whose answer is known."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import moving_pattern, write_video
from tiny_models import make_keen_model, make_video_processor

from timesformer_hf.explanation import scoring
from timesformer_hf.explanation.boxes import read_boxes
from timesformer_hf.explanation.scoring import (
    ClipToScore,
    centre_map,
    centres_in_boxes,
    deletion_and_insertion,
    read_clips,
    score_clips,
    score_table,
)


class OnePatch:
    """A model whose logit is the mean of one patch, of 8 x 8 pixels in the third of four frames."""

    config = SimpleNamespace(problem_type=None, num_labels=2)

    def __call__(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        logit = pixel_values[:, 2, :, 8:16, 16:24].mean(dim=(1, 2, 3))
        return SimpleNamespace(logits=torch.stack((10 * logit, torch.zeros_like(logit)), dim=1))


def clip_of_ones() -> torch.Tensor:
    clip = torch.zeros(4, 3, 32, 32)
    clip[2, :, 8:16, 16:24] = 1
    return clip


class TestDeletionAndInsertion:
    def test_the_true_map_is_best_and_its_opposite_worst(self):
        truth = torch.zeros(4, 4, 4)
        truth[2, 1, 2] = 1
        best = deletion_and_insertion(OnePatch(), clip_of_ones(), truth)
        worst = deletion_and_insertion(OnePatch(), clip_of_ones(), -truth)
        kept, gone = torch.tensor(10.0).sigmoid().item(), 0.5
        assert best["deletion"] == pytest.approx(gone + (kept - gone) / 32)  # it falls in the first of 16 steps
        assert worst["deletion"] == pytest.approx(kept - (kept - gone) / 32)
        assert best["insertion"] > kept - (kept - gone) / 16
        assert best["insertion"] > worst["insertion"]

    def test_they_are_the_areas_of_plain_loops(self):
        model, clip = make_keen_model(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        relevance = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            target = model(clip[None]).logits.argmax()
            order = sorted(np.ndindex(4, 4, 4), key=lambda place: -relevance[place])
            curve, pixels = [], clip.clone()
            for done in range(65):
                if done % 4 == 0:  # 64 patches in 16 steps
                    curve.append(model(pixels[None]).logits.softmax(-1)[0, target].item())
                if done < 64:
                    frame, row, column = order[done]
                    pixels[frame, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
        expected = sum((one + other) / 32 for one, other in itertools.pairwise(curve))
        assert deletion_and_insertion(model, clip, relevance)["deletion"] == pytest.approx(expected, abs=1e-5)
        assert np.std(curve) > 1e-3

    def test_insertion_ends_with_the_clip(self):
        model, clip = make_keen_model(), torch.randn(4, 3, 32, 32)
        before = scoring._blurred(clip, 8)
        assert before.std() < 0.3 * clip.std()
        masks = torch.ones(1, 4, 4, 4, dtype=torch.bool)
        with torch.no_grad():
            expected = model(clip[None]).logits.softmax(-1)[0, 3].item()
            assert scoring._probabilities(model, before, clip, masks, 3) == pytest.approx([expected], abs=1e-5)


class TestPointing:
    def test_centres_in_boxes(self):
        boxes = [[(0.3, 0.1, 0.7, 0.5)], [], [(0.0, 0.0, 0.2, 0.2), (0.8, 0.8, 1.5, 1.5)]]
        found = centres_in_boxes((3, 4, 5), boxes)
        for frame, row, column in np.ndindex(3, 4, 5):
            x, y = (column + 0.5) / 5, (row + 0.5) / 4
            expected = any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in boxes[frame])
            assert found[frame, row, column] == expected
        assert found.sum() == 6 + 0 + 2

    def test_the_centre_comes_first_in_the_middle_frame(self):
        found = centre_map((5, 3, 3))
        assert np.unravel_index(int(found.argmax()), (5, 3, 3)) == (2, 1, 1)
        assert found[0, 1, 1] > found[2, 0, 1] > found[2, 0, 0]

    def test_hits_are_counted(self, monkeypatch):
        """One clip whose box is where the method points, one where it isn't, one without boxes."""
        truth = torch.zeros(4, 4, 4)
        truth[2, 1, 2] = 1
        monkeypatch.setattr(scoring, "explain", lambda model, clips, method: truth[None])
        monkeypatch.setattr(scoring.importlib.util, "find_spec", lambda name: None)
        model = OnePatch()
        model.device = "cpu"
        there, elsewhere = (0.5, 0.25, 0.74, 0.49), (0.0, 0.0, 0.2, 0.2)
        clips = [
            ClipToScore(clip_of_ones(), [[], [], [there], []]),
            ClipToScore(clip_of_ones(), [[], [(0.3, 0.3, 0.45, 0.45)], [elsewhere], [there]]),
            ClipToScore(clip_of_ones(), None),
        ]
        scores = score_clips(model, clips)
        assert scores["pointing game"]["rollout"] == [1, 0]
        assert scores["pointing game"]["random"] == [1 / 64, 3 / 64]
        assert scores["pointing game"]["centre"] == [0, 1]  # of the eight nearest, the first is in the second frame
        assert len(scores["deletion"]["gradient_rollout"]) == 3
        assert set(scores["deletion"]) == {"gradient_rollout", "rollout", "random", "centre"}

    def test_nothing_to_score(self):
        with pytest.raises(ValueError, match="nothing to score"):
            score_clips(OnePatch(), [])


def test_the_table_says_what_does_not_beat_the_baselines():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=50) * 0.01
    scores = {
        "deletion": {"good": 0.2 + noise, "bad": 0.5 + noise, "random": 0.5 - noise, "centre": 0.6 - noise},
        "insertion": {"good": 0.9 + noise, "bad": 0.8 + noise, "random": 0.5 - noise, "centre": 0.8 - noise},
        "pointing game": {},
    }
    text = score_table(scores)
    assert "| good   |" in text
    assert "good is better than both baselines in deletion, insertion." in text
    assert "bad is NOT better than random in deletion, centre in insertion." in text
    mean, half = scores["deletion"]["good"].mean(), 1.96 * scores["deletion"]["good"].std(ddof=1) / 50**0.5
    assert f"{mean:.3f} ± {half:.3f}" in text
    assert "deletion: 50 clips, insertion: 50 clips" in text


def test_integrated_gradients_are_captums():
    pytest.importorskip("captum", reason="the check from outside")
    model, clip = make_keen_model(), torch.randn(1, 4, 3, 32, 32)
    found = scoring._integrated_gradients(model, clip, (4, 4, 4))
    assert found.shape == (4, 4, 4)
    steps = (torch.arange(400) + 0.5) / 400
    with torch.no_grad():
        target = model(clip).logits.argmax()
    total = torch.zeros_like(clip)
    for part in steps.split(50):
        scaled = (part[:, None, None, None, None] * clip).requires_grad_()
        total += torch.autograd.grad(model(scaled).logits[:, target].sum(), scaled)[0].sum(dim=0, keepdim=True)
    expected = (total / 400 * clip).abs()[0].sum(dim=1).unflatten(-1, (4, 8)).unflatten(1, (4, 8)).mean(dim=(2, 4))
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * expected.max().item())


class TestFolders:
    HEADER = "video,frame,left,top,right,bottom\n"

    @pytest.fixture
    def folder(self, tmp_path):
        write_video(tmp_path / "a.mp4", moving_pattern(12, 48, 96))
        return tmp_path

    def test_boxes_are_shares_of_what_the_model_sees(self, folder):
        """A crop of the middle 48 of 96 pixels, frames 0, 3, 6 and 9 of 12."""
        (folder / "boxes.csv").write_text(f"{self.HEADER}a.mp4,3,24,0,48,24\na.mp4,3,0,0,96,48\na.mp4,4,0,0,9,9\n")
        processor = make_video_processor(size={"shortest_edge": 32})
        total, clips = read_clips(str(folder), make_keen_model(), processor, print)
        (clip,) = clips
        assert total == 1
        assert clip.boxes == [[], [(0, 0, 0.5, 0.5), (-0.5, 0, 1.5, 1)], [], []]
        expected = processor(str(folder / "a.mp4"), return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(clip.pixel_values, expected)

    def test_what_can_not_be_read_is_reported(self, folder):
        (folder / "b.mp4").write_text("no video")
        errors = []
        _, clips = read_clips(str(folder), make_keen_model(), make_video_processor(), errors.append)
        (clip,) = clips
        assert clip.boxes is None
        assert len(errors) == 1
        assert "b.mp4" in errors[0]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("video,frame\na.mp4,1\n", "lacks the columns left, top, right, bottom"),
            (HEADER + "a.mp4,1,2,3,4,x\n", "line 2: frame must be an integer"),
            (HEADER + "a.mp4,1,2,3\n", "line 2: frame must be an integer"),
            (HEADER + "a.mp4,1,0,0,9,9\na.mp4,1,9,0,9,9\n", "line 3: frame 1.*needs .* left < right"),
            (HEADER + "a.mp4,-1,0,0,9,9\n", "needs a frame from 0 on"),
            (HEADER + "a.mp4,1,0,0,9,nan\n", "left < right and top < bottom"),
            (HEADER + "c.mp4,1,0,0,9,9\n", "line 2: there is no video c.mp4"),
        ],
    )
    def test_wrong_boxes(self, folder, text, message):
        (folder / "boxes.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_boxes(folder)

    def test_no_folder(self, tmp_path):
        with pytest.raises(NotADirectoryError, match="is not a folder"):
            read_clips(str(tmp_path / "none"), None, None, print)
