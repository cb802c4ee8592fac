"""
Writes the processor files of a converted checkpoint, from those of its source or from what is known of its format.
"""

import re
from pathlib import Path

from ..model.configuration_timesformer import TimesformerConfig, as_pair
from .files import Checkpoint
from .formats import CheckpointFormat


# The authors' Something-Something models on the Hub were trained on BGR, but their files there don't say so.
HUB_BGR = re.compile(r"(.*/)?timesformer-\w+-finetuned-ssv2/?")
_PIXEL_SETTINGS = ("resample", "do_rescale", "rescale_factor", "do_normalize")
FRAME_SETTINGS = ("do_resize", "do_center_crop")  # an image model's own are for images of any shape
_SAMPLING_SETTINGS = ("frame_sampling", "frame_sampling_rate")


def is_bgr(checkpoint: Checkpoint, found: CheckpointFormat, label_list: str | None) -> bool:
    """
    Return whether a model was trained on BGR.

    Its preprocessor file decides. Without that, it is BGR if it is one of the authors' Something-Something models.
    """
    stated = checkpoint.preprocessor.get("do_flip_channel_order")
    if stated is not None:
        return bool(stated)
    on_the_hub = found.name == "timesformer" and HUB_BGR.fullmatch(checkpoint.source) is not None
    return on_the_hub or label_list in found.bgr_labels


def save_processors(
    checkpoint: Checkpoint, found: CheckpointFormat, config: TimesformerConfig, bgr: bool, folder: Path
) -> None:
    """
    Write an image processor and a video processor for the model's frames and size to `folder`. Their settings are those
    of the source's preprocessor file, or else the pixel statistics of its format.

    Raises:
        ValueError: where a value in that file can't be used.
    """
    from ..video.image_processing_timesformer import TimesformerImageProcessor
    from ..video.video_processing_timesformer import TimesformerVideoProcessor

    stored = find_preprocessor(checkpoint)
    settings = statistics(checkpoint, found, config.num_channels) | sizes(checkpoint, found, config)
    settings["do_flip_channel_order"] = bgr
    names = _PIXEL_SETTINGS if found.is_image_model else _PIXEL_SETTINGS + FRAME_SETTINGS
    settings |= {name: stored[name] for name in names if stored.get(name) is not None}
    sampling = {name: stored[name] for name in _SAMPLING_SETTINGS if stored.get(name) is not None}
    if bgr:  # the authors tested Something-Something models with this sampling
        sampling.setdefault("frame_sampling", "segments")
    try:
        TimesformerImageProcessor(**settings).save_pretrained(folder)
        TimesformerVideoProcessor(num_frames=config.num_frames, **sampling | settings).save_pretrained(folder)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The preprocessor file of {checkpoint.source} can't be used: {error}") from error


def find_preprocessor(checkpoint: Checkpoint) -> dict:
    """Return the values of the preprocessor file, or without one the pixel statistics in timm's config.json."""
    timm = checkpoint.config.get("pretrained_cfg")
    if checkpoint.preprocessor or not isinstance(timm, dict):
        return checkpoint.preprocessor
    return {f"image_{name}": timm[name] for name in ("mean", "std") if name in timm}


def statistics(checkpoint: Checkpoint, found: CheckpointFormat, channels: int) -> dict:
    """
    Return `image_mean` and `image_std` with one number for each channel: the source's own, or those of its format.

    Raises:
        ValueError: where the source's mean or standard deviation is not one number for each channel.
    """
    values, stored = {}, find_preprocessor(checkpoint)
    for name, default in (("image_mean", found.mean), ("image_std", found.std)):
        value = stored.get(name, default)
        value = [value] * channels if isinstance(value, (int, float)) else value
        numbers = isinstance(value, list) and all(isinstance(number, (int, float)) for number in value)
        if not numbers or len(value) != channels or (name == "image_std" and min(value) <= 0):
            raise ValueError(
                f"The preprocessor file of {checkpoint.source} has {name}={value!r}; it must be {channels} "
                "numbers, and a standard deviation must be positive"
            )
        values[name] = value
    return values


def sizes(checkpoint: Checkpoint, found: CheckpointFormat, config: TimesformerConfig) -> dict:
    """
    Return `size` and `crop_size` for the processors, so that clips have the model's size.

    They are the source's own where they give that size. Otherwise the shorter side is resized and the centre cropped.
    """
    height, width = as_pair(config.image_size, "image_size")
    stored, own_crop = checkpoint.preprocessor, {"height": height, "width": width}
    squeezed = stored.get("do_center_crop") is False and stored.get("size") == own_crop
    if not found.is_image_model and (squeezed or (stored.get("crop_size") == own_crop and "size" in stored)):
        return {"size": stored["size"], "crop_size": own_crop}
    return {"size": {"shortest_edge": max(height, width)}, "crop_size": own_crop}
