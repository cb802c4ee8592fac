"""
Measure a video classifier on labelled videos:

    python examples/evaluate.py --model my-model --data videos/ --output_dir results
    python examples/evaluate.py ... --views paper --frame_sampling_rate 32
    accelerate launch --num_processes 8 examples/evaluate.py ...

Writes results.json (accuracies with intervals, every class, calibration), videos.parquet (path, label, prediction and
scores of every video) and confusion_matrix.png. Any number of processes gives the same numbers, but for the last digits
of float32, and the same command continues a run that was cut off. docs/evaluation.md says what it all means.
"""

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import AutoModelForVideoClassification, AutoVideoProcessor, HfArgumentParser

from timesformer_hf import (
    LabelledVideo,
    LabelledVideos,
    TimesformerVideoProcessor,
    average_views,
    quantization_config,
    quantize,
    read_labelled_videos,
    read_labels,
    score_views,
)
from timesformer_hf.commands.embed import unfinished
from timesformer_hf.data.label_matching import match_names
from timesformer_hf.evaluation.confusion_plot import plot_confusion_matrix
from timesformer_hf.evaluation.metrics import confusion_matrix
from timesformer_hf.evaluation.results import multi_label_results, single_label_results, summary, video_table
from timesformer_hf.inference.feature_extraction import EmbeddedVideo, choose_sampling, describe_settings
from timesformer_hf.inference.feature_table import FeatureParts, read_rows, source_of
from timesformer_hf.inference.quantization import CONFIGS
from timesformer_hf.output.atomic import check_output_file, output_file
from timesformer_hf.output.figures import check_can_plot
from timesformer_hf.output.parquet import import_pyarrow
from timesformer_hf.output.terminal import quiet_transformers
from timesformer_hf.video.multi_view import AVERAGES, VIEW_PROTOCOLS


MULTI_LABEL = {"multi_label_classification": True, "single_label_classification": False}


def option(default, help: str, choices: tuple[str, ...] | None = None):
    return field(default=default, metadata={"help": help} | ({"choices": choices} if choices else {}))


