"""Near-duplicates by blocks of cosines against a plain loop over pairs, and groups against SciPy's components."""

import sys

import numpy as np
import pytest

from timesformer_hf import find_near_duplicates
from timesformer_hf.data import near_duplicates


def planted(number: int = 150, dim: int = 24, copies: int = 60, seed: int = 0, noise: float = 0.25) -> np.ndarray:
    """Random features, some of which are others with noise, or others with the noise of others: chains."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((number, dim))
    for copy in rng.choice(np.arange(1, number), copies, replace=False):
        features[copy] = features[rng.integers(copy)] * rng.uniform(0.1, 9) + noise * rng.standard_normal(dim)
    return features[rng.permutation(number)].astype(np.float32)


def naive(features: np.ndarray, threshold: float) -> tuple[dict, list[set[int]]]:
    """The cosine of each pair, by Python's own loop in float64, and the groups by merging sets."""
    rows = [row.astype(np.float64) for row in features.reshape(len(features), -1)]
    pairs = {}
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            cosine = one @ other / np.sqrt((one @ one) * (other @ other))
            if i != j and cosine >= threshold:
                pairs[i, j] = cosine
    groups: list[set[int]] = []
    for i, j in pairs:
        touching = [group for group in groups if group & {i, j}]
        groups = [group for group in groups if group not in touching] + [{i, j}.union(*touching)]
    return pairs, groups


def groups_of(found) -> list[set[int]]:
    return sorted((set(members.tolist()) for members in found.members()), key=min)


def check_nearest(nearest, pairs: dict, number: int) -> None:
    for video in range(number):
        cosines = {j: cosine for (i, j), cosine in pairs.items() if i == video}
        if not cosines:
            assert nearest.videos[video] == -1
            assert nearest.cosines[video] == -np.inf
        else:
            assert nearest.cosines[video] == pytest.approx(max(cosines.values()), abs=2e-6)
            assert cosines[nearest.videos[video]] == pytest.approx(max(cosines.values()), abs=2e-6)


@pytest.mark.parametrize("block", [7, 64, 2048])
@pytest.mark.parametrize("threshold", [0.8, 0.95, 0.99])
def test_blocks_find_what_a_loop_over_pairs_finds(block, threshold, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_BLOCK", block)
    features = planted()
    pairs, groups = naive(features, threshold)
    assert not [cosine for cosine in pairs.values() if abs(cosine - threshold) < 1e-5]  # which could be either
    splits = np.random.default_rng(1).choice(["train", "validation", None], len(features))
    found = find_near_duplicates(features, threshold, splits)
    assert len(groups) > 3
    assert groups_of(found) == sorted(groups, key=min)
    assert (found.groups >= 0).sum() == sum(map(len, groups))
    check_nearest(found.nearest, pairs, len(features))
    apart = {(i, j): cosine for (i, j), cosine in pairs.items() if splits[i] != splits[j]}
    assert 0 < len(apart) < len(pairs)
    check_nearest(found.nearest_elsewhere, apart, len(features))


def test_groups_are_the_components_of_the_graph():
    """Long chains too, which take many rounds of merging."""
    sparse = pytest.importorskip("scipy.sparse", reason="the oracle of the components")
    rng = np.random.default_rng(0)
    number = 3000
    path = rng.permutation(number)[:1500]
    rows = np.concatenate([path[:-1], rng.integers(0, number, 400)])
    columns = np.concatenate([path[1:], rng.integers(0, number, 400)])
    parents = np.arange(number)
    for part in np.array_split(np.arange(len(rows)), 5):
        near_duplicates._connect(parents, rows[part], columns[part])
    graph = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), (number, number))
    _, expected = sparse.csgraph.connected_components(graph, directed=False)
    same = {(one, other) for one, other in zip(parents.tolist(), expected.tolist(), strict=True)}
    assert len(same) == len(set(parents.tolist())) == len(set(expected.tolist()))
    assert (parents <= np.arange(number)).all()


