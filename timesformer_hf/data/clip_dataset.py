"""
From labelled videos to clips for training and validation, as datasets for a `DataLoader`.

Its worker processes decode only the frames that are needed.

The random choices for a training clip (its frames, crop and flip) depend only on the seed, the epoch and the index of
the clip in the dataset. They don't depend on which worker makes the clip, how many workers there are, or what was drawn
before. So a run that is continued in the middle of an epoch goes on exactly as it would have done.

An unreadable clip is named in a report. A blank clip keeps the shape of the batch, and its label of -100 keeps it out
of the loss and the metrics.
"""

import csv
import io
import math
import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info
from transformers.video_utils import VideoMetadata

from ..video.random_sampling import random_frame_indices
from ..video.video_decoding import decode_frames
from ..video.video_errors import RepeatedFramesWarning, VideoReadError
from ..video.video_processing_timesformer import TimesformerVideoProcessor
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

IGNORED_LABEL = -100  # the label that the losses of transformers and torch ignore


def readable_clips(labels):
    """
    Which clips of a batch could be read: booleans (batch,), of torch for a tensor and of numpy for an array.

    Args:
        labels: of the clips, (batch,) or (batch, labels).
    """
    return labels.reshape(len(labels), -1)[:, 0] != IGNORED_LABEL


class SkippedClips:
    """
    The unreadable clips, in a CSV file with the columns `video` and `reason`. Many processes can append to it.

    Args:
        path: path of the CSV file. An existing file is continued.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path: Path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.known: dict[str, str] = {}
        self.size_read: int = 0
        try:
            self.path.open("x").close()  # only one process creates the file
        except FileExistsError:
            return
        self.append("video", "reason")

    def append(self, *row: str) -> None:
        """Append a row to the file."""
        line = io.StringIO()
        csv.writer(line).writerow(row)
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:  # a single write, so that lines of several processes don't mix
            os.write(file, line.getvalue().encode(errors="replace"))
        finally:
            os.close(file)

    def add(self, video: str, reason: str) -> None:
        """Note an unreadable clip. A clip that fails in several epochs is noted once."""
        if video not in self.read():
            self.append(video, " ".join(reason.split()))

    def read(self) -> dict[str, str]:
        """Return the reason for each unreadable video that any process has noted."""
        size = self.path.stat().st_size
        if size != self.size_read:
            with self.path.open(newline="", encoding="utf-8") as file:
                self.known = {row["video"]: row["reason"] for row in csv.DictReader(file)}
            self.size_read = size
        return self.known


class ClipLoader:
    """
    Loads a labelled video as a sample: `pixel_values` (frames, channels, height, width) and `labels`.

    `labels` is the index of a class, or with `multi_label` 0 or 1 for each class.

    Args:
        processor: a [`TimesformerVideoProcessor`], which chooses the frames and processes their pixels. Without
            `transform` it does everything, as in the pipeline.
        label2id: index of each label.
        multi_label: whether a video can have several labels.
        num_labels: number of labels of the model, if it is larger than that of the data.
        transform: augmentation for training. It turns a clip (frames, channels, height, width), uint8, into a clip of
            the processor's size, with randomness from torch's default generator. With it, frames are drawn at random
            too.
        seed: seed of all random choices.
        skipped: where unreadable clips are noted. `None` makes them an error.

    Raises:
        ValueError: if the processor's clips differ in size or number of frames, or its sampling is not allowed.
    """

    def __init__(
        self,
        processor: TimesformerVideoProcessor,
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
                "The clips of a batch need one number of frames, one size and one view. In the processor, set "
                "do_sample_frames, num_frames and do_center_crop (or a size with height and width), but not fps, "
                "num_clips, num_crops or views"
            )
        # This call raises an error if the sampling is not allowed.
        processor.sample_frames(VideoMetadata(total_num_frames=1, fps=30.0), **_sampling_of(processor))
        self.processor: TimesformerVideoProcessor = processor
        self.label2id: dict[str, int] = dict(label2id)
        self.multi_label: bool = multi_label
        self.num_labels: int = len(self.label2id) if num_labels is None else num_labels
        self.transform: Callable[[torch.Tensor], torch.Tensor] | None = transform
        self.seed: int = seed
        self.skipped: SkippedClips | None = skipped

    def __call__(self, video: LabelledVideo, draw: tuple[int, int]) -> dict[str, torch.Tensor | int]:
        """
        Return the sample of a video.

        Args:
            video: the video to load.
            draw: epoch and index of the clip, on which its random choices depend.

        Returns:
            The sample. For a training clip it also has a `seed` for the random choices of the batch.

        Raises:
            VideoReadError, OSError: if the video is unreadable and there is no place to note it.
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
        """Return the clip that the processor makes from a video: (frames, channels, height, width)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RepeatedFramesWarning)  # each worker would warn in each epoch
            return self.processor(video.source, return_tensors="pt").pixel_values[0]

    def load_at_random(self, video: LabelledVideo, rng: np.random.Generator) -> torch.Tensor:
        """Return a clip of random frames after the random transform: (frames, channels, height, width)."""
        processor = self.processor

        def choose(about: VideoMetadata) -> list[int]:
            settings = _sampling_of(processor) | {"fps": about.fps, "rng": rng}
            return random_frame_indices(total_num_frames=about.total_num_frames, **settings)

        frames, _ = decode_frames(video.source, choose, processor.decoder, options=processor.reading_options())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_draw_seed(rng))  # torch.manual_seed would reach a GPU's generator too
            clip = self.transform(torch.from_numpy(frames).permute(0, 3, 1, 2))
        settings = {"do_sample_frames": False, "do_resize": False, "do_center_crop": False}
        return processor(clip, input_data_format="channels_first", return_tensors="pt", **settings).pixel_values[0]

    def encode(self, labels: Sequence[str]) -> torch.Tensor:
        """Return labels as the model takes them: an index, int64 (), or 0/1 for each class, float32 (num_labels,)."""
        if not self.multi_label:
            (label,) = labels
            return torch.tensor(self.label2id[label])
        targets = torch.zeros(self.num_labels)
        targets[[self.label2id[label] for label in labels]] = 1
        return targets

    def blank_sample(self) -> dict[str, torch.Tensor | int]:
        """Return a sample of the same shape that counts neither in the loss nor in the metrics."""
        pixel_values, labels = self.blank()
        sample = {"pixel_values": pixel_values, "labels": labels}
        return sample if self.transform is None else sample | {"seed": 0}

    def blank(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a blank clip and the label -100, which stand for an unreadable clip."""
        channels = len(self.processor.image_mean)
        clip = torch.zeros(self.processor.num_frames, channels, *self.processor.clip_size)
        shape = (self.num_labels,) if self.multi_label else ()
        return clip, torch.full(shape, IGNORED_LABEL, dtype=torch.float32 if self.multi_label else torch.int64)


def _sampling_of(processor) -> dict:
    return {name: getattr(processor, name) for name in ("num_frames", "frame_sampling", "frame_sampling_rate")}


def _draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))


class ClipDataset(Dataset[dict[str, torch.Tensor | int]]):
    """
    Labelled videos as samples, for a `DataLoader`.

    `dataset[i]` is clip i in epoch 0, and `dataset[i + epoch * len(dataset)]` is the same clip in another epoch. So the
    index contains the epoch, and worker processes that outlive an epoch receive it. [`EpochSampler`] draws such
    indices.
    """

    def __init__(self, videos: Sequence[LabelledVideo], load: ClipLoader):
        self.videos: Sequence[LabelledVideo] = videos
        self.load: ClipLoader = load

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, ticket: int) -> dict[str, torch.Tensor | int]:
        epoch, index = divmod(ticket, len(self))
        return self.load(self.videos[index], (epoch, index))


class EpochSampler(Sampler[int]):
    """
    Draws the clips of a [`ClipDataset`] in an order that depends only on the seed and the epoch.

    The order is the same however many processes share the clips.

    Args:
        num_clips: length of the dataset.
        seed: seed of the order.
    """

    def __init__(self, num_clips: int, seed: int = 0):
        self.num_clips: int = num_clips
        self.seed: int = seed
        self.epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_clips

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_clips)
        return iter((order + self.epoch * self.num_clips).tolist())


class ClipStream(IterableDataset):
    """
    The videos of a stream as samples, for data sets larger than the disk.

    The random choices for a clip depend on its name instead of its index.
    """

    def __init__(self, videos: VideoStream, load: ClipLoader):
        self.videos, self.load, self.epoch = videos, load, 0
        self._start = (0, 0, 1)  # epoch, batches that are left blank in it, and their size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order and the random choices."""
        self.epoch = epoch
        self.videos.set_epoch(epoch)

    def start_at(self, epoch: int, batches: int, batch_size: int) -> None:
        """
        Let a pass begin with blank clips, for a training that goes on and drops its first batches.

        So their videos are read, but not decoded.

        Args:
            epoch: the number of the pass.
            batches: how many batches a `DataLoader` drops.
            batch_size: the number of clips in a batch.
        """
        self._start = (epoch, batches, batch_size)

    def __iter__(self) -> Iterator[dict]:
        blank = self._number_of_blank_clips()
        for index, video in enumerate(self.videos):
            if index < blank:
                yield self.load.blank_sample()
            else:
                yield self.load(video, (self.epoch, zlib.crc32(video.name.encode(errors="replace"))))

    def _number_of_blank_clips(self) -> int:
        """
        Return how many clips this worker doesn't decode.

        The workers of a `DataLoader` make batches in turn, and one that has no more is left out. So batch i of worker
        w of n is batch i * n + w of the pass, or an earlier one.
        """
        worker = get_worker_info()
        index, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, batches, batch_size = self._start
        return max(0, math.ceil((batches - index) / count)) * batch_size if epoch == self.epoch else 0
