"""
An exact TimeSformer for Hugging Face transformers.

Importing this package registers its classes: `AutoConfig`, `AutoModel`, `AutoModelForVideoClassification`,
`AutoImageProcessor`, `AutoVideoProcessor` and `pipeline("video-classification")` then use them for every checkpoint of
model type "timesformer". `unregister()` gives the classes built into transformers back.
"""

from importlib import import_module

from .registration import register, unregister


__version__ = "0.1.0"

_MODULE_OF = {
    "CAMERA_MOTION": "shipped_models",
    "TimesformerConfig": "configuration_timesformer",
    "TimesformerForVideoClassification": "modeling_timesformer",
    "TimesformerImageProcessor": "image_processing_timesformer",
    "TimesformerImageProcessorPil": "image_processing_pil_timesformer",
    "TimesformerModel": "modeling_timesformer",
    "TimesformerPreTrainedModel": "modeling_timesformer",
    "TimesformerVideoProcessor": "video_processing_timesformer",
    "VideoReadError": "video_sources",
    "WeightsMismatchError": "loading_checks",
    "optimize_for_inference": "inference_folding",
}

__all__ = [*_MODULE_OF, "register", "unregister"]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
