"""What stands between the options and a training: data, splits, the folder, the settings, all without a step."""

import math
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from finetuning import TINY, read_table, save_data_set, save_model, training_arguments

from timesformer_hf import ClipAugmentation, TimesformerConfig, TimesformerForVideoClassification
from timesformer_hf.data.clip_dataset import SkippedClips
from timesformer_hf.scale.shards import write_shards
from timesformer_hf.training.adapters import add_lora
from timesformer_hf.training.arguments import DataArguments, ModelArguments
from timesformer_hf.training.callbacks import UnreadableClipsCallback, UnreadableClipsError
from timesformer_hf.training.curves import plot_training_curves, read_curves
from timesformer_hf.training.finetune import (
    adjust,
    check_extras,
    load_data,
    read_overrides,
    restrict_training,
    start_reports,
)
from timesformer_hf.training.folder import check_same_model, find_checkpoint, write_splits
from timesformer_hf.training.start import start_from_checkpoint


@pytest.fixture
def training(tmp_path):
    return training_arguments(tmp_path / "out")


@pytest.fixture
def checkpoint(model, tmp_path) -> str:
    """The config of a training's checkpoint, which is what is compared."""
    started, _, _ = start_from_checkpoint(model, ["dog", "cat"])
    started.config.save_pretrained(tmp_path / "checkpoint-3")
    return str(tmp_path / "checkpoint-3")


def splits(folder: Path, data: Path) -> Path:
    """8 clips to train with, and 6 to validate with, of which 2 are the same."""
    for split, numbers in (("train", range(8)), ("validation", range(6, 12))):
        for number in numbers:
            name = f"{('cat', 'dog')[number % 2]}/{number}.mp4"
            (folder / split / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data / name, folder / split / name)
    return folder


class TestData:
    def test_given_splits_are_used_and_clips_in_both_are_reported(self, data, training, tmp_path, caplog):
        loaded = load_data(DataArguments(str(splits(tmp_path / "data", data))), training)
        assert {Path(video.name).name for video in loaded.train} == {f"{number}.mp4" for number in range(8)}
        assert {Path(video.name).name for video in loaded.validation} == {f"{number}.mp4" for number in range(6, 12)}
        assert re.search("2 .*videos .*also train", caplog.text)

    def test_a_set_of_its_own_to_validate_with_leaves_all_others_for_training(self, data, training, tmp_path):
        validation = splits(tmp_path / "data", data) / "validation"
        loaded = load_data(DataArguments(str(data), validation_data=str(validation)), training)
        assert (len(loaded.train), len(loaded.validation)) == (12, 6)

    def test_labels_to_validate_with_must_be_known(self, data, training, tmp_path):
        shutil.copytree(data, tmp_path / "validation")
        (tmp_path / "validation" / "dog").rename(tmp_path / "validation" / "eel")
        with pytest.raises(ValueError, match="labels that are not among the 2 given names: eel"):
            load_data(DataArguments(str(data), validation_data=str(tmp_path / "validation")), training)

    def test_labels_to_validate_with_must_be_trained(self, data, training, tmp_path):
        shutil.copytree(data, tmp_path / "data" / "train")
        shutil.copytree(data, tmp_path / "data" / "validation")
        (tmp_path / "data" / "validation" / "dog").rename(tmp_path / "data" / "validation" / "eel")
        with pytest.raises(ValueError, match="No training video has the label eel"):
            load_data(DataArguments(str(tmp_path / "data")), training)

    def test_something_to_validate_with_must_have_a_label(self, data, training, tmp_path):
        videos = sorted(map(str, data.rglob("*.mp4")))
        rows = [f"{path},{('cat', 'cat|dog')[number % 2]},train" for number, path in enumerate(videos[:10])]
        rows += [f"{path},,validation" for path in videos[10:]]
        (tmp_path / "videos.csv").write_text("\n".join(["path,label,split", *rows]))
        with pytest.raises(ValueError, match=r"validat.* has a label"):
            load_data(DataArguments(str(tmp_path / "videos.csv"), multi_label=True), training)

    def test_a_stream_needs_a_number_of_steps(self, data, training, tmp_path):
        save_data_set(data, tmp_path / "set")
        with pytest.raises(ValueError, match=r"--streaming needs --max_steps: .*set doesn't say how many videos"):
            load_data(DataArguments(str(tmp_path / "set"), streaming=True), training)

    @pytest.mark.parametrize(("batch", "epochs"), [(8, 3), (3, 1.5)])
    def test_shards_say_how_many_steps_there_are(self, batch, epochs, data, training, tmp_path):
        pytest.importorskip("datasets")
        count = write_shards(data, tmp_path / "shards", validation_share=0.3).videos["train"]
        training.num_train_epochs, training.per_device_train_batch_size = epochs, batch
        load_data(DataArguments(str(tmp_path / "shards"), streaming=True), training)
        assert training.max_steps == math.ceil(epochs * count / batch)


