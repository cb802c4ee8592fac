"""`timesformer-hf finetune --resume` gives the very weights of a run that nothing broke off."""

import os
import shutil
import signal

import pytest
import torch
from finetuning import (
    STEPS,
    assert_same_weights,
    losses,
    run,
    run_in_process,
    run_until,
    save_data_set,
    weights,
)
from safetensors import SafetensorError

from timesformer_hf.training.callbacks import last_checkpoint
from timesformer_hf.training.trainer import ClipTrainer


pytest.importorskip("datasets")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("no_plots")

KILLED_AT_STEP_6 = """
import os, signal
from timesformer_hf.training.trainer import ClipTrainer

save = ClipTrainer._save_optimizer_and_scheduler

def save_and_die(self, folder):
    if self.state.global_step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, folder)

ClipTrainer._save_optimizer_and_scheduler = save_and_die
"""

DISK_FULL_AFTER_STEP_4 = """
import resource
from timesformer_hf.training.trainer import ClipTrainer

training_step = ClipTrainer.training_step

def limited(self, *args, **kwargs):
    if self.state.global_step == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return training_step(self, *args, **kwargs)

ClipTrainer.training_step = limited
"""


@pytest.fixture(scope="module")
def whole(data, model, tmp_path_factory):
    """A run that nothing breaks off."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plot_training_curves", "plot_confusion_matrix"):
            patch.setattr(f"timesformer_hf.training.report.{name}", lambda path, *arguments: None)
        run(out, data, model=model, **STEPS)
    return out


class TestFolders:
    """8 clips in batches of 2: steps 1 to 4 are the first epoch, 5 to 8 the second, 3 and 6 are saved."""

    @pytest.mark.parametrize(("step", "num_workers"), [(3, 0), (5, 2), (7, 2)])
    def test_in_the_middle_of_an_epoch(self, step, num_workers, whole, data, model, tmp_path):
        """With every augmentation and stochastic depth, bit for bit."""
        settings = {"model": model, "dataloader_num_workers": num_workers} | STEPS
        run_until(tmp_path / "out", data, step, **settings)
        assert last_checkpoint(tmp_path / "out").name == f"checkpoint-{3 * (step // 3)}"
        run(tmp_path / "out", data, resume=True, **settings)
        assert_same_weights(tmp_path / "out", whole)
        assert losses(tmp_path / "out") == losses(whole)

    def test_at_the_end_of_an_epoch_and_with_accumulation(self, data, model, tmp_path):
        settings = {"model": model, "gradient_accumulation_steps": 3, "recipe": "paper-kinetics", "num_train_epochs": 3}
        settings |= {"save_strategy": "steps", "save_steps": 1}
        run(tmp_path / "whole", data, **settings)
        for step in (1, 2):
            run_until(tmp_path / f"{step}", data, step, **settings)
            run(tmp_path / f"{step}", data, resume=True, **settings)
            assert_same_weights(tmp_path / f"{step}", tmp_path / "whole")

    def test_after_a_kill_the_last_whole_checkpoint_counts(self, whole, data, model, tmp_path):
        """SIGKILL while the second checkpoint is being written."""
        process = run_in_process(tmp_path / "out", data, KILLED_AT_STEP_6, model=model, **STEPS)
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert (tmp_path / "out" / "checkpoint-6" / "model.safetensors").exists()
        assert last_checkpoint(tmp_path / "out").name == "checkpoint-3"
        run(tmp_path / "out", data, model=model, resume=True, **STEPS)
        assert_same_weights(tmp_path / "out", whole)

    def test_on_a_full_disk_nothing_half_written_stays(self, whole, data, model, tmp_path):
        """The system refuses the second checkpoint; the first one is whole."""
        process = run_in_process(tmp_path / "out", data, DISK_FULL_AFTER_STEP_4, model=model, **STEPS)
        shown = process.stderr
        assert process.returncode == 2, shown
        assert "checkpoint-6 can't be written" in shown
        assert "Is the disk full? The last whole checkpoint is" in shown
        assert "Traceback" not in shown
        assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-3"]
        run(tmp_path / "out", data, model=model, resume=True, **STEPS)
        assert_same_weights(tmp_path / "out", whole)

    def test_a_full_disk_at_the_end(self, whole, data, model, tmp_path, monkeypatch, capsys):
        """The last checkpoint is whole, and the model can't be written."""
        save = ClipTrainer.save_model

        def full(self, output_dir=None, _internal_call=False):
            if output_dir is None:
                raise SafetensorError("Error while serializing: I/O error: No space left on device")
            save(self, output_dir, _internal_call)

        with monkeypatch.context() as patch:
            patch.setattr(ClipTrainer, "save_model", full)
            run(tmp_path / "out", data, code=2, model=model, **STEPS)
        message = f"{tmp_path}/out can't be written: Error while serializing: I/O error: No space left on device. Is "
        assert message in (shown := capsys.readouterr().err)
        assert "checkpoint-8; the same command with --resume goes on from there" in shown
        run(tmp_path / "out", data, model=model, resume=True, **STEPS)
        assert_same_weights(tmp_path / "out", whole)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_saves_and_says_how_to_go_on(self, number, whole, data, model, tmp_path, capsys):
        before = signal.getsignal(number)
        code = run_until(tmp_path / "out", data, 4, lambda: os.kill(os.getpid(), number), model=model, **STEPS)
        assert code == 128 + number
        assert "checkpoint-5; the same command with --resume goes on from there" in capsys.readouterr().err
        assert signal.getsignal(number) is before
        run(tmp_path / "out", data, model=model, resume=True, **STEPS)
        assert_same_weights(tmp_path / "out", whole)

    def test_workers_answer_their_own_signals(self, data, model, tmp_path):
        """Ctrl-C, which reaches them too, is for the main process to answer; SIGTERM ends one as ever."""
        ends = []

        def action():
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(0)
            ends.append(os.waitpid(child, 0)[1])

        run_until(tmp_path / "out", data, 4, action, model=model, **STEPS)
        assert [os.WTERMSIG(end) for end in ends] == [signal.SIGTERM] * len(ends)
        assert ends
        assert (tmp_path / "out" / "config.json").exists()

    def test_a_second_signal_stops_at_once(self, data, model, tmp_path, capsys):
        def twice():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

        assert run_until(tmp_path / "out", data, 4, twice, model=model, **STEPS) == 143
        assert "checkpoint-3; the same command" in capsys.readouterr().err
        assert not (tmp_path / "out" / "checkpoint-5").exists()

    def test_a_training_is_neither_overwritten_nor_continued_by_accident(self, whole, data, model, capsys):
        before = weights(whole)
        run(whole, data, code=2, model=model)
        assert "holds a training already: go on with --resume" in capsys.readouterr().err
        assert all(torch.equal(before[name], tensor) for name, tensor in weights(whole).items())

    def test_killed_when_the_last_step_was_done(self, data, model, tmp_path):
        """Nothing is left to train, also where the steps don't fill an epoch."""
        settings = {"model": model, "max_steps": 6, "lr_scheduler_type": "constant"} | STEPS
        run(tmp_path / "out", data, **settings)
        before = weights(tmp_path / "out")
        (tmp_path / "out" / "config.json").unlink()
        run(tmp_path / "out", data, resume=True, **settings)
        assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path / "out").items())


