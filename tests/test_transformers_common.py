"""
transformers' own common tests, on our classes.

They come from its source distribution (tests/fetch_transformers_tests.py, which .ci/run calls) and aren't committed.
"""

import subprocess
import sys
import unittest

import numpy as np
import pytest
import torch
from fetch_transformers_tests import target_folder
from transformers.video_utils import VideoMetadata


if not target_folder().exists():
    pytest.skip(
        "transformers' own tests aren't here: python tests/fetch_transformers_tests.py fetches them",
        allow_module_level=True,
    )
sys.path.insert(0, str(target_folder()))

from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_image_processing_common import (
    ImageProcessingTestMixin,
    prepare_video_inputs,
)
from transformers_tests.test_modeling_common import ModelTesterMixin
from transformers_tests.test_video_processing_common import VideoProcessingTestMixin
from transformers_tests.test_video_processing_common import prepare_video_inputs as prepare_clips

from timesformer_hf import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerImageProcessor,
    TimesformerImageProcessorPil,
    TimesformerModel,
    TimesformerVideoProcessor,
)


class TimesformerModelTester:
    """What the common tests ask of a model: a small config and inputs for it."""

    batch_size = 3
    num_frames = 2
    image_size = 16
    patch_size = 4
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    num_labels = 5
    is_training = True

    def __init__(self, parent, attention_type: str):
        self.parent = parent
        self.attention_type = attention_type
        patches = (self.image_size // self.patch_size) ** 2
        self.seq_length = 1 + patches * (1 if attention_type == "space_only" else self.num_frames)

    def get_config(self) -> TimesformerConfig:
        return TimesformerConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_frames=self.num_frames,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            attention_type=self.attention_type,
            num_labels=self.num_labels,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = (self.batch_size, self.num_frames, 3, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": torch.rand(shape)}


class TimesformerModelTests(ModelTesterMixin):
    attention_type: str
    all_model_classes = (TimesformerModel, TimesformerForVideoClassification)
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = TimesformerModelTester(self, self.attention_type)
        self.config_tester = ConfigTester(self, config_class=TimesformerConfig, has_text_modality=False, hidden_size=37)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs_dict = dict(inputs_dict)
        if return_labels and model_class is TimesformerForVideoClassification:
            inputs_dict["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long)
        return inputs_dict

    def test_config(self):
        self.config_tester.run_common_tests()

    @unittest.skip("A video model has no token embeddings that inputs_embeds could replace")
    def test_inputs_embeds(self):
        pass

    def test_model_get_set_embeddings(self):
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config)
            assert isinstance(model.get_input_embeddings(), torch.nn.Module)
            assert model.get_output_embeddings() is None

    def test_attention_outputs(self):
        """The mixin's own test expects one map a layer over the whole sequence; ours depend on the scheme."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        tester = self.model_tester
        batch, frames, patches = tester.batch_size, tester.num_frames, (tester.image_size // tester.patch_size) ** 2
        side = tester.image_size // tester.patch_size
        time = (batch * patches, frames)
        expected = {  # of each step: groups and their length
            "divided_space_time": {"attentions": (batch * frames, 1 + patches), "temporal_attentions": time},
            "joint_space_time": {"attentions": (batch, 1 + patches * frames)},
            "space_only": {"attentions": (batch * frames, 1 + patches)},
            "sparse_local_global": {
                "attentions": (batch * 8, 1 + patches // 4 * frames // 2),
                "local_attentions": (batch * 4, patches // 4 * frames),
            },
            "axial": {
                "attentions": (batch * side * frames, 1 + side),
                "temporal_attentions": time,
                "width_attentions": (batch * side * frames, side),
            },
        }[self.attention_type]
        for model_class in self.all_model_classes:
            outputs = model_class(config).eval()(**inputs, output_attentions=True)
            assert {name for name in outputs if name.endswith("attentions")} == set(expected)
            for name, (groups, length) in expected.items():
                shape = (groups, tester.num_attention_heads, length, length)
                assert [tuple(maps.shape) for maps in outputs[name]] == [shape] * tester.num_hidden_layers

    def test_hidden_states_output(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            outputs = model_class(config).eval()(**inputs, output_hidden_states=True)
            assert len(outputs.hidden_states) == self.model_tester.num_hidden_layers + 1
            assert outputs.hidden_states[0].shape[-2:] == (self.model_tester.seq_length, self.model_tester.hidden_size)


class DividedSpaceTimeTest(TimesformerModelTests, unittest.TestCase):
    attention_type = "divided_space_time"


class JointSpaceTimeTest(TimesformerModelTests, unittest.TestCase):
    attention_type = "joint_space_time"


class SpaceOnlyTest(TimesformerModelTests, unittest.TestCase):
    attention_type = "space_only"


class SparseLocalGlobalTest(TimesformerModelTests, unittest.TestCase):
    attention_type = "sparse_local_global"


class AxialTest(TimesformerModelTests, unittest.TestCase):
    attention_type = "axial"


PROCESSOR_SETTINGS = {
    "do_resize": True,
    "size": {"shortest_edge": 18},
    "do_center_crop": True,
    "crop_size": {"height": 18, "width": 18},
    "do_normalize": True,
    "image_mean": [0.45, 0.45, 0.45],
    "image_std": [0.225, 0.225, 0.225],
}


class ImageProcessorTester:
    """What the common tests ask of an image processor: its classes, settings, and clips to process."""

    batch_size = 5
    num_frames = 4
    num_channels = 3
    image_processing_classes = {"torchvision": TimesformerImageProcessor, "pil": TimesformerImageProcessorPil}

    def __init__(self, parent=None):
        self.parent = parent

    def prepare_image_processor_dict(self) -> dict:
        return dict(PROCESSOR_SETTINGS)

    def prepare_image_inputs(self, equal_resolution=False, numpify=False, torchify=False):
        return prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            min_resolution=30,
            max_resolution=400,
            equal_resolution=equal_resolution,
            numpify=numpify,
            torchify=torchify,
        )


class TimesformerImageProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ImageProcessorTester
    image_processing_classes = ImageProcessorTester.image_processing_classes  # a property in newer versions' mixin
    image_processor_dict = property(lambda self: self.image_processor_tester.prepare_image_processor_dict())

    def setUp(self):
        self.image_processor_tester = ImageProcessorTester(self)

    def check_call(self, **kind):
        """The mixin's own call tests expect images; a clip has one more dimension."""
        for processor_class in self.image_processing_classes.values():
            processor = processor_class(**self.image_processor_dict)
            clips = self.image_processor_tester.prepare_image_inputs(equal_resolution=False, **kind)
            shape = (self.image_processor_tester.num_frames, self.image_processor_tester.num_channels, 18, 18)
            assert tuple(processor(clips[0], return_tensors="pt").pixel_values.shape) == (1, *shape)
            assert tuple(processor(clips, return_tensors="pt").pixel_values.shape) == (len(clips), *shape)

    def test_pil_can_run_without_torchvision(self):
        """The mixin's own goes through AutoImageProcessor in a process that doesn't import this package."""
        code = (
            "import sys; sys.modules['torchvision'] = None\n"
            "import numpy as np\n"
            "from timesformer_hf import TimesformerImageProcessorPil\n"
            "frames = [np.zeros((30, 40, 3), np.uint8)]\n"
            "print(TimesformerImageProcessorPil()(frames, return_tensors='np')['pixel_values'].shape)"
        )
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert process.stdout == "(1, 1, 3, 224, 224)\n", process.stderr

    def test_call_pil(self):
        self.check_call()

    def test_call_numpy(self):
        self.check_call(numpify=True)

    def test_call_pytorch(self):
        self.check_call(torchify=True)

    def test_call_numpy_4_channels(self):
        """Four channels stay four where no conversion to RGB is asked for."""
        clips = [np.random.randint(0, 255, (30, 40, 4), dtype=np.uint8)] * 3
        for processor_class in self.image_processing_classes.values():
            processor = processor_class(**self.image_processor_dict | {"do_convert_rgb": False, "do_normalize": False})
            assert tuple(processor(clips, return_tensors="pt").pixel_values.shape) == (1, 3, 4, 18, 18)


class VideoProcessorTester:
    batch_size = 5
    num_frames = 8
    num_channels = 3
    min_resolution = 30
    max_resolution = 80

    def prepare_video_processor_dict(self) -> dict:
        return dict(PROCESSOR_SETTINGS)

    def expected_output_video_shape(self, videos) -> tuple:
        return self.num_frames, self.num_channels, 18, 18

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        return prepare_clips(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            min_resolution=self.min_resolution,
            max_resolution=self.max_resolution,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
        )


class TimesformerVideoProcessorTest(VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = TimesformerVideoProcessor
    input_name = "pixel_values"

    def setUp(self):
        super().setUp()
        self.video_processor_tester = VideoProcessorTester()

    @property
    def video_processor_dict(self) -> dict:
        return self.video_processor_tester.prepare_video_processor_dict()

    def test_video_processor_from_dict_with_kwargs(self):
        processor = TimesformerVideoProcessor.from_dict(self.video_processor_dict)
        assert processor.size == {"shortest_edge": 18}
        processor = TimesformerVideoProcessor.from_dict(self.video_processor_dict, size=42, crop_size=84)
        assert processor.size == {"shortest_edge": 42}
        assert processor.crop_size == {"height": 84, "width": 84}

    def test_call_sample_frames(self):
        """
        As the mixin's, except for its end: more frames than there are is no error here, a short video repeats its
        last frame.
        """
        processor = TimesformerVideoProcessor(**self.video_processor_dict)
        clips = self.video_processor_tester.prepare_video_inputs(return_tensors="torch")
        about = [[{"duration": 2.0, "total_num_frames": 8, "fps": 4}]]
        for batch in (clips[:1], clips):
            frames = processor(batch, return_tensors="pt", do_sample_frames=False, num_frames=3).pixel_values.shape[1]
            assert frames == 8
            assert processor(batch, return_tensors="pt", num_frames=3).pixel_values.shape[1] == 3
            known = about * len(batch)
            assert processor(batch, return_tensors="pt", fps=3, video_metadata=known).pixel_values.shape[1] == 6
            assert processor(batch, return_tensors="pt", num_frames=10).pixel_values.shape[1] == 10
        with pytest.raises(ValueError, match="fps"):
            processor.sample_frames(VideoMetadata(total_num_frames=8), fps=3)
