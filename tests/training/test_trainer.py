"""The metrics that the trainer computes of clips."""

import numpy as np
import pytest


def test_saying_no_to_every_label_is_worth_nothing():
    """Of 100 labels a clip has one: to say no to all is nearly always right, and worth nothing."""
    from transformers import EvalPrediction

    from timesformer_hf.training.trainer import clip_metrics

    labels = np.eye(100, dtype=np.float32)
    unreadable = np.full((1, 100), -100, dtype=np.float32)
    scores = np.full((101, 100), -1.0, dtype=np.float32)
    found = clip_metrics(EvalPrediction(scores, np.concatenate([labels, unreadable])), multi_label=True)
    assert found == pytest.approx({"label_accuracy": 0.99, "mean_average_precision": 0.01})
    assert clip_metrics(EvalPrediction(scores[:2], 0 * labels[:2]), multi_label=True) == {"label_accuracy": 1.0}
