"""Pictures and films of explanations, read back by other programs' readers."""

import colorsys
import itertools
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from clips import av

from timesformer_hf.explanation.drawing import (
    draw_sheet,
    draw_times,
    film_pictures,
    overlay_frames,
    relative_relevance,
    write_film,
    write_gif,
)
from timesformer_hf.explanation.video_explanation import VideoExplanation


pytest.importorskip("matplotlib", reason="draws")


def make_explanation(frames: int = 4, height: int = 48, width: int = 64, **settings) -> VideoExplanation:
    """One whose relevance is all in the top left patch of the second frame."""
    relevance = np.zeros((frames, 4, 4))
    relevance[min(1, frames - 1), 0, 0] = 1
    pixels = np.random.default_rng(0).integers(90, 110, (frames, height, width, 3)).astype(np.uint8)
    fields = {
        "video": "clip.mp4",
        "frames": pixels,
        "frame_indices": list(range(0, 4 * frames, 4)),
        "fps": 25.0,
        "relevance": relevance,
        "region": (0.0, 0.0, 1.0, 1.0),
        "label": "pan_left",
        "score": 0.875,
        "predicted": "pan_left",
        "method": "gradient_rollout",
    }
    return VideoExplanation(**fields | settings)


def hue(colour) -> float:
    return colorsys.rgb_to_hsv(*np.asarray(colour, dtype=float) / 255)[0] * 360


class TestOverlay:
    def test_the_most_relevant_place_is_yellow_and_the_least_blue_or_violet(self):
        explanation = make_explanation()
        drawn = overlay_frames(explanation.frames, explanation.relevance, explanation.region, 1.0)
        assert drawn.shape == explanation.frames.shape
        assert drawn.dtype == np.uint8
        assert 50 < hue(drawn[1, 2, 2]) < 70
        assert 230 < hue(drawn[1, 46, 62]) < 310
        assert 230 < hue(drawn[0, 2, 2]) < 310

    def test_what_the_model_does_not_see_is_dark_and_grey(self):
        explanation = make_explanation()
        drawn = overlay_frames(explanation.frames, explanation.relevance, (0.25, 0.5, 0.75, 1.0), 1.0)
        outside = np.ones((48, 64), dtype=bool)
        outside[12:36, 32:] = False
        assert (drawn[:, outside].std(axis=-1) == 0).all()
        assert drawn[:, outside].max() < 45
        assert (drawn[:, ~outside].std(axis=-1) > 5).all()
        assert 50 < hue(drawn[1, 13, 33]) < 70

    def test_a_crop_larger_than_the_frame_keeps_its_place(self):
        """The map covers twice the frame; its top left patch lies outside but for one quarter of its width."""
        explanation = make_explanation()
        maps = np.zeros((4, 4, 4))
        maps[:, 1:3, 1:3] = 1
        drawn = overlay_frames(explanation.frames, maps, (-0.5, -0.5, 1.5, 1.5), 1.0)
        assert 50 < hue(drawn[0, 24, 32]) < 70  # the middle
        assert hue(drawn[0, 0, 0]) > 100  # between the patches of the middle and those outside

    def test_relevance_is_relative_to_the_mean(self):
        assert relative_relevance(make_explanation()).mean() == 1


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((8, 48, 64), {}),
        ((1, 90, 30), {}),
        ((17, 30, 120), {"fps": None}),
        ((2, 640, 360), {"label": "a $\\frac{$ of 字\u202e" + "very long " * 20, "video": "x" * 300}),
        ((4, 48, 64), {"frame_indices": [0, 1, 1, 1], "label": "字" * 200, "video": "字" * 200}),
    ],
)
def test_every_kind_of_explanation_can_be_drawn(tmp_path, shape, settings, recwarn):
    explanation = make_explanation(*shape, **settings)
    for name, draw in (("sheet.png", draw_sheet), ("time.png", draw_times)):
        draw(tmp_path / name, explanation)
        with PIL.Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200
            pixels = np.asarray(picture.convert("L"))
            edge = np.concatenate((*pixels[[0, -1]], *pixels[:, [0, -1]].T))
            assert edge.min() == 255, "something touches the edge"
    write_gif(tmp_path / "overlay.gif", explanation)
    with PIL.Image.open(tmp_path / "overlay.gif") as film:
        assert film.n_frames == shape[0]
        assert film.info["duration"] == 400
        assert film.info["loop"] == 0
        colours = np.asarray(film.convert("RGB"))
        assert colours[:3].min() > 250
        for colour in ((213, 94, 0), (0, 114, 178), (253, 231, 37)):  # the mark, the bars, the end of the legend
            assert (colours == colour).all(axis=-1).sum() > 10
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


