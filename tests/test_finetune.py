"""examples/finetune.py and examples/finetune_accelerate.py, in whole runs of tiny models."""

import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import moving_pattern, write_video
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    ViTConfig,
    ViTModel,
    pipeline,
)

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification, TimesformerVideoProcessor
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES
from timesformer_hf.training.adapters import add_lora
from timesformer_hf.training.arguments import parse_with_recipe
from timesformer_hf.training.callbacks import last_checkpoint
from timesformer_hf.training.recipes import (
    RECIPES,
    drop_factor,
    layer_depth,
    parameter_groups,
    scaled_learning_rate,
)
from timesformer_hf.training.start import (
    LabelMismatchError,
    freeze,
    match_labels,
    start_from_checkpoint,
    start_from_scratch,
)
from timesformer_hf.training.trainer import ClipTrainer, ClipTrainingArguments


pytest.importorskip("datasets")
pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
SIZE = {"height": 32, "width": 32}
QUICK = {
    "use_cpu": True,
    "dataloader_num_workers": 0,
    "report_to": "none",
    "per_device_train_batch_size": 2,
    "num_train_epochs": 2,
    "validation_share": 0.34,
}


def load_example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


finetune = load_example("finetune")


@pytest.fixture
def plots():
    """Draw them."""


@pytest.fixture(autouse=True)
def no_plots(request, monkeypatch):
    """They take longer than the training of a tiny model; a test that looks at them says so."""
    if "plots" not in request.fixturenames:
        for name in ("plot_training_curves", "plot_confusion_matrix"):
            monkeypatch.setattr(f"timesformer_hf.training.report.{name}", lambda path, *arguments: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of six clips."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(12):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, moving_pattern(number + 12, 40, 48)[number:])
    return folder


def save_model(folder: Path, labels: list[str], **settings) -> Path:
    torch.manual_seed(0)
    config = TimesformerConfig(**TINY | {"id2label": dict(enumerate(labels))} | settings)
    model = TimesformerForVideoClassification(config)
    for parameter in model.parameters():  # nothing zero, so that all of it is trained from the first step
        nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    TimesformerVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size=SIZE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), ["dog", "cat"])


def flags(**settings) -> list[str]:
    arguments = []
    for name, value in settings.items():
        values = [value] if not isinstance(value, (list, tuple)) else value
        arguments += [f"--{name}", *map(str, values)]
    return arguments


def run(out: Path, data: Path, code: int = 0, **settings) -> dict:
    """A whole run; what results.json says of it."""
    assert finetune.main(flags(**QUICK | {"data": data, "output_dir": out} | settings)) == code
    return json.loads((out / "results.json").read_text()) if code == 0 else {}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


