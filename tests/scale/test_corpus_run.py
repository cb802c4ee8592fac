"""The chunks of a run: the batches of one that was never interrupted, and what it keeps in memory."""

import tracemalloc

import pytest

from timesformer_hf.scale.corpus_run import CorpusRun, identify


NAMES = [f"s3://bucket/{letter}.mp4" for letter in "abcdefg"]


def batches_of(run: CorpusRun, videos) -> list[list[list[str]]]:
    return [[[row.video[-5] for row in batch] for batch in chunk] for chunk in run.pending_chunks(videos)]


class TestBatches:
    def test_they_follow_the_order(self):
        run = CorpusRun(2, lambda source: False, batches_in_chunk=2)
        assert batches_of(run, NAMES) == [[["a", "b"], ["c", "d"]], [["e", "f"], ["g"]]]
        assert list(run.sources) == [identify(name) for name in NAMES]

    def test_what_is_done_is_left_out_of_its_batch(self):
        """The others don't move into other batches, because that changes the last digits of their results."""
        done = {identify(NAMES[i]) for i in (1, 2, 3, 4)}
        run = CorpusRun(2, done.__contains__, batches_in_chunk=9)
        assert batches_of(run, NAMES) == [[["a"], ["f"], ["g"]]]
        assert len(run.sources) == 7

    def test_a_video_that_comes_twice_is_there_once(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a.mp4").touch()
        run = CorpusRun(1, lambda source: False)
        assert batches_of(run, ["a.mp4", NAMES[1], "./a.mp4", str(tmp_path / "a.mp4"), NAMES[1]]) == [[["a"], ["b"]]]

    def test_videos_are_named_as_they_are_needed(self):
        def endless():
            while True:
                endless.taken += 1
                yield f"s3://bucket/{endless.taken}.mp4"

        endless.taken = 0
        chunks = CorpusRun(4, lambda source: False).pending_chunks(endless())
        assert [len(batch) for batch in next(chunks)] == [4] * 8
        assert endless.taken == 32


def test_a_file_is_another_one_when_it_was_replaced(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("one")
    first = identify(str(path))
    assert identify(str(path)) == first
    path.write_text("three")
    assert identify(str(path)) != first
    path.unlink()
    assert identify(str(path)) not in (first, identify(str(tmp_path / "b.mp4")))


def test_memory_for_each_video(tmp_path):
    """Under 400 bytes, as docs/scale.md says, for 20,000 videos and their rows."""
    pytest.importorskip("pyarrow", reason="tables of labels are Parquet files")
    from timesformer_hf.scale.prediction_table import PredictionParts

    parts = PredictionParts(tmp_path / "parts", {})
    run = CorpusRun(1, parts.places.__contains__)

    def add(numbers: range) -> None:
        for chunk in run.pending_chunks(f"s3://bucket/{i}.mp4" for i in numbers):
            parts.add_rows([row for batch in chunk for row in batch])

    add(range(100))  # loads what it needs
    tracemalloc.start()
    add(range(100, 20_100))
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now / 20_000 < 400
