"""
Registration with transformers' Auto classes and pipelines. It is the only global side effect of this package.

Importing transformers' Auto modules takes seconds, so `register()` doesn't import them. It registers with the modules
that are imported already, and with the others right after the program imports them. Each entry of `_PARTS` belongs to
one of these modules.

Registration waits for the end of the outermost import, of transformers or of this package. Before that, modules that
our classes need may not be fully imported.
"""

import sys
import threading
import warnings
from collections.abc import Callable
from functools import wraps
from importlib.abc import MetaPathFinder
from pathlib import Path


_MODEL_TYPE = "timesformer"
_PIPELINE_TASK = "video-classification"
_PIPELINE = f"{__package__}.inference.pipeline_timesformer.TimesformerVideoClassificationPipeline"
_Undo = Callable[[], None]


def register() -> None:
    """Make transformers use this package for model type "timesformer". Calling it again changes nothing."""
    if _hook not in sys.meta_path:
        sys.meta_path.insert(0, _hook)
    _register_imported()


def unregister() -> None:
    """Make transformers use its built-in classes again. Calling it again changes nothing."""
    if _hook in sys.meta_path:
        sys.meta_path.remove(_hook)
    while _registered:
        _, undo = _registered.popitem()
        undo()


def _register_config() -> _Undo:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

    from .model.configuration_timesformer import TimesformerConfig

    AutoConfig.register(_MODEL_TYPE, TimesformerConfig, exist_ok=True)
    return lambda: CONFIG_MAPPING._extra_content.pop(_MODEL_TYPE, None)


def _register_models() -> _Undo:
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForVideoClassification

    from .model.configuration_timesformer import TimesformerConfig
    from .model.modeling_timesformer import TimesformerForVideoClassification, TimesformerModel

    AutoModel.register(TimesformerConfig, TimesformerModel, exist_ok=True)
    AutoModelForVideoClassification.register(TimesformerConfig, TimesformerForVideoClassification, exist_ok=True)

    def undo() -> None:
        for auto_class in (AutoModel, AutoModelForVideoClassification):
            auto_class._model_mapping._extra_content.pop(TimesformerConfig, None)

    return undo


def _register_image_processors() -> _Undo:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING, AutoImageProcessor

    from .model.configuration_timesformer import TimesformerConfig
    from .video.image_processing_pil_timesformer import TimesformerImageProcessorPil
    from .video.image_processing_timesformer import TimesformerImageProcessor

    classes = {"torchvision": TimesformerImageProcessor, "pil": TimesformerImageProcessorPil}
    AutoImageProcessor.register(TimesformerConfig, image_processor_classes=classes, exist_ok=True)
    legacy = {
        "VideoMAEImageProcessor": TimesformerImageProcessor,
        "VideoMAEImageProcessorPil": TimesformerImageProcessorPil,
    }
    undo_redirect = _redirect(AutoImageProcessor, legacy)

    def undo() -> None:
        undo_redirect()
        IMAGE_PROCESSOR_MAPPING._extra_content.pop(TimesformerConfig, None)

    return undo


def _register_video_processor() -> _Undo:
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING, AutoVideoProcessor

    from .model.configuration_timesformer import TimesformerConfig
    from .video.video_processing_timesformer import TimesformerVideoProcessor

    AutoVideoProcessor.register(TimesformerConfig, TimesformerVideoProcessor, exist_ok=True)
    names = ("VideoMAEVideoProcessor", "TimesformerVideoProcessor")
    ours = dict.fromkeys(names, TimesformerVideoProcessor)
    undo_redirect = _redirect(AutoVideoProcessor, ours, takes_num_frames=True)

    def undo() -> None:
        undo_redirect()
        VIDEO_PROCESSOR_MAPPING._extra_content.pop(TimesformerConfig, None)

    return undo


