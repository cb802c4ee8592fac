"""Extracts features of videos, batch by batch. Threads decode the next batch while the model computes."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..model.modeling_timesformer import TimesformerModel
from ..video.video_errors import VideoWarning
from ..video.video_processing_timesformer import TimesformerVideoProcessor
from ..video.video_sources import VideoSource


@dataclass
class EmbeddedVideo:
    """
    The result for one video: a feature or an error.

    Attributes:
        video: the path or URL.
        feature: a float32 array, one row of [`TimesformerModel.clip_features`]. `None` where there is an `error`.
        frame_indices: the indices of the frames that the model got.
        error: why there is no feature.
        pixel_values: ([views,] frames, channels, height, width). It is set only between decoding and the model.
    """

    video: str
    feature: np.ndarray | None = None
    frame_indices: list[int] = field(default_factory=list)
    error: str | None = None
    pixel_values: torch.Tensor | None = None


def load_feature_model(
    name: str, dtype: str = "auto", device: str = "cpu"
) -> tuple[TimesformerModel, TimesformerVideoProcessor]:
    """
    Load a TimesformerModel and its video processor. A classification head in the checkpoint is left out.

    Args:
        name: a folder, or a name on the Hub.
        dtype: `"auto"` for that of the checkpoint, or a name, for example `"float32"`.
        device: where the model is put.

    Returns:
        the model in evaluation mode, and the processor.

    Raises:
        ValueError: for a model of another class, or a checkpoint that lacks weights.
        OSError: where there is no such checkpoint.
    """
    from transformers import AutoModel, AutoVideoProcessor

    model, info = AutoModel.from_pretrained(name, dtype=dtype, output_loading_info=True)
    if not hasattr(model, "clip_features"):
        raise ValueError(f"{name} is a {type(model).__name__}, which has no features; give a TimeSformer")
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(
            f"{name} lacks {len(missing)} weights, {missing[0]} among them, so its features would be random; "
            "give a complete checkpoint"
        )
    processor = AutoVideoProcessor.from_pretrained(name, num_clips=None, num_crops=None, views=None)
    return model.to(device).eval(), processor


def choose_sampling(model, processor, num_frames: int | None = None, frame_sampling_rate: int | None = None) -> dict:
    """
    Return the processor's sampling arguments, as in the pipeline: by default the number of frames of the model's
    config.
    """
    if num_frames is None and processor.fps is None:
        num_frames = model.config.num_frames
    return {"num_frames": num_frames, "frame_sampling_rate": frame_sampling_rate}


def check_settings(model, processor, **settings) -> None:
    """
    Check, before the first video, that a video can be processed with these settings of sampling and views.

    Raises:
        TypeError, ValueError: if not. The message says what is allowed.
    """
    if not isinstance(processor, TimesformerVideoProcessor):
        return
    settings = settings | choose_sampling(
        model, processor, settings.get("num_frames"), settings.get("frame_sampling_rate")
    )
    blank = {"total_num_frames": 1, "fps": 25}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)  # the blank clip has a single frame
        processor(np.zeros((1, 240, 320, 3), np.uint8), do_sample_frames=True, video_metadata=blank, **settings)


def describe_settings(model, processor, level: str, sampling: dict) -> dict:
    """
    Return all settings that decide the feature of a video, as values for JSON. A fingerprint stands for the weights.
    """
    settings = {"level": level, "dtype": str(model.dtype).removeprefix("torch."), "weights": fingerprint(model)}
    settings |= sampling
    settings |= {f"config.{name}": value for name, value in model.config.to_dict().items() if name not in _NO_SETTINGS}
    settings |= {f"processor.{name}": value for name, value in processor.to_dict().items() if name not in _NO_SETTINGS}
    return json.loads(json.dumps(settings, default=str))


# Entries of a config or processor that don't affect features: they are about its file or about a head.
_NO_SETTINGS = {"_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "problem_type"}
_NO_SETTINGS |= {"return_dict", "output_hidden_states", "output_attentions", "transformers_version"}


def fingerprint(model) -> str:
    """Return a hash of the weights: 16 hexadecimal digits. It doesn't depend on the file or the device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def extract_features(
    model: TimesformerModel,
    processor: TimesformerVideoProcessor,
    batches: Iterable[list[str]],
    level: str = "clip",
    num_workers: int = 4,
    **sampling: Any,
) -> Iterator[list[EmbeddedVideo]]:
    """
    Extract the features of batches of videos, in order. An unreadable video gets an error instead of a feature.

    Args:
        model: a [`TimesformerModel`] in eval mode, on its device.
        processor: a [`TimesformerVideoProcessor`].
        batches: lists of paths or URLs.
        level: `"clip"`, `"frame"` or `"patch"`, see [`TimesformerModel.clip_features`].
        num_workers: number of decoding threads.
        sampling: arguments of the processor, for example `num_frames`.

    Yields:
        the videos of each batch with their features or errors.
    """

    def load(video: str) -> EmbeddedVideo:
        return load_video(processor, video, sampling)

    for batch in read_ahead(load, batches, num_workers):
        compute_features(batch, lambda pixel_values: model.clip_features(pixel_values, level).float(), model)
        yield batch


