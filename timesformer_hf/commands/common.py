"""Types of arguments and other things that several commands share."""

import argparse
import contextlib
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence

from ..output.atomic import is_disk_full
from ..output.figures import FigureWarning
from ..video.printable import printable
from ..video.video_errors import VideoWarning


_UNPAIRED = re.compile("[\ud800-\udfff]")
_SEARCHED = (
    ".3g2 .3gp .asf .avi .divx .f4v .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv"
)
"""The extensions of the files that are found in a folder."""


_ENGINE_OPTIONS = ("engine", "address", "num_actors", "threads")
_TABLE_OPTIONS = ("overwrite", "retry_errors", "max_seconds", "max_pixels", "max_memory")


def positive(text: str) -> int:
    """The type of an argument that is an integer from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def frame_size(text: str) -> int | tuple[int, ...]:
    """224 -> 224, 256x448 -> (256, 448)"""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"{text} must be a side, 224, or a height and a width, 256x448")
    return int(sides[0]) if len(sides) == 1 else tuple(int(side) for side in sides)


def choose_device(device: str | None) -> str:
    """
    Return the device that the user asked for, or an accelerator where there is one, or else the CPU.

    Raises:
        ValueError: if torch can't compute on the device. The message lists the devices of this machine.
    """
    import torch

    there = ["cpu"]
    if torch.accelerator.is_available():
        there.append(str(torch.accelerator.current_accelerator()))
    if device is None:
        return there[-1]
    try:
        torch.empty(1, device=device)
        if torch.device(device).type != "meta":
            return device
        reason = "it only handles shapes"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        if "at start of device string" in reason:  # followed by twenty kinds of devices
            reason = "torch knows no such kind of device"
    raise ValueError(f"--device {device}: torch can't compute there ({reason}); this machine has {', '.join(there)}")


def missing_videos(videos: Sequence[str]) -> dict[str, str]:
    """Return the error for each file that doesn't exist, by its name."""
    missing = [video for video in videos if "://" not in video and not os.path.exists(video)]
    return {video: f"{printable(video)}: there is no such file" for video in missing}


def add_videos(parser: argparse.ArgumentParser) -> None:
    """Add the inputs of a command that works on many videos, and `--column`."""
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="a video file or URL; a folder to search for videos "
        f"({_SEARCHED}); @list.txt, a text file with a path or URL a line; or a .csv, .tsv or .parquet table",
    )
    parser.add_argument(
        "--column", default="path", metavar="NAME", help="the column of a table that has the paths (default: path)"
    )