class TestFolder:
    @pytest.mark.parametrize("name", ["README.md", "results.json"])
    def test_a_folder_of_something_else_is_left_alone(self, name, tmp_path):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ValueError, match=f"holds {name} of something else"):
            find_checkpoint(training_arguments(tmp_path), "videos")

    @pytest.mark.parametrize("folder", [".", "out", "cat/out"])
    def test_the_output_does_not_lie_among_the_data(self, folder, data):
        for named in ((str(data), None), ("videos.csv", str(data))):
            with pytest.raises(ValueError, match=f"lies in {data}, where it would be taken for a class"):
                find_checkpoint(training_arguments(data / folder), *named)

    def test_resuming_where_nothing_is_begins(self, tmp_path):
        assert find_checkpoint(training_arguments(tmp_path / "out", resume=True), "videos") is None

    def test_other_data_than_a_training_began_with_are_refused(self, data, training, tmp_path):
        first, other = (load_data(DataArguments(str(data), split_seed=seed), training) for seed in (0, 1))
        path = tmp_path / "_split.csv"
        write_splits({"train": first.train, "validation": first.validation}, path, resumed=False)
        rows = read_table(path)
        write_splits({"train": first.train, "validation": first.validation}, path, resumed=True)
        with pytest.raises(ValueError, match="The data are not those that this training began with"):
            write_splits({"train": other.train, "validation": other.validation}, path, resumed=True)
        assert read_table(path) == rows

    def test_a_name_that_is_no_text_is_refused(self, data, training, model, tmp_path):
        folder = shutil.copytree(data, tmp_path / "data")
        (folder / "cat" / "4.mp4").rename(folder / "cat" / os.fsdecode(b"\xff.mp4"))
        loaded = load_data(DataArguments(str(folder)), training)
        with pytest.raises(ValueError, match=r"/cat/\\udcff.mp4' of a file or folder is .* in UTF-8; rename it"):
            start_reports(loaded, training, start_from_checkpoint(model, ["cat", "dog"]), resumed=False)

    @pytest.mark.parametrize("adapters", [False, True])
    @pytest.mark.parametrize(
        ("labels", "settings", "difference"),
        [
            (["cat", "dog"], {}, "id2label: {'0': 'dog', '1': 'cat'}, now {'0': 'cat', '1': 'dog'}"),
            (["dog", "cat"], {"num_frames": 6}, "num_frames: 4, now 6"),
            (["dog", "cat"], {"image_size": (32, 48)}, "image_size: 32, now [32, 48]"),
            (
                ["dog", "cat"],
                {"attention_type": "joint_space_time"},
                "attention_type: divided_space_time, now joint_space_time",
            ),
        ],
    )
    def test_another_model_does_not_go_on(self, adapters, labels, settings, difference, checkpoint, tmp_path):
        other, _, _ = start_from_checkpoint(save_model(tmp_path / "other", labels), labels, **settings)
        if adapters:
            pytest.importorskip("peft")
            other = add_lora(other, 2)
        with pytest.raises(ValueError, match="is of another model than this command starts with:\n") as caught:
            check_same_model(other, checkpoint)
        assert str(caught.value).count(", now ") == 1
        assert difference in str(caught.value)

    def test_the_same_model_goes_on_with_another_stochastic_depth(self, model, checkpoint):
        same, _, _ = start_from_checkpoint(model, ["dog", "cat"], drop_path_rate=0.2)
        check_same_model(same, checkpoint)


