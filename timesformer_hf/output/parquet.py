"""Parquet files, read and written by the optional package pyarrow."""


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
        raise ImportError('Tables of features need pyarrow: pip install "timesformer_hf[embed]"') from error
    return pyarrow
