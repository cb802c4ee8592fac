"""
Augmentation of whole clips: one random draw for all frames, so that the motion in the clip is that in the video.

The augmentations are torchvision's v2 transforms of tensors. Their randomness comes from torch's default generator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .clip_dataset import IGNORED_LABEL, readable_clips


# These depend on statistics of the picture. Applied to each frame separately, they would make the clip flicker.
STATISTICAL_OPERATIONS = ("Contrast", "AutoContrast", "Equalize")
_GREY = 115  # colour beyond the border of a frame: the mean with which pixels are normalised


@dataclass(frozen=True)
class ClipAugmentation:
    """
    The augmentation of clips for training.

    Attributes:
        jitter: range of the shorter side of a frame before the crop, as a multiple of the size of the crop. If frames
            are squeezed, it is the range of both sides. The default gives the paper's 256 to 320 pixels for a crop of
            224. The paper's range for 448 pixels is (1.0, 512 / 448).
        flip: probability of a horizontal flip. Use 0 if left and right matter.
        rand_augment: number of RandAugment operations (Cubuk et al. 2020) on a clip. 0 means none.
        magnitude: strength of these operations, 0 to 30.
        mixup, cutmix: parameter of the beta distribution for mixing two clips and their labels. 0 means none. Mixup
            mixes pixels (Zhang et al. 2018), CutMix mixes areas (Yun et al. 2019). With both, each batch gets one of
            them. A batch of one clip is not mixed.
    """

    jitter: tuple[float, float] = (256 / 224, 320 / 224)
    flip: float = 0.5
    rand_augment: int = 0
    magnitude: int = 9
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if len(self.jitter) != 2 or not 1 <= self.jitter[0] <= self.jitter[1]:
            raise ValueError(
                f"jitter={self.jitter} must be two numbers in ascending order, of at least 1 (the size of the crop)"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip={self.flip} must be a probability, from 0 to 1")
        if self.rand_augment < 0 or not 0 <= self.magnitude <= 30:
            raise ValueError(
                f"rand_augment={self.rand_augment} must be at least 0 and magnitude={self.magnitude} must lie in 0..30"
            )
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 (no mixing) or positive")


def make_clip_transform(
    augmentation: ClipAugmentation, size: tuple[int, int], squeeze: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """
    Return a random transform of clips (frames, 3, height, width), uint8, to (frames, 3, *size), uint8.

    Args:
        augmentation: the settings of the transform.
        size: (height, width) of the result in pixels.
        squeeze: whether whole frames are squeezed into this size, as by a video processor without a centre crop.
    """
    steps = [tv_tensors.Video, RandomScaledCrop(size, augmentation.jitter, squeeze)]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip(augmentation.flip))
    if augmentation.rand_augment:
        steps.append(ClipRandAugment(augmentation.rand_augment, augmentation.magnitude, fill=_GREY))
    return v2.Compose([*steps, v2.ToPureTensor()])


class RandomScaledCrop(v2.Transform):
    """
    Scales the frames of a clip by a random factor, and crops them at a random place.

    The shorter side of a frame becomes the longer side of the crop, to which the video processor scales it, times a
    factor drawn from `jitter`. For a crop of 224 pixels and a jitter of 256 / 224 to 320 / 224, it is the paper's 256
    to 320 pixels. With `squeeze`, each side becomes that side of the crop, times the factor.
    """

    def __init__(self, size: tuple[int, int], jitter: tuple[float, float], squeeze: bool = False):
        super().__init__()
        self.size, self.jitter, self.squeeze = size, jitter, squeeze

    def make_params(self, flat_inputs: list) -> dict:
        """Draw the new size of the frames and the corner of the crop, in pixels."""
        shape = flat_inputs[0].shape[-2:]
        whole = self.size if self.squeeze else [side * max(self.size) / min(shape) for side in shape]
        scale = torch.empty(()).uniform_(*self.jitter).item()
        new = [max(round(side * scale), crop) for side, crop in zip(whole, self.size, strict=True)]
        corner = [torch.randint(side - crop + 1, ()).item() for side, crop in zip(new, self.size, strict=True)]
        return {"new": new, "corner": corner}

    def transform(self, clip: torch.Tensor, params: dict) -> torch.Tensor:
        """Resize and crop a clip with the drawn parameters."""
        return F.crop(F.resize(clip, params["new"]), *params["corner"], *self.size)


class ClipRandAugment(v2.RandAugment):
    """RandAugment with the statistics of the whole clip instead of each frame."""

    def _apply_image_or_video_transform(self, image: torch.Tensor, transform_id: str, *args, **kwargs) -> torch.Tensor:
        if transform_id not in STATISTICAL_OPERATIONS:
            return super()._apply_image_or_video_transform(image, transform_id, *args, **kwargs)
        frames, _, height, _ = image.shape
        one_picture = tv_tensors.Image(image.transpose(0, 1).flatten(1, 2))  # all frames, one below the other
        result = super()._apply_image_or_video_transform(one_picture, transform_id, *args, **kwargs)
        return tv_tensors.Video(result.unflatten(1, (frames, height)).transpose(0, 1))


class ClipCollator:
    """
    Turns samples of a [`ClipDataset`] into a batch: `pixel_values` (batch, frames, channels, height, width) and
    `labels`.

    If the augmentation asks for it, training clips are mixed. Then `labels` are shares of the classes, (batch,
    num_labels). The seeds of the samples decide how clips are mixed, so it doesn't matter which process makes the
    batch. Blank clips with the label -100, which stand for unreadable ones, are not mixed.
    """

    def __init__(self, augmentation: ClipAugmentation | None = None, num_labels: int = 0):
        self.num_labels = num_labels
        mixers = {v2.MixUp: augmentation.mixup, v2.CutMix: augmentation.cutmix} if augmentation else {}
        self._mixers = [mixer(alpha=alpha, num_classes=num_labels) for mixer, alpha in mixers.items() if alpha]

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in ("pixel_values", "labels")}
        seeds = [sample["seed"] for sample in samples if "seed" in sample]  # validation clips have no seed
        return self.mix(batch, sum(seeds) % 2**63) if self._mixers and seeds else batch

    def mix(self, batch: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
        """Mix the readable clips of a batch, with randomness from `seed`. The new `labels` are (batch, num_labels)."""
        clips, labels = batch["pixel_values"], batch["labels"]
        readable = readable_clips(labels)
        shares = torch.full((len(labels), self.num_labels), float(IGNORED_LABEL))
        if not readable.any():
            return {"pixel_values": clips, "labels": shares}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            mixer = self._mixers[torch.randint(len(self._mixers), ()).item()]
            mixed, shares[readable] = mixer(tv_tensors.Video(clips[readable]), labels[readable])
        clips[readable] = mixed.as_subclass(torch.Tensor)
        return {"pixel_values": clips, "labels": shares}
