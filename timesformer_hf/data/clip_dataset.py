"""
Videos -> clips to train on and to validate with, as datasets for a `DataLoader`: decoded in its worker processes, only
the frames that are needed.

What is random of a training clip (its frames, crop, flip) depends on the seed, the epoch and the clip's place in the
dataset alone, not on which worker draws it, how many there are or what was drawn before. So a run that is continued in
the middle of an epoch goes on exactly as it would have.

A clip that can't be read is named in a report, and nothing is put in its place: a blank clip keeps the batch's shape,
and its label of -100 keeps it out of the loss and of the metrics.
"""

import csv
import io
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler
from transformers.video_utils import VideoMetadata

from ..video.random_sampling import random_frame_indices
from ..video.video_decoding import decode_frames
from ..video.video_sources import VideoReadError
from .hub_videos import VideoStream
from .labelled_videos import LabelledVideo, LabelledVideos
from .reading import read_labelled_videos
from .splits import find_leaks, train_validation_split


__all__ = [
    "ClipDataset",
    "ClipLoader",
    "ClipStream",
    "EpochSampler",
    "LabelledVideo",
    "LabelledVideos",
    "SkippedClips",
    "VideoStream",
    "find_leaks",
    "read_labelled_videos",
    "train_validation_split",
]

IGNORED_LABEL = -100  # transformers' and torch's


class SkippedClips:
    """
    The clips that couldn't be read, as a CSV file of `video` and `reason`, which any number of processes append to.

    Args:
        path: of the file. One that is there is continued.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.known: dict[str, str] = {}
        self.size_read = 0
        try:
            self.path.open("x").close()  # one process makes it
        except FileExistsError:
            return
        self.append("video", "reason")

    def append(self, *row: str) -> None:
        line = io.StringIO()
        csv.writer(line).writerow(row)
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:  # one write, so that lines of several processes don't mix
            os.write(file, line.getvalue().encode(errors="replace"))
        finally:
            os.close(file)

    def add(self, video: str, reason: str) -> None:
        """Note a clip, once in however many epochs it fails."""
        if video not in self.read():
            self.append(video, " ".join(reason.split()))

    def read(self) -> dict[str, str]:
        """The reason of each video, of all processes."""
        size = self.path.stat().st_size
        if size != self.size_read:
            with self.path.open(newline="", encoding="utf-8") as file:
                self.known = {row["video"]: row["reason"] for row in csv.DictReader(file)}
            self.size_read = size
        return self.known


class ClipLoader:
    """
    Loads a labelled video as a sample: `pixel_values` (frames, channels, height, width) and `labels`, a class or with
    `multi_label` 0/1 for each class.

    Args:
        processor: a [`TimesformerVideoProcessor`], which says how many frames are taken and how, and what becomes of
            pixels. Without `transform` it does all there is to do, as in the pipeline.
        label2id: the number of each label.
        multi_label: whether a video can have several labels.
        num_labels: of the model, where that knows more than the data's.
        transform: for training: a clip (frames, channels, height, width), uint8, to another one of the processor's
            size, at random from torch's default generator. Frames are then drawn at random too.
        seed: of what is random.
        skipped: where clips that can't be read are noted; they are an error where it is `None`.

    Raises:
        ValueError: for a processor whose clips differ in frames or size, or whose sampling can't be.
    """

    def __init__(
        self,
        processor,
        label2id: Mapping[str, int],
        multi_label: bool = False,
        num_labels: int | None = None,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        seed: int = 0,
        skipped: SkippedClips | None = None,
    ):
        fixed = processor.fps is None and processor.do_sample_frames and processor.clip_size is not None
        if not fixed or processor.view_settings().has_views:
            raise ValueError(
                "Clips of a batch have one number of frames, one size and one view; set the processor's "
                "do_sample_frames, num_frames and do_center_crop (or a size with height and width), and no fps, "
                "num_clips, num_crops or views"
            )
        processor.sample_frames(VideoMetadata(total_num_frames=1, fps=30.0), **_sampling_of(processor))  # checks it
        self.processor, self.label2id, self.multi_label = processor, dict(label2id), multi_label
        self.num_labels = len(self.label2id) if num_labels is None else num_labels
        self.transform, self.seed, self.skipped = transform, seed, skipped

    def __call__(self, video: LabelledVideo, draw: tuple[int, int]) -> dict[str, torch.Tensor | int]:
        """
        Args:
            draw: epoch and place of the clip, which its random choices depend on.

        Returns:
            the sample; of a training clip also `seed`, for what is random of the batch.
        """
        rng = np.random.default_rng((self.seed, *draw))
        try:
            pixel_values = self.load(video) if self.transform is None else self.load_at_random(video, rng)
            labels = self.encode(video.labels)
        except (VideoReadError, OSError) as error:
            if self.skipped is None:
                raise
            self.skipped.add(video.name, str(error))
            pixel_values, labels = self.blank()
        sample = {"pixel_values": pixel_values, "labels": labels}
        return sample if self.transform is None else sample | {"seed": _draw_seed(rng)}

    def load(self, video: LabelledVideo) -> torch.Tensor:
        return self.processor(video.source, return_tensors="pt").pixel_values[0]

    def load_at_random(self, video: LabelledVideo, rng: np.random.Generator) -> torch.Tensor:
        processor = self.processor

        def choose(about: VideoMetadata) -> list[int]:
            settings = _sampling_of(processor) | {"fps": about.fps, "rng": rng}
            return random_frame_indices(total_num_frames=about.total_num_frames, **settings)

        frames, _ = decode_frames(video.source, choose, processor.decoder, processor.reading_options())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_draw_seed(rng))  # torch.manual_seed would reach a GPU's generator too
            clip = self.transform(torch.from_numpy(frames).permute(0, 3, 1, 2))
        settings = {"do_sample_frames": False, "do_resize": False, "do_center_crop": False}
        return processor(clip, input_data_format="channels_first", return_tensors="pt", **settings).pixel_values[0]

    def encode(self, labels: Sequence[str]) -> torch.Tensor:
        """Names of labels as what the model takes: int64 (), or float32 (labels,)."""
        if not self.multi_label:
            (label,) = labels
            return torch.tensor(self.label2id[label])
        targets = torch.zeros(self.num_labels)
        targets[[self.label2id[label] for label in labels]] = 1
        return targets

    def blank(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What stands for a clip that can't be read."""
        channels = len(self.processor.image_mean)
        clip = torch.zeros(self.processor.num_frames, channels, *self.processor.clip_size)
        shape = (self.num_labels,) if self.multi_label else ()
        return clip, torch.full(shape, IGNORED_LABEL, dtype=torch.float32 if self.multi_label else torch.int64)


