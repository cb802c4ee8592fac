"""The command `timesformer-hf`: parse, call, print."""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


EXAMPLES = """\
examples:
  timesformer-hf classify clip.mp4 --model facebook/timesformer-base-finetuned-k400
  timesformer-hf classify *.mp4 --model ./my-model --frame-sampling-rate 32 --device cuda --dtype bfloat16
  timesformer-hf classify *.mp4 --model ./my-model --json > predictions.jsonl
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 where a video failed, 2 for a mistake in the call."""
    args = make_parser().parse_args(arguments)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("timesformer-hf: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="timesformer-hf", description="TimeSformer, the video transformer, for Hugging Face transformers."
    )
    commands = parser.add_subparsers(title="commands", required=True)
    classify = commands.add_parser(
        "classify",
        help="label videos",
        description="Print the most likely labels of each video. A video that can't be read is reported, and the "
        "others are classified all the same; the exit code is then 1.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    classify.set_defaults(run=classify_videos)
    classify.add_argument("videos", nargs="+", metavar="VIDEO", help="a video file or an http(s) URL")
    classify.add_argument(
        "--model",
        metavar="DIR_OR_ID",
        help="a model's folder or its name on the Hub (default: a small random one, whose labels mean nothing)",
    )
    classify.add_argument("--top-k", type=positive, default=5, metavar="K", help="labels a video (default: 5)")
    classify.add_argument(
        "--num-frames", type=positive, metavar="N", help="frames to look at (default: what the model was made for)"
    )
    classify.add_argument(
        "--frame-sampling-rate",
        type=positive,
        metavar="R",
        help="look at every R-th frame around the middle of the video, as the paper: 32 for 8 frames, 16 for 16, "
        "4 for 96 (default: spread the frames over the whole video)",
    )
    classify.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: an accelerator if there is one)")
    classify.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="number format of the model (default: auto, the checkpoint's own)",
    )
    classify.add_argument(
        "--json",
        action="store_true",
        help='print one object a line: {"video", "predictions": [{"label", "score"}]} or {"video", "error"}',
    )
    return parser


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def classify_videos(args: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm
    from transformers import AutoModelForVideoClassification, AutoVideoProcessor, pipeline

    device = args.device or (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet_transformers())
        name = stack.enter_context(random_model()) if args.model is None else args.model
        try:
            model = AutoModelForVideoClassification.from_pretrained(name, dtype=args.dtype)
            processor = AutoVideoProcessor.from_pretrained(name)
            classifier = pipeline("video-classification", model=model, video_processor=processor, device=device)
        except Exception as error:  # the boundary to the user: whatever it is, it is about this model
            missing = "" if Path(name).is_dir() else "there is no such folder, and as a name on the Hub: "
            reason = str(error).strip().split("\n\n")[0]  # what follows is advice for programmers
            print(f"timesformer-hf: can't load the model {name}: {missing}{reason}", file=sys.stderr)
            return 2

    settings = {"top_k": args.top_k, "num_frames": args.num_frames, "frame_sampling_rate": args.frame_sampling_rate}
    settings = {name: value for name, value in settings.items() if value is not None}
    failures = 0
    for video in tqdm(args.videos, unit="video", disable=None if len(args.videos) > 1 else True):
        try:
            predictions = [{"label": row["label"], "score": row["score"]} for row in classifier(video, **settings)]
            result = {"video": video, "predictions": predictions}
        except Exception as error:  # the others are classified all the same
            result = {"video": video, "error": str(error)}
            failures += 1
        if "error" in result and not args.json:
            tqdm.write(f"timesformer-hf: {error_line(result)}", file=sys.stderr)
        else:
            tqdm.write(json.dumps(result) if args.json else table(result), file=sys.stdout)
    if failures and len(args.videos) > 1:
        print(f"timesformer-hf: {failures} of {len(args.videos)} videos failed", file=sys.stderr)
    return 1 if failures else 0


def error_line(result: dict) -> str:
    """The error of a video, which names it."""
    error = result["error"]
    return error if result["video"] in error else f"{result['video']}: {error}"


def table(result: dict) -> str:
    """The labels of a video under its name, the likeliest first."""
    width = max(len(prediction["label"]) for prediction in result["predictions"])
    rows = [f"  {row['label']:<{width}}  {row['score']:7.2%}" for row in result["predictions"]]
    return "\n".join([result["video"], *rows])


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Only errors in its log, and no progress bars for loading weights."""
    from transformers import logging

    verbosity, progress_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress_bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def random_model() -> Iterator[str]:
    """A folder with a small randomly initialised model, to see the command work before choosing a real one."""
    import torch

    from . import TimesformerConfig, TimesformerForVideoClassification, TimesformerVideoProcessor

    print(
        "timesformer-hf: no --model given, so this is a small RANDOMLY INITIALISED one: its labels mean nothing.\n"
        "                Try --model facebook/timesformer-base-finetuned-k400",
        file=sys.stderr,
    )
    config = TimesformerConfig(
        image_size=64,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        id2label={i: f"random label {i}" for i in range(10)},
    )
    size = {"height": 64, "width": 64}
    with tempfile.TemporaryDirectory() as folder:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            TimesformerForVideoClassification(config).save_pretrained(folder)
        TimesformerVideoProcessor(size={"shortest_edge": 64}, crop_size=size).save_pretrained(folder)
        yield folder


if __name__ == "__main__":
    sys.exit(main())
