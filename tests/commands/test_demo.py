"""`timesformer-hf demo`: its words, and what it says before it serves anything."""

import contextlib
import socket

import pytest

from timesformer_hf.cli import main


@pytest.fixture
def served(monkeypatch) -> list:
    """What would be served. The user ends it at once."""
    calls = []

    @contextlib.contextmanager
    def serving(*arguments):
        calls.append(arguments)
        yield "http://127.0.0.1:1234/"

    def wait(self, timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr("timesformer_hf.demo.server.serving", serving)
    monkeypatch.setattr("timesformer_hf.commands.demo.threading.Event.wait", wait)
    return calls


def test_only_this_machine_is_served_and_the_user_ends_it(served, capsys):
    assert main(["demo", "--device", "cpu"]) == 0
    assert served == [([], "127.0.0.1", None, 500, "cpu")]
    assert "The page is at http://127.0.0.1:1234/ (end it with Ctrl+C)" in capsys.readouterr().out


def test_options(served):
    words = "--model a --model b --host 0.0.0.0 --port 65530 --max-upload 5 --device cpu"
    assert main(["demo", *words.split()]) == 0
    assert served == [(["a", "b"], "0.0.0.0", 65530, 5, "cpu")]


def test_a_port_that_is_taken(served, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 2
    assert f"timesformer-hf: port {port} is taken; the next free one is --port " in capsys.readouterr().err
    assert served == []


@pytest.mark.parametrize("words", [["--port", "0"], ["--port", "65536"], ["--max-upload", "0"], ["--host"]])
def test_words_that_are_wrong(words, served):
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", *words])
    assert exit_info.value.code == 2


def test_a_model_that_is_none(monkeypatch, capsys):
    monkeypatch.setattr("timesformer_hf.demo.server.check_packages", lambda *args: None)
    assert main(["demo", "--model", "/no/such/model", "--device", "cpu"]) == 2
    assert "can't load the model /no/such/model" in capsys.readouterr().err
