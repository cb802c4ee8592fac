"""Parquet files, read and written by the optional package pyarrow."""

from .extras import missing_package


def import_pyarrow():
    """
    Import pyarrow and its Parquet module.

    Raises:
        ImportError: where pyarrow is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_package("a Parquet file", "pyarrow", "embed") from error
    return pyarrow
