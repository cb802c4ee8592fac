# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour of timesformer_hf
#
# In this notebook you load a video model, look at what it sees, train it on classes of your own, measure it, ask it
# what it looks at, and let it say what happens when. It needs no GPU, no network and no data: it makes its own
# videos. It runs for some minutes on two CPU cores.
#
# You need:
#
# ```
# pip install "timesformer_hf[train,viz,timeline]" notebook
# ```
#
# The text of the notebook is `examples/tour.py`. The tests run it.

# %%
import io
import tempfile
from pathlib import Path

import av
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from IPython.display import Image
from transformers import logging, pipeline

import timesformer_hf


work = Path(tempfile.mkdtemp())  # everything is written there
torch.manual_seed(0)
logging.set_verbosity_error()
logging.disable_progress_bar()  # for loading weights
plt.rcParams["figure.dpi"] = 72


def show(frames: np.ndarray, title: str) -> None:
    """Draw frames (frames, height, width, 3) side by side."""
    figure, axes = plt.subplots(1, len(frames), figsize=(12, 1.9))
    for number, (axis, frame) in enumerate(zip(axes, frames, strict=True)):
        axis.imshow(frame)
        axis.set_title(f"frame {number}", fontsize=8)
        axis.axis("off")
    figure.suptitle(title, y=1.05, fontsize=10)
    plt.show()


