"""`timesformer-hf plan`."""

import json
import sys

import pytest
from repository import REPOSITORY

from timesformer_hf.cli import main


SAMPLE = str(REPOSITORY / "timesformer_hf" / "samples" / "camera_pan.mp4")
MEASURED = {
    "machine": "a machine",
    "cores": 4,
    "device": "cpu",
    "startup_seconds": 10.0,
    "decode_core_seconds": 0.1,
    "model_seconds": 0.075,
    "video_seconds": 0.1,
}


@pytest.fixture
def saved(tmp_path) -> str:
    """A measurement that `--save` could have written."""
    about = {"measured": MEASURED, "file_bytes": 1e6, "changes": {"int8": MEASURED | {"video_seconds": 0.05}}}
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(about))
    return str(path)


def test_a_plan_from_a_saved_measurement(saved, capsys):
    words = ["plan", "--measured", saved, "--videos", "1e6", "--price", "0.36", "--hours", "10"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "1,000,000 videos on 3 machines (4 cores of a machine): 9.3 hours, price 10.00." in output
    assert "The limit is the model." in output
    rows = {line.split("|")[1].strip(): line for line in output.splitlines() if line.startswith("|")}
    assert "10.0" in rows["as measured"]
    assert "20.0" in rows["int8"]


def test_as_json(saved, capsys):
    assert main(["plan", "--measured", saved, "--videos", "100", "--network", "8", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plans"]["as measured"]
    assert (plan["limit"], plan["seconds_per_video"]) == ("network", 1)  # a megabyte a second


def test_a_measurement_here(tmp_path, monkeypatch, capsys):
    """Of the shipped model on the sample, each part for a moment."""
    from timesformer_hf.scale import plan_measuring

    monkeypatch.setattr(plan_measuring, "_median_seconds", lambda work, seconds, clock: work() or 0.01)
    saved = tmp_path / "measured.json"
    assert main(["plan", SAMPLE, "--videos", "10", "--device", "cpu", "--save", str(saved)]) == 0
    about = json.loads(saved.read_text())
    assert about["measured"]["model_seconds"] == 0.01
    assert about["measured"]["video_seconds"] > 0
    assert {"4 frames", "16 frames", "batches of 8", "frames of 128 x 128"} <= about["changes"].keys()
    assert "A video takes 10.0 ms of one core to decode" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--videos", "0"], "above 0"),
        (["--videos", "10", "--hours", "1", "--machines", "2"], "give one of the two"),
        (["--videos", "10", "--measured", SAMPLE], "was not written by timesformer-hf plan --save"),
        (
            ["--videos", "10", "--measured", "absent.json"],
            "--measured absent.json: there is no such file; plan --save makes it",
        ),
        (["absent.mp4", "--videos", "10"], "absent.mp4: there is no such file"),
        (["https://example.org/a.mp4", "--videos", "10"], "is not a file on this machine"),
        ([str(REPOSITORY / "README.md"), "--videos", "10"], "README.md"),
    ],
)
def test_bad_input(words, message, capsys):
    try:
        code = main(["plan", *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_without_pyarrow(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["plan", SAMPLE, "--videos", "10"]) == 2
    assert capsys.readouterr().err.startswith("timesformer-hf: a Parquet file needs pyarrow")


def test_hours_that_are_too_short(saved, capsys):
    assert main(["plan", "--measured", saved, "--videos", "10", "--hours", "0.001"]) == 2
    assert "too short: the program takes 10 s" in capsys.readouterr().err
