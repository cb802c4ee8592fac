"""Packages that only some features need, and what to install where one of them is missing."""

import importlib.util
from collections.abc import Sequence


def missing_package(purpose: str, packages: str, extra: str) -> ImportError:
    """The error for a feature whose packages are not installed. Its message has the command that installs them."""
    return ImportError(f'{purpose} needs {packages}, not installed: pip install "timesformer_hf[{extra}]"')


def check_packages(purpose: str, packages: Sequence[str], extra: str) -> None:
    """
    Check that packages are installed, without importing them. To be called before long work.

    Raises:
        ImportError: naming those that are missing, and how to install them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise missing_package(purpose, ", ".join(missing), extra)
