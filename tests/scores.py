"""Scores of videos for the metrics."""

import numpy as np


def random_scores(videos: int = 60, labels: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Few different values, so that many scores are equal; some labels never occur."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 5, (videos, labels)) / 4, rng.integers(0, labels - 2, videos)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Of every row."""
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
