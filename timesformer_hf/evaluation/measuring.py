"""
A model measured on labelled videos, from the options of `timesformer-hf evaluate` to the files of results, in any
number of processes.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from ..data.label_lists import read_labels
from ..data.labelled_videos import LabelledVideos
from ..data.reading import read_labelled_videos
from ..inference.feature_extraction import check_settings, choose_sampling, describe_settings
from ..inference.feature_table import unfinished_batches
from ..inference.folding import optimize_for_inference
from ..inference.quantization import check_quantization, quantize
from ..output.atomic import check_output_file, output_file, remove_folder
from ..output.extras import check_packages
from ..output.parquet import import_pyarrow
from ..output.terminal import loading_model
from ..video.decoding_plan import count_cores
from ..video.video_processing_timesformer import TimesformerVideoProcessor
from .arguments import EvaluationArguments
from .confusion_plot import plot_confusion_matrix
from .label_errors import label_error_results, list_label_errors, write_label_errors
from .metrics import confusion_matrix
from .results import multi_label_results, single_label_results, video_table
from .scoring import Batch, SharedParts, VideosToScore, encode_labels, score_batches, store_scores
from .time_audit import ARRANGEMENTS, time_audit_results


ScoreElsewhere = Callable[[LabelledVideos, list[list[int]], str, dict, dict], Iterator[Batch]]
"""(videos, batches of their indices, hash of the weights, sampling, scoring) -> scored batches, in any order."""

_MOST_WORKERS = 4
_MULTI_LABEL = {"multi_label_classification": True, "single_label_classification": False}


def evaluate_model(
    args: EvaluationArguments,
    accelerator: Accelerator,
    report: Callable[[str], None] = lambda error: None,
    score_elsewhere: ScoreElsewhere | None = None,
) -> dict | None:
    """
    Score this process's share of the videos, and in the main process measure all of them.

    Whole batches are shared out, because the other videos of a batch change the last digits of a video's scores. So a
    video's batch is the same one in any number of processes, and in a run that is continued.

    Args:
        report: is told each error of a video, in a line.
        score_elsewhere: scores the batches in place of this process.

    Returns:
        the results, in the main process; elsewhere `None`.

    Raises:
        ValueError, OSError, ImportError: where model, data or options don't allow it, or a package is missing.
    """
    check_arguments(args)
    model, processor = load_model(args.model, args.dtype, accelerator.device)
    videos = read_videos(args, model.config)
    names = [model.config.id2label[label] for label in range(model.config.num_labels)]
    targets = encode_labels(videos, names)
    if args.time_audit and videos.multi_label:
        raise ValueError("--time_audit measures accuracies, and the videos of these data may have several labels")
    sampling, scoring = _choose_settings(args, model, processor, videos.multi_label)
    more = {name: getattr(args, name) for name in ("quantize", "time_audit") if getattr(args, name)}
    settings = describe_settings(model, processor, "scores", sampling | scoring | more)
    settings |= {"data": args.data, "split": args.split}
    if args.quantize:
        model = quantize(optimize_for_inference(model), args.quantize)
    parts = SharedParts(Path(args.output_dir, "parts"), accelerator.process_index, settings, videos)
    accelerator.wait_for_everyone()  # nobody adds to what is done before all know what that is

    batches = unfinished_batches(range(len(videos)), args.batch_size, parts.is_done)
    batches = batches[accelerator.process_index :: accelerator.num_processes]
    if score_elsewhere is None:
        dataset = VideosToScore(videos, processor, sampling)
        workers = min(_MOST_WORKERS, count_cores()) if args.num_workers is None else args.num_workers
        loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=list)
        scored = score_batches(model, loader, scoring, args.time_audit)
    else:
        scored = score_elsewhere(videos, batches, settings["weights"], sampling, scoring)
    show = None if accelerator.is_local_main_process else True  # unless the output is not a terminal
    with tqdm(total=sum(map(len, batches)), unit="video", disable=show) as progress:

        def tell(num_videos: int, errors: list[str]) -> None:
            for error in errors:
                report(error)
            progress.update(num_videos)

        failures = store_scores(scored, parts, args.strict, tell)
    failures = gather_object(failures)  # waits for every process
    return write_results(args, names, parts, targets, failures) if accelerator.is_main_process else None


def check_arguments(args: EvaluationArguments) -> None:
    """
    Check what can be checked before the model is loaded.

    Raises:
        ValueError: for a number that is too small.
        FileExistsError: where there are results already.
        ImportError: where a package is missing.
    """
    for name, least in (("batch_size", 1), ("num_workers", 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise ValueError(f"--{name} {getattr(args, name)} must be at least {least}")
    check_output_file(Path(args.output_dir, "results.json"), args.overwrite)
    check_packages("evaluate", ("matplotlib", "pyarrow"), "train")
    if args.quantize:
        check_quantization(args.quantize)


def load_model(name: str, dtype: str, device: torch.device | str) -> tuple:
    """
    The model, in evaluation mode, and its video processor.

    Raises:
        ValueError: for a model that can't be loaded, lacks weights, is for regression or comes with another processor.
    """
    with loading_model(name):
        model, info = AutoModelForVideoClassification.from_pretrained(name, dtype=dtype, output_loading_info=True)
        processor = AutoVideoProcessor.from_pretrained(name)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{name} lacks {len(missing)} weights, {missing[0]} among them: they would be random")
    if not isinstance(processor, TimesformerVideoProcessor):
        raise ValueError(f"{name} comes with a {type(processor).__name__}; this measures TimeSformer models")
    if model.config.problem_type == "regression":
        raise ValueError(f"{name} is a model for regression; this measures classifiers")
    return model.to(device).eval(), processor


def read_videos(args: EvaluationArguments, config) -> LabelledVideos:
    """The videos to measure with. `config` is the model's, which may say whether a video can have several labels."""
    return read_labelled_videos(
        args.data,
        split=args.split,
        label_names=None if args.label_names is None else read_labels(args.label_names),
        multi_label=_MULTI_LABEL.get(config.problem_type),
        config=args.data_config,
    )


