"""The options of `timesformer-hf finetune`: where their values come from, and what is said to wrong ones."""

import json
import re

import pytest
import torch
from finetuning import QUICK, flags, run

from timesformer_hf import RECIPES
from timesformer_hf.cli import main
from timesformer_hf.commands.finetune import parse_arguments


pytest.importorskip("datasets")
pytest.importorskip("matplotlib")


def parse(*words) -> tuple:
    return parse_arguments(list(map(str, words)))


class TestValues:
    def test_the_command_line_stands_above_the_file_and_that_above_the_recipe(self, tmp_path):
        settings = tmp_path / "settings.yaml"
        settings.write_text(
            "data: videos\nmodel: base\nrecipe: paper-kinetics\noutput_dir: out\nflip: 0.25\nweight_decay: 1e-3\n"
        )
        model, data, augmentation, training = parse(settings, "--flip", 0.75, "--use_cpu")
        assert (model.recipe, model.model, data.data) == ("paper-kinetics", "base", "videos")
        assert augmentation.flip == 0.75  # the flag's
        assert training.weight_decay == 1e-3  # the file's, though YAML takes it for text
        assert training.num_train_epochs == 15  # the recipe's
        assert training.eval_strategy == "epoch"  # the command's own default
        (tmp_path / "settings.json").write_text(
            json.dumps({"data": "videos", "output_dir": "out", "jitter": [1.0, 1.5]})
        )
        model, _, augmentation, training = parse(tmp_path / "settings.json", "--use_cpu")
        assert model.recipe == "scratch"
        assert augmentation.jitter == [1.0, 1.5]

    def test_values_of_a_file_are_those_of_the_command_line(self, tmp_path):
        lines = ["image_size: 64", "freeze: 1", "save_strategy: no", "bf16: false", "reset_head: 'yes'", "model: null"]
        lines += ["lr_drops: [0.5, 0.75]", "lr_scheduler_kwargs: {num_cycles: 2}", "output_dir: -3", "data: 2024"]
        (tmp_path / "settings.yaml").write_text("\n".join(lines))
        words = ["--image_size", 64, "--freeze", 1, "--save_strategy", "no", "--bf16", False, "--reset_head", "yes"]
        words += ["--lr_drops", 0.5, 0.75, "--lr_scheduler_kwargs", '{"num_cycles": 2}', "--output_dir=-3"]
        found = parse(tmp_path / "settings.yaml", "--use_cpu")
        expected = parse(*words, "--data", 2024, "--use_cpu")
        assert [vars(part) for part in found[:3]] == [vars(part) for part in expected[:3]]
        assert found[3].to_dict() == expected[3].to_dict()
        assert (found[0].image_size, found[0].freeze, found[0].model) == ([64], "1", None)

    def test_the_learning_rate_follows_the_batch(self):
        common = ("--data", "d", "--output_dir", "o", "--use_cpu", "--recipe")
        batch = ("--per_device_train_batch_size", 16)
        training = parse(*common, "paper-kinetics", *batch, "--gradient_accumulation_steps", 2)[3]
        assert training.learning_rate == pytest.approx(0.005 * 32 / 64)
        training = parse(*common, "modern", *batch)[3]
        assert training.learning_rate == pytest.approx(5e-4 * (16 / 256) ** 0.5)
        assert parse(*common, "modern", "--learning_rate", 0.3)[3].learning_rate == 0.3

    @pytest.mark.parametrize("name", RECIPES)
    def test_every_default_of_a_recipe_is_an_option(self, name):
        parsed = parse("--data", "d", "--output_dir", "o", "--use_cpu", "--recipe", name)
        for argument, value in RECIPES[name].defaults.items():
            (found,) = [getattr(part, argument) for part in parsed if hasattr(part, argument)]
            assert getattr(found, "value", found) == value

    def test_help_begins_with_examples_and_has_the_defaults_of_the_recipe(self, capsys):
        with pytest.raises(SystemExit) as exit_info:
            main(["finetune", "--recipe", "modern", "--help"])
        assert exit_info.value.code == 0
        shown = capsys.readouterr().out
        usage, examples, *_ = shown.split("\n\n")
        assert usage.startswith("usage: timesformer-hf finetune [SETTINGS.yaml]")
        assert examples.startswith("examples:\n  timesformer-hf finetune --data videos/")
        assert re.search(r"--mixup MIXUP +Parameter of mixup. \(default: 0.8\)", shown)
        assert "--lora_rank" in shown


