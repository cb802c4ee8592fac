"""Where `convert` writes: all or nothing, and over nothing that is more than an output."""

import os
import subprocess
import sys

import pytest
from tiny_models import HEADS, ORIGINAL, make_model

from timesformer_hf import TimesformerConfig
from timesformer_hf.checkpoints.conversion import convert


class TestOutputFolder:
    def test_existing_is_refused_unless_overwritten(self, tmp_path):
        convert(ORIGINAL, tmp_path / "k", **HEADS)
        before = (tmp_path / "k" / "config.json").read_bytes()
        with pytest.raises(FileExistsError, match="k exists; give another name, or --overwrite"):
            convert(ORIGINAL, tmp_path / "k", num_frames=9, **HEADS)
        assert (tmp_path / "k" / "config.json").read_bytes() == before
        convert(ORIGINAL, tmp_path / "k", num_frames=9, overwrite=True, **HEADS)
        assert TimesformerConfig.from_pretrained(tmp_path / "k").num_frames == 9
        assert sorted(path.name for path in tmp_path.iterdir()) == ["k"]

    def test_only_models_are_overwritten(self, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "thesis.tex").write_text("my life's work")
        for overwrite, message in (
            (False, "exists; give another name"),
            (True, "is not only an output: it contains thesis.tex. It is not overwritten"),
        ):
            with pytest.raises(FileExistsError, match=message):
                convert(ORIGINAL, tmp_path / "thesis", overwrite=overwrite, **HEADS)
        assert (tmp_path / "thesis" / "thesis.tex").exists()

    def test_a_trainers_folder_is_not_overwritten(self, tmp_path):
        """It holds a model, and what a model doesn't need: its checkpoints, one of them the source."""
        make_model().save_pretrained(tmp_path / "run")
        make_model().save_pretrained(tmp_path / "run" / "checkpoint-5")
        (tmp_path / "run" / "optimizer.pt").write_bytes(b"")
        with pytest.raises(FileExistsError, match=r"it contains checkpoint-5, optimizer\.pt"):
            convert(tmp_path / "run" / "checkpoint-5", tmp_path / "run", overwrite=True)
        assert (tmp_path / "run" / "checkpoint-5" / "model.safetensors").exists()

    def test_the_source_itself_can_be_replaced(self, tmp_path):
        model = make_model()
        model.save_pretrained(tmp_path / "a")
        convert(tmp_path / "a", tmp_path / "a", num_frames=6, overwrite=True)
        assert TimesformerConfig.from_pretrained(tmp_path / "a").num_frames == 6
        with pytest.raises(FileExistsError, match=r"is inside .*, which would be replaced"):
            convert(tmp_path / "a" / "model.safetensors", tmp_path / "a", overwrite=True)

    def test_a_link_stays_and_its_folder_is_replaced(self, tmp_path):
        """The folder that a link leads to is replaced, and not the link."""
        convert(ORIGINAL, tmp_path / "k", **HEADS)
        (tmp_path / "link").symlink_to(tmp_path / "k")
        convert(ORIGINAL, tmp_path / "link", num_frames=6, overwrite=True, **HEADS)
        assert (tmp_path / "link").is_symlink()
        assert TimesformerConfig.from_pretrained(tmp_path / "k").num_frames == 6
        (tmp_path / "nowhere").symlink_to(tmp_path / "nothing")
        with pytest.raises(FileExistsError, match="nowhere exists"):
            convert(ORIGINAL, tmp_path / "nowhere", **HEADS)

    def test_only_regular_files_are_overwritten(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.pyth")
        with pytest.raises(FileExistsError, match=r"pipe\.pyth is not a regular file, so it is not overwritten"):
            convert(ORIGINAL, tmp_path / "pipe.pyth", to="original", overwrite=True, **HEADS)

    @pytest.mark.parametrize("to", ["transformers", "original"])
    def test_a_full_disk_leaves_everything_as_it_was(self, to, tmp_path):
        """The system refuses to write a file past 50 kB: nothing stays, and what was there is still there."""
        out = tmp_path / ("k.pyth" if to == "original" else "k")
        convert(ORIGINAL, out, to=to, **HEADS)
        before = digest(tmp_path)
        limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
        limit += "from timesformer_hf.cli import main; sys.exit(main(sys.argv[1:]))"
        arguments = [
            "convert",
            str(ORIGINAL),
            str(out),
            "--to",
            to,
            "--num-attention-heads",
            "4",
            "--overwrite",
        ]
        result = subprocess.run([sys.executable, "-c", limit, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 2, result.stderr
        assert result.stderr.splitlines()[-1].startswith("timesformer-hf: ")  # after warnings of torch or torchao
        assert "Traceback" not in result.stderr
        assert digest(tmp_path) == before

    def test_a_signal_leaves_nothing_half_written(self, tmp_path):
        """By a signal in the middle of writing: nothing of it stays."""
        code = """if True:
            import os, signal, sys
            from timesformer_hf import TimesformerForVideoClassification
            from timesformer_hf.cli import main

            TimesformerForVideoClassification.save_pretrained = lambda *arguments: os.kill(os.getpid(), signal.SIGTERM)
            main(sys.argv[1:])
        """
        arguments = ["convert", str(ORIGINAL), str(tmp_path / "k"), "--num-attention-heads", "4"]
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 143, result.stderr
        assert not list(tmp_path.iterdir())


def digest(folder) -> dict:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
