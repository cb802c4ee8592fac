"""Which frames are drawn for training, by every policy."""

import numpy as np
import pytest

from timesformer_hf.video.random_sampling import RANDOM_SAMPLING, random_frame_indices
from timesformer_hf.video.video_sampling import FRAME_SAMPLING, sample_frame_indices


class TestRandomSampling:
    SETTINGS = {"num_frames": 4, "frame_sampling_rate": 3, "fps": 25.0}

    def draws(self, policy: str, total: int, count: int = 400, **settings) -> set[tuple[int, ...]]:
        rng = np.random.default_rng(0)
        settings = self.SETTINGS | settings
        return {
            tuple(random_frame_indices(total_num_frames=total, frame_sampling=policy, rng=rng, **settings))
            for _ in range(count)
        }

    def test_every_policy_has_a_twin(self):
        assert RANDOM_SAMPLING.keys() == FRAME_SAMPLING.keys()

    @pytest.mark.parametrize("policy", RANDOM_SAMPLING)
    @pytest.mark.parametrize("total", [1, 3, 4, 11, 40])
    def test_indices_are_in_order_and_in_the_video(self, policy, total):
        for indices in self.draws(policy, total, 50):
            assert len(indices) == 4
            assert list(indices) == sorted(indices)
            assert indices[0] >= 0
            assert indices[-1] < total

    def test_uniform_draws_every_phase(self):
        """Every phase, the one that is tested with among them, and equal distances."""
        assert self.draws("uniform", 16) == {(i, i + 4, i + 8, i + 12) for i in range(4)}
        assert self.draws("uniform", 3) == {(0, 1, 2, 2)}

    def test_center_draws_every_start(self):
        """Every start."""
        assert self.draws("center", 16) == {(i, i + 3, i + 6, i + 9) for i in range(7)}
        assert self.draws("center", 5) == {(0, 3, 4, 4)}

    def test_segments_draw_one_frame_each(self):
        """Every choice of one frame a segment, which share their ends: 0 4 8 12 16."""
        found = self.draws("segments", 17, 20_000)
        assert len(found) == 5**4
        assert {indices[1] for indices in found} == {4, 5, 6, 7, 8}

    def test_original_draws_every_start(self):
        """A clip is 3 * 4 / 30 * 25 = 10 frames long, so its frames are 9 / 3 apart; it starts anywhere before 30."""
        assert self.draws("original", 40, 2000) == {(i, i + 3, i + 6, i + 9) for i in range(30)}
        assert self.draws("original", 5) == {(0, 3, 4, 4)}

    @pytest.mark.parametrize("policy", [None, *RANDOM_SAMPLING])
    def test_what_is_tested_with_is_one_of_the_draws(self, policy):
        expected = sample_frame_indices(total_num_frames=17, frame_sampling=policy, **self.SETTINGS)
        assert tuple(expected) in self.draws(policy, 17, 20_000)

    def test_bad_settings_are_refused(self):
        with pytest.raises(ValueError, match="must be one of 'uniform'"):
            self.draws("middle", 10)
        with pytest.raises(ValueError, match="needs a frame_sampling_rate"):
            self.draws("center", 10, frame_sampling_rate=None)
