"""The videos and the model that these tests fine-tune."""

from finetuning import data, model, no_plots, plots  # noqa: F401
