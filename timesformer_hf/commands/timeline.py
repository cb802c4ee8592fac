"""`timesformer-hf timeline`: what happens when in long videos and live streams."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..output.terminal import counted, video_error
from ..shipped_models import CAMERA_MOTION
from ..video.printable import printable
from .classify import NO_MODEL
from .common import add_device, add_engine, add_model, choose_device, missing_videos, positive, resumable, to_json


DESCRIPTION = """\
examples:
  timesformer-hf timeline film.mp4
  timesformer-hf timeline film.mp4 --model facebook/timesformer-base-finetuned-k400 --labels archery "riding a bike"
  timesformer-hf timeline film.mp4 --out film.srt --out film.json --out film.png
  timesformer-hf timeline videos/ --out {name}.edl --window 4 --stride 1 --threshold 0.7 --shots
  timesformer-hf timeline rtsp://192.168.0.20/stream --live --json >> camera.jsonl
  timesformer-hf timeline camera:0 --live

Print what happens when in each video: segments with start, end, label and score. The model classifies windows of the
video, one after the other, and windows with the same label become a segment.

The name of an output says its format:

  .json              ActivityNet's form      .edl               markers for DaVinci Resolve
  .csv               a table                 .otio              OpenTimelineIO, for video editors
  .srt .vtt          subtitles               .eaf               ELAN
  .png               labels over time        .labelstudio.json  pre-annotations for Label Studio
  .mp4               the film with its labels in the picture

With --out, an interrupted run goes on where it was: repeat the same command. Until then, the scores of finished windows
are in a file beside the first output, with the ending .scores.

With --engine ray, actors of Ray make the timelines of many films side by side. Then a film that was interrupted begins
again.

