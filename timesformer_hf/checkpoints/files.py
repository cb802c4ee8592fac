"""Reads checkpoint files and folders into names and tensors. Nothing here runs code from a file."""

import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..output.hub import HubUnreachableError, hub_or_stored
from ..video.printable import printable
from ..video.video_folders import is_video_file
from .limits import CheckpointLimits, check_pickled_file, check_tensors


_CONTAINERS = ("model_state", "state_dict", "model", "module")  # entries of a file that can contain its weights
_WRAPPER = "module."  # distributed training puts this before every name
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass
class Checkpoint:
    """
    A checkpoint in its own format.

    Attributes:
        source: the name that the caller gave.
        path: the file or folder.
        state_dict: the weights under the names of their format, on the meta device where only shapes were read.
        config: the content of config.json, empty where there is none.
        preprocessor: the content of preprocessor_config.json and video_preprocessor_config.json, empty where there is
            none.
    """

    source: str
    path: Path
    state_dict: dict[str, torch.Tensor]
    config: dict = field(default_factory=dict)
    preprocessor: dict = field(default_factory=dict)


def read_checkpoint(
    source: str | os.PathLike,
    shapes_only: bool = False,
    path: Path | None = None,
    limits: CheckpointLimits | None = None,
) -> Checkpoint:
    """
    Read a file (.pyth, .pth, .pt, .bin, .safetensors), a folder with a config.json, or a model on the Hub.

    Args:
        source: a path, or a name on the Hub, for example `"facebook/timesformer-base-finetuned-k400"`.
        shapes_only: read only names, shapes and dtypes. The weights are then on the meta device.
        path: where `source` is on this machine, if that is known already (see [`find_source`]).
        limits: how large the parts of the checkpoint may be.

    Raises:
        FileNotFoundError: where there is no such file, folder or model.
        ValueError: for a file that is damaged, that could only be read by running code from it, that exceeds a limit,
            or that has no weights.
    """
    path, limits = find_source(source) if path is None else path, limits or CheckpointLimits()
    if path.is_file() and path.name in _WEIGHT_FILES and (path.parent / "config.json").exists():
        path = path.parent  # the folder's config tells what the weights don't
    if path.is_file():
        return Checkpoint(str(source), path, _read_weights(path, shapes_only, limits))
    names = ("preprocessor_config.json", "video_preprocessor_config.json", "config.json")
    image, video, config = (_read_json(path / name, limits) for name in names)
    return Checkpoint(str(source), path, _read_folder(path, shapes_only, limits), config, image | video)


def _read_folder(path: Path, shapes_only: bool, limits: CheckpointLimits) -> dict[str, torch.Tensor]:
    """Return the weights in a folder. They are in one file, or in several that an index lists."""
    found = next((path / name for name in _WEIGHT_FILES if (path / name).exists()), None)
    if found is None:
        raise FileNotFoundError(f"{path} has no weights: it contains none of {', '.join(_WEIGHT_FILES)}")
    if not found.name.endswith(".index.json"):
        return _read_weights(found, shapes_only, limits)
    places = _read_json(found, limits).get("weight_map")
    if not isinstance(places, dict) or not places or not all(map(_is_weight_file, places.values())):
        raise ValueError(f"{found} is not an index of weights: its weight_map must name files in the same folder")
    state_dict = {}
    for name in sorted(set(places.values())):
        if not (path / name).exists():
            raise ValueError(f"{path} is incomplete: {name}, which {found.name} lists, is missing; download it again")
        state_dict |= _read_weights(path / name, shapes_only, limits)
    if different := sorted(state_dict.keys() ^ places.keys()):
        raise ValueError(f"{found} and the files that it lists differ in {list_names(different[:5])}")
    return state_dict


def _is_weight_file(name) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith((".safetensors", ".bin"))


def find_source(source: str | os.PathLike) -> Path:
    """
    Return a local path: `source` itself, or the local copy of a model on the Hub, which is downloaded where needed.

    Raises:
        FileNotFoundError: where there is no such path and no such model.
        ValueError: for an empty name.
    """
    path = Path(source)
    if path.is_file() and is_video_file(path):
        raise ValueError(f"{source} is a video, not a checkpoint; to label it: timesformer-hf classify {source}")
    if not str(source).strip():
        raise ValueError("The name of the checkpoint is empty; give a file, a folder or a name on the Hub")
    if path.exists():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or path.suffix in (".pyth", ".pth", ".pt", ".bin"):
        raise FileNotFoundError(f"{source}: there is no such file or folder")
    try:
        with hub_or_stored(source):
            return download(str(source))
    except HubUnreachableError:
        raise
    except Exception as error:  # offline, no such model, no access: any error here is about this name
        raise FileNotFoundError(
            f"{source}: there is no such file or folder, and it can't be downloaded from the Hub: {error}"
        ) from error


