"""
Augmentation of whole clips: one draw for all frames, so that what moves in the clip is what moved in the video.

On tensors, by torchvision's v2 transforms, which take their chance from torch's default generator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .clip_dataset import IGNORED_LABEL, readable_clips


# Their result depends on statistics of the picture. Taken of each frame for itself, they would make the clip flicker.
STATISTICAL_OPERATIONS = ("Contrast", "AutoContrast", "Equalize")
_GREY = 115  # what is brought in from beyond the border: the mean that pixels are normalised with


@dataclass(frozen=True)
class ClipAugmentation:
    """
    What is done to clips while training.

    Attributes:
        jitter: range of the shorter side of a frame before it is cropped, in sizes of the crop; of both sides where
            frames are squeezed. The paper's 256 to 320 pixels for a crop of 224 by default; (1.0, 512 / 448) for its
            448 pixels.
        flip: probability of a horizontal flip. 0 where left and right matter.
        rand_augment: operations of RandAugment (Cubuk et al. 2020) a clip; 0 for none.
        magnitude: of these, 0 to 30.
        mixup, cutmix: parameter of the beta distribution by which two clips' pixels (Zhang et al. 2018), or areas (Yun
            et al. 2019), and labels are mixed; 0 for none. With both, each batch has one of them; a batch of one clip
            has nothing to mix.
    """

    jitter: tuple[float, float] = (256 / 224, 320 / 224)
    flip: float = 0.5
    rand_augment: int = 0
    magnitude: int = 9
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self):
        if len(self.jitter) != 2 or not 1 <= self.jitter[0] <= self.jitter[1]:
            raise ValueError(
                f"jitter={self.jitter} must be a range, two numbers, from at least 1, the size of the crop"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip={self.flip} must be a probability")
        if self.rand_augment < 0 or not 0 <= self.magnitude <= 30:
            raise ValueError(
                f"rand_augment={self.rand_augment} must be at least 0 and magnitude={self.magnitude} lie in 0..30"
            )
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0, for none, or positive")


def make_clip_transform(
    augmentation: ClipAugmentation, size: tuple[int, int], squeeze: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """
    A transform of clips (frames, 3, height, width), uint8, to (frames, 3, *size), uint8.

    Args:
        size: (height, width) in pixels.
        squeeze: whether frames of another shape are squeezed into it, as by a video processor without a centre crop.
    """
    steps = [tv_tensors.Video, RandomScaledCrop(size, augmentation.jitter, squeeze)]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip(augmentation.flip))
    if augmentation.rand_augment:
        steps.append(ClipRandAugment(augmentation.rand_augment, augmentation.magnitude, fill=_GREY))
    return v2.Compose([*steps, v2.ToPureTensor()])


class RandomScaledCrop(v2.Transform):
    """
    Scales a frame's shorter side to a multiple in `jitter` of the crop's longer side, to which the video processor
    scales it, and crops anywhere. For a crop of 224 pixels and a jitter of 256 / 224 to 320 / 224 the shorter side is
    256 to 320 pixels, the paper's. With `squeeze`, each side to that multiple of the crop's.
    """

    def __init__(self, size: tuple[int, int], jitter: tuple[float, float], squeeze: bool = False):
        super().__init__()
        self.size, self.jitter, self.squeeze = size, jitter, squeeze

    def make_params(self, flat_inputs: list) -> dict:
        shape = flat_inputs[0].shape[-2:]
        whole = self.size if self.squeeze else [side * max(self.size) / min(shape) for side in shape]
        scale = torch.empty(()).uniform_(*self.jitter).item()
        new = [max(round(side * scale), crop) for side, crop in zip(whole, self.size, strict=True)]
        corner = [torch.randint(side - crop + 1, ()).item() for side, crop in zip(new, self.size, strict=True)]
        return {"new": new, "corner": corner}

    def transform(self, clip: torch.Tensor, params: dict) -> torch.Tensor:
        return F.crop(F.resize(clip, params["new"]), *params["corner"], *self.size)


class ClipRandAugment(v2.RandAugment):
    """RandAugment whose statistics are those of the whole clip."""

    def _apply_image_or_video_transform(self, image: torch.Tensor, transform_id: str, *args, **kwargs) -> torch.Tensor:
        if transform_id not in STATISTICAL_OPERATIONS:
            return super()._apply_image_or_video_transform(image, transform_id, *args, **kwargs)
        frames, _, height, _ = image.shape
        one_picture = tv_tensors.Image(image.transpose(0, 1).flatten(1, 2))  # all frames, one below the other
        result = super()._apply_image_or_video_transform(one_picture, transform_id, *args, **kwargs)
        return tv_tensors.Video(result.unflatten(1, (frames, height)).transpose(0, 1))


class ClipCollator:
    """
    Samples of a [`ClipDataset`] -> a batch, `pixel_values` (batch, frames, channels, height, width) and `labels`.

    Clips to train on are mixed where the augmentation says so; `labels` are then shares (batch, num_labels). The seeds
    of the samples decide how, so that it doesn't matter where the batch is made. Clips with a label of -100, which
    stand for unreadable ones, stay out of it.
    """

    def __init__(self, augmentation: ClipAugmentation | None = None, num_labels: int = 0):
        self.num_labels = num_labels
        mixers = {v2.MixUp: augmentation.mixup, v2.CutMix: augmentation.cutmix} if augmentation else {}
        self.mixers = [mixer(alpha=alpha, num_classes=num_labels) for mixer, alpha in mixers.items() if alpha]

    def __call__(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in ("pixel_values", "labels")}
        seeds = [sample["seed"] for sample in samples if "seed" in sample]  # none of clips to validate with
        return self.mix(batch, sum(seeds) % 2**63) if self.mixers and seeds else batch

    def mix(self, batch: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
        clips, labels = batch["pixel_values"], batch["labels"]
        readable = readable_clips(labels)
        shares = torch.full((len(labels), self.num_labels), float(IGNORED_LABEL))
        if not readable.any():
            return {"pixel_values": clips, "labels": shares}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            mixer = self.mixers[torch.randint(len(self.mixers), ()).item()]
            mixed, shares[readable] = mixer(tv_tensors.Video(clips[readable]), labels[readable])
        clips[readable] = mixed.as_subclass(torch.Tensor)
        return {"pixel_values": clips, "labels": shares}
