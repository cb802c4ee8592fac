"""`timesformer-hf finetune`, in whole runs of tiny models: from a folder of videos to a model."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from finetuning import (
    OVERRIDES,
    assert_same_weights,
    read_table,
    run,
    run_until,
    save_data_set,
    save_image_vit,
    save_model,
    weights,
)
from transformers import (
    AutoImageProcessor,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    pipeline,
)

from timesformer_hf import TimesformerConfig


pytest.importorskip("datasets")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("no_plots")


class TestWholeRuns:
    @pytest.mark.usefixtures("plots")
    def test_the_accuracy_is_that_of_the_saved_model_in_the_pipeline(self, data, tmp_path, capsys):
        base = save_model(tmp_path / "base", ["swim", "run", "jump"])
        out = tmp_path / "out"
        result = run(out, data, model=base, reset_head=True)
        shown = capsys.readouterr().out
        validation = [row for row in read_table(out / "_split.csv") if row["split"] == "validation"]
        assert sorted(row["label"] for row in validation) == ["cat", "cat", "dog", "dog"]
        classifier = pipeline("video-classification", model=str(out))
        right = sum(classifier(row["path"], top_k=1)[0]["label"] == row["label"] for row in validation)
        assert result["validation"]["accuracy"] == right / 4
        assert f"validation accuracy: {right / 4:.2%} ({right} of 4 clips)" in shown
        assert f"{out}: the model, README.md, results.json, curves.png, confusion_matrix.png\n" in shown
        assert f"try it: timesformer-hf classify CLIP.mp4 --model {out}\n" in shown
        assert result["labels"] == ["cat", "dog"]
        assert result["settings"]["recipe"] == "modern"
        for name in ("README.md", "curves.png", "confusion_matrix.png", "trainer_state.json"):
            assert (out / name).stat().st_size > 100
        card = (out / "README.md").read_text()
        assert "pipeline_tag: video-classification" in card
        assert "`cat`, `dog`" in card
        assert str(tmp_path) not in card.replace(str(base), "")
        name = "timesformer.encoder.layer.1.output.dense.weight"
        assert not torch.equal(weights(out)[name], weights(base)[name])

    def test_bright_and_dark_clips_are_told_apart(self, tmp_path):
        """Also by the paper's recipe."""
        from clips import write_video

        for number in range(16):
            frame = np.full((40, 48, 3), 40 + number + 150 * (number % 2), np.uint8)
            path = tmp_path / "data" / ("dark", "bright")[number % 2] / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, [frame] * 6)
        base = save_model(tmp_path / "base", ["dark", "bright"])
        for recipe in ("modern", "paper-kinetics"):
            settings = {"learning_rate": 1e-3 if recipe == "modern" else 0.05, "rand_augment": 0}
            out = tmp_path / recipe
            result = run(out, tmp_path / "data", model=base, recipe=recipe, num_train_epochs=6, **settings)
            assert result["validation"]["accuracy"] == 1.0, recipe

    def test_a_checkpoint_that_knows_the_labels_keeps_its_numbers_of_them(self, data, model, tmp_path):
        """And without a step all its weights."""
        run(tmp_path / "out", data, model=model, learning_rate=0.0, num_train_epochs=1)
        assert_same_weights(tmp_path / "out", model)
        config = AutoModelForVideoClassification.from_pretrained(tmp_path / "out").config
        assert config.id2label == {0: "dog", 1: "cat"}

    def test_an_image_vit_becomes_a_model_with_its_own_statistics(self, data, tmp_path):
        vit = save_image_vit(tmp_path / "vit")
        settings = {"attention_type": "sparse_local_global", "num_frames": 6, "image_size": (32, 48)}
        run(tmp_path / "out", data, model=vit, num_train_epochs=1, **settings)
        trained = AutoModelForVideoClassification.from_pretrained(tmp_path / "out")
        assert trained.config.attention_type == "sparse_local_global"
        assert trained.config.id2label == {0: "cat", 1: "dog"}
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "out")
        assert (list(processor.image_mean), list(processor.image_std)) == ([0.5] * 3, [0.4] * 3)
        assert processor(str(data / "cat/0.mp4"), return_tensors="pt").pixel_values.shape == (1, 6, 3, 32, 48)

    def test_a_new_model_starts_from_scratch(self, data, tmp_path):
        result = run(tmp_path / "out", data, config_overrides=OVERRIDES, frame_sampling_rate=2, num_train_epochs=1)
        assert result["settings"]["recipe"] == "scratch"
        assert result["model"] is None
        assert AutoVideoProcessor.from_pretrained(tmp_path / "out").frame_sampling_rate == 2
        assert "from scratch" in (tmp_path / "out" / "README.md").read_text()

    def test_several_labels_a_video_are_independent_questions(self, data, model, tmp_path, capsys):
        """Given as a table of labels between bars; the pipeline's scores are those of a sigmoid."""
        videos = sorted(data.rglob("*.mp4"))
        rows = [(path, ("cat|dog", "cat", "", "dog")[number % 4]) for number, path in enumerate(videos)]
        table = tmp_path / "videos.csv"
        table.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
        result = run(tmp_path / "out", table, model=model, class_weights=True)
        assert result["validation"].keys() == {"mean_average_precision", "label_accuracy", "loss"}
        precision = result["validation"]["mean_average_precision"]
        shown = capsys.readouterr().out
        assert f"validation mean average precision: {precision:.2%} (" in shown
        assert not (tmp_path / "out" / "confusion_matrix.png").exists()
        assert "confusion_matrix.png" not in shown
        trained = AutoModelForVideoClassification.from_pretrained(tmp_path / "out")
        assert trained.config.problem_type == "multi_label_classification"
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "out")
        assert AutoImageProcessor.from_pretrained(tmp_path / "out").crop_size == processor.crop_size
        with torch.no_grad():
            scores = trained(**processor(str(videos[0]), return_tensors="pt")).logits[0].sigmoid()
        found = {
            row["label"]: row["score"]
            for row in pipeline("video-classification", model=str(tmp_path / "out"))(str(videos[0]))
        }
        assert found == pytest.approx({trained.config.id2label[i]: scores[i].item() for i in range(2)}, abs=1e-6)

    def test_a_stream_is_trained_for_a_number_of_steps(self, data, model, tmp_path, monkeypatch):
        monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
        save_data_set(data, tmp_path / "set")
        settings = {"model": model, "streaming": True, "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "no"}
        result = run(tmp_path / "out", tmp_path / "set", max_steps=6, **settings)
        assert 0 <= result["validation"]["accuracy"] <= 1

    def test_a_stream_of_several_labels_must_be_told(self, data, model, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
        datasets = pytest.importorskip("datasets")
        paths = [str(path) for path in sorted(data.rglob("*.mp4"))[:4]]
        rows = {"video": paths, "labels": [["cat", "dog"], ["cat"], [], ["dog"]]}
        (tmp_path / "set").mkdir()
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "set" / "train.parquet")
        (tmp_path / "labels.txt").write_text("cat\ndog\n")
        settings = {"model": model, "streaming": True, "labels": tmp_path / "labels.txt", "max_steps": 2}
        settings |= {"eval_strategy": "no", "save_strategy": "no", "logging_steps": 1}
        run(tmp_path / "one", tmp_path / "set", code=2, **settings)
        assert re.search(r"\.mp4 in .*set has (no label|2 labels, cat, dog); one is exp", capsys.readouterr().err)
        run(tmp_path / "several", tmp_path / "set", multi_label=True, **settings)
        config = TimesformerConfig.from_pretrained(tmp_path / "several")
        assert config.problem_type == "multi_label_classification"

    def test_bf16_checkpointing_and_accumulation_go_together(self, data, model, tmp_path):
        settings = {"bf16": True, "gradient_checkpointing": True, "gradient_accumulation_steps": 2}
        result = run(tmp_path / "out", data, model=model, **settings)
        assert result["settings"]["total_batch_size"] == 4
        assert result["settings"]["steps"] == 4

    def test_accumulated_batches_are_one_batch(self, data, model, tmp_path):
        """4 clips at once, or 2 and 2, give the same step."""
        settings = {"model": model, "recipe": "paper-kinetics", "drop_path_rate": 0, "learning_rate": 0.1}
        settings["num_train_epochs"] = 1
        run(tmp_path / "at_once", data, per_device_train_batch_size=4, **settings)
        run(tmp_path / "in_parts", data, per_device_train_batch_size=2, gradient_accumulation_steps=2, **settings)
        ours, theirs = weights(tmp_path / "at_once"), weights(tmp_path / "in_parts")
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)
        assert not all(torch.allclose(ours[name], tensor, atol=1e-5) for name, tensor in weights(model).items())

    def test_the_last_two_checkpoints_are_kept(self, data, model, tmp_path):
        """Not the best: with a learning rate of 0 that is the first. It is kept where it is asked for."""
        settings = {"model": model, "learning_rate": 0.0, "num_train_epochs": 3}
        best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
        for name, more, steps in (("last", {}, {8, 12}), ("best", best, {4, 12})):
            run(tmp_path / name, data, **settings | more)
            kept = {path.name for path in (tmp_path / name).glob("checkpoint-*")}
            assert kept == {f"checkpoint-{step}" for step in steps}

    @pytest.mark.usefixtures("plots")
    def test_without_a_step_no_curves_are_drawn(self, data, model, tmp_path, capsys):
        run(tmp_path / "out", data, model=model, num_train_epochs=0, save_strategy="no")
        shown = capsys.readouterr().out
        assert "validation accuracy: " in shown
        assert "the model, README.md, results.json, confusion_matrix.png\n" in shown

    def test_a_missing_package_is_named_before_the_training(self, data, model, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        run(tmp_path / "out", data, code=2, model=model)
        message = 'finetune needs matplotlib, not installed: pip install "timesformer_hf[train]"'
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_torch_compile_leaves_the_names_of_the_weights(self, data, model, tmp_path):
        run(tmp_path / "out", data, model=model, torch_compile=True)
        assert weights(tmp_path / "out").keys() == weights(model).keys()


class TestAdaptersAndFreezing:
    def test_lora_trains_only_adapters_and_head(self, data, model, tmp_path):
        """The merged model gives what the adapters on the base give."""
        peft = pytest.importorskip("peft")
        out = tmp_path / "out"
        run(out, data, model=model, lora_rank=2, learning_rate=0.01)
        changed = {name for name, tensor in weights(out).items() if not torch.equal(tensor, weights(model)[name])}
        assert changed
        assert all(name.endswith(("qkv.weight", "dense.weight")) for name in changed if "classifier" not in name)
        assert {name.split(".")[-2] for name in changed} == {"qkv", "dense", "temporal_dense", "classifier"}
        merged = AutoModelForVideoClassification.from_pretrained(out).eval()
        base = AutoModelForVideoClassification.from_pretrained(model)
        adapted = peft.PeftModel.from_pretrained(base, out / "adapter").eval()
        clip = torch.randn(2, 4, 3, 32, 32)
        assert torch.allclose(merged(clip).logits, adapted(clip).logits, atol=1e-5)
        cards = list(out.rglob("*.md"))  # PEFT's own would name the folder of the base model
        assert cards == [out / "README.md"]
        assert str(model.parent) not in cards[0].read_text()

    def test_lora_goes_on_exactly(self, data, model, tmp_path):
        settings = {"model": model, "lora_rank": 2, "save_strategy": "steps", "save_steps": 3, "learning_rate": 0.01}
        run(tmp_path / "whole", data, **settings)
        run_until(tmp_path / "broken", data, 5, **settings)
        run(tmp_path / "broken", data, resume=True, **settings)
        assert_same_weights(tmp_path / "broken", tmp_path / "whole")

    @pytest.mark.parametrize("settings", [{}, {"reset_head": True, "num_frames": 6, "image_size": (32, 48)}])
    def test_adapters_alone_make_the_merged_model_as_the_card_says(self, settings, data, model, tmp_path, capsys):
        settings = {"model": model, "lora_rank": 2, "learning_rate": 0.01, "num_train_epochs": 1} | settings
        run(tmp_path / "merged", data, **settings)
        assert "the model, README.md, results.json\n" in capsys.readouterr().out
        out = tmp_path / "out"
        run(out, data, merge_lora=False, **settings)
        shown = capsys.readouterr().out
        assert f"{out}: adapters of {model}, README.md, results.json; README.md shows how they are used" in shown
        assert "timesformer-hf classify" not in shown
        assert (out / "adapter_model.safetensors").exists()
        assert not (out / "model.safetensors").exists()
        code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL).group(1)
        found = {}
        # the card names folders without their place
        names = {f'"{path.name}"': repr(str(path)) for path in (out, model)}
        for name, path in names.items():
            code = code.replace(name, path)
        exec(code.split("model(")[0], found)
        merged = AutoModelForVideoClassification.from_pretrained(tmp_path / "merged").eval()
        clip = found["processor"](str(data / "cat/0.mp4"), return_tensors="pt")
        assert torch.allclose(found["model"](**clip).logits, merged(**clip).logits, atol=1e-5)
        assert found["model"].config.id2label == merged.config.id2label

    def test_frozen_weights_stay_and_the_others_are_counted(self, data, model, tmp_path, capsys):
        run(tmp_path / "out", data, model=model, freeze="1", learning_rate=0.01, num_train_epochs=1)
        before, after = weights(model), weights(tmp_path / "out")
        kept = {name for name in before if torch.equal(before[name], after[name])}
        frozen = ("timesformer.embeddings.", "timesformer.encoder.layer.0.")
        assert kept == {name for name in before if name.startswith(frozen)}
        total, trained = (sum(before[name].numel() for name in names) for names in (before, before.keys() - kept))
        message = f"parameters:   {trained:,} of {total:,} are trained ({trained / total:.2%})\n"
        assert message in capsys.readouterr().err


