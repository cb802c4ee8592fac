"""Parquet, through pyarrow, which is an extra."""

from .extras import missing_package


def import_pyarrow():
    """
    The module pyarrow, with `pyarrow.parquet`.

    Raises:
        ImportError: where it is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_package("a Parquet file", "pyarrow", "embed") from error
    return pyarrow
