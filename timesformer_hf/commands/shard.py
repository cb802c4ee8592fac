"""`timesformer-hf shard`: pack labelled videos into shards for training."""

import argparse
import sys
from pathlib import Path

from ..output.terminal import video_error
from ..video.printable import printable
from .common import positive, resumable


DESCRIPTION = """\
examples:
  timesformer-hf shard videos/ --out shards
  timesformer-hf shard videos.csv --out shards --shard-size 500 --validation-share 0.05

Pack labelled videos into WebDataset tars, which a training reads as a stream:

  timesformer-hf finetune --data shards --streaming --epochs 10 --model MODEL --reset_head --output_dir my-model

The videos are shuffled, and splits are kept. The list of videos is never held in memory. Every shard is checked after
it was written. Finished shards stay when the command is interrupted, and the same command goes on from there. A video
that can't be read is left out and listed in _left_out.csv; the exit code is then 1.
"""


def add_parser(commands) -> None:
    """Add `shard` and its options to the command line."""
    parser = commands.add_parser(
        "shard",
        help="pack labelled videos into shards for training",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "source",
        metavar="VIDEOS",
        help="a folder with a folder for each class, or a .csv, .tsv, .txt or .parquet table with the columns path and "
        "label, and if you like group and split; a path may be a URL (https://, s3://, gs://)",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder for the shards")
    parser.add_argument(
        "--shard-size", type=positive, default=1000, metavar="N", help="videos in a shard at most (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the order (default: 0)")
    parser.add_argument(
        "--validation-share",
        type=_share,
        default=0.0,
        metavar="S",
        help="the share of the groups to hold out for validation, if the videos have no splits (default: 0)",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="a text file with a label a line, or kinetics400, ...: all labels in order; numbers in the table are "
        "lines",
    )
    parser.add_argument(
        "--num-workers", type=positive, default=4, metavar="W", help="shards that are written at a time (default: 4)"
    )


def _share(text: str) -> float:
    """The type of an argument that is a share: at least 0 and below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0 and below 1")
    return value


def run(args: argparse.Namespace) -> int:
    """Write the shards and say what is in them. Return the exit code: 1 where a video was left out."""
    from tqdm import tqdm

    from ..data.label_lists import read_labels
    from ..scale.shards import LEFT_OUT_FILE, write_shards

    names = None if args.labels is None else read_labels(args.labels)
    about = (args.shard_size, args.seed, args.validation_share, names, args.num_workers)
    kept = resumable("Finished shards are kept; the same command goes on from there.")
    with kept, tqdm(unit="shard", disable=None) as progress:

        def report(done: int, total: int) -> None:
            progress.total = total
            progress.update(done - progress.n)

        shards = write_shards(args.source, args.out, *about, report)
    for split, count in shards.videos.items():
        plural = "" if shards.shards[split] == 1 else "s"
        print(f"{args.out}: {split}, {count:,} videos in {shards.shards[split]:,} shard{plural}")
    for path, reason in shards.left_out[:3]:
        print(f"timesformer-hf: {video_error(printable(path), printable(reason))}", file=sys.stderr)
    if shards.left_out:
        count = len(shards.left_out)
        words = "1 video is left out; {} lists it" if count == 1 else f"{count:,} videos are left out; {{}} lists them"
        print(f"timesformer-hf: {words.format(Path(args.out, LEFT_OUT_FILE))}", file=sys.stderr)
    return 1 if shards.left_out else 0
