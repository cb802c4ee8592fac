"""The inputs of a run over many videos: folders, lists and tables, read row by row."""

import csv
import sys
import tracemalloc
from pathlib import Path

import pytest

from timesformer_hf.scale.corpus import Corpus


pa = pytest.importorskip("pyarrow", reason="tables of videos are Parquet files")
pq = pytest.importorskip("pyarrow.parquet", reason="tables of videos are Parquet files")


def touch(folder: Path, *names: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]


class TestOrder:
    def test_inputs_follow_each_other(self, tmp_path):
        first, second = touch(tmp_path / "videos", "a.mp4", "b.mp4")
        (tmp_path / "list.txt").write_text("z.mp4\n/y.mp4\nhttps://host/x.mp4\n")
        pq.write_table(pa.table({"path": ["w.mp4", "s3://bucket/v.mp4"]}), tmp_path / "t.parquet")
        (tmp_path / "t.csv").write_text("label,path\n1,u.mp4\n")
        inputs = [
            "no.mp4",
            f"{tmp_path}/videos",
            f"@{tmp_path}/list.txt",
            *(f"{tmp_path}/t{e}" for e in (".parquet", ".csv")),
        ]
        assert list(Corpus(inputs)) == [
            "no.mp4",
            first,
            second,
            f"{tmp_path}/z.mp4",
            "/y.mp4",
            "https://host/x.mp4",
            f"{tmp_path}/w.mp4",
            "s3://bucket/v.mp4",
            f"{tmp_path}/u.mp4",
        ]

    def test_the_number_is_known_unless_a_text_file_has_some(self, tmp_path):
        pq.write_table(pa.table({"path": ["a", "b"]}), tmp_path / "t.parquet")
        (tmp_path / "list.txt").write_text("z.mp4\n")
        assert Corpus(["x.mp4", f"{tmp_path}/t.parquet"]).count() == 3
        assert Corpus([f"@{tmp_path}/list.txt"]).count() is None
        assert Corpus(["x.mp4"]).known_videos() == ["x.mp4"]
        assert Corpus(["x.mp4", f"@{tmp_path}/list.txt"]).known_videos() is None


class TestTextFiles:
    def test_empty_lines_and_windows_line_ends(self, tmp_path):
        (tmp_path / "list.txt").write_bytes("\ufeffa.mp4\r\n\r\n  \r\nb c.mp4 \r\n".encode())
        assert list(Corpus([f"@{tmp_path}/list.txt"])) == [f"{tmp_path}/a.mp4", f"{tmp_path}/b c.mp4"]

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_tables_with_each_separator(self, tmp_path, separator):
        with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8-sig") as file:
            rows = csv.writer(file, delimiter=separator, lineterminator="\r\n")
            rows.writerows([["label", "Path"], ["a", f"one{separator}two.mp4"], ["b", "c.mp4"]])
            file.write("\r\n")
        assert list(Corpus([f"{tmp_path}/t.csv"])) == [f"{tmp_path}/one{separator}two.mp4", f"{tmp_path}/c.mp4"]

    def test_a_row_that_is_too_short_is_named(self, tmp_path):
        (tmp_path / "t.csv").write_text("label,path\na,b.mp4\nc\n")
        with pytest.raises(ValueError, match=r"t\.csv: line 3 has fewer columns than the header"):
            list(Corpus([f"{tmp_path}/t.csv"]))


class TestBadInput:
    @pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
    def test_a_column_that_is_not_there(self, tmp_path, name):
        (tmp_path / "t.csv").write_text("label,video\n1,u.mp4\n")
        pq.write_table(pa.table({"label": [1], "video": ["u.mp4"]}), tmp_path / "t.parquet")
        with pytest.raises(ValueError, match=rf"{name} has no column path; it has label, video\. --column names"):
            Corpus([f"{tmp_path}/{name}"])
        assert list(Corpus([f"{tmp_path}/{name}"], column="video")) == [f"{tmp_path}/u.mp4"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("@empty.txt", b"\n\r\n", r"empty.txt names no video"),
            ("@latin.txt", b"caf\xe9.mp4\n", r"latin.txt is not text in UTF-8"),
            ("t.csv", b"path\ncaf\xe9.mp4\n", r"t.csv is not text in UTF-8"),
            ("t.parquet", b"path", r"t.parquet is not a Parquet file"),
        ],
    )
    def test_files_that_are_not_what_they_should_be(self, tmp_path, monkeypatch, name, content, message):
        monkeypatch.chdir(tmp_path)
        Path(name.removeprefix("@")).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            list(Corpus([name]))

    @pytest.mark.parametrize("name", ["@no.txt", "no.csv", "no.parquet"])
    def test_files_that_are_not_there(self, name):
        with pytest.raises(FileNotFoundError, match=r"There is no (list|table) no\."):
            Corpus([name])

    def test_a_list_without_its_sign(self):
        with pytest.raises(
            ValueError, match=r"list\.txt is a text file, not a video; @list\.txt reads the paths in it"
        ):
            Corpus(["list.txt"])

    def test_a_column_of_videos_themselves(self, tmp_path):
        pq.write_table(pa.table({"path": [b"bytes"]}), tmp_path / "t.parquet")
        with pytest.raises(ValueError, match="the column path has binary, not paths as text"):
            Corpus([f"{tmp_path}/t.parquet"])


@pytest.mark.parametrize("kind", ["csv", "parquet", "list"])
def test_a_large_table_is_never_in_memory(tmp_path, kind):
    """Of 40,000 rows, whose paths alone take 3 MB as Python's strings."""
    names = [f"folder/{number:020d}.mp4" for number in range(40_000)]
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"path": names}), path, row_group_size=10_000)
    else:
        path.write_text("\n".join(["path", *names]))
    whole = len(names) * sys.getsizeof(names[0])
    tracemalloc.start()
    number = sum(1 for _ in Corpus([f"@{path}" if kind == "list" else str(path)]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert number == len(names) + (kind == "list")
    assert peak < whole / 2