def _redirect(auto_class: type, ours: dict[str, type], takes_num_frames: bool = False) -> _Undo:
    """
    Make `auto_class.from_pretrained` return our processor in place of those named in `ours`.

    The Auto classes look at the class name in the preprocessor file before they look at the model type. All TimeSformer
    checkpoints on the Hub name VideoMAE's class there. And if two classes have the same name, transformers 5.17 takes
    its own one.
    """
    from .model.configuration_timesformer import stored_config_values

    original = auto_class.__dict__["from_pretrained"]

    @wraps(original.__func__)
    def from_pretrained(cls, pretrained_model_name_or_path, *inputs, **kwargs):
        result = original.__func__(cls, pretrained_model_name_or_path, *inputs, **kwargs)
        processor = result[0] if isinstance(result, tuple) else result  # a tuple with return_unused_kwargs=True
        name = type(processor).__name__
        if name not in ours or isinstance(processor, ours[name]):
            return result
        config = kwargs.get("config")  # a config object, a name, or nothing
        if hasattr(config, "to_dict"):
            config = config.to_dict()
        else:
            config = stored_config_values(pretrained_model_name_or_path, kwargs)
        if name != ours[name].__name__ and config.get("model_type") != _MODEL_TYPE:
            return result
        values = processor.to_dict()
        if takes_num_frames and values.get("num_frames") is None:
            values["num_frames"] = config.get("num_frames")
        processor = ours[name].from_dict(values)
        return (processor, *result[1:]) if isinstance(result, tuple) else processor

    auto_class.from_pretrained = classmethod(from_pretrained)

    def undo() -> None:
        auto_class.from_pretrained = original

    return undo


def _register_pipeline() -> _Undo:
    """
    Make transformers use our pipeline for the task, and find the task of a TimeSformer in a local folder.

    Our pipeline leaves the videos of other models to transformers' own one. For `pipeline(model=DIR)`, transformers
    would look for the task on the Hub.
    """
    from transformers import pipelines

    from .model.configuration_timesformer import stored_config_values

    task = pipelines.SUPPORTED_TASKS[_PIPELINE_TASK]
    original_impl, original_get_task = task["impl"], pipelines.get_task

    @wraps(original_get_task)
    def get_task(model: str, *args, **kwargs) -> str:
        if Path(model).is_dir() and stored_config_values(model, {}).get("model_type") == _MODEL_TYPE:
            return _PIPELINE_TASK
        return original_get_task(model, *args, **kwargs)

    task["impl"] = _PIPELINE
    if not isinstance(original_impl, str):  # older versions expect the class, and have already imported their own
        from .inference.pipeline_timesformer import TimesformerVideoClassificationPipeline

        task["impl"] = TimesformerVideoClassificationPipeline
    pipelines.get_task = get_task

    def undo() -> None:
        task["impl"], pipelines.get_task = original_impl, original_get_task

    return undo


_PARTS: dict[str, Callable[[], _Undo]] = {
    # module of transformers: function to call once it is imported
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.image_processing_auto": _register_image_processors,
    "transformers.models.auto.video_processing_auto": _register_video_processor,
    "transformers.pipelines": _register_pipeline,
}
_registered: dict[str, _Undo] = {}


class _AfterImport(MetaPathFinder):
    """An import hook that calls `_register_imported` after the outermost import in transformers or this package."""

    def __init__(self):
        self.nesting = threading.local()

    def find_spec(self, name: str, path=None, target=None):
        if not name.startswith(("transformers.", f"{__package__}.")):
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = self._followed(spec.loader.exec_module)
        return spec

    def _followed(self, exec_module: Callable) -> Callable:
        def exec_and_register(module) -> None:
            self.nesting.depth = getattr(self.nesting, "depth", 0) + 1
            try:
                exec_module(module)
            finally:
                self.nesting.depth -= 1
            if self.nesting.depth == 0 and self in sys.meta_path:
                try:
                    _register_imported()
                except Exception as error:  # the program's own import must not fail because of this
                    warnings.warn(f"{__package__} couldn't register with transformers: {error!r}", stacklevel=2)

        return exec_and_register


_hook = _AfterImport()


def _register_imported() -> None:
    """
    Register with every module of `_PARTS` that is imported and not registered yet.

    That may import further modules of `_PARTS`. Their imports end in this function again.
    """
    for name, part in _PARTS.items():
        if name in sys.modules and name not in _registered:
            _registered[name] = lambda: None  # so that the imports of this part don't call it again
            try:
                _registered[name] = part()
            except BaseException:
                del _registered[name]
                raise