def read_split(out: Path) -> list[dict]:
    with (out / "_split.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class TestWholeRuns:
    @pytest.mark.usefixtures("plots")
    def test_one_command(self, data, tmp_path, capsys):
        """From a folder to a model that the pipeline takes, whose accuracy is what it says."""
        base = save_model(tmp_path / "base", ["swim", "run", "jump"])
        out = tmp_path / "out"
        result = run(out, data, model=base, reset_head=True)
        shown = capsys.readouterr().out
        validation = [row for row in read_split(out) if row["split"] == "validation"]
        assert sorted(row["label"] for row in validation) == ["cat", "cat", "dog", "dog"]
        classifier = pipeline("video-classification", model=str(out))
        right = sum(classifier(row["path"], top_k=1)[0]["label"] == row["label"] for row in validation)
        assert result["validation"]["accuracy"] == right / 4
        assert f"validation accuracy: {right / 4:.2%} ({right} of 4 clips)" in shown
        assert result["labels"] == ["cat", "dog"]
        assert result["settings"]["recipe"] == "modern"
        for name in ("README.md", "curves.png", "confusion_matrix.png", "trainer_state.json"):
            assert (out / name).stat().st_size > 100
        card = (out / "README.md").read_text()
        assert "pipeline_tag: video-classification" in card
        assert "`cat`, `dog`" in card
        assert str(tmp_path) not in card.replace(str(base), "")
        assert not torch.equal(
            weights(out)["timesformer.encoder.layer.1.output.dense.weight"],
            weights(base)["timesformer.encoder.layer.1.output.dense.weight"],
        )

    def test_it_learns(self, tmp_path):
        """Bright and dark clips are told apart, by the paper's recipe too."""
        for number in range(16):
            frame = np.full((40, 48, 3), 40 + number + 150 * (number % 2), np.uint8)
            path = tmp_path / "data" / ("dark", "bright")[number % 2] / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, [frame] * 6)
        base = save_model(tmp_path / "base", ["dark", "bright"])
        for recipe in ("modern", "paper-kinetics"):
            settings = {"learning_rate": 1e-3 if recipe == "modern" else 0.05, "rand_augment": 0}
            out = tmp_path / recipe
            result = run(out, tmp_path / "data", model=base, recipe=recipe, num_train_epochs=6, **settings)
            assert result["validation"]["accuracy"] == 1.0, recipe

    def test_kept_head(self, data, model, tmp_path):
        """A checkpoint that knows the labels keeps its numbers of them, and without a step all its weights."""
        run(tmp_path / "out", data, model=model, learning_rate=0.0)
        assert_same_weights(tmp_path / "out", model)
        config = AutoModelForVideoClassification.from_pretrained(tmp_path / "out").config
        assert config.id2label == {0: "dog", 1: "cat"}

    def test_other_labels(self, data, tmp_path, capsys):
        base = save_model(tmp_path / "base", ["swim", "cat"])
        run(tmp_path / "out", data, code=2, model=base)
        message = capsys.readouterr().err
        assert "was trained on other labels: it lacks 1 of the data's 2" in message
        assert "the data's:       cat, dog\n" in message
        assert "the checkpoint's: swim, cat\n" in message
        assert "--reset_head" in message

    @pytest.mark.parametrize("scheme", ATTENTION_SCHEMES)
    def test_from_an_image_vit(self, scheme, data, tmp_path):
        """Any attention, frames and size; pixels normalised as the ViT's were."""
        torch.manual_seed(0)
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
        ViTModel(ViTConfig(image_size=32, **{name: TINY[name] for name in names})).save_pretrained(tmp_path / "vit")
        (tmp_path / "vit" / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.5] * 3, "image_std": [0.4] * 3})
        )
        settings = {"attention_type": scheme, "num_frames": 6, "image_size": (32, 48), "num_train_epochs": 1}
        run(tmp_path / "out", data, model=tmp_path / "vit", **settings)
        trained = AutoModelForVideoClassification.from_pretrained(tmp_path / "out")
        assert trained.config.attention_type == scheme
        assert trained.config.num_frames == 6
        assert tuple(trained.config.image_size) == (32, 48)
        assert trained.config.id2label == {0: "cat", 1: "dog"}
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "out")
        assert (list(processor.image_mean), list(processor.image_std)) == ([0.5] * 3, [0.4] * 3)
        assert processor(str(data / "cat/0.mp4"), return_tensors="pt").pixel_values.shape == (1, 6, 3, 32, 48)

    def test_from_scratch(self, data, tmp_path):
        overrides = ",".join(f"{name}={value}" for name, value in TINY.items())
        result = run(tmp_path / "out", data, config_overrides=overrides, frame_sampling_rate=2, num_train_epochs=1)
        assert result["settings"]["recipe"] == "scratch"
        assert result["model"] is None
        assert AutoVideoProcessor.from_pretrained(tmp_path / "out").frame_sampling_rate == 2
        assert "from scratch" in (tmp_path / "out" / "README.md").read_text()

    def test_pairs_in_overrides(self):
        config = TimesformerConfig()
        assert finetune.read_overrides(None, config) == {}
        found = finetune.read_overrides("image_size=[32,48],hidden_act=relu,qkv_bias=false", config)
        assert found == {"image_size": [32, 48], "hidden_act": "relu", "qkv_bias": False}

    def test_several_labels(self, data, model, tmp_path, capsys):
        """A table of labels between bars; the pipeline's scores are those of independent questions."""
        videos = sorted(data.rglob("*.mp4"))
        rows = [(path, ("cat|dog", "cat", "", "dog")[number % 4]) for number, path in enumerate(videos)]
        table = tmp_path / "videos.csv"
        table.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
        result = run(tmp_path / "out", table, model=model, class_weights=True)
        assert result["validation"].keys() == {"mean_average_precision", "label_accuracy", "loss"}
        precision = result["validation"]["mean_average_precision"]
        shown = capsys.readouterr().out
        assert f"validation mean average precision: {precision:.2%} (" in shown
        assert not (tmp_path / "out" / "confusion_matrix.png").exists()
        assert "confusion_matrix.png" not in shown
        trained = AutoModelForVideoClassification.from_pretrained(tmp_path / "out")
        assert trained.config.problem_type == "multi_label_classification"
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "out")
        assert AutoImageProcessor.from_pretrained(tmp_path / "out").crop_size == processor.crop_size
        with torch.no_grad():
            scores = trained(**processor(str(videos[0]), return_tensors="pt")).logits[0].sigmoid()
        found = {
            row["label"]: row["score"]
            for row in pipeline("video-classification", model=str(tmp_path / "out"))(str(videos[0]))
        }
        assert found == pytest.approx({trained.config.id2label[i]: scores[i].item() for i in range(2)}, abs=1e-6)

    def test_given_splits(self, data, model, tmp_path, caplog):
        for split, numbers in (("train", range(8)), ("validation", range(6, 12))):
            for number in numbers:
                name = f"{('cat', 'dog')[number % 2]}/{number}.mp4"
                (tmp_path / "data" / split / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(data / name, tmp_path / "data" / split / name)
        run(tmp_path / "out", tmp_path / "data", model=model)
        sides = {(row["split"], Path(row["path"]).name) for row in read_split(tmp_path / "out")}
        expected = {("train", f"{number}.mp4") for number in range(8)}
        assert sides == expected | {("validation", f"{number}.mp4") for number in range(6, 12)}
        assert "2 validation videos are also training videos" in caplog.text
        run(tmp_path / "other", data, model=model, validation_data=tmp_path / "data" / "validation")
        assert len(read_split(tmp_path / "other")) == 12 + 6

    def test_stream(self, data, model, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
        save_data_set(data, tmp_path / "set")
        settings = {"model": model, "streaming": True, "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "no"}
        result = run(tmp_path / "out", tmp_path / "set", max_steps=6, **settings)
        assert 0 <= result["validation"]["accuracy"] <= 1
        run(tmp_path / "endless", tmp_path / "set", code=2, **settings)

    def test_bf16_checkpointing_and_accumulation(self, data, model, tmp_path):
        settings = {"bf16": True, "gradient_checkpointing": True, "gradient_accumulation_steps": 2}
        result = run(tmp_path / "out", data, model=model, **settings)
        assert result["settings"]["total_batch_size"] == 4
        assert result["settings"]["steps"] == 4

    def test_the_last_two_checkpoints(self, data, model, tmp_path):
        """Not the best: with a learning rate of 0 that is the first. It is kept where it is asked for."""
        settings = {"model": model, "learning_rate": 0.0, "num_train_epochs": 3}
        best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
        for name, more, steps in (("last", {}, {8, 12}), ("best", best, {4, 12})):
            run(tmp_path / name, data, **settings | more)
            kept = {path.name for path in (tmp_path / name).glob("checkpoint-*")}
            assert kept == {f"checkpoint-{step}" for step in steps}

    @pytest.mark.usefixtures("plots")
    @pytest.mark.parametrize(
        "settings", [{"logging_strategy": "no", "eval_strategy": "no"}, {"num_train_epochs": 0, "save_strategy": "no"}]
    )
    def test_nothing_to_draw(self, settings, data, model, tmp_path, capsys):
        run(tmp_path / "out", data, model=model, **settings)
        shown = capsys.readouterr().out
        assert "validation accuracy: " in shown
        assert "the model, README.md, results.json, confusion_matrix.png\n" in shown

    def test_without_matplotlib(self, data, model, tmp_path, capsys, monkeypatch):
        """It is said before the training."""
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        run(tmp_path / "out", data, code=2, model=model)
        assert "matplotlib" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_torch_compile(self, data, model, tmp_path):
        run(tmp_path / "out", data, model=model, torch_compile=True)
        assert weights(tmp_path / "out").keys() == weights(model).keys()


class TestAdaptersAndFreezing:
    def test_lora(self, data, model, tmp_path):
        """Only adapters and head are trained; the merged model gives what the adapters on the base give."""
        peft = pytest.importorskip("peft")
        out = tmp_path / "out"
        run(out, data, model=model, lora_rank=2, learning_rate=0.01)
        changed = {name for name, tensor in weights(out).items() if not torch.equal(tensor, weights(model)[name])}
        assert changed
        assert all(name.endswith(("qkv.weight", "dense.weight")) for name in changed if "classifier" not in name)
        assert {name.split(".")[-2] for name in changed} == {"qkv", "dense", "temporal_dense", "classifier"}
        merged = AutoModelForVideoClassification.from_pretrained(out).eval()
        base = AutoModelForVideoClassification.from_pretrained(model)
        adapted = peft.PeftModel.from_pretrained(base, out / "adapter").eval()
        clip = torch.randn(2, 4, 3, 32, 32)
        assert torch.allclose(merged(clip).logits, adapted(clip).logits, atol=1e-5)

    def test_lora_resumes(self, data, model, tmp_path):
        settings = {"model": model, "lora_rank": 2, "save_strategy": "steps", "save_steps": 3, "learning_rate": 0.01}
        run(tmp_path / "whole", data, **settings)
        run_until(tmp_path / "broken", data, 5, **settings)
        run(tmp_path / "broken", data, resume=True, **settings)
        assert_same_weights(tmp_path / "broken", tmp_path / "whole")

    @pytest.mark.usefixtures("plots")
    @pytest.mark.parametrize("settings", [{}, {"reset_head": True, "num_frames": 6, "image_size": (32, 48)}])
    def test_adapters_alone(self, settings, data, model, tmp_path, capsys):
        """They, and what the card says to do with them, make the model that merging makes."""
        settings = {"model": model, "lora_rank": 2, "learning_rate": 0.01, "num_train_epochs": 1} | settings
        run(tmp_path / "merged", data, **settings)
        assert "the model, README.md, results.json, curves.png, confusion_matrix.png\n" in capsys.readouterr().out
        out = tmp_path / "out"
        run(out, data, merge_lora=False, **settings)
        shown = capsys.readouterr().out
        assert f"{out}: adapters of {model}, README.md, results.json, curves.png, confusion_matrix.png; " in shown
        assert "timesformer-hf classify" not in shown
        assert (out / "adapter_model.safetensors").exists()
        assert not (out / "model.safetensors").exists()
        code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL).group(1)
        found = {}
        exec(code.split("model(")[0].replace('"out"', repr(str(out))), found)
        merged = AutoModelForVideoClassification.from_pretrained(tmp_path / "merged").eval()
        clip = found["processor"](str(data / "cat/0.mp4"), return_tensors="pt")
        assert torch.allclose(found["model"](**clip).logits, merged(**clip).logits, atol=1e-5)
        assert found["model"].config.id2label == merged.config.id2label

    def test_lora_trains_a_new_time_table(self):
        config = TimesformerConfig(**TINY, num_labels=2)
        adapted = add_lora(TimesformerForVideoClassification(config), 2, train_embeddings=True)
        trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
        assert any(name.endswith("modules_to_save.default.time_embeddings") for name in trained)
        assert not any("layernorm" in name for name in trained)

    @pytest.mark.parametrize("what", ["backbone", "embeddings", "1"])
    def test_freeze(self, what, data, model, tmp_path, capsys):
        run(tmp_path / "out", data, model=model, freeze=what, learning_rate=0.01, num_train_epochs=1)
        before, after = weights(model), weights(tmp_path / "out")
        kept = {name for name in before if torch.equal(before[name], after[name])}
        frozen = {"backbone": ("timesformer.",), "embeddings": ("timesformer.embeddings.",)}
        frozen = frozen.get(what, ("timesformer.embeddings.", "timesformer.encoder.layer.0."))
        assert kept == {name for name in before if name.startswith(frozen)}
        total, trained = (sum(before[name].numel() for name in names) for names in (before, before.keys() - kept))
        assert f"finetune: {trained:,} of {total:,} parameters are trained" in capsys.readouterr().err

    def test_bad(self, data, model, tmp_path, capsys):
        with pytest.raises(
            ValueError, match="freeze='3' must be 'backbone', 'embeddings' or a number of first blocks, 0 to 2"
        ):
            freeze(TimesformerForVideoClassification(TimesformerConfig(**TINY)), "3")
        run(tmp_path / "out", data, code=2, model=model, lora_rank=2, freeze="backbone")
        assert "exclude each other" in capsys.readouterr().err
        overrides = ",".join(f"{name}={value}" for name, value in TINY.items())
        run(tmp_path / "out", data, code=2, config_overrides=overrides, lora_rank=2, merge_lora=False)
        assert "--merge_lora false needs --model" in capsys.readouterr().err


STEPS = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 1}


class StopError(Exception):
    pass


def run_until(out: Path, data: Path, step: int, action=None, **settings) -> None:
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
        arguments = flags(**QUICK | {"data": data, "output_dir": out} | settings)
        if action is None:
            with pytest.raises(StopError):
                finetune.main(arguments)
        else:
            return finetune.main(arguments)


def run_in_process(out: Path, data: Path, code: str, **settings) -> subprocess.CompletedProcess:
    """A run in a process of its own, after `code`."""
    arguments = flags(**QUICK | {"data": data, "output_dir": out} | settings)
    code += f"""
import runpy, sys, torch

torch.set_num_threads({torch.get_num_threads()})
sys.argv[1:] = {arguments!r}
runpy.run_path({str(EXAMPLES / "finetune.py")!r}, run_name="__main__")
"""
    return subprocess.run([sys.executable, "-c", code], timeout=300, capture_output=True, text=True)


KILLED_AT_STEP_6 = """
import os, signal
from timesformer_hf.training.trainer import ClipTrainer

save = ClipTrainer._save_optimizer_and_scheduler

def save_and_die(self, folder):
    if self.state.global_step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, folder)

ClipTrainer._save_optimizer_and_scheduler = save_and_die
"""

DISK_FULL_AFTER_STEP_4 = """
import resource
from timesformer_hf.training.trainer import ClipTrainer

training_step = ClipTrainer.training_step

def limited(self, *args, **kwargs):
    if self.state.global_step == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return training_step(self, *args, **kwargs)

ClipTrainer.training_step = limited
"""


def losses(out: Path) -> list[float]:
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.fixture(scope="module")
def whole(data, model, tmp_path_factory):
    """A run that nothing breaks off."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(out, data, model=model, **STEPS)
    return out


class TestResuming:
    """8 clips in batches of 2: steps 1 to 4 are the first epoch, 5 to 8 the second, 3 and 6 are saved."""

    @pytest.mark.parametrize(("step", "num_workers"), [(3, 0), (5, 2), (7, 2)])
    def test_same_weights(self, step, num_workers, whole, data, model, tmp_path):
        """With every augmentation and stochastic depth, in the middle of an epoch, bit for bit."""
        settings = {"model": model, "dataloader_num_workers": num_workers} | STEPS
        run_until(tmp_path / "out", data, step, **settings)
        assert last_checkpoint(tmp_path / "out").name == f"checkpoint-{3 * (step // 3)}"
        run(tmp_path / "out", data, resume=True, **settings)
        assert_same_weights(tmp_path / "out", whole)
        assert losses(tmp_path / "out") == losses(whole)

    def test_end_of_an_epoch_and_accumulation(self, data, model, tmp_path):
        settings = {"model": model, "gradient_accumulation_steps": 3, "recipe": "paper-kinetics", "num_train_epochs": 3}
        settings |= {"save_strategy": "steps", "save_steps": 1}
        run(tmp_path / "whole", data, **settings)
        for step in (1, 2):
            run_until(tmp_path / f"{step}", data, step, **settings)
            run(tmp_path / f"{step}", data, resume=True, **settings)
            assert_same_weights(tmp_path / f"{step}", tmp_path / "whole")

    def test_after_a_kill(self, whole, data, model, tmp_path):
        """SIGKILL while the second checkpoint is being written: the first one counts."""
        process = run_in_process(tmp_path / "out", data, KILLED_AT_STEP_6, model=model, **STEPS)
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert (tmp_path / "out" / "checkpoint-6" / "model.safetensors").exists()
        assert last_checkpoint(tmp_path / "out").name == "checkpoint-3"
        run(tmp_path / "out", data, model=model, resume=True, **STEPS)
        assert_same_weights(tmp_path / "out", whole)

    def test_full_disk(self, whole, data, model, tmp_path):
        """The system refuses the second checkpoint: nothing of it stays, and the first one is whole."""
        process = run_in_process(tmp_path / "out", data, DISK_FULL_AFTER_STEP_4, model=model, **STEPS)
        shown = process.stderr
        assert process.returncode == 2, shown
        assert "checkpoint-6 can't be written" in shown
        assert "Is the disk full? The last whole checkpoint is" in shown
        assert "Traceback" not in shown
        assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-3"]
        run(tmp_path / "out", data, model=model, resume=True, **STEPS)
        assert_same_weights(tmp_path / "out", whole)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_after_a_signal(self, number, whole, data, model, tmp_path, capsys):
        """It saves, says how to go on, and goes on."""
        before = signal.getsignal(number)
        code = run_until(tmp_path / "out", data, 4, lambda: os.kill(os.getpid(), number), model=model, **STEPS)
        assert code == 128 + number
        assert "checkpoint-5; the same command with --resume goes on from there" in capsys.readouterr().err
        assert signal.getsignal(number) is before
        run(tmp_path / "out", data, model=model, resume=True, **STEPS)
        assert_same_weights(tmp_path / "out", whole)

    def test_workers_heed_their_own_signals(self, data, model, tmp_path):
        """Ctrl-C, which reaches them too, is for the main process to answer; SIGTERM ends one as ever."""
        ends = []

        def action():
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(0)
            ends.append(os.waitpid(child, 0)[1])

        run_until(tmp_path / "out", data, 4, action, model=model, **STEPS)
        assert [os.WTERMSIG(end) for end in ends] == [signal.SIGTERM] * len(ends)
        assert ends
        assert (tmp_path / "out" / "config.json").exists()

    def test_two_signals(self, data, model, tmp_path, capsys):
        """The second one stops at once."""

        def twice():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

        assert run_until(tmp_path / "out", data, 4, twice, model=model, **STEPS) == 143
        assert "checkpoint-3; the same command" in capsys.readouterr().err
        assert not (tmp_path / "out" / "checkpoint-5").exists()

    def test_not_by_accident(self, whole, data, model, tmp_path, capsys):
        """A folder with a training in it is neither overwritten nor continued without being asked."""
        before = weights(whole)
        run(whole, data, code=2, model=model)
        assert "holds a training already: go on with --resume" in capsys.readouterr().err
        assert all(torch.equal(before[name], tensor) for name, tensor in weights(whole).items())

    def test_other_data(self, data, model, tmp_path, capsys):
        run_until(tmp_path / "out", data, 4, model=model, **STEPS)
        run(tmp_path / "out", data, code=2, model=model, resume=True, split_seed=1, **STEPS)
        assert "The data are not those that this training began with" in capsys.readouterr().err

    @pytest.mark.parametrize("adapters", [{}, {"lora_rank": 2}])
    def test_another_model(self, adapters, data, model, tmp_path, capsys):
        """Of the same shapes, but with labels in another order; and with settings that the weights don't fit."""
        settings = {"model": model} | adapters | STEPS
        run_until(tmp_path / "out", data, 4, **settings)
        permuted = save_model(tmp_path / "permuted", ["cat", "dog"])
        for change, difference in (
            ({"model": permuted}, "id2label: {'0': 'dog', '1': 'cat'}, now {'0': 'cat', '1': 'dog'}"),
            ({"num_frames": 6}, "num_frames: 4, now 6"),
            ({"image_size": (32, 48)}, "image_size: 32, now [32, 48]"),
            ({"attention_type": "joint_space_time"}, "attention_type: divided_space_time, now joint_space_time"),
        ):
            run(tmp_path / "out", data, code=2, resume=True, **settings | change)
            message = capsys.readouterr().err
            assert "checkpoint-3 is of another model than this command starts with:\n" in message
            assert message.count(", now ") == 1
            assert difference in message
        assert not (tmp_path / "out" / "config.json").exists()
        run(tmp_path / "out", data, resume=True, drop_path_rate=0.2, **settings)

    def test_nothing_to_resume(self, data, model, tmp_path):
        run(tmp_path / "out", data, model=model, resume=True, num_train_epochs=1)

    def test_killed_when_the_last_step_was_done(self, data, model, tmp_path):
        """Nothing is left to train, also where the steps don't fill an epoch."""
        settings = {"model": model, "max_steps": 6, "lr_scheduler_type": "constant"} | STEPS
        run(tmp_path / "out", data, **settings)
        before = weights(tmp_path / "out")
        (tmp_path / "out" / "config.json").unlink()
        run(tmp_path / "out", data, resume=True, **settings)
        assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path / "out").items())


