"""
The trained model as the package ships it: half-precision weights, which are float32 again when loaded, and a model card
with what was measured.

    python examples/camera_motion/ship.py WORK

WORK is the folder of make_model.sh. The model replaces timesformer_hf/camera_motion of this repository.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import torch
from pyarrow import parquet
from safetensors.torch import load_file, save

from timesformer_hf import TimesformerForVideoClassification, TimesformerVideoProcessor, __version__
from timesformer_hf.output.atomic import output_folder


SHIPPED = Path(__file__).parents[2] / "timesformer_hf" / "camera_motion"
SETS = {
    "test": "pictures that it has never seen, usual compression (crf 23)",
    "test_compressed": "the same pictures, heavy compression (crf 38 to 42)",
    "test_foreground": "something moves on its own before the camera",
}

CARD = """\
---
library_name: transformers
pipeline_tag: video-classification
license: apache-2.0
tags:
- timesformer
- camera-motion
---

# Camera motion

A small TimeSformer that tells how the camera moves:

{labels}

The names are those of the camera's movement: in `pan_right` the content of the picture travels left, in
`roll_clockwise` it turns counter-clockwise. Divided space-time attention over {frames} frames, each squeezed whole into
{size} x {size} pixels; {parameters:.1f} million parameters. Trained with timesformer_hf {version}.

```python
import timesformer_hf
from transformers import pipeline

pipeline("video-classification", model=timesformer_hf.CAMERA_MOTION)("clip.mp4")
```

It looks at {frames} frames, each the {rate}th, in the middle of the video: about a second at 25 frames per second. For
another second, cut the video; for more of it, `num_clips=10` averages ten of them. It takes whole frames and no crops.

## Results

Clips of a virtual camera over photographs, encoded as H.264, {videos} in each set. No photograph or package is in
training and test both, nor an author where one is named.

| | top-1 | 95 % interval | mean class accuracy | calibration error |
|---|---|---|---|---|
{results}

With all of it at once, as it was trained (any compression, things that move, parts of the picture that stir, bare
backgrounds), {validation:.1%} on other pictures. What it is asked (rows) and what it answers (columns), in the first
set:

{confusion}

## Training

The command `examples/camera_motion/make_model.sh` makes it from nothing: {steps_32} batches of 64 rendered clips of 32
pixels and {steps_64} of 64 pixels with the pretext task of `pretrain.py` (seed 0), then {clips} H.264 clips in
{epochs} epochs of `timesformer-hf finetune --recipe scratch` (seed {seed}). The {pictures} photographs come out of
packages of PyPI, Debian and npm, listed with their licences in `examples/camera_motion/pictures.csv`; a quarter of the
textures to train on are procedural.

## Limits

- It has learnt from a flat picture before a moving camera, with at most a few things nearer or further away. A camera
  that travels through a scene is new to it; it then tends to answer with the zoom, pan or tilt that looks most alike.
- Pans and tilts that it learnt from pass at least 6 % of the shorter side within that second, and a trembling hand is
  `static`: of slower movements it may say either. One that changes its direction within that second has no label.
- A cut within that second is new to it.
- One label a clip. A pan that zooms gets the larger of both, not both.
- Where something else fills most of the frame, or moves before a bare wall, it follows that.
"""


def table_of(rows: list[list[str]]) -> str:
    header, *others = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *others))


def result_row(name: str, results: dict) -> str:
    low, high = results["top_1_interval"]
    return (
        f"| {SETS[name]} | {results['top_1_accuracy']:.1%} | {low:.1%} to {high:.1%} | "
        f"{results['mean_class_accuracy']:.1%} | {results['expected_calibration_error']:.1%} |"
    )


def confusion_table(videos: Path, labels: list[str]) -> str:
    counts = Counter((row["label"], row["prediction"]) for row in parquet.read_table(videos).to_pylist())
    rows = [[f"`{label}`", *(str(counts.get((label, other), "")) for other in labels)] for label in labels]
    return table_of([["", *(label.replace("_", " ") for label in labels)], *rows])


def last_step(model: Path) -> int:
    """How many batches pretrain.py took."""
    return json.loads((model / "pretraining.json").read_text())[-1]["step"]


def make_card(work: Path, model: TimesformerForVideoClassification, processor, results: dict[str, dict]) -> str:
    config = model.config
    training = json.loads((work / "model" / "results.json").read_text())
    labels = list(config.id2label.values())
    return CARD.format(
        labels=", ".join(f"`{label}`" for label in labels),
        size=config.image_size,
        frames=config.num_frames,
        parameters=model.num_parameters() / 1e6,
        version=__version__,
        rate=processor.frame_sampling_rate,
        videos=sum(row["videos"] for row in results["test"]["classes"]),
        results="\n".join(result_row(name, results[name]) for name in SETS),
        validation=training["validation"]["accuracy"],
        confusion=confusion_table(work / "test" / "videos.parquet", labels),
        steps_32=last_step(work / "motion-32"),
        steps_64=last_step(work / "motion-64"),
        clips=training["settings"]["training_clips"],
        seed=training["settings"]["seed"],
        epochs=round(training["settings"]["num_train_epochs"]),
        pictures=sum(1 for _ in (work / "pictures" / "train").iterdir()),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the folder of make_model.sh")
    work = parser.parse_args().work
    results = {name: json.loads((work / name / "results.json").read_text()) for name in SETS}
    model = TimesformerForVideoClassification.from_pretrained(work / "model")
    processor = TimesformerVideoProcessor.from_pretrained(work / "model")
    with output_folder(SHIPPED, overwrite=True, own_files=("*.json", "*.safetensors", "README.md")) as folder:
        model.save_pretrained(folder)  # its config says float32, to which from_pretrained converts
        weights = folder / "model.safetensors"
        halved = {name: tensor.to(torch.float16) for name, tensor in load_file(weights).items()}
        weights.write_bytes(save(halved, metadata={"format": "pt"}))
        processor.save_pretrained(folder)
        processor.image_processor().save_pretrained(folder)
        (folder / "README.md").write_text(make_card(work, model, processor, results))
    print(f"{SHIPPED}: {(SHIPPED / 'model.safetensors').stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"ship.py: {error}")
