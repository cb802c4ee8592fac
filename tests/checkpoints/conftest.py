"""Fixtures of the tests of foreign checkpoints."""

import pytest
from tiny_models import load_original


@pytest.fixture
def state():
    """The weights of the golden divided model, under the original names."""
    return load_original()
