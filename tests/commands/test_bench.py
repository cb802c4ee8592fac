"""`timesformer-hf bench` with tiny models, nothing timed."""

import pytest
import torch
from tiny_benchmark import TINY_CASES

from timesformer_hf.benchmark import cases
from timesformer_hf.benchmark.results import read_results
from timesformer_hf.cli import main
from timesformer_hf.commands.common import choose_device


@pytest.fixture
def tiny_cases(monkeypatch):
    monkeypatch.setattr(cases, "CASES", tuple(TINY_CASES.values()))


@pytest.mark.usefixtures("tiny_cases")
class TestCommand:
    def test_list_names_every_case_and_path(self, capsys):
        assert main(["bench", "--list"]) == 0
        out = capsys.readouterr().out
        assert all(case.name in out and case.about in out for case in TINY_CASES.values())
        assert "peer: the model built into transformers, eager" in out

    def test_models_are_measured_and_missing_paths_named(self, tmp_path, capsys):
        out = tmp_path / "results.json"
        arguments = ["--cases", "inference", "training", "--device", "cpu", "--threads", "1", "--repetitions", "2"]
        assert main(["bench", *arguments, "--out", str(out)]) == 0
        results = read_results(out)
        assert [case.name for case in results.cases] == ["tiny", "tiny-onnx-bf16", "tiny-fp8", "tiny-training"]
        tiny, onnx, fp8, training = results.cases
        assert [path.status for path in tiny.paths + training.paths] == ["measured"] * 7
        assert all(len(path.seconds) == 2 for path in tiny.paths + training.paths)
        assert [path.status for path in onnx.paths] == ["measured", "missing"]
        assert "fp8 needs a CUDA device" in fp8.skipped
        assert results.settings["threads"] == 1
        assert results.versions["torch"] == torch.__version__.partition("+")[0]
        assert "--cases inference training" in results.command
        printed = capsys.readouterr().out
        assert "`onnxruntime` missing" in printed
        assert "share of the limit" in printed

    def test_decoding_and_labels_are_measured(self, capsys):
        pytest.importorskip("av", reason="decodes a video")
        assert main(["bench", "--cases", "decode", "file-to-label", "--device", "cpu", "--repetitions", "1"]) == 0
        printed = capsys.readouterr().out
        assert "failed" not in printed
        assert "`pyav-sequential`" in printed
        assert "`built-in-pyav`" in printed

    def test_ours_that_disagrees_is_a_failure(self, monkeypatch, tmp_path, capsys):
        """A model of ours with one weight changed."""
        from timesformer_hf.benchmark import models as benchmark_models

        def wrong(bench, dtype=None):
            model = right(bench, dtype)
            with torch.no_grad():
                model.timesformer.encoder.layer[0].temporal_dense.bias[0] += 1
            return model

        right = benchmark_models.ModelBench.ours
        monkeypatch.setattr(benchmark_models.ModelBench, "ours", wrong)
        out = tmp_path / "results.json"
        assert main(["bench", "--cases", "tiny", "--device", "cpu", "--out", str(out)]) == 1
        ours, peer, _ = read_results(out).cases[0].paths
        assert (ours.status, ours.seconds) == ("failed", [])
        assert peer.status == "measured"
        assert "`ours` failed: disagrees with the reference" in capsys.readouterr().out

    def test_a_broken_case_is_a_failure(self, monkeypatch, capsys):
        def broken(self):
            raise RuntimeError("the reference broke")

        monkeypatch.setattr("timesformer_hf.benchmark.models.ModelBench.reference_logits", broken)
        assert main(["bench", "--cases", "tiny", "--device", "cpu"]) == 1
        assert "Failed: RuntimeError: the reference broke" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--cases", "nothing"], "No case is 'nothing'"),
            (["--cases", "tiny", "--paths", "theirs"], "--paths theirs: the chosen cases have ours"),
            (["--device", "abacus"], "--device abacus: torch can't compute there"),
            (["--device", "meta"], "--device meta: torch can't compute there"),
            (["some.json"], "for --page or --plot"),
            (["some.json", "--page", "page.md", "--cases", "tiny"], "--cases are for measuring"),
            (["nowhere.json", "--page", "page.md"], "nowhere.json"),
            (["--page", "page.html"], "must end in .md"),
            (["--plot", "plot.pdf"], "must end in .svg or .png"),
        ],
    )
    def test_mistakes_are_told_before_anything_is_measured(self, arguments, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(cases, "QUICK", "fast")
        assert main(["bench", *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_output_that_exists_stays(self, tmp_path, capsys):
        (tmp_path / "results.json").write_text("mine")
        assert main(["bench", "--cases", "tiny", "--out", str(tmp_path / "results.json")]) == 2
        assert (tmp_path / "results.json").read_text() == "mine"

    def test_only_the_chosen_paths_are_measured(self, tmp_path):
        out = tmp_path / "results.json"
        arguments = ["--cases", "tiny", "--paths", "built-in", "--device", "cpu", "--repetitions", "1"]
        assert main(["bench", *arguments, "--out", str(out)]) == 0
        assert [path.name for path in read_results(out).cases[0].paths] == ["built-in"]


def test_a_device_that_is_not_there_is_refused():
    assert choose_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="this machine has cpu"):
            choose_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("tiny_cases")
def test_models_are_measured_on_cuda(tmp_path):
    out = tmp_path / "results.json"
    assert main(["bench", "--cases", "inference", "training", "--device", "cuda", "--out", str(out)]) == 0
    results = read_results(out)
    assert results.machine["gpu"]
    assert [path.status for path in results.cases[0].paths] == ["measured"] * 3
