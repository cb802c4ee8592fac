"""Checkpoint files and folders -> names and tensors. Nothing here runs code from a file."""

import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open


_CONTAINERS = ("model_state", "state_dict", "model", "module")  # entries of a file that hold its weights
_WRAPPER = "module."  # what distributed training puts before every name
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass
class Checkpoint:
    """
    A checkpoint as it was found.

    Attributes:
        source: what the caller named.
        path: the file or folder.
        state_dict: its weights under their own names; on the meta device where only their shapes were asked for.
        config: its config.json, empty without one.
        preprocessor: its preprocessor_config.json, empty without one.
    """

    source: str
    path: Path
    state_dict: dict[str, torch.Tensor]
    config: dict = field(default_factory=dict)
    preprocessor: dict = field(default_factory=dict)


def read_checkpoint(source: str | os.PathLike, shapes_only: bool = False, path: Path | None = None) -> Checkpoint:
    """
    Read a file (.pyth, .pth, .pt, .bin, .safetensors), a folder with a config.json, or a model on the Hub.

    Args:
        shapes_only: read names, shapes and types only: the weights are on the meta device.
        path: where `source` is on this machine, if that is known already (see [`find_source`]).

    Raises:
        FileNotFoundError: where there is no such thing.
        ValueError: for a file that is damaged, needs code to be run, or holds no weights.
    """
    path = find_source(source) if path is None else path
    if path.is_file() and path.name in _WEIGHT_FILES and (path.parent / "config.json").exists():
        path = path.parent  # the weights of a folder, whose config tells what they don't
    if path.is_file():
        return Checkpoint(str(source), path, _read_weights(path, shapes_only))
    preprocessor = _read_json(path / "preprocessor_config.json") | _read_json(path / "video_preprocessor_config.json")
    return Checkpoint(
        str(source), path, _read_folder(path, shapes_only), _read_json(path / "config.json"), preprocessor
    )


def _read_folder(path: Path, shapes_only: bool = False) -> dict[str, torch.Tensor]:
    """The weights in a folder, in one file or in several that an index lists."""
    found = next((path / name for name in _WEIGHT_FILES if (path / name).exists()), None)
    if found is None:
        raise FileNotFoundError(f"{path} holds no weights: none of {', '.join(_WEIGHT_FILES)} is in it")
    if not found.name.endswith(".index.json"):
        return _read_weights(found, shapes_only)
    places = _read_json(found).get("weight_map")
    if not isinstance(places, dict) or not places or not all(map(_is_weight_file, places.values())):
        raise ValueError(f"{found} is no index of weights: its weight_map must name files beside it")
    state_dict = {}
    for name in sorted(set(places.values())):
        if not (path / name).exists():
            raise ValueError(f"{path} is incomplete: {name}, which {found.name} names, is missing")
        state_dict |= _read_weights(path / name, shapes_only)
    if different := sorted(state_dict.keys() ^ places.keys()):
        raise ValueError(f"{found} and the files that it lists differ in {', '.join(different[:5])}")
    return state_dict


def _is_weight_file(name) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith((".safetensors", ".bin"))


def find_source(source: str | os.PathLike) -> Path:
    """
    A local path, or the local copy of a model on the Hub, which is downloaded where `source` is a name there.

    Raises:
        FileNotFoundError: where there is neither. ValueError: for an empty name.
    """
    path = Path(source)
    if not str(source).strip():
        raise ValueError("The name of the checkpoint is empty")
    if path.exists():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or path.suffix in (".pyth", ".pth", ".pt", ".bin"):
        raise FileNotFoundError(f"{source}: there is no such file or folder")
    try:
        return download(str(source))
    except Exception as error:  # offline, no such model, no access: whatever it is, it is about this name
        raise FileNotFoundError(
            f"{source}: there is no such file or folder, and it can't be had from the Hub: {error}"
        ) from error


def download(name: str) -> Path:
    """A model on the Hub: its safetensors, or where it has none its pickles, and what stands beside them."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, allow_patterns=["*.json", "README.md", "model*.safetensors"]))
    if not any(folder.glob("model*.safetensors")):
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "README.md", "pytorch_model*.bin"]))
    return folder


def _read_json(path: Path) -> dict:
    """
    An object of a JSON file; empty where there is no file.

    Raises:
        ValueError: where it is something else.
    """
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); it is damaged or half-written") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object, {{...}}; it holds {type(values).__name__}")
    return values


def _read_weights(path: Path, shapes_only: bool = False) -> dict[str, torch.Tensor]:
    """
    Raises:
        ValueError: see [`read_checkpoint`].
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path, shapes_only)
    with path.open("rb"):  # so that the system's own errors, no permission say, come as they are
        pass
    try:
        content = torch.load(path, map_location="meta" if shapes_only else "cpu", weights_only=True)
    except Exception as error:  # torch.load has many classes of them for a file that is something else
        needed = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if needed is None:
            raise ValueError(f"{path} is damaged, half-written or no checkpoint: {_first_sentence(error)}") from error
        raise ValueError(
            f"{path} holds more than weights: loading it would run {needed[1]}, which this program never does. Load it "
            "where you trust it, and save its state dict alone: torch.save({'model_state': ...}, NEW_FILE)"
        ) from error
    return _find_weights(content, path)


def _first_sentence(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]


def read_safetensors(path: Path, shapes_only: bool) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if not shapes_only:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not iterable)
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            return {
                key: torch.empty(part.get_shape(), dtype=_SAFETENSORS_TYPES[part.get_dtype()], device="meta")
                for key, part in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, half-written or no safetensors file: {_first_sentence(error)}") from error


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
    The state dict in what a file holds: its `model_state`, `state_dict`, `model` or `module`, also one in another, or
    all of it. Names lose the `module.` of distributed training.
    """
    inner = content
    while isinstance(inner, Mapping) and any(isinstance(inner.get(name), Mapping) for name in _CONTAINERS):
        inner = next(inner[name] for name in _CONTAINERS if isinstance(inner.get(name), Mapping))
    weights = {}
    if isinstance(inner, Mapping):
        weights = {str(key): value for key, value in inner.items() if isinstance(value, torch.Tensor)}
    if not weights:
        found = ", ".join(map(str, list(content)[:10])) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{path} holds no weights. Found: {found or 'nothing'}. Known: a state dict, by itself or under "
            f"{', '.join(_CONTAINERS)}"
        )
    if all(key.startswith(_WRAPPER) for key in weights):
        weights = {key.removeprefix(_WRAPPER): value for key, value in weights.items()}
    return weights