class TestResumingStreams:
    """Two shards of 4 and 3 clips in batches of 2: a pass over them has 4 batches."""

    SETTINGS = {"streaming": True, "eval_strategy": "no", "logging_steps": 1, "save_strategy": "steps", "save_steps": 1}

    @pytest.fixture
    def shards(self, data, tmp_path):
        folder = tmp_path / "set"
        save_data_set(data, folder)
        datasets = pytest.importorskip("datasets")
        rows = datasets.Dataset.from_parquet(str(folder / "train.parquet"), cache_dir=str(tmp_path / "cache"))
        (folder / "train.parquet").unlink()
        for shard, part in enumerate((range(4), range(4, 7))):
            rows.select(part).to_parquet(folder / f"train-{shard}.parquet")
        return folder

    @pytest.mark.parametrize(
        ("num_workers", "accumulation", "steps"), [(0, 1, (2, 4, 6, 9, 10)), (2, 1, (6, 9)), (0, 3, (1, 2, 4))]
    )
    def test_same_weights(self, num_workers, accumulation, steps, shards, model, tmp_path, monkeypatch):
        """From the first, second and third pass, at an end of one, and with batches that a pass leaves over."""
        monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
        settings = {"model": model, "dataloader_num_workers": num_workers, "max_steps": 10} | self.SETTINGS
        settings |= {"gradient_accumulation_steps": accumulation, "save_total_limit": 100}
        if accumulation > 1:
            settings["max_steps"] = 5
        whole = tmp_path / "whole"
        run(whole, shards, **settings)
        for step in steps:
            out = tmp_path / f"{step}"
            shutil.copytree(whole / f"checkpoint-{step}", out / f"checkpoint-{step}")
            run(out, shards, resume=True, **settings)
            assert_same_weights(out, whole)
            assert losses(out) == losses(whole)


