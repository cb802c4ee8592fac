"""Cases that do everything from a video file to the probabilities of its labels."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from ..inference.folding import optimize_for_inference
from ..video.video_sampling import uniform
from .cases import Case
from .matrix_products import total_multiply_accumulates
from .measuring import CodePath, Environment, Prepared, Workload
from .models import TOLERANCES, ModelBench, check_dtype, relative_difference
from .videos import (
    DecodeFrames,
    check_torchcodec,
    decode_all,
    decode_sequentially,
    decode_with_torchcodec,
    generated_clip,
    num_frames,
)


_MEAN, _STD = [0.45] * 3, [0.225] * 3
# Least tolerance for probabilities, relative to the largest. The peers convert and resize frames with other libraries,
# whose roundings differ by half a grey level. That is little against the rounding of all dtypes but fp32.
LEAST_TOLERANCE = 0.02
Task = tuple[ModelBench, Path, Sequence[int]]  # the model, a file, the indices of the model's frames


def make_workload(case: Case, environment: Environment) -> Workload:
    """
    Return the workload of a case: classify one file.

    Raises:
        UnavailableError: where H.264 can't be encoded here, or the hardware doesn't have the case's dtype.
    """
    check_dtype(case.dtype, environment.device)
    bench, file = ModelBench(case, environment), generated_clip(case.clip, environment)
    task = (bench, file, uniform(total_num_frames=num_frames(case.clip), num_frames=bench.config.num_frames))
    return Workload(
        prepare={name: partial(PATHS[name].prepare, task) for name in case.paths},
        reference=lambda: _prepare_labels(decode_sequentially, *task, dtype=torch.float32).run(),
        difference=relative_difference,
        tolerance=lambda path: max(LEAST_TOLERANCE, TOLERANCES[case.dtype]),
        multiply_accumulates=total_multiply_accumulates(bench.products),
    )


def prepare_pipeline(task: Task, optimized: bool = False) -> Prepared:
    """Prepare this package's `pipeline()`, which decodes, resizes, classifies and names the labels."""
    bench, file, _ = task
    classifier = make_pipeline(bench, optimized)
    return Prepared(lambda: all_scores(bench, classifier(str(file), top_k=bench.config.num_labels)))


def make_pipeline(bench: ModelBench, optimized: bool):
    """Return this package's pipeline with the model of a case, with `optimize_for_inference` if `optimized`."""
    from transformers import pipeline

    from ..video.video_processing_timesformer import TimesformerVideoProcessor

    processor = TimesformerVideoProcessor(**frame_settings(bench), num_frames=bench.config.num_frames)
    model = optimize_for_inference(bench.ours()) if optimized else bench.ours()
    return pipeline("video-classification", model=model, video_processor=processor, device=bench.device)


def frame_settings(bench: ModelBench) -> dict:
    """Return the settings of a processor that make frames of the model's size."""
    size = {"height": bench.image_size[0], "width": bench.image_size[1]}
    return {"size": {"shortest_edge": min(bench.image_size)}, "crop_size": size, "image_mean": _MEAN, "image_std": _STD}


def all_scores(bench: ModelBench, answer: list[dict]) -> torch.Tensor:
    """Return a pipeline's scores for one video as (labels,), in the order of the config."""
    scores = {row["label"]: row["score"] for row in answer}
    return torch.tensor([scores[bench.config.id2label[index]] for index in range(bench.config.num_labels)])


def _prepare_labels(
    decode: DecodeFrames, bench: ModelBench, file: Path, indices: Sequence[int], dtype: torch.dtype | None = None
) -> Prepared:
    return Prepared(partial(make_labeller(decode, bench, indices, dtype), file))


def make_labeller(
    decode: DecodeFrames, bench: ModelBench, indices: Sequence[int], dtype: torch.dtype | None = None
) -> Callable[[Path], torch.Tensor]:
    """
    Return a function from a file to probabilities (labels,). It uses the built-in model and the image processor that
    the checkpoints on the Hub name.

    Args:
        decode: returns the frames at some indices of a file.
        bench: the model of the case.
        indices: the frames that the model gets.
        dtype: that of the model (default: the case's).
    """
    from transformers.models.videomae.image_processing_videomae import VideoMAEImageProcessor

    processor, model = VideoMAEImageProcessor(**frame_settings(bench)), bench.built_in(dtype)

    @torch.inference_mode()
    def label(file: Path) -> torch.Tensor:
        frames = decode(file, indices)
        pixel_values = processor(list(frames), return_tensors="pt").pixel_values
        logits = model(pixel_values.to(bench.device, model.dtype)).logits
        return logits.float().softmax(-1)[0].cpu()

    return label


def _prepare_labels_torchcodec(task: Task) -> Prepared:
    check_torchcodec()
    return _prepare_labels(decode_with_torchcodec, *task)


def _prepare_labels_pyav(task: Task) -> Prepared:
    return _prepare_labels(decode_sequentially, *task)


def _prepare_label_limit(task: Task) -> Prepared:
    bench, file, _ = task
    run_products = torch.inference_mode()(bench.prepare_products())

    def run() -> None:
        decode_all(file)
        run_products()

    return Prepared(run)


PATHS = {
    "ours": CodePath("ours", "timesformer_hf, pipeline()", prepare_pipeline),
    "ours-optimized": CodePath(
        "ours", "the same, with optimize_for_inference", partial(prepare_pipeline, optimized=True)
    ),
    "built-in-torchcodec": CodePath("peer", "torchcodec and the built-in model", _prepare_labels_torchcodec),
    "built-in-pyav": CodePath("peer", "PyAV, every frame, and the built-in model", _prepare_labels_pyav),
    "full-decode-and-products": CodePath("limit", "the codec and the matmuls", _prepare_label_limit),
}
