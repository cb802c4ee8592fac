"""
Render the sample clip of the package: the camera pans to the right over a photograph.

    pip download --no-deps scikit-learn==1.3.2 && unzip scikit_learn-*.whl sklearn/datasets/images/china.jpg
    python examples/camera_motion/make_sample.py sklearn/datasets/images/china.jpg camera_pan.mp4

It writes the clip, 132 frames of 320 x 180 pixels. timesformer_hf/samples/README.md says who took the photograph. The
shipped model was not trained with it.
"""

import argparse
import sys

import av
import numpy as np
import PIL.Image
import torch
from make_data import FRAMES_PER_SECOND
from rendering import Shot, make_texture, render
from virtual_camera import move

from timesformer_hf.output.atomic import output_file


NUM_FRAMES = 132
SIZE = (180, 320)  # height and width of a frame in pixels
SCALE = 180 / 384  # a pixel of a frame is a pixel of the texture, whose shorter side is 384
WAY = 1.2  # how far the camera moves, in half heights of a frame: 108 pixels to either side of the middle


def main(words: list[str] | None = None) -> int:
    """Write the clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", help="the photograph, 640 x 427 pixels")
    parser.add_argument("out", help="the .mp4 file to write")
    args = parser.parse_args(words)
    frames = render_pan(PIL.Image.open(args.picture).convert("RGB"))
    with output_file(args.out, overwrite=True) as path, av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.height, stream.width = SIZE
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "24", "g": "25", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return 0


def render_pan(picture: PIL.Image.Image) -> np.ndarray:
    """Return the frames of a pan to the right, uint8 (frames, height, width, 3)."""
    views = np.stack([move(x, 0.0) for x in np.linspace(-WAY, WAY, NUM_FRAMES)])
    frames = render(make_texture(picture), Shot(views, SIZE[1] / SIZE[0]), SIZE, np.zeros(2), SCALE, supersampling=2)
    return frames.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    sys.exit(main())
