"""The videos that these tests name."""

from finetuning import data  # noqa: F401
