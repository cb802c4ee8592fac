"""Cases that classify many video files. A path that decodes the next files meanwhile keeps the model busy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ..video.video_sampling import uniform
from .cases import Case
from .labels import LEAST_TOLERANCE, all_scores, frame_settings, make_labeller, make_pipeline
from .matrix_products import total_multiply_accumulates
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


DISTINCT_FILES = 10  # larger cases repeat these files, to limit the time for encoding them and for the reference


@dataclass(frozen=True)
class Task:
    """
    The model and the files of a case.

    Attributes:
        bench: the model.
        distinct_files: the different files. The case repeats them until it has `num_files`.
        indices: the indices of the frames in each file that the model gets.
    """

    bench: ModelBench
    distinct_files: Sequence[Path]
    indices: Sequence[int]

    @property
    def files(self) -> list[Path]:
        """All files of the case, with repetitions."""
        return self.of_each(self.distinct_files)

    def of_each(self, distinct: Sequence) -> list:
        """Return one value for each file of the case, given those of the distinct files."""
        return [distinct[number % len(distinct)] for number in range(self.bench.case.num_files)]


def make_workload(case: Case, environment: Environment) -> Workload:
    """
    Return the workload of a case: classify many files.

    Raises:
        UnavailableError: where H.264 can't be encoded here, or the hardware doesn't have the case's dtype.
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
        multiply_accumulates=total_multiply_accumulates(bench.products) * case.num_files // case.batch_size,
    )


def reference(task: Task) -> torch.Tensor:
    """Return the probabilities (files, labels) of the built-in model in float32 on frames decoded by PyAV."""
    label = make_labeller(decode_sequentially, task.bench, task.indices, torch.float32)
    return torch.stack(task.of_each([label(file) for file in task.distinct_files]))


def prepare_pipeline(task: Task, optimized: bool = False, **settings) -> Prepared:
    """Prepare this package's `pipeline()` on the list of files."""
    classifier = make_pipeline(task.bench, optimized)
    return _classify_all(task, partial(classifier, batch_size=task.bench.case.batch_size, **settings))


def _prepare_built_in_pipeline(task: Task) -> Prepared:
    """Prepare transformers' own `pipeline()`, which decodes with torchcodec and doesn't form batches of videos."""
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
    """Prepare a plain loop that decodes one file after the other and classifies it with the built-in model."""
    if decode is decode_with_torchcodec:
        check_torchcodec()
    label = make_labeller(decode, task.bench, task.indices)
    return Prepared(lambda: torch.stack([label(file) for file in task.files]))


def prepare_limit(task: Task) -> Prepared:
    """Prepare the limit: the matmuls of the original model for all batches."""
    run_products = torch.inference_mode()(task.bench.prepare_products())

    def run() -> None:
        for _ in range(0, task.bench.case.num_files, task.bench.case.batch_size):
            run_products()

    return Prepared(run)


PATHS = {
    "ours": CodePath("ours", "timesformer_hf, pipeline() on a list", prepare_pipeline),
    "ours-optimized": CodePath(
        "ours", "the same, with optimize_for_inference", partial(prepare_pipeline, optimized=True)
    ),
    "ours-serial": CodePath("ours", "pipeline(), no file decoded ahead", partial(prepare_pipeline, prefetch_workers=0)),
    "built-in-pipeline": CodePath("peer", "transformers' own pipeline() on a list", _prepare_built_in_pipeline),
    "built-in-torchcodec": CodePath(
        "peer", "torchcodec and the built-in model, in a loop", partial(_prepare_loop, decode_with_torchcodec)
    ),
    "built-in-pyav": CodePath(
        "peer", "PyAV, every frame, and the built-in model, in a loop", partial(_prepare_loop, decode_sequentially)
    ),
    "matrix-products": CodePath("limit", "the matmuls of all clips, without decoding", prepare_limit),
}
