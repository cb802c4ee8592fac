"""
Registration with transformers' Auto classes and pipelines, and with PEFT's. It is the only global side effect of this
package.

Importing transformers' Auto modules takes seconds, so `register()` doesn't import them. It registers with the modules
that are imported already, and with the others right after the program imports them. Each entry of `_PARTS` belongs to
one of these modules.

Registration itself imports nothing. It happens inside an import of the program, which holds the lock of the imported
module; another import there could wait forever for one in another thread. So transformers' tables get names of ours,
and the classes are imported when they are used.
"""

import sys
import threading
import warnings
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

from .version import __version__


OLDEST_TRANSFORMERS = (5, 17)  # as in pyproject.toml
_MODEL_TYPE = "timesformer"
_PIPELINE_TASK = "video-classification"
_PIPELINE = f"{__package__}.inference.pipeline_timesformer.TimesformerVideoClassificationPipeline"
_Undo = Callable[[], None]
# by backend (or the only one), and by the class that they take the place of
_Processors = tuple[dict[str, type] | type, dict[str, type]]


def register() -> None:
    """
    Make transformers use this package for model type "timesformer". Calling it again changes nothing.

    Raises:
        ImportError: if the installed transformers is too old. The message gives both versions and the pip line.
    """
    _check_transformers()
    for finder in [finder for finder in sys.meta_path if _is_of_another_copy(finder)]:
        finder.unregister()
    _finder.register()


def unregister() -> None:
    """Make transformers use its built-in classes again. Calling it again changes nothing."""
    _finder.unregister()


def _check_transformers() -> None:
    """
    Check the version of transformers. An older one would use its built-in model without a word.

    Raises:
        ImportError: see `register`.
    """
    installed = _installed_transformers()
    if installed is not None and tuple(map(int, installed.split(".")[:2])) < OLDEST_TRANSFORMERS:
        needed = f"transformers>={'.'.join(map(str, OLDEST_TRANSFORMERS))},<6"
        raise ImportError(
            f"{__package__} {__version__} needs {needed}, but {installed} is installed: "
            f'python -m pip install "{needed}"'
        )


def _installed_transformers() -> str | None:
    """Return the version of transformers without importing it, or `None` if there is none to be read."""
    if hasattr(sys.modules.get("transformers"), "__version__"):
        return sys.modules["transformers"].__version__
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return None
    with open(spec.origin, encoding="utf-8") as file:
        return next((line.split('"')[1] for line in file if line.startswith('__version__ = "')), None)


def _set_item(table: dict, key, value) -> _Undo:
    """Set an entry of a table, and return the function that restores what was there."""
    had, before = key in table, table.get(key)
    table[key] = value

    def undo() -> None:
        if had:
            table[key] = before
        else:
            table.pop(key, None)

    return undo


def _register_config(configuration_auto) -> _Undo:
    """`AutoConfig` looks up the class in the module of the model type, which becomes this package."""
    return _set_item(configuration_auto.CONFIG_MAPPING._modules, _MODEL_TYPE, sys.modules[__package__])


def _register_models(modeling_auto) -> _Undo:
    """As for the config. The name of a config's class says what its model type is, so the built-in's gets ours too."""
    auto_classes = (modeling_auto.AutoModel, modeling_auto.AutoModelForVideoClassification)
    undos = [_set_item(each._model_mapping._modules, _MODEL_TYPE, sys.modules[__package__]) for each in auto_classes]

    def undo() -> None:
        for undo_one in undos:
            undo_one()

    return undo


def _register_image_processors(image_processing_auto) -> _Undo:
    def classes() -> _Processors:
        from .video.image_processing_pil_timesformer import TimesformerImageProcessorPil
        from .video.image_processing_timesformer import TimesformerImageProcessor

        backends = {"torchvision": TimesformerImageProcessor, "pil": TimesformerImageProcessorPil}
        legacy = ("VideoMAEImageProcessor", "VideoMAEImageProcessorPil")
        return backends, dict(zip(legacy, backends.values(), strict=True))

    return _redirect(image_processing_auto.AutoImageProcessor, image_processing_auto.IMAGE_PROCESSOR_MAPPING, classes)


