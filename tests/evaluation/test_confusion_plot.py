"""The drawing of a confusion matrix."""

import warnings

import numpy as np
import pytest

from timesformer_hf.evaluation import confusion_plot
from timesformer_hf.evaluation.confusion_plot import MAX_NAMED, plot_confusion_matrix
from timesformer_hf.output import figures
from timesformer_hf.output.figures import FigureWarning
from timesformer_hf.training import curves
from timesformer_hf.training.curves import plot_training_curves


class TestConfusionPlot:
    @pytest.mark.parametrize("labels", [2, 10, 40, MAX_NAMED + 1, 400])
    def test_every_number_of_labels_is_drawn(self, labels, tmp_path):
        from PIL import Image

        rng = np.random.default_rng(0)
        names = [f"label {i}" for i in range(labels)]
        path = tmp_path / "confusion.png"
        plot_confusion_matrix(path, rng.integers(0, 3, (labels, labels)), names)
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300

    def test_names_and_counts_are_drawn(self, tmp_path):
        """In an SVG: the names, and the counts that aren't zero."""
        pytest.importorskip("matplotlib")
        import matplotlib

        counts, path = np.array([[7, 0], [11, 13]]), tmp_path / "confusion.svg"
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            plot_confusion_matrix(path, counts, ["cat & dog", "bird"], title="a title")
        text = path.read_text()
        assert all(f">{part}<" in text for part in ("7", "11", "13", "cat &amp; dog", "bird", "a title", "label"))
        assert text.count(">0<") == 0

    def test_the_same_counts_give_the_same_bytes(self, tmp_path):
        for suffix in ("png", "svg"):
            paths = [tmp_path / f"{number}.{suffix}" for number in range(2)]
            for path in paths:
                plot_confusion_matrix(path, np.eye(3, dtype=int), list("abc"))
            assert paths[0].read_bytes() == paths[1].read_bytes()

    def test_bad_input_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"counts must have shape \(3, 3\), as there are names, got \(2, 2\)"):
            plot_confusion_matrix(tmp_path / "a.png", np.eye(2), list("abc"))
        with pytest.raises(ValueError, match=r"must end in \.svg or \.png"):
            plot_confusion_matrix(tmp_path / "a.bmp", np.eye(3), list("abc"))


def drawn_labels(path, names: list[str], monkeypatch) -> list:
    """The labels under the columns, as they are in the figure."""
    figures = []
    monkeypatch.setattr(confusion_plot, "save_figure", lambda figure, *args, **settings: figures.append(figure))
    plot_confusion_matrix(path, np.eye(len(names), dtype=int), names)
    return figures[0].axes[0].get_xticklabels()


class TestNames:
    def test_they_are_turned_only_where_they_do_not_fit(self, tmp_path, monkeypatch):
        path = tmp_path / "confusion.png"
        fitting = drawn_labels(path, ["moves left", "moves right"], monkeypatch)
        assert [label.get_rotation() for label in fitting] == [0, 0]
        long = drawn_labels(path, [f"a label with the number {number}" for number in range(8)], monkeypatch)
        assert {label.get_rotation() for label in long} == {90}

    def test_long_names_are_wrapped_or_shortened(self, tmp_path, monkeypatch):
        name = "Turning the camera left while filming something"
        few = drawn_labels(tmp_path / "confusion.png", [name, "b"], monkeypatch)
        assert few[0].get_text() == "Turning the camera left\nwhile filming something"
        many = drawn_labels(tmp_path / "confusion.png", [name, *map(str, range(30))], monkeypatch)
        assert many[0].get_text() == "Turning the camera left while filming s\u2026"

    def test_a_dollar_is_no_formula(self, tmp_path):
        plot_confusion_matrix(tmp_path / "confusion.png", np.eye(2, dtype=int), ["$5 and $6^", "a"])

    def test_letters_that_no_font_has_are_warned_of(self, tmp_path):
        private = "\U0010f8fe"
        with pytest.warns(FigureWarning, match=f"No installed font has the letters {private}, so a figure shows boxes"):
            plot_confusion_matrix(tmp_path / "confusion.png", np.eye(2, dtype=int), [private, "a"])

    def test_letters_of_another_font_are_drawn_with_it(self, tmp_path):
        """One that comes with matplotlib has letters that the usual one lacks."""
        from matplotlib import rcParams
        from matplotlib.font_manager import findfont

        letters = figures._letters_of(findfont("STIXGeneral")) - figures._letters_of(findfont("DejaVu Sans"))
        letter = chr(min(letter for letter in letters if letter < 0xE000))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with figures.fonts_for(["a", letter]):
                assert len(rcParams["font.family"]) == 2
            with figures.fonts_for(["a"]):
                assert rcParams["font.family"] == ["DejaVu Sans"]
            plot_confusion_matrix(tmp_path / "confusion.png", np.eye(2, dtype=int), [letter, "a"])


class TestCurves:
    def drawn(self, tmp_path, monkeypatch, log: list[dict]) -> list:
        figures = []
        monkeypatch.setattr(curves, "save_figure", lambda figure, *args, **settings: figures.append(figure))
        plot_training_curves(tmp_path / "curves.png", log)
        return figures[0].axes

    def test_one_epoch_has_a_sensible_axis(self, tmp_path, monkeypatch):
        log = [{"step": 3, "loss": 0.7, "learning_rate": 1e-4}, {"step": 3, "eval_loss": 0.69, "eval_accuracy": 0.5}]
        for axes in self.drawn(tmp_path, monkeypatch, log):
            assert axes.get_xlim()[0] == 0
            assert axes.get_ylim()[0] == 0
            assert all(tick == round(tick) for tick in axes.get_xticks())

    def test_several_epochs_keep_their_scale(self, tmp_path, monkeypatch):
        log = [{"step": 3, "loss": 0.7}, {"step": 6, "loss": 0.69}]
        (axes,) = self.drawn(tmp_path, monkeypatch, log)
        assert axes.get_ylim()[0] > 0.6
