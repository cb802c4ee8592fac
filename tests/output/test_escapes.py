"""What strangers write into names, labels and errors: it is shown, and nothing else happens."""

import io
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from clips import moving_pattern, write_video
from huggingface_hub import ModelCard
from tiny_models import ORIGINAL, TINY, make_model

from timesformer_hf import TimesformerConfig, TimesformerVideoProcessor
from timesformer_hf.checkpoints.conversion import convert
from timesformer_hf.checkpoints.model_card import find_licence
from timesformer_hf.cli import main
from timesformer_hf.commands.common import escaped_output, to_json
from timesformer_hf.data.labelled_videos import check_text
from timesformer_hf.output.model_cards import code_span, public_name
from timesformer_hf.training.card import TrainingCard
from timesformer_hf.training.report import to_text
from timesformer_hf.video.printable import printable


ODD_LABELS = {0: "\x1b[2Jrun", 1: "a\nb", 2: "`rm`", 3: "x|y", 4: "\u202etxt"}
ODD_NAME = b"\xff\x1b[31m\n\xe4.mp4"


class TestPrintable:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("a b.mp4", "a b.mp4"),
            ("Bär 熊 🐻", "Bär 熊 🐻"),
            ("\x1b[2J", r"\x1b[2J"),
            ("a\nb\r\t", r"a\nb\r\t"),
            (os.fsdecode(b"\xff.mp4"), r"\xff.mp4"),
            ("\ud800", r"\ud800"),
            ("\u202e\u2066\x9b", r"\u202e\u2066\x9b"),
            ("\0", r"\x00"),
        ],
    )
    def test_one_line_without_control(self, text, shown):
        assert printable(text) == shown
        assert printable(text).isprintable()
        printable(text).encode()

    def test_kept_characters(self):
        assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


