"""examples/finetune.py and examples/finetune_accelerate.py, on tiny data."""

import shutil
from pathlib import Path

import pytest
import torch
from finetuning import flags, load_example, weights
from transformers import pipeline

from timesformer_hf import choose_splits, read_labelled_videos, start_from_checkpoint


def test_finetune_saves_a_model_that_is_as_good_as_it_says(data, model, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    settings = {"data": data, "model": model, "output_dir": out, "epochs": 1, "batch_size": 4, "num_workers": 0}
    accuracy = load_example("finetune").main(flags(**settings))
    _, validation = choose_splits(read_labelled_videos(data))
    classifier = pipeline("video-classification", model=str(out))
    right = [classifier(video.name, top_k=1)[0]["label"] == video.labels[0] for video in validation]
    assert accuracy == sum(right) / len(right)
    assert (out / "curves.png").stat().st_size > 100


class TestAccelerate:
    def test_the_saved_model_is_as_good_as_it_says(self, data, model, tmp_path):
        example = load_example("finetune_accelerate")
        out = tmp_path / "out"
        settings = {"epochs": 2, "batch_size": 2, "num_workers": 0, "validation_share": 0.34}
        accuracy = example.main(flags(data=data, model=model, output_dir=out, **settings))
        _, validation = choose_splits(read_labelled_videos(data), 0.34)
        classifier = pipeline("video-classification", model=str(out))
        right = [classifier(video.name, top_k=1)[0]["label"] == video.labels[0] for video in validation]
        assert accuracy == sum(right) / len(right)
        assert not torch.equal(weights(out)["classifier.weight"], weights(model)["classifier.weight"])

    def test_what_is_to_be_tested_or_validated_with_is_not_trained(self, data, model, tmp_path):
        split_of = ["train"] * 6 + ["validation"] * 2 + ["test"] * 4
        for number, split in enumerate(split_of):
            name = f"{('cat', 'dog')[number % 2]}/{number}.mp4"
            (tmp_path / "data" / split / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data / name, tmp_path / "data" / split / name)
        example = load_example("finetune_accelerate")
        args = example.parse_arguments(flags(data=tmp_path / "data", model=model, output_dir=tmp_path / "out"))
        _, processor, label2id = start_from_checkpoint(model, ["cat", "dog"])
        loaders = example.make_loaders(args, read_labelled_videos(args.data), processor, label2id)
        for loader, split in zip(loaders, ("train", "validation"), strict=False):
            found = {Path(video.name).name for video in loader.dataset.videos}
            assert found == {f"{number}.mp4" for number in range(12) if split_of[number] == split}

    def test_several_labels_and_unreadable_clips_are_not_trained_to_the_end(self, data, model, tmp_path):
        example = load_example("finetune_accelerate")
        videos = [(path, path.parent.name) for path in sorted(data.rglob("*.mp4"))]
        (tmp_path / "videos.csv").write_text("path,label\n" + "".join(f"{path},cat|dog\n" for path, _ in videos))
        settings = {"model": model, "epochs": 1, "num_workers": 0, "output_dir": tmp_path / "out"}
        with pytest.raises(ValueError, match="has 2 labels, cat, dog; one is expected"):
            example.main(flags(data=tmp_path / "videos.csv", **settings))
        for path, label in videos:
            (tmp_path / "broken" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "broken" / label / path.name).write_text(f"no video {path}")
        with pytest.raises(ValueError, match="None of the clips to validate with can be read"):
            example.main(flags(data=tmp_path / "broken", **settings))
        assert not (tmp_path / "out" / "config.json").exists()
