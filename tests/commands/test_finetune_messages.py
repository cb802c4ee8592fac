"""What `timesformer-hf finetune` says before, while and after it trains, and what it decides by the labels' names."""

import json
import re
import shutil
import sys

import pytest
from finetuning import flags, run, words

from timesformer_hf.cli import main
from timesformer_hf.commands.finetune import parse_arguments
from timesformer_hf.training.progress import EpochLines
from timesformer_hf.training.report import TrainingReport


pytest.importorskip("datasets")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def directions(data, tmp_path):
    """The two classes of clips under other names: `moves left` and `moves right`."""
    for old, new in (("cat", "moves left"), ("dog", "moves right")):
        shutil.copytree(data / old, tmp_path / "videos" / new)
    return tmp_path / "videos"


class TestPlan:
    def test_what_is_going_to_happen_is_said(self, data, model, tmp_path, capsys):
        run(tmp_path / "out", data, model=model, num_train_epochs=3)
        errors = capsys.readouterr().err
        for line in (
            "classes:      2: cat 6, dog 6",
            "held out:     4 of 12 videos, to validate with",
            "clips:        4 frames, uniform, 32 x 32 pixels, cropped",
            r"parameters:   [\d,]+ of [\d,]+ are trained \(100.00%\)",
            r"recipe:       modern: 3 epochs of 4 steps of 2 clips, adamw_torch_fused, learning rate 4.42e-05",
            "augmentation: crops from 1 to 1.43 times the size, flips of 50% of the clips, RandAugment 2 of magnitude "
            "9, mixup 0.8, cutmix 1",
            r"device:       cpu, float32, \d+ threads?, 0 processes that decode",
            r"expected:     about \d+ s for all steps",
        ):
            assert len(re.findall(rf"^{line}$", errors, re.MULTILINE)) == 1, line

    def test_an_epoch_is_a_line_and_nothing_else_is_printed(self, data, model, tmp_path, capsys):
        run(tmp_path / "out", data, model=model, num_train_epochs=3, logging_steps=1)
        output = capsys.readouterr()
        line = r"epoch (\d) of 3, loss \d\.\d{4}, validation loss \d\.\d{4}, validation accuracy \d+\.\d\d%, \d+\.\d s"
        assert re.findall(line, output.err) == ["1", "2", "3"]
        assert "{'" not in output.out + output.err
        assert len(output.out.splitlines()) == 3
        said = [line for line in (output.out + output.err).splitlines() if not line.startswith("epoch")]
        assert len(said) == len(set(said))

    def test_evaluations_by_steps_have_a_line_each(self, data, model, tmp_path, capsys):
        run(tmp_path / "out", data, model=model, max_steps=4, eval_strategy="steps", eval_steps=2, save_strategy="no")
        assert re.findall(r"^step (\d) of 4, ", capsys.readouterr().err, re.MULTILINE) == ["2", "4"]

    def test_without_a_validation_there_are_lines_too(self, data, model, tmp_path, capsys):
        run(tmp_path / "out", data, model=model, eval_strategy="no")
        assert re.findall(r"^epoch (\d) of 2, ", capsys.readouterr().err, re.MULTILINE) == ["1", "2"]

    def test_many_classes_are_counted(self, data, tmp_path, model, capsys):
        for number, path in enumerate(sorted(data.rglob("*.mp4"))):
            folder = tmp_path / "videos" / f"class {number}"
            folder.mkdir(parents=True)
            for copy in range(2 + number % 2):  # another content, so that it is no copy
                (folder / f"{copy}.mp4").write_bytes(path.read_bytes() + bytes(copy))
        run(tmp_path / "out", tmp_path / "videos", model=model, reset_head=True, num_train_epochs=1)
        assert "classes:      12, of 2 to 3 videos each\n" in capsys.readouterr().err

    def test_a_first_video_that_is_too_short_is_said_once(self, data, model, tmp_path, capsys):
        run(tmp_path / "out", data, model=model, num_frames=8, frame_sampling_rate=12)
        errors = capsys.readouterr().err
        assert errors.count("in its clip are copies of another (frame_sampling_rate=12;") == 1


class TestFlips:
    def settings(self, out) -> dict:
        return json.loads((out / "results.json").read_text())["settings"]

    def test_labels_of_left_and_right_turn_flips_off(self, directions, model, tmp_path, capsys):
        run(tmp_path / "out", directions, model=model, reset_head=True, num_train_epochs=1)
        errors = capsys.readouterr().err
        line = (
            "flips:        none, because they would exchange 'moves left' and 'moves right'; --flip 0.5 turns them on"
        )
        assert errors.count(line) == 1
        assert ", no flips, RandAugment" in errors
        assert self.settings(tmp_path / "out")["flip"] == 0
        assert "| flip | 0 |" in (tmp_path / "out" / "README.md").read_text()

    @pytest.mark.parametrize("place", ["command line", "file"])
    def test_what_the_user_gives_wins(self, place, directions, model, tmp_path, capsys):
        first, given = [], {"flip": 0.5}
        if place == "file":
            (tmp_path / "settings.yaml").write_text("flip: 0.5\n")
            first, given = [str(tmp_path / "settings.yaml")], {}
        command, *rest = words(tmp_path / "out", directions, model=model, reset_head=True, num_train_epochs=1, **given)
        assert main([command, *first, *rest]) == 0
        assert "flips:" not in capsys.readouterr().err
        assert self.settings(tmp_path / "out")["flip"] == 0.5

    def test_other_labels_are_flipped(self, data, model, tmp_path, capsys):
        run(tmp_path / "out", data, model=model, num_train_epochs=1)
        assert "flips:" not in capsys.readouterr().err
        expected = {"flip": 0.5, "rand_augment": 2, "magnitude": 9, "mixup": 0.8, "cutmix": 1.0}
        expected["jitter"] = [1.0, 320 / 224]
        found = self.settings(tmp_path / "out")
        assert {name: found[name] for name in expected} == expected
        card = (tmp_path / "out" / "README.md").read_text()
        assert all(f"| {name} | " in card for name in expected)
        assert "| jitter | 1 to 1.429 |" in card


