"""Checkpoints in and out: with the built-in model, other sizes, missing or contradicting weights, offloading, PEFT."""

import json
import os
import pickle

import accelerate
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import FLOAT32, SCHEMES, TINY, enable_checkpointing, make_clip, make_model
from transformers import AutoModel, AutoModelForVideoClassification, Trainer, TrainingArguments
from transformers.models.timesformer.modeling_timesformer import (
    TimesformerForVideoClassification as NativeForVideoClassification,
)
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification, TimesformerModel
from timesformer_hf.model.loading_checks import WeightsMismatchError


@pytest.fixture(params=SCHEMES)
def model(request):
    return make_model(request.param)


@pytest.fixture
def divided(tmp_path):
    """A saved divided model, and its folder."""
    model = make_model()
    model.save_pretrained(tmp_path)
    return model, tmp_path


def change_config(folder, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class TestInterchange:
    @pytest.fixture(params=["divided_space_time", "joint_space_time", "space_only"])
    def model(self, request):
        """The schemes that the built-in model has."""
        return make_model(request.param)

    @pytest.mark.parametrize("drop_path_rate", [0, 0.0])
    def test_built_in_loads_ours(self, model, tmp_path, drop_path_rate):
        model.config.drop_path_rate = drop_path_rate
        model.config.image_size = [32, 32]
        model.save_pretrained(tmp_path)
        native, info = NativeForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        logits = native.eval()(make_clip()).logits
        if model.config.attention_type != "space_only":  # there the built-in gives a prediction a frame
            torch.testing.assert_close(logits, model(make_clip()).logits, **FLOAT32)

    def test_ours_loads_built_in(self, model, tmp_path):
        native = NativeForVideoClassification(NativeForVideoClassification.config_class(**model.config.to_dict()))
        native.load_state_dict(model.state_dict())
        native.save_pretrained(tmp_path)
        loaded, clip = TimesformerForVideoClassification.from_pretrained(tmp_path), make_clip(dtype=torch.float64)
        torch.testing.assert_close(loaded.double()(clip).logits, model.double()(clip).logits, rtol=0, atol=1e-10)

    def test_config_as_on_the_hub(self, tmp_path):
        """The fields of facebook/timesformer-base-finetuned-k400's config.json, with its integer drop_path_rate."""
        fields = {
            "architectures": ["TimesformerForVideoClassification"],
            "attention_probs_dropout_prob": 0.0,
            "attention_type": "divided_space_time",
            "drop_path_rate": 0,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": 768,
            "id2label": {str(i): f"class {i}" for i in range(400)},
            "image_size": 224,
            "initializer_range": 0.02,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-06,
            "model_type": "timesformer",
            "num_attention_heads": 12,
            "num_channels": 3,
            "num_frames": 8,
            "num_hidden_layers": 12,
            "patch_size": 16,
            "qkv_bias": True,
            "torch_dtype": "float32",
            "transformers_version": "4.25.0.dev0",
        }
        (tmp_path / "config.json").write_text(json.dumps(fields))
        config = TimesformerConfig.from_pretrained(tmp_path)
        with torch.device("meta"):
            model = TimesformerForVideoClassification(config)
        assert model.num_parameters() == 121_566_352

    @pytest.mark.parametrize(
        ("settings", "parameters"),
        [
            ({"attention_type": "space_only"}, 86_106_256),
            ({"attention_type": "joint_space_time"}, 86_112_400),
            ({}, 121_566_352),
            ({"num_frames": 16, "image_size": 448}, 122_024_080),
            ({"num_frames": 96}, 121_633_936),
        ],
    )
    def test_parameter_counts_of_the_original(self, settings, parameters):
        with torch.device("meta"):
            model = TimesformerForVideoClassification(TimesformerConfig(num_labels=400, **settings))
        assert model.num_parameters() == parameters


class TestResizingOnLoad:
    @pytest.mark.parametrize("mode", ["nearest", "bicubic"])
    @pytest.mark.parametrize("auto", [True, False])
    def test_equals_resizing_in_the_forward_pass(self, model, tmp_path, mode, auto):
        model.double().save_pretrained(tmp_path)
        model_class = AutoModelForVideoClassification if auto else TimesformerForVideoClassification
        sizes = {"num_frames": 6, "image_size": (48, 24), "interpolation_mode": mode}
        loaded = model_class.from_pretrained(tmp_path, **sizes)
        assert type(loaded) is TimesformerForVideoClassification
        assert loaded.config.num_frames == 6
        assert loaded.timesformer.embeddings.position_embeddings.shape == (1, 1 + 6 * 3, 48)
        same = TimesformerForVideoClassification.from_pretrained(tmp_path, interpolation_mode=mode)
        clip = make_clip(2, 6, 3, 48, 24, dtype=torch.float64)
        torch.testing.assert_close(loaded(clip).logits, same(clip).logits, rtol=0, atol=1e-10)
        loaded.save_pretrained(tmp_path / "resized")
        again = TimesformerForVideoClassification.from_pretrained(tmp_path / "resized")
        torch.testing.assert_close(again(clip).logits, loaded(clip).logits, rtol=0, atol=1e-10)

    def test_by_a_config_of_the_built_in_model(self, divided):
        native = NativeForVideoClassification.config_class(**TINY | {"num_frames": 9}, num_labels=5)
        loaded = TimesformerForVideoClassification.from_pretrained(divided[1], config=native)
        assert type(loaded.config) is TimesformerConfig
        assert loaded.config.num_frames == 9
        with pytest.raises(TypeError, match=r"needs a config of timesformer_hf.*, got one of transformers"):
            TimesformerForVideoClassification(native)

    def test_by_a_config(self, divided):
        model, folder = divided
        config = TimesformerConfig(**TINY | {"num_frames": 9, "image_size": 40}, num_labels=5)
        loaded, info = TimesformerForVideoClassification.from_pretrained(
            folder, config=config, output_loading_info=True
        )
        assert not info["mismatched_keys"]
        assert loaded.config.num_frames == config.num_frames == 9
        clip = make_clip(1, 9, 3, 40, 40, dtype=torch.float64)
        torch.testing.assert_close(loaded.double()(clip).logits, model.double()(clip).logits, rtol=0, atol=1e-10)

    def test_says_so(self, divided):
        with CaptureLogger(logging.get_logger("timesformer_hf.model.modeling_timesformer")) as log:
            TimesformerForVideoClassification.from_pretrained(divided[1], num_frames=4)
            assert log.out == ""
            TimesformerForVideoClassification.from_pretrained(divided[1], num_frames=16, image_size=64)
        assert "(nearest) from 4 frames of 4 x 4 patches to 16 frames of 8 x 8" in log.out

    def test_base_model_and_half_precision(self, divided):
        loaded = AutoModel.from_pretrained(divided[1], num_frames=6, dtype=torch.bfloat16, interpolation_mode="bicubic")
        assert type(loaded) is TimesformerModel
        assert loaded.embeddings.time_embeddings.dtype == torch.bfloat16
        assert loaded.embeddings.time_embeddings.shape[1] == 6

    def test_space_only_has_no_time_table(self, tmp_path):
        make_model("space_only").save_pretrained(tmp_path)
        with CaptureLogger(logging.get_logger("timesformer_hf.model.modeling_timesformer")) as log:
            assert TimesformerForVideoClassification.from_pretrained(tmp_path, num_frames=9).config.num_frames == 9
        assert log.out == ""

    @pytest.mark.parametrize("bad", [{"num_frames": 0}, {"image_size": 30}])
    def test_bad_sizes(self, divided, bad):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}={next(iter(bad.values()))}"):
            TimesformerForVideoClassification.from_pretrained(divided[1], **bad)


