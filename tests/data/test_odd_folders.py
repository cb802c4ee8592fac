"""Folders and tables as they are found in the wild: links, system folders, other extensions, other separators."""

import os
from pathlib import Path

import pytest

from timesformer_hf import read_labelled_videos
from timesformer_hf.data.label_matching import match_names
from timesformer_hf.data.labelled_videos import find_columns
from timesformer_hf.video.video_folders import find_videos


def touch(folder: Path, *names: str) -> Path:
    """Write files whose content is their name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def read(folder: Path) -> list[tuple[str, str]]:
    """Return the label and the name of every video."""
    return [(*video.labels, Path(video.name).name) for video in read_labelled_videos(folder)]


THREE = [("cats", "1.mp4"), ("cats", "2.mp4"), ("dogs", "1.mp4")]


class TestLinks:
    @pytest.fixture
    def folder(self, tmp_path):
        return touch(tmp_path / "data", "cats/1.mp4", "cats/2.mp4", "dogs/1.mp4")

    @pytest.mark.parametrize("place", ["cats/up", "cats/deep/up", "dogs/a", "loop", "cats/z"])
    @pytest.mark.parametrize("target", ["data", "cats or dogs", "above", "absolute"])
    def test_loop(self, place, target, folder):
        link = folder / place
        link.parent.mkdir(exist_ok=True)
        targets = {
            "data": os.path.relpath(folder, link.parent),
            "cats or dogs": os.path.relpath(folder / place.split("/")[0], link.parent),
            "above": os.path.relpath(folder.parent, link.parent),
            "absolute": folder,
        }
        if target == "cats or dogs" and place == "loop":
            pytest.skip("a link to itself is no folder")
        link.symlink_to(targets[target], target_is_directory=True)
        assert read(folder) == THREE
        assert len(find_videos([str(folder)])) == 3

    def test_link_to_other_videos_is_followed(self, folder, tmp_path):
        """Data sets are put together by links."""
        touch(tmp_path / "store", "3.mp4", "more/4.mp4")
        (folder / "cats" / "more").symlink_to(tmp_path / "store")
        (folder / "cats" / "again").symlink_to(tmp_path / "store" / "more")
        (folder / "eels").symlink_to(tmp_path / "store")
        assert sorted(read(folder)) == sorted(
            [*THREE, ("cats", "3.mp4"), ("cats", "4.mp4"), ("eels", "3.mp4"), ("eels", "4.mp4")]
        )
        assert len(find_videos([str(folder)])) == 3  # a search without labels stays in the folder


class TestNames:
    def test_other_extensions(self, tmp_path):
        names = ["1.mts", "2.TS", "3.gif", "4.vob", "5.m2ts", "6.asf", "7.mp4"]
        touch(tmp_path, *(f"cats/{name}" for name in names), "dogs/1.mp4", "cats/program.ts", "cats/notes.txt")
        (tmp_path / "cats" / "2.TS").write_bytes((b"\x47" + bytes(187)) * 3)
        assert [name for label, name in read(tmp_path) if label == "cats"] == names
        assert [Path(name).name for name in find_videos([str(tmp_path / "cats")])] == names

    @pytest.mark.parametrize("name", ["__MACOSX", "$RECYCLE.BIN", "System Volume Information", ".Trash", "@eaDir"])
    def test_folders_that_systems_make(self, name, tmp_path):
        touch(tmp_path, "cats/1.mp4", "cats/2.mp4", "dogs/1.mp4", f"{name}/cats/1.mp4", f"cats/{name}/1.mp4")
        touch(tmp_path, "cats/._1.mp4")
        assert read(tmp_path) == THREE
        assert len(find_videos([str(tmp_path)])) == 3


class TestTables:
    @pytest.mark.parametrize(
        "text",
        [
            "path,label\ncats/1.mp4,cat\ndogs/2.mp4,dog\n",
            "path;label\ncats/1.mp4;cat\ndogs/2.mp4;dog\n",
            "path\tlabel\ncats/1.mp4\tcat\ndogs/2.mp4\tdog\n",
            "Path,Label\ncats/1.mp4,cat\ndogs/2.mp4,dog\n",
            " PATH , LABEL \r\ncats/1.mp4,cat\r\ndogs/2.mp4,dog\r\n",
            "label;id;Video\ncat;1;cats/1.mp4\ndog;2;dogs/2.mp4\n",
            '"path";"label"\n"cats/1.mp4";"cat"\n"dogs/2.mp4";"dog"\n',
            "cats/1.mp4 cat\ndogs/2.mp4 dog\n",
            "cats/1.mp4\tcat\n\ndogs/2.mp4\tdog",
            "cats/1.mp4,cat\ndogs/2.mp4,dog\n",
            "cats/1.mp4, cat\ndogs/2.mp4, dog\n",
            "cats/1.mp4;cat\ndogs/2.mp4;dog\n",
        ],
    )
    @pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.TSV"])
    def test_separators_and_headers(self, text, name, tmp_path):
        touch(tmp_path, "cats/1.mp4", "dogs/2.mp4")
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert read(tmp_path / name) == [("cat", "1.mp4"), ("dog", "2.mp4")]

    def test_list_with_spaces_and_numbers(self, tmp_path):
        touch(tmp_path, "my cats/a b.mp4", "2.mp4")
        (tmp_path / "t.csv").write_text("my cats/a b.mp4 3\n2.mp4 12\nhttps://c.org/3.mp4 3\n")
        videos = read_labelled_videos(tmp_path / "t.csv")
        assert [(video.labels, Path(video.name).name) for video in videos] == [
            (("3",), "a b.mp4"),
            (("12",), "2.mp4"),
            (("3",), "3.mp4"),
        ]

    def test_list_without_a_label(self, tmp_path):
        touch(tmp_path, "1.mp4", "2.mp4")
        (tmp_path / "t.txt").write_text("1.mp4 cat\n2.mp4\n")
        with pytest.raises(ValueError, match=r"t\.txt: the line 2\.mp4 has no label"):
            read(tmp_path / "t.txt")

    def test_no_known_column(self, tmp_path):
        (tmp_path / "t.csv").write_text("name,kind\n1.mp4,cat\n")
        with pytest.raises(ValueError, match="has no column of videos: it must be called path or"):
            read(tmp_path / "t.csv")

    def test_two_columns_of_one_name(self, tmp_path):
        (tmp_path / "t.csv").write_text("path,label,Label\n1.mp4,cat,dog\n")
        with pytest.raises(ValueError, match="two columns whose names differ only in case"):
            read(tmp_path / "t.csv")

    def test_no_table_at_all(self, tmp_path):
        (tmp_path / "t.csv").write_text("path,label\n" + "x" * 200_000 + ",cat\n")
        with pytest.raises(ValueError, match="is not a table"):
            read(tmp_path / "t.csv")

    def test_parquet_with_capitals(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        touch(tmp_path, "1.mp4", "2.mp4")
        rows = pa.table({"Path": ["1.mp4", "2.mp4"], "Label": ["cat", "dog"]})
        pyarrow.parquet.write_table(rows, tmp_path / "t.parquet")
        assert read(tmp_path / "t.parquet") == [("cat", "1.mp4"), ("dog", "2.mp4")]

    def test_columns_of_a_data_set(self):
        assert find_columns("x", ["Clip", "Label"]) == ("Clip", "Label")


class TestLabels:
    """A label is found exactly, or by case and white space, or not at all."""

    @pytest.mark.parametrize(
        ("names", "known", "expected"),
        [
            (["+1"], ["-1", "0"], {}),
            (["5"], ["-5", "6"], {}),
            (["C"], ["c++", "d"], {}),
            (["C"], ["c", "d"], {"C": 0}),
            (["-1", "1"], ["1", "-1"], {"-1": 1, "1": 0}),
            (["Air_Drumming"], ["air drumming"], {"Air_Drumming": 0}),
            ([" air  drumming"], ["air drumming"], {" air  drumming": 0}),
            (["push-up"], ["push up"], {}),
            (["up"], ["UP", "Up"], {}),
            (["UP", "Up"], ["up"], {}),
            (["up", "Up"], ["up", "down"], {"up": 0}),
            (["Straße"], ["STRASSE"], {"Straße": 0}),
            ([""], [" "], {"": 0}),
        ],
    )
    def test_match(self, names, known, expected):
        assert match_names(names, dict(enumerate(known))) == expected
