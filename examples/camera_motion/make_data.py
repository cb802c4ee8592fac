"""
Write clips of camera motions as H.264 files, in a folder for each label, for training and evaluation:

    python examples/camera_motion/make_data.py pictures/ clips/

    clips/train, clips/validation    all conditions: light to heavy compression, noise, moving foregrounds
    clips/test                       unseen pictures, usual compression (crf 23)
    clips/test_compressed            heavy compression (crf 38 to 42)
    clips/test_foreground            something before the camera moves by itself

The content of a clip depends only on the seed and its name, up to a few bytes of the encoder. So an interrupted run
continues when the command is given again, and clips can be added to a set later.
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
NUM_FRAMES = 30  # enough for 8 frames, every fourth, which span 29
SIZES = ((84, 112), (84, 148), (112, 84), (84, 84))


@dataclass(frozen=True)
class ClipSet:
    """
    The settings of a set of clips.

    Attributes:
        pictures: the split that its pictures are from.
        crf: the range of compression, as x264's crf; higher is stronger.
        conditions: what the camera meets.
    """

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
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pictures", type=Path, help="a folder with train/, validation/ and test/ pictures, which sources.py makes"
    )
    parser.add_argument("out", type=Path, help="a folder for the clips")
    parser.add_argument(
        "--train", type=int, default=600, metavar="N", help="training clips for each label (default: 600)"
    )
    parser.add_argument(
        "--others", type=int, default=60, metavar="N", help="clips for each label in each other set (default: 60)"
    )
    parser.add_argument("--workers", type=int, default=2, help="rendering processes (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the clips (default: 0)")
    return parser.parse_args()


@functools.cache
def textures_of(folder: Path, training: bool, seed: int) -> TextureChooser:
    """Return what chooses textures: with variations for training, else the pictures as they are."""
    pictures = load_textures(folder)
    return TextureMix(pictures, np.random.default_rng(seed)) if training else any_of(pictures)


def make_clip(job: tuple[Path, Path, str, str, int, int]) -> None:
    """Render and write one clip, unless the file exists. The job is (pictures, out, set, label, number, seed)."""
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
    """Write frames, uint8 (frames, 3, height, width), as an H.264 file."""
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
    Check that the clips in a folder have this seed, and store it in `path` for the next run.

    Raises:
        ValueError: where the folder has clips of another seed.
    """
    if path.exists() and (stored := json.loads(path.read_text())) != seed:
        raise ValueError(f"{path.parent} has clips of --seed {stored}, not of {seed}; give another folder")
    with output_file(path, overwrite=True) as temporary:
        temporary.write_text(f"{seed}\n")


def start_worker() -> None:
    """Make a rendering process use one thread."""
    torch.set_num_threads(1)


def main() -> int:
    """Write all clips that don't exist yet. Return the exit code."""
    args = parse_arguments()
    for split in {clip_set.pictures for clip_set in SETS.values()}:
        if not (args.pictures / split).is_dir():
            raise ValueError(f"{args.pictures} has no folder {split}; run sources.py, which makes it")
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
        sys.exit("make_data.py: interrupted; the same command continues")
    except (ValueError, OSError) as error:
        sys.exit(f"make_data.py: {error}")
