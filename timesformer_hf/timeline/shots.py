"""Shot boundaries by PySceneDetect, one frame at a time."""

import importlib
from fractions import Fraction

import numpy as np

from ..output.extras import missing_package


_SHORTEST = 15  # frames of a shot, PySceneDetect's own default
_WIDTH = 256  # pixels: frames are made this small first, as PySceneDetect does


class ShotDetector:
    """
    Finds shot boundaries by PySceneDetect's `ContentDetector`, which measures the change of colours between frames.

    Args:
        fps: frames per second.

    Raises:
        ImportError: if PySceneDetect is missing.
    """

    def __init__(self, fps: float):
        try:
            self._scenedetect = importlib.import_module("scenedetect")
            from scenedetect.detector import FlashFilter
        except ModuleNotFoundError as error:
            raise missing_package("finding shot boundaries", "scenedetect", "timeline") from error
        except ImportError as error:  # OpenCV with windows, on a machine without libraries for windows
            raise ImportError(
                f"finding shot boundaries needs OpenCV, which can't be loaded ({error}); install "
                "opencv-python-headless in place of opencv-python"
            ) from error
        mode = FlashFilter.Mode.SUPPRESS  # tells of a cut at once, where MERGE waits for later frames
        self._detector = self._scenedetect.ContentDetector(min_scene_len=_SHORTEST, filter_mode=mode)
        self._fps, self._frames = Fraction(fps).limit_denominator(1001), 0

    def is_cut(self, frame: np.ndarray) -> bool:
        """Whether a new shot begins with this frame, RGB uint8 (height, width, 3)."""
        step = max(1, round(frame.shape[1] / _WIDTH))
        small = np.ascontiguousarray(frame[::step, ::step, ::-1])  # BGR
        time = self._scenedetect.FrameTimecode(self._frames, fps=self._fps)
        self._frames += 1
        return bool(self._detector.process_frame(time, small))
