"""From decoded frames to `pixel_values`: the PIL backend, which doesn't need torchvision."""

from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from .clip_processing import ClipProcessingMixin, TimesformerImageProcessorKwargs


class TimesformerImageProcessorPil(ClipProcessingMixin, VideoMAEImageProcessorPil):
    """The PIL and numpy version of [`TimesformerImageProcessor`]. Only the resampling differs slightly."""

    valid_kwargs = TimesformerImageProcessorKwargs


__all__ = ["TimesformerImageProcessorPil"]
