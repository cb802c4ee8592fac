"""`timesformer-hf bench`: its arithmetic by hand, with a clock that is told the time; tiny models, nothing timed."""

import io
import json
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.timesformer.configuration_timesformer import TimesformerConfig as NativeConfig
from transformers.models.timesformer.modeling_timesformer import (
    TimesformerForVideoClassification as NativeForVideoClassification,
)

from timesformer_hf import TimesformerConfig
from timesformer_hf.benchmark import cases, memory
from timesformer_hf.benchmark.cases import CASES, KINDS, Case, Clip, all_labels, select_cases
from timesformer_hf.benchmark.matrix_products import (
    Product,
    count,
    model_products,
    prepare_products,
    split,
    training_products,
)
from timesformer_hf.benchmark.measuring import (
    Environment,
    Prepared,
    Stopwatch,
    UnavailableError,
    Workload,
    calls_for,
    measure,
)
from timesformer_hf.benchmark.memory import peak_in_child, start_peak
from timesformer_hf.benchmark.models import ModelBench, random_weights, relative_difference
from timesformer_hf.benchmark.page import case_text, duration, performance_page, plotted_rows
from timesformer_hf.benchmark.plot import look
from timesformer_hf.benchmark.results import (
    CaseResult,
    PathResult,
    Results,
    Spread,
    read_results,
    times_faster,
    write_results,
)
from timesformer_hf.benchmark.training import difference_of_gradients
from timesformer_hf.cli import main
from timesformer_hf.commands.bench import check_device, paths_of
from timesformer_hf.model.cost import count_multiply_accumulates


TINY = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_labels": 16,
}
TINY_CASES = {
    case.name: case
    for case in (
        Case("tiny", "inference", "a tiny one", ("fast",), ("ours", "built-in", "matrix-products"), TINY),
        Case("tiny-onnx-bf16", "inference", "a tiny one", (), ("ours", "onnxruntime"), TINY, dtype="bf16"),
        Case("tiny-fp8", "inference", "a tiny one in fp8", (), ("ours",), TINY, dtype="fp8"),
        Case(
            "tiny-training",
            "training",
            "a tiny step",
            (),
            ("ours", "ours-checkpointed", "built-in", "matrix-products"),
            TINY,
            batch_size=3,
        ),
        Case(
            "tiny-decode", "decode", "a tiny clip", (), ("ours", "pyav-sequential", "full-decode"), clip=Clip(64, 48, 2)
        ),
        Case(
            "tiny-label",
            "file-to-label",
            "a tiny one",
            (),
            ("ours", "built-in-pyav", "full-decode-and-products"),
            TINY,
            clip=Clip(64, 48, 2),
        ),
    )
}


@pytest.fixture
def tiny_cases(monkeypatch):
    monkeypatch.setattr(cases, "CASES", tuple(TINY_CASES.values()))


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Environment:
    return Environment("cpu", 1, 0, tmp_path_factory.mktemp("bench"))