def download(name: str) -> Path:
    """Download a model from the Hub: its safetensors, or without those its pickles, and its config files and README."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, allow_patterns=["*.json", "README.md", "model*.safetensors"]))
    if not any(folder.glob("model*.safetensors")):
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "README.md", "pytorch_model*.bin"]))
    return folder


def _read_json(path: Path, limits: CheckpointLimits) -> dict:
    """
    Return the object in a JSON file, or an empty one where there is no file.

    Raises:
        ValueError: where the file is not JSON, is too large, or contains something other than an object.
    """
    if not path.exists():
        return {}
    limits.check_header(path, path.stat().st_size)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is not JSON of a model: its values are nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); it is damaged or incomplete") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must contain an object, {{...}}; it contains a {type(values).__name__}")
    return values


def _read_weights(path: Path, shapes_only: bool, limits: CheckpointLimits) -> dict[str, torch.Tensor]:
    """
    Return the state dict in a file.

    Raises:
        ValueError: see [`read_checkpoint`].
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path, shapes_only)
    with path.open("rb"):  # raises the system's own errors unchanged, for example a missing permission
        pass
    check_pickled_file(path, limits)
    try:
        content = torch.load(path, map_location="meta" if shapes_only else "cpu", weights_only=True)
    except Exception as error:  # torch.load raises many classes of errors for a file of another kind
        needed = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if needed is None:
            raise ValueError(f"{path} is damaged, incomplete or not a checkpoint: {_first_sentence(error)}") from error
        raise ValueError(
            f"{path} contains more than weights: loading it would run {needed[1]}, which this program never does. If "
            "you trust the file, load it yourself and save only its state dict: torch.save({'model_state': ...}, FILE)"
        ) from error
    weights = _find_weights(content, path)
    check_tensors(weights.values(), path, limits)
    return weights


def _first_sentence(error: Exception) -> str:
    sentence = (str(error).strip() or type(error).__name__).splitlines()[0]
    return printable(sentence.partition(" In PyTorch 2.6")[0][:200])  # torch's advice would run code of the file


def list_names(names) -> str:
    """Return names from a file for a message, each of them on one line and not too long."""
    return ", ".join(printable(name)[:100] for name in names)


def read_safetensors(path: Path, shapes_only: bool) -> dict[str, torch.Tensor]:
    """
    Return the tensors of a safetensors file, on the meta device with `shapes_only`.

    Raises:
        ValueError: where the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if not shapes_only:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not iterable)
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            return {
                key: torch.empty(part.get_shape(), dtype=_find_dtype(part.get_dtype(), path), device="meta")
                for key, part in slices.items()
            }
    except (SafetensorError, RuntimeError, TypeError, AttributeError) as error:  # or torch refuses a size or dtype
        raise ValueError(
            f"{path} is damaged, incomplete or not a safetensors file: {_first_sentence(error)}"
        ) from error


def _find_dtype(name: str, path: Path) -> torch.dtype:
    if name not in _SAFETENSORS_TYPES:
        raise ValueError(f"{path} has weights of the type {printable(name)}; known are {', '.join(_SAFETENSORS_TYPES)}")
    return _SAFETENSORS_TYPES[name]


_SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _find_weights(content, path: Path) -> dict[str, torch.Tensor]:
    """
    Return the state dict in the content of a file: its entry `model_state`, `state_dict`, `model` or `module`, also
    where one is inside another, else the content itself. The prefix `module.` of distributed training is removed.

    Raises:
        ValueError: where there are no weights.
    """
    inner, entered = content, set()  # a dict can contain itself
    while isinstance(inner, Mapping) and id(inner) not in entered:
        entered.add(id(inner))
        inner = next((inner[name] for name in _CONTAINERS if isinstance(inner.get(name), Mapping)), inner)
    weights = {}
    if isinstance(inner, Mapping):
        weights = {str(key): value for key, value in inner.items() if isinstance(value, torch.Tensor)}
    if not weights:
        found = list_names(list(content)[:10]) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{path} has no weights. Found: {found or 'nothing'}. Expected: a state dict, by itself or as the entry "
            f"{', '.join(_CONTAINERS)}"
        )
    if all(key.startswith(_WRAPPER) for key in weights):
        weights = {key.removeprefix(_WRAPPER): value for key, value in weights.items()}
    return weights
