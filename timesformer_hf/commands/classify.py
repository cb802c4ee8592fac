"""`timesformer-hf classify`: print the most likely labels of videos."""

import argparse
import sys
from collections.abc import Collection, Iterator
from functools import partial

from ..output.terminal import video_error
from ..shipped_models import CAMERA_MOTION
from ..video.printable import printable
from .common import (
    add_device,
    add_engine,
    add_model,
    add_quantize,
    add_sampling,
    add_table,
    add_videos,
    add_workers,
    check_no_table_options,
    choose_device,
    missing_videos,
    positive,
    to_json,
)
from .many_videos import check_table, read_inputs, run_many, worker_settings


DESCRIPTION = """\
examples:
  timesformer-hf classify clip.mp4
  timesformer-hf classify clip.mp4 --model facebook/timesformer-base-finetuned-k400
  timesformer-hf classify *.mp4 --model ./my-model --frame-sampling-rate 32 --device cuda --dtype bfloat16
  timesformer-hf classify *.mp4 --model ./my-model --frame-sampling-rate 32 --views paper
  timesformer-hf classify *.mp4 --model ./my-model --device cuda --batch-size 32 --num-workers 16
  timesformer-hf classify videos/ --model ./my-model --json > predictions.jsonl
  timesformer-hf classify corpus.csv --model ./my-model --out predictions.parquet

Print the most likely labels of each video. A folder stands for all videos in it and below it. An unreadable video is
reported, and the others are still classified; the exit code is then 1.

With several videos, threads decode the next ones while the model computes. At the end the command prints for
what share of the time the model was busy. If that is far below 100%, decoding takes the time: use more
--num-workers. If it is near 100%, the model takes it: use a larger --batch-size, --dtype bfloat16 or a faster
device.

With --out, write a table with a row for each video, in the order given, also for those that failed. The same command
continues a run that was interrupted. docs/scale.md says how to label a large corpus.
"""

_ACCELERATOR_BATCH = 8  # videos

NO_MODEL = (
    "timesformer-hf: no --model given, so this is the one that is shipped: it tells how the camera moves.\n"
    "                For what happens in a video, try --model facebook/timesformer-base-finetuned-k400"
)


