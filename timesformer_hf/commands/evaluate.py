"""`timesformer-hf evaluate`: measure a classifier on labelled videos."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator

from ..output.extras import check_packages


DESCRIPTION = """\
examples:
  timesformer-hf evaluate --model my-model --data videos/ --output_dir results
  timesformer-hf evaluate --model my-model --data videos/ --output_dir results --views paper --frame_sampling_rate 32
  timesformer-hf evaluate --model my-model --data videos/ --output_dir results --time-audit
  accelerate launch --num_processes 8 -m timesformer_hf evaluate --model my-model --data videos/ --output_dir results

Measure a classifier on labelled videos. This writes results.json (accuracies with intervals, every class, calibration),
videos.parquet (path, label, prediction and scores of every video), label_errors.csv (labels that are probably wrong)
and confusion_matrix.png. Any number of processes gives the same numbers, except for the last digits of float32, and the
same command continues a run that was cut off. docs/evaluation.md says what it all means. --verbose shows the warnings
of other packages too.
"""


def add_parser(commands) -> None:
    parser = commands.add_parser("evaluate", help="measure a classifier on labelled videos", add_help=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure as `args.words` say, and print the results."""
    if not {"-h", "--help"} & set(args.words):
        check_packages("evaluate", ("matplotlib", "pyarrow"), "train")  # before torch is imported, which takes seconds
    from datetime import timedelta

    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs
    from tqdm import tqdm

    from ..evaluation.label_errors import label_error_text
    from ..evaluation.measuring import evaluate_model
    from ..evaluation.results import summary
    from ..evaluation.time_audit import time_audit_text
    from .common import resumable

    def report(error: str) -> None:
        tqdm.write(f"timesformer-hf: {error}", file=sys.stderr)

    options = parse_arguments(args.words)
    waiting = InitProcessGroupKwargs(timeout=timedelta(days=7))  # for the slowest share
    accelerator = Accelerator(cpu=options.use_cpu, kwargs_handlers=[waiting])
    try:
        with resumable("What is done is kept; the same command goes on from there."), _engine(options) as elsewhere:
            results = evaluate_model(options, accelerator, report, elsewhere)
    except torch.OutOfMemoryError as error:
        message = f"out of memory: repeat it with a smaller --batch_size; what is done is kept ({error})"
        print(f"timesformer-hf: {message}", file=sys.stderr)
        return 2
    except BrokenPipeError as error:  # of a worker process: the main program would take it for the end of `| head`
        print(f"timesformer-hf: {error}", file=sys.stderr)
        return 2
    if results is not None:
        print(f"{results['videos']} videos measured, {len(results['failed'])} failed")
        print(summary(results))
        print(label_error_text(results["label_errors"]))
        if "time_audit" in results:
            print(time_audit_text(results["time_audit"]))
    accelerator.end_training()
    return 0


@contextlib.contextmanager
def _engine(options) -> Iterator:
    """
    Yield what scores videos in place of this process, or `None`.

    Raises:
        ValueError, OSError, ImportError: where options don't fit, or Ray can't be reached or lacks something.
    """
    if options.engine is None:
        for name in ("address", "num_actors"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} is for Ray; give --engine ray too")
        yield None
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--engine ray shares out the work itself; start one process, not several by accelerate")
    from ..scale.ray_engine import check_machines, connected, plan_actors, score_on_ray
    from ..scale.video_worker import WorkerSettings

    with connected(options.address) as ray:
        there = ray.cluster_resources()
        device = "cpu" if options.use_cpu else None
        actors = plan_actors(int(there.get("CPU", 1)), int(there.get("GPU", 0)), options.num_actors, device)
        check_machines(ray, options.model)

        def score(videos, batches: list[list[int]], weights: str, sampling: dict, scoring: dict) -> Iterator:
            if any(video.fetch is not None for video in videos):
                raise ValueError(
                    f"--engine ray reads files and URLs, and {options.data} contains the videos themselves"
                )
            settings = WorkerSettings(
                model=options.model,
                dtype=options.dtype,
                quantize=options.quantize,
                sampling=sampling,
                batch_size=options.batch_size,
                scoring=scoring,
                time_audit=options.time_audit,
                num_workers=options.num_workers,
                threads=actors.cores,
                weights=weights,
            )
            return score_on_ray(ray, actors, settings, [video.name for video in videos], batches)

        yield score


def parse_arguments(words: list[str]):
    """
    Return the options as an `EvaluationArguments`.

    Raises:
        ValueError: for an unknown option.
    """
    from transformers import HfArgumentParser

    from ..evaluation.arguments import EvaluationArguments
    from ..output.options import HelpFormatter, check_options

    parser = HfArgumentParser(
        EvaluationArguments,
        prog="timesformer-hf evaluate",
        description=DESCRIPTION,
        formatter_class=HelpFormatter,
    )
    options, unknown = parser.parse_args_into_dataclasses(
        words, look_for_args_file=False, return_remaining_strings=True
    )
    check_options(unknown, parser._option_string_actions)
    return options
