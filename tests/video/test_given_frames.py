"""Frames that the caller hands over, instead of a file: which of them become the clip, and what is warned of."""

import warnings

import numpy as np
import PIL.Image
import pytest
import torch
from clips import moving_pattern, write_video

from timesformer_hf import TimesformerImageProcessor, TimesformerImageProcessorPil, TimesformerVideoProcessor
from timesformer_hf.video.video_errors import VideoWarning


SIZE = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
FRAMES = np.stack(moving_pattern(24, 32, 32))
FORMS = {
    "array": lambda frames: frames,
    "channels first": lambda frames: frames.transpose(0, 3, 1, 2),
    "tensor": torch.from_numpy,
    "list of arrays": list,
    "list of images": lambda frames: [PIL.Image.fromarray(frame) for frame in frames],
}


def make_processor(**settings) -> TimesformerVideoProcessor:
    return TimesformerVideoProcessor(**SIZE | {"num_frames": 8, "frame_sampling_rate": 4} | settings)


def chosen(processor, frames, **settings) -> list[int]:
    batch = processor(frames, return_metadata=True, **settings)
    return list(batch["video_metadata"][0].frames_indices)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "sampling", [{}, {"frame_sampling": "segments"}, {"frame_sampling": "original"}, {"num_crops": 3}]
)
def test_a_clip_of_the_right_length_is_taken_as_it_is(form, sampling):
    frames = FORMS[form](FRAMES[:8])
    processor = make_processor(**sampling)
    with warnings.catch_warnings():
        warnings.simplefilter("error", VideoWarning)
        got = processor(frames, return_tensors="pt").pixel_values
    whole = make_processor(num_crops=sampling.get("num_crops"))
    assert torch.equal(got, whole(frames, do_sample_frames=False, return_tensors="pt").pixel_values)
    assert chosen(processor, frames) == list(range(8))


def test_the_length_is_that_of_the_call():
    assert chosen(make_processor(), FRAMES[:4], num_frames=4) == [0, 1, 2, 3]
    assert chosen(make_processor(num_frames=4), FRAMES[:8], num_frames=8) == list(range(8))


def test_more_frames_are_sampled_and_so_are_several_clips():
    assert chosen(make_processor(num_frames=4), FRAMES) == [5, 9, 13, 17]
    assert chosen(make_processor(num_frames=4, frame_sampling_rate=1), FRAMES[:4], num_clips=2) == [0, 1, 2, 3] * 2


def test_settings_are_checked_although_nothing_is_sampled():
    with pytest.raises(ValueError, match="frame_sampling_rate=0 must be at least 1"):
        make_processor()(FRAMES[:8], frame_sampling_rate=0)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (FRAMES[:3], r"clip 0 has 3 frames, so 6 of the 8 in its clip are copies of another \(frame_sampling_rate=4;"),
        (FRAMES[:1], "clip 0 has a single frame, so nothing moves in its clip of 8. If it is a picture, give a video"),
        (PIL.Image.fromarray(FRAMES[0]), "has a single frame"),
    ],
)
def test_a_clip_of_mostly_copies_is_a_warning(frames, message):
    with pytest.warns(VideoWarning, match=message):
        make_processor()(frames)


def test_the_warning_names_the_file(tmp_path):
    path = write_video(tmp_path / "short.mp4", list(FRAMES[:8]))
    with pytest.warns(VideoWarning, match=r"short\.mp4 has 8 frames, so 5 of the 8 in its clip are copies"):
        make_processor()(str(path))
    picture = tmp_path / "picture.png"
    PIL.Image.fromarray(FRAMES[0]).save(picture)
    with pytest.warns(VideoWarning, match=r"picture\.png has a single frame"):
        make_processor()(str(picture))


def test_a_few_copies_are_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", VideoWarning)
        make_processor(frame_sampling_rate=1)(FRAMES[:4])  # 4 copies, not more than half
        make_processor(num_frames=1)(FRAMES[:1])
        make_processor()(FRAMES[:2], do_sample_frames=False)


@pytest.mark.parametrize(
    "processor",
    [make_processor(), TimesformerImageProcessor(**SIZE), TimesformerImageProcessorPil(**SIZE)],
    ids=lambda processor: type(processor).__name__,
)
def test_pixels_that_are_scaled_twice_are_a_warning(processor):
    scaled = list((FRAMES[:8] / 255).astype(np.float32))
    with pytest.warns(VideoWarning, match="The pixels of clip 0 are floats from 0 to 1, and do_rescale=True divides"):
        processor(scaled)
    with warnings.catch_warnings():
        warnings.simplefilter("error", VideoWarning)
        processor(scaled, do_rescale=False)
        processor(list(FRAMES[:8].astype(np.float32)))
        processor(list(FRAMES[:8] // 255))  # whole numbers
        processor([np.zeros((32, 32, 3), np.float32)] * 8)  # black either way
