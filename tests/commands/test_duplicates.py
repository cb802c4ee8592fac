"""`timesformer-hf duplicates` on folders and on tables of features."""

import csv
import re
import shutil

import pytest
from altered_copies import write_altered_copies
from tiny_models import save_classifier

from timesformer_hf.cli import main
from timesformer_hf.commands import duplicates
from timesformer_hf.data import near_duplicates


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> dict:
    """Altered copies in splits, and a class in which nothing is a copy."""
    folder = tmp_path_factory.mktemp("copies")
    paths = write_altered_copies(folder)
    for name, place in {
        "original": "train/rising",
        "encoded again": "validation/rising",
        "half the size": "train/panning",
        "another": "train/panning",
    }.items():
        target = folder / "data" / place
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths[name], target)
    return {"folder": folder / "data", **paths}


def test_a_folder_is_compared_without_a_model(copies, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["duplicates", str(copies["folder"]), "--data", str(copies["folder"]), "--out", str(out)]) == 0
    lines = [re.sub(r"0\.99\d\d|1\.0000", "COSINE", line) for line in capsys.readouterr().out.splitlines()]
    folder = copies["folder"]
    assert lines == [
        "1 group of near-duplicates (cosine 0.95 or more): 3 of 4 videos",
        "1 of 1 validation videos have a near-duplicate in another split",
        "1 group with different labels",
        "group 1:",
        f"  COSINE  train  panning  {folder}/train/panning/smaller.mp4",
        f"  COSINE  train  rising  {folder}/train/rising/original.mp4",
        f"  COSINE  validation  rising  {folder}/validation/rising/encoded.mkv",
    ]
    with out.open(newline="") as file:
        assert [row["duplicates"] for row in csv.DictReader(file)] == ["", "1", "1", "1"]


def test_a_table_is_compared_by_the_features_of_its_model(copies, tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="features are in a Parquet file")
    model, table = save_classifier(tmp_path / "model"), tmp_path / "features.parquet"
    videos = [str(copies[name]) for name in ("original", "encoded again")]
    assert main(["embed", *videos, "--out", str(table), "--model", model, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["duplicates", str(table), "--out", str(tmp_path / "page.html")]) == 0
    assert "1 group of near-duplicates (cosine 0.95 or more): 2 of 2 videos" in capsys.readouterr().out
    assert "data:image/jpeg" in (tmp_path / "page.html").read_text()


def test_unreadable_videos_are_named_and_left_out(copies, corrupt, capsys):
    assert main(["duplicates", str(copies["original"]), corrupt, str(copies["brighter"])]) == 1
    output = capsys.readouterr()
    assert "corrupt.mp4: can't be decoded" in output.err
    assert "1 of 3 videos failed" in output.err
    assert "2 of 2 videos" in output.out


def test_beyond_many_videos_an_index_is_searched(copies, monkeypatch, capsys):
    pytest.importorskip("faiss", reason="the approximate search")
    monkeypatch.setattr(near_duplicates, "MOST_EXACT", 1)
    assert main(["duplicates", str(copies["original"]), str(copies["brighter"])]) == 0
    output = capsys.readouterr()
    assert "searching an index, which may miss some near-duplicates" in output.err
    assert "2 of 2 videos" in output.out
    assert main(["duplicates", str(copies["original"]), str(copies["brighter"]), "--search", "exact"]) == 0
    assert "index" not in capsys.readouterr().err


def test_videos_that_the_data_do_not_have_are_counted(copies, capsys):
    videos = [str(copies["folder"]), str(copies["brighter"])]
    assert main(["duplicates", *videos, "--data", str(copies["folder"])]) == 0
    assert f"1 of 5 videos are not in {copies['folder']}" in capsys.readouterr().err


class TestBadInput:
    def error(self, capsys, *words) -> str:
        assert main(["duplicates", *map(str, words)]) == 2
        errors = capsys.readouterr().err
        assert len(errors.splitlines()) == 1
        return errors

    def test_it_is_told_before_any_video_is_read(self, copies, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(duplicates, "_read_frames", None)
        video, folder = copies["original"], copies["folder"]
        assert "threshold=95.0 must lie between 0 and 1" in self.error(capsys, video, "--threshold", 95)
        assert "must end in .csv, .parquet or .html" in self.error(capsys, video, "--out", tmp_path / "out.txt")
        (tmp_path / "out.csv").write_text("before")
        assert "--overwrite" in self.error(capsys, video, "--out", tmp_path / "out.csv")
        assert "must contain a folder of videos for each class" in self.error(
            capsys, video, "--data", folder / "train" / "rising"
        )

    def test_sources(self, copies, tmp_path, corrupt, capsys):
        assert "there is no such file" in self.error(capsys, "/no/such.mp4")
        assert "There is no file" in self.error(capsys, tmp_path / "features.parquet")
        (tmp_path / "features.parquet").write_text("no table")
        assert "is not a table of features" in self.error(capsys, tmp_path / "features.parquet")
        assert main(["duplicates", corrupt]) == 2
        assert "none of the videos could be read" in capsys.readouterr().err
        assert "has none of the videos" in self.error(capsys, copies["original"], "--data", copies["folder"])

    def test_help_names_the_defaults(self, capsys):
        with pytest.raises(SystemExit):
            main(["duplicates", "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert f"(default: {near_duplicates.THRESHOLD})" in text
        assert f"exact up to {near_duplicates.MOST_EXACT:,} videos" in text
