"""
Near-duplicates: videos whose features have a cosine near 1, and the groups that they form.

Everything here works on arrays. Two videos are near-duplicates if their cosine is at least a threshold. A group is a
connected component: each of its videos is a near-duplicate of another one in it, but not of all.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..output.extras import missing_package


THRESHOLD = 0.95  # measured by examples/duplicate_threshold.py, see docs/data_quality.md
MOST_EXACT = 100_000  # videos; the time of the exact search grows with the square of their number
_BLOCK = 2048  # rows; a block of cosines takes 16 MiB
_CELLS_SEARCHED = 16  # of an index, for each video

_Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows in ascending order, columns, cosines


@dataclass(frozen=True)
class _Nearest:
    """
    The most similar video of each video, if it is a near-duplicate.

    Attributes:
        videos: indices, int64 (videos,); -1 where there is no near-duplicate.
        cosines: float32 (videos,); -inf where there is none.
    """

    videos: np.ndarray
    cosines: np.ndarray

    @classmethod
    def of_none(cls, number: int) -> "_Nearest":
        """Return the state before any pair is known."""
        return cls(np.full(number, -1), np.full(number, -np.inf, np.float32))

    def add(self, rows: np.ndarray, columns: np.ndarray, cosines: np.ndarray) -> None:
        """Take more pairs into account, each in one direction. `rows` must be in ascending order."""
        if not len(rows):
            return
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        best = np.maximum.reduceat(cosines, starts)
        is_best = cosines == np.repeat(best, np.diff(starts, append=len(rows)))
        found, first = np.unique(rows[is_best], return_index=True)
        columns = columns[is_best][first]
        better = best > self.cosines[found]
        self.videos[found[better]], self.cosines[found[better]] = columns[better], best[better]


@dataclass(frozen=True)
class NearDuplicates:
    """
    The near-duplicates among videos.

    Attributes:
        groups: the number of each video's group, int64 (videos,). Groups are numbered from 0, in the order of their
            first videos. It is -1 for a video without a near-duplicate.
        nearest: the most similar video of each video.
        nearest_elsewhere: the most similar video in another split. `None` if no splits were given.
    """

    groups: np.ndarray
    nearest: _Nearest
    nearest_elsewhere: _Nearest | None

    def members(self) -> list[np.ndarray]:
        """Return the indices of the videos of each group, in ascending order."""
        order = np.argsort(self.groups, kind="stable")[(self.groups < 0).sum() :]
        return np.split(order, np.flatnonzero(np.diff(self.groups[order])) + 1) if len(order) else []


def find_near_duplicates(
    features: np.ndarray,
    threshold: float = THRESHOLD,
    splits: Sequence[Any] | None = None,
    approximate: bool = False,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> NearDuplicates:
    """
    Find the near-duplicates among videos by the cosines of their features.

    Cosines are computed in float32, so they are exact to about 1e-6. Memory grows with the number of videos, not with
    the number of pairs.

    Args:
        features: (videos, ...), float. All dimensions after the first are compared as one vector.
        threshold: the least cosine of near-duplicates, between 0 and 1.
        splits: the split of each video, any values. With it, the nearest video in another split is found too.
        approximate: search by an index of faiss in place of all cosines. It can miss near-duplicates.
        progress: wraps the blocks of videos that are searched one after the other, for example `tqdm.tqdm`.

    Raises:
        ValueError: if the threshold is not between 0 and 1, splits don't fit, or features are not finite or all zero.
        ImportError: if `approximate` and faiss is missing.
    """
    check_threshold(threshold)
    directions = _normalized(features)
    number = len(directions)
    if splits is not None and len(splits) != number:
        raise ValueError(f"there are {len(splits)} splits for {number} videos; give one for each")
    codes = None if splits is None else np.unique([str(split) for split in splits], return_inverse=True)[1]
    nearest, elsewhere = _Nearest.of_none(number), None if codes is None else _Nearest.of_none(number)
    parents = np.arange(number)
    for rows, columns, cosines in (_search_index if approximate else _search_all)(directions, threshold, progress):
        nearest.add(rows, columns, cosines)
        _connect(parents, rows, columns)
        if codes is not None:
            apart = codes[rows] != codes[columns]
            elsewhere.add(rows[apart], columns[apart], cosines[apart])
    return NearDuplicates(_number_groups(parents), nearest, elsewhere)


def check_threshold(threshold: float) -> None:
    """
    Check a threshold, before long work.

    Raises:
        ValueError: if it is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold} must lie between 0 and 1; for copies alone, give 0.9999")