class TestLabelsAndNames:
    def test_stream_of_several_labels(self, data, model, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
        datasets = pytest.importorskip("datasets")
        paths = [str(path) for path in sorted(data.rglob("*.mp4"))[:4]]
        rows = {"video": paths, "labels": [["cat", "dog"], ["cat"], [], ["dog"]]}
        (tmp_path / "set").mkdir()
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "set" / "train.parquet")
        (tmp_path / "labels.txt").write_text("cat\ndog\n")
        settings = {"model": model, "streaming": True, "labels": tmp_path / "labels.txt", "max_steps": 2}
        settings |= {"eval_strategy": "no", "save_strategy": "no", "logging_steps": 1}
        run(tmp_path / "one", tmp_path / "set", code=2, **settings)
        assert re.search(r"\.mp4 in .*set has (no label|2 labels, cat, dog); one is exp", capsys.readouterr().err)
        run(tmp_path / "several", tmp_path / "set", multi_label=True, **settings)
        config = TimesformerConfig.from_pretrained(tmp_path / "several")
        assert config.problem_type == "multi_label_classification"

    def test_name_that_is_no_text(self, data, model, tmp_path, capsys):
        folder = shutil.copytree(data, tmp_path / "data")
        (folder / "cat" / "4.mp4").rename(folder / "cat" / os.fsdecode(b"\xff.mp4"))
        run(tmp_path / "out", folder, code=2, model=model)
        assert r"/cat/\udcff.mp4' of a file or folder is not text in UTF-8; rename it" in capsys.readouterr().err


