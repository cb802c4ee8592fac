"""Clips given as frames: what the image processors of both backends, and in part the video processor, share."""

import numpy as np
import PIL.Image
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    ChannelDimension,
    ImageInput,
    infer_channel_dimension_format,
    make_nested_list_of_images,
)
from transformers.processing_utils import ImagesKwargs, Unpack


class TimesformerImageProcessorKwargs(ImagesKwargs, total=False):
    """
    do_flip_channel_order (`bool`, *optional*, defaults to `False`):
        RGB to BGR, which the Something-Something checkpoints were trained on.
    """

    do_flip_channel_order: bool | None


class ClipProcessingMixin:
    """What makes a VideoMAE image processor, of either backend, one of TimeSformer."""

    model_input_names = ["pixel_values"]
    image_mean = [0.45, 0.45, 0.45]
    image_std = [0.225, 0.225, 0.225]
    do_convert_rgb = True
    do_flip_channel_order = False

    def preprocess(self, videos: ImageInput, **kwargs: Unpack[TimesformerImageProcessorKwargs]) -> BatchFeature:
        """
        Args:
            videos: a clip as a list of frames, or a list of clips. A frame is a PIL image, or an array or tensor with
                the channels first or last, or grey without channels; 0 to 255, or 0 to 1 with `do_rescale=False`.
            kwargs: any attribute of the processor, for this call; `return_tensors="pt"` for tensors.

        Returns:
            `pixel_values` (batch, frames, channels, height, width), float32.

        Raises:
            ValueError: where frames of a clip differ in size, a clip is empty, or clips can't be one batch.
        """
        return super().preprocess(videos, **kwargs)

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> list[list]:
        return _nest_clips(images, expected_ndims)

    def process_image(self, image, do_convert_rgb: bool | None = None, input_data_format=None, **kwargs):
        image = own_array(image)
        if do_convert_rgb:
            image, input_data_format = _as_rgb_frame(image, input_data_format)
        else:
            input_data_format = channel_format(image, input_data_format)
        return super().process_image(
            image, do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, **kwargs
        )

    def _preprocess(
        self, images: list[list], do_flip_channel_order: bool | None = None, return_tensors=None, **kwargs
    ) -> BatchFeature:
        check_frame_sizes([[frame.shape for frame in clip] for clip in images])
        if do_flip_channel_order:
            flip = torch.flip if isinstance(images[0][0], torch.Tensor) else np.flip
            images = [[flip(frame, (0,)) for frame in clip] for clip in images]
        clips = super()._preprocess(images, return_tensors=None, **kwargs)["pixel_values"]
        check_batch([(len(clip), *clip[0].shape) for clip in clips], return_tensors)
        return BatchFeature(data={"pixel_values": clips}, tensor_type=return_tensors)

    def to_dict(self) -> dict:
        """
        The settings, under the name of VideoMAE's processor wherever that does the same: so the file loads in
        transformers without this package, as those on the Hub do, and with it as this class again.
        """
        values = super().to_dict()
        if not self.do_flip_channel_order:
            values.pop("do_flip_channel_order", None)
            values["image_processor_type"] = "VideoMAEImageProcessor"
        return values


def _nest_clips(videos: ImageInput, expected_ndims: int = 3) -> list[list]:
    """A clip or a batch of clips as a list of lists of frames; grey frames may come without channels."""
    if isinstance(videos, (list, tuple)):
        if not videos or any(isinstance(clip, (list, tuple)) and not clip for clip in videos):
            raise ValueError("A clip must hold at least one frame, got an empty list")
        if isinstance(videos[0], (list, tuple)):
            return [list(clip) for clip in videos]
        if getattr(videos[0], "ndim", None) == 2:  # grey frames, which transformers would take for something else
            return [list(videos)]
    return make_nested_list_of_images(videos, expected_ndims=expected_ndims)


def own_array(frames):
    """An array that torch can take: not read-only, no negative strides (as after `frame[..., ::-1]`)."""
    return np.require(frames, requirements=["C", "W"]) if isinstance(frames, np.ndarray) else frames


def channel_format(frame, data_format=None) -> str | ChannelDimension | None:
    """Where the channels of an array or tensor are, 1, 3 or 4 of them, unless `data_format` says it."""
    if data_format is not None or isinstance(frame, PIL.Image.Image) or frame.ndim != 3:
        return data_format
    try:
        return infer_channel_dimension_format(frame, num_channels=(1, 3, 4))
    except ValueError as error:
        raise ValueError(
            f"A frame must have 1, 3 or 4 channels in its first or last dimension, got shape {tuple(frame.shape)}"
        ) from error


def _as_rgb_frame(frame, data_format=None):
    """
    A frame as transformers converts it to RGB in every version: PIL images, and arrays of three channels. Grey ones
    are repeated, and those with transparency become PIL images.
    """
    if isinstance(frame, PIL.Image.Image):
        return frame, data_format
    if frame.ndim == 2:
        frame, data_format = frame[None], ChannelDimension.FIRST
    data_format = channel_format(frame, data_format)
    axis = 0 if data_format == ChannelDimension.FIRST else -1
    if frame.shape[axis] == 1:
        frame = torch.as_tensor(frame).repeat_interleave(3, dim=axis)
    elif frame.shape[axis] == 4 and frame.dtype in (np.uint8, torch.uint8):
        return PIL.Image.fromarray(np.moveaxis(np.asarray(frame), axis, -1), mode="RGBA"), None
    return frame, data_format


def check_frame_sizes(clips: list[list[tuple]], first_number: int = 0) -> None:
    """
    Raises:
        ValueError: where the frames of a clip, given by their shapes, differ.
    """
    for number, shapes in enumerate(clips, start=first_number):
        if len(set(map(tuple, shapes))) > 1:
            listing = ", ".join(sorted({" x ".join(map(str, shape)) for shape in shapes}))
            raise ValueError(f"The frames of a clip must have one shape, clip {number} has {listing}")


def check_batch(shapes: list[tuple], return_tensors) -> None:
    """
    Raises:
        ValueError: where clips of different shapes are to become one tensor.
    """
    if return_tensors is not None and len(set(shapes)) > 1:
        raise ValueError(
            f"The clips of a batch must have one shape (frames, channels, height, width), got "
            f"{', '.join(map(str, sorted(set(shapes))))}; give them the same number of frames and leave do_resize and "
            "do_center_crop on, or process them one by one"
        )
