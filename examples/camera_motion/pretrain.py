"""
The first stage of the camera-motion model: from nothing to a model that sees motion.

    python examples/camera_motion/pretrain.py pictures/ motion-32 --size 32 --steps 3000
    python examples/camera_motion/pretrain.py pictures/ motion-64 --size 64 --steps 3000 --model motion-32

Clips are rendered as training goes, so none comes twice. Beside the label the model learns a pretext task: how far what
every patch shows comes from one frame to the next, which the virtual camera knows. That gives hundreds of targets a clip in
place of one, and carries the model over the plateau that a label alone leaves it on. Movements are large and clean at
first and become what they are in videos. Frames are small at first too: the motion of a patch is the same thing in a small
frame, at a quarter of the cost. The head of the pretext task is left behind when examples/finetune.py takes over.

A run that was interrupted goes on from its last checkpoint when the command is given again.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rendering import Conditions, TextureMix, load_textures, patch_motion, random_clip
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from virtual_camera import EASY, FULL, LABELS, between

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.atomic_outputs import check_output_folder, output_file, output_folder
from timesformer_hf.motion_start import start_for_motion


OWN_FILES = ("*.json", "model.safetensors")
FLOW_SCALE = 10.0  # a tenth of half a frame from one frame to the next is a fast movement


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pictures", type=Path, help="a folder with train/ and validation/ pictures; sources.py makes it"
    )
    parser.add_argument("out", type=Path, help="the model's folder")
    parser.add_argument("--model", help="start from this model instead of nothing")
    parser.add_argument("--size", type=int, default=64, help="pixels of a frame's side (default: 64)")
    parser.add_argument("--attention-type", default="divided_space_time", help="(default: divided_space_time)")
    parser.add_argument("--width", type=int, default=192, help="hidden size (default: 192)")
    parser.add_argument("--heads", type=int, default=4, help="attention heads (default: 4)")
    parser.add_argument("--depth", type=int, default=4, help="blocks (default: 4)")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip (default: 8)")
    parser.add_argument("--steps", type=int, default=4000, help="batches to train on (default: 4000)")
    parser.add_argument("--batch-size", type=int, default=64, help="clips in a batch (default: 64)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="the highest (default: 0.001)")
    parser.add_argument(
        "--curriculum", type=float, default=0.1, help="share of the steps with easier clips, without --model (0.1)"
    )
    parser.add_argument("--flow-weight", type=float, default=2.0, help="of the pretext task's loss; 0 for none (2)")
    parser.add_argument("--save-steps", type=int, default=250, help="steps between checkpoints (default: 250)")
    parser.add_argument("--workers", type=int, default=1, help="processes that render (default: 1)")
    parser.add_argument("--compile", action="store_true", help="compile the model: faster after a minute or two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


class RandomClips(torch.utils.data.IterableDataset):
    """Endless (clip, label, patch motion); `share` of the curriculum is over, which workers see change."""

    def __init__(self, pictures: Path, size: int, patch_size: int, num_frames: int, seed: tuple[int, ...]):
        self.pictures, self.size, self.grid = pictures, size, size // patch_size
        self.num_frames, self.seed = num_frames, seed
        self.share = torch.ones(1).share_memory_()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int, torch.Tensor]]:
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([*self.seed, worker.id if worker else 0])
        textures = TextureMix(load_textures(self.pictures), rng)
        while True:
            share = float(self.share)
            motion = between(EASY, FULL, share)
            conditions = Conditions(foreground=0.4 * share, damage=share)
            label = int(rng.integers(len(LABELS)))
            size = (self.size, self.size)
            clip, views = random_clip(rng, textures, LABELS[label], motion, self.num_frames, size, conditions)
            yield clip, label, patch_motion(views, self.grid, self.grid)


def normalised(clips: torch.Tensor) -> torch.Tensor:
    return (clips.float() / 255 - 0.45) / 0.225


def make_model(args: argparse.Namespace, clips: torch.Tensor) -> TimesformerForVideoClassification:
    id2label = dict(enumerate(LABELS))
    if args.model:
        return TimesformerForVideoClassification.from_pretrained(
            args.model, image_size=args.size, interpolation_mode="bicubic"
        )
    config = TimesformerConfig(
        image_size=args.size,
        num_frames=args.frames,
        hidden_size=args.width,
        num_hidden_layers=args.depth,
        num_attention_heads=args.heads,
        intermediate_size=4 * args.width,
        attention_type=args.attention_type,
        interpolation_mode="bicubic",
        id2label=id2label,
        label2id={label: number for number, label in id2label.items()},
    )
    model = TimesformerForVideoClassification(config)
    start_for_motion(model, normalised(clips))
    return model


def flow_of(head: nn.Linear, last_hidden_state: torch.Tensor, num_frames: int) -> torch.Tensor:
    """What the patches of every frame but the first say of the step before: (batch, frames - 1, patches, 2)"""
    patches = last_hidden_state[:, 1:].unflatten(1, (-1, num_frames))[:, :, 1:]
    return head(patches).transpose(1, 2)


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Warm-up over 100 steps, then half a cosine."""
    return args.learning_rate * min(1, (step + 1) / 100) * 0.5 * (1 + np.cos(np.pi * step / args.steps))


