"""Registration: what importing the package loads and changes, in fresh processes."""

import json
import textwrap
from pathlib import Path

import pytest
import torch
from fresh_process import CLASSES_USED, run
from repository import REPOSITORY
from tiny_models import FLOAT32, TINY, make_clip, make_model
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessor
from transformers.models.timesformer.configuration_timesformer import TimesformerConfig as NativeConfig

from timesformer_hf import (
    TimesformerConfig,
    TimesformerImageProcessor,
    TimesformerImageProcessorPil,
    TimesformerModel,
    TimesformerVideoProcessor,
)


pytest.importorskip("av", reason="transformers' pipeline needs PyAV")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint with its video processor."""
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder)
    size = {"height": 32, "width": 32}
    TimesformerVideoProcessor(size=size, crop_size=size, num_frames=4).save_pretrained(folder)
    return folder


class TestLightImport:
    def test_loads_nothing_heavy(self):
        code = """
            import sys, torch, transformers
            before = set(sys.modules)
            import timesformer_hf
            heavy = {"av", "torchcodec", "datasets", "evaluate", "matplotlib", "peft", "triton", "torchvision"}
            print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} & heavy))
            print(sorted(name for name in set(sys.modules) - before if name.startswith("timesformer_hf")))
        """
        assert run(code).splitlines() == [
            "[]",
            "['timesformer_hf', 'timesformer_hf.registration', 'timesformer_hf.version']",
        ]

    def test_auto_classes_load_no_decoder(self):
        code = f"""
            import sys
            import timesformer_hf
            {CLASSES_USED.strip().splitlines()[0]}
            from transformers import AutoVideoProcessor
            timesformer_hf.TimesformerVideoProcessor
            print([name for name in ("av", "torchcodec", "datasets", "matplotlib") if name in sys.modules])
        """
        assert run(code).strip() == "[]"

    def test_public_names(self):
        import timesformer_hf

        tables = {"ATTENTION_SCHEMES", "CAMERA_MOTION", "RECIPES", "SAMPLE_CLIP", "__version__"}
        for name in set(timesformer_hf.__all__) - tables:
            assert getattr(timesformer_hf, name).__name__ == name
        assert timesformer_hf.ATTENTION_SCHEMES.keys() >= {"divided_space_time", "axial"}
        assert timesformer_hf.RECIPES.keys() >= {"paper-kinetics", "modern"}
        assert Path(timesformer_hf.CAMERA_MOTION, "config.json").exists()
        assert set(timesformer_hf.__all__) <= set(dir(timesformer_hf))
        with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
            timesformer_hf.Nonsense  # noqa: B018


# What a program may import before or after this package, with the modules of transformers that import each other.
FIRST_IMPORTS = [
    "pass",
    "import transformers.models.auto.modeling_auto",
    "import transformers.modeling_layers",
    "import transformers.image_processing_utils",
    "from transformers import pipeline",
    "from transformers import Trainer",
    "from transformers import VideoMAEForVideoClassification",
    "from transformers.models.timesformer.modeling_timesformer import TimesformerModel",
]


class TestImportOrder:
    @pytest.mark.parametrize("first", FIRST_IMPORTS)
    def test_transformers_first_or_last(self, first, folder):
        for lines in ([first, "import timesformer_hf"], ["import timesformer_hf", first]):
            code = "\n".join([*lines, CLASSES_USED, "import sys", "print(classes_used(sys.argv[1]))"])
            assert run(code, folder).strip() == "{'timesformer_hf'}", lines

    @pytest.mark.parametrize("name", ["TimesformerForVideoClassification", "TimesformerVideoProcessor"])
    def test_our_class_first(self, name, folder):
        code = f"from timesformer_hf import {name}\n{CLASSES_USED}\nimport sys\nprint(classes_used(sys.argv[1]))"
        assert run(code, folder).strip() == "{'timesformer_hf'}"


class TestRegisterAndUnregister:
    def test_and_back(self, folder):
        code = CLASSES_USED + textwrap.dedent("""
            import sys
            import timesformer_hf
            from transformers import AutoImageProcessor, pipelines
            from transformers.models.auto import image_processing_auto, modeling_auto

            def state():
                return (pipelines.get_task, str(pipelines.SUPPORTED_TASKS["video-classification"]["impl"]),
                        AutoVideoProcessor.from_pretrained.__func__, AutoImageProcessor.from_pretrained.__func__,
                        [type(finder).__name__ for finder in sys.meta_path])

            registered = state()
            print(classes_used(sys.argv[1]))
            timesformer_hf.register()
            assert state() == registered
            timesformer_hf.unregister()
            timesformer_hf.unregister()
            print(classes_used(sys.argv[1]))
            assert "timesformer_hf" not in str(state())
            timesformer_hf.register()
            timesformer_hf.register()
            print(classes_used(sys.argv[1]))
        """)
        assert run(code, folder).splitlines() == ["{'timesformer_hf'}", "{'transformers'}", "{'timesformer_hf'}"]

    def test_a_failure_is_told_and_can_be_tried_again(self, folder):
        """It must not break the program's own import, nor pass unseen. Nor may a class that can't be imported."""
        code = textwrap.dedent("""
            import sys, warnings
            import timesformer_hf
            from timesformer_hf.registration import _PARTS
            name = "transformers.models.auto.modeling_auto"
            part = _PARTS[name]
            _PARTS[name] = lambda module: module.Nonsense
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                from transformers import AutoModel
            print(sum("couldn't register with transformers" in str(w.message) for w in caught) == 1)
            _PARTS[name] = part
            timesformer_hf.register()
            sys.modules["timesformer_hf.model.modeling_timesformer"] = None  # an ImportError
            try:
                AutoModel.from_pretrained(sys.argv[1])
            except ImportError:
                print(True)
            del sys.modules["timesformer_hf.model.modeling_timesformer"]
        """)
        code += CLASSES_USED + "print(classes_used(sys.argv[1]))"
        assert run(code, folder).splitlines() == ["True", "True", "{'timesformer_hf'}"]

    def test_unregistered_before_transformers_is_imported(self, folder):
        code = f"import timesformer_hf\ntimesformer_hf.unregister()\n{CLASSES_USED}\nimport sys\n"
        assert run(code + "print(classes_used(sys.argv[1]))", folder).strip() == "{'transformers'}"


class TestAutoClasses:
    def test_pipeline_without_a_task(self, folder):
        from transformers import pipeline

        classifier = pipeline(model=str(folder))
        assert classifier.task == "video-classification"
        assert type(classifier.model).__module__ == "timesformer_hf.model.modeling_timesformer"

    def test_class_names_are_those_of_transformers(self):
        import transformers

        for name in ("TimesformerConfig", "TimesformerModel", "TimesformerForVideoClassification"):
            assert hasattr(transformers, name)
        assert TimesformerConfig.model_type == "timesformer"

    @pytest.mark.parametrize("backend", ["torchvision", "pil"])
    def test_image_processor(self, folder, tmp_path, backend):
        from transformers import AutoImageProcessor

        TimesformerImageProcessor(do_flip_channel_order=True).save_pretrained(tmp_path)
        processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
        assert type(processor).__module__.startswith("timesformer_hf.video.image_processing")
        assert processor.do_flip_channel_order
        assert processor.backend == backend

    def test_video_processor_keeps_its_settings(self, tmp_path):
        from transformers import AutoVideoProcessor

        settings = {"frame_sampling": "segments", "num_frames": 5, "do_flip_channel_order": True}
        processor = TimesformerVideoProcessor(**settings)
        processor.save_pretrained(tmp_path)
        loaded = AutoVideoProcessor.from_pretrained(tmp_path)
        assert type(loaded) is TimesformerVideoProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert {name: getattr(loaded, name) for name in settings} == settings

    def test_hub_checkpoint_with_videomae_preprocessor(self, tmp_path):
        """As every TimeSformer checkpoint on the Hub: config.json, and a preprocessor file that names VideoMAE."""
        from transformers import AutoImageProcessor, AutoVideoProcessor, pipeline

        make_model(num_frames=6).save_pretrained(tmp_path)
        size = {"height": 32, "width": 32}
        mean, std = [0.45] * 3, [0.225] * 3
        values = {
            "crop_size": size,
            "do_center_crop": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "feature_extractor_type": "VideoMAEFeatureExtractor",
            "image_processor_type": "VideoMAEImageProcessor",
            "image_mean": mean,
            "image_std": std,
            "resample": 2,
            "size": {"shortest_edge": 32},
        }
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
        video_processor = AutoVideoProcessor.from_pretrained(tmp_path)
        assert type(video_processor) is TimesformerVideoProcessor
        assert video_processor.num_frames == 6  # the model's
        assert video_processor.crop_size == size
        assert tuple(video_processor.image_mean) == tuple(mean)
        assert type(AutoImageProcessor.from_pretrained(tmp_path)) is TimesformerImageProcessor
        by_keyword = AutoVideoProcessor.from_pretrained(pretrained_model_name_or_path=tmp_path)
        assert by_keyword.to_dict() == video_processor.to_dict()
        processor, unused = AutoVideoProcessor.from_pretrained(tmp_path, return_unused_kwargs=True, nonsense=1)
        assert type(processor) is TimesformerVideoProcessor
        assert unused["nonsense"] == 1
        assert type(pipeline(model=str(tmp_path)).video_processor) is TimesformerVideoProcessor

    @pytest.mark.parametrize(
        "names",
        [
            {"image_processor_type": "VideoMAEImageProcessor"},
            {"image_processor_type": "VideoMAEImageProcessorFast"},
            {"feature_extractor_type": "VideoMAEFeatureExtractor"},
            {"video_processor_type": "VideoMAEVideoProcessor"},
            {},
        ],
    )
    def test_only_what_the_file_says_is_taken_over(self, tmp_path, names):
        """VideoMAE's processor has other defaults: it keeps every frame, and has other means."""
        from transformers import AutoVideoProcessor

        make_model(num_frames=6).save_pretrained(tmp_path)
        sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(names | sizes))
        processor = AutoVideoProcessor.from_pretrained(tmp_path)
        assert type(processor) is TimesformerVideoProcessor
        said = {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
        expected = TimesformerVideoProcessor(**said, num_frames=6).to_dict()
        assert processor.to_dict() == expected
        frames = torch.zeros(75, 3, 40, 40, dtype=torch.uint8)
        assert processor(frames, return_tensors="pt").pixel_values.shape == (1, 6, 3, 32, 32)
        assert AutoVideoProcessor.from_pretrained(tmp_path, num_frames=3).num_frames == 3

    def test_a_number_of_frames_in_the_file_stays(self, tmp_path):
        from transformers import AutoVideoProcessor

        make_model(num_frames=6).save_pretrained(tmp_path)
        TimesformerVideoProcessor(num_frames=5, do_sample_frames=False).save_pretrained(tmp_path)
        processor = AutoVideoProcessor.from_pretrained(tmp_path)
        assert (processor.num_frames, processor.do_sample_frames) == (5, False)

    def test_a_config_of_the_built_in_model(self):
        from transformers import AutoModel, AutoModelForVideoClassification

        config = NativeConfig(**TINY)
        assert type(AutoModel.from_config(config)) is TimesformerModel
        model = AutoModelForVideoClassification.from_config(config)
        assert type(model.config) is TimesformerConfig
        assert model.config.num_frames == TINY["num_frames"]

    def test_videomae_is_untouched(self, tmp_path):
        from transformers import AutoImageProcessor, AutoModelForVideoClassification, AutoVideoProcessor, pipeline

        config = VideoMAEConfig(**TINY | {"num_frames": 4, "tubelet_size": 2}, decoder_num_hidden_layers=1)
        VideoMAEForVideoClassification(config).save_pretrained(tmp_path)
        VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
        classifier = pipeline("video-classification", model=str(tmp_path))
        for obj in (
            AutoModelForVideoClassification.from_pretrained(tmp_path),
            AutoVideoProcessor.from_pretrained(tmp_path),
            AutoImageProcessor.from_pretrained(tmp_path),
            classifier.model,
            classifier.video_processor,
        ):
            assert type(obj).__name__.startswith("VideoMAE")
            assert type(obj).__module__.startswith("transformers.")
        # its pipeline call is the one of transformers, frame by frame: here an array, which needs no decoder
        frames = [frame.permute(1, 2, 0).numpy() for frame in make_clip(4, 3, 32, 32).clamp(0, 1).mul(255).byte()]
        inputs = classifier.preprocess(torch.stack([torch.from_numpy(f) for f in frames]).numpy(), num_frames=4)
        assert inputs["pixel_values"].shape == (1, 4, 3, 32, 32)


class TestRemoteCode:
    def test_folder_with_code_loads_without_this_package(self, tmp_path):
        """`register_for_auto_class` + `save_pretrained`, then `trust_remote_code=True` where nothing is installed."""
        make_model(num_frames=3, image_size=(16, 40)).save_pretrained(tmp_path / "plain")
        code = """
            import sys
            from timesformer_hf import (
                TimesformerConfig, TimesformerForVideoClassification, TimesformerImageProcessor,
                TimesformerImageProcessorPil, TimesformerVideoProcessor,
            )
            source, target = sys.argv[1:]
            TimesformerConfig.register_for_auto_class()
            TimesformerForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
            TimesformerImageProcessor.register_for_auto_class()
            TimesformerVideoProcessor.register_for_auto_class()
            TimesformerForVideoClassification.from_pretrained(source).save_pretrained(target)
            size = {"height": 16, "width": 40}
            TimesformerImageProcessor(size=size, crop_size=size).save_pretrained(target)
            TimesformerVideoProcessor(size=size, crop_size=size, num_frames=3).save_pretrained(target)
        """
        target = tmp_path / "with_code"
        run(code, tmp_path / "plain", target, path=str(REPOSITORY))
        assert (target / "modeling_timesformer.py").exists()
        code = """
            import importlib.abc, json, os, sys

            class Hidden(importlib.abc.MetaPathFinder):
                def find_spec(self, name, path=None, target=None):
                    if name.partition(".")[0] == "timesformer_hf":
                        raise ModuleNotFoundError(name)

            sys.meta_path.insert(0, Hidden())
            import numpy as np, torch
            from transformers import AutoImageProcessor, AutoModelForVideoClassification, AutoVideoProcessor

            model = AutoModelForVideoClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
            clip = torch.linspace(-1, 1, 3 * 3 * 16 * 40).reshape(1, 3, 3, 16, 40)
            print(json.dumps([type(model).__module__, model(clip).logits.tolist()]))
            for auto_class in (AutoImageProcessor, AutoVideoProcessor):
                processor = auto_class.from_pretrained(sys.argv[1], trust_remote_code=True)
                frames = [np.zeros((20, 50, 3), np.uint8)] * 3
                pixels = processor(frames, return_tensors="pt").pixel_values
                print(json.dumps([type(processor).__module__, list(pixels.shape)]))
            assert not any(name.startswith("timesformer_hf") for name in sys.modules)
        """
        lines = [json.loads(line) for line in run(code, target).splitlines()]
        assert all(module.startswith("transformers_modules.") for module, _ in lines)
        assert [shape for _, shape in lines[1:]] == [[1, 3, 3, 16, 40]] * 2
        clip = torch.linspace(-1, 1, 3 * 3 * 16 * 40).reshape(1, 3, 3, 16, 40)
        expected = make_model(num_frames=3, image_size=(16, 40))(clip).logits
        torch.testing.assert_close(torch.tensor(lines[0][1]), expected, **FLOAT32)

    def test_a_saved_classifier_carries_ten_files_of_code(self, tmp_path):
        """The network and nothing else: `from_image_vit`, which needs the converters, says what to install."""
        code = """
            import sys
            from timesformer_hf import TimesformerConfig, TimesformerForVideoClassification
            TimesformerConfig.register_for_auto_class()
            TimesformerForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
            config = TimesformerConfig(hidden_size=12, num_attention_heads=2, num_hidden_layers=1, image_size=16)
            TimesformerForVideoClassification(config).save_pretrained(sys.argv[1])
        """
        run(code, tmp_path, path=str(REPOSITORY))
        assert len(list(tmp_path.glob("*.py"))) <= 10
        code = """
            import sys
            from transformers import AutoModelForVideoClassification
            sys.modules["timesformer_hf"] = None  # not installed
            model = AutoModelForVideoClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
            try:
                type(model).from_image_vit({})
            except ImportError as error:
                print(error)
        """
        assert "pip install timesformer_hf" in run(code, tmp_path)

    @pytest.mark.parametrize("processor_class", [TimesformerImageProcessor, TimesformerImageProcessorPil])
    def test_plain_transformers_loads_what_we_save(self, processor_class, tmp_path):
        """Model, image processor and video processor, in a process that never imports this package."""
        make_model().save_pretrained(tmp_path)
        size = {"height": 32, "width": 32}
        processor_class(size=size, crop_size=size).save_pretrained(tmp_path)
        TimesformerVideoProcessor(size=size, crop_size=size).save_pretrained(tmp_path)
        code = """
            import json, sys
            from transformers import AutoImageProcessor, AutoModelForVideoClassification, AutoVideoProcessor
            model = AutoModelForVideoClassification.from_pretrained(sys.argv[1])
            image_processor = AutoImageProcessor.from_pretrained(sys.argv[1])
            video_processor = AutoVideoProcessor.from_pretrained(sys.argv[1])
            print([type(obj).__name__ for obj in (model, image_processor, video_processor)])
            print([list(processor.image_mean) for processor in (image_processor, video_processor)])
            assert not any(name.startswith("timesformer_hf") for name in sys.modules)
        """
        names, means = run(code, tmp_path).splitlines()
        names_expected = ["TimesformerForVideoClassification", "VideoMAEImageProcessor", "TimesformerVideoProcessor"]
        assert names == str(names_expected)
        assert means == str([[0.45] * 3] * 2)


def test_base_model_loads_from_a_classifier(folder):
    model = TimesformerModel.from_pretrained(folder)
    assert model(make_clip()).last_hidden_state.shape == (2, 65, 48)
