"""How labelled videos are split: stratified, groups and copies together, against a slow twin."""

import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from labelled_files import touch

from timesformer_hf.data.clip_dataset import (
    LabelledVideo,
    LabelledVideos,
    find_leaks,
    read_labelled_videos,
    train_validation_split,
)
from timesformer_hf.data.splits import choose_groups
from timesformer_hf.data.training_splits import choose_splits


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

    def test_the_seed_decides_the_split(self):
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

    def test_what_cannot_be_split_is_refused(self):
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

    def test_choice_of_groups_is_the_slow_twins(self):
        rng = np.random.default_rng(1)
        for seed in range(30):
            groups = [Counter(rng.choice(list("aabcde"), rng.integers(6)).tolist()) for _ in range(40)]
            assert choose_groups(groups, 0.3, seed) == choose_slowly(groups, 0.3, seed)

    def test_many_groups_are_split_in_seconds(self):
        """In proportion to their number: a choice that looks at all groups for each one takes minutes."""
        began = time.monotonic()
        assert len(choose_groups([Counter("a")] * 50_000 + [Counter("b")] * 50_000, 0.2, 0)) == 20_000
        assert time.monotonic() - began < 10

    def test_copies_with_other_labels_are_named(self, tmp_path, caplog):
        data = touch(tmp_path, "cat/1.mp4", "cat/2.mp4", "dog/3.mp4", "dog/4.mp4", "dog/5.mp4")
        shutil.copy(data / "cat/1.mp4", data / "cat/6.mp4")
        train_validation_split(read_labelled_videos(data))
        assert "Copies" not in caplog.text
        shutil.copy(data / "cat/1.mp4", data / "dog/1.mp4")
        train, validation = train_validation_split(read_labelled_videos(data))
        find_leaks(train, validation)
        (message,) = [record.message for record in caplog.records if "Copies" in record.message]
        example = f"{data}/dog/1.mp4 (dog), a copy of {data}/cat/1.mp4 (cat)"
        assert message == f"Copies of a file have other labels than the file: 1, for example {example}"

    def test_leaks_are_copies_and_groups_in_both_splits(self, tmp_path):
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
    def test_splits_are_found_whatever_they_are_called(self, name, tmp_path):
        for settings in ({}, {"validation_split": name}):
            train, validation = self.choose(tmp_path, ["training", name], **settings)
            assert [Path(video.name).name for video in train] == ["0cat.mp4", "0dog.mp4"]
            assert [Path(video.name).name for video in validation] == ["1cat.mp4", "1dog.mp4"]

    def test_videos_in_no_split_in_use_are_counted(self, tmp_path, caplog):
        self.choose(tmp_path, ["train", "val", "test"])
        assert "neither for training" not in caplog.text
        self.choose(tmp_path, ["train", "val", "vall", "", ""])
        assert "neither for training nor for validation: 2 in 'vall', 4 in no split" in caplog.text