@dataclass
class EvaluationArguments:
    model: str = field(metadata={"help": "Folder or Hub name of a model."})
    data: str = field(
        metadata={"help": "A folder with a folder for each class; a .csv or .parquet with path and label; a Hub name."}
    )
    output_dir: str = field(metadata={"help": "Folder for results.json, videos.parquet and confusion_matrix.png."})
    overwrite: bool = option(False, "Replace the results of a finished run.")
    data_config: str | None = option(None, "Config of a Hub data set that has several.")
    split: str | None = option(None, "Split to measure, where --data has splits. (None: all of them)")
    label_names: str | None = option(
        None, "A text file with a label a line, or kinetics400, ...: what numbers in --data stand for."
    )
    strict: bool = option(False, "Stop at the first video that can't be read.")
    views: str | None = option(
        None, "Views of the paper or of the authors' code; both need a frame sampling rate.", tuple(VIEW_PROTOCOLS)
    )
    num_clips: int | None = option(None, "Clips of each video, spread over it.")
    num_crops: int | None = option(None, "Crops of each clip: 1, the centre, or 3 along the longer side.")
    average: str | None = option(
        None, "What to take the mean of over views. (None: what --views says, or probabilities)", AVERAGES
    )
    num_frames: int | None = option(None, "Frames of a clip. (None: the model's)")
    frame_sampling_rate: int | None = option(
        None, "Frames of the video from one of the clip to the next: the paper's are 32 for 8, 16 for 16, 4 for 96."
    )
    batch_size: int = option(8, "Videos at a time, on each device.")
    num_workers: int = option(4, "Processes that decode, for each device.")
    dtype: str = option(
        "auto", "Number format of the model. (auto: the checkpoint's)", ("auto", "float32", "bfloat16", "float16")
    )
    quantize: str | None = option(None, "Quantize the linear layers, by torchao.", tuple(CONFIGS))
    use_cpu: bool = option(False, "Use no accelerator.")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def main(arguments: list[str] | None = None) -> int:
    parser = HfArgumentParser(EvaluationArguments, description=__doc__, formatter_class=HelpFormatter)
    (args,) = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    waiting = InitProcessGroupKwargs(timeout=timedelta(days=7))  # for the slowest share
    accelerator = Accelerator(cpu=args.use_cpu, kwargs_handlers=[waiting])
    try:
        evaluate(args, accelerator)
    except torch.OutOfMemoryError as error:
        message = f"out of memory: repeat it with a smaller --batch_size; what is done is kept ({error})"
        print(f"evaluate: {message}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError) as error:  # bad input, each with a message of its own
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    accelerator.end_training()
    return 0


def evaluate(args: EvaluationArguments, accelerator: Accelerator) -> None:
    """
    Score this process's share of the videos, and in the main process measure all of them.

    Whole batches are shared out, because a video's batch has its say in the last digits of its scores: it is the same
    one in any number of processes, and in a run that is continued.
    """
    check_arguments(args)
    model, processor = load_model(args, accelerator.device)
    videos = read_videos(args, model.config)
    names = [model.config.id2label[label] for label in range(model.config.num_labels)]
    targets = encode_labels(videos, names)
    sampling, scoring = choose_settings(args, model, processor, videos.multi_label)
    quantized = {"quantize": args.quantize} if args.quantize else {}
    settings = describe_settings(model, processor, "scores", sampling | scoring | quantized)
    if args.quantize:
        model = quantize(model, args.quantize)
    parts = SharedParts(args, accelerator.process_index, settings, videos)
    accelerator.wait_for_everyone()  # nobody adds to what is done before all know what that is

    batches = unfinished(list(range(len(videos))), args.batch_size, parts.is_done)
    batches = batches[accelerator.process_index :: accelerator.num_processes]
    dataset = VideosToScore(videos, processor, sampling)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=args.num_workers, collate_fn=list)
    show = None if accelerator.is_local_main_process else True  # unless the output is no terminal
    with tqdm(total=sum(map(len, batches)), unit="video", disable=show) as progress:
        failures = score_videos(model, loader, parts, scoring, progress, args.strict)
    failures = gather_object(failures)  # waits for every process
    if accelerator.is_main_process:
        measure(args, names, parts, targets, failures)


