"""The arithmetic of a plan, by hand and beside runs that were measured."""

import json

import pytest
from repository import REPOSITORY

from timesformer_hf.scale.plan import Corpus, Machines, Measurement, count_machines, make_plan


CPU = Measurement("a machine", 4, "cpu", 10.0, decode_core_seconds=0.1, model_seconds=0.075, video_seconds=0.1)
GPU = Measurement("a machine", 4, "cuda", 10.0, decode_core_seconds=0.2, model_seconds=0.01, video_seconds=0.05)
RECORDED = REPOSITORY / "docs" / "scaling.json"


class TestByHand:
    def test_cores_share_decoding_and_the_model(self):
        """0.1 s of one core and 0.075 s of four are 0.4 s of one core."""
        assert CPU.overhead == pytest.approx(1)
        assert make_plan(CPU, Corpus(3590, 0), Machines()).hours == pytest.approx(369 / 3600)
        assert make_plan(CPU, Corpus(1, 0), Machines(cores=8)).seconds_per_video == pytest.approx(0.05)
        assert make_plan(CPU, Corpus(1, 0), Machines(cores=1)).seconds_per_video == pytest.approx(0.4)

    def test_what_is_lost_in_a_run_stays_lost(self):
        slow = Measurement("a machine", 4, "cpu", 10.0, 0.1, 0.075, video_seconds=0.12)
        assert slow.overhead == pytest.approx(1.2)
        assert slow.seconds_per_video(2) == pytest.approx(0.24)
        assert slow.changed(model_seconds=0.125).video_seconds == pytest.approx(0.18)
        assert slow.changed(decode_core_seconds=0.3).video_seconds == pytest.approx(0.18)

    def test_an_accelerator_computes_beside_the_cores(self):
        assert make_plan(GPU, Corpus(1, 0), Machines()).seconds_per_video == pytest.approx(0.05)
        assert make_plan(GPU, Corpus(1, 0), Machines()).limit == "decoding"
        assert make_plan(GPU, Corpus(1, 0), Machines(cores=40)).seconds_per_video == pytest.approx(0.01)
        assert make_plan(GPU, Corpus(1, 0), Machines(cores=40)).limit == "model"

    def test_a_slow_network_is_the_limit(self):
        plan = make_plan(CPU, Corpus(1, 2e6), Machines(network=1e6))
        assert (plan.limit, plan.seconds_per_video) == ("network", 2)
        assert make_plan(CPU, Corpus(1, 2e6), Machines(network=1e9)).limit == "model"
        assert make_plan(CPU, Corpus(1, 2e6), Machines(network=1e9)).seconds_per_video == pytest.approx(0.1)

    def test_price(self):
        """36,000 videos on two machines: half an hour each, and ten seconds for the start."""
        plan = make_plan(CPU, Corpus(36_000, 0), Machines(number=2, price=3.0))
        assert plan.hours == pytest.approx(0.5 + 10 / 3600)
        assert plan.price == pytest.approx(3 + 60 / 3600)
        assert plan.price_per_million == pytest.approx(1e5 / 3600 * 3)
        assert make_plan(CPU, Corpus(1, 0), Machines()).price is None

    def test_number_of_machines(self):
        """In 110 s a machine starts and does 1,000 videos."""
        for videos, number in ((1, 1), (1000, 1), (1001, 2), (5000, 5)):
            assert count_machines(CPU, Corpus(videos, 0), Machines(), 110 / 3600) == number
            assert make_plan(CPU, Corpus(videos, 0), Machines(number=number)).hours <= 110.0001 / 3600
        with pytest.raises(ValueError, match="too short: the program takes 10 s"):
            count_machines(CPU, Corpus(1, 0), Machines(), 5 / 3600)


def recorded_errors() -> dict[tuple[int, int], float]:
    """The error of the plan for each recorded run, by cores and clips. 0.1 means 10 % more than was measured."""
    recorded = json.loads(RECORDED.read_text())
    errors = {}
    for run in recorded["runs"]:
        hours = planned_hours(recorded["plans"][str(run["cores"])], run["clips"])
        errors[run["cores"], run["clips"]] = 3600 * hours / run["seconds"] - 1
    return errors


def planned_hours(measured: dict, clips: int) -> float:
    return make_plan(Measurement(**measured), Corpus(clips, 0), Machines()).hours


def test_the_plan_is_right_by_15_percent_for_recorded_runs():
    """`examples/scaling.py` has measured them."""
    errors = recorded_errors()
    assert errors.keys() == {(cores, clips) for cores in (1, 2) for clips in (50, 100, 200, 400)}
    assert all(abs(error) < 0.15 for error in errors.values()), errors


def test_one_core_follows_from_two():
    """
    The measurement on two cores also plans the long run on one, but roughly: a small model gains less than twice from a
    second core.
    """
    recorded = json.loads(RECORDED.read_text())
    (measured,) = (run["seconds"] for run in recorded["runs"] if (run["cores"], run["clips"]) == (1, 400))
    plan = make_plan(Measurement(**recorded["plans"]["2"]), Corpus(400, 0), Machines(cores=1))
    assert 3600 * plan.hours == pytest.approx(measured, rel=0.35)
