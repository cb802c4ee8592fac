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
from ..video.video_sources import is_url


_UNPAIRED = re.compile("[\ud800-\udfff]")


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
    missing = [video for video in videos if not is_url(video) and not os.path.exists(video)]
    return {video: f"{printable(video)}: there is no such file" for video in missing}


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Add `--quantize` to a command that runs a model."""
    parser.add_argument(
        "--quantize",
        choices=("int8", "fp8"),
        help="compute the linear layers in 8 bits: faster, with slightly other scores. int8 for a CPU or CUDA, with a "
        "model in float32; fp8 for newer CUDA devices (default: neither)",
    )


def optimized(model, quantization: str | None = None):
    """
    The model, made faster by `optimize_for_inference` for a command that only needs its outputs, and then quantized if
    that is asked for. A model that can't be optimized (quantized, with an adapter, of another class) stays as it is.
    """
    from ..inference.folding import optimize_for_inference
    from ..inference.quantization import check_quantization, quantize

    if quantization is not None:
        check_quantization(quantization)
    with contextlib.suppress(TypeError, ValueError):
        model = optimize_for_inference(model)
    return model if quantization is None else quantize(model, quantization)


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
