"""
Fine-tuning as a bare loop with accelerate, to copy and make your own:

    python examples/finetune_accelerate.py --data videos/ --model my-checkpoint --output_dir my-model
    accelerate launch --num_processes 8 examples/finetune_accelerate.py ...

It prints the accuracy after each epoch, and writes the model to my-model/. There is one recipe (AdamW, warm-up and
cosine, crop and flip), no logging service, and a run that is cut off starts anew. `timesformer-hf finetune` has the
rest, and goes on where it was cut off.
"""

import argparse
import math
import os

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from timesformer_hf import (
    ClipAugmentation,
    ClipCollator,
    ClipDataset,
    ClipLoader,
    ClipLoss,
    EpochSampler,
    SkippedClips,
    choose_splits,
    find_mirrored_labels,
    make_clip_transform,
    parameter_groups,
    read_labelled_videos,
    start_from_checkpoint,
)


def main(arguments: list[str] | None = None) -> float:
    """Train a model, save it, and return its accuracy on the videos that were held out."""
    args = parse_arguments(arguments)
    settings = {"gradient_accumulation_steps": args.gradient_accumulation_steps, "cpu": args.cpu}
    accelerator = Accelerator(mixed_precision=args.mixed_precision, **settings)
    if int(os.environ.get("WORLD_SIZE", "1")) > accelerator.num_processes:
        raise ValueError("There is no accelerator, so each process would train alone; give --cpu to train together")
    set_seed(args.seed)
    videos = read_labelled_videos(args.data, multi_label=False)
    model, processor, label2id = start_from_checkpoint(args.model, videos.label_names, args.reset_head)
    train_loader, validation_loader, sampler = make_loaders(args, videos, processor, label2id)
    optimizer = torch.optim.AdamW(parameter_groups(model, args.learning_rate, weight_decay=0.05, layer_decay=0.75))
    model, optimizer, train_loader, validation_loader = accelerator.prepare(
        model, optimizer, train_loader, validation_loader
    )
    steps = args.epochs * math.ceil(len(train_loader) / args.gradient_accumulation_steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    accuracy = 0.0
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        progress = tqdm(train_loader, f"epoch {epoch}", disable=not accelerator.is_main_process)
        train(accelerator, model, optimizer, schedule, progress)
        accuracy = validate(accelerator, model, validation_loader)
        accelerator.print(f"epoch {epoch}: validation accuracy {accuracy:.2%}")
    state_dict = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(args.output_dir, state_dict=state_dict)
        processor.save_pretrained(args.output_dir)
        processor.image_processor().save_pretrained(args.output_dir)  # for the built-in model's pipeline
    accelerator.end_training()
    return accuracy


def make_loaders(args: argparse.Namespace, videos, processor, label2id: dict[str, int]) -> tuple:
    """The loaders of the batches to train and to validate with, and the sampler of the former."""
    train_videos, validation_videos = choose_splits(videos, args.validation_share)
    # Clips that can't be read are noted here; their label of -100 keeps them out of the loss and of the accuracy.
    skipped = SkippedClips(f"{args.output_dir}/_skipped_clips.csv")
    flip = args.flip
    if flip is None:  # a flip would turn "moves left" into "moves right"
        flip = 0.0 if find_mirrored_labels(videos.label_names) else 0.5
    augmentation = ClipAugmentation(flip=flip)
    transform = make_clip_transform(augmentation, processor.clip_size, squeeze=not processor.do_center_crop)
    load = ClipLoader(processor, label2id, transform=transform, seed=args.seed, skipped=skipped)
    train_set = ClipDataset(train_videos, load)
    validation_set = ClipDataset(validation_videos, ClipLoader(processor, label2id, skipped=skipped))
    sampler = EpochSampler(len(train_set), args.seed)
    settings = {"batch_size": args.batch_size, "num_workers": args.num_workers, "collate_fn": ClipCollator()}
    return DataLoader(train_set, sampler=sampler, **settings), DataLoader(validation_set, **settings), sampler


def train(accelerator: Accelerator, model, optimizer, schedule, progress: tqdm) -> None:
    loss_of = ClipLoss()
    model.train()
    for batch in progress:
        with accelerator.accumulate(model):
            loss = loss_of(model(batch["pixel_values"]), batch["labels"])
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")


@torch.inference_mode()
def validate(accelerator: Accelerator, model, loader: DataLoader) -> float:
    model.eval()
    right = total = 0
    for batch in loader:
        predictions = model(batch["pixel_values"]).logits.argmax(dim=-1)
        predictions, labels = accelerator.gather_for_metrics((predictions, batch["labels"]))
        readable = labels != -100
        right += (predictions == labels)[readable].sum().item()
        total += readable.sum().item()
    if not total:
        raise ValueError("None of the clips to validate with can be read; _skipped_clips.csv in --output_dir says why")
    return right / total


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with a folder for each class, or a table")
    parser.add_argument("--model", required=True, help="a TimeSformer or an image ViT: a folder or a name on the Hub")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--reset_head", action="store_true", help="the checkpoint has other labels")
    parser.add_argument(
        "--validation_share", type=float, default=0.2, help="of each class, without a validation split (default: 0.2)"
    )
    parser.add_argument("--epochs", type=int, default=20, help="(default: 20)")
    parser.add_argument("--batch_size", type=int, default=8, help="clips a process (default: 8)")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1, help="batches a step (default: 1)")
    parser.add_argument("--learning_rate", type=float, default=1e-4, help="(default: 1e-4)")
    parser.add_argument("--flip", type=float, help="probability (default: 0.5, or 0 if labels name left and right)")
    parser.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default="no", help="(default: no)")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU, also with several processes")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that decode (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
