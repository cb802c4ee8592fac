"""Labelled videos from folders of classes and from tables."""

from pathlib import Path

import pytest
from labelled_files import listing, touch

from timesformer_hf.data.clip_dataset import read_labelled_videos


class TestClassFolders:
    NAMES = ("cat/b.mp4", "cat/a.mkv", "dog/c.avi", "eel/d.mov")

    @pytest.mark.parametrize("splits", [("",), ("train/", "validation/", "test/"), ("training/", "val/")])
    def test_labels_and_splits_are_those_of_videofolder(self, splits, tmp_path):
        """Labels, their order and splits against `datasets`."""
        datasets = pytest.importorskip("datasets")
        data = touch(
            tmp_path / "data", *(split + name.replace("/", "/" + split[:2]) for split in splits for name in self.NAMES)
        )
        videos = read_labelled_videos(data)
        expected = datasets.load_dataset("videofolder", data_dir=str(data), cache_dir=str(tmp_path / "cache"))
        if splits != ("",):
            assert set(videos.splits) == set(expected)
        for split, rows in expected.items():
            rows = rows.cast_column("video", datasets.Video(decode=False))
            names = rows.features["label"].names
            assert videos.label_names == names
            found = videos if splits == ("",) else videos.of_split(split)
            assert {(video.name, video.labels) for video in found} == {
                (row["video"]["path"], (names[row["label"]],)) for row in rows
            }

    def test_hidden_and_other_files_are_no_videos(self, tmp_path):
        data = touch(
            tmp_path, "cat/a.mp4", "cat/notes.txt", "cat/.hidden.mp4", "cat/.cache/x.mp4", ".git/x.mp4", "dog/b.webm"
        )
        assert listing(read_labelled_videos(data)) == [("a.mp4", ("cat",)), ("b.webm", ("dog",))]

    def test_numbers_are_sorted_by_value(self, tmp_path):
        assert read_labelled_videos(touch(tmp_path, "10/a.mp4", "9/b.mp4")).label_names == ["9", "10"]

    def test_groups_come_from_folders_and_names(self, tmp_path):
        names = (
            "cat/3.mp4",
            "cat/tape/1.mp4",
            "cat/tape/2.mp4",
            "dog/3.mp4",
            "dog/v_Dog_g01_c01.avi",
            "dog/v_Dog_g01_c02.avi",
        )
        kinetics = ("eel/abcdefghijk_000001_000011.mp4", "eel/abcdefghijk_000021_000031.mp4", "eel/tape/1.mp4")
        groups = [video.group for video in read_labelled_videos(touch(tmp_path, *names, *kinetics))]
        assert [groups.index(group) for group in groups] == [0, 1, 1, 3, 4, 4, 6, 6, 8]

    def test_an_empty_class_folder_is_refused(self, tmp_path):
        data = touch(tmp_path, "cat/a.mp4", "dog/notes.txt")
        with pytest.raises(ValueError, match=r"class folder .*dog contains no video .*\.mp4"):
            read_labelled_videos(data)

    def test_a_bar_in_a_name_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"class folder .*up\|down has a \| in its name, .*; rename it"):
            read_labelled_videos(touch(tmp_path, "up|down/a.mp4", "left/b.mp4"))

    def test_one_class_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="one class only, cat; a classifier needs two or more"):
            read_labelled_videos(touch(tmp_path, "cat/a.mp4"))

    def test_videos_beside_no_class_folder_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="must contain a folder of videos for each class"):
            read_labelled_videos(touch(tmp_path, "a.mp4"))

    def test_splits_beside_classes_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"both splits \(train\) and other folders \(cat\)"):
            read_labelled_videos(touch(tmp_path, "train/cat/a.mp4", "cat/a.mp4"))

    def test_an_unknown_split_is_refused(self, tmp_path):
        data = touch(tmp_path, "train/cat/a.mp4", "train/dog/b.mp4")
        with pytest.raises(ValueError, match="no split 'test'; the splits are train"):
            read_labelled_videos(data, "test")

    def test_no_source_is_told(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no such folder or table here, and a data set on the Hub"):
            read_labelled_videos(tmp_path / "nothing")
        with pytest.raises(ValueError, match="must be a folder with a folder for each class"):
            read_labelled_videos(touch(tmp_path, "a.mp4") / "a.mp4")


class TestTables:
    def write(self, path: Path, text: str) -> Path:
        touch(path.parent, "a.mp4", "sub/b.mp4")
        path.write_text(text, encoding="utf-8-sig")  # as spreadsheets do
        return path

    def test_csv_gives_paths_labels_groups_and_splits(self, tmp_path):
        text = "path,label,group,split\na.mp4,cat,x,train\nsub/b.mp4,dog,x,test\nhttps://c.org/c.mp4,dog,,train\n"
        videos = read_labelled_videos(self.write(tmp_path / "t.csv", text))
        assert [video.name for video in videos] == [
            str(tmp_path / "a.mp4"),
            str(tmp_path / "sub/b.mp4"),
            "https://c.org/c.mp4",
        ]
        assert [video.group for video in videos] == ["x", "x", "https://c.org/c.mp4"]
        assert [video.split for video in videos] == ["train", "test", "train"]
        assert videos.label_names == ["cat", "dog"]
        assert not videos.multi_label

    def test_group_zero_is_a_group_and_a_missing_one_is_none(self, tmp_path):
        """Whole numbers with some missing, which pandas writes as numbers with a fraction and NaN."""
        pa = pytest.importorskip("pyarrow")
        names = touch(tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4") and ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
        for groups in ([0, 0, None, None], [0.0, 0.0, float("nan"), float("nan")]):
            table = pa.table({"path": names, "label": ["x", "y", "x", "y"], "group": groups})
            pa.parquet.write_table(table, tmp_path / "t.parquet")
            found = [video.group for video in read_labelled_videos(tmp_path / "t.parquet")]
            assert [found.index(group) for group in found] == [0, 0, 2, 3]

    @pytest.mark.parametrize(("train", "validation"), [("Train", "val"), ("training", "Valid"), ("train ", "DEV")])
    def test_splits_may_have_the_names_of_folders(self, train, validation, tmp_path):
        """Those that folders may have."""
        text = f"path,label,split\na.mp4,cat,{train}\nsub/b.mp4,dog,{validation}\n"
        videos = read_labelled_videos(self.write(tmp_path / "t.csv", text))
        assert videos.splits == ["train", "validation"]
        assert listing(videos.of_split(train)) == listing(videos.of_split("train")) == [("a.mp4", ("cat",))]
        assert listing(videos.of_split(validation)) == [("b.mp4", ("dog",))]

    def test_several_labels_are_parted_by_a_bar(self, tmp_path):
        videos = read_labelled_videos(self.write(tmp_path / "t.csv", "path,labels\na.mp4,cat|dog\nsub/b.mp4,\n"))
        assert videos.multi_label
        assert [video.labels for video in videos] == [("cat", "dog"), ()]
        with pytest.raises(ValueError, match=r"a\.mp4 in .* has 2 labels, cat, dog; one is expected"):
            read_labelled_videos(tmp_path / "t.csv", multi_label=False)

    def test_a_missing_label_is_no_choice_of_several(self, tmp_path):
        table = self.write(tmp_path / "t.csv", "path,label\na.mp4,cat\nsub/b.mp4,\nc.mp4,dog\n")
        with pytest.raises(ValueError, match=r"b\.mp4 in .* has no label; one is expected, .*--multi_label true"):
            read_labelled_videos(table)
        assert read_labelled_videos(table, multi_label=True).multi_label

    def test_another_encoding_is_refused(self, tmp_path):
        (tmp_path / "t.csv").write_bytes("path,label\na.mp4,chêne\n".encode("latin-1"))
        with pytest.raises(ValueError, match=r"t\.csv is not text in UTF-8 \(.*\); save it in that encoding"):
            read_labelled_videos(tmp_path / "t.csv")

    def test_parquet_gives_lists_of_labels(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        touch(tmp_path, "a.mp4", "b.mp4")
        pa.parquet.write_table(
            pa.table({"file_name": ["a.mp4", "b.mp4"], "label": [["x"], ["x", "y"]]}), tmp_path / "t.parquet"
        )
        videos = read_labelled_videos(tmp_path / "t.parquet")
        assert listing(videos) == [("a.mp4", ("x",)), ("b.mp4", ("x", "y"))]
        (tmp_path / "t.parquet").write_text("no table")
        with pytest.raises(ValueError, match="is not a Parquet file"):
            read_labelled_videos(tmp_path / "t.parquet")

    def test_numbers_as_places_among_names(self, tmp_path):
        table = self.write(tmp_path / "t.csv", "path,label\na.mp4,1\nsub/b.mp4,0\n")
        videos = read_labelled_videos(table, label_names=["cat", "dog", "eel"])
        assert [video.labels for video in videos] == [("dog",), ("cat",)]
        assert videos.label_names == ["cat", "dog", "eel"]
        with pytest.raises(ValueError, match="labels that are not among the 1 given names: 1"):
            read_labelled_videos(table, label_names=["cat"])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "clip_name,label\na.mp4,x\n",
                r"no column of videos: it must be called path or .*columns are clip_name, label",
            ),
            ("path,kind\na.mp4,x\n", r"no column of labels: it must be called label"),
            ("path,label\na.mp4,x\n,y\n", "row 2 has no path"),
            ("path,label\na.mp4,x\nsub/b.mp4\n", "row 2 has more or fewer columns"),
            ("path,label\na.mp4,x\nsub/b.mp4,\n", r"b\.mp4 in .* has no label"),
            ("path,label\n", "has no rows; it must have one for each video"),
        ],
    )
    def test_bad_tables_are_refused_by_row_or_column(self, text, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            read_labelled_videos(self.write(tmp_path / "t.csv", text), multi_label=False)

    def test_a_table_whose_files_are_elsewhere_is_refused(self, tmp_path):
        table = self.write(tmp_path / "t.csv", "path,label\nx/a.mp4,cat\nx/b.mp4,dog\n")
        with pytest.raises(FileNotFoundError, match=r"None of the files that .* names exists, .*x/a\.mp4"):
            read_labelled_videos(table)
