"""What the page shows is what the package's own functions give, and every error is a sentence for its reader."""

import warnings
from pathlib import Path

import pytest
import torch
from clips import av, moving_pattern, write_sound, write_video
from tiny_models import FLOAT32

from timesformer_hf import make_timeline
from timesformer_hf.demo.analysis import Analyst, ClipError
from timesformer_hf.explanation.video_explanation import load_explainable


pytest.importorskip("matplotlib", reason="draws the film")


@pytest.fixture(scope="module")
def analyst() -> Analyst:
    return Analyst()


def test_labels_are_those_of_the_pipeline(analyst, model, clip):
    from transformers import AutoVideoProcessor, pipeline

    processor = AutoVideoProcessor.from_pretrained(model, views=None)
    rows = pipeline("video-classification", model=model, video_processor=processor, device="cpu")(clip)
    scores, notes = analyst.label(model, clip)
    assert list(scores) == [row["label"] for row in rows]
    assert list(scores.values()) == pytest.approx([row["score"] for row in rows], rel=FLOAT32["rtol"])
    assert notes == []


def test_the_film_is_that_of_the_clip(analyst, model, clip, tmp_path):
    analyst.explain(model, clip, tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert len(list(film.decode(video=0))) == 10  # 4 frames of the model, every third one


def test_the_timeline_is_that_of_the_package(analyst, model, clip):
    told = []
    found = analyst.find_times(model, clip, lambda done, text: told.append((done, text)))
    expected = make_timeline(*load_explainable(model), clip)
    assert found.segments == expected.segments
    assert [window.start for window in found.windows] == [window.start for window in expected.windows]
    assert told[-1] == (1.0, "2 s of the clip are done")
    assert all(0 <= done <= 1 for done, _ in told)


def test_a_model_is_loaded_once(analyst, model):
    assert analyst.load(model)[0] is analyst.load(model)[0]


def test_a_note_says_what_is_odd(analyst, model, tmp_path):
    short = str(write_video(tmp_path / "short.mp4", moving_pattern(1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, notes = analyst.label(model, short)
    assert len(notes) == 1
    assert notes[0].startswith("short.mp4")


class TestBadInput:
    @pytest.fixture(params=["label", "explain", "find_times"])
    def ask(self, request, analyst, tmp_path):
        """A question of the page, as a function of a model and a clip."""
        more = {"label": [], "explain": [tmp_path / "film.mp4"], "find_times": [lambda done, text: None]}
        return lambda name, clip: getattr(analyst, request.param)(name, clip, *more[request.param])

    def test_files_that_are_no_video(self, ask, model, corrupt, tmp_path):
        for file, message in (
            (corrupt, "corrupt.mp4: can't be decoded"),
            (str(write_sound(tmp_path / "sound.mp4")), "sound.mp4.*no video stream"),
            (str(tmp_path / "none.mp4"), "none.mp4"),
        ):
            with pytest.raises(ClipError, match=message) as info:
                ask(model, file)
            assert str(Path(file).parent) not in str(info.value)  # where uploads are kept is nobody's business

    def test_models_that_are_none(self, ask, clip):
        with pytest.raises(ClipError, match="can't load the model /no/such/model"):
            ask("/no/such/model", clip)

    def test_too_little_memory(self, ask, model, clip, monkeypatch):
        def full(*args, **settings):
            raise MemoryError

        monkeypatch.setattr(Analyst, "load", full)
        with pytest.raises(ClipError, match="there is not enough memory"):
            ask(model, clip)

    def test_no_clip(self, analyst, model):
        with pytest.raises(ClipError, match="Drop a clip on the page or choose one first"):
            analyst.label(model, None)

    def test_scores_that_are_not_finite(self, model, clip):
        analyst = Analyst()
        analyst.load(model)[0].classifier.bias.data[0] = torch.nan
        for ask in (analyst.label, lambda *words: analyst.find_times(*words, lambda done, text: None)):
            with pytest.raises(ClipError, match="scores are not finite"):
                ask(model, clip)
