"""
Render clips with one moving object before a still camera, and train a small model on them:

    python examples/moving_object/moving_object.py out/                  # where does it move?
    python examples/moving_object/moving_object.py out/ --task pattern   # which pattern does it have?
    python examples/moving_object/moving_object.py out/ --task camera    # clips alone, for the shipped model

    out/clips/LABEL/00000.mp4    test clips (H.264, 128 x 128 pixels)
    out/clips/boxes.csv          where the object is in each frame
    out/model                    the model, with its video processor

The truth is known here: nothing but the object tells the label. So these clips show whether an explanation finds what
the model looks at (`timesformer-hf explain --score out/clips --model out/model`).

The training clips are rendered during training. For the direction, the shipped model is fine-tuned; it has divided
space-time attention. For the pattern, which one frame shows, a model with space-only attention is trained from nothing.
In the clips of the task "camera" the camera moves, with the labels of the shipped model, and there is no object.
Everything is made from random numbers: no picture is needed.
"""

import argparse
import csv
import math
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from tqdm import tqdm

from timesformer_hf import (
    CAMERA_MOTION,
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerVideoProcessor,
    start_for_motion,
)
from timesformer_hf.output.atomic import output_file, output_folder


DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PATTERNS = ("horizontal_stripes", "vertical_stripes", "checks", "plain")
CAMERA = {  # shift to the right and down in half frames, logarithm of the zoom, and clockwise turn, from start to end
    "static": (0, 0, 0, 0),
    "pan_left": (-1, 0, 0, 0),
    "pan_right": (1, 0, 0, 0),
    "tilt_up": (0, -1, 0, 0),
    "tilt_down": (0, 1, 0, 0),
    "zoom_in": (0, 0, 0.6, 0),
    "zoom_out": (0, 0, -0.6, 0),
    "roll_clockwise": (0, 0, 0, 0.7),
    "roll_counterclockwise": (0, 0, 0, -0.7),
}
TASKS = {"direction": tuple(DIRECTIONS), "pattern": PATTERNS, "camera": tuple(CAMERA)}
SIDE, NUM_FRAMES, RATE = (
    64,
    8,
    4,
)  # of what the model gets: pixels, frames, and frames of the video from one to the next
VIDEO_SIDE, VIDEO_FRAMES = 128, 30
STRUCTURE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}


def parse_arguments() -> argparse.Namespace:
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder for clips and model")
    parser.add_argument(
        "--task",
        choices=tuple(TASKS),
        default="direction",
        help="what the label tells (default: direction)",
    )
    parser.add_argument("--steps", type=int, default=300, help="training batches (default: 300)")
    parser.add_argument("--batch-size", type=int, default=32, help="clips in a batch (default: 32)")
    parser.add_argument("--clips", type=int, default=25, help="test clips for each label (default: 25)")
    parser.add_argument("--seed", type=int, default=0, help="seed of clips and model (default: 0)")
    return parser.parse_args()


@dataclass(frozen=True)
class Clip:
    """
    A rendered clip.

    Attributes:
        frames: uint8 (frames, side, side, 3).
        boxes: left, top, right and bottom of the object in each frame, in pixels, (frames, 4). They may reach beyond
            the frame. Without an object there are none, (0, 4).
        label: the number of the label.
    """

    frames: np.ndarray
    boxes: np.ndarray
    label: int


def texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return smooth noise in random colours, (side, side, 3), around 128."""
    picture = np.zeros((side, side, 3))
    for cells in (3, 6, 12, 24, 48)[: 4 + (side > 128)]:
        small = torch.from_numpy(rng.normal(size=(1, 3, cells, cells)))
        large = torch.nn.functional.interpolate(small, size=(side, side), mode="bicubic", align_corners=False)
        picture += large[0].permute(1, 2, 0).numpy() / cells**0.5
    return 128 + rng.uniform(25, 55) * picture / picture.std() + rng.normal(size=3) * 25


def paint(rng: np.random.Generator, pattern: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """
    Return the colours of an object at points that are given from its centre, (..., 3).

    Args:
        x, y: the points, in its radii.
    """
    dark, light = rng.uniform(0, 90, size=3), rng.uniform(165, 255, size=3)
    waves = [np.sin(axis * rng.uniform(5, 7) + rng.uniform(0, 6)) > 0 for axis in (x, y)]
    chosen = {
        "vertical_stripes": waves[0],
        "horizontal_stripes": waves[1],
        "checks": waves[0] ^ waves[1],
        "plain": np.full(x.shape, rng.uniform() < 0.5),
    }[pattern]
    return np.where(chosen[..., None], light, dark)


def render(rng: np.random.Generator, task: str, side: int, num_frames: int) -> Clip:
    """Render a clip of a task."""
    return (render_camera if task == "camera" else render_object)(rng, task, side, num_frames)


def render_camera(rng: np.random.Generator, task: str, side: int, num_frames: int) -> Clip:
    """Render a clip of a camera that moves evenly over smooth noise."""
    label = rng.integers(len(CAMERA))
    path = np.linspace(-0.5, 0.5, num_frames)[:, None] * tuple(CAMERA.values())[label] * rng.uniform(0.5, 1)
    x, y, zoom, turn = torch.from_numpy(path.astype(np.float32)).T
    scale = torch.exp(-zoom) / 3  # a frame shows a third of the noise
    rotation = torch.stack((turn.cos(), -turn.sin(), turn.sin(), turn.cos()), dim=1).unflatten(1, (2, 2))
    views = torch.cat((scale[:, None, None] * rotation, torch.stack((x, y), dim=1)[..., None] / 3), dim=2)
    picture = torch.from_numpy(texture(rng, 3 * side).astype(np.float32)).permute(2, 0, 1)
    grid = torch.nn.functional.affine_grid(views, (num_frames, 3, side, side), align_corners=False)
    frames = torch.nn.functional.grid_sample(picture.expand(num_frames, -1, -1, -1), grid, align_corners=False)
    frames = frames.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return Clip(frames, np.zeros((0, 4)), int(label))


def render_object(rng: np.random.Generator, task: str, side: int, num_frames: int) -> Clip:
    """Render a clip of a round object that moves evenly in one of four directions. Noise is in every frame."""
    direction, pattern = rng.integers(len(DIRECTIONS)), PATTERNS[rng.integers(len(PATTERNS))]
    label = int(direction) if task == "direction" else PATTERNS.index(pattern)
    radii = rng.uniform(0.12, 0.22, size=2)
    way = rng.uniform(0.25, 0.7) * np.array(tuple(DIRECTIONS.values())[direction])
    middle = rng.uniform(0.15, 0.85, size=2)
    middle = np.clip(middle, 0.1 + np.abs(way) / 2, 0.9 - np.abs(way) / 2)
    centers = middle + np.linspace(-0.5, 0.5, num_frames)[:, None] * way  # x and y, as shares of the side
    places = (np.arange(side) + 0.5) / side
    x = (places[None, None, :] - centers[:, 0, None, None]) / radii[0] + np.zeros((1, side, 1))
    y = (places[None, :, None] - centers[:, 1, None, None]) / radii[1] + np.zeros((1, 1, side))
    inside = np.clip((1 - np.hypot(x, y)) * radii.min() * side, 0, 1)[..., None]
    frames = texture(rng, side) * (1 - inside) + paint(rng, pattern, x, y) * inside
    frames += rng.normal(size=frames.shape) * rng.uniform(0, 6)
    boxes = np.concatenate((centers - radii, centers + radii), axis=1) * side
    return Clip(frames.clip(0, 255).round().astype(np.uint8), boxes, label)


def write_video(path: Path, frames: np.ndarray) -> None:
    """Write frames, uint8 (frames, height, width, 3), as an H.264 file of 25 frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_clips(folder: Path, task: str, clips_per_label: int, seed: int) -> None:
    """Write the test clips, in a folder for each label, and `boxes.csv`."""
    rng = np.random.default_rng([seed, 1])
    names, rows = TASKS[task], []
    numbers = dict.fromkeys(range(len(names)), 0)
    while min(numbers.values()) < clips_per_label:
        clip = render(rng, task, VIDEO_SIDE, VIDEO_FRAMES)
        number = numbers[clip.label]
        if number == clips_per_label:
            continue
        numbers[clip.label] += 1
        name = f"{names[clip.label]}/{number:05d}.mp4"
        with output_file(folder / name, overwrite=True) as path:
            write_video(path, clip.frames)
        rows += [(name, frame, *(f"{side:.1f}" for side in box)) for frame, box in enumerate(clip.boxes)]
    if task == "camera":
        return
    with output_file(folder / "boxes.csv", overwrite=True) as path, path.open("w", newline="") as file:
        csv.writer(file).writerows([("video", "frame", "left", "top", "right", "bottom"), *rows])


