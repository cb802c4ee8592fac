"""Programs in fresh processes, and which package's classes such a program gets for a TimeSformer."""

import os
import subprocess
import sys
import textwrap


CLASSES_USED = """
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForVideoClassification
from transformers import AutoVideoProcessor, pipeline

def classes_used(folder):
    config = AutoConfig.from_pretrained(folder)
    objects = [
        config,
        AutoModel.from_config(config),
        AutoModelForVideoClassification.from_config(config),
        AutoModelForVideoClassification.from_pretrained(folder),
        AutoVideoProcessor.from_pretrained(folder),
        pipeline("video-classification", model=folder),
        pipeline("video-classification", model=folder).video_processor,
    ]
    return {type(obj).__module__.split(".")[0] for obj in objects}
"""


def run(code: str, *arguments: str, path: str = "") -> str:
    """Run a program in a fresh process, outside the repository; returns what it prints."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout
