"""`timesformer-hf explain`: show what a classifier looks at in a video, or score how well that is found."""

import argparse
import sys
from pathlib import Path

from ..output.atomic import check_output_file, output_file
from ..output.terminal import loading_model
from ..shipped_models import CAMERA_MOTION
from ..video.printable import printable
from .common import add_device, add_model, add_sampling, choose_device, missing_videos


DESCRIPTION = """\
examples:
  timesformer-hf explain clip.mp4 --out explained
  timesformer-hf explain clip.mp4 --out explained --model facebook/timesformer-base-finetuned-k400 --label archery
  timesformer-hf explain --score clips/ --model ./my-model

Write pictures of what the model looks at, for the predicted label or the one of --label:

  overlay.mp4     the film from the first to the last frame that the model gets, with heat maps
  overlay.gif     the frames that the model gets
  sheet.png       these frames and their heat maps, side by side
  time.png        how much each frame counts
  relevance.npz   relevance (frames, rows, columns), which sums to 1; frame_indices, label, score

With --score, measure on the videos of a folder whether the heat maps show what the model's answer depends on, beside
random maps and maps that always point at the centre. docs/explain.md says what it all means.
"""

OUTPUTS = ("overlay.mp4", "overlay.gif", "sheet.png", "time.png", "relevance.npz")


def add_parser(commands) -> None:
    """Add `explain` and its options to the command line."""
    parser = commands.add_parser(
        "explain",
        help="show what a classifier looks at in a video",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("video", nargs="?", metavar="VIDEO", help="a video file or an http(s) URL")
    task.add_argument(
        "--score", metavar="FOLDER", help="score the methods on the videos in a folder, with boxes.csv where it has one"
    )
    parser.add_argument("--out", metavar="DIR", help="the folder for the pictures; needed with VIDEO")
    parser.add_argument("--overwrite", action="store_true", help="replace the pictures if they exist")
    add_model(parser)
    parser.add_argument("--label", metavar="NAME", help="the label to explain (default: the predicted one)")
    parser.add_argument(
        "--method",
        choices=("gradient_rollout", "rollout"),
        help="how relevance is found. gradient_rollout: for this label. rollout: for every label the same (default: "
        "gradient_rollout; --score compares all)",
    )
    add_sampling(parser)
    add_device(parser, dtype=False)


def run(args: argparse.Namespace) -> int:
    """Explain a video or score the methods. Return the exit code: 1 if the score had to leave out videos."""
    return _explain(args) if args.score is None else _score(args)


def _load(args: argparse.Namespace) -> tuple:
    """
    Return the model and its video processor.

    Raises:
        ValueError: if they can't be loaded or explained.
    """
    from ..explanation.video_explanation import load_explainable

    device, name = choose_device(args.device), CAMERA_MOTION if args.model is None else args.model
    with loading_model(name):
        return load_explainable(name, device)


def _explain(args: argparse.Namespace) -> int:
    """Write the pictures of a video and print its label."""
    from ..output.extras import check_packages

    if args.out is None:
        raise ValueError("--out DIR is needed: the folder for the pictures")
    for name in OUTPUTS:
        check_output_file(Path(args.out, name), args.overwrite)
    check_packages("explain", ("matplotlib",), "viz")
    if missing := missing_videos([args.video]):
        raise FileNotFoundError(missing[args.video])

    from ..explanation.video_explanation import explain_video

    model, processor = _load(args)
    explanation = explain_video(
        model,
        processor,
        args.video,
        args.label,
        args.method or "gradient_rollout",
        args.num_frames,
        args.frame_sampling_rate,
    )
    print(_summary(explanation))
    if len(set(explanation.frame_indices)) < len(explanation.frame_indices):
        note = "is shorter than a clip of this model, which gets its last frame several times"
        print(f"timesformer-hf: {printable(args.video)} {note}", file=sys.stderr)
    _write_outputs(args, explanation, processor)
    print(f"pictures and numbers are in {printable(args.out)}")
    return 0


def _summary(explanation) -> str:
    """Return the label, the score and the most important frame as text."""
    shares = explanation.frame_relevance
    place = int(shares.argmax())
    index = explanation.frame_indices[place]
    other = f" (predicted: {printable(explanation.predicted)})" if explanation.predicted != explanation.label else ""
    lines = [
        printable(explanation.video),
        f"  {printable(explanation.label)}  {explanation.score:.2%}{other}",
        f"  most relevant frame: {index}, with {shares[place]:.1%} of the relevance; {1 / len(shares):.1%} if all were "
        "alike",
    ]
    return "\n".join(lines)


def _write_outputs(args: argparse.Namespace, explanation, processor) -> None:
    """Write each file completely or not at all."""
    import numpy as np

    from ..explanation.drawing import draw_sheet, draw_times, write_film, write_gif
    from ..explanation.video_explanation import read_span

    frames, indices = read_span(explanation, processor, args.video)
    writers = {
        "relevance.npz": lambda path: np.savez_compressed(
            path,
            relevance=explanation.relevance,
            frame_indices=np.array(explanation.frame_indices),
            label=np.array(explanation.label),
            score=np.array(explanation.score),
        ),
        "time.png": lambda path: draw_times(path, explanation),
        "sheet.png": lambda path: draw_sheet(path, explanation),
        "overlay.gif": lambda path: write_gif(path, explanation),
        "overlay.mp4": lambda path: write_film(path, explanation, frames, indices),
    }
    for name, write in writers.items():
        with output_file(Path(args.out, name), args.overwrite) as path:
            write(path)


def _score(args: argparse.Namespace) -> int:
    """Print the table of the scores."""
    for option in ("out", "label", "method"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option} is for a single video; leave it out with --score")

    from tqdm import tqdm

    from ..explanation.scoring import read_clips, score_clips, score_table

    failures = []

    def report(error: str) -> None:
        failures.append(error)
        tqdm.write(f"timesformer-hf: {printable(error)}", file=sys.stderr)

    model, processor = _load(args)
    sampling = {"num_frames": args.num_frames, "frame_sampling_rate": args.frame_sampling_rate}
    total, clips = read_clips(args.score, model, processor, report, **sampling)
    scores = score_clips(model, tqdm(clips, total=total, unit="video", disable=None))
    print(score_table(scores))
    return 1 if failures else 0
