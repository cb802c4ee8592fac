"""Tables of features."""

import pytest

from timesformer_hf.inference.feature_table import read_features


pa = pytest.importorskip("pyarrow", reason="tables of features are Parquet files")
pq = pytest.importorskip("pyarrow.parquet", reason="tables of features are Parquet files")


def test_what_is_no_table_is_refused(tmp_path):
    pq.write_table(pa.table({"video": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("text")
    for name in ("other.parquet", "text.parquet"):
        with pytest.raises(ValueError, match=rf"{name} is not a table of features"):
            read_features(tmp_path / name)