class FakeTime:
    """A clock that only stands still or is pushed, and notes who pushed it."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def worker(self, name: str, *seconds: float):
        """What takes each of these times in turn, the last one again and again."""
        left = list(seconds)

        def run() -> str:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return "the result"

        return run

    @property
    def stopwatch(self) -> Stopwatch:
        return Stopwatch(clock=lambda: self.now)


def make_workload(prepare: dict, difference=None, **settings) -> Workload:
    return Workload(
        prepare=prepare,
        reference=lambda: "the result",
        difference=difference or (lambda got, expected: float(got != expected)),
        tolerance=lambda path: 0.0,
        **settings,
    )


def make_result(*paths: tuple[str, str]) -> CaseResult:
    return CaseResult("case", "about it", "inference", [PathResult(name, role) for name, role in paths])


OURS, PEER, LIMIT = ("ours", "ours"), ("slow twin", "peer"), ("floor", "limit")


class TestMeasuring:
    def test_slow_twin(self):
        """Ours and a peer that takes 1.5 times as long at first, and later twice as long."""
        time = FakeTime()
        ours, peer = time.worker("ours", 2, 2, 2, 2, 4), time.worker("slow twin", 9, 9, 3, 4, 8)
        floor = time.worker("floor", 1)
        runs = {"ours": ours, "slow twin": peer, "floor": floor}
        workload = make_workload({name: lambda run=run: Prepared(run) for name, run in runs.items()})
        result = make_result(OURS, PEER, LIMIT)
        measure(result, workload, 3, time.stopwatch)
        agreement, warm_up = ["ours", "slow twin"], ["ours", "slow twin", "floor"]
        assert time.calls == agreement + warm_up + ["ours", "slow twin", "floor"] * 3
        assert [path.seconds for path in result.paths] == [[2, 2, 4], [3, 4, 8], [1, 1, 1]]
        first, second, limit = result.paths
        assert times_faster(first, second) == Spread(median=2.0, lower=1.75, upper=2.0)
        assert times_faster(second, first).median == 0.5
        assert result.fastest("ours") is first
        assert result.fastest("limit") is limit
        assert not result.failed

    def test_ratio_is_of_pairs(self):
        """The machine gets slower and slower; the ratio of each pair stays, the one of any two others doesn't."""
        ours, peer = PathResult(*OURS, seconds=[1, 10, 100]), PathResult(*PEER, seconds=[3, 20, 300])
        assert times_faster(ours, peer) == Spread(median=3.0, lower=2.5, upper=3.0)

    def test_short_calls_are_timed_together(self):
        time = FakeTime()
        workload = make_workload({"ours": lambda: Prepared(time.worker("ours", 0.03))})
        result = make_result(OURS)
        measure(result, workload, 2, time.stopwatch)
        assert result.paths[0].calls == 4  # the least number that takes a tenth of a second
        assert len(time.calls) == 1 + 1 + 2 * 4
        assert result.paths[0].seconds == pytest.approx([0.03, 0.03])

    @pytest.mark.parametrize(("seconds", "calls"), [(5.0, 1), (0.1, 1), (0.099, 2), (1e-9, 1000), (0.0, 1000)])
    def test_calls(self, seconds, calls):
        assert calls_for(seconds) == calls

    @pytest.mark.parametrize("difference", [1.0, float("nan")])
    def test_disagreement_is_not_timed(self, difference):
        time = FakeTime()
        wrong = time.worker("slow twin", 1)
        workload = make_workload(
            {"ours": lambda: Prepared(time.worker("ours", 1)), "slow twin": lambda: Prepared(wrong, lambda: "else")},
            difference=lambda got, expected: 0.0 if got == expected else difference,
        )
        result = make_result(OURS, PEER)
        measure(result, workload, 2, time.stopwatch)
        ours, peer = result.paths
        assert "slow twin" not in time.calls
        assert (peer.status, peer.seconds) == ("failed", [])
        assert "disagrees with the reference" in peer.reason
        assert result.failed
        assert len(ours.seconds) == 2

    def test_missing_and_broken(self):
        """Each is listed with its reason; that a peer breaks is no failure of the run, that ours does is one."""

        def missing():
            raise UnavailableError("it isn't installed")

        def broken():
            raise RuntimeError("first line\nand more")

        workload = make_workload({"ours": lambda: Prepared(lambda: "the result"), "a": missing, "b": broken})
        result = make_result(OURS, ("a", "peer"), ("b", "peer"))
        measure(result, workload, 1)
        assert [path.status for path in result.paths] == ["measured", "missing", "failed"]
        assert result.paths[1].reason == "it isn't installed"
        assert result.paths[2].reason == "RuntimeError: first line"
        assert not result.failed
        text = case_text(result)
        assert "- `a` missing: it isn't installed" in text
        assert "- `b` failed: RuntimeError: first line" in text
        result = make_result(OURS)
        measure(result, make_workload({"ours": broken}), 1)
        assert result.failed

    def test_breaks_while_timed(self):
        left = [lambda: "the result", lambda: None, lambda: None]
        workload = make_workload({"ours": lambda: Prepared(lambda: left.pop(0)())})
        result = make_result(OURS)
        measure(result, workload, 5, Stopwatch(clock=iter(range(100)).__next__))
        assert (result.paths[0].status, result.paths[0].seconds) == ("failed", [])

    def test_what_does_not_fit_is_not_run(self):
        def peak_bytes(name: str) -> int:
            if name == "slow twin":
                raise MemoryError("not enough memory")
            return 100

        prepared = []
        workload = make_workload(
            {
                name: lambda name=name: prepared.append(name) or Prepared(lambda: "the result")
                for name in ("ours", "slow twin", "floor")
            },
            peak_bytes=peak_bytes,
        )
        result = make_result(OURS, PEER, LIMIT)
        measure(result, workload, 1)
        assert prepared == ["ours", "floor"]
        assert [path.peak_bytes for path in result.paths] == [100, None, None]
        assert "not enough memory" in result.paths[1].reason

    def test_waits_for_the_device(self):
        """Before the first look at the clock and before the last one."""
        events = []
        watch = Stopwatch(clock=lambda: events.append("clock") or 0.0, synchronize=lambda: events.append("wait"))
        watch.seconds(lambda: events.append("run"), calls=2)
        assert events == ["wait", "clock", "run", "run", "wait", "clock"]

    def test_progress(self):
        steps = []
        workload = make_workload({"ours": lambda: Prepared(lambda: "the result")})
        measure(make_result(OURS), workload, 4, progress=lambda: steps.append(1))
        assert len(steps) == 2 + 4


