"""Writes the README.md of a converted checkpoint: what it is, its source and its licence."""

import json
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..model.configuration_timesformer import TimesformerConfig, as_pair
from ..output.model_cards import code_span, licence_names, public_name, table_cell
from ..video.printable import printable


_LICENCE_NOTES = {
    "cc-by-nc-4.0": "The authors' published weights are under CC BY-NC 4.0: not for commercial use. (Weights that you "
    "trained yourself are yours to license: edit this.)",
    "apache-2.0": "mmaction2 publishes its weights under the Apache License 2.0.",
    "other": "No licence was found with the source. Find it out and fill it in before you share these weights.",
}

TEMPLATE = """\
---
{card_data}
---

# {name}

A [TimeSformer](https://arxiv.org/abs/2102.05095) (*Is Space-Time Attention All You Need for Video Understanding?*),
converted by timesformer_hf {version}.

| | |
|---|---|
| attention | {attention_type} |
| frames | {num_frames} |
| size | {height} x {width} pixels, patches of {patch} |
| width, blocks, heads | {hidden_size}, {num_hidden_layers}, {num_attention_heads} |
| classes | {classes} |
| pixels | {channels} |

```python
import timesformer_hf
from transformers import pipeline

pipeline("video-classification", model={name_literal})("clip.mp4")
```

## Provenance

- Source: {source}, {title}.{digest}
{remarks}

## Licence

{licence_note}
"""


def make_model_card(
    name: str,
    config: TimesformerConfig,
    source: str,
    digest: str | None,
    title: str,
    licence: str,
    source_card: Path,
    label_list: str | None,
    bgr: bool,
    remarks: list[str],
) -> str:
    """
    Return the text of the model card.

    Args:
        name: the name of the model.
        config: the config of the converted model.
        source: the name of the checkpoint that was converted.
        digest: SHA-256 of the source file, or `None` for a folder.
        title: the format of the source, in words.
        licence: identifier on the Hub of the weights' licence. A licence in `source_card` has priority.
        source_card: the path of the source's own model card, which may not exist.
        label_list: the name of the label list of the classes.
        bgr: whether the model was trained on BGR.
        remarks: sentences without a full stop, for the part on provenance.
    """
    from ..version import __version__

    licence = find_licence(source_card) or licence
    names = licence_names(licence)
    height, width = as_pair(config.image_size, "image_size")
    data = ModelCardData(
        license=licence,
        library_name="transformers",
        pipeline_tag="video-classification",
        tags=["timesformer", "video-classification"],
        datasets=[label_list] if label_list in ("kinetics400", "kinetics600") else None,
    )
    return TEMPLATE.format(
        card_data=data.to_yaml(),
        name=table_cell(printable(name)),
        name_literal=json.dumps(name),
        version=__version__,
        height=height,
        width=width,
        patch=" x ".join(map(str, as_pair(config.patch_size))),
        classes=f"{config.num_labels}{f' ({label_list})' if label_list else ''}",
        channels="BGR: the preprocessor files here say so" if bgr else "RGB",
        source=code_span(printable(public_name(source))),
        title=title,
        digest=f" SHA-256 `{digest}`." if digest else "",
        remarks="\n".join(f"- {table_cell(printable(remark))}." for remark in remarks),
        licence_note=_LICENCE_NOTES.get(names, f"As the source says: {table_cell(printable(names))}."),
        **{
            field: getattr(config, field)
            for field in ("attention_type", "num_frames", "hidden_size", "num_hidden_layers", "num_attention_heads")
        },
    )


def find_licence(card: Path) -> str | list[str] | None:
    """Return the licence in the header of a README.md, or a list of licences, or `None` where there is none."""
    if not card.is_file():
        return None
    try:
        licence = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except Exception:  # the README is not a model card
        return None
    names = licence if isinstance(licence, list) else [licence]
    return licence if licence and all(isinstance(name, str) for name in names) else None