class TestStreams:
    """Two shards of 4 and 3 clips in batches of 2: a pass over them has 4 batches."""

    SETTINGS = {"streaming": True, "eval_strategy": "no", "logging_steps": 1, "save_strategy": "steps", "save_steps": 1}

    @pytest.fixture
    def shards(self, data, tmp_path):
        folder = tmp_path / "set"
        save_data_set(data, folder)
        datasets = pytest.importorskip("datasets")
        rows = datasets.Dataset.from_parquet(str(folder / "train.parquet"), cache_dir=str(tmp_path / "cache"))
        (folder / "train.parquet").unlink()
        for shard, part in enumerate((range(4), range(4, 7))):
            rows.select(part).to_parquet(folder / f"train-{shard}.parquet")
        return folder

    @pytest.mark.parametrize(
        ("num_workers", "accumulation", "steps"), [(0, 1, (2, 4, 6, 9, 10)), (2, 1, (6, 9)), (0, 3, (1, 2, 4))]
    )
    def test_from_any_pass_over_the_data(self, num_workers, accumulation, steps, shards, model, tmp_path, monkeypatch):
        """From the first, second and third pass, at an end of one, and with batches that a pass leaves over."""
        monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
        settings = {"model": model, "dataloader_num_workers": num_workers, "max_steps": 10} | self.SETTINGS
        settings |= {"gradient_accumulation_steps": accumulation, "save_total_limit": 100}
        if accumulation > 1:
            settings["max_steps"] = 5
        whole = tmp_path / "whole"
        run(whole, shards, **settings)
        for step in steps:
            out = tmp_path / f"{step}"
            shutil.copytree(whole / f"checkpoint-{step}", out / f"checkpoint-{step}")
            run(out, shards, resume=True, **settings)
            assert_same_weights(out, whole)
            assert losses(out) == losses(whole)
