"""The labels of many video files. Whoever decodes the next ones meanwhile, keeps the model busy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ..video.video_sampling import uniform
from .cases import Case
from .labels import LEAST_TOLERANCE, all_scores, frame_settings, make_labeller, make_pipeline
from .matrix_products import count
from .measuring import CodePath, Environment, Prepared, Workload
from .models import TOLERANCES, ModelBench, check_dtype, relative_difference
from .videos import (
    DecodeFrames,
    check_torchcodec,
    decode_sequentially,
    decode_with_torchcodec,
    generated_clip,
    num_frames,
)


DISTINCT_FILES = 10  # more files repeat them, so that they and the reference cost no more


@dataclass(frozen=True)
class Task:
    """
    Attributes:
        distinct_files: the files of the case are these, again and again.
        indices: of the model's frames in each.
    """

    bench: ModelBench
    distinct_files: Sequence[Path]
    indices: Sequence[int]

    @property
    def files(self) -> list[Path]:
        return self.of_each(self.distinct_files)

    def of_each(self, distinct: Sequence) -> list:
        """What is given for the distinct files, for every file."""
        return [distinct[number % len(distinct)] for number in range(self.bench.case.num_files)]


def make_workload(case: Case, environment: Environment) -> Workload:
    """
    Raises:
        UnavailableError: where no H.264 can be encoded here, or the hardware hasn't the case's dtype.
    """
    check_dtype(case.dtype, environment.device)
    bench = ModelBench(case, environment)
    seeds = range(environment.seed, environment.seed + min(case.num_files, DISTINCT_FILES))
    files = [generated_clip(case.clip, replace(environment, seed=seed)) for seed in seeds]
    task = Task(bench, files, uniform(total_num_frames=num_frames(case.clip), num_frames=bench.config.num_frames))
    return Workload(
        prepare={name: partial(PATHS[name].prepare, task) for name in case.paths},
        reference=partial(reference, task),
        difference=relative_difference,
        tolerance=lambda path: max(LEAST_TOLERANCE, TOLERANCES[case.dtype]),
        multiply_accumulates=count(bench.products) * case.num_files // case.batch_size,
    )


def reference(task: Task) -> torch.Tensor:
    """Probabilities (files, labels)"""
    label = make_labeller(decode_sequentially, task.bench, task.indices, torch.float32)
    return torch.stack(task.of_each([label(file) for file in task.distinct_files]))


def prepare_pipeline(task: Task, optimized: bool = False, **settings) -> Prepared:
    """`pipeline()` on the list of files."""
    classifier = make_pipeline(task.bench, optimized)
    return _classify_all(task, partial(classifier, batch_size=task.bench.case.batch_size, **settings))


def _prepare_built_in_pipeline(task: Task) -> Prepared:
    """The same of transformers alone, which decodes with torchcodec, and doesn't make batches of videos."""
    from transformers.models.timesformer.video_processing_timesformer import TimesformerVideoProcessor
    from transformers.pipelines.video_classification import VideoClassificationPipeline

    check_torchcodec()
    bench = task.bench
    processor = TimesformerVideoProcessor(**frame_settings(bench), num_frames=bench.config.num_frames)
    device = torch.device(bench.device)
    return _classify_all(
        task, VideoClassificationPipeline(model=bench.built_in(), video_processor=processor, device=device)
    )


def _classify_all(task: Task, classifier: Callable[..., list[list[dict]]]) -> Prepared:
    files, num_labels = [str(file) for file in task.files], task.bench.config.num_labels
    return Prepared(
        lambda: torch.stack([all_scores(task.bench, answer) for answer in classifier(files, top_k=num_labels)])
    )


def _prepare_loop(decode: DecodeFrames, task: Task) -> Prepared:
    """The built-in model, file after file."""
    if decode is decode_with_torchcodec:
        check_torchcodec()
    label = make_labeller(decode, task.bench, task.indices)
    return Prepared(lambda: torch.stack([label(file) for file in task.files]))


def prepare_limit(task: Task) -> Prepared:
    run_products = torch.inference_mode()(task.bench.prepare_products())

    def run() -> None:
        for _ in range(0, task.bench.case.num_files, task.bench.case.batch_size):
            run_products()

    return Prepared(run)


PATHS = {
    "ours": CodePath("ours", "timesformer_hf, pipeline() on a list", prepare_pipeline),
    "ours-optimized": CodePath(
        "ours", "the same, of a model of optimize_for_inference", partial(prepare_pipeline, optimized=True)
    ),
    "ours-serial": CodePath(
        "ours", "pipeline(), each file when its turn has come", partial(prepare_pipeline, prefetch_workers=0)
    ),
    "built-in-pipeline": CodePath("peer", "transformers' own pipeline() on a list", _prepare_built_in_pipeline),
    "built-in-torchcodec": CodePath(
        "peer", "torchcodec and the built-in model, in a loop", partial(_prepare_loop, decode_with_torchcodec)
    ),
    "built-in-pyav": CodePath(
        "peer", "PyAV, every frame, and the built-in model, in a loop", partial(_prepare_loop, decode_sequentially)
    ),
    "matrix-products": CodePath("limit", "the matrix products of all clips, one after the other", prepare_limit),
}
