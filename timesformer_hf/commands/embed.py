"""`timesformer-hf embed`: write features of videos to a Parquet file."""

import argparse
import sys
from collections.abc import Collection

from .common import (
    add_device,
    add_engine,
    add_model,
    add_quantize,
    add_sampling,
    add_table,
    add_videos,
    add_workers,
)
from .many_videos import check_table, read_inputs, run_many, worker_settings


DESCRIPTION = """\
examples:
  timesformer-hf embed videos/ --out features.parquet --model facebook/timesformer-base-finetuned-k400
  timesformer-hf embed a.mp4 b.mp4 --out frames.parquet --model ./my-model --level frame --num-frames 16
  timesformer-hf embed corpus.csv --column video --out features.parquet --model ./my-model

Write a table with the features of each video, in the order given. An unreadable video is reported and left out; the
exit code is then 1. Finished batches are kept in a folder beside the output until all are done. So the same command
continues a run that was interrupted. docs/scale.md says how to label and embed a large corpus.
"""

_BATCH = 8  # videos


def add_parser(commands) -> None:
    """Add `embed` and its options to the command line."""
    parser = commands.add_parser(
        "embed",
        help="write features of videos to a table",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add_videos(parser)
    add_model(parser, "; a classification head is left out")
    parser.add_argument(
        "--level",
        choices=("clip", "frame", "patch"),
        default="clip",
        help="one feature for the clip (CLS), each frame (the mean of its patches) or each patch (default: clip)",
    )
    add_sampling(parser)
    add_device(parser)
    add_quantize(parser)
    add_workers(parser, str(_BATCH))
    add_table(parser, "the Parquet file to write", required=True)
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Embed the videos that are not done yet and write the table. Return the exit code: 1 where a video failed."""
    check_table(args)
    corpus = read_inputs(args)
    from ..scale.feature_rows import FeatureRows

    def make_settings(device: str):
        return worker_settings(args, device, batch_size=args.batch_size or _BATCH, level=args.level)

    def finish(parts, sources: Collection[str], failures: int, metadata: dict) -> int:
        return _finish(args, parts, sources, failures, metadata)

    return run_many(args, corpus, make_settings, FeatureRows, finish)


def _finish(args: argparse.Namespace, parts, sources: Collection[str], failures: int, metadata: dict) -> int:
    """Merge the parts, and say what was written. Return the exit code."""
    if failures:
        print(f"timesformer-hf: {failures} of {len(sources)} videos failed", file=sys.stderr)
    done = len(sources) - failures
    if done:
        parts.merge(sources, args.out, metadata | {"level": args.level}, args.overwrite or args.retry_errors)
        features = {"clip": "of the clip", "frame": "for each frame", "patch": "for each patch"}[args.level]
        videos = f"{done} video{'s' if done > 1 else ''}"
        print(f"{args.out}: {videos}, features of {parts.shape[-1]} numbers {features}")
        if parts.folder.exists():
            print(f"timesformer-hf: {parts.folder} is kept: it has other videos of an unfinished run", file=sys.stderr)
    else:
        if not parts.places:  # parts can also be from an interrupted run on other videos
            parts.remove()
        print(f"timesformer-hf: {args.out} is not written: it would be empty", file=sys.stderr)
    return 1 if failures else 0