class TestUnreadableClips:
    @pytest.fixture
    def broken(self, data, tmp_path):
        """One clip in twelve is cut off."""
        shutil.copytree(data, tmp_path / "data")
        path = tmp_path / "data" / "cat" / "4.mp4"
        path.write_bytes(path.read_bytes()[:1000])
        return tmp_path / "data"

    def test_skipped_and_named(self, broken, model, tmp_path, capsys):
        result = run(tmp_path / "out", broken, model=model)
        with (tmp_path / "out" / "_skipped_clips.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert row["video"] == str(broken / "cat" / "4.mp4")
        assert "truncated" in row["reason"]
        assert result["unreadable_clips"] == 1
        assert "clips that couldn't be read: 1" in capsys.readouterr().out

    def test_repaired(self, broken, data, model, tmp_path):
        """A training that goes on knows the clips that it couldn't read, but not those that were repaired."""
        settings = {"model": model, "max_unreadable": 0.2} | STEPS
        run_until(tmp_path / "out", broken, 7, **settings)
        run_until(tmp_path / "out", broken, 6, resume=True, **settings)
        with (tmp_path / "out" / "_skipped_clips.csv").open(newline="") as file:
            assert [row["video"] for row in csv.DictReader(file)] == [str(broken / "cat" / "4.mp4")]
        shutil.copy(data / "cat" / "4.mp4", broken / "cat" / "4.mp4")
        result = run(tmp_path / "out", broken, resume=True, strict=True, **settings)
        assert result["unreadable_clips"] == 0

    def test_repaired_with_several_labels(self, broken, data, tmp_path):
        """Of a model that knows more labels than the data have."""
        model = save_model(tmp_path / "base", ["bird", "dog", "cat"])
        rows = [f"{path},{path.parent.name}|dog".replace("dog|dog", "dog") for path in sorted(broken.rglob("*.mp4"))]
        (tmp_path / "videos.csv").write_text("\n".join(["path,label", *rows]))
        settings = {"model": model, "max_unreadable": 0.2} | STEPS
        run_until(tmp_path / "out", tmp_path / "videos.csv", 7, **settings)
        shutil.copy(data / "cat" / "4.mp4", broken / "cat" / "4.mp4")
        result = run(tmp_path / "out", tmp_path / "videos.csv", resume=True, strict=True, **settings)
        assert result["unreadable_clips"] == 0

    def test_nothing_takes_its_place(self, data, model, tmp_path):
        """A step on a batch with an unreadable clip is the step on the others of it."""
        videos = [(path, path.parent.name) for path in sorted(data.rglob("*.mp4"))]
        (tmp_path / "broken.mp4").write_text("no video")
        settings = {"model": model, "recipe": "paper-kinetics", "learning_rate": 0.1, "num_train_epochs": 1}
        settings |= {"per_device_train_batch_size": 16, "drop_path_rate": 0}
        for name, broken in (("with", [(tmp_path / "broken.mp4", "cat")]), ("without", [])):
            rows = [f"{path},{label},train" for path, label in videos[:-2] + broken]
            rows += [f"{path},{label},validation" for path, label in videos[-2:]]
            (tmp_path / f"{name}.csv").write_text("\n".join(["path,label,split", *rows]))
            run(tmp_path / name, tmp_path / f"{name}.csv", **settings)
        ours, theirs = weights(tmp_path / "with"), weights(tmp_path / "without")
        for name, tensor in weights(model).items():
            assert torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-6), name
            assert not torch.equal(ours[name], tensor), name
        step = ours["classifier.weight"] - weights(model)["classifier.weight"]
        assert step.abs().max() > 1e-3

    @pytest.mark.parametrize("settings", [{"strict": True}, {"max_unreadable": 0.05}])
    def test_too_many(self, settings, broken, model, tmp_path, capsys):
        run(tmp_path / "out", broken, code=2, model=model, **settings)
        message = capsys.readouterr().err
        assert "Clips that can't be read: 1; allowed are 0" in message
        assert str(broken / "cat" / "4.mp4") in message
        assert "_skipped_clips.csv" in message

    def test_validation_clips(self, broken, model, tmp_path):
        """They count neither as right nor as wrong."""
        (tmp_path / "validation").mkdir()
        for number in (0, 1, 4):
            name = f"{('cat', 'dog')[number % 2]}/{number}.mp4"
            (tmp_path / "validation" / name).parent.mkdir(exist_ok=True)
            shutil.move(broken / name, tmp_path / "validation" / name)
        settings = {"model": model, "validation_data": tmp_path / "validation", "per_device_eval_batch_size": 1}
        result = run(tmp_path / "out", broken, **settings)
        assert result["validation"]["accuracy"] in (0, 0.5, 1)
        trained = AutoModelForVideoClassification.from_pretrained(tmp_path / "out")
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "out")
        losses = []
        for name, label in (("dog/1.mp4", 0), ("cat/0.mp4", 1)):
            clip = processor(str(tmp_path / "validation" / name), return_tensors="pt")
            with torch.no_grad():
                losses.append(trained(**clip, labels=torch.tensor([label])).loss.item())
        assert result["validation"]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)

    def test_no_validation_clip(self, broken, model, tmp_path, capsys):
        for label in ("cat", "dog"):
            (tmp_path / "validation" / label).mkdir(parents=True)
            (tmp_path / "validation" / label / "0.mp4").write_text("no video")
        settings = {"validation_data": tmp_path / "validation", "max_unreadable": 0.9}
        run(tmp_path / "out", broken, code=2, model=model, **settings)
        message = capsys.readouterr().err
        assert "None of the 2 clips to validate with can be read; " in message
        assert "_skipped_clips.csv says why" in message

    def test_no_label_to_validate_with(self, data, model, tmp_path, capsys):
        """Given, it is refused; where the clips with labels can't be read, there is no average precision."""
        videos = sorted(map(str, data.rglob("*.mp4")))
        (tmp_path / "broken.mp4").write_text("no video")
        settings = {"model": model, "multi_label": True, "num_train_epochs": 1}
        for name, labelled in (("given", []), ("unreadable", [f"{tmp_path / 'broken.mp4'},cat,validation"])):
            rows = [f"{path},{('cat', 'cat|dog')[number % 2]},train" for number, path in enumerate(videos[:10])]
            rows += [f"{path},,validation" for path in videos[10:]] + labelled
            (tmp_path / f"{name}.csv").write_text("\n".join(["path,label,split", *rows]))
        run(tmp_path / "out", tmp_path / "given.csv", code=2, **settings)
        assert "No validation video has a label" in capsys.readouterr().err
        result = run(tmp_path / "out", tmp_path / "unreadable.csv", **settings)
        assert result["validation"].keys() == {"label_accuracy", "loss"}


