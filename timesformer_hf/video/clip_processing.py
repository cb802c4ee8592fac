"""Processing of clips that are given as frames. Both image processors use it; the video processor uses parts."""

import math
import warnings
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    infer_channel_dimension_format,
    make_nested_list_of_images,
)
from transformers.processing_utils import ImagesKwargs, Unpack

from .video_errors import VideoWarning


class TimesformerImageProcessorKwargs(ImagesKwargs, total=False):
    """
    Settings of a TimeSformer image processor, besides those of every image processor.

    do_flip_channel_order (`bool`, *optional*, defaults to `False`):
        Whether to convert RGB to BGR. The Something-Something checkpoints were trained on BGR.
    """

    do_flip_channel_order: bool | None


class ClipProcessingMixin:
    """A mixin that turns a VideoMAE image processor, of either backend, into one of TimeSformer."""

    model_input_names: list[str] = ["pixel_values"]
    image_mean: list[float] = [0.45, 0.45, 0.45]
    image_std: list[float] = [0.225, 0.225, 0.225]
    do_convert_rgb = True
    do_flip_channel_order = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        check_settings(self)

    def preprocess(self, videos: ImageInput, **kwargs: Unpack[TimesformerImageProcessorKwargs]) -> BatchFeature:
        """
        Turn clips that are given as frames into `pixel_values`.

        Args:
            videos: a clip as a list of frames, or a list of clips. Pixels are 0 to 255, or 0 to 1 with
                `do_rescale=False`. A frame is one of:

                - a PIL image
                - an array or tensor with the channels first or last
                - a grey array or tensor without channels
            kwargs: any attribute of the processor, for this call. `return_tensors="pt"` returns tensors.

        Returns:
            `pixel_values` (batch, frames, channels, height, width), float32.

        Raises:
            ValueError: if frames of a clip differ in size, a clip is empty, or the clips don't fit into one batch.
        """
        return super().preprocess(videos, **kwargs)

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> list[list]:
        return _nest_clips(images, expected_ndims)

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return a frame in the form that the backend processes, with RGB channels if `do_convert_rgb` is set."""
        image, kept = writable_array(image), kept_channels(self.image_mean)
        if kept is not None and self.backend == "pil":
            raise ValueError(
                f"image_mean has {kept} numbers, so frames have {kept} channels. PIL takes the last of 2 or 4 channels "
                'for transparency, and can\'t scale more; use TimesformerImageProcessor, or backend="torchvision"'
            )
        do_convert_rgb = do_convert_rgb and kept is None
        if do_convert_rgb:
            image, input_data_format = _as_rgb_frame(image, input_data_format)
        else:
            input_data_format = channel_format(image, input_data_format, kept)
        return super().process_image(
            image, do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, **kwargs
        )

    def _preprocess(
        self, images: list[list], do_flip_channel_order: bool | None = None, return_tensors=None, **kwargs
    ) -> BatchFeature:
        check_frame_sizes([[frame.shape for frame in clip] for clip in images])
        for number, clip in enumerate(images if kwargs.get("do_rescale") else ()):
            warn_of_scaled_frames(clip, number)
        if do_flip_channel_order:
            flip = torch.flip if isinstance(images[0][0], torch.Tensor) else np.flip
            images = [[flip(frame, (0,)) for frame in clip] for clip in images]
        clips = super()._preprocess(images, return_tensors=None, **kwargs)["pixel_values"]
        check_batch([(len(clip), *clip[0].shape) for clip in clips], return_tensors)
        return BatchFeature(data={"pixel_values": clips}, tensor_type=return_tensors)

    def to_dict(self) -> dict[str, Any]:
        """
        Return the settings, under the class name of VideoMAE's processor if that processor gives the same result.

        So transformers can load the file without this package, as it loads the files on the Hub. With this package, the
        file loads as this class.
        """
        values = super().to_dict()
        if not self.do_flip_channel_order:
            values.pop("do_flip_channel_order", None)
            values["image_processor_type"] = "VideoMAEImageProcessor"
        return values


_SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order", "do_sample_frames")
_COUNTS = ("num_frames", "frame_sampling_rate", "num_clips")


def check_settings(processor) -> None:
    """
    Check the settings of a processor, which may come from a file.

    Raises:
        ValueError: if one is impossible. The message names it, its value and what is allowed.
    """

    def require(kept: bool, name: str, rule: str) -> None:
        if not kept:
            raise ValueError(f"{type(processor).__name__}: {name}={getattr(processor, name)!r} {rule}")

    for name in _SWITCHES:
        require(isinstance(getattr(processor, name, None), (bool, type(None))), name, "must be true or false")
    for name in _COUNTS:
        value = getattr(processor, name, None)
        require(value is None or _is_count(value), name, "must be a positive integer")
    for name in ("size", "crop_size"):
        sides = dict(getattr(processor, name, None) or {})
        named = {side: value for side, value in sides.items() if value is not None}
        if not all(map(_is_count, named.values())):
            raise ValueError(f"{type(processor).__name__}: {name}={named} must have positive integers")
    factor, mean, std = (getattr(processor, name) for name in ("rescale_factor", "image_mean", "image_std"))
    require(factor is None or _are_numbers([factor], 0), "rescale_factor", "must be positive and finite")
    mean, std = ([value] if isinstance(value, (int, float)) else value for value in (mean, std))
    require(mean is None or _are_numbers(mean, -math.inf), "image_mean", "must be finite numbers")
    require(std is None or _are_numbers(std, 0), "image_std", "must be positive and finite numbers")
    if mean is not None and std is not None:
        lengths = {len(mean), len(std)} - {1}
        require(len(lengths) < 2, "image_std", f"must have as many numbers as image_mean={processor.image_mean!r}")
    resample = getattr(processor, "resample", None)
    legal = ", ".join(f"{filter.value} ({filter.name.lower()})" for filter in PILImageResampling)
    require(resample is None or resample in list(PILImageResampling), "resample", f"must be one of {legal}")


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_numbers(values, least: float) -> bool:
    """Whether all values are finite numbers above `least`."""
    return isinstance(values, (list, tuple)) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and least < value < math.inf for value in values
    )


def _nest_clips(videos: ImageInput, expected_ndims: int = 3) -> list[list]:
    """Return a clip or a batch of clips as a list of lists of frames. Grey frames may have no channel dimension."""
    if isinstance(videos, (list, tuple)):
        if not videos or any(isinstance(clip, (list, tuple)) and not clip for clip in videos):
            raise ValueError("A clip must contain at least one frame, got an empty list")
        if isinstance(videos[0], (list, tuple)):
            return [list(clip) for clip in videos]
        if getattr(videos[0], "ndim", None) == 2:  # grey frames, which transformers would misread
            return [list(videos)]
    return make_nested_list_of_images(videos, expected_ndims=expected_ndims)


def writable_array(frames):
    """Return an array that torch accepts: writable and without negative strides (as after `frame[..., ::-1]`)."""
    return np.require(frames, requirements=["C", "W"]) if isinstance(frames, np.ndarray) else frames


def kept_channels(image_mean) -> int | None:
    """
    Return the number of channels of frames that are no pictures, for example 4 with infrared, or `None` for pictures.

    The mean says so: it has one number for each channel. A picture becomes RGB, with 3 channels.
    """
    channels = len(image_mean) if isinstance(image_mean, (list, tuple)) else 3
    return None if channels in (1, 3) else channels


def channel_format(frame, data_format=None, kept: int | None = None) -> str | ChannelDimension | None:
    """
    Return where the channels of an array or tensor are: 1, 3 or 4 of a picture, or the `kept` ones of another frame.

    `data_format` is returned if it is given.

    Raises:
        ValueError: if neither the first nor the last dimension has that many.
    """
    if data_format is not None or isinstance(frame, PIL.Image.Image) or frame.ndim != 3:
        return data_format
    try:
        return infer_channel_dimension_format(frame, num_channels=(1, 3, 4) if kept is None else (kept,))
    except ValueError as error:
        channels = "1, 3 or 4 channels" if kept is None else f"{kept} channels, one for each number of image_mean,"
        raise ValueError(
            f"A frame must have {channels} in its first or last dimension, got shape {tuple(frame.shape)}"
        ) from error


def _as_rgb_frame(frame, data_format=None):
    """
    Return a frame, and its data format, in a form that every version of transformers converts to RGB.

    PIL images and arrays of three channels stay unchanged. Grey arrays get three equal channels. Arrays of uint8 with
    transparency become PIL images.
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
    Check that the frames of each clip, given by their shapes, have one shape.

    Raises:
        ValueError: if they differ. The message gives the number of the clip, counted from `first_number`.
    """
    for number, shapes in enumerate(clips, start=first_number):
        if len(set(map(tuple, shapes))) > 1:
            listing = ", ".join(sorted({" x ".join(map(str, shape)) for shape in shapes}))
            raise ValueError(
                f"The frames of a clip must have one shape, clip {number} has {listing}; resize them first"
            )


def warn_of_scaled_frames(clip, number: int) -> None:
    """
    Warn if all pixels of a clip are floats from 0 to 1, which `do_rescale` would divide by 255 once more.

    Args:
        clip: one array or tensor, or several.
        number: index of the clip in the batch, for the message.
    """
    if all(_is_scaled(frame) for frame in (clip if isinstance(clip, (list, tuple)) else [clip])):
        warnings.warn(
            f"The pixels of clip {number} are floats from 0 to 1, and do_rescale=True divides them by 255 once more, "
            "so all frames are almost black. Give do_rescale=False, or pixels from 0 to 255",
            VideoWarning,
            stacklevel=2,
        )


def _is_scaled(frame: np.ndarray | torch.Tensor) -> bool:
    pixels = torch.as_tensor(frame)
    return pixels.is_floating_point() and pixels.min() >= 0 and 0 < pixels.max() <= 1


def check_batch(shapes: list[tuple], return_tensors) -> None:
    """
    Check that clips have one shape if they are to become one tensor.

    Raises:
        ValueError: if their shapes (frames, channels, height, width) differ.
    """
    if return_tensors is not None and len(set(shapes)) > 1:
        raise ValueError(
            f"The clips of a batch must have one shape (frames, channels, height, width), got "
            f"{', '.join(map(str, sorted(set(shapes))))}; give them the same number of frames and leave do_resize and "
            "do_center_crop on, or process them one by one"
        )
