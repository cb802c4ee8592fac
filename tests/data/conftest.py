"""Fixtures of the tests of labelled videos."""

import pytest


@pytest.fixture
def quick_streams(monkeypatch):
    """`datasets` sleeps for five seconds at the end of a stream that it shuffles, for the sake of its threads."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