def _register_video_processor(video_processing_auto) -> _Undo:
    def classes() -> _Processors:
        from .video.video_processing_timesformer import TimesformerVideoProcessor

        names = ("VideoMAEVideoProcessor", "TimesformerVideoProcessor")
        # transformers 5.17 has no backends of video processors, and its table has the class itself
        parameters = signature(video_processing_auto.AutoVideoProcessor.register).parameters
        has_backends = "video_processor_classes" in parameters
        entry = {"torchvision": TimesformerVideoProcessor} if has_backends else TimesformerVideoProcessor
        return entry, dict.fromkeys(names, TimesformerVideoProcessor)

    return _redirect(video_processing_auto.AutoVideoProcessor, video_processing_auto.VIDEO_PROCESSOR_MAPPING, classes)


def _redirect(auto_class: type, mapping, classes: Callable[[], _Processors]) -> _Undo:
    """
    Make `auto_class.from_pretrained` return our processor for a TimeSformer.

    The Auto classes look at the class name in the preprocessor file before they look at the model type. All TimeSformer
    checkpoints on the Hub name VideoMAE's class there. And if two classes have the same name, transformers 5.17 takes
    its own one.

    Args:
        mapping: transformers' table from configs to processors.
        classes: imports our classes, and returns them by backend, and by the name of the class that they replace.
    """
    original = auto_class.__dict__["from_pretrained"]
    undo_mapping: list[_Undo] = []

    @wraps(original.__func__)
    def from_pretrained(cls, pretrained_model_name_or_path, *inputs, **kwargs):
        from .model.configuration_timesformer import TimesformerConfig, stored_config_values

        backends, ours = classes()
        if not undo_mapping:
            undo_mapping.append(_set_item(mapping._extra_content, TimesformerConfig, backends))
        arguments = dict(kwargs)  # the original removes some
        result = original.__func__(cls, pretrained_model_name_or_path, *inputs, **kwargs)
        processor = result[0] if isinstance(result, tuple) else result  # a tuple with return_unused_kwargs=True
        kind = type(processor)
        if kind not in ours.values() and kind.__name__ not in ours:
            return result
        config = arguments.pop("config", None)  # a config object, a name, or nothing
        if hasattr(config, "to_dict"):
            config = config.to_dict()
        else:
            config = stored_config_values(pretrained_model_name_or_path, kwargs)
        if kind not in ours.values():
            if kind.__name__ != ours[kind.__name__].__name__ and config.get("model_type") != _MODEL_TYPE:
                return result
            # It is read again, because the object also has the defaults of the other class.
            for name in ("backend", "use_fast", "trust_remote_code", "code_revision"):
                arguments.pop(name, None)
            result = ours[kind.__name__].from_pretrained(pretrained_model_name_or_path, *inputs, **arguments)
            processor = result[0] if isinstance(result, tuple) else result
        if hasattr(processor, "get_video_processor_dict") and kwargs.get("num_frames") is None:
            stored, _ = processor.get_video_processor_dict(pretrained_model_name_or_path, **kwargs)
            if stored.get("num_frames") is None:  # the file is that of an image processor
                processor.num_frames = config.get("num_frames", processor.num_frames)
        return result

    auto_class.from_pretrained = classmethod(from_pretrained)

    def undo() -> None:
        auto_class.from_pretrained = original
        while undo_mapping:
            undo_mapping.pop()()

    return undo


