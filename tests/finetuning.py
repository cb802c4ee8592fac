"""Whole fine-tunings of tiny models on tiny videos, for tests of several folders. The fixtures are for conftest.py."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.cli import main
from timesformer_hf.training.trainer import ClipTrainer, ClipTrainingArguments


REPOSITORY = Path(__file__).parents[1]
TINY = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
OVERRIDES = ",".join(f"{name}={value}" for name, value in TINY.items())
SIZE = {"height": 32, "width": 32}
QUICK = {
    "use_cpu": True,
    "dataloader_num_workers": 0,
    "report_to": "none",
    "per_device_train_batch_size": 2,
    "num_train_epochs": 2,
    "validation_share": 0.34,
}
STEPS = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 1}


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Two classes of six clips."""
    clips = pytest.importorskip("clips", reason="PyAV writes the videos")
    folder = tmp_path_factory.mktemp("data")
    for number in range(12):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        clips.write_video(path, clips.moving_pattern(number + 12, 40, 48)[number:])
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A model that knows the two classes, in another order than the alphabet's."""
    return save_model(tmp_path_factory.mktemp("model"), ["dog", "cat"])


@pytest.fixture
def plots():
    """Draw the figures, also where `no_plots` is used."""


@pytest.fixture
def no_plots(request, monkeypatch):
    """Leave out the figures, which take longer than the training of a tiny model."""
    if "plots" not in request.fixturenames:
        for name in ("plot_training_curves", "plot_confusion_matrix"):
            monkeypatch.setattr(f"timesformer_hf.training.report.{name}", lambda path, *arguments: None)


def save_model(folder: Path, labels: list[str], **settings) -> Path:
    torch.manual_seed(0)
    config = TimesformerConfig(**TINY | {"id2label": dict(enumerate(labels))} | settings)
    model = TimesformerForVideoClassification(config)
    for parameter in model.parameters():  # nothing zero, so that all of it is trained from the first step
        nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    TimesformerVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size=SIZE).save_pretrained(folder)
    return folder


def training_arguments(folder: Path, **settings) -> ClipTrainingArguments:
    return ClipTrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", **settings)


def flags(**settings) -> list[str]:
    arguments = []
    for name, value in settings.items():
        values = [value] if not isinstance(value, (list, tuple)) else value
        arguments += [f"--{name}", *map(str, values)]
    return arguments


def words(out: Path, data: Path, **settings) -> list[str]:
    """The command line of a quick run."""
    return ["finetune", *flags(**QUICK | {"data": data, "output_dir": out} | settings)]


def run(out: Path, data: Path, code: int = 0, **settings) -> dict:
    """A whole run; returns what results.json says of it."""
    assert main(words(out, data, **settings)) == code
    return json.loads((out / "results.json").read_text()) if code == 0 else {}


class StopError(Exception):
    """What breaks a run off."""


def run_until(out: Path, data: Path, step: int, action=None, **settings) -> int | None:
    """A run that breaks off in the step after `step`, where `action` is taken, or an exception raised."""
    original = ClipTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == step:
            if action is None:
                raise StopError
            action()
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClipTrainer, "training_step", training_step)
        if action is not None:
            return main(words(out, data, **settings))
        with pytest.raises(StopError):
            main(words(out, data, **settings))
        return None


def run_in_process(out: Path, data: Path, code: str, **settings) -> subprocess.CompletedProcess:
    """A run in a process of its own, after `code`."""
    code += f"""
import sys, torch
from timesformer_hf.cli import main

torch.set_num_threads({torch.get_num_threads()})
sys.exit(main({words(out, data, **settings)!r}))
"""
    return subprocess.run([sys.executable, "-c", code], timeout=300, capture_output=True, text=True)


def load_example(name: str):
    """A program of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_example", REPOSITORY / "examples" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


def losses(out: Path) -> list[float]:
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


def read_table(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def save_image_vit(folder: Path) -> Path:
    """An image ViT whose pixels were normalised in its own way."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
    ViTModel(ViTConfig(image_size=32, **{name: TINY[name] for name in names})).save_pretrained(folder)
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.4] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return folder


def save_data_set(data: Path, folder: Path) -> None:
    """Videos in Parquet files, as on the Hub."""
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"video": datasets.Video(decode=False), "label": label})
    videos = sorted(data.rglob("*.mp4"))
    folder.mkdir(parents=True)
    for split, part in (("train", videos[2:10]), ("validation", [*videos[:2], *videos[10:]])):
        values = [{"bytes": path.read_bytes(), "path": path.name} for path in part]
        rows = {"video": values, "label": [path.parent.name for path in part]}
        datasets.Dataset.from_dict(rows, features).to_parquet(folder / f"{split}.parquet")
