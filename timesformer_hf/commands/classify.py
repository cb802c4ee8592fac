"""`timesformer-hf classify`: print the most likely labels of videos."""

import argparse
import os
import sys
from collections.abc import Iterator

from ..output.terminal import loading_model, video_error
from ..shipped_models import CAMERA_MOTION
from ..video.printable import printable
from .common import add_quantize, choose_device, missing_videos, optimized, positive, to_json


DESCRIPTION = """\
examples:
  timesformer-hf classify clip.mp4
  timesformer-hf classify clip.mp4 --model facebook/timesformer-base-finetuned-k400
  timesformer-hf classify *.mp4 --model ./my-model --frame-sampling-rate 32 --device cuda --dtype bfloat16
  timesformer-hf classify *.mp4 --model ./my-model --frame-sampling-rate 32 --views paper
  timesformer-hf classify *.mp4 --model ./my-model --device cuda --batch-size 32 --num-workers 16
  timesformer-hf classify videos/ --model ./my-model --json > predictions.jsonl

Print the most likely labels of each video. A folder stands for all videos in it and below it. An unreadable video is
reported, and the others are still classified; the exit code is then 1.

With several videos, threads decode the next ones while the model computes. At the end the command prints for
what share of the time the model was busy. If that is far below 100%, decoding takes the time: use more
--num-workers. If it is near 100%, the model takes it: use a larger --batch-size, --dtype bfloat16 or a faster
device.
"""

_ACCELERATOR_BATCH = 8  # videos

NO_MODEL = (
    "timesformer-hf: no --model given, so this is the one that is shipped: it tells how the camera moves.\n"
    "                For what happens in a video, try --model facebook/timesformer-base-finetuned-k400"
)


def add_parser(commands) -> None:
    """Add `classify` and its options to the command line."""
    parser = commands.add_parser(
        "classify",
        help="print the most likely labels of videos",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="a video file, a folder of videos, or an http(s) URL"
    )
    parser.add_argument(
        "--model",
        metavar="DIR_OR_ID",
        help="a model's folder or its name on the Hub (default: the shipped one, which tells how the camera moves)",
    )
    parser.add_argument(
        "--top-k", type=positive, default=5, metavar="K", help="how many labels to print for each video (default: 5)"
    )
    parser.add_argument(
        "--num-frames", type=positive, metavar="N", help="frames of a clip (default: the number in the model's config)"
    )
    parser.add_argument(
        "--frame-sampling-rate",
        type=positive,
        metavar="R",
        help="take every R-th frame around the middle of the video. The paper uses 32 for 8 frames, 16 for 16, 4 for "
        "96 (default: the rate saved with the model, else frames spread over the whole video)",
    )
    _add_views(parser)
    parser.add_argument(
        "--device", help="for example cpu, cuda, cuda:1 or mps (default: an accelerator if there is one)"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="dtype of the model (default: auto, that of the checkpoint)",
    )
    add_quantize(parser)
    parser.add_argument(
        "--batch-size",
        type=positive,
        metavar="B",
        help=f"videos that the model takes at once (default: {_ACCELERATOR_BATCH} on an accelerator, 1 on the CPU, "
        "where only small models gain from more: the shipped one from 8). If a batch doesn't fit into memory, its "
        "videos are classified one by one",
    )
    parser.add_argument(
        "--num-workers",
        type=positive,
        metavar="W",
        help="threads that decode the next videos (default: one for each core, at most 8)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help='print one JSON object a line: {"video", "predictions": [{"label", "score"}]} or {"video", "error"}',
    )