class TestSpread:
    def test_by_hand(self):
        assert Spread.of([4, 1, 3, 2, 5]) == Spread(median=3, lower=2, upper=4)
        assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)

    def test_as_numpy(self):
        values = np.random.default_rng(0).random(10)
        spread = Spread.of(values.tolist())
        assert [spread.lower, spread.median, spread.upper] == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]))

    def test_of_nothing(self):
        with pytest.raises(ValueError, match="no values"):
            Spread.of([])


class TestTable:
    def test_rows(self):
        assert len({case.name for case in CASES}) == len(CASES)
        for case in CASES:
            table = paths_of(case.kind)
            assert set(case.paths) <= set(table), case.name
            assert {"ours", "limit"} <= {table[name].role for name in case.paths}, case.name
        assert {case.kind for case in CASES} == set(KINDS)

    def test_what_the_issue_asks_for(self):
        names = {case.name for case in CASES}
        for variant in ("base", "hr", "l"):
            for size in (1, 8, 32):
                for dtype in ("fp32", "bf16", "fp16", "int8", "fp8"):
                    assert f"inference-{variant}-b{size}-{dtype}" in names
        assert {"joint-8f-fp32", "joint-96f-fp32", "decode-1080p", "file-to-label-1080p-bf16"} <= names

    def test_select(self):
        def names(*selectors: str) -> list[str]:
            return [case.name for case in select_cases(selectors)]

        assert names() == ["inference-base-b1-fp32", "decode-small", "import-package"]
        assert names("import-model", "decode-small") == ["decode-small", "import-model"]  # in the table's order
        assert names("inference+base+fp32") == [f"inference-base-b{size}-fp32" for size in (1, 8, 32)]
        assert names("joint-*-bf16+memory") == [f"joint-{frames}f-bf16" for frames in (8, 16, 32, 64, 96)]
        assert names("*") == [case.name for case in CASES]

    @pytest.mark.parametrize("selector", ["inference-base-b2-fp32", "decode+fp32", "", "quick+"])
    def test_unknown(self, selector):
        with pytest.raises(ValueError, match="No case is") as error:
            select_cases([selector])
        assert all(label in str(error.value) for label in all_labels(CASES))


