"""
Fine-tuning in Python, to copy and make your own. `timesformer-hf finetune` does the same with more options:

    python examples/finetune.py --data videos/ --model facebook/timesformer-base-finetuned-k400 --output_dir my-model

videos/ has a folder for each class. A fifth of the videos of each class is held out to validate with. It prints the
accuracy on these, and writes the model and the training curves to my-model/.
"""

import argparse
from functools import partial
from pathlib import Path

from timesformer_hf import (
    ClipAugmentation,
    ClipCollator,
    ClipDataset,
    ClipLoader,
    ClipLoss,
    ClipTrainer,
    ClipTrainingArguments,
    SkippedClips,
    choose_splits,
    clip_metrics,
    find_mirrored_labels,
    make_clip_transform,
    plot_training_curves,
    read_labelled_videos,
    start_from_checkpoint,
)


def main(words: list[str] | None = None) -> float:
    """Train a model, save it, and return its accuracy on the videos that were held out."""
    args = parse_arguments(words)
    videos = read_labelled_videos(args.data)
    train, validation = choose_splits(videos, share=0.2)
    # A new head, because the labels are others. What the model has learnt to see is kept.
    model, processor, label2id = start_from_checkpoint(args.model, videos.label_names, reset_head=True)

    flip = args.flip
    if flip is None:  # a flip would turn "moves left" into "moves right"
        flip = 0.0 if find_mirrored_labels(videos.label_names) else 0.5
    # Each frame of a clip gets the same crop, flip and colours, so that motion stays what it was.
    augmentation = ClipAugmentation(flip=flip, rand_augment=2, mixup=0.8, cutmix=1.0)
    transform = make_clip_transform(augmentation, processor.clip_size, squeeze=not processor.do_center_crop)
    # Clips that can't be read are listed here. They count neither in the loss nor in the accuracy.
    skipped = SkippedClips(Path(args.output_dir, "_skipped_clips.csv"))
    settings = {"multi_label": videos.multi_label, "num_labels": model.config.num_labels, "skipped": skipped}
    load = ClipLoader(processor, label2id, transform=transform, seed=args.seed, **settings)
    load_to_validate = ClipLoader(processor, label2id, **settings)

    trainer = ClipTrainer(
        model=model,
        args=training_arguments(args),
        train_dataset=ClipDataset(train, load),
        eval_dataset=ClipDataset(validation, load_to_validate),
        data_collator=ClipCollator(augmentation, model.config.num_labels),
        processing_class=processor,
        compute_metrics=partial(clip_metrics, multi_label=videos.multi_label),
        loss=ClipLoss(videos.multi_label, label_smoothing=0.1),
        skipped=skipped,
        max_unreadable=len(videos) // 10,
    )
    trainer.train(resume_from_checkpoint=args.resume_from)
    trainer.save_model()
    plot_training_curves(Path(args.output_dir, "curves.png"), trainer.state.log_history)
    accuracy = trainer.evaluate()["eval_accuracy"]
    print(f"validation accuracy: {accuracy:.2%}")
    return accuracy


def training_arguments(args: argparse.Namespace) -> ClipTrainingArguments:
    """transformers' TrainingArguments, with a lower learning rate for lower blocks."""
    return ClipTrainingArguments(
        output_dir=args.output_dir,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        layer_decay=0.75,  # each block learns at 0.75 of the rate of the block above it
        weight_decay=0.05,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        seed=args.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        logging_steps=1,
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_num_workers=args.num_workers,
        report_to="none",
    )


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with a folder for each class, or a table")
    parser.add_argument("--model", required=True, help="a TimeSformer or an image ViT: a folder or a name on the Hub")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--flip", type=float, help="probability (default: 0.5, or 0 if labels name left and right)")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that decode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume_from", metavar="CHECKPOINT", help="a checkpoint folder in --output_dir")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
