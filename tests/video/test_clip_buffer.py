"""The buffer that decoded frames are written into."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from timesformer_hf.video.clip_buffer import ClipBuffer


def picture(value: int, height: int = 4) -> np.ndarray:
    return np.full((height, 6, 3), value, np.uint8)


def test_each_frame_is_at_all_its_places():
    clip = ClipBuffer([30, 10, 30, 20])
    for key in (10, 20, 30):
        assert key in clip
        assert not clip.is_complete
        clip.put(key, picture(key))
    assert clip.is_complete
    assert 40 not in clip
    np.testing.assert_array_equal(clip.frames()[:, 0, 0, 0], [30, 10, 30, 20])


def test_frames_of_several_sizes_are_a_list():
    clip = ClipBuffer([2, 1, 2])
    clip.put(1, picture(1))
    clip.put(2, picture(2, height=8))
    assert [frame.shape[0] for frame in clip.frames()] == [8, 4, 8]
    assert [frame[0, 0, 0] for frame in clip.frames()] == [2, 1, 2]


def test_the_frame_is_copied():
    clip, frame = ClipBuffer([0]), picture(5)
    clip.put(0, frame)
    frame[:] = 0  # as when the decoder uses its memory again
    assert (clip.frames() == 5).all()


def test_several_threads_put_frames():
    clip = ClipBuffer(range(64))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: clip.put(key, picture(key)), range(64)))
    np.testing.assert_array_equal(clip.frames()[:, 0, 0, 0], np.arange(64))
