"""
Measure how similar altered copies of videos are, and how similar different videos: to choose a --threshold for
`timesformer-hf duplicates` by the videos and the model that you have.

    python examples/duplicate_threshold.py videos/*.mp4
    python examples/duplicate_threshold.py videos/*.mp4 --model my-model

Without a model, small grey frames are compared, as `timesformer-hf duplicates videos/` does. The videos must be
different ones. The first 150 frames of each are altered in ten ways. It prints a table: the cosines of copies, a line
for each alteration, and those of different videos.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import PIL.Image
from tqdm import tqdm

from timesformer_hf import LabelledVideo, decode_frames, extract_features, load_feature_model
from timesformer_hf.data.frame_signatures import frame_signatures
from timesformer_hf.data.near_duplicates import THRESHOLD
from timesformer_hf.inference.feature_extraction import choose_sampling
from timesformer_hf.output.terminal import loading_model


MOST_FRAMES = 150
_Frames = list[np.ndarray]


def on_each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[_Frames], _Frames]:
    """Return the alteration that changes every frame in the same way."""
    return lambda frames: [
        np.ascontiguousarray(change(frame).round().clip(0, 255).astype(np.uint8)) for frame in frames
    ]


def scaled(frame: np.ndarray, factor: float) -> np.ndarray:
    """Return a frame with sides multiplied by `factor`."""
    height, width = frame.shape[:2]
    return np.asarray(PIL.Image.fromarray(frame).resize((round(width * factor), round(height * factor))))


def cropped(frame: np.ndarray, share: float) -> np.ndarray:
    """Return the middle of a frame, with this share of each side."""
    height, width = frame.shape[:2]
    top, left = (round(side * (1 - share) / 2) for side in (height, width))
    return frame[top : height - top, left : width - left]


ALTERATIONS: dict[str, Callable[[_Frames], _Frames]] = {
    "none, and encoded again": lambda frames: frames,
    "half the size": on_each(lambda frame: scaled(frame, 0.5)),
    "brighter": on_each(lambda frame: 1.25 * frame + 10),
    "darker": on_each(lambda frame: 0.7 * frame),
    "grey": on_each(lambda frame: np.repeat(frame.mean(axis=2, keepdims=True), 3, axis=2)),
    "cropped to 95 % of each side": on_each(lambda frame: cropped(frame, 0.95)),
    "cropped to 90 % of each side": on_each(lambda frame: cropped(frame, 0.9)),
    "2 frames later": lambda frames: frames[2:],
    "a tenth of the start cut off": lambda frames: frames[len(frames) // 10 :],
    "mirrored": on_each(lambda frame: frame[:, ::-1]),
}


def write(path: Path, frames: _Frames, quality: int) -> str:
    """Write frames as H.264 of this constant rate factor, at 25 a second. Return the name of the file."""
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(quality)})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            picture = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def write_copies(video: str, folder: Path) -> list[str]:
    """Write the beginning of a video, and an altered copy of it for each alteration."""
    frames, _ = decode_frames(video, lambda about: range(min(about.total_num_frames, MOST_FRAMES)))
    folder.mkdir()
    copies = [
        write(folder / f"{number}.mp4", alter(list(frames)), 30) for number, alter in enumerate(ALTERATIONS.values())
    ]
    return [write(folder / "original.mp4", list(frames), 18), *copies]


def compute_features(videos: list[str], model_name: str | None) -> np.ndarray:
    """
    Return the features of videos as unit vectors (videos, dim): the model's, or frame signatures.

    Raises:
        ValueError: where a video can't be used.
    """
    if model_name is None:
        features = list(frame_signatures(LabelledVideo(video, (), video) for video in videos))
        if errors := [error for error in features if isinstance(error, Exception)]:
            raise ValueError(str(errors[0]))
    else:
        with loading_model(model_name):
            model, processor = load_feature_model(model_name)
        batches = [videos[start : start + 8] for start in range(0, len(videos), 8)]
        embedded = extract_features(model, processor, batches, **choose_sampling(model, processor))
        features = [video.feature for batch in tqdm(embedded, total=len(batches), disable=None) for video in batch]
    features = np.stack([feature.ravel() for feature in features])
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def main(arguments: list[str] | None = None) -> int:
    """Print the cosines of altered copies and of different videos. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", help="different videos")
    parser.add_argument("--model", help="a model whose features are compared (default: small grey frames)")
    args = parser.parse_args(arguments)
    if len(args.videos) < 2:
        parser.error("give two videos or more, so that different videos are compared too")
    with tempfile.TemporaryDirectory() as folder:
        copies = [
            write_copies(video, Path(folder, str(number)))
            for number, video in enumerate(tqdm(args.videos, disable=None))
        ]
        features = compute_features([name for names in copies for name in names], args.model)
    features = features.reshape(len(args.videos), 1 + len(ALTERATIONS), -1)
    originals = features[:, 0]
    cosines = np.einsum("vd,vad->av", originals, features[:, 1:])
    print(f"{'copy':<32}{'lowest':>8}{'median':>8}{f'from {THRESHOLD} on':>14}")
    for name, row in zip(ALTERATIONS, cosines, strict=True):
        print(f"{name:<32}{row.min():8.4f}{np.median(row):8.4f}{(row >= THRESHOLD).mean():14.0%}")
    pairs = (originals @ originals.T)[np.triu_indices(len(originals), 1)]
    print(f"{'':<32}{'highest':>8}{'median':>8}{f'from {THRESHOLD} on':>14}")
    print(f"{'different videos':<32}{pairs.max():8.4f}{np.median(pairs):8.4f}{(pairs >= THRESHOLD).mean():14.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
