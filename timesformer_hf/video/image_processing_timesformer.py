"""Frames that are decoded already -> `pixel_values`: the torchvision backend."""

from transformers.models.videomae.image_processing_videomae import VideoMAEImageProcessor

from .clip_processing import ClipProcessingMixin, TimesformerImageProcessorKwargs


class TimesformerImageProcessor(ClipProcessingMixin, VideoMAEImageProcessor):
    """
    Makes `pixel_values` (batch, frames, channels, height, width) of clips given as frames: resize the shorter side,
    crop the centre, scale to [0, 1], normalise with the mean of 0.45 and deviation of 0.225 that TimeSformer was
    trained with. Files of [`~transformers.VideoMAEImageProcessor`], which TimeSformer checkpoints carry on the Hub,
    load unchanged.
    """

    valid_kwargs = TimesformerImageProcessorKwargs


__all__ = ["TimesformerImageProcessor"]
