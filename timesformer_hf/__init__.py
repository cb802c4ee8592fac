"""
An exact TimeSformer for Hugging Face transformers.

Importing this package registers its classes: `AutoConfig`, `AutoModel`, `AutoModelForVideoClassification`,
`AutoImageProcessor`, `AutoVideoProcessor` and `pipeline("video-classification")` then use them for every checkpoint of
model type "timesformer". `unregister()` undoes this, so that transformers uses its built-in classes again.
"""

from importlib import import_module

from .registration import register, unregister
from .version import __version__


# Public names and the modules that define them. A module is imported when one of its names is first used.
_MODULE_OF = {
    "ATTENTION_SCHEMES": "model.attention_schemes",
    "CAMERA_MOTION": "shipped_models",
    "RECIPES": "training.recipes",
    "SAMPLE_CLIP": "shipped_models",
    "CheckpointLimits": "checkpoints.limits",
    "ClipAugmentation": "data.clip_augmentation",
    "ClipCollator": "data.clip_augmentation",
    "ClipDataset": "data.clip_dataset",
    "ClipLoader": "data.clip_dataset",
    "ClipLoss": "training.losses",
    "ClipTrainer": "training.trainer",
    "ClipTrainingArguments": "training.trainer",
    "EpochSampler": "data.clip_dataset",
    "ExpectedCalibrationError": "evaluation.evaluate_metrics",
    "FeatureTable": "inference.feature_table",
    "LabelMismatchError": "training.start",
    "LabelledVideo": "data.labelled_videos",
    "LabelledVideos": "data.labelled_videos",
    "MeanClassAccuracy": "evaluation.evaluate_metrics",
    "NearDuplicates": "data.near_duplicates",
    "Segment": "timeline.segments",
    "SkippedClips": "data.clip_dataset",
    "StreamClassifier": "timeline.stream_classifier",
    "Timeline": "timeline.video_timeline",
    "TimesformerConfig": "model.configuration_timesformer",
    "TimesformerForVideoClassification": "model.modeling_timesformer",
    "TimesformerImageProcessor": "video.image_processing_timesformer",
    "TimesformerImageProcessorPil": "video.image_processing_pil_timesformer",
    "TimesformerModel": "model.modeling_timesformer",
    "TimesformerPreTrainedModel": "model.modeling_timesformer",
    "TimesformerVideoProcessor": "video.video_processing_timesformer",
    "TopKAccuracy": "evaluation.evaluate_metrics",
    "VideoOptions": "video.video_options",
    "VideoReadError": "video.video_errors",
    "WeightsMismatchError": "model.loading_checks",
    "Window": "timeline.segments",
    "add_lora": "training.adapters",
    "average_views": "video.multi_view",
    "balanced_class_weights": "training.losses",
    "choose_splits": "data.training_splits",
    "classify_live": "timeline.live",
    "clip_metrics": "training.trainer",
    "confusion_matrix": "evaluation.metrics",
    "count_multiply_accumulates": "model.cost",
    "count_parameters": "model.cost",
    "decode_frames": "video.video_decoding",
    "draw_sheet": "explanation.drawing",
    "draw_times": "explanation.drawing",
    "encode_labels": "evaluation.scoring",
    "expected_calibration_error": "evaluation.metrics",
    "explain": "explanation.relevance",
    "explain_video": "explanation.video_explanation",
    "export_model": "inference.export",
    "extract_features": "inference.feature_extraction",
    "find_label_errors": "evaluation.label_errors",
    "find_mirrored_labels": "data.mirrored_labels",
    "find_near_duplicates": "data.near_duplicates",
    "freeze": "training.start",
    "load_adapters": "training.adapters",
    "load_feature_model": "inference.feature_extraction",
    "make_clip_transform": "data.clip_augmentation",
    "make_timeline": "timeline.video_timeline",
    "mean_average_precision": "evaluation.metrics",
    "mean_class_accuracy": "evaluation.metrics",
    "multi_label_results": "evaluation.results",
    "optimize_for_inference": "inference.folding",
    "parameter_groups": "training.recipes",
    "plot_confusion_matrix": "evaluation.confusion_plot",
    "plot_training_curves": "training.curves",
    "quantization_config": "inference.quantization",
    "quantize": "inference.quantization",
    "read_features": "inference.feature_table",
    "read_labelled_videos": "data.reading",
    "read_labels": "data.label_lists",
    "read_span": "explanation.video_explanation",
    "sample_frame_indices": "video.video_sampling",
    "score_views": "video.multi_view",
    "single_label_results": "evaluation.results",
    "start_for_motion": "training.motion_start",
    "start_from_checkpoint": "training.start",
    "start_from_scratch": "training.start",
    "top_k_accuracy": "evaluation.metrics",
    "wilson_interval": "evaluation.metrics",
    "write_timeline": "timeline.formats",
    "write_film": "explanation.drawing",
    "write_gif": "explanation.drawing",
}

__all__ = [*_MODULE_OF, "__version__", "register", "unregister"]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
