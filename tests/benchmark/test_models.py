"""The benchmark's models and their reference."""

from dataclasses import replace

import pytest
import torch
from tiny_benchmark import TINY, TINY_CASES, make_result

from timesformer_hf.benchmark.inference import make_workload as make_forward
from timesformer_hf.benchmark.measuring import measure
from timesformer_hf.benchmark.models import ModelBench, random_weights, relative_difference
from timesformer_hf.benchmark.training import difference_of_gradients


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

    def test_relative_difference_by_hand(self):
        expected = torch.tensor([[1.0, -4.0]])
        assert relative_difference(torch.tensor([[1.5, -4.0]]), expected) == 0.125
        assert relative_difference(torch.tensor([[float("nan"), -4.0]]), expected) != 0
        with pytest.raises(ValueError, match="reference"):
            relative_difference(torch.zeros(1, 3), expected)

    def test_difference_of_gradients_by_hand(self):
        expected = {"loss": torch.tensor(2.0), "a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
        other_loss = expected | {"loss": torch.tensor(2.2)}
        assert difference_of_gradients(other_loss, expected) == pytest.approx(0.1)
        other_gradient = expected | {"b": torch.tensor([[5.0]])}
        assert difference_of_gradients(other_gradient, expected) == pytest.approx(0.2)
        with pytest.raises(ValueError, match="other parameters"):
            difference_of_gradients({"loss": torch.tensor(2.0)}, expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on this machine they are not missing")
def test_paths_of_a_gpu_are_reported_as_missing(here):
    names = ("ours-optimized-graphs", "built-in-graphs", "built-in-max-autotune", "tensorrt")
    result = make_result(*((name, "peer") for name in names))
    measure(result, make_forward(replace(TINY_CASES["tiny"], paths=names), here), 1)
    assert all(path.status == "missing" and "CUDA" in path.reason for path in result.paths), result.paths


@pytest.mark.slow
def test_compiled_paths_are_measured(here):
    """Inductor takes its time."""
    case = replace(TINY_CASES["tiny"], paths=("ours-compiled", "built-in-compiled"))
    result = make_result(("ours-compiled", "ours"), ("built-in-compiled", "peer"))
    measure(result, make_forward(case, here), 1)
    assert [path.status for path in result.paths] == ["measured", "measured"]
