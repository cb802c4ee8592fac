"""Labelled videos from data sets as the Hub has them, read whole and streamed."""

import pytest
from labelled_files import listing

from timesformer_hf.data.clip_dataset import VideoStream, read_labelled_videos


@pytest.mark.usefixtures("quick_streams")
class TestDataSets:
    @pytest.fixture
    def folder(self, tmp_path):
        """A data set as on the Hub: Parquet files with videos in them."""
        datasets = pytest.importorskip("datasets")
        label = datasets.ClassLabel(names=["right", "left"])
        features = datasets.Features({"video": datasets.Video(decode=False), "label": label})
        (tmp_path / "data").mkdir()
        for split, count in (("train", 6), ("test", 2)):
            videos = [{"bytes": f"{split} {i}".encode(), "path": f"{split}_{i}.mp4"} for i in range(count)]
            rows = datasets.Dataset.from_dict({"video": videos, "label": [i % 2 for i in range(count)]}, features)
            rows.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
        return tmp_path

    def test_videos_labels_and_splits_are_read(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        videos = read_labelled_videos(folder)
        assert videos.label_names == ["right", "left"]
        assert videos.splits == ["train", "test"]
        assert listing(videos.of_split("test")) == [("test_0.mp4", ("right",)), ("test_1.mp4", ("left",))]
        assert videos.of_split("train")[3].source == b"train 3"

    def test_other_names_of_splits_are_known(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        datasets = pytest.importorskip("datasets")
        load = datasets.load_dataset

        def with_other_names(*args, **settings):  # one has any in a data set's script or card
            return {{"test": "eval"}.get(name, name): rows for name, rows in load(*args, **settings).items()}

        monkeypatch.setattr(datasets, "load_dataset", with_other_names)
        assert read_labelled_videos(folder).splits == ["train", "test"]
        for name in ("test", "eval"):
            assert len(list(VideoStream(folder, name))) == 2

    def test_group_zero_is_a_group(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        datasets = pytest.importorskip("datasets")
        for file in (folder / "data").iterdir():
            rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "rows"))
            rows.add_column("group", [0] * len(rows)).to_parquet(file)
        assert {video.group for video in read_labelled_videos(folder)} == {"0"}

    def test_a_stream_gives_the_videos_in_order(self, folder):
        stream = VideoStream(folder, "train")
        assert [(video.name, video.labels, video.source) for video in stream] == [
            (f"train_{i}.mp4", (["right", "left"][i % 2],), f"train {i}".encode()) for i in range(6)
        ]

    def test_a_stream_is_shuffled_anew_each_epoch(self, folder):
        orders = []
        for epoch in (0, 1, 0):
            stream = VideoStream(folder, "train", buffer_size=6, seed=1)
            stream.set_epoch(epoch)
            orders.append([video.name for video in stream])
        assert orders[0] == orders[2] != orders[1]
        assert sorted(orders[0]) == sorted(orders[1]) == [f"train_{i}.mp4" for i in range(6)]

    def test_what_cannot_be_streamed_is_refused(self, folder, tmp_path):
        with pytest.raises(ValueError, match="no split 'validation'; its splits are train, test"):
            VideoStream(folder, "validation")
        datasets = pytest.importorskip("datasets")
        rows = datasets.Dataset.from_dict({"video": ["https://c.org/a.mp4"], "label": ["cat"]})
        (tmp_path / "nameless").mkdir()
        rows.to_parquet(tmp_path / "nameless" / "train.parquet")
        with pytest.raises(ValueError, match="doesn't name its classes; give their names"):
            VideoStream(tmp_path / "nameless", "train")
        assert [video.labels for video in VideoStream(tmp_path / "nameless", "train", ["cat"])] == [("cat",)]
        (tmp_path / "t.csv").write_text("path,label\na.mp4,cat\n")
        with pytest.raises(ValueError, match=r"t\.csv is a table, .*; leave --streaming out"):
            VideoStream(tmp_path / "t.csv", "train")

    @pytest.mark.parametrize(
        ("label", "message"),
        [
            ("eel", r"c\.org/b\.mp4 in .*set has the label eel, which is not among the 2 given names \(--labels\)"),
            (7, r"c\.org/b\.mp4 in .*set: There is no class 7; the 2 classes are 0 to 1"),
            (-1, "There is no class -1"),
            ("dog|cat", r"c\.org/b\.mp4 in .*set has 2 labels, dog, cat; one is expected"),
            (None, r"c\.org/b\.mp4 in .*set has no label"),
        ],
    )
    def test_a_bad_label_in_a_stream_is_named(self, label, message, tmp_path):
        datasets = pytest.importorskip("datasets")
        labels = [0 if isinstance(label, int) else "dog", label]
        rows = datasets.Dataset.from_dict(
            {"video": ["https://c.org/a.mp4", "https://c.org/b.mp4"], "label": labels},
        )
        (tmp_path / "set").mkdir()
        rows.to_parquet(tmp_path / "set" / "train.parquet")
        videos = iter(VideoStream(tmp_path / "set", "train", ["dog", "cat"]))
        assert next(videos).labels == ("dog",)
        with pytest.raises(ValueError, match=message):
            next(videos)
        several = iter(VideoStream(tmp_path / "set", "train", ["dog", "cat"], multi_label=True))
        if label in (None, "dog|cat"):
            assert [len(video.labels) for video in several] == [1, 0 if label is None else 2]

    def test_a_split_without_labels_is_left_out(self, folder, tmp_path, monkeypatch):
        """-1, which isn't the last class: a whole split of it has nothing to say, among others it is an error."""
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        datasets = pytest.importorskip("datasets")
        (file,) = (folder / "data").glob("test-*")
        rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "rows"))

        def relabel(labels: list[int]):
            rows.remove_columns("label").add_column("label", labels).cast(rows.features).to_parquet(file)
            return read_labelled_videos(folder)

        assert relabel([-1, -1]).splits == ["train"]
        with pytest.raises(ValueError, match=r"test_1\.mp4 in .*: There is no class -1; the 2 classes are 0 to 1"):
            relabel([0, -1])
