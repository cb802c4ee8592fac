"""Memory for the frames of a clip."""

import threading
from collections.abc import Sequence

import numpy as np


class ClipBuffer:
    """
    The frames of a clip in one array, into which each frame is copied as soon as it is decoded.

    So the decoder's memory of a frame is free for the next one, which is faster and takes less than to keep all frames
    and stack them at the end. Several threads may put frames.

    Args:
        keys: what identifies the frame at each place of the clip, for example its timestamp. A key may come repeatedly.
    """

    def __init__(self, keys: Sequence[int]):
        self.keys = keys
        self.places: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            self.places.setdefault(key, []).append(place)
        self.array: np.ndarray | None = None
        self.others: dict[int, np.ndarray] = {}  # frames of another size than that of the array, by their key
        self.missing = set(self.places)
        self.lock = threading.Lock()

    def __contains__(self, key: int) -> bool:
        return key in self.places

    @property
    def is_complete(self) -> bool:
        """Whether every frame of the clip is there."""
        return not self.missing

    def put(self, key: int, frame: np.ndarray) -> None:
        """Copy a frame, uint8 (height, width, 3), to its places in the clip."""
        with self.lock:
            if self.array is None:
                self.array = np.empty((len(self.keys), *frame.shape), frame.dtype)
            self.missing.discard(key)
        if frame.shape == self.array.shape[1:]:
            for place in self.places[key]:
                self.array[place] = frame
        else:
            self.others[key] = frame

    def frames(self) -> np.ndarray | list[np.ndarray]:
        """Return the frames of a complete clip: one array, or if they have several sizes, a list."""
        if not self.others:
            return self.array
        return [self.others.get(key, self.array[place]) for place, key in enumerate(self.keys)]
