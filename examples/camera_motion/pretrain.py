"""
Train the first stage of the camera-motion model: from random weights to a model that sees motion.

    python examples/camera_motion/pretrain.py pictures/ motion-32 --size 32 --steps 3000
    python examples/camera_motion/pretrain.py pictures/ motion-64 --size 64 --steps 3000 --model motion-32

It writes the model, and prints losses and accuracy. Clips are rendered during training, so no clip is used twice.

Besides the label, the model learns a pretext task: how far the content of each patch moves from one frame to the next.
The virtual camera knows this. So a clip has dozens to hundreds of targets instead of one. With the label alone, the
loss stays on a plateau for long.

Training goes from easy to hard. Movements are large and clean at first, and later as in real videos. Frames are small
at first, because they cost a quarter and show the same motion. The head of the pretext task is dropped when the model
is fine-tuned.

An interrupted run continues from its last checkpoint when the command is given again.
"""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from motion_training import PATCH_SIZE, MotionTraining, RandomClips, accuracy, new_model
from tqdm import tqdm
from virtual_camera import LABELS

from timesformer_hf import TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.output.atomic import check_output_folder, output_file, output_folder


OWN_FILES = ("*.json", "model.safetensors")
STRUCTURE = {"attention_type": "divided_space_time", "width": 192, "heads": 4, "depth": 4}
SETTINGS = ("model", "size", "frames", "steps", "batch_size", "learning_rate", "curriculum", "flow_weight", "seed")


