"""The models that are part of the package."""

from pathlib import Path


CAMERA_MOTION = str(Path(__file__).with_name("camera_motion"))
"""Folder of a small model that recognises how the camera moves. `timesformer-hf classify` uses it by default."""
