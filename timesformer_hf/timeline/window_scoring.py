"""The scores of windows: what is kept of a frame, which frames the model sees, and what it answers."""

import math
import numbers
from collections.abc import Sequence

import numpy as np
import torch
from transformers.image_utils import ChannelDimension
from transformers.video_utils import VideoMetadata

from ..data.label_matching import find_label
from ..inference.pipeline_timesformer import SCORES
from ..video.multi_view import average_views
from ..video.video_processing_timesformer import TimesformerVideoProcessor
from ..video.video_sampling import default_sampling, original_clip_length


KINETICS_SECONDS = 10.0  # length of a clip of Kinetics, for models whose sampling has no length of its own
_MOST_BYTES = 2**31  # of the frames that are kept in memory
_NOT_FINITE = "the scores are not finite: the model's weights are broken, or overflow in float16 (use float32)"


class WindowScorer:
    """
    Scores windows of a video as the video-classification pipeline scores a video of the same frames.

    Args:
        model: a video classifier.
        processor: its [`TimesformerVideoProcessor`].
        fps: frames per second of the video.

    Raises:
        TypeError: if the processor is of another class.
        ValueError: if the processor makes several views of a video.
    """

    def __init__(self, model, processor: TimesformerVideoProcessor, fps: float):
        if not isinstance(processor, TimesformerVideoProcessor):
            raise TypeError(f"A timeline needs a TimesformerVideoProcessor, got {type(processor).__name__}")
        if processor.view_settings().has_views:
            raise ValueError(
                "The processor makes several views of a video. A timeline has one view of each window; set "
                "num_clips=None, num_crops=None and views=None"
            )
        self.model, self.processor, self.fps = model, processor, fps
        self.labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.function = SCORES.get(model.config.problem_type, "softmax")

    def choose(self, length: int) -> list[int]:
        """Return the indices of the frames that the model sees of a window of `length` frames."""
        own = self.processor
        about = VideoMetadata(total_num_frames=length, fps=self.fps)
        frames = self.model.config.num_frames if own.fps is None else None
        return own.sample_frames(about, frames, own.fps, own.frame_sampling, own.frame_sampling_rate)

    def own_length(self) -> int:
        """Return how many frames the sampling of the processor covers, or those of 10 s if it takes whole videos."""
        own, frames = self.processor, self.model.config.num_frames
        sampling = own.frame_sampling or default_sampling(own.frame_sampling_rate)
        if own.fps is None and sampling == "center":
            return (frames - 1) * own.frame_sampling_rate + 1
        if own.fps is None and sampling == "original":
            return max(1, round(original_clip_length(frames, own.frame_sampling_rate, self.fps)))
        return max(1, round(KINETICS_SECONDS * self.fps))

    def prepare(self, frame: np.ndarray) -> torch.Tensor:
        """Return a frame (height, width, 3) as the model needs it, but still in bytes: (channels, height, width)."""
        changes = {"do_sample_frames": False, "do_rescale": False, "do_normalize": False}
        return self._process(frame[None], ChannelDimension.LAST, **changes)[0, 0]

    def check_memory(self, length: int, frame: torch.Tensor) -> None:
        """
        Check that the frames of a window fit into memory.

        Raises:
            ValueError: if `length` prepared frames are more than 2 GiB.
        """
        if length * frame.nbytes > _MOST_BYTES:
            seconds = math.floor(_MOST_BYTES / frame.nbytes / self.fps)
            raise ValueError(f"A window of {length / self.fps:g} s takes too much memory; choose at most {seconds:,} s")

    def score(self, clips: Sequence[Sequence[torch.Tensor]]) -> np.ndarray:
        """
        Return the scores of windows (windows, labels), float32.

        Args:
            clips: for each window, its prepared frames that the model sees.

        Raises:
            ValueError: if a score is not finite.
        """
        done = ("do_resize", "do_center_crop", "do_convert_rgb", "do_flip_channel_order")
        changes = {"do_sample_frames": False} | dict.fromkeys(done, False)
        pixel_values = self._process([torch.stack(list(clip)) for clip in clips], ChannelDimension.FIRST, **changes)
        with torch.no_grad():
            logits = self.model(pixel_values=pixel_values.to(self.model.device, self.model.dtype)).logits
        scores = average_views(logits[:, None], function=self.function).float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise ValueError(_NOT_FINITE)
        return scores

    def _process(self, videos, data_format: ChannelDimension, **changes) -> torch.Tensor:
        return self.processor(videos, input_data_format=data_format, return_tensors="pt", **changes).pixel_values


def find_labels(names: Sequence[str] | None, labels: Sequence[str]) -> list[int]:
    """
    Return the indices of labels by their names, or all if there are no names.

    Raises:
        ValueError: if a name is unknown. The message has the nearest names.
    """
    if names is None:
        return list(range(len(labels)))
    if isinstance(names, str) or not names:
        raise ValueError(f"labels must be a list of at least one name, got {names!r}")
    known = dict(enumerate(labels))
    return [find_label(name, known) for name in dict.fromkeys(names)]


def check_number(name: str, value: float | None, unit: str = "seconds") -> None:
    """
    Check that a value is a positive, finite number, or `None`.

    Raises:
        ValueError: if it is not.
    """
    if value is not None and not (isinstance(value, numbers.Real) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r} must be a positive number of {unit}")
