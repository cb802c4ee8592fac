"""Video files and clips -> sampled frames -> `pixel_values`."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .clip_processing import channel_format, check_batch, check_frame_sizes, own_array
from .multi_view import ViewSettings, cut_crops, resolve_views, scale_exactly
from .video_decoding import decode_frames
from .video_sampling import sample_frame_indices
from .video_sources import is_video_source


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
    frame_sampling (`str`, *optional*):
        How frames are chosen: `"uniform"` (whole video), `"center"` (`num_frames` at `frame_sampling_rate` around the
        middle, the paper's), `"original"` (the authors' code on Kinetics) or `"segments"` (on Something-Something).
        Where it is `None`: `"center"` if there is a `frame_sampling_rate`, else `"uniform"`.
    frame_sampling_rate (`int`, *optional*):
        Frames of the video from one sampled frame to the next: 32 for the paper's 8-frame models.
    do_flip_channel_order (`bool`, *optional*, defaults to `False`):
        RGB to BGR, which the Something-Something checkpoints were trained on.
    decoder (`str`, *optional*, defaults to `"pyav"`):
        What decodes a file: `"pyav"`, `"torchcodec"`, or `"torchcodec-cuda"` (NVDEC).
    num_clips (`int`, *optional*):
        Clips of a video, spread over it as `frame_sampling` does. Where this or `num_crops` is set, `pixel_values` have
        one more dimension, of views: clip after clip, in each crop after crop.
    num_crops (`int`, *optional*):
        Crops of a clip: 1, the centre, or 3, at the start, centre and end of the longer side.
    views (`str`, *optional*):
        Views by the name of a protocol: `"paper"` or `"original"`, the authors' code. What else is set in the same
        place stands above it.
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
    Makes `pixel_values` (batch, frames, channels, height, width) of videos: decode and sample `num_frames` frames,
    resize the shorter side, crop the centre, scale to [0, 1], normalise with the mean of 0.45 and deviation of 0.225
    that TimeSformer was trained with. A video of fewer frames repeats its last. With `num_clips`, `num_crops` or
    `views` there are several views of a video, (batch, views, frames, channels, height, width). Preprocessor files of
    VideoMAE, which TimeSformer checkpoints carry on the Hub, load unchanged.

    Example:

    ```python
    >>> processor = TimesformerVideoProcessor(num_frames=8, frame_sampling_rate=32)
    >>> processor("clip.mp4", return_tensors="pt").pixel_values.shape
    torch.Size([1, 8, 3, 224, 224])
    >>> processor("clip.mp4", num_clips=4, num_crops=3, return_tensors="pt").pixel_values.shape
    torch.Size([1, 12, 8, 3, 224, 224])
    ```"""

    valid_kwargs = TimesformerVideoProcessorKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    image_mean = [0.45, 0.45, 0.45]
    image_std = [0.225, 0.225, 0.225]
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
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

    def preprocess(self, videos, **kwargs: Unpack[TimesformerVideoProcessorKwargs]) -> BatchFeature:
        """
        Args:
            videos: a video or a list of videos. A video is a path, a URL, the bytes of a file, an open binary file,
                an array or tensor (frames, height, width, channels) or (frames, channels, height, width), or a list
                of frames. With `do_sample_frames=False` every frame is kept.
            kwargs: any attribute of the processor, for this call; `return_tensors="pt"` for tensors.

        Returns:
            `pixel_values` (batch, frames, channels, height, width), or (batch, views, frames, channels, height, width)
            where there are views, float32; with `return_metadata=True` also `video_metadata`, which has the chosen
            `frames_indices`, clip after clip.

        Raises:
            TypeError: for something that is no video.
            ValueError: for frames of different sizes, an empty clip, or a sampling or views that can't be.
            OSError, VideoReadError: for a file that can't be opened or decoded; the message names it.
        """
        views = self.view_settings(**kwargs)
        clips, metadata = self.load_clips(videos, kwargs)
        kwargs |= {
            "num_clips": views.num_clips,
            "num_crops": views.num_crops,
            "views": kwargs.get("views") or self.views,
            "do_sample_frames": False,
            "video_metadata": metadata,
            "input_data_format": ChannelDimension.FIRST,
        }
        batch = super().preprocess(clips, **kwargs)
        batch["pixel_values"] = batch.pop("pixel_values_videos")
        return batch

    @property
    def clip_size(self) -> tuple[int, int] | None:
        """
        Height and width of every clip: of the crop, or what frames are squeezed to without one. `None` where it depends
        on the video.
        """
        if self.do_center_crop:
            return self.crop_size["height"], self.crop_size["width"]
        squeezed = self.do_resize and "height" in self.size and "width" in self.size
        return (self.size["height"], self.size["width"]) if squeezed else None

    def image_processor(self):
        """The [`TimesformerImageProcessor`] that does the same to frames: all that the built-in model knows."""
        from .image_processing_timesformer import TimesformerImageProcessor

        return TimesformerImageProcessor(**{name: getattr(self, name) for name in FRAME_SETTINGS})

    def view_settings(self, **settings) -> ViewSettings:
        """
        What views there are of a video, with `settings` as those of a call.

        Raises:
            TypeError, ValueError: for a number of clips or crops, or a protocol, that can't be.
        """
        names = ("views", "num_clips", "num_crops", "frame_sampling")
        return resolve_views(settings, {name: getattr(self, name) for name in names})

    def load_clips(self, videos, settings: dict) -> tuple[list[torch.Tensor], list[VideoMetadata]]:
        """
        Decode or stack, and sample. A frame that several clips of a video share is decoded once.

        Args:
            videos: as in `preprocess`.
            settings: what overrides the processor's attributes, as in `preprocess`.

        Returns:
            of each video its clips, one after the other, (clips * frames, channels, height, width), and what is known
            of it.
        """

        def setting(name: str):
            return getattr(self, name) if settings.get(name) is None else settings[name]

        views = self.view_settings(**settings)
        sampling = {name: setting(name) for name in ("fps", "num_frames", "frame_sampling_rate")}
        sampling |= {"frame_sampling": views.frame_sampling, "num_clips": views.num_clips or 1}
        if sampling["fps"] is not None:  # the attribute num_frames stands back; the argument would contradict
            sampling["num_frames"] = settings.get("num_frames")
        do_sample_frames = setting("do_sample_frames")
        if not do_sample_frames and sampling["num_clips"] > 1:
            raise ValueError(f"num_clips={views.num_clips} needs do_sample_frames: every frame is one clip")

        def choose(about: VideoMetadata) -> list[int]:
            return self.sample_frames(about, **sampling) if do_sample_frames else list(range(about.total_num_frames))

        videos = _list_videos(videos)
        known = _list_metadata(settings.get("video_metadata"), len(videos))
        clips, metadata = [], []
        for number, (video, about) in enumerate(zip(videos, known, strict=True)):
            if is_video_source(video):
                frames, about = decode_frames(video, choose, setting("decoder"))
                clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
            else:
                clip = _as_clip(video, number, settings.get("input_data_format"))
                about = about or VideoMetadata(total_num_frames=len(clip))
                if about.total_num_frames > len(clip):
                    raise ValueError(
                        f"video_metadata promises {about.total_num_frames} frames for clip {number}, it has {len(clip)}"
                    )
                about.frames_indices = choose(about)
                clip = take_frames(clip, about.frames_indices)
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
        **kwargs,
    ) -> list[int]:
        """
        Indices of the frames to take from a video, clip after clip; see [`TimesformerVideoProcessorKwargs`]. `fps` asks
        for so many frames per second of the whole video instead of `num_frames`.

        Raises:
            ValueError: for `num_frames` and `fps` together, or `fps` of a video whose frame rate isn't known.
        """
        if fps is not None:
            if num_frames is not None:
                raise ValueError(f"num_frames={num_frames} and fps={fps} exclude each other; give one")
            if fps <= 0:
                raise ValueError(f"fps={fps} must be positive")
            if not metadata.fps:
                raise ValueError(f"Sampling fps={fps} needs the video's own fps in video_metadata; or give num_frames")
            num_frames = max(1, int(metadata.total_num_frames / metadata.fps * fps))
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
            clips = self._cut_views(videos, settings, **kwargs)
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
        The same as transformers' own steps, bit for bit, at a fraction of the time: frames of a decoder keep the
        channels last until they are small, which is several times faster to resize, and are never stacked on the way.

        Args:
            frames: (frames, channels, height, width), uint8 up to the last step.
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
        do_resize: bool,
        do_center_crop: bool,
        crop_size: SizeDict,
        **kwargs,
    ) -> list[torch.Tensor]:
        """Of each video (clips * frames, channels, height, width), the views (views, frames, channels, ...)."""
        if settings.num_crops is not None and not do_center_crop:
            raise ValueError(
                f"num_crops={settings.num_crops} needs do_center_crop=True and a crop_size; this processor takes whole "
                "frames, of which num_clips makes more views"
            )
        if settings.exact_scaling and crop_size.height != crop_size.width:
            raise ValueError(
                "views='original' needs a crop_size that is a square, to which the shorter side is scaled, got "
                f"{crop_size.height}x{crop_size.width} (height x width); take views='paper'"
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


def _is_frame(video) -> bool:
    return isinstance(video, PIL.Image.Image) or getattr(video, "ndim", None) in (2, 3)


def _list_videos(videos) -> list:
    """
    One video or a batch of them, as a list of videos.

    Raises:
        TypeError: for something that is neither.
        ValueError: for an empty list.
    """
    if is_video_source(videos) or _is_frame(videos):
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
        raise ValueError("A clip must hold at least one frame, got an empty list")
    if all(_is_frame(frame) for frame in videos):
        return [videos]
    return [video for item in videos for video in _list_videos(item)]


def _as_clip(video, number: int, data_format: str | ChannelDimension | None = None) -> torch.Tensor:
    """
    Frames that are decoded already, as one tensor (frames, channels, height, width).

    Args:
        video: an array or tensor of 2 to 4 dimensions, a PIL image, or a list of such frames.
        number: its place in the batch, for error messages.
        data_format: where the channels are; inferred where `None`.

    Raises:
        ValueError: for no frames, or frames of different sizes.
    """
    if isinstance(video, (list, tuple)):
        frames = [as_tensor(frame) for frame in video]
        check_frame_sizes([[frame.shape for frame in frames]], first_number=number)
        clip = torch.stack(frames)
    else:
        clip = as_tensor(video)
        clip = clip.unsqueeze(0) if _is_frame(video) else clip
    if clip.numel() == 0:
        raise ValueError(
            f"A clip must hold at least one frame of at least one pixel, clip {number} has shape {tuple(clip.shape)}"
        )
    if clip.ndim == 3:  # grey frames without channels
        return clip.unsqueeze(1)
    data_format = channel_format(clip[0], data_format)
    clip = clip.permute(0, 3, 1, 2) if data_format == ChannelDimension.LAST else clip
    if clip.shape[1] == 4 and clip.dtype != torch.uint8:
        raise ValueError(
            f"Frames with transparency must be uint8, clip {number} is {clip.dtype}; give it three channels"
        )
    return clip


def take_frames(clip: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    """
    Some frames of a clip (frames, channels, height, width), their pixels in memory as they were: `clip[indices]` would
    move the channels of a decoder's frames to the front, which takes longer than resizing them.
    """
    if list(indices) == list(range(len(clip))):
        return clip
    return clip[indices] if clip.is_contiguous() else clip.movedim(1, -1)[indices].movedim(-1, 1)


def as_tensor(frames: PIL.Image.Image | np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(frames, PIL.Image.Image):
        frames = np.array(frames if frames.mode in ("L", "RGB", "RGBA") else frames.convert("RGB"))
    return torch.as_tensor(own_array(frames))


def _list_metadata(metadata, num_videos: int) -> list[VideoMetadata | None]:
    """
    What the caller knows of the videos, one entry a video.

    Raises:
        ValueError: for another number of entries.
    """
    if metadata is None:
        return [None] * num_videos
    entries = metadata if isinstance(metadata, (list, tuple)) else [metadata]
    entries = [entry for item in entries for entry in (item if isinstance(item, (list, tuple)) else [item])]
    if len(entries) != num_videos:
        raise ValueError(f"video_metadata has {len(entries)} entries for {num_videos} videos; give one entry a video")
    return [entry if isinstance(entry, VideoMetadata) else VideoMetadata(**entry) for entry in entries]


__all__ = ["TimesformerVideoProcessor"]
