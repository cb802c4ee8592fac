"""Where labelled videos come from, how they are split, and what clips become of them."""

import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import decode_all, moving_pattern, write_video
from torch.utils.data import DataLoader

from timesformer_hf import TimesformerVideoProcessor, VideoReadError
from timesformer_hf.data.clip_augmentation import ClipAugmentation, make_clip_transform
from timesformer_hf.data.clip_dataset import (
    ClipDataset,
    ClipLoader,
    ClipStream,
    EpochSampler,
    LabelledVideo,
    LabelledVideos,
    SkippedClips,
    VideoStream,
    find_leaks,
    read_labelled_videos,
    train_validation_split,
)
from timesformer_hf.data.splits import choose_groups
from timesformer_hf.data.training_splits import choose_splits
from timesformer_hf.video.random_sampling import RANDOM_SAMPLING, random_frame_indices
from timesformer_hf.video.video_sampling import FRAME_SAMPLING, sample_frame_indices


def touch(folder: Path, *names: str) -> Path:
    """Files whose content is their name; no test that uses them decodes."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def listing(videos) -> list[tuple[str, tuple[str, ...]]]:
    return [(Path(video.name).name, video.labels) for video in videos]


@pytest.fixture(autouse=True)
def quick_streams(monkeypatch):
    """`datasets` sleeps for five seconds at the end of a stream that it shuffles, for the sake of its threads."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)


class TestClassFolders:
    NAMES = ("cat/b.mp4", "cat/a.mkv", "dog/c.avi", "eel/d.mov")

    @pytest.mark.parametrize("splits", [("",), ("train/", "validation/", "test/"), ("training/", "val/")])
    def test_like_videofolder(self, splits, tmp_path):
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

    def test_what_is_no_video_of_the_set(self, tmp_path):
        data = touch(
            tmp_path, "cat/a.mp4", "cat/notes.txt", "cat/.hidden.mp4", "cat/.cache/x.mp4", ".git/x.mp4", "dog/b.webm"
        )
        assert listing(read_labelled_videos(data)) == [("a.mp4", ("cat",)), ("b.webm", ("dog",))]

    def test_numbers_are_sorted_by_value(self, tmp_path):
        assert read_labelled_videos(touch(tmp_path, "10/a.mp4", "9/b.mp4")).label_names == ["9", "10"]

    def test_groups(self, tmp_path):
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

    def test_empty_class_folder(self, tmp_path):
        data = touch(tmp_path, "cat/a.mp4", "dog/notes.txt")
        with pytest.raises(ValueError, match=r"class folder .*dog holds no video .*\.mp4"):
            read_labelled_videos(data)

    def test_bar_in_a_name(self, tmp_path):
        with pytest.raises(ValueError, match=r"class folder .*up\|down has a \| in its name, .*; rename it"):
            read_labelled_videos(touch(tmp_path, "up|down/a.mp4", "left/b.mp4"))

    def test_one_class(self, tmp_path):
        with pytest.raises(ValueError, match="one class only, cat: there is nothing to tell apart"):
            read_labelled_videos(touch(tmp_path, "cat/a.mp4"))

    def test_no_class_folder(self, tmp_path):
        with pytest.raises(ValueError, match="must hold a folder of videos for each class"):
            read_labelled_videos(touch(tmp_path, "a.mp4"))

    def test_splits_beside_classes(self, tmp_path):
        with pytest.raises(ValueError, match=r"both splits \(train\) and other folders \(cat\)"):
            read_labelled_videos(touch(tmp_path, "train/cat/a.mp4", "cat/a.mp4"))

    def test_unknown_split(self, tmp_path):
        data = touch(tmp_path, "train/cat/a.mp4", "train/dog/b.mp4")
        with pytest.raises(ValueError, match="no split 'test'; the splits are train"):
            read_labelled_videos(data, "test")

    def test_no_source(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="neither a folder or table here nor a data set"):
            read_labelled_videos(tmp_path / "nothing")
        with pytest.raises(ValueError, match="must be a folder with a folder for each class"):
            read_labelled_videos(touch(tmp_path, "a.mp4") / "a.mp4")


