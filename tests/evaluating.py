"""Runs of `timesformer-hf evaluate` in this process, for several files: fixtures, results and how to compare them."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from clips import moving_pattern, write_video
from tiny_models import make_keen_model

from timesformer_hf import TimesformerVideoProcessor
from timesformer_hf.cli import main


pa = pytest.importorskip("pyarrow", reason="the results of videos are a Parquet file")
pq = pytest.importorskip("pyarrow.parquet", reason="the results of videos are a Parquet file")
pytest.importorskip("matplotlib", reason="the confusion matrix is drawn")

LABELS = ["running", "sitting", "jumping", "falling", "sleeping", "waving", "spinning"]
OUTPUTS = ["confusion_matrix.png", "label_errors.csv", "results.json", "videos.parquet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """What it calls its labels is in another order than the alphabet's, which folders come in."""
    folder = tmp_path_factory.mktemp("model")
    make_keen_model(num_labels=7, id2label=dict(enumerate(LABELS))).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    TimesformerVideoProcessor(
        size={"shortest_edge": 32}, crop_size=size, num_frames=4, frame_sampling_rate=2
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven videos of three classes, all different."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(7):
        path = folder / LABELS[[0, 4, 2][number % 3]] / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        pattern = moving_pattern(12 + 9 * number, *((48, 64) if number % 2 else (64, 40)))
        write_video(path, [frame // (1 + number % 3) for frame in pattern])
    return folder


@pytest.fixture
def broken_data(data, tmp_path) -> Path:
    folder = shutil.copytree(data, tmp_path / "videos")
    (folder / "jumping" / "broken.mp4").write_text("no video at all")
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """For runs in this process, whose files are compared byte for byte: the same sums in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def good(data: Path) -> list[Path]:
    return sorted(data.rglob("*.mp4"))


def arguments(model, data, out, *others) -> list[str]:
    flags = ["--model", model, "--data", data, "--output_dir", out, "--num_workers", 0, "--use_cpu", *others]
    return ["evaluate", *map(str, flags)]


def read(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def files(out: Path) -> dict[str, bytes]:
    """The outputs, and nothing else is there."""
    assert sorted(path.name for path in out.iterdir()) == OUTPUTS
    return {name: (out / name).read_bytes() for name in OUTPUTS}


def assert_same_results(got: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """
    Check the results of runs whose processes differ: numbers to 1e-5, all else to the letter.

    With another number of threads the sums in the model come in another order. Logits of about 10 then differ by some
    units of float32's last place, 1e-6, and scores by no more than logits do.
    """
    assert got["confusion_matrix.png"] == expected["confusion_matrix.png"]
    tables = [pq.read_table(pa.BufferReader(contents["videos.parquet"])) for contents in (got, expected)]
    assert tables[0].schema.equals(tables[1].schema, check_metadata=True)
    assert tables[0].to_pylist() == nearly(tables[1].to_pylist())
    assert json.loads(got["results.json"]) == nearly(json.loads(expected["results.json"]))
    errors = [list(csv.DictReader(io.StringIO(contents["label_errors.csv"].decode()))) for contents in (got, expected)]
    assert [row["path"] for row in errors[0]] == [row["path"] for row in errors[1]]


def nearly(value):
    """What equals `value` where its numbers that aren't whole differ by 1e-5 at most."""
    if isinstance(value, dict):
        return {name: nearly(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [nearly(entry) for entry in value]
    return pytest.approx(value, rel=0, abs=1e-5) if isinstance(value, float) else value


@pytest.fixture(scope="module")
def unbroken(model, data, tmp_path_factory) -> dict[str, bytes]:
    """The results of one process without interruption, in batches of two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("unbroken")
    assert main(arguments(model, data, out, "--batch_size", 2)) == 0
    torch.set_num_threads(threads)
    return files(out)