def test_numbers_follow_the_order_of_the_videos():
    one, other = np.eye(4, dtype=np.float32)[:2]
    found = find_near_duplicates(np.stack([np.eye(4)[2], other, one, other, one, one]))
    assert found.groups.tolist() == [-1, 0, 1, 0, 1, 1]
    assert [members.tolist() for members in found.members()] == [[1, 3], [2, 4, 5]]
    assert found.nearest.videos.tolist() == [-1, 3, 4, 1, 2, 2]
    assert found.nearest_elsewhere is None


@pytest.mark.parametrize("number", [0, 1, 2])
def test_few_videos(number):
    found = find_near_duplicates(np.ones((number, 3), np.float32))
    assert found.groups.tolist() == [[], [-1], [0, 0]][number]
    assert len(found.members()) == number // 2


def test_many_copies_of_one_video_take_little_memory():
    """As of a picture that says that a video is gone. All pairs of 1,500 copies are a million."""
    features = np.concatenate([np.ones((1500, 8)), np.eye(8)]).astype(np.float32)
    found = find_near_duplicates(features)
    assert found.groups.tolist() == [0] * 1500 + [-1] * 8
    assert (found.nearest.videos[:1500] < 1500).all()


def test_features_of_frames_are_compared_as_one_vector():
    features = planted(60, 24, 30)
    one = find_near_duplicates(features, 0.9)
    other = find_near_duplicates(features.reshape(60, 4, 6), 0.9)
    assert (one.groups == other.groups).all()
    assert (one.groups >= 0).any()


def test_very_large_and_very_small_features_have_cosines():
    for scale in (1e-30, 1e30):
        found = find_near_duplicates(np.array([[3, 4], [3.001, 4], [4, -3]], np.float32) * np.float32(scale))
        assert found.groups.tolist() == [0, 0, -1]


class TestIndex:
    @pytest.fixture(autouse=True)
    def faiss(self):
        pytest.importorskip("faiss", reason="the approximate search")

    def test_it_finds_what_the_exact_search_finds(self):
        """Among 6,000 videos, of which a tenth has a near-duplicate."""
        features = planted(6000, 48, 600, noise=0.05)
        exact, index = (find_near_duplicates(features, 0.95, approximate=way) for way in (False, True))
        assert (exact.groups >= 0).sum() > 900
        assert (index.groups == exact.groups).all()
        assert (index.nearest.videos == exact.nearest.videos).mean() > 0.999

    def test_few_videos(self):
        assert find_near_duplicates(np.ones((3, 4), np.float32), approximate=True).groups.tolist() == [0, 0, 0]


class TestBadInput:
    @pytest.mark.parametrize("threshold", [0, 1, 1.5, -0.5, float("nan")])
    def test_thresholds(self, threshold):
        with pytest.raises(ValueError, match=r"must lie between 0 and 1; for copies alone, give 0\.9999"):
            find_near_duplicates(np.eye(3), threshold)

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            (np.ones(3), r"floats \(videos, ...\), got float64 \(3,\)"),
            (np.ones((3, 2), int), r"got int64 \(3, 2\)"),
            (np.array([[1.0, 0], [0, 0]]), "features of video 1 are all zero"),
            (np.array([[1.0, 0], [np.nan, 0]]), "features of video 1 are not finite"),
        ],
    )
    def test_features(self, features, message):
        with pytest.raises(ValueError, match=message):
            find_near_duplicates(features)

    def test_splits(self):
        with pytest.raises(ValueError, match="2 splits for 3 videos"):
            find_near_duplicates(np.eye(3), splits=["train", "test"])

    def test_a_missing_index(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "faiss", None)
        with pytest.raises(ImportError, match=r'faiss-cpu, not installed: pip install "timesformer_hf\[duplicates\]"'):
            find_near_duplicates(np.eye(3), approximate=True)