def picture(path: Path, width: int) -> Image:
    """A picture from a file, made so small that the notebook stays small."""
    with PIL.Image.open(path) as image:
        small = image.convert("RGB").resize((width, width * image.height // image.width), PIL.Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "jpeg", quality=85)
    return Image(data.getvalue())


# %% [markdown]
# ## 1. Load a model and ask it
#
# After `import timesformer_hf`, transformers' `pipeline` uses this package for every TimeSformer checkpoint. The
# package comes with a small model that knows ten movements of a camera. Here it sees its sample clip.

# %%
classifier = pipeline("video-classification", model=timesformer_hf.CAMERA_MOTION)
answers = classifier(timesformer_hf.SAMPLE_CLIP, top_k=3)
for answer in answers:
    print(f"{answer['label']:20} {answer['score']:.1%}")

# %% [markdown]
# The model doesn't see the whole video. It gets eight frames. Let's look at them, and check the answer with our own
# eyes: what is in the picture moves to the left, so the camera turns to the right.

# %%
processor, model = classifier.video_processor, classifier.model
inputs = processor(timesformer_hf.SAMPLE_CLIP, return_tensors="pt", return_metadata=True)
pixels = inputs.pixel_values[0].permute(0, 2, 3, 1)  # (frames, height, width, channels)
mean, deviation = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
show((pixels * deviation + mean).clamp(0, 1).numpy(), "what the model gets: 8 frames of 64 x 64 pixels")
print("numbers of the frames in the video:", list(inputs.video_metadata[0].frames_indices))

# %% [markdown]
# ## 2. Look inside
#
# A frame is cut into patches of 16 x 16 pixels, so this model has 4 x 4 patches in each of 8 frames. Each patch is a
# token. In *divided* attention every block has two steps: a patch first looks at the patches at the same place in the
# other frames (time), then at the other patches of its own frame (space).

# %%
print(f"attention scheme     {model.config.attention_type}")
print(f"blocks               {model.config.num_hidden_layers}")
print(f"width of a token     {model.config.hidden_size}")
print(f"parameters           {timesformer_hf.count_parameters(model.config):,}")

with torch.no_grad():
    outputs = model.eval()(inputs.pixel_values, output_attentions=True)
print(f"attention in time    {tuple(outputs.temporal_attentions[0].shape)}  (places, heads, frames, frames)")
print(f"attention in space   {tuple(outputs.attentions[0].shape)}  (frames, heads, 1 + patches, 1 + patches)")

# %% [markdown]
# ## 3. Make a small data set
#
# Now a task of our own: **where does a ball roll?** There are four classes. We draw each clip ourselves: a ball on a
# picture of smooth noise. A data set is just a folder for each class. For your own videos, you start here with
# `videos/CLASS/FILE.mp4`.
#
# No single frame tells the label. The model has to use time.

# %%
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SIDE, FRAMES = 96, 32


def draw_clip(direction: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A ball that rolls over smooth noise: uint8 (frames, side, side, 3)."""
    noise = torch.from_numpy(rng.normal(128, 60, size=(1, 3, 6, 6)))
    ground = torch.nn.functional.interpolate(noise, size=(SIDE, SIDE), mode="bicubic")[0].permute(1, 2, 0).numpy()
    y, x = np.mgrid[:SIDE, :SIDE]
    centre = rng.uniform(0.35, 0.65, size=2) * SIDE
    radius, way = rng.uniform(0.2, 0.3) * SIDE, rng.uniform(0.5, 0.8) * SIDE
    dark, light = rng.uniform(0, 90, size=3), rng.uniform(165, 255, size=3)
    frames = []
    for share in np.linspace(-0.5, 0.5, FRAMES):
        left, top = centre + share * way * np.array(direction)
        inside = (x - left) ** 2 + (y - top) ** 2 < radius**2
        stripes = np.sin((x - left + y - top) / radius * 4)[..., None] > 0
        frames.append(np.where(inside[..., None], np.where(stripes, light, dark), ground))
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray) -> None:
    """Write frames as H.264, 25 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


rng = np.random.default_rng(0)
for label, direction in DIRECTIONS.items():
    for number in range(64):
        write_video(work / "balls" / label / f"{number:02}.mp4", draw_clip(direction, rng))

for label in ("left", "down"):
    show(draw_clip(DIRECTIONS[label], rng)[::4], label)

# %% [markdown]
# ## 4. Fine-tune
#
# The videos are split, and the model gets a new head for four classes. What it has learnt about motion is kept.
#
# One thing to watch: mirroring a clip is a common augmentation, but it would turn `left` into `right`. The package
# finds such pairs of labels.

# %%
videos = timesformer_hf.read_labelled_videos(work / "balls")
training, validation = timesformer_hf.choose_splits(videos, share=0.25)
print(len(training), "clips to train with,", len(validation), "to validate with")
print("labels that a mirror exchanges:", timesformer_hf.find_mirrored_labels(videos.label_names))

model, processor, label2id = timesformer_hf.start_from_checkpoint(
    timesformer_hf.CAMERA_MOTION, videos.label_names, reset_head=True
)
print(label2id)

# %%
augmentation = timesformer_hf.ClipAugmentation(flip=0.0)
transform = timesformer_hf.make_clip_transform(augmentation, processor.clip_size, squeeze=True)
trainer = timesformer_hf.ClipTrainer(
    model=model,
    args=timesformer_hf.ClipTrainingArguments(
        output_dir=str(work / "model"),
        num_train_epochs=8,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=24,
        label_names=["labels"],
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=False,
        use_cpu=True,
    ),
    train_dataset=timesformer_hf.ClipDataset(
        training, timesformer_hf.ClipLoader(processor, label2id, transform=transform)
    ),
    eval_dataset=timesformer_hf.ClipDataset(validation, timesformer_hf.ClipLoader(processor, label2id)),
    data_collator=timesformer_hf.ClipCollator(),
    compute_metrics=timesformer_hf.clip_metrics,
    processing_class=processor,
    loss=timesformer_hf.ClipLoss(),
)
trainer.train()
timesformer_hf.plot_training_curves(work / "curves.png", trainer.state.log_history)
picture(work / "curves.png", width=800)

# %% [markdown]
# ## 5. Evaluate
#
# How good is it on clips that it has not been trained with? With few clips the accuracy itself is uncertain, so we
# print Wilson's interval too. The confusion matrix shows which classes are mistaken for which. All clips here are of
# one kind, so don't expect as much on real videos.

# %%
prediction = trainer.predict(trainer.eval_dataset)
guesses, labels = prediction.predictions.argmax(axis=1), prediction.label_ids
right = int((guesses == labels).sum())
low, high = timesformer_hf.wilson_interval(right, len(labels))
print(f"accuracy {right / len(labels):.1%} ({right} of {len(labels)}), 95% interval {low:.1%} to {high:.1%}")
names = [model.config.id2label[number] for number in range(4)]
counts = timesformer_hf.confusion_matrix(guesses, labels, num_labels=4)
timesformer_hf.plot_confusion_matrix(work / "confusion.png", counts, names)
picture(work / "confusion.png", width=380)

# %% [markdown]
# Does it really use time? A test that every video model should pass: give it the same frames backwards. A ball that
# rolls to the left now rolls to the right, and the answer should change with it.

# %%
clips = torch.stack([trainer.eval_dataset[number]["pixel_values"] for number in range(len(labels))])
opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
with torch.no_grad():
    backwards = model.eval()(clips.flip(1)).logits.argmax(dim=1).tolist()
turned = sum(names[guess] == opposite[names[label]] for guess, label in zip(backwards, labels, strict=True))
print(f"backwards, {turned} of {len(labels)} clips get the opposite label")

# %% [markdown]
# ## 6. What does it look at?
#
# `explain_video` says how much each place of each frame speaks for an answer. Nobody told the model where the ball is.
# The colours are multiples of the mean: at 2, a patch counts twice as much as if all were alike. This model has only
# 4 x 4 patches in a frame, so the map is coarse. `timesformer-hf explain --score` measures what such maps are worth.

# %%
clip = work / "test.mp4"
write_video(clip, draw_clip(DIRECTIONS["right"], np.random.default_rng(7)))
explanation = timesformer_hf.explain_video(model, processor, clip)
timesformer_hf.draw_sheet(work / "sheet.png", explanation)
print(f"{explanation.label} {explanation.score:.1%}")
picture(work / "sheet.png", width=900)

# %% [markdown]
# ## 7. What happens when?
#
# Last, a longer video: eight scenes, two for each direction, one after the other. `make_timeline` classifies windows
# of the video and joins equal ones. With `shots=True` no window reaches across a cut. `write_timeline` writes
# pictures, as here, and also subtitles, markers for video editors, and spreadsheets.

# %%
film = work / "film.mp4"
rng = np.random.default_rng(11)
scenes = ["right", "up", "left", "down"]
write_video(film, np.concatenate([draw_clip(DIRECTIONS[scene], rng) for scene in scenes for _ in range(2)]))
timeline = timesformer_hf.make_timeline(model, processor, film, stride=0.32, shots=True)
for segment in timeline.segments:
    print(f"{segment.start:5.2f} s to {segment.end:5.2f} s  {segment.label:6} {segment.score:.1%}")
timesformer_hf.write_timeline(work / "timeline.png", timeline)
picture(work / "timeline.png", width=900)

# %% [markdown]
# ## Where to go on
#
# - **Your own videos**: `timesformer-hf finetune --data videos/ --model timesformer_hf/camera_motion --reset_head
#   --output_dir my-model` does what part 4 does, in one command, with more options.
# - **What happens in a video**, not how it moves: start from `facebook/timesformer-base-finetuned-k400` on the Hub. It
#   is larger, so you want a GPU to train it.
# - The pages in `docs/` say more about each part: videos, training, evaluation, explanations, timelines.
