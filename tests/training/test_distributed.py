"""Several processes against one: on CPUs, by gloo. What runs in them is in distributed_worker.py."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import infer_auto_device_map
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from distributed_worker import (
    RandomClips,
    fail_in_the_second,
    free_port,
    launch,
    merge,
    parallel_models,
    resize_sharded,
    train_bare,
    train_with_trainer,
    wait,
)
from safetensors.torch import load_file
from tiny_models import FLOAT32, SCHEMES, make_model
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException

from timesformer_hf import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerModel,
    TimesformerVideoProcessor,
)


REPOSITORY = Path(__file__).parents[2]
WORKER = REPOSITORY / "tests" / "distributed_worker.py"
CONFIGS = REPOSITORY / "examples" / "accelerate_configs"
FLOAT64 = {"rtol": 0, "atol": 1e-10}
DDP = {"ACCELERATE_USE_CPU": "true"}


def launch_environment(config: Path) -> dict[str, str]:
    """What `accelerate launch --config_file` tells the processes that it starts."""
    options = ["--config_file", str(config), "--main_process_port", str(free_port())]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args([*options, "script.py"]))
    variables = prepare_multi_gpu_env(arguments)
    return {key: value for key, value in variables.items() if key.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_"))}


@pytest.fixture(scope="module")
def fsdp() -> dict[str, str]:
    return launch_environment(CONFIGS / "8_gpus_fsdp2.yaml")


class TestPlans:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_every_linear_layer_of_the_blocks_is_split(self, scheme):
        model = make_model(scheme)
        layer = model.timesformer.encoder.layer[0]
        linear = [name for name, module in layer.named_modules() if isinstance(module, nn.Linear)]
        assert set(model.tp_plan) == {f"timesformer.encoder.layer.*.{name}" for name in linear}
        assert TimesformerModel(model.config).tp_plan == model.config.base_model_tp_plan

    def test_the_plan_follows_the_scheme(self):
        config = TimesformerConfig(attention_type="joint_space_time")
        assert not any("temporal" in name for name in config.base_model_tp_plan)
        config.attention_type = "divided_space_time"
        assert any("temporal" in name for name in config.base_model_tp_plan)
        assert TimesformerConfig.base_model_tp_plan is None
        config.base_model_tp_plan = {}
        assert config.base_model_tp_plan == {}

    def test_plans_are_not_saved(self):
        assert not any("plan" in name for name in json.loads(TimesformerConfig().to_json_string(use_diff=False)))
        assert TimesformerConfig(tie_word_embeddings=True).to_dict()["attention_type"] == "divided_space_time"

    def test_no_device_map_splits_a_block_or_the_embeddings(self):
        """However little fits on a device; where a map may split them, it does."""
        model = make_model()

        def parts(whole_modules: list[str]) -> set[str]:
            maps = [
                infer_auto_device_map(model, {"cpu": budget, "disk": 10**9}, no_split_module_classes=whole_modules)
                for budget in range(20_000, 420_000, 20_000)
            ]
            return {re.sub(r"\.\d+", "", name) for device_map in maps for name in device_map}

        units = {"timesformer.embeddings", "timesformer.encoder.layer", "timesformer.layernorm", "classifier"}
        assert parts(model._no_split_modules) == units | {"", "timesformer.encoder"}
        assert any(name.startswith("timesformer.embeddings.") for name in parts(["TimesformerLayer"]))
        assert any(name.startswith("timesformer.encoder.layer.") for name in parts(["TimesformerEmbeddings"]))


class TestOtherSizes:
    def test_resized_tables_can_be_sharded(self):
        """FSDP takes contiguous parameters alone."""
        for mode in ("nearest", "bicubic"):
            model = make_model(interpolation_mode=mode)
            model.resize_embeddings(num_frames=6, image_size=(48, 32))
            assert all(parameter.is_contiguous() for parameter in model.parameters())

    def test_sharded_tables_are_not_resized(self, model_folder):
        assert launch(2, resize_sharded, model_folder) == (
            "The embeddings are offloaded or sharded and can't be resized. First load the model on one device with the "
            "new num_frames or image_size and save it; then load the saved model."
        )


@pytest.fixture(scope="module")
def models():
    return {scheme: make_model(scheme, num_hidden_layers=2).double() for scheme in SCHEMES}


@pytest.fixture(scope="module")
def split_models(models, tmp_path_factory):
    """What `parallel_models` finds, and where the split models were saved."""
    folder = tmp_path_factory.mktemp("models")
    for scheme, model in models.items():
        model.save_pretrained(folder / scheme)
    return launch(2, parallel_models, {scheme: folder / scheme for scheme in models}, folder), folder


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["tp", "fsdp"])
class TestSplitModels:
    """transformers' own `from_pretrained(distributed_config=...)`."""

    def test_outputs_and_gradients(self, scheme, kind, models, split_models):
        found, model = split_models[0][f"{scheme} {kind}"], copy.deepcopy(models[scheme])
        outputs = model(RandomClips(2, torch.float64).clips, labels=torch.tensor([1, 4]))
        outputs.loss.backward()
        torch.testing.assert_close(found["logits"], outputs.logits.detach(), **FLOAT64)
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        torch.testing.assert_close(found["gradients"], gradients, **FLOAT64)

    def test_what_is_split(self, scheme, kind, models, split_models):
        found, model = split_models[0][f"{scheme} {kind}"], models[scheme]
        if kind == "fsdp":
            blocks = [f"timesformer.encoder.layer.{index}" for index in range(2)]
            assert found["wrapped"] == ["", "timesformer.embeddings", *blocks]
            # the tables have a first dimension of 1, which can't be divided
            expected = [name for name, parameter in model.named_parameters() if parameter.shape[0] > 1]
        else:
            assert not found["wrapped"]
            rowwise = [name for name, style in model.tp_plan.items() if style.startswith("rowwise")]
            layers = "timesformer.encoder.layer."
            weights = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
            weights = [name for name in weights if name.startswith(layers)]
            generic = {name: f"{layers}*{name[len(layers) + 1 :]}" for name in weights}
            expected = [f"{name}.weight" for name in weights]
            expected += [f"{name}.bias" for name in weights if generic[name] not in rowwise]
        assert sorted(found["split"]) == sorted(expected)

    def test_saved_models_are_whole(self, scheme, kind, models, split_models):
        folder = split_models[1] / f"{scheme} {kind}"
        saved = TimesformerForVideoClassification.from_pretrained(folder, dtype=torch.float64)
        torch.testing.assert_close(saved.state_dict(), models[scheme].state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sharded_model_of_two_in_one(scheme, models, split_models):
    """What two processes saved with `distributed_checkpoint=True`; the other way round is what they began with."""
    folder = split_models[1] / f"{scheme} fsdp sharded"
    saved = TimesformerForVideoClassification.from_pretrained(folder, dtype=torch.float64)
    torch.testing.assert_close(saved.state_dict(), models[scheme].state_dict(), rtol=0, atol=0)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_model(num_hidden_layers=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain_loop(model_folder):
    """The losses, weights and logits of `train_bare`, in plain PyTorch. The last batch is filled up with clip 0."""
    model = TimesformerForVideoClassification.from_pretrained(model_folder, dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    clips, losses = RandomClips(8, torch.float64), []
    epoch = [[0, 1, 2, 3], [4, 5, 6, 7]]
    for batch in [*epoch, *epoch, [0, 1, 2, 3], [4, 5, 6, 0]]:
        loss = model(clips.clips[batch], labels=torch.tensor(batch) % 5).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    with torch.no_grad():
        logits = model(clips.clips[:5]).logits
    return {"losses": losses, "logits": logits, "weights": model.state_dict()}


@pytest.fixture(scope="module")
def sharded_loop(model_folder, fsdp, tmp_path_factory):
    """`train_bare` in two processes by FSDP2, and its checkpoint."""
    folder = tmp_path_factory.mktemp("sharded") / "checkpoint"
    return launch(2, train_bare, model_folder, folder, environment=fsdp), folder


class TestBareLoop:
    """accelerate, in float64, where other orders of sums differ by less than 1e-10."""

    def assert_same(self, found: dict, expected: dict, epochs: int = 3) -> None:
        losses = torch.tensor(expected["losses"][-2 * epochs :], dtype=torch.float64)
        torch.testing.assert_close(torch.tensor(found["losses"], dtype=torch.float64), losses, **FLOAT64)
        torch.testing.assert_close(found["weights"], expected["weights"], **FLOAT64)
        torch.testing.assert_close(found["logits"], expected["logits"], **FLOAT64)

    def test_ddp(self, model_folder, plain_loop):
        self.assert_same(launch(2, train_bare, model_folder, environment=DDP), plain_loop)

    def test_fsdp(self, sharded_loop, plain_loop):
        found, _ = sharded_loop
        self.assert_same(found, plain_loop)
        blocks = [f"timesformer.encoder.layer.{index}" for index in range(2)]
        projection = "timesformer.embeddings.patch_embeddings.projection"
        assert found["wrapped"] == ["", "timesformer.embeddings", projection, *blocks, "timesformer.layernorm"]

    def test_checkpoint_of_two_in_one(self, model_folder, fsdp, sharded_loop, plain_loop):
        found = launch(1, train_bare, model_folder, None, sharded_loop[1], environment=fsdp)
        losses = plain_loop["losses"]
        torch.testing.assert_close(found["losses"][:3], losses[2:5], **FLOAT64)
        assert abs(found["losses"][3] - losses[5]) > 1e-3  # one process doesn't fill up the last batch

    def test_checkpoint_of_one_in_two(self, model_folder, fsdp, plain_loop, tmp_path):
        launch(1, train_bare, model_folder, tmp_path / "checkpoint", environment=fsdp)
        found = launch(2, train_bare, model_folder, None, tmp_path / "checkpoint", environment=fsdp)
        self.assert_same(found, plain_loop, epochs=2)

    def test_merged_checkpoint(self, model_folder, fsdp, sharded_loop, tmp_path):
        """What `accelerate merge-weights` makes of the shards is a model for `from_pretrained`."""
        found, checkpoint = sharded_loop
        launch(1, merge, checkpoint / "pytorch_model_fsdp_0", tmp_path)
        shutil.copy(model_folder / "config.json", tmp_path)
        model = TimesformerForVideoClassification.from_pretrained(tmp_path, dtype=torch.float64)
        torch.testing.assert_close(model.state_dict(), found["checkpoint_weights"], rtol=0, atol=0)
        assert not torch.equal(model.classifier.weight, found["weights"]["classifier.weight"])


@pytest.fixture(scope="module")
def one_process(model_folder, tmp_path_factory):
    return launch(1, train_with_trainer, model_folder, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def sharded_training(model_folder, fsdp, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    return launch(2, train_with_trainer, model_folder, folder, environment=fsdp), folder


class TestTrainer:
    """ClipTrainer in float32: sums in another order. A training that goes on has the losses of its beginning too."""

    def assert_same(self, found: dict, expected: dict) -> None:
        torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-5, atol=0)  # 80 units of the last place
        torch.testing.assert_close(found["weights"], expected["weights"], **FLOAT32)
        torch.testing.assert_close(found["logits"], expected["logits"], **FLOAT32)
        assert found["accuracy"] == expected["accuracy"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)

    def test_ddp(self, model_folder, one_process, tmp_path):
        """And its checkpoint, from which one process goes on."""
        assert len(one_process["losses"]) == 4
        self.assert_same(launch(2, train_with_trainer, model_folder, tmp_path), one_process)
        self.assert_same(launch(1, train_with_trainer, model_folder, tmp_path, True), one_process)

    def test_fsdp(self, one_process, sharded_training):
        found, folder = sharded_training
        self.assert_same(found, one_process)
        assert len(list((folder / "checkpoint-2" / "pytorch_model_fsdp_0").glob("*.distcp"))) == 2

    def test_merged_checkpoint(self, sharded_training):
        """As docs/distributed.md says: it is then a model's folder."""
        found, folder = sharded_training
        launch(1, merge, folder / "checkpoint-4" / "pytorch_model_fsdp_0", folder / "checkpoint-4")
        model = TimesformerForVideoClassification.from_pretrained(folder / "checkpoint-4")
        torch.testing.assert_close(model.state_dict(), found["weights"], rtol=0, atol=0)
        assert TimesformerVideoProcessor.from_pretrained(folder / "checkpoint-4").clip_size == (224, 224)

    def test_checkpoint_of_two_in_one(self, model_folder, fsdp, one_process, sharded_training):
        found = launch(1, train_with_trainer, model_folder, sharded_training[1], True, environment=fsdp)
        self.assert_same(found, one_process)

    def test_checkpoint_of_one_in_two(self, model_folder, fsdp, one_process, tmp_path):
        launch(1, train_with_trainer, model_folder, tmp_path, environment=fsdp)
        found = launch(2, train_with_trainer, model_folder, tmp_path, True, environment=fsdp)
        self.assert_same(found, one_process)

    @pytest.mark.parametrize("mode", ["ddp", "fsdp"])
    def test_uneven(self, mode, model_folder, fsdp, tmp_path):
        """7 clips in batches of 2 in two processes: none waits for the other, and each epoch has two steps."""
        environment = fsdp if mode == "fsdp" else DDP
        found = launch(2, train_with_trainer, model_folder, tmp_path, False, 7, environment=environment)
        assert len(found["losses"]) == 4
        assert found["logits"].shape == (5, 5)


class TestLaunch:
    """A test can't hang."""

    def test_one_that_fails_stops_the_others(self):
        with pytest.raises(ProcessRaisedException, match="the second process has had enough"):
            launch(2, fail_in_the_second)

    def test_time_is_limited(self):
        with pytest.raises(TimeoutError, match="wait ran longer than 2 s in 2 processes"):
            launch(2, wait, 600, timeout=2)


CONFIG_FILES = {  # kind, machines, processes
    "1_gpu.yaml": (DistributedType.NO, 1, 1),
    "8_gpus.yaml": (DistributedType.MULTI_GPU, 1, 8),
    "8_gpus_fsdp2.yaml": (DistributedType.FSDP, 1, 8),
    "several_nodes.yaml": (DistributedType.MULTI_GPU, 2, 16),
    "several_nodes_fsdp2.yaml": (DistributedType.FSDP, 2, 16),
}


def test_no_config_file_is_left_out():
    assert {path.name for path in CONFIGS.iterdir()} == set(CONFIG_FILES)


@pytest.mark.parametrize("name", CONFIG_FILES)
class TestConfigFiles:
    def test_accelerate_takes_it(self, name):
        config = load_config_from_file(str(CONFIGS / name))  # it refuses keys that it doesn't know,
        assert (config.distributed_type, config.num_machines, config.num_processes) == CONFIG_FILES[name]
        known = vars(launch_command_parser().parse_args(["script.py"]))  # but none below the first level
        assert {*config.fsdp_config, *config.parallelism_config} <= known.keys()

    def test_what_it_asks_for(self, name, monkeypatch):
        environment = launch_environment(CONFIGS / name)
        assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
        assert ("ACCELERATE_USE_FSDP" in environment) == ("fsdp2" in name)
        if "fsdp2" in name:
            for variable, value in environment.items():
                monkeypatch.setenv(variable, value)
            plugin = FullyShardedDataParallelPlugin()
            assert (plugin.fsdp_version, plugin.state_dict_type.name) == (2, "SHARDED_STATE_DICT")
            assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
            assert plugin.transformer_cls_names_to_wrap is None  # those of the model
            assert plugin.reshard_after_forward
        if name == "several_nodes_fsdp2.yaml":
            sizes = [environment[f"PARALLELISM_CONFIG_DP_{kind}_SIZE"] for kind in ("REPLICATE", "SHARD")]
            assert sizes == ["2", "8"]

    def test_the_docs_name_it(self, name):
        assert f"accelerate_configs/{name}" in (REPOSITORY / "docs" / "distributed.md").read_text()


FINETUNE = ("-m", "timesformer_hf", "finetune")
BARE_LOOP = (str(REPOSITORY / "examples" / "finetune_accelerate.py"),)


def command(program: tuple[str, ...], processes: int = 1, config: str | None = None, *options: str) -> list[str]:
    """How a program is started: by itself, by torchrun, or by accelerate with a config file."""
    if config is not None:
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
        launcher += ["--num_processes", str(processes), *(options or ["--main_process_port", "0"])]
        return [sys.executable, *launcher, *([str(WORKER)] if "fsdp2" in config else []), *program]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *(torchrun if processes > 1 else []), *program]


def run(*commands: list[str], **settings) -> str:
    """Run them side by side with the same settings, and not for ever; what the first one writes."""
    flags = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [
        subprocess.Popen([*words, *flags], env=environment, start_new_session=True, **pipes) for words in commands
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs[0]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes of nine videos, of which six are going to be held out."""
    clips = pytest.importorskip("clips", reason="PyAV writes the videos")
    folder = tmp_path_factory.mktemp("videos")
    for number in range(18):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        clips.write_video(path, clips.moving_pattern(number + 12, 40, 48)[number:])
    return folder


@pytest.fixture(scope="module")
def labelled_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    make_model(num_hidden_layers=2, num_labels=2, id2label={0: "cat", 1: "dog"}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finetuning(videos, labelled_model):
    """Settings for 12 clips, 4 a step, where what is random depends on the clip and not on the batch."""
    settings = {"data": videos, "model": labelled_model, "validation_share": 0.3, "num_train_epochs": 2}
    settings |= {"mixup": 0, "cutmix": 0, "drop_path_rate": 0, "learning_rate": 1e-3, "adam_epsilon": 1e-5}
    return settings | {"dataloader_num_workers": 0, "report_to": "none", "logging_steps": 1}


@pytest.fixture(scope="module")
def one_run(finetuning, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    run(command(FINETUNE), use_cpu=True, per_device_train_batch_size=4, output_dir=folder, **finetuning)
    return folder


@pytest.mark.slow
class TestPrograms:
    """The programs as people start them; float32."""

    def assert_same(self, folder: Path, expected: Path) -> None:
        states = [json.loads((path / "trainer_state.json").read_text()) for path in (folder, expected)]
        losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in states]
        assert len(losses[0]) == 6
        torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
        self.assert_same_weights(folder, expected)
        results = [json.loads((path / "results.json").read_text())["validation"] for path in (folder, expected)]
        assert results[0]["accuracy"] == results[1]["accuracy"]

    def assert_same_weights(self, folder: Path, expected: Path) -> None:
        weights = [load_file(path / "model.safetensors") for path in (folder, expected)]
        torch.testing.assert_close(*weights, **FLOAT32)
        assert (folder / "config.json").exists()

    def test_torchrun(self, finetuning, one_run, tmp_path):
        run(command(FINETUNE, 2), use_cpu=True, per_device_train_batch_size=2, output_dir=tmp_path, **finetuning)
        self.assert_same(tmp_path, one_run)

    def test_several_nodes(self, finetuning, one_run, tmp_path):
        """Two machines with a process each, both of them this one."""
        options = ("--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port()), "--machine_rank")
        nodes = [command(FINETUNE, 2, "several_nodes.yaml", *options, rank) for rank in ("0", "1")]
        run(*nodes, use_cpu=True, per_device_train_batch_size=2, output_dir=tmp_path, **finetuning)
        self.assert_same(tmp_path, one_run)

    def test_fsdp2(self, finetuning, one_run, tmp_path):
        """And, broken off after the first epoch, it goes on in one process."""
        settings = finetuning | {"output_dir": tmp_path}
        run(command(FINETUNE, 2, "8_gpus_fsdp2.yaml"), per_device_train_batch_size=2, **settings)
        self.assert_same(tmp_path, one_run)
        shutil.rmtree(tmp_path / "checkpoint-6")
        (tmp_path / "model.safetensors").unlink()
        run(command(FINETUNE, 1, "8_gpus_fsdp2.yaml"), per_device_train_batch_size=4, resume=True, **settings)
        self.assert_same(tmp_path, one_run)

    def test_hybrid_fsdp2(self, finetuning, one_run, tmp_path):
        """Four processes, of which two share out the model."""
        options = ["--main_process_port", "0", "--num_machines", "1"]
        options += ["--parallelism_config_dp_replicate_size", "2", "--parallelism_config_dp_shard_size", "2"]
        hybrid = command(FINETUNE, 4, "several_nodes_fsdp2.yaml", *options)
        run(hybrid, per_device_train_batch_size=1, output_dir=tmp_path, **finetuning)
        self.assert_same(tmp_path, one_run)

    def test_bare_loop(self, videos, labelled_model, tmp_path):
        settings = {"data": videos, "model": labelled_model, "validation_share": 0.3, "epochs": 2, "num_workers": 0}
        for name, processes, config in (("one", 1, None), ("ddp", 2, None), ("fsdp2", 2, "8_gpus_fsdp2.yaml")):
            settings |= {"output_dir": tmp_path / name, "batch_size": 4 // processes}
            script = command(BARE_LOOP, processes, config) + ([] if config else ["--cpu"])
            shown = run(script, **settings)
            assert shown.count("epoch 1: validation accuracy") == 1
        for name in ("ddp", "fsdp2"):
            self.assert_same_weights(tmp_path / name, tmp_path / "one")