class TestSettings:
    def test_clips_are_not_mixed_with_themselves(self, data, training, caplog):
        loaded, warning = load_data(DataArguments(str(data)), training), "none with --per_device_train_batch_size 1"
        training.per_device_train_batch_size = 1
        adjust(training, loaded, ClipAugmentation())
        assert warning not in caplog.text
        adjust(training, loaded, ClipAugmentation(mixup=0.8))
        assert warning in caplog.text

    def test_processes_that_do_not_know_of_each_other_are_refused(self, data, training, monkeypatch):
        loaded = load_data(DataArguments(str(data)), training)
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ValueError, match="2 processes were started, but each would train alone"):
            adjust(training, loaded, ClipAugmentation())

    def test_overrides_are_names_and_values(self):
        config = TimesformerConfig()
        assert read_overrides(None, config) == {}
        found = read_overrides("image_size=[32,48],hidden_act=relu,qkv_bias=false", config)
        assert found == {"image_size": [32, 48], "hidden_act": "relu", "qkv_bias": False}

    def test_adapters_need_the_model_that_they_are_for(self):
        model = TimesformerForVideoClassification(TimesformerConfig(**TINY))
        with pytest.raises(ValueError, match="exclude each other"):
            restrict_training(ModelArguments(model="base", lora_rank=2, freeze="backbone"), model)
        with pytest.raises(ValueError, match="--merge_lora false needs --model"):
            restrict_training(ModelArguments(lora_rank=2, merge_lora=False), model)

    def test_all_missing_packages_are_named_at_once(self, training, monkeypatch):
        for name in ("matplotlib", "peft", "tensorboard", "tensorboardX"):
            monkeypatch.setitem(sys.modules, name, None)
        training.report_to = ["tensorboard"]
        message = r'finetune needs matplotlib, peft, tensorboard, not installed: pip install "timesformer_hf\[train\]"'
        with pytest.raises(ImportError, match=message):
            check_extras(ModelArguments(lora_rank=2), training)


def test_too_many_unreadable_clips_stop_the_training(tmp_path):
    skipped = SkippedClips(tmp_path / "_skipped_clips.csv")
    callback = UnreadableClipsCallback(skipped, 1)
    skipped.add("a.mp4", "a.mp4: can't be decoded")
    callback.on_step_end()
    skipped.add("b.mp4", "it is truncated")
    with pytest.raises(UnreadableClipsError) as caught:
        callback.on_step_end()
    message = str(caught.value)
    assert "Clips that can't be read: 2; allowed are 1" in message
    assert "\n  a.mp4: can't be decoded\n  b.mp4: it is truncated" in message
    assert "_skipped_clips.csv lists them" in message


def test_the_curves_are_the_numbers_of_the_log(tmp_path):
    pytest.importorskip("matplotlib")
    log = [{"step": 1, "loss": 2.0, "learning_rate": 0.1}, {"step": 2, "eval_accuracy": 0.5}, {"step": 3, "loss": 1.0}]
    log.append({"step": 3, "train_loss": 1.5})
    assert read_curves(log) == {
        "loss": ([1, 3], [2.0, 1.0]),
        "learning_rate": ([1], [0.1]),
        "eval_accuracy": ([2], [0.5]),
    }
    plot_training_curves(tmp_path / "c.png", log)
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_training_curves(tmp_path / "d.png", [{"step": 1, "train_loss": 1.5}])