class TestStreams:
    @pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "Bär"), ("ascii", r"B\xe4r"), ("latin-1", "Bär")])
    def test_any_encoding(self, encoding, shown, monkeypatch):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        with escaped_output():
            print("\x1b[31mBär\udcff")
            sys.stdout.writelines(["a\n", "b\x07\n"])
            sys.stdout.flush()
        assert raw.getvalue().decode(encoding) == f"\\x1b[31m{shown}\\xff\na\nb\\x07\n"

    @pytest.mark.parametrize(
        "words",
        [
            "info ODD",
            "convert ODD ODD",
            "cost --model ODD",
            "export ODD --format torch-export",
            "classify ODD --model ODD",
            "embed ODD --out a.parquet --model ODD",
            "evaluate --model ODD --data ODD --output_dir out --use_cpu",
            "finetune --data ODD --model ODD --output_dir out --use_cpu",
            "bench --page ODD ODD.json",
            "bench --cases ODD",
            "ODD",
        ],
    )
    def test_errors_of_every_command(self, words, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        try:
            code = main([word.replace("ODD", "\x1b[2Jno") for word in words.split()])
        except SystemExit as ending:  # of the parser
            code = ending.code
        assert code == 2
        shown = capsys.readouterr()
        assert r"\x1b[2Jno" in shown.err
        assert "\x1b[2J" not in shown.out + shown.err


class TestJson:
    def test_text_that_is_not_unicode(self):
        assert json.loads(to_json({"video": os.fsdecode(b"\xff.mp4")})) == {"video": r"\xff.mp4"}
        assert json.loads(to_json([("\x1b", {"\ud800": "🐻"})])) == [["\x1b", {r"\ud800": "🐻"}]]

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
    def test_numbers_that_are_not_finite(self, number):
        with pytest.raises(ValueError, match="A number is not finite"):
            to_json({"score": [number]})


def save(folder: Path, labels: dict[int, str], broken: bool = False) -> str:
    model = make_model(id2label=labels, label2id={label: number for number, label in labels.items()})
    if broken:
        model.classifier.weight.data.fill_(3e38)  # finite, or the model would be refused; its sums are not
    model.save_pretrained(folder)
    size = TINY["image_size"]
    settings = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    TimesformerVideoProcessor(num_frames=4, **settings).save_pretrained(folder)
    return str(folder)


class TestCommands:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory) -> str:
        return save(tmp_path_factory.mktemp("model"), ODD_LABELS)

    @pytest.fixture
    def videos(self, tmp_path) -> list[str]:
        """A good video, one with an odd name, and one that is damaged and has an odd name."""
        write_video(tmp_path / "good.mp4", moving_pattern(5))
        odd = os.fsdecode(os.fsencode(tmp_path) + b"/" + ODD_NAME)
        os.link(tmp_path / "good.mp4", odd)
        damaged = os.fsdecode(os.fsencode(tmp_path) + b"/damaged" + ODD_NAME)
        Path(damaged).write_bytes(b"no video" * 100)
        return [odd, damaged, str(tmp_path / "good.mp4")]

    def test_classify(self, folder, videos, capsys):
        assert main(["classify", *videos, "--model", folder]) == 1
        output = capsys.readouterr()
        lines = output.out.splitlines()
        assert len(lines) == 12  # two videos with five labels each
        assert [Path(lines[0]).name, Path(lines[6]).name] == [r"\xff\x1b[31m\n\xe4.mp4", "good.mp4"]
        assert {line[2:].rsplit(maxsplit=1)[0].strip() for line in lines[1:6]} == {
            *(r"\x1b[2Jrun", r"a\nb", "`rm`", "x|y", r"\u202etxt")
        }
        assert "\x1b[31" not in output.out + output.err
        assert output.err.count(r"damaged\xff\x1b[31m\n\xe4.mp4: can't be decoded") == 1

    def test_classify_json(self, folder, videos, capsys):
        assert main(["classify", *videos, "--model", folder, "--json"]) == 1
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [Path(row["video"]).name for row in rows] == [
            *("\\xff\x1b[31m\n\\xe4.mp4", "damaged\\xff\x1b[31m\n\\xe4.mp4", "good.mp4")
        ]
        assert {row["label"] for row in rows[0]["predictions"]} == set(ODD_LABELS.values())

    def test_broken_weights(self, videos, tmp_path, capsys):
        folder = save(tmp_path / "broken", dict(enumerate("abcde")), broken=True)
        assert main(["classify", videos[-1], "--model", folder, "--json"]) == 1
        row = json.loads(capsys.readouterr().out)
        assert "scores are not finite: the model's weights are broken" in row["error"]

    def test_embed(self, folder, videos, tmp_path, capsys):
        pytest.importorskip("pyarrow")
        from timesformer_hf import read_features

        assert main(["embed", *videos, "--model", folder, "--out", str(tmp_path / "a.parquet")]) == 1
        errors = capsys.readouterr().err
        assert "\x1b[31" not in errors
        assert errors.count("its name is not UTF-8, so a table can't store it; rename the file") == 2
        assert read_features(tmp_path / "a.parquet").videos == [videos[-1]]

    def test_training_refuses_a_name_that_no_table_can_hold(self):
        with pytest.raises(
            ValueError, match=r"The name 'a\\udcff' of a file or folder is not text in UTF-8; rename it"
        ):
            check_text(["a", os.fsdecode(b"a\xff")])

    def test_info(self, tmp_path, capsys):
        state = torch.load(ORIGINAL, weights_only=True)
        state["model_state"]["model.\x1b[2J\nextra"] = torch.zeros(1)
        torch.save(state, tmp_path / "a.pyth")
        main(["info", str(tmp_path / "a.pyth"), "--num-attention-heads", "4"])
        output = capsys.readouterr()
        assert "\x1b" not in output.out + output.err
        assert r"\x1b[2J\nextra" in output.out + output.err


