"""`--engine ray` with Ray itself: the rows of a run without it, and what happens when something dies."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import moving_pattern, write_video
from repository import REPOSITORY
from tiny_models import LABELS, save_classifier

from timesformer_hf import read_features
from timesformer_hf.cli import main
from timesformer_hf.scale import ray_engine


pytestmark = pytest.mark.slow
os.environ["RAY_AUTH_MODE"] = "disabled"  # Ray reads it at the import; a token of the user would be another cluster's
pq = pytest.importorskip("pyarrow.parquet", reason="tables of labels are Parquet files")
ray = pytest.importorskip("ray", reason="needs ray[data]")

TIMES = ["decode_seconds", "model_seconds"]
# Kills the process that opens such a file, as a library that crashes would.
DEADLY = """
import os, sys

def watch(event, args):
    if event == "open" and str(args[0]).endswith("deadly.mp4"):
        os._exit(1)

sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder of 300 clips, every tenth of them broken."""
    clips = tmp_path_factory.mktemp("clips")
    for i in range(300):
        path = clips / f"{i:03d}.mp4"
        if i % 10 == 3:
            path.write_text("no video")
        elif i >= 60:
            shutil.copy(clips / f"{i % 60:03d}.mp4", path)
        else:
            write_video(path, moving_pattern(8 + i % 17, *((48, 64) if i % 2 else (64, 40))))
    return clips


@pytest.fixture(scope="module")
def expected(folder, videos, tmp_path_factory):
    """The rows of a run without an engine."""
    out = tmp_path_factory.mktemp("expected") / "out.parquet"
    assert main(["classify", str(videos), *arguments(folder, out)]) == 1
    return rows_of(out)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a cluster on this machine, with two cores, whose processes die of deadly files."""
    folder = tmp_path_factory.mktemp("deadly")
    (folder / "sitecustomize.py").write_text(DEADLY)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    env = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": f"{folder}:{REPOSITORY}"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", port]
    command += ["--node-ip-address", "127.0.0.1", "--num-cpus", "2", "--include-dashboard", "false"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    for _ in range(600):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", int(port))).close()
            break
        time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)


def arguments(folder: str, out: Path) -> list[str]:
    return ["--model", folder, "--device", "cpu", "--threads", "1", "--out", str(out)]


def rows_of(out: Path):
    """Everything but the times, which are measured, and the metadata."""
    return pq.read_table(out).drop_columns(TIMES).replace_schema_metadata(None)