def _add_views(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--views",
        choices=("paper", "original"),
        help="average several views of each video. paper: the probabilities of three crops of a clip in the middle, as "
        "in the paper. original: the logits of three crops of the first clip, as in the authors' code. Both need a "
        "frame sampling rate (default: one view)",
    )
    parser.add_argument(
        "--num-clips",
        type=positive,
        metavar="K",
        help="average the probabilities of K clips, spread over the video (default: 1)",
    )
    parser.add_argument(
        "--num-crops",
        type=int,
        choices=(1, 3),
        help="crops of each clip. 1: the centre. 3: start, centre and end of the longer side (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """
    Print the labels of each video. Return the exit code: 1 where a video failed, 2 where none exists or the model can't
    be loaded.
    """
    from tqdm import tqdm

    from ..inference.file_classification import BusyTime
    from ..video.video_folders import find_videos

    videos, model_time, failures = find_videos(args.videos), BusyTime(), 0
    missing = missing_videos(videos)
    if len(missing) == len(videos):
        results = ({"video": video, "error": error} for video, error in missing.items())
    else:
        results = _classify(args, videos, model_time)
    several = len(videos) > 1
    for result in tqdm(results, total=len(videos), unit="video", disable=None if several else True):
        failures += "error" in result
        if "error" in result and not args.json:
            error = video_error(printable(result["video"]), printable(result["error"]))
            tqdm.write(f"timesformer-hf: {error}", file=sys.stderr)
        else:
            tqdm.write(to_json(result) if args.json else table(result), file=sys.stdout)
    if several and failures < len(videos):
        print(f"timesformer-hf: {speed_line(len(videos), model_time)}", file=sys.stderr)
    if failures and several:
        print(f"timesformer-hf: {failures} of {len(videos)} videos failed", file=sys.stderr)
    if len(missing) == len(videos):
        return 2
    return 1 if failures else 0


def _classify(args: argparse.Namespace, videos: list[str], model_time) -> Iterator[dict]:
    """
    Load the model, check the settings, and return an iterator over the results.

    Raises:
        ValueError: where the model can't be loaded, or no video can be processed with the settings.
    """
    from ..inference.feature_extraction import check_settings
    from ..inference.file_classification import classify_files

    device = choose_device(args.device)
    if args.model is None:
        print(NO_MODEL, file=sys.stderr)
    classifier = load_classifier(CAMERA_MOTION if args.model is None else args.model, device, args.dtype, args.quantize)
    names = ("num_frames", "frame_sampling_rate", "views", "num_clips", "num_crops")
    sampling = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    check_settings(classifier.model, classifier.video_processor, **sampling)
    batch_size = args.batch_size or (1 if classifier.device.type == "cpu" else _ACCELERATOR_BATCH)
    settings = sampling | {"top_k": args.top_k, "num_workers": args.num_workers}
    model_time.restart()
    return classify_files(classifier, videos, batch_size, model_time, **settings)


def load_classifier(name: str, device: str, dtype: str, quantization: str | None = None):
    """
    Return the pipeline of a model.

    Raises:
        ValueError: where it can't be loaded.
    """
    from transformers import AutoModelForVideoClassification, AutoVideoProcessor, pipeline

    from ..inference.exported_models import find_export, load_export
    from ..model.loading_checks import check_complete

    if os.path.isdir(name) and find_export(name):
        if dtype != "auto" or device != "cpu" or quantization is not None:
            raise ValueError(
                f"{name} is an exported model, which has its dtype and runs on the CPU: leave --dtype and --quantize "
                "out, and give --device cpu"
            )
        processor = AutoVideoProcessor.from_pretrained(name)
        return pipeline("video-classification", model=load_export(name), video_processor=processor, device="cpu")
    with loading_model(name):
        model, info = AutoModelForVideoClassification.from_pretrained(name, dtype=dtype, output_loading_info=True)
        check_complete(name, model, info)
        model = optimized(model.to(device), quantization)
        processor = AutoVideoProcessor.from_pretrained(name)
        return pipeline("video-classification", model=model, video_processor=processor, device=device)


def speed_line(num_videos: int, model_time) -> str:
    """Return the last line, for example "200 videos in 12.3 s, 16.3 a second; the model was busy 94% of the time"."""
    seconds = model_time.seconds
    speed = f"{num_videos} videos in {seconds:.1f} s, {num_videos / seconds:.1f} a second"
    return f"{speed}; the model was busy {model_time.share:.0%} of the time"


def table(result: dict) -> str:
    """The labels of a video under its name, the likeliest first."""
    labels = [printable(prediction["label"]) for prediction in result["predictions"]]
    scores = [prediction["score"] for prediction in result["predictions"]]
    width = max(map(len, labels))
    rows = [f"  {label:<{width}}  {score:7.2%}" for label, score in zip(labels, scores, strict=True)]
    return "\n".join([printable(result["video"]), *rows])
