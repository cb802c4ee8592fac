"""Where the tests find the repository and what lies in it."""

from pathlib import Path


REPOSITORY = Path(__file__).parents[1]
SAMPLE = REPOSITORY / "timesformer_hf" / "samples" / "big_buck_bunny.mp4"
