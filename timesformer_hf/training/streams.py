"""
Streams of clips in a Trainer: each process loads its own part, and every process has the same number of batches.

The two ways of accelerate don't fit. With `dispatch_batches`, one process decodes for all, and a pass ends with clips
that it began with. With `IterableDatasetShard`, every process decodes every clip. So `datasets` divides the rows here,
before they are decoded. Where a process has no more clips, blank ones take their place. They count neither in the loss
nor in the metrics.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState, TrainerState

from ..data.clip_dataset import ClipStream


def make_stream_loader(stream: ClipStream, batch_size: int, collate: Callable, args: TrainingArguments) -> DataLoader:
    """Return the loader of this process's part of a stream, which puts batches on the device."""
    loader = DataLoader(
        stream,
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        prefetch_factor=args.dataloader_prefetch_factor,
        multiprocessing_context=args.dataloader_multiprocessing_context,
    )
    return prepare_data_loader(
        loader, args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
    )


def blank_batch(stream: ClipStream, batch_size: int, collate: Callable, device: torch.device) -> dict:
    """Return a batch of blank clips, as the loader of a stream would give it."""
    return send_to_device(collate([stream.load.blank_sample() for _ in range(batch_size)]), device)


class EvenBatches:
    """
    The batches of a stream to validate with: the same number in every process, each filled up with blank clips.

    Args:
        loader: the loader of this process's part.
        blank: a batch of blank clips of the full size.
        has_any: function that returns whether a condition holds in any process. Every process must call it.
    """

    def __init__(self, loader: DataLoader[Any], blank: dict[str, torch.Tensor], has_any: Callable[[bool], bool]):
        self.dataset: Dataset[Any] = loader.dataset
        self._loader, self._blank, self._has_any = loader, blank, has_any

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        batches = iter(self._loader)
        while True:
            batch = next(batches, None)
            if not self._has_any(batch is not None):
                return
            yield self._blank if batch is None else self._fill(batch)

    def _fill(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: torch.cat([values, self._blank[name][len(values) :]]) for name, values in batch.items()}


class StreamOrder(TrainerCallback, ExportableState):
    """
    Stores in a checkpoint on what the order of the clips depends, and compares it with that of a training that goes on.

    Args:
        order: the settings by name.
    """

    def __init__(self, order: dict[str, int]):
        self.order = order

    def state(self) -> dict:
        """Return what the Trainer stores with its own state."""
        return {"args": {"order": self.order}, "attributes": {}}

    def check(self, stored: TrainerState, checkpoint: str | Path) -> None:
        """
        Check that the stream begins with the same batches as that of a checkpoint.

        Raises:
            ValueError: if a setting was another, or is not known.
        """
        before = stored.stateful_callbacks.get(type(self).__name__, {}).get("args", {}).get("order", {})
        changed = [
            f"{name} {before.get(name, 'unknown')}, now {now}"
            for name, now in self.order.items()
            if before.get(name) != now
        ]
        if changed:
            raise ValueError(
                f"{checkpoint} was written with another order of the stream ({'; '.join(changed)}), so it is not known "
                "which clips were seen. Give the same settings, or --ignore_data_skip to begin the current pass anew"
            )