class TestUnreadableClips:
    @pytest.fixture
    def broken(self, data, tmp_path):
        """One clip in twelve is cut off."""
        shutil.copytree(data, tmp_path / "data")
        path = tmp_path / "data" / "cat" / "4.mp4"
        path.write_bytes(path.read_bytes()[:1000])
        return tmp_path / "data"

    def test_they_are_skipped_and_named(self, broken, model, tmp_path, capsys):
        result = run(tmp_path / "out", broken, model=model, num_train_epochs=1)
        (row,) = read_table(tmp_path / "out" / "_skipped_clips.csv")
        assert row["video"] == str(broken / "cat" / "4.mp4")
        assert "truncated" in row["reason"]
        assert result["unreadable_clips"] == 1
        assert "clips that couldn't be read: 1" in capsys.readouterr().out

    def test_strict_stops_at_the_first(self, broken, model, tmp_path, capsys):
        run(tmp_path / "out", broken, code=2, model=model, strict=True)
        assert "Clips that can't be read: 1; allowed are 0" in capsys.readouterr().err

    def test_repaired_clips_no_longer_count(self, broken, data, model, tmp_path):
        """A training that goes on knows the clips that it couldn't read, but not those that were repaired."""
        settings = {"model": model, "max_unreadable": 0.2, "save_strategy": "steps", "save_steps": 3}
        run_until(tmp_path / "out", broken, 7, **settings)
        run_until(tmp_path / "out", broken, 6, resume=True, **settings)
        rows = read_table(tmp_path / "out" / "_skipped_clips.csv")
        assert [row["video"] for row in rows] == [str(broken / "cat" / "4.mp4")]
        shutil.copy(data / "cat" / "4.mp4", broken / "cat" / "4.mp4")
        result = run(tmp_path / "out", broken, resume=True, strict=True, **settings)
        assert result["unreadable_clips"] == 0

    def test_repaired_clips_of_several_labels_no_longer_count(self, broken, data, tmp_path):
        """Of a model that knows more labels than the data have."""
        model = save_model(tmp_path / "base", ["bird", "dog", "cat"])
        rows = [f"{path},{path.parent.name}|dog".replace("dog|dog", "dog") for path in sorted(broken.rglob("*.mp4"))]
        (tmp_path / "videos.csv").write_text("\n".join(["path,label", *rows]))
        settings = {"model": model, "max_unreadable": 0.2, "save_strategy": "steps", "save_steps": 3}
        run_until(tmp_path / "out", tmp_path / "videos.csv", 7, **settings)
        shutil.copy(data / "cat" / "4.mp4", broken / "cat" / "4.mp4")
        result = run(tmp_path / "out", tmp_path / "videos.csv", resume=True, strict=True, **settings)
        assert result["unreadable_clips"] == 0

    def test_a_step_with_an_unreadable_clip_is_the_step_on_the_others(self, data, model, tmp_path):
        videos = [(path, path.parent.name) for path in sorted(data.rglob("*.mp4"))]
        (tmp_path / "broken.mp4").write_text("no video")
        settings = {"model": model, "recipe": "paper-kinetics", "learning_rate": 0.1, "num_train_epochs": 1}
        settings |= {"per_device_train_batch_size": 16, "drop_path_rate": 0}
        for name, broken in (("with", [(tmp_path / "broken.mp4", "cat")]), ("without", [])):
            rows = [f"{path},{label},train" for path, label in videos[:-2] + broken]
            rows += [f"{path},{label},validation" for path, label in videos[-2:]]
            (tmp_path / f"{name}.csv").write_text("\n".join(["path,label,split", *rows]))
            run(tmp_path / name, tmp_path / f"{name}.csv", **settings)
        ours, theirs = weights(tmp_path / "with"), weights(tmp_path / "without")
        for name, tensor in weights(model).items():
            assert torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-6), name
            assert not torch.equal(ours[name], tensor), name
        step = ours["classifier.weight"] - weights(model)["classifier.weight"]
        assert step.abs().max() > 1e-3

    def test_validation_counts_them_neither_right_nor_wrong(self, broken, model, tmp_path):
        (tmp_path / "validation").mkdir()
        for number in (0, 1, 4):
            name = f"{('cat', 'dog')[number % 2]}/{number}.mp4"
            (tmp_path / "validation" / name).parent.mkdir(exist_ok=True)
            shutil.move(broken / name, tmp_path / "validation" / name)
        settings = {"model": model, "validation_data": tmp_path / "validation", "per_device_eval_batch_size": 1}
        result = run(tmp_path / "out", broken, **settings)
        assert result["validation"]["accuracy"] in (0, 0.5, 1)
        trained = AutoModelForVideoClassification.from_pretrained(tmp_path / "out")
        processor = AutoVideoProcessor.from_pretrained(tmp_path / "out")
        losses = []
        for name, label in (("dog/1.mp4", 0), ("cat/0.mp4", 1)):
            clip = processor(str(tmp_path / "validation" / name), return_tensors="pt")
            with torch.no_grad():
                losses.append(trained(**clip, labels=torch.tensor([label])).loss.item())
        assert result["validation"]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)

    def test_without_a_readable_clip_there_is_no_validation(self, broken, model, tmp_path, capsys):
        for label in ("cat", "dog"):
            (tmp_path / "validation" / label).mkdir(parents=True)
            (tmp_path / "validation" / label / "0.mp4").write_text("no video")
        settings = {"validation_data": tmp_path / "validation", "max_unreadable": 0.9, "num_train_epochs": 0}
        run(tmp_path / "out", broken, code=2, model=model, **settings)
        message = capsys.readouterr().err
        assert "None of the 2 clips to validate with can be read; " in message
        assert "_skipped_clips.csv says why" in message

    def test_without_a_label_to_validate_with_there_is_no_average_precision(self, data, model, tmp_path):
        """As where the clips with labels can't be read."""
        videos = sorted(map(str, data.rglob("*.mp4")))
        (tmp_path / "broken.mp4").write_text("no video")
        rows = [f"{path},{('cat', 'cat|dog')[number % 2]},train" for number, path in enumerate(videos[:10])]
        rows += [f"{path},,validation" for path in videos[10:]] + [f"{tmp_path / 'broken.mp4'},cat,validation"]
        (tmp_path / "videos.csv").write_text("\n".join(["path,label,split", *rows]))
        result = run(tmp_path / "out", tmp_path / "videos.csv", model=model, multi_label=True, num_train_epochs=0)
        assert result["validation"].keys() == {"label_accuracy", "loss"}


def test_the_hub_gets_the_model_and_its_card_and_no_file_that_names_files_here(data, model, tmp_path, monkeypatch):
    from huggingface_hub import HfApi, RepoUrl

    calls = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, **kwargs: RepoUrl(f"https://huggingface.co/{repo}"))

    def upload_folder(self, **kwargs):
        folder, ignored = Path(kwargs["folder_path"]), kwargs["ignore_patterns"]
        calls.append({path.name: path for path in folder.iterdir() if not any(map(path.match, ignored))})

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    settings = {"push_to_hub": True, "hub_model_id": "me/cats", "hub_strategy": "end"}
    run(tmp_path / "out", data, model=model, num_train_epochs=1, **settings)
    (uploaded,) = calls
    assert {"README.md", "config.json", "model.safetensors", "video_preprocessor_config.json"} <= uploaded.keys()
    assert not any(name.startswith(("_", "checkpoint-")) for name in uploaded)
    card = uploaded["README.md"].read_text()
    assert "# me/cats" in card
    assert "accuracy" in card
    assert 'pipeline("video-classification", model="me/cats")' in card
