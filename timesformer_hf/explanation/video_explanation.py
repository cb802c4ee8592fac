"""The explanation of a video file: its label and score, the frames that the model gets, and where it looks in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from transformers.image_utils import SizeDict

from ..inference.feature_extraction import choose_sampling
from ..inference.pipeline_timesformer import SCORES
from ..model.loading_checks import check_complete
from ..model.modeling_timesformer import TimesformerForVideoClassification
from ..video.video_decoding import decode_frames
from ..video.video_processing_timesformer import TimesformerVideoProcessor
from ..video.video_sources import VideoSource, describe_source
from .relevance import check_can_explain, explain
from .target_labels import target_classes


_SHOWN_SIDE = 640  # pixels of the longer side of a frame that is shown
_MAX_FILM_FRAMES = 240
_DECODED_AT_ONCE = 32  # frames in full size; all others are kept as small as they are shown

Region = tuple[float, float, float, float]


@dataclass(frozen=True)
class VideoExplanation:
    """
    What a classifier looks at in a video.

    Attributes:
        video: its name.
        frames: the frames that the model gets, uint8 RGB (frames, height, width, 3), not larger than 640 pixels.
        frame_indices: their numbers in the video. A video that is shorter than the clip repeats its last frame.
        fps: frames per second of the video, or `None` if it is unknown.
        relevance: (frames, rows, columns). It is at least 0 and sums to 1.
        region: the part of a frame that the model sees: top, left, bottom and right, as shares of the height and width.
        label: the name of the explained class.
        score: its probability.
        predicted: the label with the highest score.
        method: how the relevance was found, one of `METHODS`.
    """

    video: str
    frames: np.ndarray
    frame_indices: list[int]
    fps: float | None
    relevance: np.ndarray
    region: Region
    label: str
    score: float
    predicted: str
    method: str

    @property
    def frame_relevance(self) -> np.ndarray:
        """The share of each frame, (frames,). It sums to 1."""
        return self.relevance.sum(axis=(1, 2))

    def relevance_at(self, indices: Sequence[int]) -> np.ndarray:
        """
        Return the relevance at any frames of the video, (indices, rows, columns).

        It is linear in time between two frames that the model gets, which is for showing only. If the clip has a frame
        several times, its mean is taken.
        """
        places = np.unique(self.frame_indices)
        known = np.stack([self.relevance[np.equal(self.frame_indices, place)].mean(axis=0) for place in places])
        after = np.searchsorted(places, indices, side="left").clip(1, max(len(places) - 1, 1))
        if len(places) == 1:
            return known[np.zeros(len(indices), dtype=int)]
        share = (np.asarray(indices) - places[after - 1]) / (places[after] - places[after - 1])
        share = share.clip(0, 1)[:, None, None]
        return (1 - share) * known[after - 1] + share * known[after]


def explain_video(
    model: TimesformerForVideoClassification,
    processor: TimesformerVideoProcessor,
    video: VideoSource,
    label: int | str | None = None,
    method: str = "gradient_rollout",
    num_frames: int | None = None,
    frame_sampling_rate: int | None = None,
) -> VideoExplanation:
    """
    Explain a classifier's answer for a video. The frames are those that the pipeline gives the model.

    Args:
        model: a [`TimesformerForVideoClassification`] in eval mode.
        processor: its video processor, without several views.
        video: a path, a URL, the bytes of a file or an open file.
        label: the class to explain, by name or number. `None` means the predicted one.
        method: see [`explain`].
        num_frames: frames of the clip (default: the number in the model's config).
        frame_sampling_rate: every how many frames of the video one is taken (default: the processor's).

    Raises:
        TypeError, ValueError: if the model, the processor, the label or the method is not allowed.
        OSError, VideoReadError: if the video is unreadable.
    """
    _check_classifier(model)
    _check_processor(processor)
    if isinstance(label, str):  # before the video is decoded
        target_classes(label, torch.zeros(1, model.config.num_labels), model.config.id2label)
    frames, indices, fps, pixel_values = read_clip(model, processor, video, num_frames, frame_sampling_rate)
    pixel_values = pixel_values.unsqueeze(0).to(model.device)
    with torch.no_grad():
        logits = model(pixel_values).logits.float()
    (target,) = target_classes(label, logits, model.config.id2label).tolist()
    relevance = explain(model, pixel_values, target, method)[0].cpu().numpy()
    return VideoExplanation(
        video=describe_source(video),
        frames=shrink(frames),
        frame_indices=indices,
        fps=fps,
        relevance=relevance,
        region=visible_region(processor, *frames.shape[1:3]),
        label=model.config.id2label[target],
        score=float(label_scores(logits, model.config.problem_type)[0, target]),
        predicted=model.config.id2label[int(logits[0].argmax())],
        method=method,
    )


def read_clip(
    model,
    processor: TimesformerVideoProcessor,
    video: VideoSource,
    num_frames: int | None = None,
    frame_sampling_rate: int | None = None,
) -> tuple[np.ndarray, list[int], float | None, torch.Tensor]:
    """
    Read the clip that the pipeline gives the model.

    Args:
        model, processor, video, num_frames, frame_sampling_rate: see [`explain_video`].

    Returns:
        the frames in full size, uint8 (frames, height, width, 3); their numbers in the video; the frames per second of
        the video, if known; and the pixel values, (frames, channels, height, width).

    Raises:
        OSError, VideoReadError: if the video is unreadable.
    """
    sampling = choose_sampling(model, processor, num_frames, frame_sampling_rate)
    sampling["frame_sampling_rate"] = frame_sampling_rate or processor.frame_sampling_rate
    sampling |= {"fps": processor.fps if num_frames is None else None, "frame_sampling": processor.frame_sampling}
    frames, metadata = decode_frames(
        video,
        lambda about: processor.sample_frames(about, **sampling),
        processor.decoder,
        options=processor.reading_options(),
    )
    pixel_values = processor(frames, do_sample_frames=False, return_tensors="pt").pixel_values[0]
    return frames, [int(index) for index in metadata.frames_indices], metadata.fps, pixel_values


def label_scores(logits: torch.Tensor, problem_type: str | None) -> torch.Tensor:
    """Return the probabilities of logits (..., labels), as the pipeline does."""
    return logits.sigmoid() if SCORES.get(problem_type, "softmax") == "sigmoid" else logits.softmax(-1)


def load_explainable(name: str, device: str = "cpu") -> tuple:
    """
    Load a classifier in float32 and eval mode, and its video processor without several views.

    Args:
        name: a folder, or a name on the Hub.
        device: where the model is put.

    Raises:
        TypeError, ValueError: if it is not a TimeSformer that can be explained, or lacks weights.
        OSError: if there is no such checkpoint.
    """
    from transformers import AutoModelForVideoClassification, AutoVideoProcessor

    model, info = AutoModelForVideoClassification.from_pretrained(name, dtype="float32", output_loading_info=True)
    _check_classifier(model.eval())
    check_complete(name, model, info)
    processor = AutoVideoProcessor.from_pretrained(name, num_clips=None, num_crops=None, views=None)
    _check_processor(processor)
    return model.to(device), processor


def _check_classifier(model) -> None:
    """
    Check that a model can be explained and gives probabilities.

    Raises:
        TypeError, ValueError: if not.
    """
    check_can_explain(model)
    if model.config.problem_type == "regression":
        raise ValueError(
            "The model is for regression, so a video has no label; explain(model, pixel_values, target) takes it"
        )


def _check_processor(processor) -> None:
    """
    Check that a processor makes one view of each video.

    Raises:
        TypeError: if it is not a [`TimesformerVideoProcessor`].
        ValueError: if it makes several views.
    """
    if not isinstance(processor, TimesformerVideoProcessor):
        raise TypeError(f"An explanation needs a TimesformerVideoProcessor, got {type(processor).__name__}")
    if processor.view_settings().has_views:
        raise ValueError(
            "The processor makes several views of a video, and each would have its own explanation; load it with "
            "views=None, num_clips=None, num_crops=None"
        )


def visible_region(processor: TimesformerVideoProcessor, height: int, width: int) -> Region:
    """
    Return the part of frames of this size that the model sees: top, left, bottom and right, as shares of the sides.

    A crop that is larger than the frame gives shares below 0 and above 1.
    """
    sides = (height, width)
    if processor.do_resize:
        blank = torch.zeros(1, 1, height, width, dtype=torch.uint8)
        size = SizeDict(**{name: value for name, value in dict(processor.size).items() if value is not None})
        sides = tuple(processor.resize(blank, size=size, resample=processor.resample).shape[2:])
    if not processor.do_center_crop:
        return 0.0, 0.0, 1.0, 1.0
    starts, ends = [], []
    for side, crop in zip(sides, (processor.crop_size["height"], processor.crop_size["width"]), strict=True):
        start = int((side - crop) / 2)
        starts.append(start / side)
        ends.append((start + crop) / side)
    return starts[0], starts[1], ends[0], ends[1]


def shrink(frames: np.ndarray) -> np.ndarray:
    """Scale frames (frames, height, width, 3) down to 640 pixels along the longer side, if they are larger."""
    height, width = frames.shape[1:3]
    scale = _SHOWN_SIDE / max(height, width)
    if scale >= 1:
        return frames
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([np.asarray(PIL.Image.fromarray(frame).resize(size, PIL.Image.Resampling.BOX)) for frame in frames])


def read_span(
    explanation: VideoExplanation, processor: TimesformerVideoProcessor, video: VideoSource
) -> tuple[np.ndarray, list[int]]:
    """
    Return the frames of a video from the first to the last that the model gets, and their numbers.

    Of more than 240 frames, so many are taken at equal distances. The memory is bounded: frames are decoded a few at a
    time and made small.

    Returns:
        uint8 (frames, height, width, 3), not larger than 640 pixels, and the frame numbers.

    Raises:
        OSError, VideoReadError: if the video is unreadable.
    """
    first, last = min(explanation.frame_indices), max(explanation.frame_indices)
    indices = np.linspace(first, last, min(last - first + 1, _MAX_FILM_FRAMES)).round().astype(int).tolist()
    parts = [indices[start : start + _DECODED_AT_ONCE] for start in range(0, len(indices), _DECODED_AT_ONCE)]
    options = processor.reading_options()
    decoded = [
        shrink(decode_frames(video, lambda about, part=part: part, processor.decoder, options=options)[0])
        for part in parts
    ]
    return np.concatenate(decoded), indices
