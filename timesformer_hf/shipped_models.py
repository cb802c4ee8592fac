"""The model and the clip that are part of the package."""

from pathlib import Path


CAMERA_MOTION = str(Path(__file__).with_name("camera_motion"))
"""Folder of a small model that recognises how the camera moves. `timesformer-hf classify` uses it by default."""

SAMPLE_CLIP = str(Path(__file__).with_name("samples") / "camera_pan.mp4")
"""Path of a short video in which the camera pans to the right, to try a model with."""