With --live, print a line as soon as a segment ends. The source is a camera (camera:0), an RTSP, HTTP, UDP or TCP
stream, or - for the standard input.
"""

_BATCH = 8  # windows


def add_parser(commands) -> None:
    """Add `timeline` and its options to the command line."""
    parser = commands.add_parser(
        "timeline",
        help="print what happens when in long videos and live streams",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="a video file, an http(s) URL, or a folder to search for videos; with --live the source of the stream",
    )
    add_model(parser)
    parser.add_argument(
        "--out",
        action="append",
        default=[],
        metavar="FILE",
        help="write the timeline to a file, in the format of its name. It can be given several times. For several "
        "videos, {name} in it stands for the name of the video (default: print a table)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the outputs if they exist")
    parser.add_argument(
        "--window",
        type=float,
        metavar="S",
        help="length of a window in seconds (default: the span of the model's own sampling, or 10 where it takes whole "
        "videos)",
    )
    parser.add_argument(
        "--stride", type=float, metavar="S", help="seconds from one window to the next (default: half a window)"
    )
    parser.add_argument(
        "--labels", nargs="+", metavar="NAME", help="only segments with these labels (default: all of the model)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="T",
        help="a segment begins where its score reaches T, and ends where it falls below 0.7 T (default: 0.5)",
    )
    parser.add_argument(
        "--shots", action="store_true", help="end windows and segments at shot boundaries, which PySceneDetect finds"
    )
    parser.add_argument("--live", action="store_true", help="read a live source until it ends or you press Ctrl-C")
    parser.add_argument(
        "--batch-size",
        type=positive,
        metavar="B",
        help=f"windows that the model takes at once (default: {_BATCH}; with --live 1, because more delay the results)",
    )
    add_device(parser)
    add_engine(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line: for each video the content of a .json output, or {video, error}; with "
        "--live {video, start, end, label, score} for each segment",
    )


def run(args: argparse.Namespace) -> int:
    """Print or write the timeline of each video. Return the exit code: 1 if a video failed."""
    if args.live:
        return _run_live(args)
    from ..timeline.formats import check_timeline_file
    from ..video.video_folders import find_videos

    videos = find_videos(args.videos)
    missing = missing_videos(videos)
    outputs = _name_outputs(args.out, videos)
    for paths in outputs.values():
        for path in paths:
            check_timeline_file(path, args.overwrite)
    if len(missing) < len(videos) and args.engine is not None:
        failures = _run_on_ray(args, videos, outputs)
    else:
        failures = _run_here(args, videos, missing, outputs)
    if failures and len(videos) > 1:
        print(f"timesformer-hf: {failures} of {len(videos)} videos failed", file=sys.stderr)
    return 1 if failures else 0


def _run_here(
    args: argparse.Namespace, videos: Sequence[str], missing: dict[str, str], outputs: dict[str, list[str]]
) -> int:
    """Make the timelines in this process, one after the other. Return the number of videos that failed."""
    for name in ("address", "num_actors", "threads"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for Ray; give --engine ray too")
    if len(missing) < len(videos):
        model, processor, settings = _load(args, args.batch_size or _BATCH)
    failures = 0
    for video in videos:
        try:
            if video in missing:
                raise _UnreadableError(missing[video])
            with resumable("Finished windows are kept; the same command goes on from there." if args.out else ""):
                _make_timeline(args, model, processor, settings, video, outputs[video])
        except _UnreadableError as error:
            failures += 1
            _report_failure(args, video, error)
    return failures


def _run_on_ray(args: argparse.Namespace, videos: Sequence[str], outputs: dict[str, list[str]]) -> int:
    """Make the timelines by actors of Ray, in any order. Return the number of videos that failed."""
    from ..scale.ray_engine import RayEngine, check_machines, connected, plan_actors
    from ..scale.video_worker import VideoRow, VideoWorker, WorkerSettings

    with connected(args.address) as ray:
        there = ray.cluster_resources()
        actors = plan_actors(int(there.get("CPU", 1)), int(there.get("GPU", 0)), args.num_actors, args.device)
        check_machines(ray, args.model)
        here = argparse.Namespace(**vars(args) | {"device": "cpu"})  # this machine may lack the device
        _, _, timeline = _load(here, args.batch_size or _BATCH)
        threads = args.threads or actors.cores
        settings = WorkerSettings(args.model, dtype=args.dtype, timeline=timeline, threads=threads)
        worker = VideoWorker(settings)
        known = {"weights": worker.weights, "kernels": worker.describe_execution()["kernels"]}
        chunks = ([[VideoRow(str(number), video)]] for number, video in enumerate(videos))
        failures = 0
        for rows in RayEngine(ray, actors, replace(settings, **known)).run(chunks):
            for row in rows:
                if row.error is None:
                    _deliver(args, row.video, row.timeline, outputs[row.video])
                else:
                    failures += 1
                    _report_failure(args, row.video, row.error)
        return failures


class _UnreadableError(Exception):
    """Raised if a video is unreadable. The others are still processed."""


def _report_failure(args: argparse.Namespace, video: str, error: Exception | str) -> None:
    if args.json:
        print(to_json({"video": video, "error": str(error)}), flush=True)
    else:
        print(f"timesformer-hf: {video_error(printable(video), printable(str(error)))}", file=sys.stderr)


def _name_outputs(names: Sequence[str], videos: Sequence[str]) -> dict[str, list[str]]:
    """
    Return the outputs of each video, with its name in the place of `{name}`.

    Raises:
        ValueError: if two timelines would have the same output.
    """
    outputs = {video: [name.replace("{name}", Path(video).stem) for name in names] for video in videos}
    paths = [os.path.abspath(path) for video in dict.fromkeys(videos) for path in outputs[video]]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise ValueError(
            f"--out: two timelines would be written to {printable(twice)}; put {{name}} into it, which stands for "
            "the name of the video"
        )
    return outputs


def _load(args: argparse.Namespace, batch_size: int) -> tuple:
    """
    Load the model and check the settings. Return the model, its video processor and the settings of a timeline.

    Raises:
        ValueError: if the model can't be loaded, or a setting is not allowed.
        ImportError: if a setting needs a package that is missing.
    """
    from ..inference.loading import load_fast_pipeline
    from ..timeline.stream_classifier import StreamClassifier

    device = choose_device(args.device)
    if args.model is None:
        print(NO_MODEL, file=sys.stderr)
    classifier = load_fast_pipeline(CAMERA_MOTION if args.model is None else args.model, device, args.dtype)
    names = ("window", "stride", "labels", "threshold", "shots")
    settings = {name: getattr(args, name) for name in names} | {"batch_size": batch_size}
    try:
        StreamClassifier(classifier.model, classifier.video_processor, fps=25.0, **settings)
    except TypeError as error:
        raise ValueError(f"{args.model}: {error}") from error
    return classifier.model, classifier.video_processor, settings


def _make_timeline(
    args: argparse.Namespace, model, processor, settings: dict, video: str, outputs: Sequence[str]
) -> None:
    """Make, write and print the timeline of a video."""
    import torch
    from tqdm import tqdm

    from ..timeline.video_timeline import make_timeline
    from ..video.video_errors import VideoReadError

    scores = f"{outputs[0]}.scores" if outputs else None
    with tqdm(unit="s of video", desc=printable(Path(video).name), disable=None, leave=False) as bar:

        def progress(seconds: float, duration: float | None) -> None:
            bar.total = None if duration is None else round(max(duration, seconds))
            bar.update(round(seconds) - bar.n)

        try:
            found = make_timeline(model, processor, video, resume=scores, progress=progress, **settings)
        except (VideoReadError, FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise _UnreadableError(error) from error
        except torch.OutOfMemoryError as error:
            raise ValueError(f"out of memory: give a smaller --batch-size ({error})") from error
    _deliver(args, video, found, outputs)
    if scores is not None:
        Path(scores).unlink(missing_ok=True)


def _deliver(args: argparse.Namespace, video: str, found, outputs: Sequence[str]) -> None:
    """Write and print the timeline of a video."""
    from ..timeline.formats import write_timeline

    if found.is_shorter_than_window:
        note = f"is shorter than a window of {found.window:g} s, so it is one window"
        print(f"timesformer-hf: {printable(video)} {note}", file=sys.stderr)
    for path in outputs:
        write_timeline(path, found, video, args.overwrite)
    if args.json:
        print(to_json(found.to_dict()), flush=True)
    elif outputs:
        print(
            f"{printable(video)}: {counted(len(found.segments), 'segment')} in {printable(', '.join(outputs))}",
            flush=True,
        )
        if not found.segments:
            print(f"timesformer-hf: {_why_none(args)}", file=sys.stderr)
    else:
        print(_table(args, video, found), flush=True)


def _table(args: argparse.Namespace, video: str, found) -> str:
    """Return the segments of a video under its name, as text."""
    rows = [printable(video)]
    width = max((len(printable(segment.label)) for segment in found.segments), default=0)
    rows += [_row(segment, width) for segment in found.segments]
    return "\n".join(rows if len(rows) > 1 else [*rows, f"  {_why_none(args)}"])


def _why_none(args: argparse.Namespace) -> str:
    """Say why a timeline has no segment, and what to do."""
    if args.labels:
        return f"no segment with these labels: give a --threshold below {args.threshold:g}, or leave out --labels"
    return f"no segment: no score reaches the threshold; give a --threshold below {args.threshold:g}"


def _row(segment, width: int = 0) -> str:
    return (
        f"  {_clock(segment.start)}  {_clock(segment.end)}  {printable(segment.label):<{width}}  {segment.score:7.2%}"
    )


def _clock(seconds: float) -> str:
    """Return hours, minutes and seconds, for example 0:01:02.50."""
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes // 60}:{minutes % 60:02}:{rest // 100:02}.{rest % 100:02}"


def _run_live(args: argparse.Namespace) -> int:
    """Print the segments of a live source as they end. Return the exit code: 1 if the source broke."""
    from ..timeline.live import classify_live
    from ..video.live_stream import describe_live

    if len(args.videos) != 1:
        raise ValueError(f"--live reads one source, got {len(args.videos)}")
    if args.out:
        raise ValueError("--out is for videos with an end; with --live, redirect the lines: --json >> FILE")
    (source,) = args.videos
    model, processor, settings = _load(args, args.batch_size or 1)
    name = describe_live(source)

    def report(message: str) -> None:
        print(f"timesformer-hf: {printable(message)}", file=sys.stderr, flush=True)

    for segment in classify_live(model, processor, source, report=report, **settings):
        times = {"start": segment.start, "end": segment.end}
        line = {"video": name} | times | {"label": segment.label, "score": segment.score}
        print(to_json(line) if args.json else _row(segment), flush=True)
    return 0
