"""Checkpoints that cannot answer are refused: some before a model is built, others by the pipeline and by classify."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_clip, make_model, save_classifier
from transformers import pipeline

from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification, TimesformerModel
from timesformer_hf.inference.loading import load_fast_pipeline
from timesformer_hf.model import modeling_timesformer
from timesformer_hf.model.loading_checks import WeightsMismatchError, check_complete


pytest.importorskip("av", reason="transformers' pipeline needs PyAV")


@pytest.fixture
def folder(tmp_path):
    """A checkpoint with its video processor."""
    save_classifier(tmp_path)
    return tmp_path


def change_config(folder, **values) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def change_weights(folder, change) -> None:
    """Write the weights that `change` returns for those that are there."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def without(name: str):
    return lambda weights: {key: weight for key, weight in weights.items() if not key.startswith(name)}


def with_nan(weights: dict) -> dict:
    weights["timesformer.encoder.layer.1.output.dense.weight"][3, 4] = torch.nan
    return weights


LOADERS = {
    "pipeline": lambda folder: pipeline("video-classification", model=str(folder)),
    "pipeline without a task": lambda folder: pipeline(model=str(folder)),
    "classify": lambda folder: load_fast_pipeline(str(folder), "cpu", "auto"),
}


@pytest.fixture(params=LOADERS.values(), ids=LOADERS)
def load(request):
    return request.param


class TestAnswers:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (without("classifier.weight"), r"lacks weights.* at random: classifier\.weight\. Give"),
            (without("timesformer.embeddings.time"), r"lacks weights.* timesformer\.embeddings\.time_embeddings"),
            (with_nan, r"1 weights with NaN or infinity, timesformer\.encoder\.layer\.1\.output\.dense\.weight among"),
        ],
    )
    def test_broken_weights_are_refused(self, load, folder, change, message):
        change_weights(folder, change)
        with pytest.raises(ValueError, match=message):
            load(folder)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"num_labels": -1, "id2label": None, "label2id": None}, "num_labels=-1 must be at least 0"),
            ({"num_hidden_layers": 2}, "weights have no place in the model"),
            ({"num_attention_heads": 5}, "num_attention_heads=5 must divide hidden_size=48"),
        ],
    )
    def test_broken_configs_are_refused(self, load, folder, values, message):
        """transformers' pipeline would go on with its built-in model after an error of ours."""
        change_config(folder, **values)
        with pytest.raises(ValueError, match=message):
            load(folder)

    def test_no_labels(self, load, folder):
        change_config(folder, id2label={}, label2id={})
        change_weights(folder, without("classifier"))
        with pytest.raises(ValueError, match="has no labels"):
            load(folder)

    def test_a_processor_with_impossible_settings(self, load, folder):
        path = folder / "video_preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"image_std": [0.2, 0.0, 0.2]}))
        with pytest.raises(ValueError, match=r"image_std=\(0\.2, 0\.0, 0\.2\) must be positive and finite"):
            load(folder)

    def test_a_whole_one_is_loaded(self, load, folder):
        assert type(load(folder).model) is TimesformerForVideoClassification

    def test_large_sums_are_no_infinity(self):
        model = make_model()
        model.classifier.weight.data.fill_(3e38)
        check_complete("model", model, {"missing_keys": []})

    def test_a_base_model_needs_no_labels(self):
        check_complete("model", TimesformerModel(make_model(num_labels=0).config), {"missing_keys": []})


class TestBeforeBuilding:
    @pytest.fixture
    def blocks(self, monkeypatch) -> list:
        """The blocks that are built, apart from meta tensors."""
        built, original = [], modeling_timesformer.TimesformerLayer.__init__

        def note(layer, *args):
            original(layer, *args)
            if not next(layer.parameters()).is_meta or args[1] > 0:
                built.append(args[1])

        monkeypatch.setattr(modeling_timesformer.TimesformerLayer, "__init__", note)
        return built

    @pytest.mark.parametrize("shards", [False, True])
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"num_hidden_layers": 4000}, r"7994 attentions have no weights, for example .*layer\.\d+\.a"),
            ({"num_hidden_layers": 1}, r"40 weights have no place in the model, for example .*encoder\.layer\.1\."),
            ({"hidden_size": 480000}, r"classifier\.weight is \(5, 48\), the config asks for \(5, 480000\)"),
            ({"num_labels": 7, "id2label": None, "label2id": None}, r"classifier\.bias is \(5,\), .* for \(7,\)"),
        ],
    )
    def test_no_model_is_built(self, folder, values, message, shards, blocks):
        if shards:
            make_model().save_pretrained(folder, max_shard_size="40KB")
            (folder / "model.safetensors").unlink(missing_ok=True)
            assert len(list(folder.glob("*.safetensors"))) > 1
            blocks.clear()
        change_config(folder, **values)
        with pytest.raises(WeightsMismatchError, match=message):
            TimesformerForVideoClassification.from_pretrained(folder)
        assert not blocks

    def test_what_the_caller_changes_is_built(self, folder):
        fewer = TimesformerForVideoClassification.from_pretrained(folder, num_hidden_layers=2)
        assert len(fewer.timesformer.encoder.layer) == 2
        config = TimesformerConfig.from_pretrained(folder, num_labels=7)
        other = TimesformerForVideoClassification.from_pretrained(folder, config=config, ignore_mismatched_sizes=True)
        assert other.classifier.out_features == 7
        assert TimesformerModel.from_pretrained(folder)(make_clip()).last_hidden_state.isfinite().all()
