"""The videos and the model that these tests begin with."""

from finetuning import data, model  # noqa: F401