@torch.no_grad()
def accuracy(model: nn.Module, batches: list) -> float:
    model.eval()
    right = [(model(normalised(clips)).logits.argmax(dim=-1) == labels).float() for clips, labels, _ in batches]
    model.train()
    return float(torch.cat(right).mean())


def main() -> int:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    check_output_folder(args.out, overwrite=True, own_files=OWN_FILES)
    patch_size = 16
    if args.size % patch_size or args.size < 2 * patch_size:
        raise ValueError(f"--size {args.size} must be a multiple of {patch_size}, at least {2 * patch_size}")
    checkpoint_file = args.out.with_name(f"{args.out.name}.checkpoint.pt")
    state = torch.load(checkpoint_file, weights_only=True) if checkpoint_file.exists() else None
    start = 0 if state is None else state["step"]

    def loader(split: str, seed: tuple[int, ...], workers: int):
        clips = RandomClips(args.pictures / split, args.size, patch_size, args.frames, seed)
        return clips, iter(torch.utils.data.DataLoader(clips, args.batch_size, num_workers=workers))

    _, validation = loader("validation", (args.seed, 1), 0)
    validation = [tuple(part.to(args.device) for part in next(validation)) for _ in range(8)]
    clips, batches = loader("train", (args.seed, 2, start), args.workers)
    curriculum = 0 if args.model else args.curriculum * args.steps
    clips.share[0] = 0 if curriculum else 1

    model = make_model(args, next(batches)[0]).to(args.device)
    flow_head = nn.Linear(model.config.hidden_size, 2).to(args.device)
    parameters = [*model.parameters(), *flow_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    if state is not None:
        model.load_state_dict(state["model"])
        flow_head.load_state_dict(state["flow_head"])
        optimizer.load_state_dict(state["optimizer"])
    backbone = torch.compile(model.timesformer) if args.compile else model.timesformer
    history = [] if state is None else state["history"]
    model.train()
    progress = tqdm(range(start, args.steps), initial=start, total=args.steps, unit_scale=args.batch_size, unit="clip")
    losses = []
    for step in progress:
        clips.share[0] = min(1.0, step / curriculum) if curriculum else 1.0
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        pixels, labels, flow = (part.to(args.device) for part in next(batches))
        hidden_states = backbone(normalised(pixels)).last_hidden_state
        label_loss = F.cross_entropy(model.classifier(hidden_states[:, 0]), labels)
        flow_loss = torch.zeros(())
        if args.flow_weight:
            predicted = flow_of(flow_head, hidden_states, args.frames)
            flow_loss = F.smooth_l1_loss(predicted, FLOW_SCALE * flow, beta=0.3)
        optimizer.zero_grad()
        (label_loss + args.flow_weight * flow_loss).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append((label_loss.item(), flow_loss.item()))
        if (step + 1) % args.save_steps == 0 or step + 1 == args.steps:
            label_mean, flow_mean = np.mean(losses, axis=0)
            row = {"step": step + 1, "label_loss": label_mean, "flow_loss": flow_mean}
            row = {key: round(float(value), 4) for key, value in row.items()}
            history.append(row | {"accuracy": round(accuracy(model, validation), 4)})
            tqdm.write(json.dumps(history[-1]))
            losses = []
            with output_file(checkpoint_file, overwrite=True) as path:
                state = {"step": step + 1, "model": model.state_dict(), "flow_head": flow_head.state_dict()}
                torch.save(state | {"optimizer": optimizer.state_dict(), "history": history}, path)
    save(model, args, history)
    return 0


def save(model: TimesformerForVideoClassification, args: argparse.Namespace, history: list[dict]) -> None:
    size = {"height": args.size, "width": args.size}
    processor = TimesformerVideoProcessor(
        size={"shortest_edge": args.size}, crop_size=size, num_frames=args.frames, frame_sampling_rate=4
    )
    with output_folder(args.out, overwrite=True, own_files=OWN_FILES) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        (Path(folder) / "pretraining.json").write_text(json.dumps(history, indent=1) + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"pretrain.py: {error}")
