"""`timesformer-hf cost`: the page and the plot of the docs, and a model of one's own."""

import json
import sys

import pytest
from repository import REPOSITORY
from tiny_models import SCHEMES
from transformers import ViTConfig

from timesformer_hf import TimesformerConfig
from timesformer_hf.cli import main
from timesformer_hf.model.cost import count_multiply_accumulates


DOCS = REPOSITORY / "docs"


SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


def test_page_holds_what_the_command_prints(capsys):
    assert main(["cost"]) == 0
    assert f"\n\n{capsys.readouterr().out}\n" in (DOCS / "schemes.md").read_text()


def test_json_has_a_line_for_each_case(capsys):
    assert main(["cost", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["attention_type"] for row in rows} == set(SCHEMES)
    large = [row for row in rows if row["num_frames"] == 96 and row["attention_type"] == "divided_space_time"]
    assert large == [
        {
            "attention_type": "divided_space_time",
            "num_frames": 96,
            "image_size": [224, 224],
            "parameters": 121_633_936,
            "multiply_accumulates": 2_379_856_982_016,
        }
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    TimesformerConfig(image_size=64, attention_type="axial", num_labels=5, **SMALL).save_pretrained(folder)
    return str(folder)


class TestOwnModel:
    def test_needs_only_the_config(self, folder, capsys):
        assert main(["cost", "--model", folder, "--json"]) == 0
        row = json.loads(capsys.readouterr().out)
        expected = count_multiply_accumulates(TimesformerConfig.from_pretrained(folder))
        assert (row["attention_type"], row["multiply_accumulates"]) == ("axial", expected)

    def test_another_size_on_request(self, folder, capsys):
        assert main(["cost", "--model", folder, "--num-frames", "6", "--image-size", "64x96"]) == 0
        heads, _, row = capsys.readouterr().out.splitlines()
        assert [cell.strip() for cell in row.split("|")][1:4] == ["`axial`", "6", "64x96"]
        assert len(heads) == len(row)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--image-size", "0"], "must be a positive integer"),
            (["--image-size", "100"], "must be a multiple of patch_size"),
            (["--plot", "cost.svg"], "give only one of them"),
        ],
    )
    def test_mistakes_are_told(self, folder, arguments, message, capsys):
        assert main(["cost", "--model", folder, *arguments]) == 2
        assert message in capsys.readouterr().err

    def test_sizes_without_a_model(self, capsys):
        assert main(["cost", "--num-frames", "4"]) == 2
        assert "belong to --model" in capsys.readouterr().err

    def test_a_missing_folder_is_told(self, tmp_path, capsys):
        assert main(["cost", "--model", str(tmp_path / "nowhere")]) == 2
        assert "there is no such folder" in capsys.readouterr().err

    @pytest.mark.parametrize("size", ["2xa", "1x2x3", "-4", "x"])
    def test_what_is_no_size_is_refused(self, size, capsys):
        with pytest.raises(SystemExit):
            main(["cost", "--model", "any", f"--image-size={size}"])
        assert "256x448" in capsys.readouterr().err

    def test_another_model_type_is_refused(self, tmp_path, capsys):
        ViTConfig().save_pretrained(tmp_path)
        assert main(["cost", "--model", str(tmp_path)]) == 2
        assert 'is a "vit"' in capsys.readouterr().err


class TestPlot:
    @pytest.fixture(autouse=True)
    def needs_matplotlib(self):
        pytest.importorskip("matplotlib", reason="draws a plot")

    def test_is_written_and_overwritten_on_request(self, tmp_path, capsys):
        plot = tmp_path / "cost.svg"
        assert main(["cost", "--plot", str(plot)]) == 0
        assert f"wrote {plot}" in capsys.readouterr().err
        drawn = plot.read_bytes()
        assert main(["cost", "--plot", str(plot)]) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert plot.read_bytes() == drawn
        assert main(["cost", "--plot", str(plot), "--overwrite"]) == 0
        assert [file.name for file in tmp_path.iterdir()] == ["cost.svg"]

    def test_plot_of_the_docs_is_current(self, tmp_path):
        """What is drawn depends on the version of matplotlib, which the file names."""
        import matplotlib

        documented = (DOCS / "attention_cost.svg").read_text()
        if f"Matplotlib v{matplotlib.__version__}," not in documented:
            pytest.skip("docs/attention_cost.svg was drawn by another matplotlib")
        main(["cost", "--plot", str(tmp_path / "cost.svg")])
        assert (tmp_path / "cost.svg").read_text() == documented

    def test_other_format_is_refused_before_the_work(self, tmp_path, capsys):
        assert main(["cost", "--plot", str(tmp_path / "cost")]) == 2
        assert capsys.readouterr().out == ""


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["cost", "--plot", str(tmp_path / "cost.svg")]) == 2
    assert 'pip install "timesformer_hf[viz]"' in capsys.readouterr().err
