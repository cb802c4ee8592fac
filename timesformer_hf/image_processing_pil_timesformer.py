"""Frames that are decoded already -> `pixel_values`: the PIL backend, for machines without torchvision's kernels."""

import numpy as np
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput, PILImageResampling
from transformers.processing_utils import Unpack

from .image_processing_timesformer import (
    TimesformerImageProcessor,
    TimesformerImageProcessorKwargs,
    as_rgb_frame,
    channel_format,
    check_batch,
    check_frame_sizes,
    nest_clips,
)


class TimesformerImageProcessorPil(PilBackend):
    """[`TimesformerImageProcessor`] by PIL and numpy; equal to it within the tolerance of their resampling."""

    valid_kwargs = TimesformerImageProcessorKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    image_mean = TimesformerImageProcessor.image_mean
    image_std = TimesformerImageProcessor.image_std
    size = TimesformerImageProcessor.size
    default_to_square = False
    crop_size = TimesformerImageProcessor.crop_size
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_flip_channel_order = False

    def preprocess(self, videos: ImageInput, **kwargs: Unpack[TimesformerImageProcessorKwargs]) -> BatchFeature:
        """As [`TimesformerImageProcessor.preprocess`]."""
        return super().preprocess(videos, **kwargs)

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> list[list]:
        return nest_clips(images, expected_ndims)

    def process_image(self, image, do_convert_rgb=None, input_data_format=None, **kwargs) -> np.ndarray:
        if do_convert_rgb:
            image, input_data_format = as_rgb_frame(image, input_data_format)
        else:
            input_data_format = channel_format(image, input_data_format)
        return super().process_image(
            image, do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, **kwargs
        )

    def _preprocess(
        self,
        images: list[list[np.ndarray]],
        do_resize: bool,
        size,
        resample,
        do_center_crop: bool,
        crop_size,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean,
        image_std,
        do_flip_channel_order: bool | None,
        return_tensors,
        **kwargs,
    ) -> BatchFeature:
        check_frame_sizes([[frame.shape for frame in clip] for clip in images])

        def processed(frame: np.ndarray) -> np.ndarray:
            if do_resize:
                frame = self.resize(frame, size, resample)
            if do_center_crop:
                frame = self.center_crop(frame, crop_size)
            if do_flip_channel_order:
                frame = frame[::-1]
            if do_rescale:
                frame = self.rescale(frame, rescale_factor)
            return self.normalize(frame, image_mean, image_std) if do_normalize else frame

        pixel_values = [np.stack([processed(frame) for frame in clip]) for clip in images]
        check_batch([clip.shape for clip in pixel_values], return_tensors)
        return BatchFeature(data={"pixel_values": pixel_values}, tensor_type=return_tensors)


__all__ = ["TimesformerImageProcessorPil"]