class TestLoss:
    def test_a_loss_that_has_hardly_moved_is_said(self, data, model, tmp_path, capsys):
        run(
            tmp_path / "out",
            data,
            model=model,
            learning_rate=0.0,
            num_train_epochs=2,
            rand_augment=0,
            mixup=0,
            cutmix=0,
        )
        errors = capsys.readouterr().err
        assert "timesformer-hf: the training loss has hardly moved, from " in errors
        assert 'docs/training.md says more, in "When something fails"' in errors

    def test_few_steps_are_said_unless_the_model_is_good(self, data, model, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(EpochLines, "has_hardly_moved", lambda self: False)
        for good in (False, True):
            monkeypatch.setattr(TrainingReport, "is_good", lambda self, good=good: good)
            run(tmp_path / str(good), data, model=model, num_train_epochs=2)
            message = (
                "timesformer-hf: 8 steps are few, as sets of few clips have. If the accuracy still rises, try 50 --ep"
            )
            assert (message in capsys.readouterr().err) is not good

    @pytest.mark.parametrize(
        ("losses", "expected"), [([], False), ([1.0], False), ([1.0, 0.96], True), ([1.0, 0.9, 0.99], False)]
    )
    def test_by_a_twentieth(self, losses, expected):
        lines = EpochLines()
        lines.losses = losses
        assert lines.has_hardly_moved() is expected


class TestOptions:
    def parse(self, *arguments):
        return parse_arguments(["--data", "d", "--output_dir", "o", "--use_cpu", *map(str, arguments)])

    def test_short_names_are_understood(self, tmp_path):
        training = self.parse("--epochs", 7, "--batch_size", 3, "--lr", 0.25)[3]
        found = training.num_train_epochs, training.per_device_train_batch_size, training.learning_rate
        assert found == (7, 3, 0.25)
        (tmp_path / "settings.yaml").write_text("data: d\noutput_dir: o\nepochs: 9\nlr: 0.5\n")
        training = parse_arguments([str(tmp_path / "settings.yaml"), "--use_cpu"])[3]
        assert (training.num_train_epochs, training.learning_rate) == (9, 0.5)

    @pytest.mark.parametrize(
        ("command", "word", "nearest"),
        [
            ("finetune", "--learning_rat_", "--learning_rate"),
            ("finetune", "--num_epochs=3", "--num_train_epochs"),
            ("evaluate", "--numworkers", "--num_workers"),
            ("classify", "--topk", "--top-k"),
            ("embed", "--levl", "--level"),
        ],
    )
    def test_a_typo_gets_the_nearest_option(self, command, word, nearest, tmp_path, capsys):
        common = {"finetune": flags(data="d", output_dir="o"), "evaluate": flags(data="d", output_dir="o", model="m")}
        common |= {"classify": ["a.mp4"], "embed": ["a.mp4", "--out", "f.parquet", "--model", "m"]}
        assert main([command, *common[command], word, "1"]) == 2
        name = word.partition("=")[0]
        assert f"timesformer-hf: there is no option {name}; is it {nearest}?" in capsys.readouterr().err

    def test_sampling_that_does_not_exist_is_refused_at_once(self, capsys):
        with pytest.raises(SystemExit):
            self.parse("--frame_sampling", "random")
        assert "invalid choice: 'random' (choose from" in capsys.readouterr().err

    def test_a_missing_extra_is_named_before_anything_else(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        monkeypatch.setitem(sys.modules, "torch", None)
        common = ["--data", "nothing", "--output_dir", str(tmp_path / "out")]
        for command, packages in (
            (["finetune", *common], "matplotlib, tensorboard"),
            (["finetune", *common, "--report_to", "none"], "matplotlib"),
            (["evaluate", *common, "--model", "nothing"], "matplotlib, pyarrow"),
        ):
            assert main(command) == 2
            message = f'{command[0]} needs {packages}, not installed: pip install "timesformer_hf[train]"\n'
            assert capsys.readouterr().err == f"timesformer-hf: {message}"


class TestNearDuplicates:
    def test_a_validation_video_that_is_a_copy_in_another_encoding_is_said(self, model, tmp_path, caplog):
        """Once, and not when the training goes on."""
        copies = pytest.importorskip("altered_copies", reason="PyAV writes the videos")
        paths = copies.write_altered_copies(tmp_path, 12)
        table = tmp_path / "data.csv"
        rows = {"original": "train", "another": "train", "encoded again": "validation"}
        lines = [f"{paths[name]},{'dog' if name == 'another' else 'cat'},{split}" for name, split in rows.items()]
        table.write_text("\n".join(["path,label,split", *lines]))
        settings = {"model": model, "save_strategy": "epoch"}
        run(tmp_path / "out", table, **settings)
        warning = f"for example {paths['encoded again']} of {paths['original']}: the accuracy will be too high"
        assert caplog.text.count(warning) == 1
        caplog.clear()
        run(tmp_path / "out", table, num_train_epochs=3, resume=True, **settings)
        assert "near-duplicates" not in caplog.text
