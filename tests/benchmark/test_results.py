"""Results: what their file and the page of them say."""

import copy
import json

import numpy as np
import pytest
from repository import REPOSITORY
from tiny_benchmark import LIMIT, OURS, PEER, make_result

from timesformer_hf.benchmark.page import duration, performance_page, plotted_rows
from timesformer_hf.benchmark.plot import PlottedRow, plot_ratios
from timesformer_hf.benchmark.results import (
    CaseResult,
    PathResult,
    Results,
    Spread,
    read_results,
    times_faster,
    write_results,
)
from timesformer_hf.cli import main


class TestSpread:
    def test_quartiles_by_hand(self):
        assert Spread.of([4, 1, 3, 2, 5]) == Spread(median=3, lower=2, upper=4)
        assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)

    def test_quartiles_are_numpys(self):
        values = np.random.default_rng(0).random(10)
        spread = Spread.of(values.tolist())
        assert [spread.lower, spread.median, spread.upper] == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]))

    def test_no_values_are_refused(self):
        with pytest.raises(ValueError, match="no values"):
            Spread.of([])


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
    def test_what_is_written_is_read(self, results, tmp_path):
        write_results(tmp_path / "results.json", results)
        assert read_results(tmp_path / "results.json") == results
        assert performance_page([read_results(tmp_path / "results.json")]) == performance_page([results])

    def test_json_holds_medians_and_comparisons(self, results, tmp_path):
        write_results(tmp_path / "results.json", results)
        case = json.loads((tmp_path / "results.json").read_text())["cases"][0]
        assert case["paths"][0]["seconds"] == [0.1, 0.2, 0.4]
        assert case["paths"][0]["median_seconds"] == 0.2
        assert case["paths"][0]["share_of_limit"]["median"] == pytest.approx(0.5)
        (comparison,) = case["comparisons"]
        assert comparison["times_faster"] == pytest.approx({"median": 3.0, "lower": 2.5, "upper": 3.5})
        assert comparison["share_of_memory"] == 0.25

    def test_page_compares_ours_with_the_peer(self, results):
        page = performance_page([results, results], "performance.svg")
        assert page.count("## a CPU, 2 threads, 2026-01-02") == 2
        assert "(performance.svg)" in page
        row = next(line for line in page.splitlines() if line.startswith("| case ") and "slow twin" in line)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells == ["case", "ours", "200 ms", "slow twin", "400 ms", "3.00x [2.50, 3.50]", "50 %"]
        for text in ("torch 2.15", "Skipped: no such hardware", "0.25x", "100 MiB", "10.0 TMAC/s", "1.0e-06"):
            assert text in page, text

    def test_page_starts_with_the_newest_results(self, results):
        assert "| what " not in performance_page([results])
        results.cases[0].name = "inference-base-b1-int8"
        newer = copy.deepcopy(results)
        newer.date, newer.machine["cpu"] = "2026-01-03T03:04:05+00:00", "a newer CPU"
        page = performance_page([newer, results])
        rows = [line for line in page.partition("How to read")[0].splitlines() if line.startswith("|")]
        assert len(rows) == 3
        cells = [cell.strip() for cell in rows[2].strip("|").split("|")]
        expected = ["label a clip, int8", "a newer CPU, 2 threads", "200 ms", "slow twin, 400 ms", "3.00x [2.50, 3.50]"]
        assert cells == expected

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("no json", "is not JSON"),
            ("[]", 'has no "format"'),
            ('{"format": "something else"}', 'has no "format"'),
            ('{"format": "timesformer-hf bench", "format_version": 99}', "version 99"),
            ('{"format": "timesformer-hf bench", "format_version": 1}', "damaged"),
            ('{"format": "timesformer-hf bench", "format_version": 1, "cases": [7]}', "damaged"),
        ],
    )
    def test_other_files_are_refused(self, content, message, tmp_path, capsys):
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
    def test_durations_have_three_digits(self, seconds, text):
        assert duration(seconds) == text

    def test_command_writes_the_page_and_its_plot(self, results, tmp_path, capsys):
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
        assert plotted_rows([results])[0].peer == "slow twin"
        assert plotted_rows([results])[0].ratio.median == pytest.approx(3)

    def test_results_without_times_have_no_chart(self, results, tmp_path, capsys):
        pytest.importorskip("matplotlib", reason="the page has a chart")
        del results.cases[0]
        write_results(tmp_path / "results.json", results)
        assert main(["bench", str(tmp_path / "results.json"), "--page", str(tmp_path / "page.md")]) == 0
        assert "no chart" in capsys.readouterr().err
        assert "svg" not in (tmp_path / "page.md").read_text()


class TestChart:
    def test_five_bars_in_words(self):
        """Of the measured results: words and no names of cases, each against the fastest peer on the first machine."""
        pages = [read_results(path) for path in sorted((REPOSITORY / "docs" / "performance").glob("*.json"))]
        rows = plotted_rows(pages)
        assert len(rows) == 5
        cases = {case.name: case for page in reversed(pages) for case in page.cases}  # the first one wins
        ratios = [
            times_faster(cases["inference-base-b1-bf16"].fastest("ours"), peer).median
            for peer in cases["inference-base-b1-bf16"].measured("peer")
        ]
        assert rows[1].ratio.median == pytest.approx(min(ratios))
        assert rows[1].label == "label a clip, bfloat16"
        names = {path.name for case in cases.values() for path in case.paths}
        assert not any("-" in row.label or row.peer in names for row in rows)

    def test_the_words_are_drawn(self, tmp_path):
        matplotlib = pytest.importorskip("matplotlib", reason="it draws the chart")
        path = tmp_path / "chart.svg"
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            plot_ratios(path, [PlottedRow("label a clip", "the built-in model", Spread(2.0, 1.9, 2.1))])
        text = path.read_text()
        assert "label a clip" in text
        assert "2.0 times as fast as the built-in model" in text

    def test_the_page_shows_the_chart_of_its_results(self, tmp_path):
        matplotlib = pytest.importorskip("matplotlib", reason="it draws the chart")
        chart = REPOSITORY / "docs" / "performance.svg"
        pages = [read_results(path) for path in sorted((REPOSITORY / "docs" / "performance").glob("*.json"))]
        plot_ratios(tmp_path / "chart.svg", plotted_rows(pages))
        if f"Matplotlib v{matplotlib.__version__}" not in chart.read_text():
            pytest.skip("another matplotlib drew the chart")
        assert (tmp_path / "chart.svg").read_bytes() == chart.read_bytes()