def _register_pipeline(pipelines) -> _Undo:
    """
    Make transformers use our pipeline for the task, and find the task of a TimeSformer in a local folder.

    A checkpoint that is broken or not complete is an error. Our pipeline leaves the videos of other models to
    transformers' own one. For `pipeline(model=DIR)`, transformers would look for the task on the Hub.
    """
    task = pipelines.SUPPORTED_TASKS[_PIPELINE_TASK]
    original_get_task, original_load_model = pipelines.get_task, pipelines.load_model

    @wraps(original_get_task)
    def get_task(model: str, *args, **kwargs) -> str:
        from .model.configuration_timesformer import stored_config_values

        if Path(model).is_dir() and stored_config_values(model, {}).get("model_type") == _MODEL_TYPE:
            return _PIPELINE_TASK
        return original_get_task(model, *args, **kwargs)

    @wraps(original_load_model)
    def load_model(model, config, model_classes=None, task: str | None = None, **kwargs):
        if not isinstance(model, str) or (config.model_type, task) != (_MODEL_TYPE, _PIPELINE_TASK):
            return original_load_model(model, config=config, model_classes=model_classes, task=task, **kwargs)
        from .model.loading_checks import check_complete

        # The original would go on with the built-in model after an error of ours.
        loaded, info = model_classes[0].from_pretrained(model, output_loading_info=True, **kwargs)
        if not loaded._hf_peft_config_loaded:  # an adapter may bring what its base model lacks
            check_complete(model, loaded, info)
        return loaded

    # Newer versions import the class by its name when it is used, older ones expect the class.
    ours = {**task, "impl": _PIPELINE} if isinstance(task["impl"], str) else _TaskOfClass(task)
    undo_task = _set_item(pipelines.SUPPORTED_TASKS, _PIPELINE_TASK, ours)
    pipelines.get_task, pipelines.load_model = get_task, load_model

    def undo() -> None:
        undo_task()
        pipelines.get_task, pipelines.load_model = original_get_task, original_load_model

    return undo


class _TaskOfClass(dict):
    """An entry of transformers' table of tasks, whose class is imported when it is used."""

    def __getitem__(self, key: str):
        return super().__getitem__(key) if key != "impl" else _import_name(_PIPELINE)


def _import_name(name: str):
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def _register_adapters(peft_auto) -> _Undo:
    """
    Let `AutoPeftModel` load adapters of our models.

    An adapter names the module of its model's class, and PEFT imports only modules of packages that it trusts. Older
    versions import all.
    """
    original = getattr(peft_auto, "get_default_import_allowlist", None)
    if original is None:
        return lambda: None
    peft_auto.get_default_import_allowlist = lambda: [*original(), __package__]

    def undo() -> None:
        peft_auto.get_default_import_allowlist = original

    return undo


_PARTS: dict[str, Callable[[object], _Undo]] = {
    # module of transformers or PEFT: function to call with it once it is imported
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.image_processing_auto": _register_image_processors,
    "transformers.models.auto.video_processing_auto": _register_video_processor,
    "transformers.pipelines": _register_pipeline,
    "peft.auto": _register_adapters,
}


class _RegisteringFinder:
    """An import hook that registers with a module of `_PARTS` right after it was imported."""

    def __init__(self):
        self.undo: dict[str, _Undo] = {}
        self.searching = threading.local()

    def register(self) -> None:
        """Register with the modules that are imported, and from now on with those that will be."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        for name in _PARTS:
            if name in sys.modules:
                self.register_with(import_module(name))  # waits if another thread is importing it

    def unregister(self) -> None:
        """Undo all of it."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        while self.undo:
            self.undo.popitem()[1]()

    def register_with(self, module) -> None:
        """Register with one module. A failure is a warning, because the program's own import must not fail."""
        if module.__name__ in self.undo:
            return
        try:
            self.undo[module.__name__] = _PARTS[module.__name__](module)
        except Exception as error:
            warnings.warn(f"{__package__} couldn't register with {module.__name__}: {error!r}", stacklevel=2)

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        """Let the finders after this one find the module, and follow its execution."""
        if name not in _PARTS or getattr(self.searching, "name", None) == name:
            return None  # the latter if one of them asks all finders in turn
        self.searching.name = name
        try:
            spec = self._find_by_others(name, path, target)
        finally:
            self.searching.name = None
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader.exec_module = self._followed(spec.loader.exec_module)
        return spec

    def _find_by_others(self, name: str, path, target) -> ModuleSpec | None:
        others = sys.meta_path[sys.meta_path.index(self) + 1 :] if self in sys.meta_path else []
        for finder in others:
            find = getattr(finder, "find_spec", None)  # Python skips finders without it, too
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                return spec
        return None

    def _followed(self, exec_module: Callable) -> Callable:
        def exec_and_register(module) -> None:
            exec_module(module)
            if self in sys.meta_path:
                self.register_with(module)

        return exec_and_register


_finder = _RegisteringFinder()


def _is_of_another_copy(finder) -> bool:
    """Whether an import hook belongs to this module as it was before it was reloaded or imported anew."""
    kind = type(finder)
    return finder is not _finder and (kind.__module__, kind.__name__) == (__name__, _RegisteringFinder.__name__)
