"""
What tests/training/test_distributed.py runs in several processes, and how it starts them.

As a program it runs another one, or a module, on CPUs that accelerate takes for GPUs:
`accelerate launch --config_file fsdp2.yaml tests/distributed_worker.py -m timesformer_hf finetune ...`
"""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader, Dataset
from transformers.utils import logging


# Imported once, by the process that the others are forked from.
PRELOADED = ["datasets", "transformers.trainer", "torch.distributed.fsdp", "torch.distributed.checkpoint", "accelerate"]
PRELOADED += [
    "transformers.distributed.mixin",
    "timesformer_hf.training.trainer",
    "timesformer_hf.model.modeling_timesformer",
]


def launch(
    num_processes: int,
    function,
    *arguments,
    environment: dict[str, str] | None = None,
    timeout: float = 120,
    **settings,
):
    """
    What `function(*arguments, **settings)` returns in the first of so many processes, each with the environment that
    torchrun gives it, and `environment` besides.

    Raises:
        ProcessRaisedException: what one of them raised; the others are stopped.
        TimeoutError: after so many seconds; all are stopped.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.pt")
        variables = (environment or {}) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        variables |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
        variables |= {"CUDA_VISIBLE_DEVICES": ""}  # where there is a GPU, it isn't one for each
        started = start_processes(
            run,
            (variables, result, function, arguments, settings),
            num_processes,
            join=False,
            start_method="forkserver",
        )
        deadline = time.monotonic() + timeout
        while not started.join(timeout=1, grace_period=5):
            if time.monotonic() > deadline:
                for process in started.processes:
                    process.kill()
                raise TimeoutError(f"{function.__name__} ran longer than {timeout} s in {num_processes} processes")
        return torch.load(result, weights_only=True)


def run(rank: int, variables: dict[str, str], result: Path, function, arguments: tuple, settings: dict) -> None:
    os.environ.update(variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        take_cpus_for_gpus()
    returned = function(*arguments, **settings)
    if rank == 0:
        torch.save(returned, result)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def take_cpus_for_gpus() -> None:
    """accelerate offers FSDP on accelerators alone. Let it take CPUs for GPUs that speak gloo, and see no real ones."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    PartialState._prepare_backend = lambda self, *arguments: ("gloo", DistributedType.MULTI_GPU)


class RandomClips(Dataset):
    """
    So many clips and labels, the same in every process. As in a `ClipDataset`, index `i + epoch * len(self)` is clip i
    too.
    """

    def __init__(self, number: int, dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(0)
        self.clips = torch.randn(number, 4, 3, 32, 32, generator=generator, dtype=dtype)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, ticket: int) -> dict:
        index = ticket % len(self)
        return {"pixel_values": self.clips[index], "labels": torch.tensor(index % 5)}


def load_model(folder: Path, dtype: torch.dtype = torch.float64, **settings):
    from timesformer_hf import TimesformerForVideoClassification

    return TimesformerForVideoClassification.from_pretrained(folder, dtype=dtype, **settings)