def parse_arguments() -> argparse.Namespace:
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pictures", type=Path, help="a folder with train/ and validation/ pictures, which sources.py makes"
    )
    parser.add_argument("out", type=Path, help="the folder to write the model to")
    parser.add_argument("--model", help="start from this model instead of random weights")
    parser.add_argument("--size", type=int, default=64, help="height and width of a frame in pixels (default: 64)")
    parser.add_argument("--attention-type", help="attention scheme of a new model (default: divided_space_time)")
    parser.add_argument("--width", type=positive, help="hidden size of a new model (default: 192)")
    parser.add_argument("--heads", type=positive, help="attention heads of a new model (default: 4)")
    parser.add_argument("--depth", type=positive, help="blocks of a new model (default: 4)")
    parser.add_argument("--frames", type=positive, default=8, help="frames of a clip (default: 8)")
    parser.add_argument("--steps", type=positive, default=4000, help="training batches (default: 4000)")
    parser.add_argument("--batch-size", type=positive, default=64, help="clips in a batch (default: 64)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="the highest learning rate (default: 0.001)")
    parser.add_argument(
        "--curriculum",
        type=float,
        default=0.1,
        help="share of the steps with easier clips, only without --model (default: 0.1)",
    )
    parser.add_argument(
        "--flow-weight", type=float, default=2.0, help="weight of the pretext task's loss; 0 for no task (default: 2)"
    )
    parser.add_argument("--save-steps", type=positive, default=250, help="steps between checkpoints (default: 250)")
    parser.add_argument("--workers", type=int, default=1, help="rendering processes (default: 1)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the model: the first steps take a minute or two, later ones are faster",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and clips (default: 0)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def positive(text: str) -> int:
    """Return the number in a command-line argument, which must be at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def start_model(args: argparse.Namespace, clips: torch.Tensor) -> TimesformerForVideoClassification:
    """
    Return the model to train: a new one, or that of --model at the new size.

    Raises:
        ValueError: where --model has other labels, or where arguments for a new model are given with it.
    """
    given = {name: getattr(args, name) for name in STRUCTURE if getattr(args, name) is not None}
    if args.model is None:
        structure = SimpleNamespace(**STRUCTURE | given)
        return new_model(
            clips,
            hidden_size=structure.width,
            num_hidden_layers=structure.depth,
            num_attention_heads=structure.heads,
            intermediate_size=4 * structure.width,
            attention_type=structure.attention_type,
        )
    if given:
        raise ValueError(f"--model {args.model} already has its own {', '.join(given)}; leave these arguments out")
    model = TimesformerForVideoClassification.from_pretrained(
        args.model, image_size=args.size, num_frames=args.frames, interpolation_mode="bicubic"
    )
    if tuple(model.config.id2label.values()) != LABELS:
        raise ValueError(f"{args.model} has the labels {list(model.config.id2label.values())}, not {list(LABELS)}")
    return model


def read_checkpoint(path: Path, settings: dict) -> dict | None:
    """
    Return the state in a checkpoint, or `None` where there is no file.

    Raises:
        ValueError: where it is from a training with other settings.
    """
    if not path.exists():
        return None
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state["settings"] != settings:
        raise ValueError(
            f"{path} is from a training with {state['settings']}, but this one has {settings}; delete it or give "
            "another OUT"
        )
    return state


def save_checkpoint(path: Path, **state) -> None:
    """
    Write a checkpoint in place of the last one.

    Raises:
        OSError: where it can't be written. The last checkpoint is kept.
    """
    try:
        with output_file(path, overwrite=True) as temporary:
            torch.save(state, temporary)
    except RuntimeError as error:  # torch.save raises it when the disk is full
        raise OSError(f"{path} can't be written: {str(error).splitlines()[0]}. Is the disk full?") from error


def main() -> int:
    """Train the model and write it. Return the exit code."""
    args = parse_arguments()
    torch.manual_seed(args.seed)
    check_output_folder(args.out, overwrite=True, own_files=OWN_FILES)
    if args.size % PATCH_SIZE or args.size < 2 * PATCH_SIZE:
        raise ValueError(f"--size {args.size} must be a multiple of {PATCH_SIZE}, at least {2 * PATCH_SIZE}")
    checkpoint = args.out.with_name(f"{args.out.name}.checkpoint.pt")
    settings = {name: getattr(args, name) for name in (*SETTINGS, *STRUCTURE)}
    state = read_checkpoint(checkpoint, settings)
    start, history = (0, []) if state is None else (state["training"]["done"], state["history"])

    validation = RandomClips(args.pictures / "validation", args.size, args.frames, (args.seed, 1), renewed=None)
    validation = [batch for batch, _ in zip(validation.batches(64), range(8), strict=False)]
    clips = RandomClips(args.pictures / "train", args.size, args.frames, (args.seed, 2, start))
    curriculum = 0 if args.model else args.curriculum * args.steps
    clips.difficulty[0] = 0 if curriculum else 1
    batches = clips.batches(args.batch_size, args.workers)
    model = start_model(args, next(batches)[0]).to(args.device)
    training = MotionTraining(model, args.steps, args.learning_rate, args.flow_weight, args.compile)
    if state is not None:
        training.load_state_dict(state["training"])
    losses = []
    total = args.steps * args.batch_size
    with tqdm(total=total, initial=start * args.batch_size, unit="clip", smoothing=0.02) as progress:
        while training.done < args.steps:
            clips.difficulty[0] = min(1.0, training.done / curriculum) if curriculum else 1.0
            losses.append(training.step(next(batches)))
            progress.update(args.batch_size)
            if training.done % args.save_steps == 0 or training.done == args.steps:
                values = (*np.mean(losses, axis=0), accuracy(model, validation))
                row = dict(zip(("label_loss", "flow_loss", "accuracy"), map(float, values), strict=True))
                history.append({"step": training.done} | {name: round(value, 4) for name, value in row.items()})
                tqdm.write(json.dumps(history[-1]))
                losses = []
                save_checkpoint(checkpoint, settings=settings, training=training.state_dict(), history=history)
    save(model, args, history)
    return 0


def save(model: TimesformerForVideoClassification, args: argparse.Namespace, history: list[dict]) -> None:
    """Write the model, its processors and the history of losses."""
    size = {
        "height": args.size,
        "width": args.size,
    }  # whole frames, squeezed, because the sides show the camera's motion best
    processor = TimesformerVideoProcessor(
        size=size, do_center_crop=False, num_frames=args.frames, frame_sampling_rate=4
    )
    with output_folder(args.out, overwrite=True, own_files=OWN_FILES) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        processor.image_processor().save_pretrained(folder)
        (Path(folder) / "pretraining.json").write_text(json.dumps(history, indent=1) + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("pretrain.py: interrupted; the same command continues from the last checkpoint")
    except (ValueError, OSError) as error:
        sys.exit(f"pretrain.py: {error}")