class TestBadInput:
    def test_nothing_to_mix_with(self, data, model, tmp_path, caplog):
        warning = "none with --per_device_train_batch_size 1"
        settings = {"model": model, "num_train_epochs": 1, "per_device_train_batch_size": 1}
        run(tmp_path / "unmixed", data, mixup=0, cutmix=0, **settings)
        assert warning not in caplog.text
        run(tmp_path / "out", data, **settings)
        assert warning in caplog.text

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"data": "nothing"}, "nothing is neither a folder or table here"),
            ({"model": "nothing"}, "nothing"),
            ({"model": None}, "Give --model to start from, or --config"),
            ({"config_overrides": "hidden_size=3"}, "and not both"),
            ({"validation_share": 2}, "must lie between 0 and 1"),
            ({"attention_type": "both"}, "attention_type='both' must be one of"),
            ({"frame_sampling": "center"}, "needs a frame_sampling_rate"),
            ({"mixup": -1}, "mixup=-1.0 must be 0"),
            ({"jitter": 1}, "jitter=(1.0,) must be two numbers in ascending order, of at least 1"),
            ({"label_smoothing_factor": 1.5}, "label_smoothing_factor=1.5 must lie in [0, 1]"),
            (
                {"dataloader_drop_last": True, "per_device_train_batch_size": 100},
                "drops all of 8 clips to train with, which make no whole batch of 100",
            ),
            ({"model": None, "config_overrides": "hidden=3"}, "there is no field 'hidden' in the config"),
            ({"model": None, "config_overrides": "image_size=[32"}, "must be names and values, as hidden_size=192"),
            ({"model": None, "config_overrides": "hidden_size"}, "hidden_size"),
            ({"model": None, "config_overrides": "hidden_size=abc"}, "hidden_size"),
            ({"lr_scaling": "cubic"}, "lr_scaling='cubic' must be one of 'none', 'linear', 'sqrt'"),
            ({"streaming": True}, "--streaming needs --max_steps"),
        ],
    )
    def test_messages(self, settings, message, data, model, tmp_path, capsys):
        settings = {
            name: value for name, value in ({"data": data, "model": model} | settings).items() if value is not None
        }
        assert finetune.main(flags(**QUICK | {"output_dir": tmp_path / "out"} | settings)) == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["README.md", "results.json"])
    def test_folder_of_something_else(self, name, data, model, tmp_path, capsys):
        (tmp_path / name).write_text("mine")
        run(tmp_path, data, code=2, model=model)
        assert f"{tmp_path} holds {name} of something else" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize("folder", [".", "out", "cat/out"])
    def test_output_among_the_data(self, folder, data, model, capsys):
        before = sorted(data.rglob("*"))
        run(data / folder, data, code=2, model=model)
        assert f"lies in {data}, where it would be taken for a class" in capsys.readouterr().err
        run(data / folder, "videos.csv", code=2, model=model, validation_data=data)
        assert f"lies in {data}, where it would be taken for a class" in capsys.readouterr().err
        assert sorted(data.rglob("*")) == before

    def test_out_of_memory(self, data, model, tmp_path, capsys, monkeypatch):
        def forward(self, *args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        monkeypatch.setattr(TimesformerForVideoClassification, "forward", forward)
        run(tmp_path / "out", data, code=1, model=model)
        message = capsys.readouterr().err
        assert "out of memory with 2 clips at once (CUDA out of memory." in message
        assert "Lower --per_device_train_batch_size" in message

    def test_label_to_validate_with_is_not_trained(self, data, model, tmp_path, capsys):
        shutil.copytree(data, tmp_path / "validation")
        (tmp_path / "validation" / "dog").rename(tmp_path / "validation" / "eel")
        run(tmp_path / "out", data, code=2, model=model, validation_data=tmp_path / "validation")
        assert "labels that are not among the 2 given names: eel" in capsys.readouterr().err

    def test_validation_has_a_class_of_its_own(self, data, model, tmp_path, capsys):
        shutil.copytree(data, tmp_path / "data" / "train")
        shutil.copytree(data, tmp_path / "data" / "validation")
        (tmp_path / "data" / "validation" / "dog").rename(tmp_path / "data" / "validation" / "eel")
        run(tmp_path / "out", tmp_path / "data", code=2, model=model, reset_head=True)
        assert "No training video has the label eel" in capsys.readouterr().err


class TestArguments:
    def parse(self, *arguments):
        defaults = finetune.default_arguments()
        return parse_with_recipe(
            finetune.ARGUMENTS, list(map(str, arguments)), defaults, finetune.__doc__, finetune.USAGE
        )

    def test_recipe_then_file_then_flags(self, tmp_path):
        settings = tmp_path / "settings.yaml"
        settings.write_text(
            "data: videos\nmodel: base\nrecipe: paper-kinetics\noutput_dir: out\nflip: 0.25\nweight_decay: 1e-3\n"
        )
        model, data, augmentation, training = self.parse(settings, "--flip", 0.75, "--use_cpu")
        assert (model.recipe, model.model, data.data) == ("paper-kinetics", "base", "videos")
        assert augmentation.flip == 0.75  # the flag's
        assert training.weight_decay == 1e-3  # the file's, though YAML takes it for text
        assert training.num_train_epochs == 15  # the recipe's
        assert training.eval_strategy == "epoch"  # the script's
        (tmp_path / "settings.json").write_text(
            json.dumps({"data": "videos", "output_dir": "out", "jitter": [1.0, 1.5]})
        )
        model, _, augmentation, training = self.parse(tmp_path / "settings.json", "--use_cpu")
        assert model.recipe == "scratch"
        assert augmentation.jitter == [1.0, 1.5]

    def test_values_of_a_file(self, tmp_path):
        """Are what they would be on the command line."""
        lines = ["image_size: 64", "freeze: 1", "save_strategy: no", "bf16: false", "reset_head: 'yes'", "model: null"]
        lines += ["lr_drops: [0.5, 0.75]", "lr_scheduler_kwargs: {num_cycles: 2}", "output_dir: -3", "data: 2024"]
        (tmp_path / "settings.yaml").write_text("\n".join(lines))
        words = ["--image_size", 64, "--freeze", 1, "--save_strategy", "no", "--bf16", False, "--reset_head", "yes"]
        words += ["--lr_drops", 0.5, 0.75, "--lr_scheduler_kwargs", '{"num_cycles": 2}', "--output_dir=-3"]
        found = self.parse(tmp_path / "settings.yaml", "--use_cpu")
        expected = self.parse(*words, "--data", 2024, "--use_cpu")
        assert [vars(part) for part in found[:3]] == [vars(part) for part in expected[:3]]
        assert found[3].to_dict() == expected[3].to_dict()
        assert (found[0].image_size, found[0].freeze, found[0].model) == ([64], "1", None)

    @pytest.mark.parametrize("text", ["frame_sampling_rate: 2.5", "num_train_epochs: many"])
    def test_wrong_types_in_a_file(self, text, tmp_path, capsys):
        (tmp_path / "settings.yaml").write_text(f"data: videos\noutput_dir: out\n{text}\n")
        with pytest.raises(SystemExit):
            finetune.main([str(tmp_path / "settings.yaml")])
        name, value = text.split(": ")
        assert re.search(f"argument --{name}.*: invalid \\w+ value: '{value}'", capsys.readouterr().err)

    def test_learning_rate_follows_the_batch(self):
        common = ("--data", "d", "--output_dir", "o", "--use_cpu", "--recipe")
        training = self.parse(
            *common, "paper-kinetics", "--per_device_train_batch_size", 16, "--gradient_accumulation_steps", 2
        )[3]
        assert training.learning_rate == pytest.approx(0.005 * 32 / 64)
        training = self.parse(*common, "modern", "--per_device_train_batch_size", 16)[3]
        assert training.learning_rate == pytest.approx(5e-4 * (16 / 256) ** 0.5)
        assert self.parse(*common, "modern", "--learning_rate", 0.3)[3].learning_rate == 0.3

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("flop: 1\n", "there is no option 'flop'; is it flip?"),
            ("- 1\n", "must hold options by their names"),
            ("a: [\n", "is neither JSON nor YAML"),
            ("recipe: best\n", "recipe='best' must be one of 'paper-kinetics'"),
        ],
    )
    def test_bad_files(self, text, message, tmp_path, capsys):
        (tmp_path / "settings.yaml").write_text(text)
        assert finetune.main([str(tmp_path / "settings.yaml")]) == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize("name", RECIPES)
    def test_recipes_name_arguments(self, name):
        """Every default of a recipe is an argument, and parses."""
        parsed = self.parse("--data", "d", "--output_dir", "o", "--use_cpu", "--recipe", name)
        for argument, value in RECIPES[name].defaults.items():
            (found,) = [getattr(part, argument) for part in parsed if hasattr(part, argument)]
            assert getattr(found, "value", found) == value

    def test_help(self, capsys):
        with pytest.raises(SystemExit):
            self.parse("--help")
        shown = capsys.readouterr().out
        assert "python examples/finetune.py --data videos/" in shown
        assert "--lora_rank" in shown