def wrapped_modules(model) -> list[str]:
    from torch.distributed.fsdp import FSDPModule

    return [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def parallel_models(folders: dict[str, Path], output: Path) -> dict[str, dict]:
    """
    Each model split by its tensor-parallel plan and by its FSDP plan: logits and gradients of two clips, the same in
    every process, and which parameters are split. What they save lands in `output`.
    """
    from transformers.distributed import DistributedConfig

    dist.init_process_group("gloo")
    found = {}
    for name, folder in folders.items():
        for kind in ("tp", "fsdp"):
            model = load_model(folder, distributed_config=DistributedConfig(**{f"{kind}_size": dist.get_world_size()}))
            clips = RandomClips(2, torch.float64)
            outputs = model(clips.clips, labels=torch.tensor([1, 4]))
            outputs.loss.backward()
            parameters = dict(model.named_parameters())
            found[f"{name} {kind}"] = {
                "logits": outputs.logits.detach(),
                "gradients": {name: whole(parameter.grad) for name, parameter in parameters.items()},
                "split": [key for key, value in parameters.items() if value.numel() != local(value).numel()],
                "wrapped": wrapped_modules(model),
            }
            is_main_process = dist.get_rank() == 0
            model.save_pretrained(output / f"{name} {kind}", is_main_process=is_main_process)
            if kind == "fsdp":
                folder = output / f"{name} {kind} sharded"
                model.save_pretrained(folder, is_main_process=is_main_process, distributed_checkpoint=True)
    return found


def resize_sharded(folder: Path) -> str:
    """What is said to that."""
    from transformers.distributed import DistributedConfig

    dist.init_process_group("gloo")
    try:
        load_model(folder, distributed_config=DistributedConfig(fsdp_size=2), num_frames=6)
    except ValueError as error:
        return str(error)
    return ""


def train_bare(model_folder: Path, checkpoint: Path | None = None, resume: Path | None = None) -> dict:
    """
    A bare loop with accelerate: two epochs of 8 clips in batches of 4, and one of 7 clips; then the logits of 5 clips.

    Args:
        checkpoint: where it is saved after the first epoch.
        resume: go on from such a one.
    """
    from accelerate import Accelerator

    accelerator = Accelerator()
    model = load_model(model_folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch_size = 4 // accelerator.num_processes
    loaders = [DataLoader(RandomClips(number, torch.float64), batch_size=batch_size) for number in (8, 7, 5)]
    model, optimizer, even, uneven, validation = accelerator.prepare(model, optimizer, *loaders)
    losses, found = [], {"wrapped": wrapped_modules(model)}
    if resume is not None:
        accelerator.load_state(resume)
    for epoch, loader in ((1, even), (2, uneven)) if resume else ((0, even), (1, even), (2, uneven)):
        for batch in loader:
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(accelerator.reduce(loss.detach(), "mean").item())
        if checkpoint is not None and epoch == 0:
            accelerator.save_state(checkpoint)
            found["checkpoint_weights"] = accelerator.get_state_dict(model)
    with torch.no_grad():
        logits = [accelerator.gather_for_metrics(model(batch["pixel_values"]).logits) for batch in validation]
    return found | {"losses": losses, "logits": torch.cat(logits), "weights": accelerator.get_state_dict(model)}


def train_with_trainer(model_folder: Path, output: Path, resume: bool = False, number: int = 8) -> dict:
    """
    The ClipTrainer on so many clips for two epochs, with a checkpoint after each; then its predictions for 5 clips.
    With `resume` it goes on from the first.
    """
    from timesformer_hf import TimesformerVideoProcessor
    from timesformer_hf.training.losses import ClipLoss
    from timesformer_hf.training.trainer import ClipTrainer, ClipTrainingArguments, clip_metrics

    arguments = ClipTrainingArguments(
        output_dir=str(output),
        use_cpu=os.environ.get("ACCELERATE_USE_FSDP") != "true",
        per_device_train_batch_size=4 // int(os.environ["WORLD_SIZE"]),
        per_device_eval_batch_size=2,
        num_train_epochs=2,
        learning_rate=1e-3,
        adam_epsilon=1e-5,  # the gradient of a key's bias is zero but for rounding, which Adam would make much of
        lr_scheduler_type="cosine",
        weight_decay=0.05,
        layer_decay=0.75,
        save_strategy="epoch",
        eval_strategy="epoch",
        logging_steps=1,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = ClipTrainer(
        model=load_model(model_folder, torch.float32),
        args=arguments,
        loss=ClipLoss(),
        train_dataset=RandomClips(number),
        eval_dataset=RandomClips(5),
        compute_metrics=clip_metrics,
        processing_class=TimesformerVideoProcessor(),
    )
    trainer.train(resume_from_checkpoint=str(output / f"checkpoint-{-(-number // 4)}") if resume else None)
    prediction = trainer.predict(trainer.eval_dataset)
    return {
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "logits": torch.from_numpy(prediction.predictions),
        "accuracy": float(prediction.metrics["test_accuracy"]),
        "loss": float(prediction.metrics["test_loss"]),
        "weights": trainer.accelerator.get_state_dict(trainer.model_wrapped),
    }


def merge(checkpoint: Path, output: Path) -> None:
    from accelerate.utils import merge_fsdp_weights

    merge_fsdp_weights(checkpoint, output)


def fail_in_the_second() -> None:
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        raise ValueError("the second process has had enough")
    dist.barrier()


def wait(seconds: float) -> None:
    time.sleep(seconds)


if __name__ == "__main__":
    take_cpus_for_gpus()
    is_module = sys.argv[1] == "-m"
    sys.argv = sys.argv[1 + is_module :]
    (runpy.run_module if is_module else runpy.run_path)(sys.argv[0], run_name="__main__")
