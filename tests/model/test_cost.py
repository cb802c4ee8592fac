"""What the schemes cost: the numbers of the paper, and formulas written down by hand."""

import json
import sys

import pytest
import torch
from repository import REPOSITORY
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import ViTConfig

from timesformer_hf import TimesformerConfig
from timesformer_hf.cli import main
from timesformer_hf.model.attention_schemes import ATTENTION_SCHEMES
from timesformer_hf.model.cost import (
    PAPER_VARIANTS,
    count_multiply_accumulates,
    count_parameters,
    model_cost,
    scheme_cost,
)
from timesformer_hf.output.cost_plot import Panel, plot_costs
from timesformer_hf.output.figures import COLOURS, MARKERS


DOCS = REPOSITORY / "docs"
SCHEMES = list(ATTENTION_SCHEMES)
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


def by_hand(scheme: str, frames: int, rows: int, columns: int, dim: int, mlp: int, layers: int) -> int:
    """
    Multiply-accumulates of the blocks. Of an attention over `queries` tokens that meet `keys` each: q, k, v and the
    output projection, 4 dim^2 a token, and scores and context, 2 dim a pair. An added step has one more layer, dim^2.
    """

    def attention(queries: int, keys: int, matrices: int) -> int:
        return queries * (matrices * dim**2 + 2 * dim * keys)

    patches = rows * columns
    tokens = 1 + frames * patches
    time = attention(frames * patches, frames, 5)
    steps = {
        "divided_space_time": time + attention(frames * (1 + patches), 1 + patches, 4),
        "joint_space_time": attention(tokens, tokens, 4),
        "space_only": attention(frames * (1 + patches), 1 + patches, 4),
        "sparse_local_global": attention(frames * patches, frames * patches // 4, 5)
        + attention(8 + frames * patches, 1 + frames * patches // 8, 4),
        "axial": time + attention(frames * patches, columns, 5) + attention(frames * columns * (1 + rows), 1 + rows, 4),
    }
    mlp_tokens = frames * (1 + patches) if scheme == "space_only" else tokens
    return layers * (steps[scheme] + mlp_tokens * 2 * dim * mlp)


def patches_and_head(frames: int, rows: int, columns: int, dim: int, patch: int, labels: int) -> int:
    return frames * rows * columns * dim * 3 * patch**2 + dim * labels


@pytest.mark.parametrize("frames", [8, 96])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_multiply_accumulates_by_hand(scheme, frames):
    """At even sizes, where no group is padded."""
    grid = (frames, 14, 14)
    expected = by_hand(scheme, *grid, 768, 3072, 12) + patches_and_head(*grid, 768, 16, 400)
    assert scheme_cost(scheme, frames, 224).multiply_accumulates == expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_another_size_by_hand(scheme):
    """Rectangular, of an odd number of columns where the scheme halves none; not the size that the config has."""
    grid = (6, 4, 10 if scheme == "sparse_local_global" else 9)
    config = TimesformerConfig(attention_type=scheme, num_labels=5, **SMALL)
    counted = count_multiply_accumulates(config, grid[0], (grid[1] * 16, grid[2] * 16))
    assert counted == by_hand(scheme, *grid, 48, 96, 2) + patches_and_head(*grid, 48, 16, 5)


def test_padding_counts():
    """3 frames of 3 x 5 patches: the groups are as long as those of 4 frames of 4 x 6 are."""
    config = TimesformerConfig(attention_type="sparse_local_global", patch_size=8, image_size=32, **SMALL)
    padded = count_multiply_accumulates(config, 3, (24, 40))
    local, strided = 4 * (2 * 3 * 3), 8 * (1 + 2 * 3 * 2)  # tokens in quadrants of 2 x 3, in strides
    steps = local * (5 * 48**2 + 2 * 48 * 18) + strided * (4 * 48**2 + 2 * 48 * 13)
    assert padded == 2 * (steps + (1 + 45) * 2 * 48 * 96) + patches_and_head(3, 3, 5, 48, 8, 2)


@pytest.mark.parametrize(("variant", "expected"), [("base", 0.587), ("HR", 5.108), ("L", 7.140)])
def test_tera_of_the_paper(variant, expected):
    """Paper, table 3: 0.59, 5.11 and 7.14 "TFLOPs"."""
    assert round(scheme_cost("divided_space_time", *PAPER_VARIANTS[variant]).tera_over_crops, 3) == expected


@pytest.mark.parametrize(
    ("scheme", "num_labels", "size", "expected"),
    [
        ("divided_space_time", 174, (8, 224), 121_392_558),
        ("sparse_local_global", 174, (8, 224), 121_392_558),
        ("axial", 174, (8, 224), 156_846_510),
        ("space_only", 400, (8, 224), 86_106_256),
        ("joint_space_time", 400, (8, 224), 86_112_400),
        ("divided_space_time", 400, (8, 224), 121_566_352),
        ("divided_space_time", 400, (16, 448), 122_024_080),
        ("divided_space_time", 400, (96, 224), 121_633_936),
    ],
)
def test_parameters(scheme, num_labels, size, expected):
    config = TimesformerConfig(attention_type=scheme, num_labels=num_labels, num_frames=size[0], image_size=size[1])
    assert count_parameters(config) == expected


class OnlyShapes(TorchDispatchMode):
    """Fails where a tensor with values is made."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        assert all(leaf.is_meta for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)), function
        return outputs


def test_allocates_nothing():
    """Joint attention over 96 frames has 18,817 tokens: 17 GB of scores a block."""
    config = TimesformerConfig(attention_type="joint_space_time")
    with OnlyShapes():
        assert count_parameters(config) > 0
        assert count_multiply_accumulates(config, 96) > 0


def test_the_config_stays_as_it_is():
    config = TimesformerConfig(**SMALL)
    before = config.to_dict()
    cost = model_cost(config, 16, (32, 64))
    assert (cost.num_frames, cost.image_size) == (16, (32, 64))
    assert config.to_dict() == before
    assert cost.multiply_accumulates == count_multiply_accumulates(config, 16, (32, 64))


def test_size_that_no_model_has():
    with pytest.raises(ValueError, match="multiple of"):
        model_cost(TimesformerConfig(**SMALL), 8, 100)


@pytest.fixture(scope="module")
def panels():
    return [Panel("pixels", (224, 448), {scheme: (0.5 + i, 5 + i) for i, scheme in enumerate(SCHEMES)})] * 2


class TestPlot:
    @pytest.fixture(autouse=True)
    def needs_matplotlib(self):
        pytest.importorskip("matplotlib", reason="draws a plot")

    @pytest.mark.parametrize("ending", ["svg", "png"])
    def test_same_bytes(self, panels, ending, tmp_path):
        for name in "ab":
            plot_costs(tmp_path / f"{name}.{ending}", panels, "cost")
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
        assert b"<dc:date>" not in (tmp_path / f"a.{ending}").read_bytes()

    def test_no_scheme_without_a_look(self):
        assert len(SCHEMES) <= len(COLOURS) == len(MARKERS)

    def test_command(self, tmp_path, capsys):
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


def test_other_format(panels, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"must end in \.svg or \.png"):
        plot_costs(tmp_path / "cost.pdf", panels, "cost")
    assert main(["cost", "--plot", str(tmp_path / "cost")]) == 2
    assert capsys.readouterr().out == ""  # said before the work


def test_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["cost", "--plot", str(tmp_path / "cost.svg")]) == 2
    assert 'pip install "timesformer_hf[viz]"' in capsys.readouterr().err


def test_page_holds_what_the_command_prints(capsys):
    assert main(["cost"]) == 0
    assert f"\n\n{capsys.readouterr().out}\n" in (DOCS / "schemes.md").read_text()


def test_json(capsys):
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
        expected = by_hand("axial", 8, 4, 4, 48, 96, 2) + patches_and_head(8, 4, 4, 48, 16, 5)
        assert (row["attention_type"], row["multiply_accumulates"]) == ("axial", expected)

    def test_other_size(self, folder, capsys):
        assert main(["cost", "--model", folder, "--num-frames", "6", "--image-size", "64x96"]) == 0
        heads, _, row = capsys.readouterr().out.splitlines()
        assert [cell.strip() for cell in row.split("|")][1:4] == ["`axial`", "6", "64x96"]
        assert len(heads) == len(row)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--image-size", "0"], "must be a positive integer"),
            (["--image-size", "100"], "must be a multiple of patch_size"),
            (["--plot", "cost.svg"], "give one of them"),
        ],
    )
    def test_mistakes(self, folder, arguments, message, capsys):
        assert main(["cost", "--model", folder, *arguments]) == 2
        assert message in capsys.readouterr().err

    def test_sizes_without_a_model(self, capsys):
        assert main(["cost", "--num-frames", "4"]) == 2
        assert "belong to --model" in capsys.readouterr().err

    def test_no_such_folder(self, tmp_path, capsys):
        assert main(["cost", "--model", str(tmp_path / "nowhere")]) == 2
        assert "there is no such folder" in capsys.readouterr().err

    @pytest.mark.parametrize("size", ["2xa", "1x2x3", "-4", "x"])
    def test_no_size(self, size, capsys):
        with pytest.raises(SystemExit):
            main(["cost", "--model", "any", f"--image-size={size}"])
        assert "256x448" in capsys.readouterr().err

    def test_another_model(self, tmp_path, capsys):
        ViTConfig().save_pretrained(tmp_path)
        assert main(["cost", "--model", str(tmp_path)]) == 2
        assert 'is a "vit"' in capsys.readouterr().err
