"""
Classify a video with onnxruntime alone, without torch and transformers.

    timesformer-hf export ./my-model --format onnx
    python examples/classify_onnx.py ./my-model-onnx clip.mp4

It prints the most likely labels, a line each: the probability and the label.

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
    """Print the labels of a video. Return the exit code: 2 where the model or the video can't be used."""
    parser = argparse.ArgumentParser(
        description="example: python examples/classify_onnx.py ./my-model-onnx clip.mp4 --top-k 3\n\n"
        "Print the most likely labels of a video, with an exported TimeSformer and onnxruntime alone.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", type=Path, metavar="DIR", help="the folder that `timesformer-hf export --format onnx` wrote"
    )
    parser.add_argument("video", help="a video file")
    parser.add_argument("--top-k", type=positive, default=5, metavar="K", help="how many labels to print (default: 5)")
    parser.add_argument("--num-frames", type=positive, metavar="N", help="frames of a clip (default: the model's)")
    args = parser.parse_args()
    try:
        rows = classify(args.model, args.video, args.num_frames)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # the first two are also raised by PyAV, the last by onnxruntime
        print(f"classify_onnx.py: {error}", file=sys.stderr)
        return 2
    assert "torch" not in sys.modules
    for label, score in rows[: args.top_k]:
        print(f"{score:7.2%}  {label}")
    return 0


def positive(text: str) -> int:
    """Return the number in a command-line argument, which must be at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def classify(folder: Path, video: str, num_frames: int | None = None) -> list[tuple[str, float]]:
    """Return the labels and their probabilities, the most likely first."""
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
    """
    Load an ONNX file for the CPU.

    Raises:
        ValueError: where onnxruntime can't load it.
    """
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many classes of errors
        raise ValueError(f"{path} can't be loaded: {error}") from error


def read_settings(folder: Path) -> tuple[dict, dict]:
    """
    Return the model's config and the preprocessor's settings, which the export copied.

    Raises:
        FileNotFoundError: where a file is missing.
        ValueError: where this script can't sample or preprocess frames as the model needs.
    """
    for name in ("model.onnx", "config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; write it with timesformer-hf export DIR --format onnx")
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text())
            config = json.loads((folder / "config.json").read_text())
            check_sampling(settings)
            check_model(config, settings)
            return config, settings
    raise FileNotFoundError(f"{folder} has no preprocessor file; save the processor with the model and export it again")


def check_sampling(settings: dict) -> None:
    """
    Check that frames are spread over the video, or taken from its middle at a `frame_sampling_rate`.

    Raises:
        ValueError: for any other sampling, which this script doesn't have.
    """
    usual = "uniform" if settings.get("frame_sampling_rate") is None else "center"
    others = {name: settings.get(name) for name in ("frame_sampling", "fps")}
    others = {name: value for name, value in others.items() if value not in (None, usual)}
    if others:
        raise ValueError(
            f"the model's frames are sampled by {others}; this script can only spread them over the video or take "
            "them from its middle at a frame_sampling_rate"
        )


def check_model(config: dict, settings: dict) -> None:
    """
    Check that the model has labels and takes colour frames that are resized by the shorter side or to a fixed size.

    Raises:
        ValueError: for any other model, which this script can't use.
    """
    if config.get("problem_type") == "regression":
        raise ValueError("the model is for regression, so it has no labels; give a classifier")
    if config.get("num_channels", 3) != 3:
        raise ValueError(f"the model takes {config['num_channels']} channels; this script can only use models with 3")
    for name, kinds in (("size", ({"shortest_edge"}, {"height", "width"})), ("crop_size", ({"height", "width"},))):
        value = settings.get(name)
        if not isinstance(value, dict) or {key for key in value if value[key] is not None} not in kinds:
            listing = " or ".join(" and ".join(sorted(kind)) for kind in kinds)
            raise ValueError(f"the preprocessor file has {name}={value!r}; this script only knows {listing}")


def decode(video: str, num_frames: int, rate: int | None) -> list[Image.Image]:
    """
    Decode frames that are spread over the whole video, or with a `rate` every `rate`-th frame in its middle. In a video
    that is too short, the last frame is repeated.

    Raises:
        ValueError: where the video has no frame.
    """
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
        raise ValueError(f"{video} has no frame; it may be damaged")
    return [chosen[i] for i in indices]


def decoded(video: str):
    """Yield the frames of a video, one after the other."""
    with av.open(video) as container:
        if not container.streams.video:
            raise ValueError(f"{video} has no video stream; give a video file")
        yield from container.decode(container.streams.video[0])


def upright(frame: av.VideoFrame) -> Image.Image:
    """Return a frame in RGB, rotated as the file says."""
    return frame.to_image().rotate(frame.rotation, expand=True)


def preprocess(frame: Image.Image, settings: dict) -> np.ndarray:
    """Return a frame as float32 (3, height, width), resized, cropped, rescaled and normalised."""
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
    """Resize a frame to a height and width, or so that its shorter side has a length."""
    if size.get("shortest_edge") is None:
        return frame.resize((size["width"], size["height"]), resample)
    short = min(frame.size)
    width, height = (int(side * size["shortest_edge"] / short) for side in frame.size)
    return frame.resize((width, height), resample)


def center_crop(frame: Image.Image, size: dict) -> Image.Image:
    """Crop the centre of a frame. A smaller frame gets black around it."""
    width, height = size["width"], size["height"]
    left, top = int((frame.width - width) / 2), int((frame.height - height) / 2)
    return frame.crop((left, top, left + width, top + height))


if __name__ == "__main__":
    sys.exit(main())
