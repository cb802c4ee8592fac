"""The run behind `classify --out` and `embed`: many videos, a table with a row for each, and what is said meanwhile."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..output.atomic import check_output_file, output_file
from ..output.terminal import video_error
from ..video.printable import printable
from .common import choose_device, missing_videos, resumable


_SHOWN_ERRORS = 20
_SAMPLING = ("num_frames", "frame_sampling_rate", "views", "num_clips", "num_crops")


def check_table(args: argparse.Namespace) -> None:
    """
    Check the output before anything is loaded.

    Raises:
        ValueError, OSError, ImportError: if it can't be written.
    """
    from ..output.parquet import import_pyarrow

    check_output_file(args.out, args.overwrite or args.retry_errors)
    if not args.out.endswith(".parquet"):
        raise ValueError(f"--out {args.out}: the table is a Parquet file, so its name must end in .parquet")
    import_pyarrow()


def read_inputs(args: argparse.Namespace):
    """
    Return the [`Corpus`] of the arguments.

    Raises:
        ValueError, FileNotFoundError: if an input can't be read, or none of the files exists.
    """
    from ..scale.corpus import Corpus

    corpus = Corpus(args.videos, args.column)
    videos = corpus.known_videos()
    missing = missing_videos(videos or [])
    if videos is not None and len(missing) == len(set(videos)):
        raise FileNotFoundError("\n  ".join(missing.values()))
    return corpus


def worker_settings(args: argparse.Namespace, device: str, **more):
    """Return the [`WorkerSettings`] of the arguments."""
    from ..scale.video_worker import FileLimits, WorkerSettings

    sampling = {name: getattr(args, name) for name in _SAMPLING if getattr(args, name, None) is not None}
    return WorkerSettings(
        model=args.model,
        device=device,
        dtype=args.dtype,
        quantize=args.quantize,
        sampling=sampling,
        num_workers=args.num_workers,
        limits=FileLimits(args.max_seconds, args.max_pixels, args.max_memory),
        **more,
    )


def run_many(args: argparse.Namespace, corpus, make_settings: Callable, open_parts: Callable, finish: Callable) -> int:
    """
    Compute the rows that are missing, store them as parts, say which videos failed, and finish the table.

    Args:
        make_settings: device -> the settings of a worker.
        open_parts: (folder, settings) -> the parts of a run, a [`TableParts`] with the methods `add_rows` and
            `take_over`.
        finish: (parts, sources of all videos in order, number of videos that failed in this run, metadata) -> exit
            code. It merges the parts.

    Raises:
        BlockingIOError: if another run writes the same table.
        ValueError: if the model can't be loaded, or its settings are not those of the parts.
    """
    import torch

    from ..scale.corpus_run import CorpusRun
    from ..version import __version__

    folder = Path(f"{args.out}.parts")
    with _engine(args, make_settings, folder) as (worker, settings, run_chunks):
        more = {} if settings.quantize is None else {"quantize": settings.quantize}
        parts = open_parts(folder, worker.description | more)
        with parts.alone(), resumable("Finished batches are kept; the same command goes on from there."):
            execution = worker.describe_execution() | {"device": settings.device}
            _write_execution(folder, execution)
            if args.retry_errors and os.path.exists(args.out):
                parts.take_over(args.out)
            run = CorpusRun(settings.batch_size, parts.places.__contains__, 1 if settings.level else None)
            try:
                failures = _store(run_chunks(run.pending_chunks(corpus)), parts, corpus.count())
            except torch.OutOfMemoryError as error:
                raise ValueError(
                    f"out of memory: give a smaller --batch-size; what is done is kept ({error})"
                ) from error
            metadata = {"model": settings.model_name, "weights": worker.weights, "version": __version__}
            metadata |= {"execution": execution, "limits": vars(settings.limits)}
            return finish(parts, run.sources, failures, metadata)


@contextlib.contextmanager
def _engine(args: argparse.Namespace, make_settings: Callable, folder: Path) -> Iterator[tuple]:
    """
    Yield a worker in this process, which says what the rows depend on, the settings of the workers that compute, and
    the function by which they compute chunks.

    Raises:
        ValueError, OSError, ImportError: if the model can't be loaded, or Ray can't be reached or lacks something.
    """
    from ..scale.corpus_run import run_here
    from ..scale.video_worker import VideoWorker

    if args.engine is None:
        for name in ("address", "num_actors"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is for Ray; give --engine ray too")
        settings = make_settings(choose_device(args.device))
        worker = VideoWorker(replace(settings, threads=args.threads, kernels=_read_kernels(folder)))
        yield worker, settings, partial(run_here, worker)
        return
    from ..scale.ray_engine import RayEngine, check_machines, connected, plan_actors

    with connected(args.address) as ray:
        there = ray.cluster_resources()
        actors = plan_actors(int(there.get("CPU", 1)), int(there.get("GPU", 0)), args.num_actors, args.device)
        settings = make_settings(actors.device)
        check_machines(ray, settings.model)
        settings = replace(settings, threads=args.threads or actors.cores, kernels=_read_kernels(folder))
        on_cpu = actors.device == "cpu"  # this machine may lack the device
        worker = VideoWorker(replace(settings, device="cpu", quantize=settings.quantize if on_cpu else None))
        known = {"weights": worker.weights, "kernels": worker.describe_execution()["kernels"]}
        engine = RayEngine(ray, actors, replace(settings, **known), in_order=settings.level is not None)
        yield worker, engine.settings, engine.run


def _read_kernels(folder: Path) -> dict[str, str] | None:
    """Return the kernels that a run was started with, so that it goes on with the same ones."""
    try:
        return json.loads((folder / "execution.json").read_text())["kernels"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_execution(folder: Path, execution: dict) -> None:
    with output_file(folder / "execution.json", overwrite=True) as path:
        path.write_text(json.dumps(execution, indent=2))


def _store(results, parts, total: int | None) -> int:
    """Store the rows as they come, and report the videos that failed. Return the number of those."""
    from tqdm import tqdm

    failures = 0
    with tqdm(total=total, unit="video", disable=None) as progress:
        for rows in results:
            parts.add_rows(rows)
            for row in rows:
                if row.error is not None:
                    failures += 1
                    if failures <= _SHOWN_ERRORS:
                        error = video_error(printable(row.video), printable(row.error))
                        progress.write(f"timesformer-hf: {error}", file=sys.stderr)
            progress.update(len(rows))
    return failures
