"""
A program that uses every public name, for the type checker alone. `tests/test_types.py` has it checked; nobody runs it.

`assert_type` says which type a user gets, so a public function that loses its annotation is an error here.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.video_utils import VideoMetadata

import timesformer_hf as t


def use_models(folder: Path, pixel_values: torch.Tensor) -> None:
    config = t.TimesformerConfig(num_frames=16, image_size=(256, 448), attention_type=next(iter(t.ATTENTION_SCHEMES)))
    assert_type(config.grid_size, tuple[int, int])
    model = t.TimesformerForVideoClassification.from_pretrained(t.CAMERA_MOTION, num_frames=16)
    assert_type(model, t.TimesformerForVideoClassification)
    assert_type(model.config, t.TimesformerConfig)
    assert_type(model.timesformer, t.TimesformerModel)
    assert_type(t.TimesformerModel.from_image_vit(folder), t.TimesformerModel)
    assert_type(t.optimize_for_inference(model), t.TimesformerForVideoClassification)
    assert_type(t.quantize(model, "int8"), t.TimesformerForVideoClassification)
    t.quantization_config("int8")
    base: t.TimesformerPreTrainedModel = model
    library: PreTrainedModel = base
    library.eval()
    base.resize_embeddings(num_frames=32)
    assert_type(t.count_parameters(config), int)
    assert_type(t.count_multiply_accumulates(config, num_frames=8), int)
    t.export_model(folder, folder / "onnx", format="onnx", calibration=[pixel_values])
    try:
        t.TimesformerModel.from_pretrained("facebook/timesformer-base-finetuned-k400")
    except t.WeightsMismatchError as error:
        print(error)


def read_videos(folder: Path) -> None:
    processor = t.TimesformerVideoProcessor(num_frames=8, frame_sampling_rate=32)
    processor(t.SAMPLE_CLIP, return_tensors="pt")
    assert_type(processor.image_processor(), t.TimesformerImageProcessor)
    t.TimesformerImageProcessorPil()

    def first(about: VideoMetadata) -> list[int]:
        return t.sample_frame_indices(total_num_frames=about.total_num_frames, num_frames=8)

    options = t.VideoOptions(max_seconds=60)
    with open(t.SAMPLE_CLIP, "rb") as file:
        for source in (t.SAMPLE_CLIP, folder, b"", file, {"bytes": b"", "path": None}):
            try:
                frames, about = t.decode_frames(source, first, options=options)
            except t.VideoReadError as error:
                print(error)
            else:
                assert_type(about, VideoMetadata)
                print(frames.shape)
    assert_type(t.CheckpointLimits().max_header_bytes, int)


def score(model: t.TimesformerForVideoClassification, views: torch.Tensor, labels: np.ndarray) -> None:
    logits = t.score_views(model, views, views_per_pass=2)
    scores = assert_type(t.average_views(logits), torch.Tensor).numpy()
    assert_type(t.top_k_accuracy(scores, labels, k=5), float)
    assert_type(t.mean_class_accuracy(scores.argmax(axis=1), labels), float)
    assert_type(t.mean_average_precision(scores, labels), float)
    assert_type(t.expected_calibration_error(scores.max(axis=1), labels == 0), float)
    assert_type(t.wilson_interval(9, 10), tuple[float, float])
    counts = t.confusion_matrix(scores.argmax(axis=1), labels, num_labels=10)
    t.plot_confusion_matrix("confusion.png", counts, t.read_labels("kinetics400"))
    assert_type(t.single_label_results(scores, labels, ["a", "b"]), dict[str, Any])
    assert_type(t.multi_label_results(scores, labels, ["a", "b"]), dict[str, Any])
    assert_type(t.find_label_errors(scores, labels), np.ndarray)
    # Their base class is one of the library evaluate, which has no types.
    for metric in (t.TopKAccuracy(), t.MeanClassAccuracy(), t.ExpectedCalibrationError()):
        print(metric.description)


def embed(videos: list[str]) -> None:
    model, processor = t.load_feature_model(t.CAMERA_MOTION)
    for batch in t.extract_features(model, processor, [videos], level="frame"):
        assert_type(batch[0].error, str | None)
    table = assert_type(t.read_features("features.parquet"), t.FeatureTable)
    assert_type(table.videos, list[str])
    found = assert_type(t.find_near_duplicates(table.features, 0.9, splits=["train"] * 9), t.NearDuplicates)
    print(found.groups, found.nearest.videos, found.members())


def look(model: t.TimesformerForVideoClassification, processor: t.TimesformerVideoProcessor, path: Path) -> None:
    assert_type(t.explain(model, torch.zeros(1, 8, 3, 224, 224), target="archery"), torch.Tensor)
    explanation = t.explain_video(model, processor, path)
    frames, indices = t.read_span(explanation, processor, path)
    assert_type(indices, list[int])
    t.draw_sheet("sheet.png", explanation)
    t.draw_times("times.png", explanation)
    t.write_film("film.mp4", explanation, frames, indices)
    t.write_gif(path.with_suffix(".gif"), explanation)


def tell_the_time(model: t.TimesformerForVideoClassification, processor: t.TimesformerVideoProcessor) -> None:
    timeline = t.make_timeline(t.optimize_for_inference(model), processor, "film.mp4", window=2, stride=1)
    assert_type(timeline, t.Timeline)
    assert_type(timeline.windows[0], t.Window)
    assert_type(timeline.segments, tuple[t.Segment, ...])
    t.write_timeline("film.srt", timeline)
    classifier = t.StreamClassifier(model, processor, fps=25)
    assert_type(classifier.add(np.zeros((360, 640, 3), np.uint8)), list[t.Segment])
    assert_type(t.classify_live(model, processor, "camera:0", window=2), Iterator[t.Segment])


def train(folder: Path) -> None:
    videos = assert_type(t.read_labelled_videos(folder), t.LabelledVideos)
    assert_type(videos[0], t.LabelledVideo)
    training, validation = t.choose_splits(videos, share=0.2)
    assert_type(t.find_mirrored_labels(videos.label_names), tuple[str, str] | None)
    model, processor, label2id = t.start_from_checkpoint(t.CAMERA_MOTION, videos.label_names, reset_head=True)
    assert_type(model, t.TimesformerForVideoClassification)
    assert_type(processor, t.TimesformerVideoProcessor)
    assert_type(label2id, dict[str, int])
    t.start_from_scratch(t.TimesformerConfig(), videos.label_names)
    t.start_for_motion(model, torch.zeros(1, 8, 3, 224, 224))
    t.freeze(model, "head")
    print(t.RECIPES["paper"].about, t.parameter_groups(model, learning_rate=1e-3)[0]["lr"])
    augmentation = t.ClipAugmentation(flip=0.0, mixup=0.8)
    transform = assert_type(t.make_clip_transform(augmentation, (224, 224)), Callable[[torch.Tensor], torch.Tensor])
    skipped = t.SkippedClips(folder / "skipped.csv")
    dataset = t.ClipDataset(training, t.ClipLoader(processor, label2id, transform=transform, skipped=skipped))
    assert_type(dataset[0], dict[str, torch.Tensor | int])
    assert_type(iter(t.EpochSampler(len(dataset))), Iterator[int])
    names = [video.labels for video in training]
    trainer = t.ClipTrainer(
        model=model,
        loss=t.ClipLoss(class_weights=t.balanced_class_weights(names, videos.label_names)),
        args=t.ClipTrainingArguments(output_dir=str(folder), learning_rate=1e-4),
        train_dataset=dataset,
        eval_dataset=t.ClipDataset(validation, t.ClipLoader(processor, label2id)),
        data_collator=t.ClipCollator(augmentation, len(label2id)),
        compute_metrics=t.clip_metrics,
        processing_class=processor,
    )
    print(trainer.train().training_loss)
    t.plot_training_curves("curves.svg", trainer.state.log_history)
    t.add_lora(model, rank=8).print_trainable_parameters()
    assert_type(t.load_adapters(folder, t.CAMERA_MOTION)[0], t.TimesformerForVideoClassification)
    assert_type(t.encode_labels(validation, videos.label_names).ndim, int)
    try:
        t.start_from_checkpoint(t.CAMERA_MOTION, ["jump"])
    except t.LabelMismatchError as error:
        print(error)


def switch() -> None:
    t.unregister()
    t.register()
    assert_type(t.__version__, str)