class TestRecipes:
    @pytest.fixture
    def tiny(self):
        return TimesformerForVideoClassification(TimesformerConfig(**TINY, num_labels=3))

    def make_trainer(self, model, tmp_path, recipe: str, **settings) -> ClipTrainer:
        names = {field.name for field in ClipTrainingArguments.__dataclass_fields__.values()}
        defaults = {name: value for name, value in RECIPES[recipe].defaults.items() if name in names}
        args = ClipTrainingArguments(output_dir=tmp_path, use_cpu=True, report_to="none", **defaults | settings)
        return ClipTrainer(model=model, args=args, loss=None)

    def test_the_papers_optimizer(self, tiny, tmp_path):
        trainer = self.make_trainer(tiny, tmp_path, "paper-kinetics", per_device_train_batch_size=64)
        optimizer = trainer.create_optimizer()
        assert type(optimizer) is torch.optim.SGD
        (group,) = optimizer.param_groups
        assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.005, 0.9, True, 1e-4)
        assert len(group["params"]) == len(list(tiny.parameters()))
        schedule = trainer.create_scheduler(150)
        rates = []
        for _ in range(150):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        assert rates == pytest.approx([0.005] * 110 + [0.0005] * 30 + [0.00005] * 10)
        assert trainer.args.max_grad_norm == 0

    def test_layer_decay(self, tiny):
        """Each parameter once, at the rate of its depth; no decay of biases, norms and tables."""
        rates, decayed = {}, {}
        names = {id(parameter): name for name, parameter in tiny.named_parameters()}
        for group in parameter_groups(tiny, 1.0, 0.05, layer_decay=0.5):
            for parameter in group["params"]:
                assert names[id(parameter)] not in rates
                rates[names[id(parameter)]], decayed[names[id(parameter)]] = group["lr"], group["weight_decay"]
        assert len(rates) == len(names)
        for name, rate in rates.items():
            expected = 1.0 if name.startswith(("classifier", "timesformer.layernorm")) else None
            expected = 0.5 if "layer.1." in name else expected
            expected = 0.25 if "layer.0." in name else expected
            expected = 0.125 if "embeddings" in name else expected
            assert rate == expected, name
            tables = ("cls_token", "position_embeddings", "time_embeddings")
            assert (decayed[name] == 0) == (name.endswith(("bias", *tables)) or "norm" in name)
        assert layer_depth("base_model.model.timesformer.encoder.layer.3.output.dense.lora_A.default.weight", 12) == 4

    def test_groups_leave_out_what_is_frozen(self, tiny):
        freeze(tiny, "backbone")
        assert sum(len(group["params"]) for group in parameter_groups(tiny, 1.0)) == 2

    def test_scaling(self):
        assert scaled_learning_rate(0.1, 64, 16, "linear") == pytest.approx(0.025)
        assert scaled_learning_rate(0.1, 64, 16, "sqrt") == pytest.approx(0.05)
        assert scaled_learning_rate(0.1, 64, 16, "none") == 0.1

    def test_drops_with_warm_up(self):
        factors = [drop_factor(step, 10, [0.5], 2) for step in range(10)]
        assert factors == pytest.approx([0, 0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1])

    def test_accumulated_batches_are_one_batch(self, data, model, tmp_path):
        """4 clips at once, or 2 and 2, give the same step."""
        settings = {
            "model": model,
            "recipe": "paper-kinetics",
            "drop_path_rate": 0,
            "learning_rate": 0.1,
            "num_train_epochs": 1,
        }
        run(tmp_path / "at_once", data, per_device_train_batch_size=4, **settings)
        run(tmp_path / "in_parts", data, per_device_train_batch_size=2, gradient_accumulation_steps=2, **settings)
        ours, theirs = weights(tmp_path / "at_once"), weights(tmp_path / "in_parts")
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)
        assert not all(torch.allclose(ours[name], tensor, atol=1e-5) for name, tensor in weights(model).items())


class TestStarts:
    def test_labels_by_their_letters(self):
        known = {0: "air drumming", 1: "LABEL_1", 2: "swim"}
        assert match_labels("m", ["Air_Drumming", "swim"], known) == {"Air_Drumming": 0, "swim": 2}
        assert match_labels("m", ["a"], {0: "LABEL_0", 1: "LABEL_1"}) is None
        with pytest.raises(LabelMismatchError, match="it lacks 1 of the data's 2"):
            match_labels("m", ["swim", "fly"], known)

    @pytest.mark.parametrize(
        ("data", "known"),
        [
            (["-1", "+1"], ["1", "2"]),
            (["c++", "C"], ["c", "d"]),
            (["!", "?"], ["...", "d"]),
            (["Up", "up"], ["up", "down"]),
            (["go!"], ["go", "go?"]),
        ],
    )
    def test_two_labels_do_not_become_one(self, data, known):
        with pytest.raises(LabelMismatchError, match="other labels: it lacks"):
            match_labels("m", data, dict(enumerate(known)))
        assert match_labels("m", known, dict(enumerate(known))) == {known[0]: 0, known[1]: 1}

    def test_new_head(self, tmp_path):
        """The rest is the checkpoint's; the head has the original's initial values."""
        base = save_model(tmp_path / "base", ["a", "b"])
        model, _, label2id = start_from_checkpoint(base, ["x", "y"], reset_head=True)
        assert label2id == {"x": 0, "y": 1}
        assert model.config.id2label == {0: "x", 1: "y"}
        stored = weights(base)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, stored[name]) == (not name.startswith("classifier"))
        assert not model.classifier.bias.any()
        assert model.classifier.weight.std().item() == pytest.approx(0.02, rel=0.3)

    def test_other_frames_and_size(self, tmp_path):
        base = save_model(tmp_path / "base", ["a", "b"])
        model, processor, _ = start_from_checkpoint(
            base, ["a", "b"], num_frames=6, image_size=(48, 32), drop_path_rate=0.2
        )
        assert (model.config.num_frames, model.config.image_size, model.config.drop_path_rate) == (6, (48, 32), 0.2)
        assert model.timesformer.embeddings.time_embeddings.shape[1] == 6
        assert processor.num_frames == 6
        assert dict(processor.crop_size) | {} == {"height": 48, "width": 32}

    def test_squeezed_frames_stay_squeezed(self, tmp_path):
        base = save_model(tmp_path / "base", ["a", "b"])
        TimesformerVideoProcessor(num_frames=4, size=SIZE, do_center_crop=False).save_pretrained(base)
        for settings, size in (({}, (32, 32)), ({"image_size": (48, 32)}, (48, 32))):
            _, processor, _ = start_from_checkpoint(base, ["a", "b"], **settings)
            assert not processor.do_center_crop
            assert processor.clip_size == size
        for settings in ({"size": {"shortest_edge": 32}}, {"size": SIZE, "do_resize": False}):
            TimesformerVideoProcessor(num_frames=4, do_center_crop=False, **settings).save_pretrained(base)
            _, processor, _ = start_from_checkpoint(base, ["a", "b"])
            assert processor.do_center_crop
            assert processor.do_resize
            assert processor.clip_size == (32, 32)

    def test_multi_view_processor_becomes_one_of_single_views(self, tmp_path):
        base = save_model(tmp_path / "base", ["a", "b"])
        TimesformerVideoProcessor(num_frames=4, num_crops=3, do_flip_channel_order=True).save_pretrained(base)
        _, processor, _ = start_from_checkpoint(base, ["a", "b"])
        assert processor.num_crops is None
        assert processor.do_flip_channel_order

    def test_scratch(self):
        config = TimesformerConfig(**TINY, attention_type="axial")
        model, processor, label2id = start_from_scratch(config, ["a", "b", "c"])
        assert model.config.attention_type == "axial"
        assert model.config.num_labels == 3
        assert label2id == {"a": 0, "b": 1, "c": 2}
        assert dict(processor.crop_size) | {} == SIZE


