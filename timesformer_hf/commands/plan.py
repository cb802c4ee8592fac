"""`timesformer-hf plan`: how long a corpus takes, on how many machines, for what price."""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..output.atomic import check_output_file, output_file
from ..output.markdown_table import markdown_table
from ..video.printable import printable
from .common import (
    add_device,
    add_model,
    add_quantize,
    add_sampling,
    add_workers,
    choose_device,
    frame_size,
    missing_videos,
    positive,
    to_json,
)


DESCRIPTION = """\
examples:
  timesformer-hf plan --videos 1e6 --seconds 10 --size 1280x720
  timesformer-hf plan some.mp4 of.mp4 mine.mp4 --videos 1e6 --model ./my-model --price 0.40 --network 1000
  timesformer-hf plan some.mp4 --videos 1e6 --model ./my-model --hours 24
  timesformer-hf plan some.mp4 --videos 1e6 --model ./my-model --device cuda --save gpu.json
  timesformer-hf plan --measured gpu.json --videos 1e9 --bytes 2e6 --network 10000 --hours 100

Plan `timesformer-hf classify --out` over a corpus. For half a minute or more this measures how long a video takes here:
decoding, the model, and both side by side as in a run. From that it says how many hours the corpus takes, what limits
the speed (network, decoding or model), what it costs, and how all this changes with other settings.

The measurement uses typical videos of yours, or one that is made of noise and moving tiles, which takes longer to
decode than most. Let nothing else run meanwhile. Give --network if the files come from elsewhere. --save keeps the
measurement, and --measured uses it on another machine.
"""

_MADE_SECONDS = 60  # the longest video that is made
_MOST_VIDEOS = 16


def add_parser(commands) -> None:
    """Add `plan` and its options to the command line."""
    parser = commands.add_parser(
        "plan",
        help="hours, machines and price of labelling a corpus",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "sample",
        nargs="*",
        metavar="VIDEO",
        help="typical videos of the corpus; a folder, @list.txt or table stands for its videos. The first "
        f"{_MOST_VIDEOS} are used (default: one is made)",
    )
    corpus = parser.add_argument_group("the corpus")
    corpus.add_argument("--videos", type=_count, required=True, metavar="N", help="number of videos, for example 1e6")
    corpus.add_argument(
        "--seconds", type=positive, default=10, metavar="S", help="length of the video that is made (default: 10)"
    )
    corpus.add_argument(
        "--size",
        type=frame_size,
        default=(1280, 720),
        metavar="WxH",
        help="width and height of the video that is made (default: 1280x720)",
    )
    corpus.add_argument(
        "--bytes",
        type=_count,
        metavar="B",
        help="mean size of a file, for --network (default: that of the videos used)",
    )
    machines = parser.add_argument_group("the machines, which are like this one or the measured one")
    machines.add_argument("--machines", type=positive, metavar="M", help="how many (default: 1)")
    machines.add_argument("--hours", type=_amount, metavar="H", help="say how many machines do it within so many hours")
    machines.add_argument("--cores", type=positive, metavar="C", help="cores of each (default: those measured)")
    machines.add_argument(
        "--network", type=_amount, metavar="MBIT", help="megabits a second that each can fetch (default: no limit)"
    )
    machines.add_argument("--price", type=_amount, metavar="P", help="price of each for an hour, in any currency")
    add_model(parser)
    add_sampling(parser)
    add_device(parser)
    add_quantize(parser)
    add_workers(parser, "8 on an accelerator, 1 on the CPU")
    parser.add_argument("--save", metavar="FILE", help="write the measurement to this JSON file")
    parser.add_argument("--measured", metavar="FILE", help="use this measurement instead of making one")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --save if it exists")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def _count(text: str) -> int:
    """1000 -> 1000, 1e6 -> 1000000"""
    return positive(str(int(_amount(text))))