def add_parser(commands) -> None:
    """Add `classify` and its options to the command line."""
    parser = commands.add_parser(
        "classify",
        help="print the most likely labels of videos",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add_videos(parser)
    add_model(parser)
    parser.add_argument(
        "--top-k", type=positive, default=5, metavar="K", help="how many labels each video gets (default: 5)"
    )
    add_sampling(parser)
    _add_views(parser)
    add_device(parser)
    add_quantize(parser)
    add_workers(
        parser,
        f"{_ACCELERATOR_BATCH} on an accelerator, 1 on the CPU, where only small models gain from more: the shipped "
        "one from 8). If a batch doesn't fit into memory, its videos are classified one by one",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help='print one JSON object a line: {"video", "predictions": [{"label", "score"}]} or {"video", "error"}',
    )
    add_table(parser, "write the labels to this Parquet file, a row a video, in a run that can be continued", False)
    add_engine(parser)


def _add_views(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--views",
        choices=("paper", "original"),
        help="average several views of each video. paper: the probabilities of three crops of a clip in the middle, as "
        "in the paper. original: the logits of three crops of the first clip, as in the authors' code. Both need a "
        "frame sampling rate (default: one view)",
    )
    parser.add_argument(
        "--num-clips",
        type=positive,
        metavar="K",
        help="average the probabilities of K clips, spread over the video (default: 1)",
    )
    parser.add_argument(
        "--num-crops",
        type=int,
        choices=(1, 3),
        help="crops of each clip. 1: the centre. 3: start, centre and end of the longer side (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """
    Print or write the labels of each video. Return the exit code: 1 where a video failed, 2 where none exists or the
    model can't be loaded.
    """
    return _print_labels(args) if args.out is None else _write_labels(args)


def _write_labels(args: argparse.Namespace) -> int:
    """Write a table of labels. Return the exit code."""
    if args.json:
        raise ValueError("--json prints labels, and --out writes them to a table; give one of the two")
    check_table(args)
    corpus = read_inputs(args)
    from ..scale.prediction_table import PredictionParts, count_errors

    if args.model is None:
        print(NO_MODEL, file=sys.stderr)

    def make_settings(device: str):
        return worker_settings(args, device, batch_size=_batch_size(args, device), top_k=args.top_k)

    def finish(parts, sources: Collection[str], failures: int, metadata: dict) -> int:
        parts.merge(sources, args.out, metadata, args.overwrite or args.retry_errors)
        failed = count_errors(args.out)
        videos = f"{len(sources)} video{'s' if len(sources) > 1 else ''}"
        print(f"{args.out}: {videos}, {failed} of them failed" if failed else f"{args.out}: {videos}")
        if parts.folder.exists():
            print(f"timesformer-hf: {parts.folder} is kept: it has other videos of an unfinished run", file=sys.stderr)
        return 1 if failed else 0

    return run_many(args, corpus, make_settings, partial(PredictionParts, retry_errors=args.retry_errors), finish)


def _batch_size(args: argparse.Namespace, device: str) -> int:
    return args.batch_size or (1 if device.startswith("cpu") else _ACCELERATOR_BATCH)


def _print_labels(args: argparse.Namespace) -> int:
    """Print the labels of each video. Return the exit code."""
    check_no_table_options(args)
    from tqdm import tqdm

    from ..inference.file_classification import BusyTime
    from ..scale.corpus import Corpus
    from ..video.video_folders import find_videos

    videos, model_time, failures = find_videos(Corpus(args.videos, args.column)), BusyTime(), 0
    missing = missing_videos(videos)
    if len(missing) == len(videos):
        results = ({"video": video, "error": error} for video, error in missing.items())
    else:
        results = _classify(args, videos, model_time)
    several = len(videos) > 1
    for result in tqdm(results, total=len(videos), unit="video", disable=None if several else True):
        failures += "error" in result
        if "error" in result and not args.json:
            error = video_error(printable(result["video"]), printable(result["error"]))
            tqdm.write(f"timesformer-hf: {error}", file=sys.stderr)
        else:
            tqdm.write(to_json(result) if args.json else table(result), file=sys.stdout)
    if several and failures < len(videos):
        print(f"timesformer-hf: {speed_line(len(videos), model_time)}", file=sys.stderr)
    if failures and several:
        print(f"timesformer-hf: {failures} of {len(videos)} videos failed", file=sys.stderr)
    if len(missing) == len(videos):
        return 2
    return 1 if failures else 0


def _classify(args: argparse.Namespace, videos: list[str], model_time) -> Iterator[dict]:
    """
    Load the model, check the settings, and return an iterator over the results.

    Raises:
        ValueError: where the model can't be loaded, or no video can be processed with the settings.
    """
    from ..inference.feature_extraction import check_settings
    from ..inference.file_classification import classify_files
    from ..inference.loading import load_fast_pipeline

    device = choose_device(args.device)
    if args.model is None:
        print(NO_MODEL, file=sys.stderr)
    model = CAMERA_MOTION if args.model is None else args.model
    classifier = load_fast_pipeline(model, device, args.dtype, args.quantize)
    names = ("num_frames", "frame_sampling_rate", "views", "num_clips", "num_crops")
    sampling = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    check_settings(classifier.model, classifier.video_processor, **sampling)
    batch_size = _batch_size(args, classifier.device.type)
    settings = sampling | {"top_k": args.top_k, "num_workers": args.num_workers}
    model_time.restart()
    return classify_files(classifier, videos, batch_size, model_time, **settings)


def speed_line(num_videos: int, model_time) -> str:
    """Return the last line, for example "200 videos in 12.3 s, 16.3 a second; the model was busy 94% of the time"."""
    seconds = model_time.seconds
    speed = f"{num_videos} videos in {seconds:.1f} s, {num_videos / seconds:.1f} a second"
    return f"{speed}; the model was busy {model_time.share:.0%} of the time"


def table(result: dict) -> str:
    """The labels of a video under its name, the likeliest first."""
    labels = [printable(prediction["label"]) for prediction in result["predictions"]]
    scores = [prediction["score"] for prediction in result["predictions"]]
    width = max(map(len, labels))
    rows = [f"  {label:<{width}}  {score:7.2%}" for label, score in zip(labels, scores, strict=True)]
    return "\n".join([printable(result["video"]), *rows])