class TestHub:
    def test_push(self, data, model, tmp_path, monkeypatch):
        """What would be uploaded, and when: the model with a filled card, and nothing that names files here."""
        from huggingface_hub import HfApi, RepoUrl

        calls = []
        monkeypatch.setattr(
            HfApi, "create_repo", lambda self, repo, **kwargs: RepoUrl(f"https://huggingface.co/{repo}")
        )

        def upload_folder(self, **kwargs):
            folder, ignored = Path(kwargs["folder_path"]), kwargs["ignore_patterns"]
            calls.append({path.name: path for path in folder.iterdir() if not any(map(path.match, ignored))})

        monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
        settings = {"push_to_hub": True, "hub_model_id": "me/cats", "hub_strategy": "end"}
        run(tmp_path / "out", data, model=model, num_train_epochs=1, **settings)
        (uploaded,) = calls
        assert {"README.md", "config.json", "model.safetensors", "video_preprocessor_config.json"} <= uploaded.keys()
        assert not any(name.startswith(("_", "checkpoint-")) for name in uploaded)
        card = uploaded["README.md"].read_text()
        assert "# me/cats" in card
        assert "accuracy" in card
        assert 'pipeline("video-classification", model="me/cats")' in card


class TestAccelerate:
    def test_run(self, data, model, tmp_path):
        example = load_example("finetune_accelerate")
        out = tmp_path / "out"
        arguments = flags(
            data=data, model=model, output_dir=out, epochs=2, batch_size=2, num_workers=0, validation_share=0.34
        )
        accuracy = example.main(arguments)
        _, validation = timesformer_split(data)
        classifier = pipeline("video-classification", model=str(out))
        right = [classifier(video.name, top_k=1)[0]["label"] == video.labels[0] for video in validation]
        assert accuracy == sum(right) / len(right)
        assert not torch.equal(weights(out)["classifier.weight"], weights(model)["classifier.weight"])

    def test_given_splits(self, data, model, tmp_path):
        """What is to be tested or validated with is not trained."""
        split_of = ["train"] * 6 + ["validation"] * 2 + ["test"] * 4
        for number, split in enumerate(split_of):
            name = f"{('cat', 'dog')[number % 2]}/{number}.mp4"
            (tmp_path / "data" / split / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data / name, tmp_path / "data" / split / name)
        example = load_example("finetune_accelerate")
        args = example.parse_arguments(flags(data=tmp_path / "data", model=model, output_dir=tmp_path / "out"))
        _, processor, label2id = start_from_checkpoint(model, ["cat", "dog"])
        videos = example.read_labelled_videos(args.data)
        for loader, split in zip(
            example.make_loaders(args, videos, processor, label2id), ("train", "validation"), strict=False
        ):
            found = {Path(video.name).name for video in loader.dataset.videos}
            assert found == {f"{number}.mp4" for number in range(12) if split_of[number] == split}

    def test_bad(self, data, model, tmp_path):
        """Several labels a video, and clips none of which can be read: neither is trained to the end."""
        example = load_example("finetune_accelerate")
        videos = [(path, path.parent.name) for path in sorted(data.rglob("*.mp4"))]
        (tmp_path / "videos.csv").write_text("path,label\n" + "".join(f"{path},cat|dog\n" for path, _ in videos))
        settings = {"model": model, "epochs": 1, "num_workers": 0, "output_dir": tmp_path / "out"}
        with pytest.raises(ValueError, match="has 2 labels, cat, dog; one is expected"):
            example.main(flags(data=tmp_path / "videos.csv", **settings))
        for path, label in videos:
            (tmp_path / "broken" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "broken" / label / path.name).write_text(f"no video {path}")
        with pytest.raises(ValueError, match="None of the clips to validate with can be read"):
            example.main(flags(data=tmp_path / "broken", **settings))
        assert not (tmp_path / "out" / "config.json").exists()


def timesformer_split(data: Path):
    from timesformer_hf.data.clip_dataset import read_labelled_videos, train_validation_split

    return train_validation_split(read_labelled_videos(data), 0.34)


def test_curves(tmp_path):
    """What is drawn are the numbers of the log."""
    from timesformer_hf.training.curves import plot_training_curves, read_curves

    log = [{"step": 1, "loss": 2.0, "learning_rate": 0.1}, {"step": 2, "eval_accuracy": 0.5}, {"step": 3, "loss": 1.0}]
    assert read_curves(log) == {
        "loss": ([1, 3], [2.0, 1.0]),
        "learning_rate": ([1], [0.1]),
        "eval_accuracy": ([2], [0.5]),
    }
    plot_training_curves(tmp_path / "c.png", log)
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_training_curves(tmp_path / "d.png", [{"step": 1}])


PAGE = (EXAMPLES.parent / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE + (EXAMPLES.parent / "README.md").read_text(), re.DOTALL)
COMMANDS = list(dict.fromkeys(re.findall(r"^python .*$", "".join(BLOCKS), re.MULTILINE)))


class TestPage:
    """docs/training.md"""

    @pytest.fixture
    def place(self, data, tmp_path, monkeypatch):
        """A folder with what the commands name, in which a model of the Hub is a tiny one."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "videos").symlink_to(data)
        save_model(tmp_path / "facebook" / "timesformer-base-finetuned-k400", ["swim", "run", "jump"])
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
        vit = ViTModel(ViTConfig(image_size=32, **{name: TINY[name] for name in names}))
        vit.save_pretrained(tmp_path / "google" / "vit-base-patch16-224-in21k")
        (settings,) = re.findall(r"```yaml\n# settings.yaml\n(.*?)```", PAGE, re.DOTALL)
        (tmp_path / "settings.yaml").write_text(settings)
        videos = sorted(data.rglob("*.mp4"))
        rows = [f"{path},{('cat', 'dog|cat', 'dog', '')[number % 4]}" for number, path in enumerate(videos)]
        (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
        return tmp_path

    @pytest.mark.parametrize("command", COMMANDS)
    def test_commands_run(self, command, place, data, monkeypatch):
        if "--streaming" in command:
            monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
            save_data_set(data, place / "me" / "my-data-set")
            command = command.replace("20000", "2")
        script, *arguments = shlex.split(command)[1:]
        if "--image_size" in arguments and "448" in arguments:
            arguments[arguments.index("448")] = "48"
        if script.endswith("finetune_accelerate.py"):
            load_example("finetune_accelerate").main([*arguments, "--epochs", "1", "--num_workers", "0"])
        else:
            quick = flags(**{name: value for name, value in QUICK.items() if name != "per_device_train_batch_size"})
            assert finetune.main([*arguments, *quick, "--num_train_epochs", "1"]) == 0
        assert pipeline("video-classification", model="my-model")(str(next(data.rglob("*.mp4"))))

    def test_table_of_recipes(self):
        """Says what the recipes are."""
        header, _, *rows = re.search(r"\| \| `paper-kinetics`.*?\n\n", PAGE, re.DOTALL).group(0).strip().splitlines()
        names = re.findall(r"`(.*?)`", header)
        assert names == list(RECIPES)
        for row in rows:
            argument, *values = (cell.strip(" `") for cell in row.strip("|").split("|"))
            assert values == [str(RECIPES[name].defaults.get(argument, "-")) for name in names], argument


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
