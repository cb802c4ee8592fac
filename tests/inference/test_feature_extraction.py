"""Videos read ahead for their features, and the models that give them."""

import os
import threading

import pytest
from tiny_models import make_model

from timesformer_hf.inference.feature_extraction import load_feature_model, load_video, read_ahead


class TestReadAhead:
    def test_results_keep_their_order_and_errors_come_out(self):
        assert list(read_ahead(lambda x: x * x, [[3, 1], [2], [5, 4]], num_workers=2)) == [[9, 1], [4], [25, 16]]
        assert list(read_ahead(abs, [], num_workers=1)) == []
        with pytest.raises(ZeroDivisionError):
            list(read_ahead(lambda x: 1 / x, [[1], [0]], num_workers=2))

    def test_next_batch_is_under_way_and_no_more(self):
        begun = {name: threading.Event() for name in "abc"}
        batches = read_ahead(lambda name: begun[name].set() or name, [["a"], ["b"], ["c"]], num_workers=1)
        assert next(batches) == ["a"]
        assert begun["b"].wait(timeout=10)
        assert not begun["c"].is_set()


class TestLoading:
    def test_a_name_that_is_no_text_is_an_error(self):
        """As a file system may have it; a table can't."""
        assert "its name is not UTF-8" in load_video(None, os.fsdecode(b"\xff.mp4"), {}).error

    def test_weights_that_are_missing_are_not_made_up(self, tmp_path):
        model = make_model()
        state = {name: value for name, value in model.state_dict().items() if name != "timesformer.layernorm.weight"}
        model.save_pretrained(tmp_path, state_dict=state)
        with pytest.raises(ValueError, match=r"lacks 1 weights, layernorm\.weight among them"):
            load_feature_model(str(tmp_path))
