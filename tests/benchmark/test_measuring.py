"""How paths are measured, with a clock that is told the time."""

import pytest
from tiny_benchmark import LIMIT, OURS, PEER, make_result

from timesformer_hf.benchmark.measuring import Prepared, Stopwatch, UnavailableError, Workload, calls_for, measure
from timesformer_hf.benchmark.page import case_text
from timesformer_hf.benchmark.results import PathResult, Spread, times_faster


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


class TestMeasuring:
    def test_a_slow_twin_is_as_many_times_slower_as_its_clock_says(self):
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
    def test_calls_timed_together_last_a_tenth_of_a_second(self, seconds, calls):
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

    def test_missing_and_broken_paths_are_listed_with_their_reason(self):
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

    def test_a_path_that_breaks_while_timed_has_failed(self):
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

    def test_clock_is_read_when_the_device_is_done(self):
        """Before the first look at the clock and before the last one."""
        events = []
        watch = Stopwatch(clock=lambda: events.append("clock") or 0.0, synchronize=lambda: events.append("wait"))
        watch.seconds(lambda: events.append("run"), calls=2)
        assert events == ["wait", "clock", "run", "run", "wait", "clock"]

    def test_progress_is_told_of_every_step(self):
        steps = []
        workload = make_workload({"ours": lambda: Prepared(lambda: "the result")})
        measure(make_result(OURS), workload, 4, progress=lambda: steps.append(1))
        assert len(steps) == 2 + 4
