"""From decoded frames to `pixel_values`: the torchvision backend."""

from transformers.models.videomae.image_processing_videomae import VideoMAEImageProcessor

from .clip_processing import ClipProcessingMixin, TimesformerImageProcessorKwargs


class TimesformerImageProcessor(ClipProcessingMixin, VideoMAEImageProcessor):
    """
    Makes `pixel_values` (batch, frames, channels, height, width) from clips that are given as frames.

    It resizes the shorter side, crops the centre, scales pixels to [0, 1], and normalises them with the mean of 0.45
    and the standard deviation of 0.225 with which TimeSformer was trained. It also loads the files of
    [`~transformers.VideoMAEImageProcessor`], which TimeSformer checkpoints on the Hub have.
    """

    valid_kwargs = TimesformerImageProcessorKwargs


__all__ = ["TimesformerImageProcessor"]
