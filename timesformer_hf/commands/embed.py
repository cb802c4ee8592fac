"""`timesformer-hf embed`: features of videos, in a Parquet file."""

import argparse
import sys

from ..output.atomic import check_output_file
from ..output.terminal import quiet_transformers
from .common import default_device, optimized, positive


EXAMPLES = """\
examples:
  timesformer-hf embed videos/ --out features.parquet --model facebook/timesformer-base-finetuned-k400
  timesformer-hf embed a.mp4 b.mp4 --out frames.parquet --model ./my-model --level frame --num-frames 16
"""


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "embed",
        help="turn videos into features",
        description="Write a table with a feature of each video, in the order given. A video that can't be read is "
        "reported and left out; the exit code is then 1. Finished batches are kept in a folder beside the output "
        "until all are done: the same command continues a run that was cut off.",
        epilog=EXAMPLES,
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
        help="a model's folder or its name on the Hub; a head is left out",
    )
    parser.add_argument(
        "--level",
        choices=("clip", "frame", "patch"),
        default="clip",
        help="what has a feature: the clip (CLS), each frame (the mean of its patches) or each patch (default: clip)",
    )
    parser.add_argument("--batch-size", type=positive, default=8, metavar="B", help="videos at a time (default: 8)")
    parser.add_argument("--num-workers", type=positive, default=4, metavar="W", help="threads to decode (default: 4)")
    parser.add_argument(
        "--num-frames", type=positive, metavar="N", help="frames to look at (default: what the model was made for)"
    )
    parser.add_argument(
        "--frame-sampling-rate",
        type=positive,
        metavar="R",
        help="look at every R-th frame around the middle of the video (default: spread them over the whole video)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: an accelerator if there is one)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="number format of the model (default: auto, the checkpoint's own); features are float32",
    )


def run(args: argparse.Namespace) -> int:
    from ..inference.feature_extraction import choose_sampling, describe_settings
    from ..inference.feature_table import FeatureParts
    from ..output.parquet import import_pyarrow
    from ..video.video_folders import find_videos

    check_output_file(args.out, args.overwrite)
    import_pyarrow()
    videos = find_videos(args.videos)
    model, processor = load(args)
    sampling = choose_sampling(model, processor, args.num_frames, args.frame_sampling_rate)
    parts = FeatureParts(f"{args.out}.parts", describe_settings(model, processor, args.level, sampling))
    return embed(args, videos, model, processor, sampling, parts)


def load(args: argparse.Namespace) -> tuple:
    from ..inference.feature_extraction import load_feature_model

    with quiet_transformers():
        try:
            return load_feature_model(args.model, args.dtype, default_device(args.device))
        except Exception as error:  # the boundary to the user: whatever it is, it is about this model
            reason = str(error).strip().split("\n\n")[0]  # what follows is advice for programmers
            raise ValueError(f"can't load the model {args.model}: {reason}") from error


def embed(args: argparse.Namespace, videos: list[str], model, processor, sampling: dict, parts) -> int:
    """Embed what is not done yet, a part a batch, and merge the parts."""
    import torch

    from ..inference.feature_extraction import extract_features
    from ..inference.feature_table import source_of
    from ..version import __version__

    sources = {video: source_of(video) for video in videos}
    batches = unfinished(videos, args.batch_size, lambda video: sources[video] in parts.places)
    results = extract_features(optimized(model), processor, batches, args.level, args.num_workers, **sampling)
    try:
        failures = store(results, sources, parts, total=sum(map(len, batches)))
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"out of memory: repeat it with a smaller --batch-size; what is done is kept ({error})"
        ) from error
    if failures:
        print(f"timesformer-hf: {failures} of {len(videos)} videos failed", file=sys.stderr)
    if failures < len(videos):
        metadata = {"model": args.model, "level": args.level, "version": __version__}
        parts.merge(list(sources.values()), args.out, metadata, args.overwrite)
        if parts.folder.exists():
            print(
                f"timesformer-hf: {parts.folder} is kept: it holds other videos of an unfinished run", file=sys.stderr
            )
    else:
        if not parts.places:  # there may be some of other videos, whose run was cut off
            parts.remove()
        print(f"timesformer-hf: {args.out} is not written: it would be empty", file=sys.stderr)
    return 1 if failures else 0


def unfinished(videos: list[str], batch_size: int, done) -> list[list[str]]:
    """
    Batches of the videos that are not done. A run that is continued forms the batches of an unbroken one, because
    a batch's size has its say in the last digits of a feature.
    """
    batches = [videos[start : start + batch_size] for start in range(0, len(videos), batch_size)]
    batches = [[video for video in batch if not done(video)] for batch in batches]
    return [batch for batch in batches if batch]


def store(results, sources: dict[str, str], parts, total: int) -> int:
    """Store batch after batch and report the videos that failed; returns how many did."""
    from tqdm import tqdm

    failures = 0
    with tqdm(total=total, unit="video", disable=None) as progress:
        for batch in results:
            parts.add(batch, [sources[video.video] for video in batch])
            for video in batch:
                if video.error is not None:
                    failures += 1
                    line = video.error if video.video in video.error else f"{video.video}: {video.error}"
                    progress.write(f"timesformer-hf: {line}", file=sys.stderr)
            progress.update(len(batch))
    return failures