def actors() -> list[int]:
    """The processes of actors of Ray Data."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"MapWorker" in name:
            found.append(int(folder.name))
    return found


def start_classify(videos, folder: str, out: Path, *more: str) -> subprocess.Popen:
    """The command in a process of its own, with 2 actors."""
    command = [sys.executable, "-m", "timesformer_hf", "classify", str(videos), *arguments(folder, out)]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([*command, "--engine", "ray", "--num-actors", "2", *more], env=env)


def wait_for(ready, process: subprocess.Popen):
    """What `ready` returns as soon as it is true, while the process runs."""
    for _ in range(12_000):
        if found := ready():
            return found
        assert process.poll() is None, "it ended before that"
        time.sleep(0.01)
    raise AssertionError("it never happened")


class TestOnACluster:
    def test_300_clips_have_the_same_rows(self, folder, videos, expected, address, tmp_path, capsys):
        more = ["--engine", "ray", "--num-actors", "2", "--address", address]
        assert main(["classify", str(videos), *arguments(folder, tmp_path / "out.parquet"), *more]) == 1
        assert capsys.readouterr().out == f"{tmp_path}/out.parquet: 300 videos, 30 of them failed\n"
        assert expected.num_rows == 300
        assert rows_of(tmp_path / "out.parquet").equals(expected)
        assert [i for i, error in enumerate(expected.column("error").to_pylist()) if error] == list(range(3, 300, 10))

    def test_evaluations_and_timelines_are_the_same(self, folder, videos, address, tmp_path):
        """Both with one thread, as two actors have them on two cores."""
        some = [str(videos / f"{i:03d}.mp4") for i in range(6)]
        lines = [f"{video},{LABELS[i % 2]}" for i, video in enumerate(some)]
        (tmp_path / "t.csv").write_text("\n".join(["path,label", *lines]))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for name, more in (("here", []), ("ray", ["--engine", "ray", "--address", address])):
            out = tmp_path / name
            options = ["--data", str(tmp_path / "t.csv"), "--output_dir", str(out), "--use_cpu", "--num_workers", "0"]
            number = ["--num_actors", "2"] if more else []
            assert main(["evaluate", "--model", folder, *options, *more, *number]) == 0
            options = ["--out", str(out / "{name}.json"), "--window", "0.2", "--device", "cpu"]
            number = ["--num-actors", "2"] if more else []
            assert main(["timeline", *some, "--model", folder, *options, *more, *number]) == 1
        torch.set_num_threads(threads)
        written = sorted(path.name for path in (tmp_path / "here").iterdir())
        assert written == sorted(path.name for path in (tmp_path / "ray").iterdir())
        assert len([name for name in written if name[0] == "0"]) == 5
        for name in written:
            assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes(), name

    def test_a_machine_that_lacks_the_package_is_named(self, folder, videos, address, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(ray_engine, "_NEEDED", ("timesformer_hf", "no_such_package"))
        more = ["--engine", "ray", "--address", address]
        assert main(["classify", str(videos), *arguments(folder, tmp_path / "out.parquet"), *more]) == 2
        errors = capsys.readouterr().err
        assert (
            f"the machine {os.uname().nodename} lacks no_such_package. Ship it with the job: ray job submit" in errors
        )

    def test_an_actor_is_killed(self, folder, videos, expected, address, tmp_path):
        out = tmp_path / "out.parquet"
        process = start_classify(videos, folder, out, "--address", address)
        wait_for(lambda: list(Path(f"{out}.parts").glob("*0.parquet")), process)
        os.kill(wait_for(actors, process)[0], signal.SIGKILL)
        assert process.wait(timeout=300) == 1
        assert rows_of(out).equals(expected)

    def test_the_driver_is_killed_and_the_run_repeated(self, folder, videos, expected, address, tmp_path):
        out = tmp_path / "out.parquet"
        process = start_classify(videos, folder, out, "--address", address)
        wait_for(lambda: list(Path(f"{out}.parts").glob("*0.parquet")), process)
        process.kill()
        process.wait()
        assert not out.exists()
        assert list(Path(f"{out}.parts").glob("*.parquet"))
        assert main(["classify", str(videos), *arguments(folder, out), "--engine", "ray", "--address", address]) == 1
        assert rows_of(out).equals(expected)

    def test_a_video_that_kills_its_actor_fails_alone(self, folder, videos, expected, address, tmp_path):
        names = [str(videos / f"{i:03d}.mp4") for i in (0, 1, 2)]
        deadly, out = str(shutil.copy(names[0], tmp_path / "deadly.mp4")), tmp_path / "out.parquet"
        inputs = [names[0], names[1], deadly, names[2]]
        assert main(["classify", *inputs, *arguments(folder, out), "--engine", "ray", "--address", address]) == 1
        rows = rows_of(out).to_pylist()
        assert "the process that read it died, 3 times" in rows[2]["error"]
        assert [rows[i] for i in (0, 1, 3)] == expected.to_pylist()[:3]


def test_without_an_address_ray_is_started_and_stopped(folder, videos, tmp_path):
    """Here for features, in batches."""
    some = [str(videos / f"{i:03d}.mp4") for i in range(30)]
    for name, more in (("here", []), ("ray", ["--engine", "ray"])):
        out = tmp_path / f"{name}.parquet"
        assert main(["embed", *some, *arguments(folder, out), "--batch-size", "4", *more]) == 1
    here, there = (read_features(tmp_path / f"{name}.parquet") for name in ("here", "ray"))
    assert here.videos == there.videos
    assert len(here.videos) == 27
    np.testing.assert_array_equal(here.features, there.features)
    assert not ray.is_initialized()
