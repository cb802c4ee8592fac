"""Frame indices: the originals' by the numbers of their own code (shared facts), and what every policy must keep."""

import pytest
import transformers
from packaging import version
from transformers.video_utils import VideoMetadata, default_sample_indices_fn

from timesformer_hf.video.video_sampling import (
    FRAME_SAMPLING,
    has_variable_rate,
    sample_frame_indices,
    uniform,
    uniform_in_time,
)


EXAMPLES = [
    # policy, total_num_frames, num_frames, frame_sampling_rate, fps, indices
    ("original", 300, 8, 32, 30, [0, 36, 72, 109, 145, 182, 218, 255]),
    ("original", 100, 8, 32, 30, [0, 36, 72, 99, 99, 99, 99, 99]),
    ("original", 300, 8, 32, None, [0, 36, 72, 109, 145, 182, 218, 255]),
    ("original", 600, 8, 32, 60, [0, 73, 146, 219, 292, 365, 438, 511]),
    ("segments", 40, 8, None, None, [2, 7, 12, 17, 22, 26, 31, 36]),
    ("segments", 1, 8, None, None, [0] * 8),
    ("uniform", 16, 4, None, None, [0, 4, 8, 12]),
    ("uniform", 132, 8, None, None, [0, 16, 33, 49, 66, 82, 99, 115]),
    ("uniform", 3, 8, None, None, [0, 1, 2, 2, 2, 2, 2, 2]),
    ("center", 16, 4, 2, None, [4, 6, 8, 10]),
    ("center", 300, 8, 32, 30, [37, 69, 101, 133, 165, 197, 229, 261]),
    ("center", 5, 4, 2, None, [0, 2, 4, 4]),
    ("center", 1, 3, 32, None, [0, 0, 0]),
]


@pytest.mark.parametrize(("policy", "total", "frames", "rate", "fps", "expected"), EXAMPLES)
def test_examples_of_indices(policy, total, frames, rate, fps, expected):
    indices = sample_frame_indices(
        total_num_frames=total, num_frames=frames, frame_sampling=policy, frame_sampling_rate=rate, fps=fps
    )
    assert indices == expected


@pytest.mark.parametrize("policy", FRAME_SAMPLING)
@pytest.mark.parametrize("total", [1, 2, 7, 8, 9, 31, 300])
@pytest.mark.parametrize("frames", [1, 8, 96])
@pytest.mark.parametrize("rate", [1, 4, 32])
def test_every_policy_gives_indices_in_order(policy, total, frames, rate):
    indices = sample_frame_indices(
        total_num_frames=total, num_frames=frames, frame_sampling=policy, frame_sampling_rate=rate, fps=25.0
    )
    assert len(indices) == frames
    assert indices == sorted(indices)
    assert 0 <= indices[0] <= indices[-1] < total
    assert all(type(index) is int for index in indices)


@pytest.mark.skipif(
    version.parse(transformers.__version__) < version.parse("5.23"),
    reason="older transformers step by whole frames and miss the end of the video",
)
@pytest.mark.parametrize(("total", "frames"), [(8, 8), (16, 4), (250, 8), (299, 16), (97, 96)])
def test_built_in_default_is_the_same_uniform(total, frames):
    native = default_sample_indices_fn(VideoMetadata(total_num_frames=total, fps=25.0), num_frames=frames)
    assert sample_frame_indices(total_num_frames=total, num_frames=frames) == native.tolist()


@pytest.mark.parametrize(("rate", "expected"), [(None, "uniform"), (2, "center")])
def test_a_rate_alone_means_the_middle(rate, expected):
    numbers = {"total_num_frames": 100, "num_frames": 8, "frame_sampling_rate": rate}
    assert sample_frame_indices(**numbers) == sample_frame_indices(**numbers, frame_sampling=expected)


@pytest.mark.parametrize("arguments", [{"num_frames": 2.5}, {"num_frames": "8"}, {"frame_sampling_rate": 1.5}])
def test_numbers_must_be_integers(arguments):
    with pytest.raises(TypeError, match="must be an integer"):
        sample_frame_indices(**{"total_num_frames": 10, "num_frames": 8} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frame_sampling": "random"}, "frame_sampling='random' must be one of 'uniform', 'center', 'original', 'seg"),
        ({"frame_sampling": "center"}, "frame_sampling='center' needs a frame_sampling_rate"),
        ({"frame_sampling": "original"}, "frame_sampling='original' needs a frame_sampling_rate"),
        ({"num_frames": 0}, "num_frames=0 must be at least 1"),
        ({"total_num_frames": 0}, "total_num_frames=0 must be at least 1"),
        ({"frame_sampling_rate": -1}, "frame_sampling_rate=-1 must be at least 1"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_frame_indices(**{"total_num_frames": 10, "num_frames": 8} | arguments)


class TestByTime:
    def test_equals_uniform_at_a_constant_rate(self):
        for total, frames, clips in [(100, 7, 1), (30, 30, 1), (41, 6, 3), (3, 1, 1)]:
            expected = [
                index
                for clip in range(clips)
                for index in uniform(total_num_frames=total, num_frames=frames, clip=clip, num_clips=clips)
            ]
            times = [number / 25 for number in range(total)]
            found = uniform_in_time(frame_times=times, duration=total / 25, num_frames=frames, num_clips=clips)
            assert found == expected

    def test_by_hand(self):
        """Half a second of ten frames, and a last one that is shown for half a second."""
        times = [*(i / 20 for i in range(10)), 0.5]
        assert uniform_in_time(frame_times=times, duration=1.0, num_frames=4) == [0, 5, 10, 10]

    @pytest.mark.parametrize(
        ("times", "variable"),
        [
            ([0.0], False),
            ([0.0, 0.5], False),
            ([round(i / 30, 3) for i in range(1000)], False),
            ([round(i / 120, 3) for i in range(1000)], False),
            ([i / 30 for i in range(1000) if i != 500], True),
            ([i / 30 for i in range(50)] + [50 / 30 + i / 15 for i in range(50)], True),
        ],
    )
    def test_variable_rate(self, times, variable):
        assert has_variable_rate(times) is variable
