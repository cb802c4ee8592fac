"""
Make the paper's Table 1 at small scale: its five attention schemes on two tasks, with the same clips and steps.

    python examples/camera_motion/compare_schemes.py pictures/ table1/

The task `camera motion` asks how the camera moves. No single frame shows that. The task `which picture` asks which of
ten pictures the camera moves over. Every frame shows that.

All models have one size and start alike. Those of one seed see the same clips in the same order. They also learn the
pretext task of pretrain.py, except for space-only attention, which can't see motion. Camera motion is measured on
pictures that no model has seen, and both tasks on new movements. Movements are easier than the last ones of
pretrain.py, so that short trainings succeed.

It writes results.json and table1.md, and prints the table. The same command continues an interrupted run.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from motion_training import MotionTraining, RandomClips, accuracy, new_model
from tqdm import tqdm

from timesformer_hf import ATTENTION_SCHEMES
from timesformer_hf.model.cost import model_cost
from timesformer_hf.output.atomic import output_file


TASKS = {"camera motion": False, "which picture": True}
STRUCTURE = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 384}
SIZE, NUM_FRAMES = 64, 8
TEST_BATCHES = 16
DIFFICULTY = 0.5  # of the curriculum, from 0 to 1


def parse_arguments() -> argparse.Namespace:
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="a folder with train/ and test/ pictures, which sources.py makes")
    parser.add_argument("out", type=Path, help="a folder for the results")
    parser.add_argument("--steps", type=int, default=400, help="training batches for camera motion (default: 400)")
    parser.add_argument(
        "--still-steps", type=int, default=150, help="training batches for which picture (default: 150)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="clips in a batch (default: 64)")
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="how often everything is repeated, each time with another seed (default: 3)",
    )
    parser.add_argument("--workers", type=int, default=1, help="rendering processes (default: 1)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def compare(args: argparse.Namespace, task: str, seed: int) -> dict[str, float]:
    """Train one model of each scheme side by side on the same clips. Return their accuracies, from 0 to 1."""
    which_picture = TASKS[task]
    steps = args.still_steps if which_picture else args.steps
    clips = RandomClips(args.pictures / "train", SIZE, NUM_FRAMES, (seed, 0), which_picture)
    tested = args.pictures / ("train" if which_picture else "test")
    test_clips = RandomClips(tested, SIZE, NUM_FRAMES, (seed, 1), which_picture, renewed=None)
    test_clips.difficulty[0] = DIFFICULTY
    test = [batch for _, batch in zip(range(TEST_BATCHES), test_clips.batches(64), strict=False)]
    batches = clips.batches(args.batch_size, args.workers)
    first = next(batches)[0]
    trainings = {}
    for scheme, row in ATTENTION_SCHEMES.items():
        torch.manual_seed(seed)
        model = new_model(first, attention_type=scheme, **STRUCTURE).to(args.device)
        trainings[scheme] = MotionTraining(model, steps, flow_weight=0.0 if row.frames_apart else 2.0)
    for step in tqdm(range(steps), desc=f"{task}, seed {seed}", unit="step", smoothing=0.02):
        clips.difficulty[0] = DIFFICULTY * min(1.0, 10 * step / steps)
        batch = next(batches)
        for training in trainings.values():
            training.step(batch)
    return {scheme: accuracy(training.model, test) for scheme, training in trainings.items()}


def table(results: dict, args: argparse.Namespace) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| scheme | parameters | multiply-accumulates a clip | " + " | ".join(TASKS) + " |",
        "|---|---|---|" + "---|" * len(TASKS),
    ]
    for scheme in ATTENTION_SCHEMES:
        clips = torch.zeros(1, NUM_FRAMES, 3, SIZE, SIZE, dtype=torch.uint8)
        cost = model_cost(new_model(clips, attention_type=scheme, **STRUCTURE).config)
        scores = []
        for task in TASKS:
            values = [100 * results[task][str(seed)][scheme] for seed in range(args.seeds)]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            scores.append(f"{statistics.mean(values):.1f}{spread}")
        million, giga = cost.parameters / 1e6, cost.multiply_accumulates / 1e9
        lines.append(f"| {scheme} | {million:.2f} M | {giga:.3f} G | " + " | ".join(scores) + " |")
    measured = TEST_BATCHES * 64
    lines.append("")
    lines.append(
        f"Top-1 in per cent, mean and standard deviation over {args.seeds} seeds, {measured} clips each; trained on "
        f"{args.steps * args.batch_size} clips ({args.still_steps * args.batch_size} for the picture)."
    )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Train and measure all models, and write the results. Return the exit code."""
    args = parse_arguments()
    path = args.out / "results.json"
    settings = {"steps": args.steps, "still_steps": args.still_steps, "batch_size": args.batch_size}
    results = {"settings": settings} | {task: {} for task in TASKS}
    if path.exists():
        results = json.loads(path.read_text())
        if results["settings"] != settings:
            raise ValueError(
                f"{path} has results of other settings, {results['settings']}, not {settings}; give another folder"
            )
    for seed in range(args.seeds):
        for task in TASKS:
            if str(seed) not in results[task]:
                results[task][str(seed)] = compare(args, task, seed)
                with output_file(path, overwrite=True) as temporary:
                    temporary.write_text(json.dumps(results, indent=1) + "\n")
    with output_file(args.out / "table1.md", overwrite=True) as temporary:
        temporary.write_text(table(results, args))
    print(table(results, args))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("compare_schemes.py: interrupted; the same command continues")
    except (ValueError, OSError) as error:
        sys.exit(f"compare_schemes.py: {error}")
