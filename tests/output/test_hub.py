"""A Hub that can't be reached: one line, soon, and what is stored from before still works."""

import socket
import time

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled

from timesformer_hf.cli import main
from timesformer_hf.output import hub
from timesformer_hf.output.hub import HubUnreachableError, hub_or_stored


@pytest.fixture
def unreachable(monkeypatch) -> str:
    """The address of a Hub where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    return address


@pytest.mark.parametrize(
    "words",
    [
        ["classify", "{video}"],
        ["embed", "{video}", "--out", "{folder}/f.parquet"],
        ["evaluate", "--data", "{folder}", "--output_dir", "{folder}/results"],
        ["finetune", "--data", "{data}", "--output_dir", "{folder}/trained", "--report_to", "none"],
    ],
    ids=lambda words: words[0],
)
def test_commands_say_so_in_a_line(words, data, unreachable, tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="embed writes a table")
    pytest.importorskip("matplotlib", reason="evaluate and finetune draw figures")
    names = {"video": next(data.rglob("*.mp4")), "folder": tmp_path, "data": data}
    start = time.monotonic()
    assert main([*(word.format(**names) for word in words), "--model", "nobody/model"]) == 2
    assert time.monotonic() - start < 15
    last = capsys.readouterr().err.splitlines()[-1]
    message = "nobody/model is neither a path here nor stored from before, and the Hub can't be reached"
    assert f"{message} ({unreachable}: " in last


@pytest.mark.parametrize("command", ["info", "export", "convert"])
def test_commands_of_checkpoints_say_so_too(command, unreachable, tmp_path, capsys):
    more = {"info": [], "export": ["--format", "onnx"], "convert": [str(tmp_path / "out")]}[command]
    assert main([command, "nobody/model", *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "nobody/model is neither a path here nor stored from before, and the Hub can't be reached" in line


def test_a_data_set_too(unreachable, tmp_path, capsys):
    pytest.importorskip("datasets", reason="it reads data sets")
    assert main(["finetune", "--data", "nobody/videos", "--model", "x", "--output_dir", str(tmp_path / "out")]) == 2
    assert "nobody/videos is neither a path here nor stored from before" in capsys.readouterr().err.splitlines()[-1]


def test_a_hub_that_never_answers_is_waited_for_a_while_only(monkeypatch):
    monkeypatch.setattr(hub, "_SECONDS", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(HubUnreachableError, match="the Hub can't be reached"), hub_or_stored("nobody/model"):
            raise FileNotFoundError
        assert time.monotonic() - start < 3


def test_stored_files_are_used(unreachable):
    with hub_or_stored("nobody/model"):
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()


def test_local_paths_and_errors_are_left_alone(unreachable, tmp_path):
    with hub_or_stored(tmp_path):
        assert not constants.is_offline_mode()
    with pytest.raises(OSError, match="mine"), hub_or_stored(tmp_path):
        raise OSError("mine")
    with pytest.raises(ValueError, match="mine"), hub_or_stored("nobody/model"):
        raise ValueError("mine")


def test_the_user_may_have_chosen_to_be_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE is set"), hub_or_stored("nobody/model"):
        raise OfflineModeIsEnabled
