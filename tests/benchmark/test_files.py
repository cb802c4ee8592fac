"""The benchmark's many files: that every path labels all of them, in order, and is found out where it does not."""

from dataclasses import replace

import pytest
import torch

from timesformer_hf.benchmark import files as benchmark_files
from timesformer_hf.benchmark.cases import CASES, FILES_PATHS, Case, Clip, select_cases
from timesformer_hf.benchmark.files import make_workload
from timesformer_hf.benchmark.measuring import Environment, Stopwatch, measure
from timesformer_hf.benchmark.results import CaseResult, PathResult
from timesformer_hf.inference.prefetching import PrefetchedSequence


pytest.importorskip("av", reason="makes and decodes videos")

TINY = {
    "num_frames": 4,
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 6,
}
CASE = Case(
    "tiny-files",
    "files-to-labels",
    "some files",
    (),
    FILES_PATHS,
    TINY,
    batch_size=2,
    clip=Clip(64, 48, 1),
    num_files=5,
)


@pytest.fixture
def workload(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_files, "DISTINCT_FILES", 3)
    return make_workload(CASE, Environment("cpu", 1, 0, tmp_path))


def measured(workload, *names: str) -> dict[str, PathResult]:
    paths = [PathResult(name, benchmark_files.PATHS[name].role) for name in names]
    result = CaseResult(CASE.name, CASE.about, CASE.kind, paths=paths)
    measure(result, workload, repetitions=1, stopwatch=Stopwatch())
    return {path.name: path for path in paths}


@pytest.mark.parametrize("name", FILES_PATHS)
def test_every_path_agrees_with_the_reference(workload, name):
    if "torchcodec" in name or name == "built-in-pipeline":
        pytest.importorskip("torchcodec")
    path = measured(workload, name)[name]
    assert (path.status, len(path.seconds)) == ("measured", 1), path
    if path.role != "limit":
        assert path.difference < 1e-2


def test_files_beyond_the_distinct_ones_repeat(workload):
    labels = workload.reference()
    assert labels.shape == (5, 6)
    assert torch.equal(labels[:2], labels[3:])
    assert not torch.allclose(labels[0], labels[1], atol=1e-4)


def test_wrong_order_is_found_out(workload, monkeypatch):
    """As by a reader that begins with the last."""
    monkeypatch.setattr(benchmark_files, "LEAST_TOLERANCE", 0)
    ordered = PrefetchedSequence.__getitem__
    monkeypatch.setattr(PrefetchedSequence, "__getitem__", lambda self, index: ordered(self, len(self) - 1 - index))
    paths = measured(workload, "ours", "ours-serial")
    assert [paths[name].status for name in ("ours", "ours-serial")] == ["failed", "measured"]
    assert "disagrees with the reference" in paths["ours"].reason


def test_cases_over_files_are_large_and_not_among_the_quick_ones():
    rows = [case for case in CASES if case.kind == "files-to-labels"]
    assert [case.num_files for case in rows] == [200, 200]
    assert all(set(case.paths) <= set(benchmark_files.PATHS) for case in rows)
    assert not {case.name for case in rows} & {case.name for case in select_cases()}  # they take minutes


def test_arithmetic_is_of_all_files(workload, tmp_path):
    one = make_workload(replace(CASE, num_files=1, batch_size=1), Environment("cpu", 1, 0, tmp_path))
    assert workload.multiply_accumulates == 5 * one.multiply_accumulates
