"""Several views of a video against a slow twin (view_twins.py): pixels, indices, crops and scores."""

import json
import math

import pytest
import torch
from clips import decode_all
from tiny_models import make_clip, make_model
from transformers import AutoVideoProcessor
from view_twins import (
    FRAME_SIZES,
    RATE,
    SIZE,
    mean,
    original_views,
    paper_views,
    save_keen_classifier,
    softmax,
    twin_logits,
    write_videos,
)

from timesformer_hf import TimesformerVideoProcessor
from timesformer_hf.video import video_decoding
from timesformer_hf.video.multi_view import (
    VIEW_PROTOCOLS,
    average_views,
    crop_offsets,
    resolve_views,
    scale_exactly,
    scaled_size,
    score_views,
)
from timesformer_hf.video.video_sampling import FRAME_SAMPLING, sample_frame_indices


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, str]:
    return write_videos(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_keen_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture
def processor() -> TimesformerVideoProcessor:
    return TimesformerVideoProcessor(**SIZE, frame_sampling_rate=RATE)


class TestPixelValues:
    @pytest.mark.parametrize("name", FRAME_SIZES)
    def test_original_views_are_the_twins(self, processor, videos, name):
        got = processor(videos[name], views="original", return_tensors="pt").pixel_values
        assert got.shape == (1, 3, 4, 3, 32, 32)
        torch.testing.assert_close(got[0], original_views(videos[name]), rtol=0, atol=1e-5)  # float32

    @pytest.mark.parametrize("name", FRAME_SIZES)
    def test_paper_views_are_the_twins(self, processor, videos, name):
        got = processor(videos[name], views="paper", return_tensors="pt").pixel_values
        torch.testing.assert_close(got[0], paper_views(videos[name], processor), rtol=0, atol=0)

    def test_protocols_differ(self, processor, videos):
        """In frames, and with the same frames in scaling, and without scaling in nothing but the centre's rounding."""

        def views(name: str, **settings) -> torch.Tensor:
            return processor(videos["wide"], views=name, return_tensors="pt", **settings).pixel_values[0]

        assert not torch.allclose(views("paper"), views("original"), atol=0.1)
        assert not torch.allclose(views("paper"), views("original", frame_sampling="center"), atol=0.1)
        unscaled = {"frame_sampling": "center", "do_resize": False}
        even = views("original", **unscaled)  # 48x62 less 32x32 leaves even numbers
        torch.testing.assert_close(views("paper", **unscaled), even, rtol=0, atol=0)
        odd = {"crop_size": {"height": 31, "width": 31}}
        later, earlier = views("original", **unscaled, **odd)[1], views("paper", **unscaled, **odd)[1]
        torch.testing.assert_close(later[..., :-1, :-1], earlier[..., 1:, 1:], rtol=0, atol=0)

    @pytest.mark.parametrize("crops", [1, 3])
    @pytest.mark.parametrize("clips", [1, 2, 5])
    def test_views_are_clip_by_clip(self, processor, videos, clips, crops):
        """Each view is the clip of its number, processed alone."""
        settings = {"num_clips": clips, "num_crops": crops}
        batch = processor(videos["tall"], **settings, return_tensors="pt", return_metadata=True)
        assert batch.pixel_values.shape == (1, clips * crops, 4, 3, 32, 32)
        frames = decode_all(videos["tall"])
        indices = sample_frame_indices(
            total_num_frames=len(frames), num_frames=4, frame_sampling_rate=RATE, num_clips=clips
        )
        assert batch["video_metadata"][0].frames_indices == indices
        for number in range(clips):
            clip = torch.stack([torch.tensor(frames[index]) for index in indices[4 * number : 4 * number + 4]])
            alone = processor(clip, num_crops=crops, do_sample_frames=False, return_tensors="pt").pixel_values[0]
            got = batch.pixel_values[0, crops * number : crops * (number + 1)]
            torch.testing.assert_close(got, alone, rtol=0, atol=0)

    @pytest.mark.parametrize("name", FRAME_SIZES)
    def test_the_centre_is_that_without_views(self, processor, videos, name):
        plain = processor(videos[name], return_tensors="pt").pixel_values
        assert plain.ndim == 5
        for settings, place in (({"num_clips": 1}, 0), ({"num_crops": 1}, 0), ({"num_crops": 3}, 1)):
            views = processor(videos[name], **settings, return_tensors="pt").pixel_values
            torch.testing.assert_close(views[:, place], plain, rtol=0, atol=0)

    def test_a_batch_is_its_videos(self, processor, videos):
        batch = processor(list(videos.values()), num_clips=2, num_crops=3, return_tensors="pt").pixel_values
        for video, got in zip(videos.values(), batch, strict=True):
            alone = processor(video, num_clips=2, num_crops=3, return_tensors="pt").pixel_values[0]
            torch.testing.assert_close(got, alone, rtol=0, atol=0)

    def test_channel_order_takes_effect(self, processor, videos):
        bgr = processor(videos["wide"], views="original", do_flip_channel_order=True, return_tensors="pt").pixel_values
        rgb = processor(videos["wide"], views="original", return_tensors="pt").pixel_values
        torch.testing.assert_close(bgr.flip(3), rgb, rtol=0, atol=0)

    def test_a_shared_frame_is_decoded_once(self, processor, videos, monkeypatch):
        decoded, to_rgb = [], video_decoding.to_rgb
        monkeypatch.setattr(video_decoding, "to_rgb", lambda frame: decoded.append(frame.pts) or to_rgb(frame))
        batch = processor(videos["wide"], num_clips=10, num_crops=3, return_tensors="pt", return_metadata=True)
        indices = batch["video_metadata"][0].frames_indices
        assert len(indices) == 40
        assert len(decoded) == len(set(indices)) < 40

    def test_views_are_saved_and_loaded(self, videos, folder, tmp_path):
        settings = {"num_clips": 2, "num_crops": 3, "views": "original"}
        processor = TimesformerVideoProcessor(**SIZE, frame_sampling_rate=RATE, **settings)
        processor.save_pretrained(tmp_path)
        stored = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
        assert settings.items() <= stored.items()
        loaded = AutoVideoProcessor.from_pretrained(tmp_path)
        expected = TimesformerVideoProcessor.from_pretrained(folder)(videos["wide"], **settings, return_tensors="pt")
        got = loaded(videos["wide"], return_tensors="pt").pixel_values
        torch.testing.assert_close(got, expected.pixel_values, rtol=0, atol=0)
        assert loaded(videos["wide"], num_crops=1, return_tensors="pt").pixel_values.shape[1] == 2
        plain = AutoVideoProcessor.from_pretrained(tmp_path, num_clips=None, num_crops=None, views=None)
        assert plain(videos["wide"], return_tensors="pt").pixel_values.ndim == 5

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_crops": 2}, r"num_crops=2 must be 1 \(the centre\) or 3 \(along the longer side\)"),
            ({"num_clips": 0}, "num_clips=0 must be at least 1"),
            ({"views": "authors"}, "views='authors' must be one of 'paper', 'original'"),
            ({"num_crops": 3, "do_center_crop": False}, "num_crops=3 needs do_center_crop=True and a crop_size"),
            ({"num_clips": 2, "do_sample_frames": False}, "num_clips=2 needs do_sample_frames"),
            (
                {"num_crops": 3, "size": {"shortest_edge": 30}},
                "A frame of 30x38 pixels is too small for a crop of 32",
            ),
            (
                {"views": "original", "crop_size": {"height": 32, "width": 48}},
                "needs a square crop_size, got 32x48",
            ),
        ],
    )
    def test_bad_settings_are_refused(self, processor, videos, settings, message):
        with pytest.raises(ValueError, match=message):
            processor(videos["wide"], **settings)

    @pytest.mark.parametrize("settings", [{"num_clips": 1.5}, {"num_clips": True}, {"num_crops": True}])
    def test_numbers_must_be_integers(self, processor, videos, settings):
        with pytest.raises(TypeError, match="must be an integer"):
            processor(videos["wide"], **settings)

    @pytest.mark.parametrize("name", VIEW_PROTOCOLS)
    def test_protocols_need_a_rate(self, name, videos):
        with pytest.raises(ValueError, match=r"needs a frame_sampling_rate \(the paper's models: 32 for 8"):
            TimesformerVideoProcessor(**SIZE)(videos["wide"], views=name)