@pytest.mark.parametrize(("frames", "seconds"), [(30, 4.0), (150, 6.0)])
def test_the_film_has_the_speed_of_the_video_or_lasts_four_seconds(tmp_path, frames, seconds):
    explanation = make_explanation(2, frame_indices=[10, 9 + frames])
    indices = list(range(10, 10 + frames))
    write_film(tmp_path / "overlay.mp4", explanation, np.full((frames, 48, 64, 3), 100, np.uint8), indices)
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        (stream,) = container.streams.video
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert len(decoded) == frames
        assert float(stream.duration * stream.time_base) == pytest.approx(seconds, rel=0.01)
        assert stream.width % 2 == stream.height % 2 == 0
        assert stream.pix_fmt == "yuv420p"
    assert decoded[0].std() > 10


def test_without_x264_the_film_is_mpeg4(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    explanation = make_explanation(2)
    write_film(tmp_path / "overlay.mp4", explanation, explanation.frames, explanation.frame_indices)
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
        assert len(list(container.decode(video=0))) == 2


def test_the_film_moves_its_mark_and_its_heat_map():
    explanation = make_explanation(3, frame_indices=[0, 4, 8])
    pictures = list(film_pictures(explanation, np.full((9, 48, 64, 3), 100, np.uint8), range(9)))
    marks = [np.flatnonzero((picture == (213, 94, 0)).all(axis=-1).any(axis=0)).mean() for picture in pictures]
    np.testing.assert_allclose(np.diff(marks), np.diff(marks).mean(), atol=1.01)
    assert marks[0] < marks[-1]
    hues = [hue(picture[60, (picture.shape[1] - 480) // 2 + 4]) for picture in pictures]
    assert hues[:5] == sorted(hues[:5], reverse=True)  # from violet to yellow at frame 4, and back
    assert hues[4:] == sorted(hues[4:])
    assert 50 < hues[4] < 70


@pytest.mark.parametrize("frames", [8, 20, 96])
def test_labels_of_time_do_not_overlap(frames, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        "timesformer_hf.explanation.drawing.save_figure", lambda figure, *args, **_: figures.append(figure)
    )
    draw_times(tmp_path / "time.png", make_explanation(frames, frame_indices=list(range(1000, 1000 + frames))))
    figures[0].canvas.draw()
    boxes = [label.get_window_extent() for label in figures[0].axes[0].get_xticklabels()]
    assert len(boxes) > 5
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))
    for tick in figures[0].axes[0].yaxis.get_major_ticks():
        assert float(tick.label1.get_text().rstrip("%")) == pytest.approx(100 * tick.get_loc())


def test_the_same_explanation_gives_the_same_bytes(tmp_path):
    for name in ("one.png", "two.png"):
        draw_times(tmp_path / name, make_explanation())
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_sheet_of_many_frames_shows_sixteen(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "timesformer_hf.explanation.drawing.overlay_frames",
        lambda frames, *others: shown.append(len(frames)) or frames,
    )
    draw_sheet(tmp_path / "sheet.png", replace(make_explanation(96)))
    assert shown == [16]
