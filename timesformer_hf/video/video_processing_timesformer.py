"""The video processor: from video files and clips to sampled frames and `pixel_values`."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .clip_processing import (
    channel_format,
    check_batch,
    check_frame_sizes,
    check_settings,
    kept_channels,
    warn_of_scaled_frames,
    writable_array,
)
from .multi_view import ViewSettings, cut_crops, resolve_views, scale_exactly
from .video_decoding import decode_frames
from .video_errors import RepeatedFramesWarning
from .video_options import VideoOptions
from .video_sampling import default_sampling, has_variable_rate, sample_frame_indices, uniform_in_time
from .video_sources import describe_source, is_video_source
from .video_stream import known_frame_times


if TYPE_CHECKING:
    from .image_processing_timesformer import TimesformerImageProcessor


FRAME_SETTINGS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_flip_channel_order",
)


class TimesformerVideoProcessorKwargs(VideosKwargs, total=False):
    """
    Settings of a TimeSformer video processor, besides those of every video processor.

    frame_sampling (`str`, *optional*):
        Policy that chooses the frames. `None` means `"center"` if there is a `frame_sampling_rate`, and otherwise
        `"uniform"`. The policies are:

        - `"uniform"`: frames spread over the whole video
        - `"center"`: `num_frames` at `frame_sampling_rate` around the middle, as in the paper
        - `"original"`: the frames of the authors' code on Kinetics
        - `"segments"`: the frames of the authors' code on Something-Something
    frame_sampling_rate (`int`, *optional*):
        Distance from one sampled frame to the next, in frames of the video. It is 32 for the paper's 8-frame models.
    do_flip_channel_order (`bool`, *optional*, defaults to `False`):
        Whether to convert RGB to BGR. The Something-Something checkpoints were trained on BGR.
    decoder (`str`, *optional*, defaults to `"pyav"`):
        Backend that decodes files: `"pyav"`, `"torchcodec"`, or `"torchcodec-cuda"` (NVDEC).
    num_clips (`int`, *optional*):
        Number of clips of a video. `frame_sampling` spreads them over it. If this or `num_crops` is set, `pixel_values`
        has one more dimension for the views, ordered by clip, and in each clip by crop.
    num_crops (`int`, *optional*):
        Number of crops of each clip: 1 (the centre), or 3 (the start, centre and end of the longer side).
    views (`str`, *optional*):
        Name of a protocol that sets the views: `"paper"`, or `"original"` for the authors' code. Single settings in the
        same call or processor override those of the protocol.
    """

    frame_sampling: str | None
    frame_sampling_rate: int | None
    do_flip_channel_order: bool | None
    decoder: str | None
    num_clips: int | None
    num_crops: int | None
    views: str | None


class TimesformerVideoProcessor(BaseVideoProcessor):
    """
    Makes `pixel_values` (batch, frames, channels, height, width) from videos.

    It decodes and samples `num_frames` frames, resizes the shorter side, crops the centre, scales pixels to [0, 1], and
    normalises them with the mean of 0.45 and the standard deviation of 0.225 with which TimeSformer was trained. A
    video with fewer frames repeats its last one; if more than half of a clip are such copies, a warning says so. If
    exactly `num_frames` frames are given, and not a file, they are a clip already and taken as they are.

    With `num_clips`, `num_crops` or `views`, a video has several views: (batch, views, frames, channels, height,
    width).

    It also loads the preprocessor files of VideoMAE, which TimeSformer checkpoints on the Hub have.

    Example:

    ```python
    >>> processor = TimesformerVideoProcessor(num_frames=8, frame_sampling_rate=32)
    >>> processor("clip.mp4", return_tensors="pt").pixel_values.shape
    torch.Size([1, 8, 3, 224, 224])
    >>> processor("clip.mp4", num_clips=4, num_crops=3, return_tensors="pt").pixel_values.shape
    torch.Size([1, 12, 8, 3, 224, 224])
    ```"""

    valid_kwargs = TimesformerVideoProcessorKwargs
    model_input_names: list[str] = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    image_mean: list[float] = [0.45, 0.45, 0.45]
    image_std: list[float] = [0.225, 0.225, 0.225]
    size: dict[str, int] = {"shortest_edge": 224}
    default_to_square = False
    crop_size: dict[str, int] = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = True
    num_frames = 8
    frame_sampling = None
    frame_sampling_rate = None
    do_flip_channel_order = False
    decoder = "pyav"
    num_clips = None
    num_crops = None
    views = None
    video_options = None  # set it to a `VideoOptions`; it is neither saved nor loaded, see there

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        check_settings(self)

    def preprocess(
        self, videos: Any, video_options: VideoOptions | None = None, **kwargs: Unpack[TimesformerVideoProcessorKwargs]
    ) -> BatchFeature:
        """
        Turn videos into `pixel_values`.

        Args:
            videos: a video or a list of videos. With `do_sample_frames=False` every frame is kept. A video is one of:

                - a path or an http(s) URL
                - the bytes of a file, or an open binary file
                - an entry `{"path", "bytes"}` of a data set, or a `VideoDecoder` of torchcodec
                - an array or tensor (frames, height, width, channels) or (frames, channels, height, width)
                - a list of frames
            video_options: limits for reading files, see [`VideoOptions`] (default: the attribute of this name).
            kwargs: any attribute of the processor, for this call. `return_tensors="pt"` returns tensors.

        Returns:
            `pixel_values`, float32: (batch, frames, channels, height, width), or with views (batch, views, frames,
            channels, height, width). With `return_metadata=True` also `video_metadata`, which contains the chosen
            `frames_indices`, ordered by clip.

        Raises:
            TypeError: if something is not a video.
            ValueError: if frames differ in size, a clip is empty, or the settings of sampling or views are not allowed.
            OSError, VideoReadError: if a video is unreadable. The message names it.
        """
        views = self.view_settings(**kwargs)
        clips, metadata = self.load_clips(videos, kwargs, video_options)
        kwargs |= {
            "num_clips": views.num_clips,
            "num_crops": views.num_crops,
            "views": kwargs.get("views") or self.views,
            "do_sample_frames": False,
            "video_metadata": metadata,
            "input_data_format": ChannelDimension.FIRST,
        }
        if kept_channels(kwargs.get("image_mean") or self.image_mean) is not None:
            kwargs["do_convert_rgb"] = False
        batch = super().preprocess(clips, **kwargs)
        batch["pixel_values"] = batch.pop("pixel_values_videos")
        return batch

    @property
    def clip_size(self) -> tuple[int, int] | None:
        """
        Height and width of every clip in pixels. `None` if they depend on the video.

        They are those of the crop, or without a crop those to which frames are squeezed.
        """
        if self.do_center_crop:
            return self.crop_size["height"], self.crop_size["width"]
        squeezed = self.do_resize and "height" in self.size and "width" in self.size
        return (self.size["height"], self.size["width"]) if squeezed else None

    def image_processor(self) -> "TimesformerImageProcessor":
        """Return the [`TimesformerImageProcessor`] that processes frames in the same way, for the built-in model."""
        from .image_processing_timesformer import TimesformerImageProcessor

        return TimesformerImageProcessor(**{name: getattr(self, name) for name in FRAME_SETTINGS})

    def view_settings(self, **settings: Any) -> ViewSettings:
        """
        Return the views that a call with these `settings` makes of a video.

        Raises:
            TypeError, ValueError: if the number of clips, the number of crops or the protocol is not allowed.
        """
        names = ("views", "num_clips", "num_crops", "frame_sampling")
        return resolve_views(settings, {name: getattr(self, name) for name in names})

    def reading_options(self, given: VideoOptions | None = None) -> VideoOptions:
        """Return the limits for reading files: those given, or the attribute unless a file of settings set it."""
        own = self.video_options if isinstance(self.video_options, VideoOptions) else VideoOptions()
        return own if given is None else given

    def to_dict(self) -> dict[str, Any]:
        """Return the settings to save. `video_options` is not one: whoever loads the processor decides on limits."""
        values = super().to_dict()
        values.pop("video_options", None)
        return values

    def load_clips(
        self, videos: Any, settings: dict[str, Any], video_options: VideoOptions | None = None
    ) -> tuple[list[torch.Tensor], list[VideoMetadata]]:
        """
        Load the chosen frames of videos. A frame that several clips of a video share is decoded only once.

        Args:
            videos: as in `preprocess`.
            settings: the settings of the call, which override the processor's attributes.
            video_options: as in `preprocess`.

        Returns:
            For each video, its clips one after the other, (clips * frames, channels, height, width); and for each
            video, its metadata.
        """

        def setting(name: str):
            return getattr(self, name) if settings.get(name) is None else settings[name]

        views = self.view_settings(**settings)
        sampling = {name: setting(name) for name in ("fps", "num_frames", "frame_sampling_rate")}
        sampling |= {"frame_sampling": views.frame_sampling, "num_clips": views.num_clips or 1}
        if sampling["fps"] is not None:  # fps overrides the processor's num_frames, but contradicts the call's
            sampling["num_frames"] = settings.get("num_frames")
        do_sample_frames = setting("do_sample_frames")
        if not do_sample_frames and sampling["num_clips"] > 1:
            raise ValueError(
                f"num_clips={views.num_clips} needs do_sample_frames=True; without it, all frames form one clip"
            )

        def choose(about: VideoMetadata) -> list[int]:
            return self.sample_frames(about, **sampling) if do_sample_frames else list(range(about.total_num_frames))

        videos, options = _list_videos(videos), self.reading_options(video_options)
        known = _list_metadata(settings.get("video_metadata"), len(videos))
        clips, metadata = [], []
        for number, (video, about) in enumerate(zip(videos, known, strict=True)):
            if is_video_source(video):
                frames, about = decode_frames(video, choose, setting("decoder"), options=options)
                clip, name = torch.from_numpy(frames).permute(0, 3, 1, 2), describe_source(video)
            else:
                name = f"clip {number}"
                clip = _as_clip(video, number, settings.get("input_data_format"), kept_channels(setting("image_mean")))
                about = about or VideoMetadata(total_num_frames=len(clip))
                if about.total_num_frames > len(clip):
                    raise ValueError(
                        f"video_metadata promises {about.total_num_frames} frames for clip {number}, but it has "
                        f"{len(clip)}"
                    )
                if setting("do_rescale"):
                    warn_of_scaled_frames(clip, number)
                about.frames_indices = choose(about)
                if sampling["num_clips"] == 1 and about.total_num_frames == sampling["num_frames"]:  # a clip already
                    about.frames_indices = list(range(about.total_num_frames))
                clip = take_frames(clip, about.frames_indices)
            if do_sample_frames:
                _warn_of_repetition(name, about, sampling["num_clips"], sampling["frame_sampling_rate"])
            clips.append(clip)
            metadata.append(about)
        return clips, metadata

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        frame_sampling: str | None = None,
        frame_sampling_rate: int | None = None,
        num_clips: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """
        Return the indices of the frames to take from a video, ordered by clip.

        [`TimesformerVideoProcessorKwargs`] describes the arguments. `fps` asks for this many frames per second of
        the whole video, instead of `num_frames`. If the video has a variable frame rate and its timestamps are known,
        these are the frames that are shown at equal steps of time.

        Raises:
            TypeError: if a number of frames, the number of clips or the rate is not an integer.
            ValueError: if both `num_frames` and `fps` are given, `fps` is given and the video's frame rate is unknown,
                or a value is not allowed.
        """
        if fps is not None:
            if num_frames is not None:
                raise ValueError(f"num_frames={num_frames} and fps={fps} exclude each other; give only one")
            if fps <= 0:
                raise ValueError(f"fps={fps} must be positive")
            if not metadata.fps:
                raise ValueError(
                    f"Sampling fps={fps} needs the video's own fps in video_metadata; add it, or give num_frames"
                )
            duration = metadata.total_num_frames / metadata.fps
            num_frames = max(1, int(duration * fps))
            times = known_frame_times(metadata)
            by_time = (frame_sampling or default_sampling(frame_sampling_rate)) == "uniform"
            if by_time and times and has_variable_rate(times):
                return uniform_in_time(
                    frame_times=times, duration=duration, num_frames=num_frames, num_clips=num_clips or 1
                )
        return sample_frame_indices(
            total_num_frames=metadata.total_num_frames,
            num_frames=self.num_frames if num_frames is None else num_frames,
            frame_sampling=frame_sampling,
            frame_sampling_rate=frame_sampling_rate,
            fps=metadata.fps,
            num_clips=1 if num_clips is None else num_clips,
        )

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        num_clips: int | None = None,
        num_crops: int | None = None,
        views: str | None = None,
        return_tensors=None,
        **kwargs,
    ) -> BatchFeature:
        settings = resolve_views({"views": views, "num_clips": num_clips, "num_crops": num_crops}, {})
        if settings.has_views:
            clips = self._cut_views(videos, settings, views, **kwargs)
        else:
            clips = [self._process_frames(video, **kwargs) for video in videos]
        check_batch([tuple(clip.shape) for clip in clips], return_tensors)
        return BatchFeature(data={"pixel_values_videos": clips}, tensor_type=return_tensors)

    def _process_frames(
        self,
        frames: torch.Tensor,
        do_resize: bool,
        size: SizeDict,
        resample,
        do_center_crop: bool,
        crop_size: SizeDict,
        do_flip_channel_order: bool | None = None,
        do_convert_rgb: bool | None = None,
        **normalization,
    ) -> torch.Tensor:
        """
        Process frames with the same result as transformers' own steps, bit for bit, in a fraction of the time.

        Decoded frames keep the channels last until they are small, because such frames resize several times faster.
        They are never stacked in between.

        Args:
            frames: (frames, channels, height, width), uint8 until the last step.
        """
        if do_convert_rgb:
            frames = self.convert_to_rgb(frames)
        if do_resize:
            frames = self.resize(frames, size=size, resample=resample)
        if do_center_crop:
            frames = self.center_crop(frames, crop_size)
        if do_flip_channel_order:
            frames = frames.flip(-3)
        names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        return self.rescale_and_normalize(frames.contiguous(), **{name: normalization[name] for name in names})

    def _cut_views(
        self,
        videos: list[torch.Tensor],
        settings: ViewSettings,
        views: str | None,
        do_resize: bool,
        do_center_crop: bool,
        crop_size: SizeDict,
        **kwargs,
    ) -> list[torch.Tensor]:
        """Cut each video (clips * frames, channels, height, width) into views (views, frames, channels, ...)."""
        if settings.num_crops is not None and not do_center_crop:
            named = f"num_crops={settings.num_crops}" if views is None else f"views={views!r}"
            raise ValueError(
                f"{named} needs do_center_crop=True and a crop_size, because it takes crops. This model was trained on "
                "whole frames, so there is nothing to crop. For more views of a video, use several clips, for example "
                "num_clips=3"
            )
        if settings.exact_scaling and crop_size.height != crop_size.width:
            raise ValueError(
                "views='original' scales the shorter side to crop_size, so it needs a square crop_size, got "
                f"{crop_size.height}x{crop_size.width} (height x width). Use views='paper' instead"
            )
        kwargs |= {
            "do_resize": do_resize and not settings.exact_scaling,
            "do_center_crop": do_center_crop and settings.num_crops is None,
            "crop_size": crop_size,
        }
        processed = [self._process_frames(video, **kwargs) for video in videos]
        if settings.exact_scaling and do_resize:
            processed = [scale_exactly(video, crop_size.height) for video in processed]
        clips = [video.unflatten(0, (settings.num_clips or 1, -1)) for video in processed]
        if settings.num_crops is None:
            return clips
        return [cut_crops(video, (crop_size.height, crop_size.width), settings) for video in clips]


def _warn_of_repetition(name: str, about: VideoMetadata, num_clips: int, frame_sampling_rate: int | None) -> None:
    """Warn if more than half of the frames of a clip are repetitions of others."""
    num_frames = len(about.frames_indices) // num_clips
    different = len(set(about.frames_indices[:num_frames]))
    if num_frames - different <= num_frames / 2:
        return
    if about.total_num_frames == 1:
        message = f"has a single frame, so nothing moves in its clip of {num_frames}. If it is a picture, give a video"
    else:
        message = (
            f"has {about.total_num_frames} frames, so {num_frames - different} of the {num_frames} in its clip are "
        )
        message += "copies of another"
        if frame_sampling_rate is not None:
            message += f" (frame_sampling_rate={frame_sampling_rate}; a smaller one gives fewer copies)"
    warnings.warn(f"{name} {message}", RepeatedFramesWarning, stacklevel=3)


def is_frame(video) -> bool:
    """Whether `video` is a single picture: a PIL image, or an array or tensor of 2 or 3 dimensions."""
    return isinstance(video, PIL.Image.Image) or getattr(video, "ndim", None) in (2, 3)


def _list_videos(videos) -> list:
    """
    Return one video or a batch of videos as a list of videos.

    Raises:
        TypeError: if something is not a video.
        ValueError: if a list is empty.
    """
    if is_video_source(videos) or is_frame(videos):
        return [videos]
    if isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim in (4, 5):
        return [videos] if videos.ndim == 4 else list(videos)
    if not isinstance(videos, (list, tuple)):
        got = f"shape {tuple(videos.shape)}" if hasattr(videos, "shape") else type(videos).__name__
        raise TypeError(
            "A video must be a path, a URL, bytes, an open binary file, a list of frames, or an array or tensor of 4 "
            f"dimensions (5 for a batch), got {got}"
        )
    if not videos:
        raise ValueError("A clip must contain at least one frame, got an empty list")
    if all(is_frame(frame) for frame in videos):
        return [videos]
    return [video for item in videos for video in _list_videos(item)]


def _as_clip(
    video, number: int, data_format: str | ChannelDimension | None = None, kept: int | None = None
) -> torch.Tensor:
    """
    Return decoded frames as one tensor (frames, channels, height, width).

    Args:
        video: an array or tensor of 2 to 4 dimensions, a PIL image, or a list of such frames.
        number: index of the video in the batch, for error messages.
        data_format: where the channels are. `None` infers it.
        kept: number of channels of frames that are no pictures, see `kept_channels`.

    Raises:
        ValueError: if there is no frame, or frames differ in size.
    """
    if isinstance(video, (list, tuple)):
        frames = [as_tensor(frame) for frame in video]
        check_frame_sizes([[frame.shape for frame in frames]], first_number=number)
        clip = torch.stack(frames)
    else:
        clip = as_tensor(video)
        clip = clip.unsqueeze(0) if is_frame(video) else clip
    if clip.numel() == 0:
        raise ValueError(
            f"A clip must contain at least one frame of at least one pixel, clip {number} has shape {tuple(clip.shape)}"
        )
    if clip.ndim == 3:  # grey frames without channels
        return clip.unsqueeze(1)
    data_format = channel_format(clip[0], data_format, kept)
    clip = clip.permute(0, 3, 1, 2) if data_format == ChannelDimension.LAST else clip
    if kept is None and clip.shape[1] == 4 and clip.dtype != torch.uint8:
        raise ValueError(
            f"Frames with transparency must be uint8, clip {number} is {clip.dtype}; convert it to three channels"
        )
    return clip


def take_frames(clip: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    """
    Return some frames of a clip (frames, channels, height, width) without changing the memory layout of the pixels.

    Decoded frames have the channels last in memory. `clip[indices]` would move them to the front, which takes longer
    than resizing the frames.
    """
    if list(indices) == list(range(len(clip))):
        return clip
    return clip[indices] if clip.is_contiguous() else clip.movedim(1, -1)[indices].movedim(-1, 1)


def as_tensor(frames: PIL.Image.Image | np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return an image, array or tensor as a tensor. A PIL image becomes grey, RGB or RGBA."""
    if isinstance(frames, PIL.Image.Image):
        frames = np.array(frames if frames.mode in ("L", "RGB", "RGBA") else frames.convert("RGB"))
    return torch.as_tensor(writable_array(frames))


def _list_metadata(metadata, num_videos: int) -> list[VideoMetadata | None]:
    """
    Return the metadata that the caller gives, one entry for each video.

    Raises:
        ValueError: if the number of entries differs from the number of videos.
    """
    if metadata is None:
        return [None] * num_videos
    entries = metadata if isinstance(metadata, (list, tuple)) else [metadata]
    entries = [entry for item in entries for entry in (item if isinstance(item, (list, tuple)) else [item])]
    if len(entries) != num_videos:
        raise ValueError(
            f"video_metadata has {len(entries)} entries for {num_videos} videos; give one entry for each video"
        )
    return [entry if isinstance(entry, VideoMetadata) else VideoMetadata(**entry) for entry in entries]


__all__ = ["TimesformerVideoProcessor"]