class TestTables:
    def write(self, path: Path, text: str) -> Path:
        touch(path.parent, "a.mp4", "sub/b.mp4")
        path.write_text(text, encoding="utf-8-sig")  # as spreadsheets do
        return path

    def test_csv(self, tmp_path):
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

    def test_group_zero_and_missing_groups(self, tmp_path):
        """Whole numbers with some missing, which pandas writes as numbers with a fraction and NaN."""
        pa = pytest.importorskip("pyarrow")
        names = touch(tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4") and ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
        for groups in ([0, 0, None, None], [0.0, 0.0, float("nan"), float("nan")]):
            table = pa.table({"path": names, "label": ["x", "y", "x", "y"], "group": groups})
            pa.parquet.write_table(table, tmp_path / "t.parquet")
            found = [video.group for video in read_labelled_videos(tmp_path / "t.parquet")]
            assert [found.index(group) for group in found] == [0, 0, 2, 3]

    @pytest.mark.parametrize(("train", "validation"), [("Train", "val"), ("training", "Valid"), ("train ", "DEV")])
    def test_names_of_splits(self, train, validation, tmp_path):
        """Those that folders may have."""
        text = f"path,label,split\na.mp4,cat,{train}\nsub/b.mp4,dog,{validation}\n"
        videos = read_labelled_videos(self.write(tmp_path / "t.csv", text))
        assert videos.splits == ["train", "validation"]
        assert listing(videos.of_split(train)) == listing(videos.of_split("train")) == [("a.mp4", ("cat",))]
        assert listing(videos.of_split(validation)) == [("b.mp4", ("dog",))]

    def test_several_labels(self, tmp_path):
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

    def test_other_encoding(self, tmp_path):
        (tmp_path / "t.csv").write_bytes("path,label\na.mp4,chêne\n".encode("latin-1"))
        with pytest.raises(ValueError, match=r"t\.csv is no text in UTF-8 \(.*\); save it in that encoding"):
            read_labelled_videos(tmp_path / "t.csv")

    def test_parquet(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        touch(tmp_path, "a.mp4", "b.mp4")
        pa.parquet.write_table(
            pa.table({"file_name": ["a.mp4", "b.mp4"], "label": [["x"], ["x", "y"]]}), tmp_path / "t.parquet"
        )
        videos = read_labelled_videos(tmp_path / "t.parquet")
        assert listing(videos) == [("a.mp4", ("x",)), ("b.mp4", ("x", "y"))]
        (tmp_path / "t.parquet").write_text("no table")
        with pytest.raises(ValueError, match="is no Parquet file"):
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
    def test_bad(self, text, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            read_labelled_videos(self.write(tmp_path / "t.csv", text), multi_label=False)

    def test_wrong_folder(self, tmp_path):
        table = self.write(tmp_path / "t.csv", "path,label\nx/a.mp4,cat\nx/b.mp4,dog\n")
        with pytest.raises(FileNotFoundError, match=r"None of the files that .* names is there, .*x/a\.mp4"):
            read_labelled_videos(table)


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

    def test_read(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        videos = read_labelled_videos(folder)
        assert videos.label_names == ["right", "left"]
        assert videos.splits == ["train", "test"]
        assert listing(videos.of_split("test")) == [("test_0.mp4", ("right",)), ("test_1.mp4", ("left",))]
        assert videos.of_split("train")[3].source == b"train 3"

    def test_names_of_splits(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        datasets = pytest.importorskip("datasets")
        load = datasets.load_dataset

        def with_other_names(*args, **settings):  # one has any in a data set's script or card
            return {{"test": "eval"}.get(name, name): rows for name, rows in load(*args, **settings).items()}

        monkeypatch.setattr(datasets, "load_dataset", with_other_names)
        assert read_labelled_videos(folder).splits == ["train", "test"]
        for name in ("test", "eval"):
            assert len(list(VideoStream(folder, name))) == 2

    def test_group_zero(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        datasets = pytest.importorskip("datasets")
        for file in (folder / "data").iterdir():
            rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "rows"))
            rows.add_column("group", [0] * len(rows)).to_parquet(file)
        assert {video.group for video in read_labelled_videos(folder)} == {"0"}

    def test_stream(self, folder):
        stream = VideoStream(folder, "train")
        assert [(video.name, video.labels, video.source) for video in stream] == [
            (f"train_{i}.mp4", (["right", "left"][i % 2],), f"train {i}".encode()) for i in range(6)
        ]

    def test_stream_is_shuffled_anew(self, folder):
        orders = []
        for epoch in (0, 1, 0):
            stream = VideoStream(folder, "train", buffer_size=6, seed=1)
            stream.set_epoch(epoch)
            orders.append([video.name for video in stream])
        assert orders[0] == orders[2] != orders[1]
        assert sorted(orders[0]) == sorted(orders[1]) == [f"train_{i}.mp4" for i in range(6)]

    def test_bad_streams(self, folder, tmp_path):
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
    def test_bad_label_in_a_stream(self, label, message, tmp_path):
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

    def test_labels_that_are_kept_back(self, folder, tmp_path, monkeypatch):
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


def make_videos(*groups: tuple[int, str]) -> LabelledVideos:
    """As many videos as the number of a group says, with the labels that the string names."""
    videos = [
        LabelledVideo(f"{number}_{i}", tuple(labels), f"group {number}")
        for number, (count, labels) in enumerate(groups)
        for i in range(count)
    ]
    return LabelledVideos(videos, sorted({label for video in videos for label in video.labels}), multi_label=True)


def choose_slowly(groups: list[Counter], share: float, seed: int) -> set[int]:
    """What is left and held is counted anew for every group."""
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    labels = {label for group in groups for label in group}
    of_label = {label: [index for index in order if label in groups[index]] for label in labels}
    chosen = set()
    for label in sorted(labels, key=lambda label: (len(of_label[label]), label)):
        wanted = max(1, round(share * sum(group[label] for group in groups)))
        for index in sorted(of_label[label], key=lambda index: max(groups[index][label], wanted)):
            held = sum(groups[other][label] for other in chosen)
            keeps_all = all(set(of_label[other]) - chosen - {index} for other in groups[index])
            if index not in chosen and keeps_all and (not held or groups[index][label] < 2 * (wanted - held)):
                chosen.add(index)
    return chosen


class TestSplit:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
    def test_single_videos_are_stratified(self, share, seed):
        """With a group a video, each class has its share to the video."""
        videos = make_videos(*[(1, "a")] * 40, *[(1, "b")] * 13, *[(1, "c")] * 2)
        train, validation = train_validation_split(videos, share, seed)
        counts = Counter(label for video in validation for label in video.labels)
        assert counts == {"a": round(40 * share), "b": round(13 * share), "c": 1}
        assert {video.split for video in train} == {"train"}
        assert {video.split for video in validation} == {"validation"}
        assert sorted(video.name for video in [*train, *validation]) == sorted(video.name for video in videos)

    def test_seeds(self):
        videos = make_videos(*[(1, "a")] * 20, *[(1, "b")] * 20)
        splits = [[video.name for video in train_validation_split(videos, 0.2, seed)[1]] for seed in (0, 0, 1)]
        assert splits[0] == splits[1] != splits[2]

    def test_groups_stay_together(self):
        rng = np.random.default_rng(0)
        for seed in range(20):
            kinds = ["a", "b", "c", "ab", "bc", ""]
            videos = make_videos(*[(int(rng.integers(1, 7)), kinds[rng.integers(6)]) for _ in range(30)])
            train, validation = train_validation_split(videos, 0.25, seed)
            assert not {video.group for video in train} & {video.group for video in validation}
            for label in videos.label_names:
                sides = [sum(label in video.labels for video in side) for side in (train, validation)]
                assert sides[0] > 0
                assert abs(sides[1] - 0.25 * sum(sides)) <= 6  # the largest group

    def test_class_of_one_group_is_trained(self, caplog):
        train_validation_split(make_videos((1, "a"), (1, "a"), (1, "b"), (1, "b")), 0.2)
        assert not caplog.text
        train, validation = train_validation_split(make_videos((5, "a"), (1, "b"), (1, "b")), 0.2)
        assert "No validation video has the label a (1 of 2 labels)" in caplog.text
        assert {video.labels for video in validation} == {("b",)}
        assert {video.labels for video in train} == {("a",), ("b",)}

    def test_impossible(self):
        with pytest.raises(ValueError, match="4 videos in 2 groups can't be split: no class has two groups"):
            train_validation_split(make_videos((2, "a"), (2, "b")))
        with pytest.raises(ValueError, match=r"share for validation, 1\.5, must lie between 0 and 1"):
            train_validation_split(make_videos((1, "a"), (1, "a")), 1.5)

    def test_copies_of_a_file_stay_together(self, tmp_path):
        names = [f"{label}/{i}.mp4" for label in "ab" for i in range(8)]
        data = touch(tmp_path, *names)
        for i in range(1, 4):  # copies under other names, also in another class
            shutil.copy(data / "a/0.mp4", data / f"a/{i}.mp4")
        shutil.copy(data / "a/0.mp4", data / "b/0.mp4")
        for seed in range(10):
            train, validation = train_validation_split(read_labelled_videos(data), 0.4, seed)
            held_out = {str(Path(video.name).relative_to(data)) for video in validation}
            copies = {"a/0.mp4", "a/1.mp4", "a/2.mp4", "a/3.mp4", "b/0.mp4"}
            assert copies <= held_out or not copies & held_out
            assert not find_leaks(train, validation)

    def test_choice_against_a_slow_twin(self):
        rng = np.random.default_rng(1)
        for seed in range(30):
            groups = [Counter(rng.choice(list("aabcde"), rng.integers(6)).tolist()) for _ in range(40)]
            assert choose_groups(groups, 0.3, seed) == choose_slowly(groups, 0.3, seed)

    def test_many_groups(self):
        """In proportion to their number: a choice that looks at all groups for each one takes minutes."""
        began = time.monotonic()
        assert len(choose_groups([Counter("a")] * 50_000 + [Counter("b")] * 50_000, 0.2, 0)) == 20_000
        assert time.monotonic() - began < 10

    def test_copies_with_other_labels(self, tmp_path, caplog):
        data = touch(tmp_path, "cat/1.mp4", "cat/2.mp4", "dog/3.mp4", "dog/4.mp4", "dog/5.mp4")
        shutil.copy(data / "cat/1.mp4", data / "cat/6.mp4")
        train_validation_split(read_labelled_videos(data))
        assert "Copies" not in caplog.text
        shutil.copy(data / "cat/1.mp4", data / "dog/1.mp4")
        train, validation = train_validation_split(read_labelled_videos(data))
        find_leaks(train, validation)
        (message,) = [record.message for record in caplog.records if "Copies" in record.message]
        example = f"{data}/dog/1.mp4 (dog) of {data}/cat/1.mp4 (cat)"
        assert message == f"Copies of a file that have other labels than it: 1, {example} for one"

    def test_leaks(self, tmp_path):
        data = touch(tmp_path, "train/a/1.mp4", "train/b/v_B_g01_c01.avi", "test/a/2.mp4", "test/b/v_B_g01_c02.avi")
        shutil.copy(data / "train/a/1.mp4", data / "test/a/3.mp4")
        touch(data, "test/b/4.mp4")
        videos = read_labelled_videos(data)
        leaks = find_leaks(videos.of_split("train"), videos.of_split("test"))
        assert [Path(name).name for name in leaks] == ["3.mp4", "v_B_g01_c02.avi"]


class TestChosenSplits:
    def choose(self, tmp_path, splits: list[str], **settings):
        """Two videos, a `cat` and a `dog`, in each of the splits that a table names."""
        rows = [f"{i}{label}.mp4,{label},{split}" for i, split in enumerate(splits) for label in ("cat", "dog")]
        touch(tmp_path, "0cat.mp4")
        (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]))
        return choose_splits(read_labelled_videos(tmp_path / "t.csv"), **settings)

    @pytest.mark.parametrize("name", ["validation", "val", "Dev"])
    def test_whatever_they_are_called(self, name, tmp_path):
        for settings in ({}, {"validation_split": name}):
            train, validation = self.choose(tmp_path, ["training", name], **settings)
            assert [Path(video.name).name for video in train] == ["0cat.mp4", "0dog.mp4"]
            assert [Path(video.name).name for video in validation] == ["1cat.mp4", "1dog.mp4"]

    def test_videos_of_no_use(self, tmp_path, caplog):
        self.choose(tmp_path, ["train", "val", "test"])
        assert "neither trained" not in caplog.text
        self.choose(tmp_path, ["train", "val", "vall", "", ""])
        assert "neither trained nor validated with: 2 in 'vall', 4 in no split" in caplog.text


class TestRandomSampling:
    SETTINGS = {"num_frames": 4, "frame_sampling_rate": 3, "fps": 25.0}

    def draws(self, policy: str, total: int, count: int = 400, **settings) -> set[tuple[int, ...]]:
        rng = np.random.default_rng(0)
        settings = self.SETTINGS | settings
        return {
            tuple(random_frame_indices(total_num_frames=total, frame_sampling=policy, rng=rng, **settings))
            for _ in range(count)
        }

    def test_every_policy_has_a_twin(self):
        assert RANDOM_SAMPLING.keys() == FRAME_SAMPLING.keys()

    @pytest.mark.parametrize("policy", RANDOM_SAMPLING)
    @pytest.mark.parametrize("total", [1, 3, 4, 11, 40])
    def test_legal(self, policy, total):
        for indices in self.draws(policy, total, 50):
            assert len(indices) == 4
            assert list(indices) == sorted(indices)
            assert indices[0] >= 0
            assert indices[-1] < total

    def test_uniform(self):
        """Every phase, the one that is tested with among them, and equal distances."""
        assert self.draws("uniform", 16) == {(i, i + 4, i + 8, i + 12) for i in range(4)}
        assert self.draws("uniform", 3) == {(0, 1, 2, 2)}

    def test_center(self):
        """Every start."""
        assert self.draws("center", 16) == {(i, i + 3, i + 6, i + 9) for i in range(7)}
        assert self.draws("center", 5) == {(0, 3, 4, 4)}

    def test_segments(self):
        """Every choice of one frame a segment, which share their ends: 0 4 8 12 16."""
        found = self.draws("segments", 17, 20_000)
        assert len(found) == 5**4
        assert {indices[1] for indices in found} == {4, 5, 6, 7, 8}

    def test_original(self):
        """A clip is 3 * 4 / 30 * 25 = 10 frames long, so its frames are 9 / 3 apart; it starts anywhere before 30."""
        assert self.draws("original", 40, 2000) == {(i, i + 3, i + 6, i + 9) for i in range(30)}
        assert self.draws("original", 5) == {(0, 3, 4, 4)}

    @pytest.mark.parametrize("policy", [None, *RANDOM_SAMPLING])
    def test_what_is_tested_with_is_one_of_the_draws(self, policy):
        expected = sample_frame_indices(total_num_frames=17, frame_sampling=policy, **self.SETTINGS)
        assert tuple(expected) in self.draws(policy, 17, 20_000)

    def test_bad(self):
        with pytest.raises(ValueError, match="must be one of 'uniform'"):
            self.draws("middle", 10)
        with pytest.raises(ValueError, match="needs a frame_sampling_rate"):
            self.draws("center", 10, frame_sampling_rate=None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of two videos each, a different start of the pattern in each."""
    folder = tmp_path_factory.mktemp("videos")
    frames = moving_pattern(40)
    for number, name in enumerate(("cat/0.mp4", "cat/1.mp4", "dog/2.mp4", "dog/3.mp4")):
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / name, frames[4 * number : 4 * number + 20])
    return folder


@pytest.fixture
def processor():
    size = {"height": 32, "width": 32}
    return TimesformerVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size=size, frame_sampling_rate=2)


def center_crop(clip: torch.Tensor) -> torch.Tensor:
    return clip[..., 8:40, 16:48].contiguous()


def noisy_crop(clip: torch.Tensor) -> torch.Tensor:
    """A transform that shows where its chance comes from."""
    left = torch.randint(clip.shape[-1] - 31, ()).item()
    return clip[..., 8:40, left : left + 32]


IDS = {"cat": 0, "dog": 1}


class TestClipDataset:
    def test_validation_clips_are_the_processors(self, data, processor):
        videos = read_labelled_videos(data)
        dataset = ClipDataset(videos, ClipLoader(processor, IDS))
        for sample, video in zip((dataset[i] for i in range(4)), videos, strict=True):
            assert torch.equal(sample["pixel_values"], processor(video.name, return_tensors="pt").pixel_values[0])
            assert sample["labels"].item() == IDS[video.labels[0]]
            assert "seed" not in sample

    @pytest.mark.parametrize("flip_channels", [False, True])
    def test_training_clips_against_plain_decoding(self, flip_channels, data, processor):
        """The frames of some start, found by comparing with all of them, scaled and normalised by hand."""
        processor.do_flip_channel_order = flip_channels
        videos = read_labelled_videos(data)
        dataset = ClipDataset(videos, ClipLoader(processor, IDS, transform=center_crop))
        frames = torch.from_numpy(np.stack(decode_all(Path(videos[0].name)))).permute(0, 3, 1, 2)
        expected = (frames[..., 8:40, 16:48].float() / 255 - 0.45) / 0.225
        expected = expected.flip(1) if flip_channels else expected
        starts = set()
        for ticket in range(0, 320, 4):
            pixels = dataset[ticket]["pixel_values"]
            found = [start for start in range(14) if torch.allclose(pixels, expected[start : start + 7 : 2], atol=1e-5)]
            assert len(found) == 1
            starts.update(found)
        assert starts == set(range(14))

    def test_draws_depend_on_seed_epoch_and_place_alone(self, data, processor):
        videos = read_labelled_videos(data)

        def draw(*tickets: int, seed: int = 0) -> list[torch.Tensor]:
            dataset = ClipDataset(videos, ClipLoader(processor, IDS, transform=noisy_crop, seed=seed))
            return [dataset[ticket]["pixel_values"] for ticket in tickets]

        torch.manual_seed(0)
        before = torch.get_rng_state()
        first, second = draw(1, 6)
        assert torch.equal(torch.get_rng_state(), before)  # others' chance is left alone
        torch.rand(7)
        assert torch.equal(draw(3, 6)[1], second)
        assert torch.equal(draw(1)[0], first)
        assert not torch.equal(draw(1, seed=1)[0], first)
        assert not torch.equal(draw(1 + 4)[0], first)  # another epoch

    def test_workers_and_epochs(self, data, processor):
        """Any number of workers, which outlive an epoch, gives the same batches."""
        dataset = ClipDataset(read_labelled_videos(data), ClipLoader(processor, IDS, transform=noisy_crop))

        def batches(num_workers: int) -> list[torch.Tensor]:
            sampler = EpochSampler(4, seed=3)
            settings = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
            loader = DataLoader(dataset, batch_size=3, sampler=sampler, **settings)
            found = []
            for epoch in range(2):
                sampler.set_epoch(epoch)
                found += [batch["pixel_values"] for batch in loader]
            return found

        alone, shared = batches(0), batches(2)
        assert [len(batch) for batch in alone] == [3, 1, 3, 1]
        assert all(map(torch.equal, alone, shared))
        assert not torch.equal(alone[0], alone[2])

    def test_sampler(self):
        sampler = EpochSampler(50, seed=1)
        orders = []
        for epoch in (0, 1, 0):
            sampler.set_epoch(epoch)
            orders.append(list(sampler))
        assert orders[0] == orders[2]
        assert sorted(orders[0]) == list(range(50))
        assert sorted(orders[1]) == list(range(50, 100))
        assert [ticket - 50 for ticket in orders[1]] != orders[0]
        assert list(EpochSampler(50, seed=2)) != orders[0]
        assert len(sampler) == 50

    def test_several_labels(self, data, processor):
        load = ClipLoader(processor, IDS, multi_label=True, num_labels=3)
        video = read_labelled_videos(data)[0]
        for labels, expected in ((("cat",), [1, 0, 0]), ((), [0, 0, 0]), (("dog", "cat"), [1, 1, 0])):
            sample = load(LabelledVideo(video.name, labels, ""), (0, 0))
            assert sample["labels"].tolist() == expected
            assert sample["labels"].dtype == torch.float32

    def test_squeezed_frames(self, data):
        size = {"height": 24, "width": 40}
        processor = TimesformerVideoProcessor(size=size, do_center_crop=False, num_frames=4)
        video = read_labelled_videos(data)[0]
        assert ClipLoader(processor, IDS)(video, (0, 0))["pixel_values"].shape == (4, 3, 24, 40)
        transform = make_clip_transform(ClipAugmentation(), processor.clip_size, squeeze=True)
        assert ClipLoader(processor, IDS, transform=transform)(video, (0, 0))["pixel_values"].shape == (4, 3, 24, 40)
        skipped = SkippedClips(data.parent / "skipped.csv")
        blank = ClipLoader(processor, IDS, skipped=skipped)(LabelledVideo("none.mp4", ("cat",), "none.mp4"), (0, 0))
        assert blank["pixel_values"].shape == (4, 3, 24, 40)

    @pytest.mark.parametrize(
        "settings", [{"fps": 5}, {"do_sample_frames": False}, {"do_center_crop": False}, {"num_crops": 3}]
    )
    def test_clips_must_fit_into_a_batch(self, settings):
        with pytest.raises(ValueError, match="one number of frames, one size and one view"):
            ClipLoader(TimesformerVideoProcessor(**settings), IDS)


class TestUnreadableClips:
    @pytest.fixture
    def videos(self, data, tmp_path):
        """A whole one, a cut one, none at all, and one that isn't there."""
        shutil.copy(data / "cat/0.mp4", tmp_path / "whole.mp4")
        (tmp_path / "cut.mp4").write_bytes((data / "cat/0.mp4").read_bytes()[:900])
        (tmp_path / "text, no video.mp4").write_text("text")
        names = ["whole.mp4", "cut.mp4", "text, no video.mp4", "missing.mp4"]
        return [LabelledVideo(str(tmp_path / name), ("dog",), name) for name in names]

    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize("transform", [None, center_crop])
    def test_skipped(self, transform, num_workers, videos, processor, tmp_path):
        """Their place stays empty, and each is named once, in however many epochs and processes."""
        skipped = SkippedClips(tmp_path / "out" / "skipped.csv")
        dataset = ClipDataset(videos, ClipLoader(processor, IDS, transform=transform, skipped=skipped))
        sampler = EpochSampler(4)
        for epoch in range(2):
            sampler.set_epoch(epoch)
            (batch,) = DataLoader(dataset, batch_size=4, sampler=sampler, num_workers=num_workers)
            order = [ticket % 4 for ticket in sampler]
            assert batch["pixel_values"].shape == (4, 4, 3, 32, 32)
            assert batch["labels"].tolist() == [1 if place == 0 else -100 for place in order]
            assert [bool(clip.any()) for clip in batch["pixel_values"]] == [place == 0 for place in order]
        found = SkippedClips(tmp_path / "out" / "skipped.csv").read()
        assert found.keys() == {video.name for video in videos[1:]}
        assert "truncated" in found[videos[1].name]
        assert "Invalid data" in found[videos[2].name]
        assert "No such file" in found[videos[3].name]
        assert (tmp_path / "out" / "skipped.csv").read_text().count("\n") == 4

    def test_several_labels(self, videos, processor, tmp_path):
        load = ClipLoader(processor, IDS, multi_label=True, skipped=SkippedClips(tmp_path / "skipped.csv"))
        assert load(videos[1], (0, 0))["labels"].tolist() == [-100, -100]

    def test_an_error_without_a_report(self, videos, processor):
        with pytest.raises(VideoReadError, match=r"cut\.mp4"):
            ClipDataset(videos, ClipLoader(processor, IDS))[1]
        with pytest.raises(FileNotFoundError, match=r"missing\.mp4"):
            ClipDataset(videos, ClipLoader(processor, IDS, transform=center_crop))[3]

    def test_report_of_several_processes(self, tmp_path):
        """What others append is seen, and not written again."""
        first, second = SkippedClips(tmp_path / "s.csv"), SkippedClips(tmp_path / "s.csv")
        first.add("a", "because,\nof something")
        second.add("a", "again")
        second.add("b", "as well")
        assert first.read() == second.read() == {"a": "because, of something", "b": "as well"}
        assert (tmp_path / "s.csv").read_text().count("video,reason") == 1


class TestClipStream:
    def test_against_the_dataset(self, data, processor, tmp_path):
        """The clips of a stream, in any number of workers, are those of the files it was made of."""
        datasets = pytest.importorskip("datasets")
        videos = list(read_labelled_videos(data))
        values = [{"bytes": Path(video.name).read_bytes(), "path": Path(video.name).name} for video in videos]
        for shard in range(2):
            rows = {"video": values[2 * shard :][:2], "label": [video.labels[0] for video in videos[2 * shard :][:2]]}
            features = datasets.Features({"video": datasets.Video(decode=False), "label": datasets.Value("string")})
            (tmp_path / "data").mkdir(exist_ok=True)
            datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "data" / f"train-{shard}.parquet")

        def samples(num_workers: int, transform, epoch: int = 0) -> list[torch.Tensor]:
            stream = VideoStream(tmp_path, "train", ["cat", "dog"])
            dataset = ClipStream(stream, ClipLoader(processor, IDS, transform=transform))
            dataset.set_epoch(epoch)
            found = {}
            for sample in DataLoader(dataset, batch_size=None, num_workers=num_workers):
                found[sample["labels"].item(), sample["pixel_values"].sum().item()] = sample["pixel_values"]
            return [found[key] for key in sorted(found)]

        plain = samples(0, None)
        expected = [processor(video.name, return_tensors="pt").pixel_values[0] for video in videos]
        assert len(plain) == 4
        assert all(any(torch.equal(one, other) for other in expected) for one in plain)
        assert all(map(torch.equal, plain, samples(2, None)))
        assert all(map(torch.equal, samples(0, noisy_crop), samples(2, noisy_crop)))
        assert not all(map(torch.equal, samples(0, noisy_crop), samples(0, noisy_crop, epoch=1)))
