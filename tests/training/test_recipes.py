"""The recipes' optimizers and schedules."""

import pytest
import torch
from finetuning import TINY, training_arguments

from timesformer_hf import RECIPES, TimesformerConfig, TimesformerForVideoClassification
from timesformer_hf.training.recipes import drop_factor, layer_depth, parameter_groups, scaled_learning_rate
from timesformer_hf.training.start import freeze
from timesformer_hf.training.trainer import ClipTrainer, ClipTrainingArguments


@pytest.fixture
def tiny():
    return TimesformerForVideoClassification(TimesformerConfig(**TINY, num_labels=3))


def make_trainer(model, folder, recipe: str, **settings) -> ClipTrainer:
    names = {field.name for field in ClipTrainingArguments.__dataclass_fields__.values()}
    defaults = {name: value for name, value in RECIPES[recipe].defaults.items() if name in names}
    return ClipTrainer(model=model, args=training_arguments(folder, **defaults | settings), loss=None)


def test_the_papers_optimizer_is_sgd_with_two_drops(tiny, tmp_path):
    trainer = make_trainer(tiny, tmp_path, "paper-kinetics", per_device_train_batch_size=64)
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.005, 0.9, True, 1e-4)
    assert len(group["params"]) == len(list(tiny.parameters()))
    schedule = trainer.create_scheduler(150)
    rates = []
    for _ in range(150):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.005] * 110 + [0.0005] * 30 + [0.00005] * 10)
    assert trainer.args.max_grad_norm == 0


def test_each_parameter_has_the_rate_of_its_depth(tiny):
    """Once, and biases, norms and tables don't decay."""
    rates, decayed = {}, {}
    names = {id(parameter): name for name, parameter in tiny.named_parameters()}
    for group in parameter_groups(tiny, 1.0, 0.05, layer_decay=0.5):
        for parameter in group["params"]:
            assert names[id(parameter)] not in rates
            rates[names[id(parameter)]], decayed[names[id(parameter)]] = group["lr"], group["weight_decay"]
    assert len(rates) == len(names)
    for name, rate in rates.items():
        expected = 1.0 if name.startswith(("classifier", "timesformer.layernorm")) else None
        expected = 0.5 if "layer.1." in name else expected
        expected = 0.25 if "layer.0." in name else expected
        expected = 0.125 if "embeddings" in name else expected
        assert rate == expected, name
        tables = ("cls_token", "position_embeddings", "time_embeddings")
        assert (decayed[name] == 0) == (name.endswith(("bias", *tables)) or "norm" in name)
    assert layer_depth("base_model.model.timesformer.encoder.layer.3.output.dense.lora_A.default.weight", 12) == 4


def test_groups_leave_out_what_is_frozen(tiny):
    freeze(tiny, "backbone")
    assert sum(len(group["params"]) for group in parameter_groups(tiny, 1.0)) == 2


def test_the_rate_grows_with_the_batch():
    assert scaled_learning_rate(0.1, 64, 16, "linear") == pytest.approx(0.025)
    assert scaled_learning_rate(0.1, 64, 16, "sqrt") == pytest.approx(0.05)
    assert scaled_learning_rate(0.1, 64, 16, "none") == 0.1


def test_the_rate_drops_after_a_warm_up():
    factors = [drop_factor(step, 10, [0.5], 2) for step in range(10)]
    assert factors == pytest.approx([0, 0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1])
