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


CONTAINERS = ("model_state", "state_dict", "model")  # entries of a file that hold its weights
WEIGHT_FILES = (
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


def read_checkpoint(source: str | os.PathLike, shapes_only: bool = False) -> Checkpoint:
    """
    Read a file (.pyth, .pth, .pt, .bin, .safetensors), a folder with a config.json, or a model on the Hub.

    Args:
        shapes_only: read names, shapes and types only: the weights are on the meta device.

    Raises:
        FileNotFoundError: where there is no such thing.
        ValueError: for a file that is damaged, needs code to be run, or holds no weights.
    """
    path = find_source(source)
    if path.is_file():
        return Checkpoint(str(source), path, read_weights(path, shapes_only))
    found = [path / name for name in WEIGHT_FILES if (path / name).exists()]
    if not found:
        raise FileNotFoundError(f"{source} holds no weights: none of {', '.join(WEIGHT_FILES)} is in it")
    files = [found[0]]
    if found[0].name.endswith(".index.json"):
        files = [path / name for name in sorted(set(read_json(found[0])["weight_map"].values()))]
    state_dict = {key: tensor for file in files for key, tensor in read_weights(file, shapes_only).items()}
    preprocessor = read_json(path / "preprocessor_config.json") | read_json(path / "video_preprocessor_config.json")
    return Checkpoint(str(source), path, state_dict, read_json(path / "config.json"), preprocessor)


def find_source(source: str | os.PathLike) -> Path:
    """A local path, or the local copy of a model on the Hub, which is downloaded where `source` is a name there."""
    path = Path(source)
    if path.exists():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or path.suffix in (".pyth", ".pth", ".pt", ".bin"):
        raise FileNotFoundError(f"{source}: there is no such file or folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", *WEIGHT_FILES, "model-*.safetensors"]))
    except Exception as error:  # offline, no such model, no access: whatever it is, it is about this name
        raise FileNotFoundError(
            f"{source}: there is no such file or folder, and it can't be had from the Hub: {error}"
        ) from error


def read_json(path: Path) -> dict:
    """An object of a JSON file; empty where there is no file."""
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); it is damaged or half-written") from error
    return values if isinstance(values, dict) else {}


def read_weights(path: Path, shapes_only: bool = False) -> dict[str, torch.Tensor]:
    """
    Raises:
        ValueError: see [`read_checkpoint`].
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path, shapes_only)
    try:
        content = torch.load(path, map_location="meta" if shapes_only else "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed is None:
            raise ValueError(f"{path} is no checkpoint, or a damaged one: {first_sentence(error)}") from error
        raise ValueError(
            f"{path} holds more than weights: loading it would run {needed[1]}, which this program never does. Load it "
            "where you trust it, and save its state dict alone: torch.save({'model_state': ...}, NEW_FILE)"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged, half-written or no checkpoint: {first_sentence(error)}") from error
    return find_weights(content, path)


def first_sentence(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]


def read_safetensors(path: Path, shapes_only: bool) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if not shapes_only:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not iterable)
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            return {
                key: torch.empty(part.get_shape(), dtype=_SAFETENSORS_TYPES.get(part.get_dtype()), device="meta")
                for key, part in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, half-written or no safetensors file: {first_sentence(error)}") from error


_SAFETENSORS_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def find_weights(content, path: Path) -> dict[str, torch.Tensor]:
    """The state dict in what a file holds: its `model_state`, `state_dict` or `model`, or all of it."""
    if isinstance(content, Mapping):
        content = next((content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping)), content)
    weights = {}
    if isinstance(content, Mapping):
        weights = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not weights:
        found = ", ".join(map(str, list(content)[:10])) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{path} holds no weights. Found: {found or 'nothing'}. Known: a state dict, by itself or under "
            f"{', '.join(CONTAINERS)}"
        )
    return weights
