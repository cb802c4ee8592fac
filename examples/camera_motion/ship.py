"""
Write the trained model in the form that the package ships: half-precision weights, and a model card with its results.

    python examples/camera_motion/ship.py WORK

WORK is the folder of make_model.sh. The model replaces timesformer_hf/camera_motion in this repository. Weights are
converted to float32 when the model is loaded.
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
    "test_foreground": "something in front of the camera moves on its own",
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

This small TimeSformer recognises how the camera moves. Its labels are:

{labels}

The labels name the movement of the camera. In `pan_right` the content of the picture moves to the left, and in
`roll_clockwise` it turns counter-clockwise.

The model uses divided space-time attention over {frames} frames, each of which is squeezed to {size} x {size} pixels.
It has {parameters:.1f} million parameters. It was trained with timesformer_hf {version}.

```python
import timesformer_hf
from transformers import pipeline

pipeline("video-classification", model=timesformer_hf.CAMERA_MOTION)("clip.mp4")
```

The model looks at a clip of {frames} frames, every {rate}th, in the middle of the video. That is about one second at
25 frames per second. To classify another second, cut the video. To cover more of it, `num_clips=10` averages ten clips.
The model takes whole frames, so crops are not possible.

## Results

Each set contains {videos} clips of a virtual camera that moves over photographs, encoded as H.264. Training and test
share no photograph, no package, and no author as far as authors are named.

| | top-1 | 95 % interval | mean class accuracy | calibration error |
|---|---|---|---|---|
{results}

In training, clips combine all difficulties: any compression, moving objects, parts of the picture that move slightly,
and bare backgrounds. On such clips of other pictures, the accuracy is {validation:.1%}.

These are the true labels (rows) and the predictions (columns) in the first set:

{confusion}

## Training

The command `examples/camera_motion/make_model.sh` makes the model from scratch, in two steps:

1. the pretext task of `pretrain.py` (seed 0): {steps_32} batches of 64 rendered clips of 32 pixels, and {steps_64}
   batches of 64 pixels
2. `timesformer-hf finetune --recipe scratch` (seed {seed}): {epochs} epochs with {clips} H.264 clips

The {pictures} photographs come from packages of PyPI, Debian and npm. `examples/camera_motion/pictures.csv` lists them
with their licences. A quarter of the textures for training are procedural.

## Limits

- The training clips show a flat picture in front of a moving camera, with at most a few objects nearer or further away.
  None shows a camera that travels through a scene. For such a video, the model tends to answer with the zoom, pan or
  tilt that looks most similar.
- In training, pans and tilts move by at least 6 % of the shorter side within a clip, and a trembling hand is `static`.
  For slower movements the answer may be either. A movement that changes its direction within a clip has no label.
- No training clip contains a cut.
- Each clip has one label. A pan that also zooms gets the label of the larger movement.
- If something else fills most of the frame, or moves in front of a bare wall, the model follows that instead.
"""


def table_of(rows: list[list[str]]) -> str:
    """Return a Markdown table, whose first row is the header."""
    header, *others = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *others))


def result_row(name: str, results: dict) -> str:
    """Return the row of the card's table for the results on one test set."""
    low, high = results["top_1_interval"]
    return (
        f"| {SETS[name]} | {results['top_1_accuracy']:.1%} | {low:.1%} to {high:.1%} | "
        f"{results['mean_class_accuracy']:.1%} | {results['expected_calibration_error']:.1%} |"
    )


def confusion_table(videos: Path, labels: list[str]) -> str:
    """Return a Markdown table with a row for each label and a column for each prediction."""
    counts = Counter((row["label"], row["prediction"]) for row in parquet.read_table(videos).to_pylist())
    rows = [[f"`{label}`", *(str(counts.get((label, other), "")) for other in labels)] for label in labels]
    return table_of([["", *(label.replace("_", " ") for label in labels)], *rows])


def last_step(model: Path) -> int:
    """Return how many steps pretrain.py trained a model."""
    return json.loads((model / "pretraining.json").read_text())[-1]["step"]


def make_card(work: Path, model: TimesformerForVideoClassification, processor, results: dict[str, dict]) -> str:
    """Return the model card. `results` has the content of results.json for each test set."""
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
    """Replace the shipped model by the one in WORK. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the folder of make_model.sh")
    work = parser.parse_args().work
    results = {name: json.loads((work / name / "results.json").read_text()) for name in SETS}
    model = TimesformerForVideoClassification.from_pretrained(work / "model")
    processor = TimesformerVideoProcessor.from_pretrained(work / "model")
    with output_folder(SHIPPED, overwrite=True, own_files=("*.json", "*.safetensors", "README.md")) as folder:
        model.save_pretrained(folder)  # the config says float32, so from_pretrained converts the weights to it
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
