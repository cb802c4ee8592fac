"""
Clips of camera motions as H.264 files, in a folder for each label, for `timesformer-hf finetune` and `timesformer-hf
evaluate`:

    python examples/camera_motion/make_data.py pictures/ clips/

    clips/train, clips/validation    every condition: compression from light to heavy, noise, moving foregrounds
    clips/test                       unseen pictures, usual compression (crf 23)
    clips/test_compressed            heavy compression (crf 38 to 42)
    clips/test_foreground            something moves on its own before the camera

What a clip shows depends only on the seed and its own name (the encoder may differ by some bytes from run to run): a
run that was interrupted goes on where it was, and more clips can be added to a set later.
"""

import argparse
import functools
import json
import multiprocessing
import sys
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from rendering import Conditions, TextureChooser, TextureMix, any_of, load_textures, random_clip
from tqdm import tqdm
from virtual_camera import FULL, LABELS

from timesformer_hf.output.atomic import output_file


FRAMES_PER_SECOND = 25
NUM_FRAMES = 30  # 8 frames, each the fourth, span 29
SIZES = ((84, 112), (84, 148), (112, 84), (84, 84))


@dataclass(frozen=True)
class ClipSet:
    """A set of clips: the split of its pictures, the range of its compression (crf of x264), what the camera meets."""

    pictures: str
    crf: tuple[int, int]
    conditions: Conditions


SETS = {
    "train": ClipSet("train", (16, 42), Conditions(0.6, 1.0, supersampling=1, faint=0.3, stirring=0.4)),
    "validation": ClipSet("validation", (16, 42), Conditions(0.6, 1.0, supersampling=1, faint=0.3, stirring=0.4)),
    "test": ClipSet("test", (23, 23), Conditions(0.0, 0.5, supersampling=1)),
    "test_compressed": ClipSet("test", (38, 42), Conditions(0.0, 0.5, supersampling=1)),
    "test_foreground": ClipSet("test", (23, 23), Conditions(1.0, 0.5, supersampling=1)),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pictures", type=Path, help="a folder with train/, validation/ and test/, as sources.py makes it"
    )
    parser.add_argument("out", type=Path, help="a folder for the clips")
    parser.add_argument("--train", type=int, default=600, metavar="N", help="clips a label to train on (default: 600)")
    parser.add_argument("--others", type=int, default=60, metavar="N", help="clips a label of the other sets (60)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


@functools.cache
def textures_of(folder: Path, training: bool, seed: int) -> TextureChooser:
    pictures = load_textures(folder)
    return TextureMix(pictures, np.random.default_rng(seed)) if training else any_of(pictures)


def make_clip(job: tuple[Path, Path, str, str, int, int]) -> None:
    """Render and write one clip, unless it is there."""
    pictures, out, name, label, number, seed = job
    path = out / name / label / f"{number:05d}.mp4"
    if path.exists():
        return
    clip_set = SETS[name]
    rng = np.random.default_rng([seed, zlib.crc32(f"{name}/{label}".encode()), number])
    textures = textures_of(pictures / clip_set.pictures, name == "train", seed)
    size = SIZES[rng.integers(len(SIZES))]
    frames, _ = random_clip(rng, textures, label, FULL, NUM_FRAMES, size, clip_set.conditions)
    with output_file(path) as temporary:
        write_video(temporary, frames, crf=int(rng.integers(clip_set.crf[0], clip_set.crf[1] + 1)))


def write_video(path: Path, frames: torch.Tensor, crf: int) -> None:
    """Frames, uint8 (frames, 3, height, width), as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FRAMES_PER_SECOND))
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": str(crf), "preset": "fast"}
        for frame in frames.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def check_seed(path: Path, seed: int) -> None:
    """
    Raises:
        ValueError: where the folder's clips are of another seed.
    """
    if path.exists() and (stored := json.loads(path.read_text())) != seed:
        raise ValueError(f"{path.parent} has clips of --seed {stored}, not of {seed}; give another folder")
    with output_file(path, overwrite=True) as temporary:
        temporary.write_text(f"{seed}\n")


def start_worker() -> None:
    torch.set_num_threads(1)


def main() -> int:
    args = parse_arguments()
    for split in {clip_set.pictures for clip_set in SETS.values()}:
        if not (args.pictures / split).is_dir():
            raise ValueError(f"{args.pictures} has no folder {split}; sources.py makes it")
    check_seed(args.out / "seed.json", args.seed)
    jobs = [
        (args.pictures, args.out, name, label, number, args.seed)
        for name in SETS
        for number in range(args.train if name == "train" else args.others)
        for label in LABELS
    ]
    with multiprocessing.get_context("spawn").Pool(args.workers, start_worker) as pool:
        for _ in tqdm(pool.imap_unordered(make_clip, jobs, chunksize=10), total=len(jobs), unit="clip"):
            pass
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("make_data.py: interrupted; the same command goes on from here")
    except (ValueError, OSError) as error:
        sys.exit(f"make_data.py: {error}")
