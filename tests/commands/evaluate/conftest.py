"""The videos, the model and the results of the tests in this folder."""

from evaluating import broken_data, data, model, one_thread, unbroken  # noqa: F401