def _amount(text: str) -> float:
    """The type of an argument that is a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return value


def run(args: argparse.Namespace) -> int:
    """Print the plan. Return the exit code 0."""
    if args.hours is not None and args.machines is not None:
        raise ValueError("--hours asks how many machines are needed, and --machines says it; give one of the two")
    if args.save is not None:
        check_output_file(args.save, args.overwrite)
    measured, changes, file_bytes = _read(args.measured) if args.measured else _measure(args)
    if args.save is not None:
        _save(args.save, args.overwrite, measured, changes, file_bytes)
    print(_describe(args, measured, changes, args.bytes or file_bytes))
    return 0


def _measure(args: argparse.Namespace) -> tuple:
    """Return the measurement here, those of other settings by their words, and the mean size of a file in bytes."""
    samples = _find_samples(args.sample)
    from tqdm import tqdm

    from ..scale.plan_measuring import measure_changes, measure_worker
    from ..scale.video_worker import WorkerSettings

    device = choose_device(args.device)
    sampling = {name: getattr(args, name) for name in ("num_frames", "frame_sampling_rate")}
    settings = WorkerSettings(
        model=args.model,
        device=device,
        dtype=args.dtype,
        quantize=args.quantize,
        sampling={name: value for name, value in sampling.items() if value is not None},
        batch_size=args.batch_size or (1 if device.startswith("cpu") else 8),
        num_workers=args.num_workers,
    )
    with tempfile.TemporaryDirectory() as folder:
        videos = samples or [_make_video(args, Path(folder))]
        sizes = [os.path.getsize(video) for video in videos]
        program_seconds = _time_program(settings, videos[0], folder)
        worker, measured = measure_worker(settings, videos, 3.0, program_seconds)
        others = measure_changes(worker, measured, videos, 1.0)
        changes = dict(tqdm(others, desc="other settings", unit="setting", disable=None))
    return measured, changes, sum(sizes) / len(sizes)


def _find_samples(inputs: list[str]) -> list[str]:
    """
    Return the first videos that the inputs name. Without inputs there are none.

    Raises:
        ImportError: if pyarrow is missing, which the measured program needs.
        FileNotFoundError, ValueError: if a video is not a file on this machine.
    """
    from ..output.parquet import import_pyarrow
    from ..scale.corpus import Corpus

    import_pyarrow()
    videos = list(itertools.islice(Corpus(inputs), _MOST_VIDEOS))
    if missing := missing_videos(videos):
        raise FileNotFoundError("\n  ".join(missing.values()))
    if remote := [video for video in videos if "://" in video]:
        raise ValueError(f"{printable(remote[0])} is not a file on this machine; download some typical videos first")
    return videos


def _time_program(settings, video: str, folder: str) -> float:
    """
    Return how long `timesformer-hf classify --out` takes for one video.

    Raises:
        ValueError: if it fails.
    """
    options = settings.sampling | {"model": settings.model, "quantize": settings.quantize}
    options |= {"device": settings.device, "dtype": settings.dtype, "batch_size": settings.batch_size}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    out, start = os.path.join(folder, "one.parquet"), time.perf_counter()
    command = [sys.executable, "-m", "timesformer_hf", "classify", f"--out={out}", *words, "--", video]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"can't measure {printable(video)}: {done.stderr.strip()}")
    return time.perf_counter() - start


def _make_video(args: argparse.Namespace, folder: Path) -> str:
    """Return a video of the corpus's length and size, up to a minute."""
    from ..benchmark.cases import Clip
    from ..benchmark.measuring import Environment
    from ..benchmark.videos import generated_clip

    width, height = args.size if isinstance(args.size, tuple) else (args.size, args.size)
    if args.seconds > _MADE_SECONDS:
        print(
            f"timesformer-hf: a video of {_MADE_SECONDS} s is made instead of {args.seconds} s; give typical videos of "
            "yours for a better plan",
            file=sys.stderr,
        )
    clip = Clip(width, height, min(args.seconds, _MADE_SECONDS))
    return str(generated_clip(clip, Environment("cpu", 1, 0, folder)))


def _save(path: str, overwrite: bool, measured, changes: dict, file_bytes: float) -> None:
    about = {"measured": dataclasses.asdict(measured), "file_bytes": file_bytes}
    about["changes"] = {words: dataclasses.asdict(other) for words, other in changes.items()}
    with output_file(path, overwrite) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")


def _read(path: str) -> tuple:
    """
    Return what `_save` wrote.

    Raises:
        ValueError: if the file is not a measurement.
        FileNotFoundError: if there is no such file.
    """
    from ..scale.plan import Measurement

    try:
        about = json.loads(Path(path).read_text())
        changes = {words: Measurement(**other) for words, other in about["changes"].items()}
        return Measurement(**about["measured"]), changes, float(about["file_bytes"])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--measured {printable(path)}: there is no such file; plan --save makes it") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{printable(path)} was not written by timesformer-hf plan --save ({error})") from error


def _describe(args: argparse.Namespace, measured, changes: dict, file_bytes: float) -> str:
    """Return the plan as text, or with `--json` as JSON."""
    from ..scale.plan import Corpus, Machines, count_machines, make_plan

    corpus = Corpus(args.videos, file_bytes)
    network = args.network and args.network * 1e6 / 8
    machines = Machines(args.cores, args.machines or 1, network, args.price)
    if args.hours is not None:
        number = count_machines(measured, corpus, machines, args.hours)
        machines = dataclasses.replace(machines, number=number)
    plans = {"as measured": make_plan(measured, corpus, machines)}
    plans |= {words: make_plan(other, corpus, machines) for words, other in changes.items()}
    if args.json:
        about = {"measured": dataclasses.asdict(measured), "machines": dataclasses.asdict(machines)}
        return to_json(about | {"plans": {words: dataclasses.asdict(plan) for words, plan in plans.items()}})
    return "\n".join([_headline(args, measured, machines, plans["as measured"]), "", _table(plans)])


def _headline(args: argparse.Namespace, measured, machines, plan) -> str:
    cores = f"{machines.cores or measured.cores} cores of {measured.machine}"
    where = f"{cores}, {measured.device}" if measured.has_accelerator else cores
    some = f"{machines.number:,} machines" if machines.number > 1 else "1 machine"
    lines = [
        f"A video takes {measured.decode_core_seconds * 1e3:.1f} ms of one core to decode and "
        f"{measured.model_seconds * 1e3:.1f} ms of the model on {measured.device} "
        f"({measured.video_seconds * 1e3:.1f} ms in a run, on {measured.cores} cores).",
        f"{args.videos:,} videos on {some} ({where}): {_hours(plan.hours)}"
        + (f", price {plan.price:,.2f}" if plan.price is not None else "")
        + f". The limit is {_LIMITS[plan.limit]}.",
    ]
    return "\n".join(lines)


_LIMITS = {"network": "the network", "decoding": "decoding", "model": "the model"}


def _hours(hours: float) -> str:
    """0.02 -> "1.2 minutes", 30 -> "30.0 hours", 100 -> "4.2 days" """
    if hours < 1:
        return f"{60 * hours:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:.1f} days"


def _table(plans: dict) -> str:
    """Return a Markdown table with a row for each plan."""
    priced = next(iter(plans.values())).price_per_million is not None
    heads = ["setting", "videos a second and machine", "time", "limit", *(["price of a million"] if priced else [])]
    rows = []
    for words, plan in plans.items():
        price = [f"{plan.price_per_million:,.2f}"] if priced else []
        rows.append([words, f"{plan.videos_per_second:,.1f}", _hours(plan.hours), plan.limit, *price])
    return markdown_table(heads, rows)