def check_arguments(args: EvaluationArguments) -> None:
    """
    Before long work.

    Raises:
        ValueError: for a number that can't be.
        FileExistsError: where there are results already. ImportError: where something to write them with is missing.
    """
    for name, least in (("batch_size", 1), ("num_workers", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} {getattr(args, name)} must be at least {least}")
    check_output_file(Path(args.output_dir, "results.json"), args.overwrite)
    import_pyarrow()
    if args.quantize:
        quantization_config(args.quantize)
    check_can_plot("confusion_matrix.png")


def load_model(args: EvaluationArguments, device: torch.device) -> tuple:
    """
    Raises:
        ValueError: for a model that can't be loaded, lacks weights, is for regression or comes with another processor.
    """
    name = args.model
    with quiet_transformers():
        try:
            model, info = AutoModelForVideoClassification.from_pretrained(
                name, dtype=args.dtype, output_loading_info=True
            )
            processor = AutoVideoProcessor.from_pretrained(name)
        except Exception as error:  # the boundary to the user: whatever it is, it is about this model
            reason = str(error).strip().split("\n\n")[0]  # what follows is advice for programmers
            raise ValueError(f"can't load the model {name}: {reason}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{name} lacks {len(missing)} weights, {missing[0]} among them: they would be random")
    if not isinstance(processor, TimesformerVideoProcessor):
        raise ValueError(f"{name} comes with a {type(processor).__name__}; this measures TimeSformer models")
    if model.config.problem_type == "regression":
        raise ValueError(f"{name} is a model for regression; this measures classifiers")
    return model.to(device).eval(), processor


def read_videos(args: EvaluationArguments, config) -> LabelledVideos:
    return read_labelled_videos(
        args.data,
        split=args.split,
        label_names=None if args.label_names is None else read_labels(args.label_names),
        multi_label=MULTI_LABEL.get(config.problem_type),
        config=args.data_config,
    )


def encode_labels(videos: LabelledVideos, names: list[str]) -> np.ndarray:
    """
    The labels of videos as the model numbers its `names`, matched by name as for training: integers (videos,), or
    where a video may have several, 0 or 1 for each (videos, labels).

    Raises:
        ValueError: for labels that the model doesn't have.
    """
    used = dict.fromkeys(label for video in videos for label in video.labels)
    label2id = match_names(list(used), dict(enumerate(names)))
    if unknown := [label for label in used if label not in label2id]:
        hint = "; for labels that are numbers, --label_names says what they stand for"
        raise ValueError(
            f"The model doesn't know {len(unknown)} of the {len(used)} labels of the data: {some(unknown)}. It knows "
            f"{some(names)}. They are matched by name{hint if all(map(str.isdecimal, unknown)) else ''}"
        )
    if not videos.multi_label:
        return np.array([label2id[video.labels[0]] for video in videos])
    targets = np.zeros((len(videos), len(names)), dtype=np.int64)
    for row, video in zip(targets, videos, strict=True):
        row[[label2id[label] for label in video.labels]] = 1
    return targets


def some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def choose_settings(args: EvaluationArguments, model, processor, multi_label: bool) -> tuple[dict, dict]:
    """
    What the processor is called with, and how logits become scores.

    Raises:
        ValueError: for settings that no video can be processed with.
    """
    sampling = choose_sampling(model, processor, args.num_frames, args.frame_sampling_rate)
    sampling |= {"views": args.views, "num_clips": args.num_clips, "num_crops": args.num_crops}
    blank = {"total_num_frames": 1, "fps": 25}
    processor(np.zeros((1, 240, 320, 3), np.uint8), do_sample_frames=True, video_metadata=blank, **sampling)
    average = args.average or processor.view_settings(**sampling).average
    return sampling, {"average": average, "function": "sigmoid" if multi_label else "softmax"}


class SharedParts:
    """
    The scores that are there, of this run and of one that was cut off: in a folder each process has one of its own.

    Raises:
        ValueError: where the scores that are there were made with other settings or of other data.
    """

    def __init__(self, args: EvaluationArguments, process: int, settings: dict, videos: LabelledVideos):
        self.folder = Path(args.output_dir, "parts")
        self.settings = settings | {"data": args.data, "split": args.split}
        self.videos, self.sources = videos, list_sources(videos)
        self.own = FeatureParts(self.folder / f"{process:05d}", self.settings)
        self.begun_with = self.places()

    def places(self) -> dict[str, tuple[Path, int]]:
        """Of each source that is done, the part and the row in it, whichever process has done it."""
        parts = [FeatureParts(path, self.settings) for path in sorted(self.folder.glob("[0-9]*"))]
        return {source: place for part in parts for source, place in part.places.items()}

    def is_done(self, index: int) -> bool:
        return self.sources[index] in self.begun_with

    def add(self, indices: list[int], videos: list[EmbeddedVideo]) -> None:
        self.own.add(videos, [self.sources[index] for index in indices])

    def read(self) -> tuple[list[int], np.ndarray]:
        """
        The indices of the videos that are done, and their scores (videos, labels).

        Raises:
            ValueError: where there is none.
        """
        places = self.places()
        done = [index for index, source in enumerate(self.sources) if source in places]
        if not done:
            raise ValueError("none of the videos could be read: there is nothing to measure")
        scores = read_rows([places[self.sources[index]] for index in done], ["feature"]).column("feature")
        return done, scores.combine_chunks().flatten().to_numpy().reshape(len(done), -1)


def list_sources(videos: LabelledVideos) -> list[str]:
    """What tells whether a row is of this very video; one that is listed twice has two."""
    times, sources = Counter(), []
    for video in videos:
        source = source_of(video.name)
        times[source] += 1
        sources.append(source if times[source] == 1 else f"{source} ({times[source]})")
    return sources


class VideosToScore(Dataset):
    """Indices with what became of their videos, decoded in the worker processes of a DataLoader."""

    def __init__(self, videos: LabelledVideos, processor: TimesformerVideoProcessor, sampling: dict):
        self.videos, self.processor, self.sampling = videos, processor, sampling

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[int, EmbeddedVideo]:
        return index, load_views(self.processor, self.videos[index], self.sampling)


def load_views(processor: TimesformerVideoProcessor, video: LabelledVideo, sampling: dict) -> EmbeddedVideo:
    """With `pixel_values` (views, frames, channels, height, width); what is wrong with a video becomes its error."""
    try:
        video.name.encode()  # a name on disk may be no text, which a table can't hold
        inputs = processor(video.source, do_sample_frames=True, return_metadata=True, return_tensors="pt", **sampling)
    except ImportError:  # no decoder: wrong with every video
        raise
    except Exception as error:  # the others are measured all the same
        return EmbeddedVideo(video.name, error=str(error) or type(error).__name__)
    pixel_values = inputs["pixel_values"][0]
    views = pixel_values if pixel_values.ndim == 5 else pixel_values.unsqueeze(0)
    indices = [int(index) for index in inputs["video_metadata"][0].frames_indices]
    return EmbeddedVideo(video.name, frame_indices=indices, pixel_values=views)


def score_videos(
    model,
    batches: Iterable[list[tuple[int, EmbeddedVideo]]],
    parts: SharedParts,
    scoring: dict,
    progress: tqdm,
    strict: bool,
) -> list[dict]:
    """
    Score batch after batch and store each. Returns the videos that failed, with what is wrong with them.

    Raises:
        ValueError: for the first of these, if `strict`.
    """
    failures = []
    for batch in batches:
        indices, videos = zip(*batch, strict=True)
        score_batch(model, videos, scoring)
        parts.add(indices, videos)
        for video in videos:
            if video.error is not None:
                line = video.error if video.video in video.error else f"{video.video}: {video.error}"
                if strict:
                    raise ValueError(f"{line} (the first video that can't be read, and --strict)")
                failures.append({"video": video.video, "error": video.error})
                progress.write(f"evaluate: {line}", file=sys.stderr)
        progress.update(len(batch))
    return failures


@torch.inference_mode()
def score_batch(model, videos: Iterable[EmbeddedVideo], scoring: dict) -> None:
    """Set the scores of loaded videos, those of one shape together (all of them, if they are cropped)."""
    loaded = [video for video in videos if video.error is None]
    for shape in dict.fromkeys(video.pixel_values.shape for video in loaded):
        group = [video for video in loaded if video.pixel_values.shape == shape]
        try:
            pixel_values = torch.stack([video.pixel_values for video in group]).to(model.device)
            scores = average_views(score_views(model, pixel_values, views_per_pass=1), **scoring).cpu().numpy()
        except ValueError as error:  # a shape that the model doesn't take
            scores = [None] * len(group)
            for video in group:
                video.error = str(error)
        for video, row in zip(group, scores, strict=True):
            video.feature = row
            if row is not None and not np.isfinite(row).all():
                video.feature, video.error = None, f"its scores are not finite in {model.dtype}; try --dtype float32"


def measure(
    args: EvaluationArguments, names: list[str], parts: SharedParts, targets: np.ndarray, failures: list[dict]
) -> None:
    """Print and write the results; results.json comes last, as a sign that all is there."""
    done, scores = parts.read()
    targets = targets[done]
    failures = sorted(failures, key=lambda failure: failure["video"])
    results = {"model": args.model, "data": args.data, "split": args.split, "videos": len(done), "failed": failures}
    results |= (single_label_results if targets.ndim == 1 else multi_label_results)(scores, targets, names)
    folder = Path(args.output_dir)
    with output_file(folder / "videos.parquet", overwrite=True) as path:
        table = video_table([parts.videos[index].name for index in done], targets, scores, names)
        import_pyarrow().parquet.write_table(table, path)
    if targets.ndim == 1:
        counts = confusion_matrix(scores.argmax(axis=1), targets, len(names))
        with output_file(folder / "confusion_matrix.png", overwrite=True) as path:
            plot_confusion_matrix(path, counts, names)
    with output_file(folder / "results.json", overwrite=True) as path:
        text = json.dumps(results | {"settings": parts.settings}, indent=2, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")  # as JSON has it, too
    shutil.rmtree(parts.folder)
    print(f"{len(done)} videos measured, {len(failures)} failed")
    print(summary(results))


if __name__ == "__main__":
    sys.exit(main())