class TestResolving:
    @pytest.mark.parametrize(
        ("given", "stored", "expected"),
        [
            ({}, {}, (None, None, None, "probabilities")),
            ({"num_clips": 4}, {"num_crops": 3}, (4, 3, None, "probabilities")),
            ({"views": "paper"}, {}, (1, 3, "center", "probabilities")),
            ({"views": "original"}, {}, (1, 3, "original", "logits")),
            # a protocol of the call stands above what is stored, what the call itself says above the protocol
            ({"views": "original"}, {"views": "paper", "num_clips": 9}, (1, 3, "original", "logits")),
            ({"views": "original"}, {"frame_sampling": "uniform"}, (1, 3, "original", "logits")),
            ({"views": "original", "num_clips": 10}, {"num_clips": 2}, (10, 3, "original", "logits")),
            ({"num_crops": 1}, {"views": "original"}, (1, 1, "original", "logits")),
            ({}, {"views": "paper", "num_clips": 4}, (4, 3, "center", "probabilities")),
            # Something-Something keeps its sampling, unless the call names another
            ({"views": "original"}, {"frame_sampling": "segments"}, (1, 3, "segments", "logits")),
            ({"views": "paper", "frame_sampling": "center"}, {"frame_sampling": "segments"}, (1, 3, "center")),
        ],
    )
    def test_call_stands_above_protocol_above_what_is_stored(self, given, stored, expected):
        settings = resolve_views(given, stored)
        got = (settings.num_clips, settings.num_crops, settings.frame_sampling, settings.average)
        assert got[: len(expected)] == expected


