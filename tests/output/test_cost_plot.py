"""The plot of what schemes cost."""

import pytest
from tiny_models import SCHEMES

from timesformer_hf.output.cost_plot import Panel, plot_costs
from timesformer_hf.output.figures import COLOURS, MARKERS


@pytest.fixture(scope="module")
def panels():
    return [Panel("pixels", (224, 448), {scheme: (0.5 + i, 5 + i) for i, scheme in enumerate(SCHEMES)})] * 2


class TestCostPlot:
    @pytest.fixture(autouse=True)
    def needs_matplotlib(self):
        pytest.importorskip("matplotlib", reason="draws a plot")

    @pytest.mark.parametrize("ending", ["svg", "png"])
    def test_the_same_costs_give_the_same_bytes(self, panels, ending, tmp_path):
        for name in "ab":
            plot_costs(tmp_path / f"{name}.{ending}", panels, "cost")
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
        assert b"<dc:date>" not in (tmp_path / f"a.{ending}").read_bytes()

    def test_more_lines_than_colours(self, tmp_path):
        lines = {f"scheme {i}": (1, 2) for i in range(len(COLOURS) + 1)}
        with pytest.raises(ValueError, match="A panel has 6 lines, but there are 5 colours"):
            plot_costs(tmp_path / "a.svg", [Panel("pixels", (224, 448), lines)], "cost")

    def test_no_scheme_without_a_look(self):
        assert len(SCHEMES) <= len(COLOURS) == len(MARKERS)


def test_other_format_is_refused(panels, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.svg or \.png"):
        plot_costs(tmp_path / "cost.pdf", panels, "cost")
