"""Outputs are written completely or not at all, and what killed runs leave is removed, unless a live run writes it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from repository import REPOSITORY

from timesformer_hf.output.atomic import (
    check_output_file,
    check_output_folder,
    output_file,
    output_folder,
    remove_folder,
    remove_leftovers,
)


KILLED = """
import os, signal, sys
from pathlib import Path
from timesformer_hf.output.atomic import output_file, output_folder, remove_folder

path = Path(sys.argv[1])
def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
{}
"""
IN_A_FOLDER = "with output_folder(path) as new: (new / 'half').touch(); die()"
IN_A_FILE = "with output_file(path) as new: new.touch(); die()"
WHILE_REPLACING = """
rename = Path.rename
Path.rename = lambda old, new: die() if Path(new) == path else rename(old, new)
with output_folder(path, overwrite=True, own_files=("config.json",)) as new: (new / "config.json").write_text("new")
"""
WHILE_REMOVING = """
import shutil
shutil.rmtree = die
remove_folder(path)
"""
WAITS = """
with output_folder(path) as new:
    print("writing", flush=True)
    sys.stdin.readline()
"""


def killed(path: Path, action: str) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED.format(action), str(path)], cwd=REPOSITORY, timeout=60)
    assert process.returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestKilledRuns:
    @pytest.mark.parametrize("action", [IN_A_FOLDER, IN_A_FILE])
    @pytest.mark.parametrize("check", [check_output_file, check_output_folder])
    def test_next_run_removes_what_is_left(self, action, check, tmp_path):
        killed(tmp_path / "out.x", action)
        (hidden,) = tmp_path.iterdir()
        assert hidden.name.startswith(".out.x.")
        check(tmp_path / "other")  # any output in this folder
        assert not list(tmp_path.iterdir())

    def test_output_folder_removes_it_too(self, tmp_path):
        killed(tmp_path / "out", IN_A_FOLDER)
        with output_folder(tmp_path / "out"):
            pass
        assert names(tmp_path) == ["out"]

    def test_output_that_was_moved_away_comes_back(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "config.json").write_text("old")
        killed(tmp_path / "out", WHILE_REPLACING)
        assert not (tmp_path / "out").exists()
        with pytest.raises(FileExistsError, match="out exists"):
            check_output_folder(tmp_path / "out")
        assert names(tmp_path) == ["out"]
        assert (tmp_path / "out" / "config.json").read_text() == "old"

    def test_a_folder_disappears_at_once(self, tmp_path):
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts" / "settings.json").touch()
        killed(tmp_path / "parts", WHILE_REMOVING)
        assert not (tmp_path / "parts").exists()
        remove_leftovers(tmp_path)
        assert not list(tmp_path.iterdir())

    def test_what_a_live_run_writes_stays(self, tmp_path):
        code = KILLED.format(WAITS)
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "out")],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout.readline() == b"writing\n"
            with output_folder(tmp_path / "own"):
                remove_leftovers(tmp_path)
                assert len(list(tmp_path.glob(".*.tmp"))) == 2
            process.communicate(b"\n", timeout=60)
        assert process.returncode == 0
        assert names(tmp_path) == ["out", "own"]

    def test_folders_of_others_stay(self, tmp_path):
        for name in (".out.tmp", ".out.12345678.tmp", ".cache", "out.abcdefgh.tmp"):
            (tmp_path / name / "theirs").mkdir(parents=True)
        (tmp_path / ".out.abcdefgh.tmp").symlink_to(tmp_path / ".cache")
        (tmp_path / ".out.bcdefghi.tmp").touch()
        before = names(tmp_path)
        remove_leftovers(tmp_path)
        assert names(tmp_path) == before
        remove_leftovers(tmp_path / "missing")

    def test_new_folder_that_another_run_has_removed(self, tmp_path, monkeypatch):
        """Between its creation and its lock, it looks like a leftover."""
        made, make = [], tempfile.mkdtemp

        def removed(*place, **settings):
            made.append(make(*place, **settings))
            if len(made) == 2:  # the first one only shows that the folder can be written to
                remove_leftovers(tmp_path)
            return made[-1]

        monkeypatch.setattr(tempfile, "mkdtemp", removed)
        with output_file(tmp_path / "out") as path:
            path.touch()
        assert len(made) == 3
        assert names(tmp_path) == ["out"]

    def test_without_locks_nothing_is_removed(self, tmp_path, monkeypatch):
        import fcntl

        def refuse(*args):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        with output_folder(tmp_path / "out"):
            remove_leftovers(tmp_path)
            assert len(names(tmp_path)) == 1
        assert names(tmp_path) == ["out"]


class TestFullDisk:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    @pytest.mark.parametrize("output", [output_file, output_folder])
    def test_message_names_the_output(self, output, number, tmp_path):
        message = rf"^{tmp_path}/out can't be written, and no part of it stays: {os.strerror(number)}$"
        with pytest.raises(OSError, match=message) as error_info, output(tmp_path / "out"):
            raise OSError(number, "Error writing bytes")
        assert error_info.value.errno == number
        assert not list(tmp_path.iterdir())

    def test_no_room_for_the_temporary_folder(self, tmp_path, monkeypatch):
        def full(*place, **settings):
            raise OSError(errno.ENOSPC, "No space left on device", "hidden")

        monkeypatch.setattr(tempfile, "mkdtemp", full)
        with pytest.raises(OSError, match="out can't be written"), output_file(tmp_path / "out"):
            pass

    def test_other_errors_stay_as_they_are(self, tmp_path):
        with pytest.raises(PermissionError, match="mine"), output_file(tmp_path / "out"):
            raise PermissionError(errno.EACCES, "mine")


def test_removing_a_folder(tmp_path):
    shutil.copytree(Path(__file__).parent, tmp_path / "a")
    remove_folder(tmp_path / "a")
    assert not list(tmp_path.iterdir())