def batch(rng: np.random.Generator, task: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Render a batch: pixel values (batch, frames, 3, side, side), and labels (batch,)."""
    clips = [render(rng, task, SIDE, NUM_FRAMES) for _ in range(size)]
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).permute(0, 1, 4, 2, 3)
    return (frames.float() / 255 - 0.45) / 0.225, torch.tensor([clip.label for clip in clips])


def names(task: str) -> dict:
    """Return the fields of a config that name the labels."""
    labels = dict(enumerate(TASKS[task]))
    return {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}


def start_from_camera_motion(rng: np.random.Generator) -> TimesformerForVideoClassification:
    """Return the shipped model, which knows motion, with a new head. It has divided space-time attention."""
    return TimesformerForVideoClassification.from_pretrained(
        CAMERA_MOTION, ignore_mismatched_sizes=True, **names("direction")
    )


def start_with_frames_apart(rng: np.random.Generator) -> TimesformerForVideoClassification:
    """Return a new model with space-only attention."""
    config = TimesformerConfig(
        image_size=SIDE,
        patch_size=8,
        num_frames=NUM_FRAMES,
        attention_type="space_only",
        **STRUCTURE,
        **names("pattern"),
    )
    model = TimesformerForVideoClassification(config)
    start_for_motion(model, batch(rng, "pattern", 32)[0])
    return model


START = {"direction": start_from_camera_motion, "pattern": start_with_frames_apart}


def train(task: str, steps: int, batch_size: int, seed: int) -> TimesformerForVideoClassification:
    """Train a model on clips that are rendered on the way, and print how it goes."""
    rng = np.random.default_rng([seed, 0])
    torch.manual_seed(seed)
    model = START[task](rng)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    model.train()
    right = 0.0
    with tqdm(range(steps), unit="step") as progress:
        for step in progress:
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
            pixel_values, targets = batch(rng, task, batch_size)
            outputs = model(pixel_values, labels=targets)
            optimizer.zero_grad()
            outputs.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            right = 0.95 * right + 0.05 * (outputs.logits.argmax(1) == targets).float().mean().item()
            progress.set_postfix(loss=f"{outputs.loss.item():.2f}", accuracy=f"{right:.0%}")
    return model.eval()


def main() -> int:
    """Write the clips and the model. Return the exit code."""
    args = parse_arguments()
    write_clips(args.out / "clips", args.task, args.clips, args.seed)
    if args.task == "camera":
        return 0
    model = train(args.task, args.steps, args.batch_size, args.seed)
    size = {"height": SIDE, "width": SIDE}
    with output_folder(args.out / "model") as folder:
        model.save_pretrained(folder)
        TimesformerVideoProcessor(
            size=size, do_center_crop=False, num_frames=NUM_FRAMES, frame_sampling_rate=RATE
        ).save_pretrained(folder)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("moving_object.py: interrupted")
    except (ValueError, OSError) as error:
        sys.exit(f"moving_object.py: {error}")
