"""Parquet, through pyarrow, which is an extra."""


def import_pyarrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Tables of features need pyarrow: pip install "timesformer_hf[embed]"') from error
    return pyarrow
