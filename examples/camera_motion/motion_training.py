"""Training on clips that are rendered during training. It is shared by pretrain.py and compare_schemes.py."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rendering import ASPECTS, Conditions, TextureMix, load_textures, random_clip
from torch import nn
from torch.nn import functional as F
from virtual_camera import EASY, FULL, LABELS, between

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification
from timesformer_hf.training.motion_start import start_for_motion


PATCH_SIZE = 16
FLOW_SCALE = 10.0  # scales targets to about 1: a fast movement is a tenth of half a frame from one frame to the next
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class RandomClips(torch.utils.data.IterableDataset):
    """
    An endless data set of rendered clips. Each item has three parts: a clip, uint8 (frames, 3, size, size), its label,
    and the motion of each patch, float32 (frames - 1, patches, 2).

    Args:
        pictures: a folder of pictures.
        size: height and width of a frame in pixels.
        num_frames: frames of a clip.
        seed: numbers that decide the clips.
        which_picture: the label is the number of the picture instead of the camera's motion. One frame is enough to
            tell it.
        renewed: see [`TextureMix`]; `None` for no procedural textures.
    """

    def __init__(
        self,
        pictures: Path,
        size: int,
        num_frames: int,
        seed: tuple[int, ...],
        which_picture: bool = False,
        renewed: float | None = 0.02,
    ):
        self.pictures, self.size, self.num_frames, self.seed = pictures, size, num_frames, seed
        self.which_picture, self.renewed = which_picture, renewed
        self.difficulty = torch.ones(
            1
        ).share_memory_()  # of the curriculum, from 0 to 1; shared, so that workers see changes

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int, torch.Tensor]]:
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([*self.seed, worker.id if worker else 0])
        pictures = load_textures(self.pictures)
        if self.which_picture:
            pictures = pictures[: len(LABELS)]
        mix = None if self.renewed is None or self.which_picture else TextureMix(pictures, rng, renewed=self.renewed)
        while True:
            motion = int(rng.integers(len(LABELS)))
            number = int(rng.integers(len(pictures)))
            clip, flow = self.clip(rng, mix or (lambda rng, number=number: pictures[number]), LABELS[motion])
            yield clip, number if self.which_picture else motion, flow

    def clip(self, rng: np.random.Generator, textures, label: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Render a clip of that label at the current difficulty. Return it and the motion of its patches."""
        difficulty = float(self.difficulty)
        conditions = Conditions(foreground=0.6 * difficulty, damage=difficulty)
        motion, size = between(EASY, FULL, difficulty), (self.size, self.size)
        aspect = float(rng.choice(ASPECTS)) if difficulty == 1 else 1.0
        clip, shot = random_clip(rng, textures, label, motion, self.num_frames, size, conditions, aspect)
        return clip, shot.patch_motion(self.size // PATCH_SIZE, self.size // PATCH_SIZE)

    def batches(self, batch_size: int, workers: int = 0) -> Iterator[Batch]:
        """Return an endless iterator of batches, rendered in `workers` processes, or with 0 in this one."""
        return iter(torch.utils.data.DataLoader(self, batch_size, num_workers=workers))


def normalised(clips: torch.Tensor) -> torch.Tensor:
    """Return uint8 clips as normalised float32 pixels."""
    return (clips.float() / 255 - 0.45) / 0.225


def new_model(clips: torch.Tensor, **fields) -> TimesformerForVideoClassification:
    """Return a new model for clips like these, uint8 (batch, frames, 3, size, size), with initial values for motion."""
    id2label = dict(enumerate(LABELS))
    config = TimesformerConfig(
        image_size=clips.shape[-1],
        patch_size=PATCH_SIZE,
        num_frames=clips.shape[1],
        interpolation_mode="bicubic",
        id2label=id2label,
        label2id={label: number for number, label in id2label.items()},
        **fields,
    )
    model = TimesformerForVideoClassification(config)
    start_for_motion(model, normalised(clips))
    return model


class MotionTraining:
    """
    A model, the head for its pretext task, and their optimizer.

    Args:
        model: is trained in place.
        steps: the number of steps in all. The learning rate warms up over the first 100 and follows half a cosine.
        learning_rate: the highest learning rate.
        flow_weight: the weight of the pretext task's loss. It must be 0 for a model that keeps frames apart, because
            that can't see motion.
        compiled: compile the model.
    """

    def __init__(
        self,
        model: TimesformerForVideoClassification,
        steps: int,
        learning_rate: float = 1e-3,
        flow_weight: float = 2.0,
        compiled: bool = False,
    ):
        self.model, self.steps, self.learning_rate, self.flow_weight = model, steps, learning_rate, flow_weight
        self.backbone = torch.compile(model.timesformer) if compiled else model.timesformer
        self.flow_head = nn.Linear(model.config.hidden_size, 2).to(model.device)
        self.parameters = [*model.parameters(), *self.flow_head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
        self.done = 0

    def step(self, batch: Batch) -> tuple[float, float]:
        """Train on one batch. Return the losses of the label and of the pretext task."""
        clips, labels, flow = (part.to(self.model.device) for part in batch)
        self.model.train()
        factor = min(1, (self.done + 1) / 100) * 0.5 * (1 + math.cos(math.pi * self.done / self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor
        hidden_states = self.backbone(normalised(clips)).last_hidden_state
        label_loss = F.cross_entropy(self.model.classifier(hidden_states[:, 0]), labels)
        flow_loss = torch.zeros(())
        if self.flow_weight:
            flow_loss = F.smooth_l1_loss(self.predict_flow(hidden_states), FLOW_SCALE * flow, beta=0.3)
        self.optimizer.zero_grad()
        (label_loss + self.flow_weight * flow_loss).backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.done += 1
        return label_loss.item(), flow_loss.item()

    def predict_flow(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Predict the motion of each patch from the previous frame to its own: (batch, frames - 1, patches, 2)."""
        patches = hidden_states[:, 1:].unflatten(1, (-1, self.model.config.num_frames))[:, :, 1:]
        return self.flow_head(patches).transpose(1, 2)

    def state_dict(self) -> dict:
        """Return all that a checkpoint needs to continue the training."""
        return {
            "done": self.done,
            "model": self.model.state_dict(),
            "flow_head": self.flow_head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` returned."""
        self.done = state["done"]
        for name in ("model", "flow_head", "optimizer"):
            getattr(self, name).load_state_dict(state[name])


@torch.no_grad()
def accuracy(model: TimesformerForVideoClassification, batches: list[Batch]) -> float:
    """Return the share of clips that the model labels correctly, from 0 to 1."""
    model.eval()
    right = [
        (model(normalised(clips.to(model.device))).logits.argmax(dim=-1).cpu() == labels)
        for clips, labels, _ in batches
    ]
    return float(torch.cat(right).float().mean())
