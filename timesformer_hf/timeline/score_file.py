"""Scores of finished windows in a file, from which an interrupted run goes on."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..video.video_sources import VideoSource, describe_source
from .segments import Window


class ScoreFile:
    """
    A file to which the scores of windows are appended, a batch at a time.

    Its first line says which run it belongs to, as JSON. Then follow the scores, float32 (windows, labels).

    Args:
        path: name of the file, or `None` to keep scores in memory alone.
        model, processor, video, settings: all that decides on the scores. Weights count by their content, and a video
            in a file by its path, size and time of change.
    """

    def __init__(self, path: str | os.PathLike | None, model, processor, video: VideoSource, settings: dict):
        self.path = None if path is None else Path(path)
        self.scores: list[np.ndarray] = []
        self._labels, self._file = model.config.num_labels, None
        self._identity = {} if path is None else _identify(model, processor, video, settings)

    def load(self, batch_size: int) -> None:
        """
        Read the scores of whole batches that an earlier run has left.

        Raises:
            ValueError: if the file belongs to another run. The message says what differs.
        """
        if self.path is None or not self.path.exists():
            return
        first, _, content = self.path.read_bytes().partition(b"\n")
        self._check_same_run(first)
        rows = len(content) // (4 * self._labels)
        rows -= rows % batch_size
        scores = np.frombuffer(content, np.float32, rows * self._labels).reshape(rows, self._labels)
        self.scores = [row.copy() for row in scores]

    def _check_same_run(self, line: bytes) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.keys() != self._identity.keys():
            raise ValueError(f"{self.path} is not a file of scores; delete it, or give another name")
        different = [name for name in found if found[name] != self._identity[name]]
        if different:
            raise ValueError(
                f"{self.path} is from an interrupted run with another {' and '.join(different)}. Give the same ones to "
                "continue it, or delete that file to start again"
            )

    def __enter__(self) -> "ScoreFile":
        return self

    def __exit__(self, *error) -> None:
        if self._file is not None:
            self._file.close()

    def keep(self, windows: Sequence[Window]) -> None:
        """Append the scores of those windows that are not in the file yet. The first ones make the file."""
        new = [window.scores for window in windows[len(self.scores) :]]
        if new and self.path is not None:
            if self._file is None:
                self._open()
            self._file.write(np.asarray(new, np.float32).tobytes())
            self._file.flush()
        self.scores += new

    def _open(self) -> None:
        """Open the file behind the scores that count, without what belongs to no whole batch."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(self._identity).encode() + b"\n"
        self._file = self.path.open("ab")
        if not self.path.stat().st_size:
            self._file.write(line)
        self._file.truncate(len(line) + 4 * self._labels * len(self.scores))


def _identify(model, processor, video: VideoSource, settings: dict) -> dict:
    """Return what decides on the scores, for JSON."""
    weights = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    about = {"video": describe_source(video)}
    if isinstance(video, (str, os.PathLike)) and Path(video).is_file():
        found = Path(video).stat()
        about["video"] = f"{Path(video).resolve()}, {found.st_size} bytes, {found.st_mtime_ns}"
    sampling = hashlib.blake2b(processor.to_json_string().encode(), digest_size=16).hexdigest()
    about |= {"model": weights.hexdigest() + model.config.to_json_string(use_diff=False), "processor": sampling}
    return json.loads(json.dumps(about | settings))
