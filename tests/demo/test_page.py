"""The functions behind the page, without its server."""

import os

import pytest

from timesformer_hf import CAMERA_MOTION
from timesformer_hf.demo.analysis import Analyst


gr = pytest.importorskip("gradio", reason="the page needs gradio")
pytest.importorskip("matplotlib", reason="draws the film")


@pytest.fixture(scope="module")
def page(model):
    from timesformer_hf.demo.page import build_page

    return build_page(Analyst(), [model], 7)


@pytest.fixture
def steps(page) -> list:
    """The functions that run one after the other when a clip is uploaded."""
    names = ("label", "explain", "find_times")
    return [next(event.fn for event in page.fns.values() if event.name == name) for name in names]


def test_a_clip_goes_through_all_steps(steps, model, clip):
    from timesformer_hf.demo.page import draw_chart

    label, explain, find_times = steps
    scores, message, film, timeline, is_labelled = label(clip, model)
    assert (film, timeline, is_labelled, message.visible) == (None, "", True, False)
    assert len(scores) == 5
    assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
    answers = explain(clip, model, True)
    film, _ = next(answers)
    with open(film, "rb") as file:  # it is there until gradio goes on
        assert file.read(12)[4:8] == b"ftyp"
    assert list(answers) == []
    chart, _ = find_times(clip, model, True)
    assert chart == draw_chart(Analyst().find_times(model, clip, lambda done, text: None))


def test_an_error_is_a_message_and_ends_the_steps(steps, model, corrupt):
    label, explain, find_times = steps
    scores, message, _, _, is_labelled = label(corrupt, model)
    assert (scores, is_labelled, message.visible) == (None, False, True)
    assert 'role="alert"' in message.value
    assert "corrupt.mp4: can&#x27;t be decoded" in message.value
    assert "Drop a clip" in label(None, model)[1].value
    skipped = gr.skip()
    assert list(explain(corrupt, model, False)) == [skipped]
    assert find_times(corrupt, model, False) == skipped
    for answer in (next(explain(corrupt, model, True)), find_times(corrupt, model, True)):  # deleted in between
        assert 'role="alert"' in answer[1].value


def test_choices_and_limit(page, model):
    parts = {block.label: block for block in page.blocks.values() if getattr(block, "label", None)}
    assert [name for _, name in parts["Model"].choices][:2] == [model, CAMERA_MOTION]
    assert parts["Model"].value == model
    assert "Clip (at most 7 MB)" in parts
    with pytest.raises(gr.Error, match="not in the list of choices"):  # a visitor can't load any folder
        parts["Model"].preprocess("/etc")


def test_the_page_asks_nobody(page):
    from timesformer_hf.demo.page import PAGE

    assert PAGE["theme"]._stylesheets == []  # fonts
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert not page.analytics_enabled


def test_clips_wait_for_each_other(page):
    steps = [event for event in page.fns.values() if event.name in ("label", "explain", "find_times")]
    assert len(steps) == 9  # for the button, an upload and an example
    assert {(step.concurrency_id, step.concurrency_limit) for step in steps} == {("models", 1)}