def _sampling_of(processor) -> dict:
    return {name: getattr(processor, name) for name in ("num_frames", "frame_sampling", "frame_sampling_rate")}


def _draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))


class ClipDataset(Dataset):
    """
    Labelled videos as samples.

    `dataset[i]` is clip i in epoch 0, and `dataset[i + epoch * len(dataset)]` the same one in another epoch: the epoch
    travels with the index ([`EpochSampler`] draws such ones), so it reaches worker processes that outlive an epoch.
    """

    def __init__(self, videos: Sequence[LabelledVideo], load: ClipLoader):
        self.videos, self.load = videos, load

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, ticket: int) -> dict:
        epoch, index = divmod(ticket, len(self))
        return self.load(self.videos[index], (epoch, index))


class EpochSampler(Sampler[int]):
    """
    The clips of a [`ClipDataset`] in an order that the seed and the epoch alone decide, however many processes share
    them.

    Args:
        num_clips: the length of the dataset.
        seed: of the order.
    """

    def __init__(self, num_clips: int, seed: int = 0):
        self.num_clips, self.seed, self.epoch = num_clips, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_clips

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_clips)
        return iter((order + self.epoch * self.num_clips).tolist())


class ClipStream(IterableDataset):
    """
    The videos of a stream as samples, for sets larger than the disk. What is random of a clip depends on its name in
    place of its index.
    """

    def __init__(self, videos: VideoStream, load: ClipLoader):
        self.videos, self.load, self.epoch = videos, load, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.videos.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict]:
        for video in self.videos:
            yield self.load(video, (self.epoch, zlib.crc32(video.name.encode(errors="replace"))))