class TestCards:
    def test_code(self):
        assert code_span("run") == "`run`"
        assert code_span("`rm`") == "`` `rm` ``"
        assert code_span("a``b") == "```a``b```"
        assert code_span("a\n\n# b") == "`a # b`"
        assert code_span("x|y") == r"`x\|y`"

    @pytest.mark.parametrize(
        ("source", "name"),
        [
            ("facebook/timesformer-base-finetuned-k400", "facebook/timesformer-base-finetuned-k400"),
            ("/home/me/secret/model", "model"),
            ("../secret/model", "model"),
            ("~/secret/model", "model"),
            (r"C:\secret\model", "model"),
            ("secret/folder/model", "model"),
            ("https://example.org/a/b.csv", "https://example.org/a/b.csv"),
        ],
    )
    def test_names(self, source, name):
        assert public_name(source) == name

    def test_conversion(self, tmp_path, monkeypatch):
        folder = tmp_path / "secret"
        folder.mkdir()
        (folder / "a`b.pyth").write_bytes(ORIGINAL.read_bytes())
        convert(folder / "a`b.pyth", tmp_path / "out", num_attention_heads=4)
        text = (tmp_path / "out" / "README.md").read_text()
        assert "secret" not in text
        assert "- Source: ``a`b.pyth``, the authors' .pyth." in text

    @pytest.mark.parametrize(
        ("header", "licence"),
        [
            ("license: mit", "mit"),
            ("license: [mit, apache-2.0]", ["mit", "apache-2.0"]),
            ("license: 3", None),
            ("license: [1, 2]", None),
            ("license: {a: b}", None),
            ("a: 1", None),
        ],
    )
    def test_licence_of_a_source(self, header, licence, tmp_path):
        (tmp_path / "README.md").write_text(f"---\n{header}\n---\n# A\n")
        assert find_licence(tmp_path / "README.md") == licence

    def test_conversion_with_a_list_of_licences(self, tmp_path):
        source = tmp_path / "source"
        save(source, dict(enumerate("abcde")))
        (source / "README.md").write_text("---\nlicense: [mit, apache-2.0]\n---\n# A\n")
        convert(source, tmp_path / "out")
        card = ModelCard.load(tmp_path / "out" / "README.md")
        assert card.data.license == ["mit", "apache-2.0"]
        assert "As the source says: mit, apache-2.0." in card.text

    def test_no_local_path_of_a_source_that_has_moved(self):
        card = TrainingCard("a", "b", "/home/me/secret/base").render(
            TimesformerConfig(**TINY, id2label=ODD_LABELS), TimesformerVideoProcessor()
        )
        assert "secret" not in card
        assert "starting from `base`" in card

    def test_settings_of_a_training(self):
        card = TrainingCard("a", "b", training={"a\x1b[2J|b": "c\nd|e"})
        assert r"| a\x1b[2J\|b | c\nd\|e |" in card.render(TimesformerConfig(**TINY), TimesformerVideoProcessor())

    def test_results_that_are_not_finite(self):
        values = {"validation": {"loss": float("nan")}, "labels": ["a"], "steps": 3}
        assert json.loads(to_text(values)) == {"validation": {"loss": None}, "labels": ["a"], "steps": 3}

    def test_training(self, tmp_path):
        base = tmp_path / "secret" / "base"
        base.mkdir(parents=True)
        config = TimesformerConfig(**TINY, id2label=ODD_LABELS)
        for adapters in (True, False):
            card = TrainingCard(
                "a|b\n# c", "d|e\x1b", str(base), ["mit", "gpl-3.0"], {"accuracy": 0.5}, adapters=adapters
            )
            text = card.render(config, TimesformerVideoProcessor())
            assert "secret" not in text
            assert "\x1b" not in text
            assert r"`\x1b[2Jrun`, `a\nb`, `` `rm` ``, `x\|y`, `\u202etxt`" in text
            assert r"| data | d\|e\x1b |" in text
            assert ModelCard(text).data.license == ["mit", "gpl-3.0"]
