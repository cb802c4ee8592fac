"""`timesformer-hf embed`: write features of videos to a Parquet file."""

import argparse
import sys

from ..output.atomic import check_output_file
from ..output.terminal import loading_model, video_error
from ..video.printable import printable
from .common import add_quantize, choose_device, missing_videos, optimized, positive, resumable


DESCRIPTION = """\
examples:
  timesformer-hf embed videos/ --out features.parquet --model facebook/timesformer-base-finetuned-k400
  timesformer-hf embed a.mp4 b.mp4 --out frames.parquet --model ./my-model --level frame --num-frames 16

Write a table with the features of each video, in the order given. An unreadable video is reported and left out; the
exit code is then 1. Finished batches are kept in a folder beside the output until all are done. So the same command
continues a run that was interrupted.
"""


def add_parser(commands) -> None:
    """Add `embed` and its options to the command line."""
    parser = commands.add_parser(
        "embed",
        help="write features of videos to a table",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="a video file, an http(s) URL, or a folder to search for videos (.3g2 .3gp .asf .avi .divx .f4v "
        ".flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv)",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the Parquet file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR_OR_ID",
        help="a model's folder or its name on the Hub; a classification head is left out",
    )
    parser.add_argument(
        "--level",
        choices=("clip", "frame", "patch"),
        default="clip",
        help="one feature for the clip (CLS), each frame (the mean of its patches) or each patch (default: clip)",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="B", help="videos that the model takes at once (default: 8)"
    )
    parser.add_argument("--num-workers", type=positive, default=4, metavar="W", help="decoding threads (default: 4)")
    parser.add_argument(
        "--num-frames", type=positive, metavar="N", help="frames of a clip (default: the number in the model's config)"
    )
    parser.add_argument(
        "--frame-sampling-rate",
        type=positive,
        metavar="R",
        help="take every R-th frame around the middle of the video (default: frames spread over the whole video)",
    )
    parser.add_argument(
        "--device", help="for example cpu, cuda, cuda:1 or mps (default: an accelerator if there is one)"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="dtype of the model (default: auto, that of the checkpoint); features are always float32",
    )
    add_quantize(parser)


def run(args: argparse.Namespace) -> int:
    """Embed the videos that are not done yet and write the table. Return the exit code: 1 where a video failed."""
    from ..inference.feature_extraction import choose_sampling, describe_settings
    from ..inference.feature_table import FeatureParts
    from ..output.parquet import import_pyarrow
    from ..video.video_folders import find_videos

    check_output_file(args.out, args.overwrite)
    if not args.out.endswith(".parquet"):
        raise ValueError(f"--out {args.out}: the table is a Parquet file, so its name must end in .parquet")
    import_pyarrow()
    videos = find_videos(args.videos)
    missing = missing_videos(videos)
    if len(missing) == len(videos):
        raise FileNotFoundError("\n  ".join(missing.values()))
    model, processor = load(args)
    sampling = choose_sampling(model, processor, args.num_frames, args.frame_sampling_rate)
    quantized = {"quantize": args.quantize} if args.quantize else {}
    parts = FeatureParts(f"{args.out}.parts", describe_settings(model, processor, args.level, sampling | quantized))
    with resumable("Finished batches are kept; the same command goes on from there."):
        return embed(args, videos, model, processor, sampling, parts)


def load(args: argparse.Namespace) -> tuple:
    """
    Return the model and its video processor.

    Raises:
        ValueError: where they can't be loaded.
    """
    from ..inference.feature_extraction import load_feature_model

    with loading_model(args.model):
        return load_feature_model(args.model, args.dtype, choose_device(args.device))


def embed(args: argparse.Namespace, videos: list[str], model, processor, sampling: dict, parts) -> int:
    """Embed the videos that are not done yet, store each batch as a part, and merge the parts. Return the exit code."""
    import torch

    from ..inference.feature_extraction import extract_features
    from ..inference.feature_table import source_of, unfinished_batches
    from ..version import __version__

    sources = {video: source_of(video) for video in videos}
    batches = unfinished_batches(videos, args.batch_size, lambda video: sources[video] in parts.places)
    results = extract_features(
        optimized(model, args.quantize), processor, batches, args.level, args.num_workers, **sampling
    )
    try:
        failures = store(results, sources, parts, total=sum(map(len, batches)))
    except torch.OutOfMemoryError as error:
        raise ValueError(f"out of memory: give a smaller --batch-size; finished batches are kept ({error})") from error
    if failures:
        print(f"timesformer-hf: {failures} of {len(videos)} videos failed", file=sys.stderr)
    if failures < len(videos):
        metadata = {"model": args.model, "level": args.level, "version": __version__}
        parts.merge(list(sources.values()), args.out, metadata, args.overwrite)
        features = {"clip": "of the clip", "frame": "for each frame", "patch": "for each patch"}[args.level]
        size = model.config.hidden_size
        done = len(videos) - failures
        print(f"{args.out}: {done} video{'s' if done > 1 else ''}, features of {size} numbers {features}")
        if parts.folder.exists():
            print(f"timesformer-hf: {parts.folder} is kept: it has other videos of an unfinished run", file=sys.stderr)
    else:
        if not parts.places:  # parts can also be from an interrupted run on other videos
            parts.remove()
        print(f"timesformer-hf: {args.out} is not written: it would be empty", file=sys.stderr)
    return 1 if failures else 0


def store(results, sources: dict[str, str], parts, total: int) -> int:
    """Store each batch and report the videos that failed. Return the number of those."""
    from tqdm import tqdm

    failures = 0
    with tqdm(total=total, unit="video", disable=None) as progress:
        for batch in results:
            parts.add(batch, [sources[video.video] for video in batch])
            for video in batch:
                if video.error is not None:
                    failures += 1
                    error = video_error(printable(video.video), printable(video.error))
                    progress.write(f"timesformer-hf: {error}", file=sys.stderr)
            progress.update(len(batch))
    return failures
