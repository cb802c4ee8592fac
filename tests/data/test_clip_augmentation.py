"""Augmentation against itself frame by frame, and mixing against plain loops."""

import pytest
import torch
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from timesformer_hf import TimesformerVideoProcessor
from timesformer_hf.data.clip_augmentation import (
    STATISTICAL_OPERATIONS,
    ClipAugmentation,
    ClipCollator,
    ClipRandAugment,
    RandomScaledCrop,
    make_clip_transform,
)


def make_clip(frames: int = 3, height: int = 60, width: int = 80, seed: int = 0) -> torch.Tensor:
    """Smooth pictures, of which no two are alike."""
    noise = torch.rand(frames, 3, 7, 9, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(noise, (height, width), mode="bilinear") * 255).to(torch.uint8)


class TestClipTransform:
    @pytest.mark.parametrize("size", [(32, 32), (24, 40)])
    @pytest.mark.parametrize("shape", [(60, 80), (80, 60), (20, 20)])
    def test_every_frame_is_treated_alike(self, shape, size):
        """What the clip becomes is what each frame alone becomes with the same chance."""
        transform = make_clip_transform(ClipAugmentation(), size)
        clip = make_clip(3, *shape)
        flips = set()
        for seed in range(8):
            torch.manual_seed(seed)
            result = transform(clip)
            assert result.shape == (3, 3, *size)
            assert result.dtype == torch.uint8
            assert type(result) is torch.Tensor
            for frame, expected in zip(clip, result, strict=True):
                torch.manual_seed(seed)
                assert torch.equal(transform(frame[None])[0], expected)
            flips.add(float(result[0].float().mean()))
        assert len(flips) > 1

    def test_is_resize_and_crop_by_hand(self):
        """A scale and place that the slow twin finds by trying all of them."""
        transform = RandomScaledCrop((32, 32), (1.0, 1.25))
        clip = tv_tensors.Video(make_clip(2, 48, 64))
        sides, places = set(), set()
        for seed in range(60):
            torch.manual_seed(seed)
            result = transform(clip)
            found = [
                (short, top, left)
                for short in range(32, 41)
                for long in range(round(64 * (short - 0.5) / 48), round(64 * (short + 0.5) / 48) + 1)
                for resized in [vision.resize(clip, [short, long])]
                for top in range(short - 31)
                for left in range(long - 31)
                if torch.equal(resized[..., top : top + 32, left : left + 32], result)
            ]
            assert found
            sides.update(short for short, _, _ in found)
            places.update((top > 0, left > 0) for _, top, left in found)
        assert sides == set(range(32, 41))
        assert len(places) == 4

    def test_squeezed_sides_are_scaled_alike(self):
        """Both sides to the same multiple of the crop's; without jitter what the video processor does."""
        clip = make_clip(2, 48, 64)
        processor = TimesformerVideoProcessor(size={"height": 32, "width": 24}, do_center_crop=False)
        plain = {"do_sample_frames": False, "do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        (expected,) = processor(clip, **plain).pixel_values
        result = RandomScaledCrop((32, 24), (1.0, 1.0), squeeze=True)(tv_tensors.Video(clip))
        assert torch.equal(result, expected.to(torch.uint8))
        transform = RandomScaledCrop((32, 32), (1.0, 1.25), squeeze=True)
        sides = {tuple(transform.make_params([clip])["new"]) for _ in range(400)}
        assert sides == {(side, side) for side in range(32, 41)}

    def test_short_side_is_drawn_as_the_papers(self):
        """256 to 320 pixels for a crop of 224, as the authors draw them."""
        transform = RandomScaledCrop((224, 224), ClipAugmentation().jitter)
        clip = torch.empty(1, 3, 240, 320)
        sides = [transform.make_params([clip])["new"] for _ in range(2000)]
        assert {min(side) for side in sides} == set(range(256, 321))
        assert all(abs(long - short * 320 / 240) <= 1 for short, long in sides)

    @pytest.mark.parametrize(("probability", "expected"), [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
    def test_flips_with_its_probability(self, probability, expected):
        transform = make_clip_transform(ClipAugmentation(jitter=(1.0, 1.0), flip=probability), (32, 32))
        clip = torch.arange(32, dtype=torch.uint8).expand(2, 3, 32, 32).contiguous()
        results = [transform(clip) for _ in range(20)]
        assert {bool(result[0, 0, 0, 0] > 0) for result in results} == expected
        assert all(torch.equal(result, clip) or torch.equal(result, clip.flip(-1)) for result in results)

    @pytest.mark.parametrize(
        "values",
        [
            {"jitter": (0.9, 1.0)},
            {"jitter": (1.2, 1.1)},
            {"flip": 2},
            {"rand_augment": -1},
            {"magnitude": 31},
            {"mixup": -1},
        ],
    )
    def test_bad_settings_are_refused(self, values):
        with pytest.raises(ValueError, match=next(iter(values))):
            ClipAugmentation(**values)


OPERATIONS = list(v2.RandAugment._AUGMENTATION_SPACE)


MAGNITUDES = {"Posterize": 5.0, "Rotate": 20.0, "TranslateX": 7.0, "TranslateY": -7.0}


class TestRandAugment:
    def apply(self, augment: v2.RandAugment, clip: torch.Tensor, operation: str, magnitude: float) -> torch.Tensor:
        settings = {"interpolation": vision.InterpolationMode.NEAREST, "fill": {tv_tensors.Video: 115}}
        video = tv_tensors.Video(clip)
        return augment._apply_image_or_video_transform(video, operation, magnitude, **settings)

    @pytest.mark.parametrize("operation", sorted(set(OPERATIONS) - set(STATISTICAL_OPERATIONS)))
    def test_every_frame_is_treated_alike(self, operation):
        clip, magnitude = make_clip(), MAGNITUDES.get(operation, 0.3)
        result = self.apply(ClipRandAugment(), clip, operation, magnitude)
        expected = [self.apply(v2.RandAugment(), frame[None], operation, magnitude)[0] for frame in clip]
        assert torch.equal(result, torch.stack(expected))
        assert operation == "Identity" or not torch.equal(result, clip)

    @pytest.mark.parametrize("operation", STATISTICAL_OPERATIONS)
    def test_statistics_are_the_clips(self, operation):
        """One function of a pixel's value for all frames: torchvision's own has one for each, and flickers."""
        clip = make_clip()
        clip[1] //= 2  # a darker frame
        assert self.is_one_function(clip, self.apply(ClipRandAugment(), clip, operation, 0.5))
        assert not self.is_one_function(clip, self.apply(v2.RandAugment(), clip, operation, 0.5))

    def is_one_function(self, clip: torch.Tensor, result: torch.Tensor) -> bool:
        for channel in range(3):
            pairs = set(zip(clip[:, channel].flatten().tolist(), result[:, channel].flatten().tolist(), strict=True))
            if len(pairs) > len({value for value, _ in pairs}):
                return False
        return True

    def test_all_operations_are_drawn(self, monkeypatch):
        seen = set()
        original = ClipRandAugment._apply_image_or_video_transform

        def spy(self, image, transform_id, *args, **kwargs):
            seen.add(transform_id)
            result = original(self, image, transform_id, *args, **kwargs)
            assert result.shape == image.shape
            assert isinstance(result, tv_tensors.Video)
            return result

        monkeypatch.setattr(ClipRandAugment, "_apply_image_or_video_transform", spy)
        transform = make_clip_transform(ClipAugmentation(rand_augment=2), (32, 32))
        for _ in range(120):
            transform(make_clip(2))
        assert seen == set(OPERATIONS)


def make_samples(labels: list, seeds: bool = True) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for number, label in enumerate(labels):
        clip = torch.randn(2, 3, 16, 16, generator=generator)
        samples.append(
            {"pixel_values": clip, "labels": torch.tensor(label)} | ({"seed": 1000 + number} if seeds else {})
        )
    return samples


class TestClipCollator:
    def test_stacks_clips_and_labels(self):
        samples = make_samples([2, 0, 1])
        batch = ClipCollator()(samples)
        assert torch.equal(batch["pixel_values"], torch.stack([sample["pixel_values"] for sample in samples]))
        assert batch["labels"].tolist() == [2, 0, 1]
        assert batch.keys() == {"pixel_values", "labels"}

    def test_validation_clips_are_not_mixed(self):
        collate = ClipCollator(ClipAugmentation(mixup=1.0, cutmix=1.0), 3)
        samples = make_samples([2, 0, 1], seeds=False)
        assert torch.equal(collate(samples)["pixel_values"], ClipCollator()(samples)["pixel_values"])
        assert collate(samples)["labels"].tolist() == [2, 0, 1]

    def test_mixup_shares_are_those_of_the_labels(self):
        """Each clip with the one before it, in the shares that its labels tell."""
        samples = make_samples([0, 1, 2])
        batch = ClipCollator(ClipAugmentation(mixup=0.8), 3)(samples)
        assert torch.allclose(batch["labels"].sum(dim=1), torch.ones(3))
        assert 0 < batch["labels"][0, 0] < 1
        for number in range(3):
            own = batch["labels"][number, number]
            mixed = own * samples[number]["pixel_values"] + (1 - own) * samples[number - 1]["pixel_values"]
            assert torch.allclose(batch["pixel_values"][number], mixed, atol=1e-6)

    def test_cutmix_area_is_that_of_the_labels(self):
        """A box of the one before it, the same in every frame, whose area the labels tell."""
        boxes = set()
        for shift in range(20):
            samples = make_samples([0, 1, 2])
            samples[0]["seed"] += shift
            batch = ClipCollator(ClipAugmentation(cutmix=1.0), 3)(samples)
            for number in range(3):
                own = batch["pixel_values"][number] == samples[number]["pixel_values"]
                other = batch["pixel_values"][number] == samples[number - 1]["pixel_values"]
                assert (own ^ other).all()
                box = other[0, 0]
                assert (other == box).all()
                rows, columns = torch.where(box)
                if len(rows):
                    assert box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
                assert batch["labels"][number, number].item() == pytest.approx(1 - box.float().mean().item())
            boxes.add(int(box.sum()))
        assert len(boxes) > 5

    def test_seeds_of_the_clips_decide_alone(self):
        """Not torch's own state, nor how often it was called before."""
        collate = ClipCollator(ClipAugmentation(mixup=0.8, cutmix=1.0), 3)
        torch.manual_seed(0)
        state = torch.get_rng_state()
        first = collate(make_samples([0, 1, 2]))
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)
        again = collate(make_samples([0, 1, 2]))
        assert torch.equal(first["pixel_values"], again["pixel_values"])
        other = make_samples([0, 1, 2])
        other[1]["seed"] += 1
        assert not torch.equal(collate(other)["pixel_values"], first["pixel_values"])

    def test_unreadable_clips_stay_out(self):
        collate = ClipCollator(ClipAugmentation(mixup=0.8), 3)
        samples = make_samples([0, -100, 2])
        batch = collate(samples)
        assert torch.equal(batch["pixel_values"][1], samples[1]["pixel_values"])
        assert batch["labels"][1].tolist() == [-100] * 3
        share = batch["labels"][0, 0]
        mixed = share * samples[0]["pixel_values"] + (1 - share) * samples[2]["pixel_values"]
        assert torch.allclose(batch["pixel_values"][0], mixed, atol=1e-6)
        assert collate(make_samples([-100, -100]))["labels"].tolist() == [[-100] * 3] * 2

    def test_several_labels_are_mixed(self):
        batch = ClipCollator(ClipAugmentation(mixup=0.8), 2)(make_samples([[1.0, 0.0], [1.0, 1.0], [-100.0, -100.0]]))
        assert batch["labels"][:2, 0].tolist() == [1, 1]
        assert sum(batch["labels"][:2, 1]).item() == pytest.approx(1)
        assert batch["labels"][2].tolist() == [-100, -100]