class TestMistakes:
    @pytest.mark.parametrize("text", ["frame_sampling_rate: 2.5", "num_train_epochs: many"])
    def test_wrong_types_in_a_file_are_told_as_on_the_command_line(self, text, tmp_path, capsys):
        (tmp_path / "settings.yaml").write_text(f"data: videos\noutput_dir: out\n{text}\n")
        with pytest.raises(SystemExit) as exit_info:
            main(["finetune", str(tmp_path / "settings.yaml")])
        assert exit_info.value.code == 2
        name, value = text.split(": ")
        message = rf"timesformer-hf finetune: error: argument --{name}.*: invalid \w+ value: '{value}'"
        assert re.search(message, capsys.readouterr().err)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("flop: 1\n", "there is no option 'flop'; is it flip?"),
            ("- 1\n", "must hold options by their names"),
            ("a: [\n", "is neither JSON nor YAML"),
            ("recipe: best\n", "recipe='best' must be one of 'paper-kinetics'"),
        ],
    )
    def test_a_file_that_is_not_one_of_settings_is_refused(self, text, message, tmp_path, capsys):
        (tmp_path / "settings.yaml").write_text(text)
        assert main(["finetune", str(tmp_path / "settings.yaml")]) == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"data": "nothing"},
                "nothing: there is no such folder or table here, and a data set on the Hub has a name",
            ),
            ({"data": "a/b/c"}, "a/b/c: there is no such folder or table here"),
            ({"data": "nobody/videos"}, "nobody/videos is neither a path here nor stored from before, and the Hub"),
            ({"model": "nothing"}, "nothing"),
            ({"model": None}, "Give --model to start from, or --config"),
            ({"config_overrides": "hidden_size=3"}, "and not both"),
            ({"validation_share": 2}, "must lie between 0 and 1"),
            ({"attention_type": "both"}, "attention_type='both' must be one of"),
            ({"frame_sampling": "center"}, "needs a frame_sampling_rate"),
            ({"mixup": -1}, "mixup=-1.0 must be 0"),
            ({"jitter": 1}, "jitter=(1.0,) must be "),
            ({"label_smoothing_factor": 1.5}, "label_smoothing_factor=1.5 must lie in [0, 1]"),
            (
                {"dataloader_drop_last": True, "per_device_train_batch_size": 100},
                "drops all of 8 clips to train with, which make no whole batch of 100",
            ),
            ({"model": None, "config_overrides": "hidden=3"}, "there is no field 'hidden' in the config"),
            ({"model": None, "config_overrides": "image_size=[32"}, "must be names and values, as hidden_size=192"),
            ({"model": None, "config_overrides": "hidden_size"}, "hidden_size"),
            ({"model": None, "config_overrides": "hidden_size=abc"}, "hidden_size"),
            ({"lr_scaling": "cubic"}, "lr_scaling='cubic' must be one of 'none', 'linear', 'sqrt'"),
            ({"streaming": True}, "--streaming needs --max_steps"),
        ],
    )
    def test_each_mistake_has_a_message_of_its_own(self, settings, message, data, model, tmp_path, capsys):
        settings = {
            name: value for name, value in ({"data": data, "model": model} | settings).items() if value is not None
        }
        assert main(["finetune", *flags(**QUICK | {"output_dir": tmp_path / "out"} | settings)]) == 2
        assert message in capsys.readouterr().err

    def test_the_message_of_too_little_memory_says_what_to_lower(self, data, model, tmp_path, capsys, monkeypatch):
        def prepare_training(*args):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        monkeypatch.setattr("timesformer_hf.training.finetune.prepare_training", prepare_training)
        run(tmp_path / "out", data, code=1, model=model)
        message = capsys.readouterr().err
        assert "out of memory with 2 clips at once (CUDA out of memory." in message
        assert "Lower --per_device_train_batch_size" in message
