"""Videos -> features, batch by batch: a pool of threads decodes the next batch while the model is at one."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from ..video.video_sources import VideoSource


@dataclass
class EmbeddedVideo:
    """
    What became of a video.

    Attributes:
        video: its path or URL.
        feature: float32 array, a row of [`TimesformerModel.clip_features`]; `None` where there is an `error`.
        frame_indices: the frames of the video that were looked at.
        error: why there is no feature.
        pixel_values: ([views,] frames, channels, height, width), between decoding and the model.
    """

    video: str
    feature: np.ndarray | None = None
    frame_indices: list[int] = field(default_factory=list)
    error: str | None = None
    pixel_values: torch.Tensor | None = None


def load_feature_model(name: str, dtype: str = "auto", device: str = "cpu") -> tuple:
    """
    A TimesformerModel without the head that its checkpoint may have, and the checkpoint's video processor.

    Args:
        name: a folder, or a name on the Hub.
        dtype: `"auto"`, the checkpoint's own, or the name of one.

    Raises:
        ValueError: for another model, or a checkpoint in which weights are missing.
        OSError: where there is no such checkpoint.
    """
    from transformers import AutoModel, AutoVideoProcessor

    model, info = AutoModel.from_pretrained(name, dtype=dtype, output_loading_info=True)
    if not hasattr(model, "clip_features"):
        raise ValueError(f"{name} holds a {type(model).__name__}; features are made by a TimesformerModel")
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{name} lacks {len(missing)} weights, {missing[0]} among them: features would be random")
    processor = AutoVideoProcessor.from_pretrained(name, num_clips=None, num_crops=None, views=None)
    return model.to(device).eval(), processor


def choose_sampling(model, processor, num_frames: int | None = None, frame_sampling_rate: int | None = None) -> dict:
    """How videos are sampled, as the pipeline does: where nothing is asked for, the frames the model was made for."""
    if num_frames is None and processor.fps is None:
        num_frames = model.config.num_frames
    return {"num_frames": num_frames, "frame_sampling_rate": frame_sampling_rate}


def describe_settings(model, processor, level: str, sampling: dict) -> dict:
    """All that decides what the feature of a video is, as JSON can hold it; the weights by a fingerprint."""
    settings = {"level": level, "dtype": str(model.dtype).removeprefix("torch."), **sampling}
    settings["weights"] = fingerprint(model)
    settings |= {f"config.{name}": value for name, value in model.config.to_dict().items() if name not in _NO_SETTINGS}
    settings |= {f"processor.{name}": value for name, value in processor.to_dict().items() if name not in _NO_SETTINGS}
    return json.loads(json.dumps(settings, default=str))


# What a config or processor says of its file, or of a head, and not of features.
_NO_SETTINGS = {"_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "problem_type"}
_NO_SETTINGS |= {"return_dict", "output_hidden_states", "output_attentions", "transformers_version"}


def fingerprint(model) -> str:
    """A hash of the weights, the same wherever they are stored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def extract_features(
    model, processor, batches: Iterable[list[str]], level: str = "clip", num_workers: int = 4, **sampling
) -> Iterator[list[EmbeddedVideo]]:
    """
    Embed batches of videos, in order. A video that can't be read has an error instead of a feature.

    Args:
        model: a [`TimesformerModel`] in eval mode, on its device.
        processor: a [`TimesformerVideoProcessor`].
        batches: lists of paths or URLs.
        level: `"clip"`, `"frame"` or `"patch"`, see [`TimesformerModel.clip_features`].
        num_workers: threads that decode.
        sampling: `num_frames` and what else the processor takes.
    """

    def load(video: str) -> EmbeddedVideo:
        return load_video(processor, video, sampling)

    for batch in read_ahead(load, batches, num_workers):
        compute_features(batch, lambda pixel_values: model.clip_features(pixel_values, level).float(), model)
        yield batch


def read_ahead(load: Callable, batches: Iterable[list], num_workers: int) -> Iterator[list]:
    """`load` of every entry, batch by batch; that of the next batch is under way while the caller is at one."""
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


def load_video(processor, video: str, sampling: dict, fetch: Callable[[], VideoSource] | None = None) -> EmbeddedVideo:
    """
    Decode and sample one video. What is wrong with it becomes its error.

    Args:
        video: its name, and what is decoded unless `fetch` is given.
        fetch: returns what is decoded.
    """
    settings = {"do_sample_frames": True, "return_metadata": True, "return_tensors": "pt"}
    try:
        video.encode()  # a name on disk may be no text, which a table can't hold
        inputs = processor(video if fetch is None else fetch(), **settings, **sampling)
    except ImportError:  # no decoder: wrong with every video
        raise
    except Exception as error:  # the other videos are processed all the same
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
        except ValueError as error:  # a shape that the model doesn't take
            features = [None] * len(group)
            for video in group:
                video.error = str(error)
        for video, feature in zip(group, features, strict=True):
            video.feature, video.pixel_values = feature, None
            if feature is not None and not np.isfinite(feature).all():
                video.feature, video.error = None, f"its {what} are not finite in {model.dtype}; try dtype float32"
