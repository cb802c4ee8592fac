"""
Makes the two moving pictures of README.md: what the model looks at, and what happens when.

    python docs/tools/readme_pictures.py [FOLDER]

The first is the film that `timesformer-hf explain tests/film/big_buck_bunny.mp4` writes. The second shows the sample
clip and that film, one after the other, with the labels that `timesformer-hf timeline` burns into them; below are its
segments. Both have the answers of the model in the package. The pictures are written to FOLDER (default: docs).
"""

import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

import timesformer_hf as t


REPOSITORY = Path(__file__).parents[2]
FILM = REPOSITORY / "tests" / "film" / "big_buck_bunny.mp4"
WIDTH, FILM_HEIGHT, STRIP_HEIGHT = 400, 226, 124  # pixels; two pictures fit beside each other on a page
COLOURS = {"pan_right": "#0072B2", "tilt_up": "#D55E00", "static": "#009E73"}
EVERY = 4  # frames of the joined film
WINDOW, STRIDE, THRESHOLD = 1.16, 0.2, 0.4  # a window of 29 frames, which the model was trained with


def main(folder: Path = REPOSITORY / "docs") -> None:
    """Write `overlay.webp` and `timeline.webp`."""
    model = AutoModelForVideoClassification.from_pretrained(t.CAMERA_MOTION).eval()
    processor = AutoVideoProcessor.from_pretrained(t.CAMERA_MOTION)
    with tempfile.TemporaryDirectory() as work:
        overlay, joined, labelled = (Path(work, name) for name in ("overlay.mp4", "two_clips.mp4", "labelled.mp4"))
        explanation = t.explain_video(model, processor, FILM)
        t.write_film(overlay, explanation, *t.read_span(explanation, processor, FILM))
        write_moving_picture(folder / "overlay.webp", [small(frame, 350) for frame in frames_of(overlay)], 140)
        join([Path(t.SAMPLE_CLIP), FILM], joined)
        timeline = t.make_timeline(
            model, processor, joined, window=WINDOW, stride=STRIDE, threshold=THRESHOLD, shots=True
        )
        t.write_timeline(labelled, timeline, joined)
        pictures = [
            beside_strip(frame, timeline, number / timeline.fps)
            for number, frame in enumerate(frames_of(labelled))
            if number % EVERY == 0
        ]
        write_moving_picture(folder / "timeline.webp", pictures, round(1000 * EVERY / timeline.fps))


def frames_of(path: Path) -> list[PIL.Image.Image]:
    """All frames of a short film."""
    with av.open(str(path)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def small(frame: PIL.Image.Image, height: int) -> PIL.Image.Image:
    """The frame in the width of the pictures."""
    return frame.resize((WIDTH, height), PIL.Image.Resampling.LANCZOS)


def join(clips: list[Path], path: Path) -> None:
    """Write clips one after the other, 25 frames a second, as one film of the width of the pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "14"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, FILM_HEIGHT, "yuv420p"
        for clip in clips:
            for frame in frames_of(clip):
                container.mux(stream.encode(av.VideoFrame.from_image(small(frame, FILM_HEIGHT))))
        container.mux(stream.encode())


def beside_strip(frame: PIL.Image.Image, timeline: t.Timeline, seconds: float) -> PIL.Image.Image:
    """A frame of the film, and below it the segments with a mark at the present moment."""
    picture = PIL.Image.new("RGB", (WIDTH, FILM_HEIGHT + STRIP_HEIGHT), "white")
    picture.paste(frame)
    draw, font = PIL.ImageDraw.Draw(picture), PIL.ImageFont.load_default(13)
    labels = list(dict.fromkeys(segment.label for segment in timeline.segments))
    left, right, top, row = 72, WIDTH - 10, FILM_HEIGHT + 14, 26

    def place(time: float) -> float:
        return left + (right - left) * time / timeline.duration

    for number, label in enumerate(labels):
        draw.text((left - 6, top + row * number + 10), label, "black", font, anchor="rm")
        draw.line((left, top + row * number + 10, right, top + row * number + 10), "#dddddd")
    bottom = top + row * len(labels)
    for segment in timeline.segments:
        y = top + row * labels.index(segment.label)
        draw.rectangle((place(segment.start), y, place(segment.end), y + 20), COLOURS[segment.label])
    for second in range(0, int(timeline.duration) + 1, 2):
        draw.text((place(second), bottom + 8), f"{second} s", "black", font, anchor="mm")
    draw.line((place(seconds), top - 4, place(seconds), bottom), "black", 2)
    return picture


def write_moving_picture(path: Path, pictures: list[PIL.Image.Image], milliseconds: int) -> None:
    """Write pictures as an animation that repeats."""
    first, *others = pictures
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0, quality=70, method=4)
    print(f"{path}: {len(pictures)} pictures, {np.ceil(path.stat().st_size / 1000):.0f} kB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