class TestClips:
    """Several clips of a video, by index."""

    @pytest.mark.parametrize("policy", FRAME_SAMPLING)
    @pytest.mark.parametrize("total", [1, 5, 9, 40, 300])
    @pytest.mark.parametrize("clips", [1, 2, 3, 10])
    def test_every_policy_gives_clips_in_order(self, policy, total, clips):
        settings = {"total_num_frames": total, "num_frames": 4, "frame_sampling": policy, "frame_sampling_rate": 3}
        indices = sample_frame_indices(**settings, fps=25.0, num_clips=clips)
        rows = [indices[4 * clip : 4 * clip + 4] for clip in range(clips)]
        assert len(indices) == 4 * clips
        assert all(row == sorted(row) and 0 <= row[0] <= row[-1] < total for row in rows)
        assert rows == sorted(rows)  # later clips are later
        if clips == 1:
            assert indices == sample_frame_indices(**settings, fps=25.0)
        elif total == 300:
            assert len(set(map(tuple, rows))) == clips

    @pytest.mark.parametrize(
        ("policy", "total", "clips", "expected"),
        [
            ("uniform", 16, 2, [[0, 4, 8, 12], [2, 6, 10, 14]]),
            ("uniform", 3, 2, [[0, 1, 2, 2], [0, 1, 2, 2]]),
            # 13 places to start for a clip that spans 4 frames: the middle of 0..6 and of 6..12
            ("center", 16, 2, [[3, 4, 5, 6], [9, 10, 11, 12]]),
            ("center", 16, 3, [[2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13]]),
            ("segments", 41, 2, [[2, 12, 22, 32], [7, 17, 27, 37]]),  # of 0..10, 10..20, 20..30, 30..40
        ],
    )
    def test_examples_of_indices(self, policy, total, clips, expected):
        indices = sample_frame_indices(
            total_num_frames=total, num_frames=4, frame_sampling=policy, frame_sampling_rate=1, num_clips=clips
        )
        assert indices == [index for row in expected for index in row]

    @pytest.mark.parametrize("views", [1, 2, 10])
    def test_starts_are_the_originals(self, views):
        """start = (n - length)^+ * view / views, by the facts, in whole numbers: 300 frames, 3 frames of every 50th."""
        indices = sample_frame_indices(
            total_num_frames=300,
            num_frames=3,
            frame_sampling="original",
            frame_sampling_rate=50,
            fps=30,
            num_clips=views,
        )
        starts = [150 * view // views for view in range(views)]
        assert indices == [int(start + place) for start in starts for place in (0, 149 / 2, 149)]

    def test_uniform_clips_together_are_one_of_more_frames(self):
        clips = sample_frame_indices(total_num_frames=97, num_frames=4, num_clips=5)
        assert sorted(clips) == sample_frame_indices(total_num_frames=97, num_frames=20)

    def test_centred_clips_are_symmetric(self):
        indices = sample_frame_indices(total_num_frames=300, num_frames=4, frame_sampling_rate=8, num_clips=5)
        mirrored = sorted(299 - index for index in indices)
        assert all(abs(index - other) <= 1 for index, other in zip(sorted(indices), mirrored, strict=True))

    @pytest.mark.parametrize(("clips", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
    def test_a_bad_number_of_clips_is_refused(self, clips, error):
        with pytest.raises(error, match="num_clips="):
            sample_frame_indices(total_num_frames=10, num_frames=4, num_clips=clips)


class TestCrops:
    @pytest.mark.parametrize(
        ("size", "offsets", "rounded_up"),
        [
            ((4, 9), [(0, 0), (0, 2), (0, 5)], [(0, 0), (0, 3), (0, 5)]),
            ((9, 4), [(0, 0), (2, 0), (5, 0)], [(0, 0), (3, 0), (5, 0)]),
            ((4, 10), [(0, 0), (0, 3), (0, 6)], [(0, 0), (0, 3), (0, 6)]),
            ((7, 12), [(1, 0), (1, 4), (1, 8)], [(2, 0), (2, 4), (2, 8)]),
            ((7, 7), [(1, 0), (1, 1), (1, 3)], [(2, 0), (2, 2), (2, 3)]),
            ((4, 4), [(0, 0)] * 3, [(0, 0)] * 3),
        ],
    )
    def test_offsets_of_three_crops(self, size, offsets, rounded_up):
        assert crop_offsets(size, (4, 4), 3) == offsets
        assert crop_offsets(size, (4, 4), 3, center_rounds_up=True) == rounded_up
        assert crop_offsets(size, (4, 4), 1) == offsets[1:2]

    def test_shorter_side_gets_the_size(self):
        assert scaled_size((240, 320), 224) == (224, 298)
        assert scaled_size((320, 240), 224) == (298, 224)
        assert scaled_size((224, 500), 224) == (224, 500)
        assert scaled_size((180, 180), 224) == (224, 224)

    def test_the_ratio_is_rounded_first(self):
        """As the authors' code has it: where the longer side comes out whole, a pixel may get lost."""
        lost = [
            (short, long)
            for short in range(100, 224)
            for long in range(short, 2 * short)
            if 224 * long % short == 0 and math.floor(long / short * 224) < 224 * long // short
        ]
        assert lost
        short, long = lost[0]
        assert scaled_size((short, long), 224) == (224, 224 * long // short - 1)

    def test_scaling_is_without_antialiasing(self):
        """Halved, a pixel is the mean of the four around it and sees no others; the same size changes nothing."""
        frames = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert scale_exactly(frames, 8).equal(frames)
        quarters = sum(frames[..., row::2, column::2] for row in (0, 1) for column in (0, 1)) / 4
        torch.testing.assert_close(scale_exactly(frames, 4), quarters, rtol=0, atol=1e-12)
        frames = frames[..., :6, :9]
        torch.testing.assert_close(scale_exactly(frames, 2), frames[..., 1::3, 1::3], rtol=0, atol=1e-12)


class TestScores:
    @pytest.mark.parametrize("views_per_pass", [None, 1, 2, 4, 100])
    def test_scores_are_those_view_by_view(self, views_per_pass):
        model, clips = make_model().double(), make_clip(2, 5, 4, 3, 32, 32, dtype=torch.float64)
        with torch.no_grad():
            logits = score_views(model, clips, views_per_pass)
        assert logits.shape == (2, 5, 5)
        expected = torch.tensor([twin_logits(model, video) for video in clips], dtype=torch.float64)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)

    def test_passes_are_bounded(self):
        """A pass has the same views of every video of the batch."""
        model, clips = make_model(), make_clip(2, 5, 4, 3, 32, 32)
        sizes = []
        model.register_forward_pre_hook(
            lambda module, args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
        )
        score_views(model, clips, views_per_pass=2)
        assert sizes == [4, 4, 2]

    def test_gradients_reach_every_view(self):
        clips = make_clip(1, 3, 4, 3, 32, 32).requires_grad_()
        average_views(score_views(make_model(), clips, 1)).square().sum().backward()
        assert (clips.grad.abs().amax((0, 2, 3, 4, 5)) > 0).all()

    def test_averages_are_pythons(self):
        """Against Python's numbers."""
        rows = [[0.3, -2.0, 5.0], [1.0, 4.0, -3.0], [0.0, 0.1, 0.2], [30.0, 31.0, 29.0]]
        logits = torch.tensor(rows, dtype=torch.float64)
        sigmoid = [[1 / (1 + math.exp(-logit)) for logit in row] for row in rows]
        for average, function, expected in (
            ("probabilities", "softmax", mean([softmax(row) for row in rows])),
            ("logits", "softmax", softmax(mean(rows))),
            ("probabilities", "sigmoid", mean(sigmoid)),
            ("logits", "sigmoid", [1 / (1 + math.exp(-logit)) for logit in mean(rows)]),
            ("probabilities", "none", mean(rows)),
            ("logits", "none", mean(rows)),
        ):
            got = average_views(logits, average, function)
            torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)

    def test_mean_logits_rank_as_the_authors_sum(self):
        logits = make_clip(50, 3, 7)
        ranked = average_views(logits, "logits").argsort(dim=-1, stable=True)
        assert ranked.equal(logits.sum(1).argsort(dim=-1, stable=True))
        assert not ranked.equal(average_views(logits, "probabilities").argsort(dim=-1, stable=True))

    def test_half_precision_is_averaged_in_float32(self):
        logits = make_clip(2, 30, 5).bfloat16()
        assert average_views(logits).dtype == torch.float32
        torch.testing.assert_close(average_views(logits), average_views(logits.float()), rtol=0, atol=0)

    def test_bad_input_is_refused(self):
        model, clips = make_model(), make_clip()
        with pytest.raises(ValueError, match=r"must have 6 dimensions \(batch, views, .*, got 5: \(2, 4, 3, 32, 32\)"):
            score_views(model, clips)
        with pytest.raises(ValueError, match="views_per_pass=0 must be at least 1"):
            score_views(model, clips[None], 0)
        with pytest.raises(ValueError, match="average='median' must be one of 'probabilities', 'logits'"):
            average_views(torch.zeros(2, 3), "median")
        with pytest.raises(ValueError, match="function='relu' must be one of 'softmax', 'sigmoid', 'none'"):
            average_views(torch.zeros(2, 3), function="relu")
