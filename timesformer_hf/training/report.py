"""The files beside a trained model: results.json, README.md, curves.png and confusion_matrix.png."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers

from ..checkpoints.model_card import find_licence
from ..evaluation.confusion_plot import plot_confusion_matrix
from ..evaluation.metrics import confusion_matrix
from ..output.atomic import output_file
from ..output.model_cards import public_name
from .adapters import base_model, has_adapters
from .card import TrainingCard
from .curves import plot_training_curves, read_curves
from .trainer import ClipTrainer, readable


_METRICS = ("accuracy", "top_5_accuracy", "mean_class_accuracy", "mean_average_precision", "label_accuracy", "loss")
SETTINGS = ("num_train_epochs", "learning_rate", "weight_decay", "layer_decay", "label_smoothing_factor")
SETTINGS += ("seed", "bf16")


@dataclass
class TrainingReport:
    """
    What is known of a training when it has ended, and the files that say it.

    Attributes:
        data: a name of the data, as the reader of the model card shall see it.
        base_model: the model that the training started from; `None` from scratch.
        settings: further settings that the reader would ask for, by name.
        multi_label: whether a video can have several labels.
        metrics: the metrics of the validation by name; empty without a validation.
        scores, labels: those of the validation clips that could be read, (clips, labels) and (clips,) or
            (clips, labels).
    """

    data: str
    base_model: str | None
    settings: dict
    multi_label: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    scores: np.ndarray | None = None
    labels: np.ndarray | None = None

    def validate(self, trainer: ClipTrainer) -> None:
        """Measure the model. To be called in every process."""
        prediction = trainer.predict(trainer.eval_dataset, metric_key_prefix="validation")
        self.scores, self.labels = readable(prediction.predictions, prediction.label_ids)
        found = {name.removeprefix("validation_"): value for name, value in prediction.metrics.items()}
        self.metrics = {name: found[name] for name in _METRICS if name in found}

    def write(self, trainer: ClipTrainer) -> None:
        """Write the files into the output folder of the trainer. To be called in the main process."""
        training, folder = trainer.args, Path(trainer.args.output_dir)
        config = base_model(trainer.model).config
        settings = self.settings | {
            "steps": trainer.state.global_step,
            "total_batch_size": training.total_batch_size,
            "optim": training.optim.value,
            **{name: getattr(training, name) for name in SETTINGS},
        }
        write_text(folder / "results.json", to_text(self.results(trainer, settings)))
        card = TrainingCard(
            name=training.hub_model_id or folder.resolve().name,
            data=self.data,
            base_model=self.base_model,
            licence=self.base_model and find_licence(Path(self.base_model, "README.md")),
            metrics=self.metrics,
            training=settings,
            multi_label=self.multi_label,
            adapters=has_adapters(trainer.model),
        )
        write_text(folder / "README.md", card.render(config, trainer.processing_class))
        if read_curves(trainer.state.log_history):  # of a training without logs or steps there are none
            plot_training_curves(folder / "curves.png", trainer.state.log_history)
        if self.scores is not None and len(self.scores) and not self.multi_label:
            names = [config.id2label[number] for number in sorted(config.id2label)]
            counts = confusion_matrix(self.scores.argmax(axis=1), self.labels, len(names))
            plot_confusion_matrix(folder / "confusion_matrix.png", counts, names, "validation")

    def results(self, trainer: ClipTrainer, settings: dict) -> dict:
        """The contents of results.json."""
        from ..version import __version__

        speed = next((entry for entry in reversed(trainer.state.log_history) if "train_runtime" in entry), {})
        labels = base_model(trainer.model).config.id2label
        return {
            "validation": self.metrics,
            "data": self.data,
            "model": self.base_model and public_name(self.base_model),
            "labels": [labels[number] for number in sorted(labels)],
            "unreadable_clips": len(trainer.skipped.read()) if trainer.skipped else 0,
            "settings": settings,
            "training": {name: speed.get(name) for name in ("train_runtime", "train_samples_per_second", "train_loss")},
            "versions": {
                "timesformer_hf": __version__,
                "transformers": transformers.__version__,
                "torch": torch.__version__,
            },
        }

    def is_good(self) -> bool:
        """Whether nine of ten validation clips are recognised, or more."""
        return max(self.metrics.get(name, 0) for name in ("accuracy", "mean_average_precision")) >= 0.9

    def summary(self) -> str:
        """A line with the accuracy of the validation, or for clips with several labels the mean average precision."""
        name = "mean_average_precision" if self.multi_label else "accuracy"
        if name not in self.metrics:
            return "no validation"
        clips = f"{len(self.labels)} clips"
        if not self.multi_label:
            clips = f"{(self.scores.argmax(axis=1) == self.labels).sum()} of {clips}"
        return f"validation {name.replace('_', ' ')}: {self.metrics[name]:.2%} ({clips})"


def to_text(results: dict) -> str:
    """Return results as JSON. A number that is not finite, as the loss of a failed training, becomes `null`."""
    return json.dumps(_finite(results), indent=2, allow_nan=False) + "\n"


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with output_file(path, overwrite=True) as new:
        new.write_text(text, encoding="utf-8")
