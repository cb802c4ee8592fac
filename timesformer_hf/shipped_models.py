"""The models that come with the package."""

from pathlib import Path


CAMERA_MOTION = str(Path(__file__).with_name("camera_motion"))
"""Folder of a small model that tells how the camera moves: what `timesformer-hf classify` uses by default."""