def _choose_settings(args: EvaluationArguments, model, processor, multi_label: bool) -> tuple[dict, dict]:
    """
    The settings that the processor is called with, and those by which logits become scores.

    Raises:
        ValueError: for settings that no video can be processed with.
    """
    sampling = choose_sampling(model, processor, args.num_frames, args.frame_sampling_rate)
    sampling |= {"views": args.views, "num_clips": args.num_clips, "num_crops": args.num_crops}
    check_settings(model, processor, **sampling)
    average = args.average or processor.view_settings(**sampling).average
    return sampling, {"average": average, "function": "sigmoid" if multi_label else "softmax"}


def write_results(
    args: EvaluationArguments, names: list[str], parts: SharedParts, targets: np.ndarray, failures: list[dict]
) -> dict:
    """Write the results and return them; results.json comes last, as a sign that all is there."""
    done, scores = parts.read()
    targets = targets[done]
    failures = sorted(failures, key=lambda failure: failure["video"])
    results = {"model": args.model, "data": args.data, "split": args.split, "videos": len(done), "failed": failures}
    if args.time_audit:
        scores = scores.reshape(len(done), len(ARRANGEMENTS), len(names))
        results["time_audit"] = time_audit_results(scores, targets)
        scores = scores[:, 0]
    results |= (single_label_results if targets.ndim == 1 else multi_label_results)(scores, targets, names)
    paths = [parts.videos[index].name for index in done]
    label_errors = list_label_errors(paths, scores, targets, names)
    results["label_errors"] = label_error_results(label_errors, len(done))
    folder = Path(args.output_dir)
    with output_file(folder / "videos.parquet", overwrite=True) as path:
        import_pyarrow().parquet.write_table(video_table(paths, targets, scores, names), path)
    write_label_errors(folder / "label_errors.csv", label_errors)
    if targets.ndim == 1:
        counts = confusion_matrix(scores.argmax(axis=1), targets, len(names))
        with output_file(folder / "confusion_matrix.png", overwrite=True) as path:
            plot_confusion_matrix(path, counts, names)
    with output_file(folder / "results.json", overwrite=True) as path:
        text = json.dumps(results | {"settings": parts.settings}, indent=2, ensure_ascii=False, allow_nan=False)
        path.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")  # as JSON has it, too
    remove_folder(parts.folder)
    return results
