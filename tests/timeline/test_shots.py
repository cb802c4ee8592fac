"""Shot boundaries: those that PySceneDetect finds in the file, and no window across one."""

import sys

import numpy as np
import pytest
from clips import decode_all, moving_pattern, write_video

from timesformer_hf import StreamClassifier, make_timeline
from timesformer_hf.timeline.shots import ShotDetector


def films() -> list[np.ndarray]:
    """Three shots: 30, 40 and 23 frames."""
    frames = moving_pattern(40, 96, 128)
    return [*frames[:30], *[255 - frame for frame in frames], *[frame[::-1] // 3 for frame in frames[:23]]]


class TestWithoutThePackage:
    def test_the_message_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "scenedetect", None)
        with pytest.raises(ImportError, match=r'scenedetect.*pip install "timesformer_hf\[timeline\]"'):
            ShotDetector(25)


class TestShots:
    @pytest.fixture(autouse=True)
    def scenedetect(self):
        return pytest.importorskip("scenedetect", reason="finds shot boundaries")

    @pytest.fixture
    def film(self, tmp_path) -> str:
        return str(write_video(tmp_path / "shots.mp4", films()))

    def test_cuts_are_those_of_pyscenedetect(self, film, scenedetect):
        detector = ShotDetector(25)
        cuts = [i for i, frame in enumerate(decode_all(film)) if detector.is_cut(frame)]
        scenes = scenedetect.detect(film, scenedetect.ContentDetector())
        assert cuts == [scene[0].frame_num for scene in scenes[1:]] == [30, 70]

    def test_no_window_crosses_a_cut(self, model, processor, film):
        found = make_timeline(model, processor, film, window=0.4, stride=0.2, shots=True, threshold=0.01)
        cuts = [30 / 25, 70 / 25]
        assert {window.part for window in found.windows} == {0, 1, 2}
        for span in (*found.windows, *found.segments):
            assert not any(span.start < cut - 1e-9 and span.end > cut + 1e-9 for cut in cuts)
        assert {round(segment.end, 6) for segment in found.segments} >= set(cuts)
        assert found.windows[-1].end == pytest.approx(93 / 25)
        across = make_timeline(model, processor, film, window=0.4, stride=0.2)
        assert any(window.start < 1.2 < window.end - 1e-9 for window in across.windows)

    def test_each_shot_is_like_a_film_of_its_own(self, model, processor, film):
        found = make_timeline(model, processor, film, window=0.4, stride=0.2, shots=True, batch_size=1)
        frames, scores = decode_all(film), []
        for start, end in [(0, 30), (30, 70), (70, 93)]:
            alone = StreamClassifier(
                model, processor, 25, window=0.4, stride=0.2, on_window=lambda window: scores.append(window.scores)
            )
            for frame in frames[start:end]:
                alone.add(frame)
            alone.finish()
        assert np.array_equal([window.scores for window in found.windows], scores)
