"""The model card of a trained model: what it is, what it was trained with, how good it is, and how to use it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from huggingface_hub import EvalResult, ModelCardData

from ..model.configuration_timesformer import TimesformerConfig, as_pair
from ..output.model_cards import code_span, is_local, public_name, table_cell
from ..video.printable import printable


TEMPLATE = """\
---
{header}
---

# {name}

A [TimeSformer](https://arxiv.org/abs/2102.05095) that tells {num_labels} {kinds}, trained with timesformer_hf
{version}{start}.

```python
{usage}
```

| | |
|---|---|
| attention | {attention_type} |
| frames | {num_frames}{sampling} |
| size | {height} x {width} pixels, patches of {patch} |
| width, blocks, heads | {hidden_size}, {num_hidden_layers}, {num_attention_heads} |

## Labels

{labels}

## Results

{results}

## Training

{training}

## Limits

It knows only these labels, and gives one of them to any video. The numbers above are for videos like those that it was
trained with. For other videos, test it before you rely on it.
"""

_MODEL_USAGE = """\
import timesformer_hf
from transformers import pipeline

pipeline("video-classification", model={name})("clip.mp4")"""

_ADAPTERS_USAGE = """\
from timesformer_hf import load_adapters

model, processor = load_adapters({name}, {base_model})
model(**processor("clip.mp4", return_tensors="pt")).logits"""


@dataclass
class TrainingCard:
    """
    What a model card says that the model itself doesn't know.

    Attributes:
        name: the name of the model.
        data: the name of the data, as the reader shall see it.
        base_model: the Hub name or folder of the model that the training started from; `None` from scratch.
        licence: the licence, by its identifier on the Hub, or a list of them.
        metrics: the metrics of the validation by name, all but the loss in [0, 1].
        training: the settings of the training by name, each a row of a table.
        multi_label: whether a video can have several labels.
        adapters: whether the model is adapters of `base_model`, which are not merged into it.
    """

    name: str
    data: str
    base_model: str | None = None
    licence: str | list[str] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, object] = field(default_factory=dict)
    multi_label: bool = False
    adapters: bool = False

    def render(self, config: TimesformerConfig, processor) -> str:
        """The text of the card, for a model with this config and video processor."""
        from ..version import __version__

        height, width = as_pair(config.image_size)
        base_model = self.base_model and printable(public_name(self.base_model))
        start = f", starting from {code_span(base_model)}" if base_model else ", from scratch"
        rate = processor.frame_sampling_rate
        policy = processor.frame_sampling or ("center" if rate else "uniform")
        usage = _ADAPTERS_USAGE if self.adapters else _MODEL_USAGE
        return TEMPLATE.format(
            header=self.header().to_yaml(),
            name=table_cell(printable(self.name)),
            usage=usage.format(name=json.dumps(self.name), base_model=json.dumps(base_model)),
            kinds="labels, of which a video can have several" if self.multi_label else "kinds of videos apart",
            version=__version__,
            start=start,
            sampling=f", {policy}" + (f", every {rate}" if rate else ""),
            height=height,
            width=width,
            patch=" x ".join(map(str, as_pair(config.patch_size))),
            num_labels=config.num_labels,
            labels=", ".join(code_span(printable(config.id2label[number])) for number in sorted(config.id2label)),
            results=table([(name.replace("_", " "), _format_value(value)) for name, value in self.metrics.items()]),
            training=table([("data", printable(self.data)), *self._settings()]),
            **{
                name: getattr(config, name)
                for name in ("attention_type", "num_frames", "hidden_size", "num_hidden_layers", "num_attention_heads")
            },
        )

    def _settings(self) -> list[tuple[str, str]]:
        """The rows of the table of settings."""
        return [(printable(name), printable(_format_value(value))) for name, value in self.training.items()]

    def header(self) -> ModelCardData:
        """The header of the card, which the Hub reads."""
        data = printable(self.data)
        results = [
            EvalResult("video-classification", data, data, name, value, task_name="Video Classification")
            for name, value in self.metrics.items()
            if name != "loss"
        ]
        return ModelCardData(
            license=list(self.licence) if isinstance(self.licence, tuple) else self.licence,
            library_name="transformers",
            pipeline_tag="video-classification",
            tags=["timesformer", "video-classification"],
            base_model=None if self.base_model is None or is_local(self.base_model) else self.base_model,
            model_name=self.name,
            eval_results=results or None,
        )


def table(rows: Sequence[tuple[str, object]]) -> str:
    """A table in Markdown with two columns."""
    return "\n".join(["| | |", "|---|---|", *(f"| {table_cell(name)} | {table_cell(value)} |" for name, value in rows)])


def _format_value(value) -> str:
    if isinstance(value, tuple):  # a range
        return " to ".join(map(_format_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