def _normalized(features: np.ndarray) -> np.ndarray:
    """
    Return features as unit vectors, float32 (videos, dim).

    Raises:
        ValueError: if a feature is not finite, or all zero.
    """
    features = np.asarray(features)
    if features.ndim < 2 or not np.issubdtype(features.dtype, np.floating):
        raise ValueError(f"features must be floats (videos, ...), got {features.dtype} {features.shape}")
    features = features.reshape(len(features), math.prod(features.shape[1:]))
    norms = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if wrong.size:
        what = "all zero" if norms[wrong[0]] == 0 else "not finite"
        raise ValueError(f"the features of video {wrong[0]} are {what}, so they have no cosine; leave it out")
    return (features / norms[:, None].astype(features.dtype)).astype(np.float32, copy=False)


def _search_all(directions: np.ndarray, threshold: float, progress: Callable) -> Iterator[_Pairs]:
    """Yield every pair with a cosine of at least `threshold`, in both directions."""
    number = len(directions)
    for top in progress(range(0, number, _BLOCK)):
        block = directions[top : top + _BLOCK]
        for left in range(top, number, _BLOCK):
            cosines = block @ directions[left : left + _BLOCK].T
            if left == top:
                np.fill_diagonal(cosines, -1)
            yield _pairs(cosines, threshold, top, left)
            if left != top:
                yield _pairs(cosines.T, threshold, left, top)


def _pairs(cosines: np.ndarray, threshold: float, top: int, left: int) -> _Pairs:
    """Return the pairs in a block of cosines, whose first row and column are those of videos `top` and `left`."""
    rows, columns = np.nonzero(cosines >= threshold)
    return rows + top, columns + left, cosines[rows, columns]


def _search_index(directions: np.ndarray, threshold: float, progress: Callable) -> Iterator[_Pairs]:
    """
    Yield pairs with a cosine of at least `threshold`, in both directions, by an inverted file of faiss.

    It divides the features into cells, and compares a video with those in the nearest cells only (Sivic and Zisserman
    2003, "Video Google").

    Raises:
        ImportError: if faiss is missing.
    """
    try:
        import faiss
    except ImportError as error:
        raise missing_package("the approximate search", "faiss-cpu", "duplicates") from error
    number, dim = directions.shape
    cells = max(1, min(4 * math.isqrt(number), number // 40))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
    index.train(directions[:: max(1, number // (64 * cells))])
    index.add(directions)
    index.nprobe = _CELLS_SEARCHED
    for top in progress(range(0, number, _BLOCK)):
        ends, cosines, columns = index.range_search(directions[top : top + _BLOCK], threshold)
        rows = np.repeat(np.arange(top, top + len(ends) - 1), np.diff(ends).astype(np.int64))
        others = rows != columns
        yield rows[others], columns[others], cosines[others]


def _connect(parents: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """
    Merge the groups of each pair, in place.

    Args:
        parents: the first video of each video's group, int64 (videos,).
    """
    while len(rows):
        one, other = parents[rows], parents[columns]
        np.minimum.at(parents, np.maximum(one, other), np.minimum(one, other))
        while (parents != (firsts := parents[parents])).any():
            parents[:] = firsts
        apart = parents[rows] != parents[columns]
        rows, columns = rows[apart], columns[apart]


def _number_groups(parents: np.ndarray) -> np.ndarray:
    """Return the number of each video's group, -1 for a group of one."""
    firsts, places, sizes = np.unique(parents, return_inverse=True, return_counts=True)
    numbers = np.full(len(firsts), -1)
    numbers[sizes > 1] = np.arange((sizes > 1).sum())
    return numbers[places]
