"""Frames that are decoded already -> `pixel_values`: the PIL backend, which does without torchvision."""

from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from .clip_processing import ClipProcessingMixin, TimesformerImageProcessorKwargs


class TimesformerImageProcessorPil(ClipProcessingMixin, VideoMAEImageProcessorPil):
    """[`TimesformerImageProcessor`] by PIL and numpy; equal to it within the tolerance of their resampling."""

    valid_kwargs = TimesformerImageProcessorKwargs


__all__ = ["TimesformerImageProcessorPil"]