class TestMatrixProducts:
    @pytest.mark.parametrize("scheme", ["divided_space_time", "joint_space_time", "space_only"])
    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_counted(self, scheme, batch_size):
        """What torch counts of the built-in model."""
        config = TimesformerConfig(**TINY, attention_type=scheme)
        native = NativeForVideoClassification(NativeConfig.from_dict(config.to_dict())).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            native(torch.zeros(batch_size, 4, 3, 32, 32))
        assert count(model_products(config, batch_size)) == counter.get_total_flops() // 2

    def test_training_counted(self):
        config = TimesformerConfig(**TINY)
        native = NativeForVideoClassification(NativeConfig.from_dict(config.to_dict()))
        with FlopCounterMode(display=False) as counter:
            native(torch.zeros(2, 4, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
        assert count(training_products(model_products(config, 2))) == counter.get_total_flops() // 2

    def test_none_is_left_out(self):
        """The paper's arithmetic, whatever ours saves of it: at least what our own model takes."""
        config = TimesformerConfig(**TINY)
        assert count(model_products(config, 1)) >= count_multiply_accumulates(config)

    @pytest.mark.parametrize("product", [Product(7, 5, 3, 4, weights=False), Product(1, 11, 3, 4, weights=True)])
    @pytest.mark.parametrize("largest", [1, 4, 9, 50, 1000])
    def test_split(self, product, largest):
        parts = split(product, largest)
        assert count(parts) == product.multiply_accumulates
        assert all(part.groups * part.rows * part.columns <= max(largest, part.columns) for part in parts)
        assert all((part.inner, part.columns) == (product.inner, product.columns) for part in parts)

    @pytest.mark.parametrize(("dtype", "quantized"), [("float32", None), ("bfloat16", None), ("float32", torch.int8)])
    def test_runs_what_is_counted(self, dtype, quantized):
        products = model_products(TimesformerConfig(**TINY), 2)
        run = prepare_products(products, getattr(torch, dtype), "cpu", quantized)
        with FlopCounterMode(display=False) as counter:
            run()
        integer = 0 if quantized is None else sum(p.multiply_accumulates for p in products if p.weights and p.rows > 16)
        assert counter.get_total_flops() // 2 in (count(products), count(products) - integer)


class TestModels:
    def test_no_weight_is_zero(self, here):
        bench = ModelBench(TINY_CASES["tiny"], here)
        assert random_weights(bench.config, here) == bench.weights  # found again
        for name, parameter in bench.ours().named_parameters():
            assert (parameter != 0).float().mean() > 0.99, name

    @pytest.mark.parametrize("scheme", ["divided_space_time", "joint_space_time"])
    def test_reference_is_the_built_in_model(self, scheme, here, monkeypatch):
        """Its attention a few queries at a time; every clip of the batch."""
        monkeypatch.setattr("timesformer_hf.benchmark.models.REFERENCE_QUERIES", 5)
        case = replace(TINY_CASES["tiny"], batch_size=5, config=TINY | {"attention_type": scheme})
        bench = ModelBench(case, here)
        with torch.no_grad():
            expected = bench.built_in()(bench.clips).logits
        assert relative_difference(bench.reference_logits(), expected) < 1e-5
        assert relative_difference(expected[:1], expected[1:2]) > 0.01  # clips differ

    def test_difference(self):
        expected = torch.tensor([[1.0, -4.0]])
        assert relative_difference(torch.tensor([[1.5, -4.0]]), expected) == 0.125
        assert relative_difference(torch.tensor([[float("nan"), -4.0]]), expected) != 0
        with pytest.raises(ValueError, match="reference"):
            relative_difference(torch.zeros(1, 3), expected)

    def test_difference_of_gradients(self):
        expected = {"loss": torch.tensor(2.0), "a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
        other_loss = expected | {"loss": torch.tensor(2.2)}
        assert difference_of_gradients(other_loss, expected) == pytest.approx(0.1)
        other_gradient = expected | {"b": torch.tensor([[5.0]])}
        assert difference_of_gradients(other_gradient, expected) == pytest.approx(0.2)
        with pytest.raises(ValueError, match="other parameters"):
            difference_of_gradients({"loss": torch.tensor(2.0)}, expected)


class TestMemory:
    @pytest.fixture
    def child_here(self, monkeypatch, capsys) -> None:
        """The child runs in this process."""

        def run_child(command, *, input: str, **kwargs) -> SimpleNamespace:
            monkeypatch.setattr(sys, "stdin", io.StringIO(input))
            memory.main()
            return SimpleNamespace(returncode=0, stdout=capsys.readouterr().out, stderr="")

        monkeypatch.setattr(memory.subprocess, "run", run_child)

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_peak(self):
        read_peak = start_peak("cpu")
        array = np.ones(100 * 2**20, np.uint8)
        del array
        assert 99 * 2**20 < read_peak() < 130 * 2**20  # the kernel counts in bunches of pages

    def test_scores_of_the_built_in(self, here):
        """2,049 tokens of 4 heads have 64 MiB of scores, which the built-in model holds more than once."""
        config = TINY | {"attention_type": "joint_space_time", "num_frames": 32, "image_size": 64}
        case = replace(TINY_CASES["tiny"], kind="joint", config=config)
        assert peak_in_child(case, here, "built-in") > 2 * 64 * 2**20

    @pytest.mark.parametrize(
        ("error", "raised", "message"),
        [
            (UnavailableError("no bf16"), UnavailableError, "no bf16"),
            (ImportError("no torchao"), ImportError, "no torchao"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: 17 GB\nmore"), MemoryError, "17 GB$"),
            (torch.OutOfMemoryError("CUDA out of memory"), MemoryError, "CUDA out of memory"),
            (KeyError("key"), RuntimeError, "key"),
        ],
    )
    def test_errors_of_a_child(self, error, raised, message, here, child_here, monkeypatch):
        def fail(*arguments):
            raise error

        monkeypatch.setattr(memory, "peak_of", fail)
        with pytest.raises(raised, match=message):
            peak_in_child(TINY_CASES["tiny-decode"], here, "ours")

    def test_task_of_a_child(self, here, child_here, monkeypatch):
        """It gets the case as it is, the clip in it too."""
        seen = []

        monkeypatch.setattr(memory, "peak_of", lambda *task: seen.append(task) or 7)
        for case in TINY_CASES.values():
            assert peak_in_child(case, here, "ours", calls=2) == 7
            got, environment, path, calls = seen.pop()
            assert json.dumps(asdict(got)) == json.dumps(asdict(case))
            assert (got.clip, environment, path, calls) == (case.clip, here, "ours", 2)

    def test_killed_child(self, here, monkeypatch):
        killed = SimpleNamespace(returncode=-9, stdout="", stderr="")
        monkeypatch.setattr(memory.subprocess, "run", lambda *args, **kwargs: killed)
        with pytest.raises(MemoryError, match="signal 9"):
            peak_in_child(TINY_CASES["tiny"], here, "ours")


def frames_differ(file: Path) -> float:
    """The least mean difference of two frames that follow on each other, in grey levels."""
    import av

    with av.open(str(file)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    return min(np.abs(one - other).mean() for one, other in pairwise(frames))


def test_no_frame_passes_for_its_neighbour(here):
    pytest.importorskip("av", reason="encodes a video")
    from timesformer_hf.benchmark.videos import OTHER_CONVERSION, generated_clip

    assert frames_differ(generated_clip(Clip(160, 120, 2), here)) > 2 * OTHER_CONVERSION


def test_every_encoding_of_the_clips(here):
    pytest.importorskip("av", reason="encodes a video")
    from timesformer_hf.benchmark.cases import CASES
    from timesformer_hf.benchmark.videos import ENCODINGS, decode_ours, decode_sequentially, generated_clip

    used = {case.clip.encoding for case in CASES if case.clip}
    assert used == set(ENCODINGS)
    for encoding in ENCODINGS:
        try:
            path = generated_clip(Clip(96, 64, 1, encoding), here)
        except UnavailableError:
            continue
        np.testing.assert_array_equal(decode_ours(path, [0, 9, 24]), decode_sequentially(path, [0, 9, 24]))


@pytest.fixture
def results() -> Results:
    timed = make_result(OURS, PEER, LIMIT)
    for path, seconds in zip(timed.paths, ([0.1, 0.2, 0.4], [0.3, 0.4, 1.6], [0.05, 0.1, 0.2]), strict=True):
        path.seconds = seconds
    timed.paths[0].peak_bytes, timed.paths[1].peak_bytes = 100 * 2**20, 400 * 2**20
    timed.paths[0].difference, timed.paths[0].tolerance = 1e-6, 1e-3
    timed.paths.append(PathResult("other", "peer", "missing", "it isn't installed"))
    timed.multiply_accumulates = 10**12
    skipped = CaseResult("fp8 case", "about fp8", "inference", skipped="no such hardware")
    machine = {
        "cpu": "a CPU",
        "instructions": ["AVX2"],
        "cores": 2,
        "load": 0.1,
        "memory_bytes": 2**34,
        "gpu": None,
        "system": "Linux",
    }
    settings = {"device": "cpu", "threads": 2, "repetitions": 3}
    versions = {"torch": "2.15"}
    return Results(machine, versions, "2026-01-02T03:04:05+00:00", "timesformer-hf bench", settings, [timed, skipped])


class TestResults:
    def test_round_trip(self, results, tmp_path):
        write_results(tmp_path / "results.json", results)
        assert read_results(tmp_path / "results.json") == results
        assert performance_page([read_results(tmp_path / "results.json")]) == performance_page([results])

    def test_json_says_what_follows(self, results, tmp_path):
        write_results(tmp_path / "results.json", results)
        case = json.loads((tmp_path / "results.json").read_text())["cases"][0]
        assert case["paths"][0]["seconds"] == [0.1, 0.2, 0.4]
        assert case["paths"][0]["median_seconds"] == 0.2
        assert case["paths"][0]["share_of_limit"]["median"] == pytest.approx(0.5)
        (comparison,) = case["comparisons"]
        assert comparison["times_faster"] == pytest.approx({"median": 3.0, "lower": 2.5, "upper": 3.5})
        assert comparison["share_of_memory"] == 0.25

    def test_page(self, results):
        page = performance_page([results, results], "performance.svg")
        assert page.count("## a CPU, 2 threads, 2026-01-02") == 2
        assert "(performance.svg)" in page
        row = next(line for line in page.splitlines() if line.startswith("| case ") and "slow twin" in line)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells == ["case", "ours", "200 ms", "slow twin", "400 ms", "3.00x [2.50, 3.50]", "50 %"]
        for text in ("torch 2.15", "Skipped: no such hardware", "0.25x", "100 MiB", "10.0 TMAC/s", "1.0e-06"):
            assert text in page, text

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("no json", "is no JSON"),
            ("[]", 'has no "format"'),
            ('{"format": "something else"}', 'has no "format"'),
            ('{"format": "timesformer-hf bench", "format_version": 99}', "version 99"),
            ('{"format": "timesformer-hf bench", "format_version": 1}', "damaged"),
            ('{"format": "timesformer-hf bench", "format_version": 1, "cases": [7]}', "damaged"),
        ],
    )
    def test_not_ours(self, content, message, tmp_path, capsys):
        file = tmp_path / "results.json"
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_results(file)
        pytest.importorskip("matplotlib", reason="the page has a chart")
        assert main(["bench", str(file), "--page", str(tmp_path / "page.md")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "page.md").exists()

    @pytest.mark.parametrize(
        ("seconds", "text"), [(12.345, "12.3 s"), (345.6, "346 s"), (0.0123, "12.3 ms"), (0.0000004, "0.4 µs")]
    )
    def test_duration(self, seconds, text):
        assert duration(seconds) == text

    def test_command(self, results, tmp_path, capsys):
        pytest.importorskip("matplotlib", reason="the page has a chart")
        files = [str(tmp_path / f"{name}.json") for name in "ab"]
        for file in files:
            write_results(file, results)
        page, plot = tmp_path / "page.md", tmp_path / "page.svg"
        assert main(["bench", *files, "--page", str(page)]) == 0
        assert page.read_text() == performance_page([results, results], "page.svg")
        drawn = plot.read_bytes()
        assert main(["bench", *files, "--page", str(page)]) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert main(["bench", *files, "--page", str(page), "--overwrite"]) == 0
        assert plot.read_bytes() == drawn
        assert [row.label for row in plotted_rows([results, results])] == ["case (cpu)", "case (cpu)"]
        assert plotted_rows([results])[0].ratios["slow twin"].median == pytest.approx(3)

    def test_nothing_to_draw(self, results, tmp_path, capsys):
        pytest.importorskip("matplotlib", reason="the page has a chart")
        del results.cases[0]
        write_results(tmp_path / "results.json", results)
        assert main(["bench", str(tmp_path / "results.json"), "--page", str(tmp_path / "page.md")]) == 0
        assert "no chart" in capsys.readouterr().err
        assert "svg" not in (tmp_path / "page.md").read_text()


@pytest.mark.usefixtures("tiny_cases")
class TestCommand:
    def test_list(self, capsys):
        assert main(["bench", "--list"]) == 0
        out = capsys.readouterr().out
        assert all(case.name in out and case.about in out for case in TINY_CASES.values())
        assert "peer: the model built into transformers, eager" in out

    def test_models(self, tmp_path, capsys):
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

    def test_videos(self, capsys):
        pytest.importorskip("av", reason="decodes a video")
        assert main(["bench", "--cases", "decode", "file-to-label", "--device", "cpu", "--repetitions", "1"]) == 0
        printed = capsys.readouterr().out
        assert "failed" not in printed
        assert "`pyav-sequential`" in printed
        assert "`built-in-pyav`" in printed

    def test_disagreement(self, monkeypatch, tmp_path, capsys):
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

    def test_broken_case(self, monkeypatch, capsys):
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
            (["--device", "abacus"], "--device abacus: can't compute there"),
            (["--device", "meta"], "--device meta: can't compute there"),
            (["some.json"], "for --page or --plot"),
            (["some.json", "--page", "page.md", "--cases", "tiny"], "--cases are for measuring"),
            (["nowhere.json", "--page", "page.md"], "nowhere.json"),
            (["--page", "page.html"], "must end in .md"),
            (["--plot", "plot.pdf"], "must end in .svg or .png"),
        ],
    )
    def test_mistakes(self, arguments, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(cases, "QUICK", "fast")
        assert main(["bench", *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_output_that_exists(self, tmp_path, capsys):
        (tmp_path / "results.json").write_text("mine")
        assert main(["bench", "--cases", "tiny", "--out", str(tmp_path / "results.json")]) == 2
        assert (tmp_path / "results.json").read_text() == "mine"

    def test_paths(self, tmp_path):
        out = tmp_path / "results.json"
        arguments = ["--cases", "tiny", "--paths", "built-in", "--device", "cpu", "--repetitions", "1"]
        assert main(["bench", *arguments, "--out", str(out)]) == 0
        assert [path.name for path in read_results(out).cases[0].paths] == ["built-in"]


def test_device_that_is_not_there():
    assert check_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="this machine has cpu"):
            check_device("cuda")


def test_torchcodec_is_listed_as_missing(monkeypatch, here):
    pytest.importorskip("av", reason="encodes a video")
    from timesformer_hf.benchmark.videos import make_workload as make_decoding

    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    case = replace(TINY_CASES["tiny-decode"], paths=("ours", "torchcodec"))
    result = make_result(OURS, ("torchcodec", "peer"))
    measure(result, make_decoding(case, here), 1)
    assert [path.status for path in result.paths] == ["measured", "missing"]
    assert "pip install torchcodec" in result.paths[1].reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("tiny_cases")
def test_on_cuda(tmp_path):
    out = tmp_path / "results.json"
    assert main(["bench", "--cases", "inference", "training", "--device", "cuda", "--out", str(out)]) == 0
    results = read_results(out)
    assert results.machine["gpu"]
    assert [path.status for path in results.cases[0].paths] == ["measured"] * 3


@pytest.mark.slow
def test_compiled(here):
    """Inductor takes its time."""
    from timesformer_hf.benchmark.inference import make_workload as make_forward

    case = replace(TINY_CASES["tiny"], paths=("ours-compiled", "built-in-compiled"))
    result = make_result(("ours-compiled", "ours"), ("built-in-compiled", "peer"))
    measure(result, make_forward(case, here), 1)
    assert [path.status for path in result.paths] == ["measured", "measured"]


def test_every_peer_has_a_look_of_its_own():
    looks = [look(number) for number in range(25)]
    assert len(set(looks)) == 25