def add_model(parser: argparse.ArgumentParser, note: str | None = None) -> None:
    """Add `--model`. A command that says nothing more of it uses the shipped model by default."""
    default = " (default: the shipped one, which tells how the camera moves)" if note is None else note
    parser.add_argument(
        "--model",
        required=note is not None,
        metavar="DIR_OR_ID",
        help=f"a model's folder or its name on the Hub{default}",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the frames of a clip."""
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


def add_device(parser: argparse.ArgumentParser, dtype: bool = True) -> None:
    """Add `--device`, and `--dtype` unless the command has none."""
    parser.add_argument(
        "--device", help="for example cpu, cuda, cuda:1 or mps (default: an accelerator if there is one)"
    )
    if dtype:
        parser.add_argument(
            "--dtype",
            choices=("auto", "float32", "bfloat16", "float16"),
            default="auto",
            help="dtype of the model (default: auto, that of the checkpoint)",
        )


def add_workers(parser: argparse.ArgumentParser, batch_size: str) -> None:
    """Add `--batch-size`, whose default is described, and `--num-workers`."""
    parser.add_argument(
        "--batch-size", type=positive, metavar="B", help=f"videos that the model takes at once (default: {batch_size})"
    )
    parser.add_argument(
        "--num-workers",
        type=positive,
        metavar="W",
        help="threads that decode the next videos (default: one for each core, at most 8)",
    )


def add_table(parser: argparse.ArgumentParser, out_help: str, required: bool) -> None:
    """Add the options of a command that writes a row for each of many videos."""
    table = parser.add_argument_group("the table")
    table.add_argument("--out", required=required, metavar="FILE", help=out_help)
    table.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    table.add_argument(
        "--retry-errors",
        action="store_true",
        help="try the videos that failed again, in a run that was interrupted or in a finished table, and keep the "
        "other rows",
    )
    limits = parser.add_argument_group("limits of each file; one that exceeds a limit fails alone")
    limits.add_argument(
        "--max-seconds", type=_seconds, metavar="S", help="the time for fetching and decoding it (default: no limit)"
    )
    limits.add_argument(
        "--max-pixels", type=positive, metavar="N", help="pixels of a frame, width times height (default: 67108864)"
    )
    limits.add_argument(
        "--max-memory",
        type=_bytes,
        metavar="BYTES",
        help="bytes of the decoded frames of a clip, and of a download, for example 500M or 2G (default: 3G of frames, "
        "1G of a download)",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what computes the rows of a table."""
    engine = parser.add_argument_group("the engine")
    engine.add_argument(
        "--engine", choices=("ray",), help="compute the rows by actors of Ray (default: in this process alone)"
    )
    engine.add_argument(
        "--address",
        help="the address of a Ray cluster: auto or host:port (default: start Ray on this machine, "
        "and stop it at the end)",
    )
    engine.add_argument(
        "--num-actors",
        type=positive,
        metavar="N",
        help="actors, each with a model of its own (default: one for each GPU, or for each four cores)",
    )
    engine.add_argument(
        "--threads",
        type=positive,
        metavar="T",
        help="threads of the model on a CPU, in each actor. Other numbers can change the last digits of a score "
        "(default: the cores, shared among the actors)",
    )


def check_no_table_options(args: argparse.Namespace) -> None:
    """
    Check that there is no option that only a run with a table has.

    Raises:
        ValueError: if there is one.
    """
    for name in (*_TABLE_OPTIONS, *_ENGINE_OPTIONS):
        if getattr(args, name):
            raise ValueError(f"--{name.replace('_', '-')} is for a table; give --out predictions.parquet too")


def _seconds(text: str) -> float:
    """The type of an argument that is a time."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a number of seconds above 0")
    return value


def _bytes(text: str) -> int:
    """500 -> 500, 64K -> 65536, 500M -> 524288000, 2G -> 2147483648"""
    match = re.fullmatch(r"([0-9]+)([KMG]?)", text.upper())
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text} must be a number of bytes, for example 500M or 2G")
    return int(match[1]) * 1024 ** " KMG".index(match[2] or " ")


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Add `--quantize` to a command that runs a model."""
    parser.add_argument(
        "--quantize",
        choices=("int8", "fp8"),
        help="compute the linear layers in 8 bits: faster, with slightly other scores. int8 for a CPU or CUDA, with a "
        "model in float32; fp8 for newer CUDA devices (default: neither)",
    )


@contextlib.contextmanager
def escaped_output() -> Iterator[None]:
    """In the block, nothing that is printed controls the terminal, whatever a file name or a label contains."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_EscapingStream, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def resumable(what_is_kept: str) -> Iterator[None]:
    """Add what is kept, as a sentence, to the message of an interrupt or a full disk in the block."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as interrupt:
        interrupt.add_note(what_is_kept)
        raise
    except OSError as error:
        if is_disk_full(error):
            error.add_note(f"When there is room, repeat the command. {what_is_kept}")
        raise


_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "TORCH_LOGS": "-torch",  # errors only
}
"""The environment variables by which other libraries are told to log only errors."""


@contextlib.contextmanager
def only_own_warnings() -> Iterator[None]:
    """
    In the block, warnings of other packages are not shown, and those of this package are one line each.

    Libraries that were imported before the block may still log.
    """

    def show(message, category, *place) -> None:
        if issubclass(category, (VideoWarning, FigureWarning)):
            print(f"timesformer-hf: {message}", file=sys.stderr)

    added = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ |= added
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        for name in added:
            del os.environ[name]


class _EscapingStream:
    """A text stream that escapes what a terminal would obey, and what its own encoding can't express."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text. The characters that progress bars use to go back stay."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = printable(text, keep="\n\r\t")
        self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)


def to_json(values) -> str:
    """
    Return one line of JSON that every program can read.

    Bytes of a file name that are not UTF-8 are escaped as in messages, because JSON has no letters for them.

    Raises:
        ValueError: if a number is not finite, which JSON can't express.
    """
    try:
        return json.dumps(_valid_text(values), allow_nan=False)
    except ValueError as error:
        raise ValueError(f"A number is not finite, so the file that it comes from is broken ({error})") from error


def _valid_text(values):
    """Return values in whose text every character is valid."""
    if isinstance(values, str):
        return _UNPAIRED.sub(lambda match: printable(match[0]), values)
    if isinstance(values, dict):
        return {_valid_text(name): _valid_text(value) for name, value in values.items()}
    return [_valid_text(value) for value in values] if isinstance(values, (list, tuple)) else values
