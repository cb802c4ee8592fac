"""What the Ray engine does besides Ray: its actor, how many of them, chunks that are lost, addresses that are wrong."""

import os
import pickle
import socket
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from clips import moving_pattern, write_video
from tiny_models import LABELS, save_classifier

from timesformer_hf.cli import main
from timesformer_hf.scale import ray_engine
from timesformer_hf.scale.corpus_run import CorpusRun, run_here
from timesformer_hf.scale.ray_engine import Actors, Attempts, RayActor, RayEngine, plan_actors
from timesformer_hf.scale.video_worker import VideoRow, VideoWorker, WorkerSettings


pa = pytest.importorskip("pyarrow", reason="Ray Data hands out Arrow tables")
pq = pytest.importorskip("pyarrow.parquet", reason="tables of labels are Parquet files")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    """Seven, the third of them broken."""
    clips = tmp_path_factory.mktemp("clips")
    videos = [str(write_video(clips / f"{i}.mp4", moving_pattern(12 + i))) for i in range(7)]
    (clips / "2.mp4").write_text("no video")
    return videos


def make_chunks(videos: list[str], batch_size: int) -> list:
    return list(CorpusRun(batch_size, lambda source: False, batches_in_chunk=2).pending_chunks(videos))


def without_times(rows: list[VideoRow]) -> list[tuple]:
    return [(row.source, row.video, row.error, row.predictions) for row in rows]


class TestActor:
    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_its_rows_are_those_of_the_command(self, folder, videos, batch_size, tmp_path):
        settings = WorkerSettings(folder, batch_size=batch_size)
        worker = VideoWorker(settings)
        expected = [row for rows in run_here(worker, make_chunks(videos, batch_size)) for row in rows]
        execution = worker.describe_execution()
        told = WorkerSettings(folder, batch_size=batch_size, kernels=execution["kernels"], weights=worker.weights)
        actor, found = RayActor(told, str(tmp_path), Attempts().add), []
        for chunk in make_chunks(videos, batch_size):
            table = actor(pa.table({"chunk": [pickle.dumps(chunk)]}))
            assert table.column("failure").to_pylist() == [None]
            found += pickle.loads(table.column("rows")[0].as_py())
        assert actor.worker.describe_execution() == execution
        assert [row.video for row in found] == videos
        assert [row.error is None for row in found] == [True, True, False, True, True, True, True]
        assert without_times(found) == without_times(expected)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (WorkerSettings("/no/such/model"), "can't load the model /no/such/model"),
            (WorkerSettings(None, weights="0" * 16), "has other weights"),
        ],
    )
    def test_what_is_not_about_a_video_is_returned(self, settings, message, tmp_path):
        table = RayActor(settings, str(tmp_path), Attempts().add)(pa.table({"chunk": [pickle.dumps([])]}))
        (failure,) = table.column("failure").to_pylist()
        assert message in failure


class FakeEngine(RayEngine):
    """An engine whose actors die at some videos. It notes the sizes of the chunks."""

    def __init__(self, deadly: set[str]):
        super().__init__(None, Actors(1, "cpu", 1, 1), WorkerSettings(None))
        self.deadly, self.sizes, self.alone = deadly, [], []

    def _compute(self, chunks, alone=False):
        self.alone.append(alone)
        for chunk in chunks:
            rows = [row for batch in chunk for row in batch]
            self.sizes.append(len(rows))
            if not self.deadly & {row.video for row in rows}:
                yield [VideoRow(row.source, row.video, predictions=[{"label": "a", "score": 1}]) for row in rows]


@pytest.fixture
def without_ray(monkeypatch):
    """The actors compute in this process, which is a cluster of two cores."""

    def compute(self, chunks, alone=False):
        actor = RayActor(self.settings, os.getcwd(), Attempts().add)
        for chunk in chunks:
            (row,) = actor(pa.table({"chunk": [pickle.dumps(chunk)]})).to_pylist()
            if row["failure"]:
                raise ValueError(row["failure"])
            yield pickle.loads(row["rows"])

    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray_engine, "connected", lambda address: nullcontext(cluster))
    monkeypatch.setattr(ray_engine, "check_machines", lambda ray, model: None)
    monkeypatch.setattr(RayEngine, "_compute", compute)


ON_RAY = ["--engine", "ray", "--num-actors", "2"]


