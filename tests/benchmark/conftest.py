"""Fixtures of the tests of the benchmark."""

import pytest

from timesformer_hf.benchmark.measuring import Environment


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Environment:
    """The CPU, one thread, and a folder for what the benchmark makes."""
    return Environment("cpu", 1, 0, tmp_path_factory.mktemp("bench"))
