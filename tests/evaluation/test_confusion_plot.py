"""The drawing of a confusion matrix."""

import numpy as np
import pytest

from timesformer_hf.evaluation.confusion_plot import MAX_NAMED, plot_confusion_matrix


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
