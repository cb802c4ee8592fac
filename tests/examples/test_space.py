"""The Space runs the command `demo`, with options that the command has."""

import runpy

import pytest
from repository import REPOSITORY

from timesformer_hf.commands import demo


SPACE = REPOSITORY / "examples" / "space"


def test_the_space_serves_the_page_to_everybody(monkeypatch):
    calls = []
    monkeypatch.setattr(demo, "run", lambda args: calls.append(args) or 0)
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(SPACE / "app.py"), run_name="__main__")
    assert exit_info.value.code == 0
    (args,) = calls
    assert (args.host, args.port, args.model) == ("0.0.0.0", 7860, [])


def test_its_header_names_the_file():
    header = (SPACE / "README.md").read_text().split("---\n")[1]
    settings = dict(line.split(": ", 1) for line in header.splitlines())
    assert settings["sdk"] == "gradio"
    assert (SPACE / settings["app_file"]).exists()
    assert "timesformer_hf[demo]" in (SPACE / "requirements.txt").read_text().splitlines()