def read_ahead(load: Callable, batches: Iterable[list], num_workers: int) -> Iterator[list]:
    """
    Apply `load` to every entry, batch by batch. The next batch is loaded in threads while the caller uses this one.
    """
    pool = ThreadPoolExecutor(num_workers)
    try:
        ahead = None
        for batch in batches:
            current, ahead = ahead, [pool.submit(load, entry) for entry in batch]
            if current is not None:
                yield [future.result() for future in current]
        if ahead is not None:
            yield [future.result() for future in ahead]
    finally:
        pool.shutdown(cancel_futures=True)


def check_name(video: str) -> None:
    """
    Check that a table can store the name of a video.

    Raises:
        ValueError: if the name is not text in UTF-8.
    """
    try:
        video.encode()
    except UnicodeEncodeError:
        raise ValueError("its name is not UTF-8, so a table can't store it; rename the file") from None


def load_video(processor, video: str, sampling: dict, fetch: Callable[[], VideoSource] | None = None) -> EmbeddedVideo:
    """
    Decode and sample one video. If that fails, the result has the error.

    Args:
        video: its name, and what is decoded unless `fetch` is given.
        fetch: returns what is decoded.
    """
    settings = {"do_sample_frames": True, "return_metadata": True, "return_tensors": "pt"}
    try:
        check_name(video)
        inputs = processor(video if fetch is None else fetch(), **settings, **sampling)
    except ImportError:  # no decoder is installed, so every video would fail
        raise
    except Exception as error:  # the other videos are processed anyway
        return EmbeddedVideo(video, error=str(error) or type(error).__name__)
    indices = [int(index) for index in inputs["video_metadata"][0].frames_indices]
    return EmbeddedVideo(video, frame_indices=indices, pixel_values=inputs["pixel_values"][0])


@torch.inference_mode()
def compute_features(
    videos: Iterable[EmbeddedVideo], compute: Callable[[torch.Tensor], torch.Tensor], model, what: str = "features"
) -> None:
    """
    Set the features of loaded videos. There is a forward pass for each shape: one, if all are cropped to one size.

    Args:
        compute: `pixel_values` (videos, [views,] frames, channels, height, width) -> a row for each video.
        model: the model that computes them, which says on which device.
        what: the name of the features, for error messages.
    """
    loaded = [video for video in videos if video.error is None]
    shapes = [video.pixel_values.shape for video in loaded]
    for shape in dict.fromkeys(shapes):
        group = [video for video, its_shape in zip(loaded, shapes, strict=True) if its_shape == shape]
        try:
            features = compute(torch.stack([video.pixel_values for video in group]).to(model.device)).cpu().numpy()
        except ValueError as error:  # the model doesn't take this shape
            features = [None] * len(group)
            for video in group:
                video.error = str(error)
        for video, feature in zip(group, features, strict=True):
            video.feature, video.pixel_values = feature, None
            if feature is not None and not np.isfinite(feature).all():
                video.feature, video.error = None, f"its {what} are not finite in {model.dtype}; use dtype float32"
