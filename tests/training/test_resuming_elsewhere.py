"""A training goes on with the built-in model where ours stopped, and back: optimizers number the parameters."""

import copy
import shutil

import pytest
import torch
from tiny_models import make_clip, make_model
from transformers import Trainer, TrainingArguments
from transformers.models.timesformer.configuration_timesformer import TimesformerConfig as NativeConfig
from transformers.models.timesformer.modeling_timesformer import (
    TimesformerForVideoClassification as NativeForVideoClassification,
)

from timesformer_hf.training.parameter_order import ParameterOrderError, name_parameters
from timesformer_hf.training.recipes import parameter_groups


SETTINGS = {"num_hidden_layers": 2, "image_size": 16, "num_frames": 2, "hidden_size": 32, "intermediate_size": 48}


def make_pair(attention_type: str):
    ours = make_model(attention_type, **SETTINGS)
    native = NativeForVideoClassification(NativeConfig(**ours.config.to_dict()))
    native.load_state_dict(ours.state_dict())
    return native, ours


def with_lora(model):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv", "dense"], r=2, init_lora_weights=False))


def losses(model, folder, resume: bool = False) -> list[float]:
    """The loss of each of four steps, from the start or from the checkpoint after two of them."""
    clips = [{"pixel_values": clip, "labels": number % 5} for number, clip in enumerate(make_clip(8, 2, 3, 16, 16))]
    arguments = TrainingArguments(
        str(folder),
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        weight_decay=0.1,
        optim="adamw_torch",  # with the wrong order, the fused one ends in a segmentation fault
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(copy.deepcopy(model), arguments, train_dataset=clips)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2") if resume else None)
    shutil.rmtree(folder / "checkpoint-4")
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("to_ours", [True, False])
@pytest.mark.parametrize(
    ("attention_type", "adapt"),
    [
        ("divided_space_time", lambda model: model),
        ("joint_space_time", lambda model: model),
        ("divided_space_time", with_lora),
    ],
)
def test_a_training_goes_on_with_the_other_model(attention_type, adapt, to_ours, tmp_path):
    first, second = map(adapt, make_pair(attention_type)[:: 1 if to_ours else -1])
    whole = losses(first, tmp_path)
    assert whole[-1] != whole[0]
    assert losses(second, tmp_path, resume=True) == pytest.approx(whole, rel=1e-5)  # float32


class TestNamesInTheState:
    def optimizer(self, model, **settings) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(parameter_groups(model, 1e-2, 0.1, **settings))
        name_parameters(optimizer, model)
        return optimizer

    def test_the_same_order_is_loaded(self):
        model = make_model(**SETTINGS)
        optimizer = self.optimizer(model)
        model(make_clip(2, 2, 3, 16, 16), labels=torch.tensor([1, 2])).loss.backward()
        optimizer.step()
        other = self.optimizer(model)
        other.load_state_dict(optimizer.state_dict())
        for parameter in model.parameters():
            assert torch.equal(other.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])

    def test_a_state_without_names_is_refused(self):
        """That of an earlier version: with LoRA all shapes agree, so nothing else would tell."""
        model = make_model(**SETTINGS)
        plain = torch.optim.AdamW(parameter_groups(model, 1e-2, 0.1))
        with pytest.raises(ParameterOrderError, match=r"doesn't say which parameters .*another order\. Start a new"):
            self.optimizer(model).load_state_dict(plain.state_dict())

    def test_another_order_is_refused(self):
        model = make_model(**SETTINGS)
        with pytest.raises(ParameterOrderError, match=r"for other parameters than the model's: \S+ where \S+ belongs"):
            self.optimizer(model).load_state_dict(self.optimizer(model, layer_decay=0.5).state_dict())
