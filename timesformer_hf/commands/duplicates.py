"""`timesformer-hf duplicates`: find videos that are nearly the same."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..output.terminal import video_error
from ..video.printable import printable
from .common import missing_videos, positive


if TYPE_CHECKING:
    import numpy as np

    from ..data.labelled_videos import LabelledVideo


DESCRIPTION = """\
examples:
  timesformer-hf duplicates videos/
  timesformer-hf duplicates videos/ --data videos/ --out duplicates.csv --out duplicates.html
  timesformer-hf duplicates features.parquet --data my-model/_split.csv --out duplicates.html

Find videos that are nearly the same: other encodings, sizes and brightnesses of one video, and cuts of one scene.
Videos and folders are compared by small grey frames, without a model. A table of `timesformer-hf embed` is compared by
the model's features. Two videos are near-duplicates if their cosine is --threshold or more. With --data the labels and
splits are known too, and groups across splits come first.

docs/data_quality.md says how the threshold was chosen, and how you choose one for your model.
"""


def add_parser(commands) -> None:
    """Add `duplicates` and its options to the command line."""
    parser = commands.add_parser(
        "duplicates",
        help="find videos that are nearly the same",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a table that embed wrote (.parquet), or video files, URLs and folders of videos",
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="the labels and splits of the videos: a folder with a folder for each class, or a .csv or .parquet table "
        "with path and label, such as _split.csv beside a model that finetune trained",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.95,
        metavar="T",
        help="the least cosine of near-duplicates, between 0 and 1 (default: 0.95)",
    )
    parser.add_argument(
        "--search",
        choices=("exact", "index"),
        help="compute all cosines, or search an index of faiss, which may miss some (default: exact up to 100,000 "
        "videos, index for more)",
    )
    parser.add_argument(
        "--out",
        action="append",
        default=[],
        metavar="FILE",
        help="write a table of all videos (.csv, .parquet) or a page with pictures (.html). Give it again for another "
        "file",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the outputs if they exist")
    parser.add_argument(
        "--num-workers", type=positive, metavar="W", help="threads that decode videos (default: one for each core)"
    )


def run(args: argparse.Namespace) -> int:
    """Find near-duplicates, print them, and write the outputs. Return the exit code: 1 where a video failed."""
    from tqdm import tqdm

    from ..data.duplicate_report import DuplicateReport, check_report_file
    from ..data.near_duplicates import MOST_EXACT, check_threshold, find_near_duplicates

    for path in args.out:
        check_report_file(path, args.overwrite)
    check_threshold(args.threshold)
    is_table = len(args.sources) == 1 and args.sources[0].endswith(".parquet")
    known = None if args.data is None else _read_data(args.data)
    names, features, failures = _read_table(args.sources[0]) if is_table else _read_frames(args)
    videos = [_unlabelled(name) for name in names] if known is None else _labelled(names, known, args.data)
    approximate = args.search == "index" or (args.search is None and len(videos) > MOST_EXACT)
    if approximate:
        print("timesformer-hf: searching an index, which may miss some near-duplicates", file=sys.stderr)
    found = find_near_duplicates(
        features,
        args.threshold,
        None if known is None else [video.split for video in videos],
        approximate,
        lambda blocks: tqdm(blocks, unit="block", disable=None if len(blocks) > 1 else True),
    )
    report = DuplicateReport(videos, found, args.threshold)
    for path in args.out:
        report.write(path, args.overwrite)
    print(report.summary())
    if failures:
        print(f"timesformer-hf: {failures} of {failures + len(videos)} videos failed", file=sys.stderr)
    return 1 if failures else 0


def _read_table(path: str) -> tuple[list[str], "np.ndarray", int]:
    """Return the names of the videos of a table of features, the features, and 0 videos that failed."""
    from ..inference.feature_table import read_features

    table = read_features(path)
    return table.videos, table.features, 0


def _read_frames(args: argparse.Namespace) -> tuple[list[str], "np.ndarray", int]:
    """
    Return the names and the frame signatures of the videos that can be read, and how many can't.

    Raises:
        ValueError: if no video can be read. FileNotFoundError: if none exists.
    """
    import numpy as np
    from tqdm import tqdm

    from ..data.frame_signatures import frame_signatures
    from ..video.video_folders import find_videos

    videos = find_videos(args.sources)
    missing = missing_videos(videos)
    if len(missing) == len(videos):
        raise FileNotFoundError("\n  ".join(missing.values()))
    names, signatures = [], []
    outcomes = frame_signatures(map(_unlabelled, videos), args.num_workers)
    for name, outcome in zip(videos, tqdm(outcomes, total=len(videos), unit="video", disable=None), strict=True):
        if isinstance(outcome, Exception):
            error = video_error(printable(name), printable(outcome))
            tqdm.write(f"timesformer-hf: {error}", file=sys.stderr)
        else:
            names.append(name)
            signatures.append(outcome)
    if not names:
        raise ValueError("none of the videos could be read: there is nothing to compare")
    return names, np.stack(signatures), len(videos) - len(names)


def _unlabelled(name: str) -> "LabelledVideo":
    """Return a video of which only the name is known."""
    from ..data.labelled_videos import LabelledVideo

    return LabelledVideo(name, (), name)


def _read_data(data: str) -> "dict[str, LabelledVideo]":
    """Return the labelled videos of a data set by their absolute paths."""
    from ..data.reading import read_labelled_videos

    return {_identity(video.name): video for video in read_labelled_videos(data)}


def _labelled(names: Sequence[str], known: "dict[str, LabelledVideo]", data: str) -> "list[LabelledVideo]":
    """
    Return the videos with the labels, splits and groups of the data set.

    Raises:
        ValueError: if none of them is in it.
    """
    found = [known.get(_identity(name)) for name in names]
    unknown = found.count(None)
    if unknown == len(names):
        raise ValueError(
            f"--data {data} has none of the videos; it has, for example, {next(iter(known.values())).name}"
        )
    if unknown:
        print(f"timesformer-hf: {unknown} of {len(names)} videos are not in {data}", file=sys.stderr)
    return [
        _unlabelled(name) if video is None else replace(video, name=name)
        for name, video in zip(names, found, strict=True)
    ]


def _identity(name: str) -> str:
    from ..video.video_sources import is_url

    return name if is_url(name) else os.path.abspath(name)