class TestContradictingWeights:
    def test_missing_ones_get_the_original_initial_values(self, divided):
        """The built-in model leaves a missing time embedding as uninitialised memory."""
        model, folder = divided
        weights = load_file(folder / "model.safetensors")
        kept = {name: value for name, value in weights.items() if "temporal_dense" not in name and "time_" not in name}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        loaded = TimesformerForVideoClassification.from_pretrained(folder)
        assert loaded.timesformer.embeddings.time_embeddings.abs().max() == 0
        for layer, source in zip(loaded.timesformer.encoder.layer, model.timesformer.encoder.layer, strict=True):
            assert layer.temporal_dense.weight.abs().max() == layer.temporal_dense.bias.abs().max() == 0
            assert torch.equal(layer.temporal_layernorm.weight, source.temporal_layernorm.weight)

    def test_other_shapes(self, divided):
        change_config(divided[1], hidden_size=96, num_frames=6)
        with pytest.raises(
            WeightsMismatchError, match=r"classifier.weight is \(5, 48\), the config asks for \(5, 96\)"
        ):
            TimesformerForVideoClassification.from_pretrained(divided[1])

    def test_other_number_of_classes(self, divided):
        with pytest.raises(WeightsMismatchError, match=r"classifier.weight is \(5, 48\), .* asks for \(7, 48\)"):
            TimesformerForVideoClassification.from_pretrained(divided[1], num_labels=7)
        loaded = TimesformerForVideoClassification.from_pretrained(
            divided[1], num_labels=7, ignore_mismatched_sizes=True
        )
        assert loaded(make_clip()).logits.shape == (2, 7)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"attention_type": "joint_space_time"}, "24 weights have no place in the model, .*temporal_"),
            ({"num_hidden_layers": 2}, "20 weights have no place in the model, .*layer.2"),
            ({"num_hidden_layers": 5}, "4 attentions have no weights, .*layer.3"),
            ({"qkv_bias": False}, "6 weights have no place in the model, .*qkv.bias"),
        ],
    )
    def test_other_structure(self, divided, values, message):
        change_config(divided[1], **values)
        with pytest.raises(WeightsMismatchError, match=rf"its config.json describes \(.*{message}"):
            TimesformerForVideoClassification.from_pretrained(divided[1])
        with pytest.raises(WeightsMismatchError, match=message):
            AutoModelForVideoClassification.from_pretrained(divided[1])

    def test_time_embeddings_left_over(self, tmp_path):
        make_model("joint_space_time").save_pretrained(tmp_path)
        change_config(tmp_path, attention_type="space_only")
        with pytest.raises(WeightsMismatchError, match=r"1 weights have no place in the model, .*time_embeddings"):
            TimesformerForVideoClassification.from_pretrained(tmp_path)

    def test_attention_missing(self, tmp_path):
        make_model("joint_space_time").save_pretrained(tmp_path)
        change_config(tmp_path, attention_type="divided_space_time")
        with pytest.raises(WeightsMismatchError, match=r"3 attentions have no weights, .*temporal_attention"):
            TimesformerForVideoClassification.from_pretrained(tmp_path)

    @pytest.mark.parametrize("values", [{"attention_type": "joint_space_time"}, {"num_hidden_layers": 2}])
    @pytest.mark.parametrize("model_class", [TimesformerForVideoClassification, AutoModelForVideoClassification])
    def test_another_structure_on_purpose(self, divided, values, model_class):
        loaded = model_class.from_pretrained(divided[1], **values)
        assert {name: getattr(loaded.config, name) for name in values} == values
        assert loaded(make_clip()).logits.isfinite().all()

    def test_pickle_with_code(self, divided):
        """It is refused before anything in it runs."""
        folder = divided[1]
        (folder / "model.safetensors").unlink()
        torch.save({"classifier.bias": Bomb(folder / "exploded")}, folder / "pytorch_model.bin")
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            TimesformerForVideoClassification.from_pretrained(folder)
        assert not (folder / "exploded").exists()

    def test_pickle_without_code(self, divided):
        model, folder = divided
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        loaded, clip = TimesformerForVideoClassification.from_pretrained(folder), make_clip(dtype=torch.float64)
        torch.testing.assert_close(loaded.double()(clip).logits, model.double()(clip).logits, rtol=0, atol=1e-10)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestOffloading:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_to_disk(self, scheme, tmp_path):
        model, clip = make_model(scheme).double(), make_clip(dtype=torch.float64)
        model.save_pretrained(tmp_path)
        size = sum(parameter.numel() * 8 for parameter in model.parameters())
        offloaded = TimesformerForVideoClassification.from_pretrained(
            tmp_path, device_map="auto", max_memory={"cpu": int(size * 0.7)}, offload_folder=tmp_path / "offload"
        )
        assert "disk" in offloaded.hf_device_map.values()
        torch.testing.assert_close(offloaded(clip).logits, model(clip).logits, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_hooks_of_cpu_offload(self, scheme):
        """accelerate's offloading to the CPU, with the CPU for a device as well."""
        model, clip = make_model(scheme).double(), make_clip(dtype=torch.float64)
        expected = model(clip).logits
        accelerate.cpu_offload(model, torch.device("cpu"))
        assert model.classifier.weight.is_meta
        torch.testing.assert_close(model(clip).logits, expected, rtol=0, atol=1e-10)

    def test_offloaded_embeddings(self, divided):
        model, folder = divided
        device_map = {"timesformer.embeddings": "disk", "timesformer.encoder": "cpu"}
        device_map |= {"timesformer.layernorm": "cpu", "classifier": "cpu"}
        offloaded = TimesformerForVideoClassification.from_pretrained(
            folder, dtype=torch.float64, device_map=device_map, offload_folder=folder / "offload"
        )
        assert offloaded.timesformer.embeddings.position_embeddings.is_meta
        clip = make_clip(dtype=torch.float64)
        torch.testing.assert_close(offloaded(clip).logits, model.double()(clip).logits, rtol=0, atol=1e-10)
        with pytest.raises(ValueError, match="embeddings are offloaded"):
            TimesformerForVideoClassification.from_pretrained(
                divided[1], num_frames=6, device_map=device_map, offload_folder=divided[1] / "offload"
            )


class TestTraining:
    def test_peft_lora(self, tmp_path):
        peft = pytest.importorskip("peft", reason="the LoRA test needs the extra `train`")
        model, clip = make_model(), make_clip()
        before = model(clip).logits
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv"], modules_to_save=["classifier"]))
        adapted.enable_input_require_grads()
        enable_checkpointing(adapted)
        adapted.train()
        optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
        adapted(clip, labels=torch.tensor([0, 1])).loss.backward()
        trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
        assert sum("lora_B" in name for name in trained) == 3 * 2  # time and space, in every block
        optimizer.step()
        after = adapted.eval()(clip).logits
        assert not torch.allclose(after, before)
        adapted.save_pretrained(tmp_path)
        reloaded = peft.PeftModel.from_pretrained(make_model(), tmp_path)
        torch.testing.assert_close(reloaded.eval()(clip).logits, after, **FLOAT32)
        torch.testing.assert_close(adapted.merge_and_unload()(clip).logits, after, **FLOAT32)

    def test_peft_with_a_task_type(self):
        """It passes an attention mask of `None` to any model."""
        peft = pytest.importorskip("peft", reason="the LoRA test needs the extra `train`")
        settings = peft.LoraConfig(target_modules=["qkv"], task_type="FEATURE_EXTRACTION")
        model, clip = make_model().timesformer, make_clip()
        expected = model(clip).last_hidden_state
        adapted = peft.get_peft_model(model, settings).eval()
        torch.testing.assert_close(adapted(pixel_values=clip).last_hidden_state, expected, **FLOAT32)

    def test_auto_peft_model(self, divided):
        """PEFT imports the class that an adapter names only from packages that it trusts."""
        peft = pytest.importorskip("peft", reason="the LoRA test needs the extra `train`")
        model, folder = divided[0], divided[1] / "adapter"
        settings = peft.LoraConfig(target_modules=["qkv"], r=2, init_lora_weights=False)
        base = TimesformerForVideoClassification.from_pretrained(divided[1])
        adapted = peft.get_peft_model(base, settings).eval()
        adapted.save_pretrained(folder)
        loaded = peft.AutoPeftModel.from_pretrained(folder).eval()
        assert type(loaded.base_model.model) is type(model)
        with torch.no_grad():  # attention may be computed in another way where gradients are needed
            torch.testing.assert_close(loaded(make_clip()).logits, adapted(make_clip()).logits, rtol=0, atol=0)

    def test_trainer_accumulates_means(self, tmp_path):
        """
        Two steps of one clip give the update of one step of two. (With the built-in model they give twice that: its
        forward takes any keyword, so Trainer leaves the division to it.)
        """

        def train(folder, batch: int, steps: int) -> torch.Tensor:
            model = make_model()
            data = [{"pixel_values": clip, "labels": i} for i, clip in enumerate(make_clip())]
            settings = TrainingArguments(
                output_dir=str(tmp_path / folder),
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=steps,
                max_steps=1,
                learning_rate=0.1,
                optim="sgd",
                max_grad_norm=0.0,
                report_to="none",
                use_cpu=True,
            )
            Trainer(model=model, args=settings, train_dataset=data).train()
            return model.classifier.weight.detach()

        torch.testing.assert_close(train("two", 2, 1), train("accumulated", 1, 2), **FLOAT32)
