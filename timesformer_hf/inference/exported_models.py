"""Runs the folders that `timesformer-hf export` writes, each in its own runtime, as a classifier of transformers."""

import os
import platform
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers.modeling_outputs import ImageClassifierOutput

from ..model.configuration_timesformer import TimesformerConfig
from ..model.modeling_timesformer import TimesformerPreTrainedModel
from ..output.extras import check_packages
from .export import FORMATS


class ExportedClassifier(TimesformerPreTrainedModel):
    """
    An exported graph with the interface of a classifier. It takes float32 clips on the CPU, and has no weights that
    torch could train, move or convert.

    Args:
        config: the config beside the graph, for the labels.
        run: a function from clips to logits.
    """

    is_exported = True

    def __init__(self, config: TimesformerConfig, run: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__(config)
        self.graph = partial(run)  # a module would become a part of this one, and some can't
        self.eval()

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of clips and logits."""
        return torch.float32

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> ImageClassifierOutput:
        """
        Return the logits (batch, labels) of clips (batch, frames, channels, height, width).

        Raises:
            ValueError: for anything that a graph can't give, for example attention maps or a loss.
        """
        asked = {name for name, value in kwargs.items() if value is not None and value is not False} - {"return_dict"}
        if asked:
            raise ValueError(f"An exported model returns logits alone; it can't take {', '.join(sorted(asked))}")
        return ImageClassifierOutput(logits=self.graph(pixel_values.float().contiguous()))


def find_export(folder: str | os.PathLike) -> str | None:
    """Return the name of the export format of a folder, a name in `FORMATS`, or `None` where it is no export."""
    folder = Path(folder)
    for name in ("onnx", "openvino"):
        if (folder / FORMATS[name].file).is_file():
            return name
    package = folder / FORMATS["aoti"].file
    if not package.is_file():
        return None
    if not zipfile.is_zipfile(package):
        raise ValueError(f"{package} is not a program of torch.export or AOTInductor: it is damaged or another file")
    with zipfile.ZipFile(package) as archive:
        return "aoti" if any("aotinductor" in name for name in archive.namelist()) else "torch-export"


def load_export(folder: str | os.PathLike) -> ExportedClassifier:
    """
    Load the export of a folder in its own runtime.

    An `aoti` package is machine code, and loading it runs it: load only what you compiled yourself.

    Raises:
        ImportError: where the runtime is not installed.
        ValueError: where the folder is no export, or its graph can't be loaded on this machine.
    """
    format = find_export(folder)
    if format is None:
        raise ValueError(
            f"{folder} is not an export: it has none of {', '.join(sorted({f.file for f in FORMATS.values()}))}"
        )
    check_packages(f'format "{format}"', FORMATS[format].runtime, FORMATS[format].extra)
    config = TimesformerConfig.from_pretrained(folder)
    path = Path(folder) / FORMATS[format].file
    try:
        run = FORMATS[format].load(path)
    except Exception as error:  # each runtime has its own classes of errors
        here = f"this machine ({platform.machine()}, torch {torch.__version__})"
        advice = f". It was compiled for another one; export the model again on {here}" if format == "aoti" else ""
        raise ValueError(f"Can't load the {format} export {path}: {error}{advice}") from error
    return ExportedClassifier(config, run)