class TestCommands:
    """Each gives the same with the engine, but for the times."""

    def test_classify(self, folder, videos, tmp_path, without_ray):
        for name, more in (("here", ["--threads", "1"]), ("ray", ON_RAY)):
            out = ["--out", str(tmp_path / f"{name}.parquet"), "--batch-size", "3"]
            assert main(["classify", *videos, "--model", folder, "--device", "cpu", *out, *more]) == 1
        tables = [pq.read_table(tmp_path / f"{name}.parquet") for name in ("here", "ray")]
        here, there = (table.drop_columns(["decode_seconds", "model_seconds"]) for table in tables)
        assert here.schema.equals(there.schema, check_metadata=True)
        assert here.equals(there)

    def test_embed(self, folder, videos, tmp_path, without_ray):
        for name, more in (("here", ["--threads", "1"]), ("ray", ON_RAY)):
            out = ["--out", str(tmp_path / f"{name}.parquet"), "--batch-size", "3"]
            assert main(["embed", *videos, "--model", folder, "--device", "cpu", *out, *more]) == 1
        assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "ray.parquet").read_bytes()

    @pytest.mark.parametrize("more", [[], ["--time_audit", "--views", "paper"]])
    def test_evaluate(self, folder, videos, tmp_path, without_ray, more):
        lines = [f"{video},{LABELS[i % 2]}" for i, video in enumerate(videos)]
        (tmp_path / "t.csv").write_text("\n".join(["path,label", *lines]))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for name, engine in (("here", []), ("ray", ["--engine", "ray", "--num_actors", "2"])):
            options = ["--model", folder, "--data", str(tmp_path / "t.csv"), "--output_dir", str(tmp_path / name)]
            options += ["--use_cpu", "--batch_size", "3", "--frame_sampling_rate", "2", "--num_workers", "0"]
            assert main(["evaluate", *options, *more, *engine]) == 0
        torch.set_num_threads(threads)
        for name in ("results.json", "videos.parquet"):
            assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()
        assert "2.mp4: can't be decoded" in (tmp_path / "ray" / "results.json").read_text()

    def test_timeline(self, folder, videos, tmp_path, without_ray, capsys):
        """Of whole films, the batches of whose windows are the same."""
        found = {}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for name, engine in (("here", []), ("ray", ON_RAY)):
            out = ["--out", str(tmp_path / name / "{name}.json"), "--out", str(tmp_path / name / "{name}.csv")]
            options = ["--model", folder, "--device", "cpu", "--window", "0.2", "--batch-size", "2"]
            assert main(["timeline", *videos, *options, *out, *engine]) == 1
            assert "2.mp4: can't be decoded" in capsys.readouterr().err
            found[name] = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        torch.set_num_threads(threads)
        assert len(found["here"]) == 12
        assert found["here"] == found["ray"]


class TestLostChunks:
    def test_only_the_deadly_videos_have_an_error(self):
        """The other videos of their chunk are tried one by one."""
        engine = FakeEngine({"b.mp4", "e.mp4"})
        rows = [row for some in engine.run(make_chunks([f"{name}.mp4" for name in "abcdef"], 1)) for row in some]
        assert sorted(row.video for row in rows) == [f"{name}.mp4" for name in "abcdef"]
        failed = {row.video: row.error for row in rows if row.error}
        assert set(failed) == {"b.mp4", "e.mp4"}
        assert "the process that read it died, 3 times" in failed["b.mp4"]
        assert engine.sizes == [2, 2, 2, 1, 1, 1, 1]
        assert engine.alone == [False, True]

    def test_an_actor_gives_up_after_three_attempts(self, folder, videos, tmp_path):
        attempts = Attempts()
        (chunk, *_) = make_chunks(videos, 1)
        part = [chunk[0]]  # has attempts of its own
        for expected in (2, 2, 2, 0, 0):
            actor = RayActor(WorkerSettings(folder), str(tmp_path), attempts.add)
            table = actor(pa.table({"chunk": [pickle.dumps(chunk)]}))
            assert table.column("failure").to_pylist() == [None]
            assert len(pickle.loads(table.column("rows")[0].as_py())) == expected
        assert len(pickle.loads(actor(pa.table({"chunk": [pickle.dumps(part)]})).column("rows")[0].as_py())) == 1

    def test_chunks_are_taken_as_they_are_needed(self, monkeypatch):
        monkeypatch.setattr(ray_engine, "_CHUNKS_AT_ONCE", 2)
        taken = []

        def chunks():
            for chunk in make_chunks([f"{i}.mp4" for i in range(20)], 1):
                taken.append(chunk)
                yield chunk

        assert len(next(FakeEngine(set()).run(chunks()))) == 2
        assert len(taken) == 2


class TestActors:
    @pytest.mark.parametrize(
        ("there", "expected"),
        [
            ((2, 0), Actors(1, "cpu", 2, 2)),
            ((16, 0), Actors(4, "cpu", 4, 4)),
            ((2, 0, 2), Actors(2, "cpu", 1, 1)),
            ((2, 0, 5), Actors(5, "cpu", 1, 0.4)),
            ((64, 8), Actors(8, "cuda", 8, 8)),
            ((64, 8, 2), Actors(2, "cuda", 32, 32)),
            ((8, 4, None, "cpu"), Actors(2, "cpu", 4, 4)),
        ],
    )
    def test_they_are_sized_by_the_machines(self, there, expected):
        assert plan_actors(*there) == expected

    def test_each_needs_a_gpu(self):
        with pytest.raises(ValueError, match="--num-actors 3: an actor needs a GPU of its own, and Ray has 2 GPUs"):
            plan_actors(16, 2, 3)


class TestOptions:
    def test_an_address_that_does_not_answer_is_named(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            ray_engine._check_answers(f"127.0.0.1:{port}")
        with pytest.raises(ConnectionError, match=rf"--address 127.0.0.1:{port}: nothing answers there .*refused"):
            ray_engine._check_answers(f"127.0.0.1:{port}")

    def test_without_ray_the_extra_is_named(self, folder, videos, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "ray", None)
        out = str(tmp_path / "out.parquet")
        assert main(["classify", videos[0], "--model", folder, "--out", out, "--engine", "ray"]) == 2
        assert (
            '--engine ray needs ray[data], not installed: pip install "timesformer_hf[ray]"' in capsys.readouterr().err
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--engine", "ray"], "--engine is for a table; give --out"),
            (["--out", "o.parquet", "--num-actors", "2"], "--num-actors is for Ray; give --engine ray too"),
            (["--out", "o.parquet", "--address", "auto"], "--address is for Ray; give --engine ray too"),
        ],
    )
    def test_options_that_do_not_fit(self, folder, videos, arguments, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["classify", videos[0], "--model", folder, *arguments]) == 2
        assert message in capsys.readouterr().err
