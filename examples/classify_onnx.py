"""
Classify a video with onnxruntime alone: no torch, no transformers in the process.

    timesformer-hf export ./my-model --format onnx
    python examples/classify_onnx.py ./my-model-onnx clip.mp4

Needs: pip install onnxruntime av numpy pillow
"""

import argparse
import json
import sys
from pathlib import Path

import av
import numpy as np
import onnxruntime
from PIL import Image


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Print the most likely labels of a video, by an exported TimeSformer and onnxruntime alone.",
        epilog="example: python examples/classify_onnx.py ./my-model-onnx clip.mp4 --top-k 3",
    )
    parser.add_argument("model", type=Path, metavar="DIR", help="what `timesformer-hf export --format onnx` wrote")
    parser.add_argument("video", help="a video file")
    parser.add_argument("--top-k", type=positive, default=5, metavar="K", help="labels to print (default: 5)")
    parser.add_argument("--num-frames", type=positive, metavar="N", help="frames to look at (default: the model's)")
    args = parser.parse_args()
    try:
        rows = classify(args.model, args.video, args.num_frames)
    except (OSError, ValueError, RuntimeError) as error:  # PyAV's errors are the first two, onnxruntime's the last
        print(f"classify_onnx.py: {error}", file=sys.stderr)
        return 2
    assert "torch" not in sys.modules
    for label, score in rows[: args.top_k]:
        print(f"{score:7.2%}  {label}")
    return 0


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def classify(folder: Path, video: str, num_frames: int | None = None) -> list[tuple[str, float]]:
    """The labels and their probabilities, the likeliest first."""
    config, settings = read_settings(folder)
    session = load(folder / "model.onnx")
    rate = settings.get("frame_sampling_rate")
    frames = decode(video, config["num_frames"] if num_frames is None else num_frames, rate)
    pixel_values = np.stack([preprocess(frame, settings) for frame in frames])[None]
    (logits,) = session.run(["logits"], {"pixel_values": pixel_values})
    if config.get("problem_type") == "multi_label_classification":
        scores = 1 / (1 + np.exp(-logits[0]))
    else:
        scores = np.exp(logits[0] - logits[0].max())
        scores /= scores.sum()
    labels = config.get("id2label", {})
    return [(labels.get(str(i), f"LABEL_{i}"), float(scores[i])) for i in np.argsort(-scores)]


def load(path: Path) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has many classes of them
        raise ValueError(f"{path} can't be loaded: {error}") from error


def read_settings(folder: Path) -> tuple[dict, dict]:
    """The model's config and the preprocessor's settings, as the export copied them."""
    for name in ("model.onnx", "config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: make it with timesformer-hf export DIR --format onnx")
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text())
            config = json.loads((folder / "config.json").read_text())
            check_sampling(settings)
            check_model(config, settings)
            return config, settings
    raise FileNotFoundError(f"{folder} has no preprocessor file: save the processor with the model and export it anew")


def check_sampling(settings: dict) -> None:
    """This script spreads the frames over the video, or takes them from its middle at a `frame_sampling_rate`."""
    usual = "uniform" if settings.get("frame_sampling_rate") is None else "center"
    others = {name: settings.get(name) for name in ("frame_sampling", "fps")}
    others = {name: value for name, value in others.items() if value not in (None, usual)}
    if others:
        raise ValueError(
            f"the model's frames are sampled by {others}; this script spreads them over the video, or takes them from "
            "its middle at a frame_sampling_rate"
        )


def check_model(config: dict, settings: dict) -> None:
    """What this script can do: labels for colour frames, resized by the shorter side or to a height and width."""
    if config.get("problem_type") == "regression":
        raise ValueError("the model is for regression and has no labels")
    if config.get("num_channels", 3) != 3:
        raise ValueError(f"the model takes {config['num_channels']} channels; this script gives 3")
    for name, kinds in (("size", ({"shortest_edge"}, {"height", "width"})), ("crop_size", ({"height", "width"},))):
        value = settings.get(name)
        if not isinstance(value, dict) or {key for key in value if value[key] is not None} not in kinds:
            listing = " or ".join(" and ".join(sorted(kind)) for kind in kinds)
            raise ValueError(f"the preprocessor file has {name}={value!r}; this script knows {listing}")


def decode(video: str, num_frames: int, rate: int | None) -> list[Image.Image]:
    """Frames spread over the whole video, or every `rate`-th in its middle; too short a video repeats its last."""
    total = sum(1 for _ in decoded(video))
    if rate is not None:
        start = max(total - (num_frames - 1) * rate - 1, 0) // 2
        indices = [min(start + i * rate, total - 1) for i in range(num_frames)]
    elif total < num_frames:
        indices = [min(i, total - 1) for i in range(num_frames)]
    else:
        indices = [i * total // num_frames for i in range(num_frames)]
    chosen = {i: upright(frame) for i, frame in enumerate(decoded(video)) if i in indices}
    if not chosen:
        raise ValueError(f"{video} holds no frame")
    return [chosen[i] for i in indices]


def decoded(video: str):
    """The frames of a video, one after the other."""
    with av.open(video) as container:
        if not container.streams.video:
            raise ValueError(f"{video} has no video stream")
        yield from container.decode(container.streams.video[0])


def upright(frame: av.VideoFrame) -> Image.Image:
    """A frame as RGB, turned as the file says that it was held."""
    return frame.to_image().rotate(frame.rotation, expand=True)


def preprocess(frame: Image.Image, settings: dict) -> np.ndarray:
    """A frame -> (3, height, width), float32: resized, cropped, scaled, normalised."""
    if settings.get("do_resize", True):
        frame = resize(frame, settings["size"], Image.Resampling(settings.get("resample", 2)))
    if settings.get("do_center_crop", True):
        frame = center_crop(frame, settings["crop_size"])
    pixels = np.asarray(frame, dtype=np.float32)
    if settings.get("do_flip_channel_order"):
        pixels = pixels[..., ::-1]
    if settings.get("do_rescale", True):
        pixels = pixels * np.float32(settings.get("rescale_factor", 1 / 255))
    if settings.get("do_normalize", True):
        pixels = (pixels - np.float32(settings["image_mean"])) / np.float32(settings["image_std"])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def resize(frame: Image.Image, size: dict, resample: Image.Resampling) -> Image.Image:
    """To a height and width, or by the shorter side."""
    if size.get("shortest_edge") is None:
        return frame.resize((size["width"], size["height"]), resample)
    short = min(frame.size)
    width, height = (int(side * size["shortest_edge"] / short) for side in frame.size)
    return frame.resize((width, height), resample)


def center_crop(frame: Image.Image, size: dict) -> Image.Image:
    """The middle; where a frame is smaller, black around it."""
    width, height = size["width"], size["height"]
    left, top = int((frame.width - width) / 2), int((frame.height - height) / 2)
    return frame.crop((left, top, left + width, top + height))


if __name__ == "__main__":
    sys.exit(main())
