"""`timesformer-hf evaluate` after a kill, a signal or a full disk, and two processes against one."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from evaluating import arguments, assert_same_results, files
from killing import KILLED_AFTER_TWO_PARTS

from timesformer_hf.cli import main
from timesformer_hf.commands.evaluate import parse_arguments
from timesformer_hf.evaluation import measuring, scoring
from timesformer_hf.inference.feature_table import FeatureParts


pq = pytest.importorskip("pyarrow.parquet", reason="the results of videos are a Parquet file")


class TestResuming:
    @pytest.fixture
    def broken(self, model, data, tmp_path, monkeypatch) -> Path:
        """The folder of a run that was interrupted after two batches of two videos."""
        write = FeatureParts.write

        def interrupted(self, *args):
            if len(self.places) == 4:
                raise KeyboardInterrupt
            write(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(FeatureParts, "write", interrupted)
            assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 130
        return tmp_path / "out"

    def test_only_the_rest_is_done_and_the_result_is_the_same(self, unbroken, broken, model, data, monkeypatch):
        decoded, load = [], scoring.load_labelled_video
        monkeypatch.setattr(scoring, "load_labelled_video", lambda *args: decoded.append(args[1].name) or load(*args))
        assert main(arguments(model, data, broken, "--batch_size", 2)) == 0
        assert decoded == sorted(map(str, data.rglob("*.mp4")))[4:]
        assert files(broken) == unbroken

    def test_a_killed_run_goes_on(self, unbroken, model, data, tmp_path):
        """By a signal that leaves no time to clean up, while it writes."""
        code = f"""{KILLED_AFTER_TWO_PARTS}
import sys
from timesformer_hf.cli import main

sys.exit(main({arguments(model, data, tmp_path / "out", "--batch_size", 2)!r}))
"""
        process = subprocess.run([sys.executable, "-c", code], timeout=300)
        assert process.returncode == -9
        assert len(list((tmp_path / "out" / "parts").glob("*/*.parquet"))) == 2
        assert not (tmp_path / "out" / "results.json").exists()
        assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 0
        assert_same_results(files(tmp_path / "out"), unbroken)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_says_how_to_go_on(self, number, unbroken, model, data, tmp_path, monkeypatch, capsys):
        """As in `finetune`."""
        write, out = FeatureParts.write, tmp_path / "out"

        def interrupted(self, *args):
            if self.places:
                os.kill(os.getpid(), number)
            write(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(FeatureParts, "write", interrupted)
            try:
                code = main(arguments(model, data, out, "--batch_size", 2))
            except SystemExit as ending:
                code = ending.code
        assert code == 128 + number
        message = "timesformer-hf: interrupted. What is done is kept; the same command goes on from there.\n"
        assert capsys.readouterr().err.endswith(message)
        assert [path.name for path in out.iterdir()] == ["parts"]
        assert main(arguments(model, data, out, "--batch_size", 2)) == 0
        assert files(out) == unbroken

    def test_killed_while_it_removes_its_parts(self, unbroken, model, data, tmp_path, monkeypatch):
        remove = shutil.rmtree

        def interrupted(folder, **settings):
            if any(Path(folder).rglob("settings.json")):
                next(Path(folder).rglob("settings.json")).unlink()
                raise KeyboardInterrupt
            remove(folder, **settings)

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", interrupted)
            assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 130
        assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2, "--overwrite")) == 0
        assert files(tmp_path / "out") == unbroken
        assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]

    def test_what_another_process_has_done_counts(self, unbroken, model, data, tmp_path):
        """One process goes on where the second of two was cut off."""
        options = parse_arguments(arguments(model, data, tmp_path / "out", "--batch_size", 2)[1:])
        second = SimpleNamespace(
            process_index=1,
            num_processes=2,
            is_main_process=False,
            is_local_main_process=False,
            device=torch.device("cpu"),
            wait_for_everyone=lambda: None,
        )
        assert measuring.evaluate_model(options, second) is None
        parts = sorted((tmp_path / "out" / "parts").rglob("*.parquet"))
        assert [part.parent.name for part in parts] == ["00001", "00001"]
        assert sum(pq.read_metadata(part).num_rows for part in parts) == 3  # of 2, 2, 2 and 1: the second and fourth
        assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 0
        assert files(tmp_path / "out") == unbroken

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--views", "paper"], "views was None and now is 'paper'"),
            (["--dtype", "bfloat16"], "dtype was 'float32' and now is 'bfloat16'"),
            (["--average", "logits"], "average was 'probabilities' and now is 'logits'"),
        ],
    )
    def test_other_settings_are_refused(self, broken, model, data, flags, message, capsys):
        assert main(arguments(model, data, broken, *flags)) == 2
        assert message in capsys.readouterr().err

    def test_other_data_are_refused(self, broken, model, data, tmp_path, capsys):
        moved = shutil.copytree(data, tmp_path / "moved")
        assert main(arguments(model, moved, broken)) == 2
        assert f"data was '{data}' and now is '{moved}'" in capsys.readouterr().err

    def test_finished_results_stay(self, unbroken, model, data, tmp_path, capsys):
        assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2)) == 0
        assert main(arguments("/no/such/model", data, tmp_path / "out")) == 2  # told before any work
        assert "results.json exists; give another name, or --overwrite" in capsys.readouterr().err
        assert files(tmp_path / "out") == unbroken
        assert main(arguments(model, data, tmp_path / "out", "--batch_size", 2, "--overwrite")) == 0
        assert files(tmp_path / "out") == unbroken


def test_two_processes_give_the_same_numbers_to_the_last_clip(model, broken_data, tmp_path):
    """
    By gloo. Of seven videos and two that are broken, in batches of two, one process has five and the other four, both
    of the broken ones among them. They have one thread each, the process that was alone has two.
    """
    torch.set_num_threads(2)
    (broken_data / "running" / "also.mp4").write_text("nothing")
    words = ["--batch_size", "2"]
    assert main(arguments(model, broken_data, tmp_path / "one", *words)) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.run(
        [*launcher, "-m", "timesformer_hf", *arguments(model, broken_data, tmp_path / "two", *words)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("7 videos measured, 2 failed") == 1
    for name in ("jumping/broken.mp4", "running/also.mp4"):
        assert process.stderr.count(f"timesformer-hf: {broken_data / name}") == 1
    assert_same_results(files(tmp_path / "two"), files(tmp_path / "one"))
