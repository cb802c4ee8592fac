"""The table beside other code: it is as docs/tools/comparison.py writes it, and what it says here is true."""

import ast
import importlib.util
import inspect
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest
import torch
import transformers
from packaging.requirements import Requirement
from repository import REPOSITORY, SAMPLE
from tiny_models import TINY, make_clip, make_model
from transformers.models.timesformer.configuration_timesformer import TimesformerConfig as NativeConfig
from transformers.models.timesformer.modeling_timesformer import (
    TimesformerForVideoClassification as NativeClassifier,
)
from transformers.models.timesformer.video_processing_timesformer import (
    TimesformerVideoProcessor as NativeVideoProcessor,
)
from transformers.pipelines.video_classification import VideoClassificationPipeline

from timesformer_hf.timeline.formats import check_timeline_file


def load_comparison():
    spec = importlib.util.spec_from_file_location("comparison", REPOSITORY / "docs" / "tools" / "comparison.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


comparison = load_comparison()


def test_the_pages_have_the_table():
    """Otherwise run: python docs/tools/comparison.py"""
    readme = (REPOSITORY / "README.md").read_text()
    assert readme == comparison.with_table(readme)
    assert (REPOSITORY / "docs" / "comparison.md").read_text() == comparison.comparison_page()


def names_of_tests(path: Path) -> set[str]:
    """The tests of a file: `test_...` and `Class::test_...`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        names |= {node.name} if isinstance(node, ast.FunctionDef) else set()
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("feature", comparison.ROWS)
def test_each_cell_has_a_test_or_a_source(feature):
    for column, cell in zip(comparison.COLUMNS, comparison.ROWS[feature], strict=True):
        assert cell.text
        if cell.evidence.startswith("tests/"):
            path, test = cell.evidence.split("::", 1)
            assert test in names_of_tests(REPOSITORY / path)
        else:
            assert column not in ("timesformer_hf", "transformers")  # both are installed, so a test can ask them
            assert all(cell.evidence.partition(": "))


# 9 patches a frame: the built-in model cuts tokens into groups of its config's 4 frames, which fits only some counts.
SMALL = TINY | {"image_size": 24}


@pytest.fixture(scope="module")
def pair():
    """The built-in model and ours, with the same weights."""
    ours = make_model(**SMALL)
    native = NativeClassifier(NativeConfig(**SMALL, num_labels=5)).eval()
    native.load_state_dict(ours.state_dict())
    return native, ours


class TestBuiltIn:
    """What the table says of the model that is built into transformers."""

    def test_space_only_answers_for_each_frame(self):
        native = NativeClassifier(NativeConfig(**TINY, num_labels=5, attention_type="space_only"))
        assert native(make_clip(2, 4, 3, 32, 32)).logits.shape == (2 * 4, 5)

    def test_another_number_of_frames_fails_or_is_wrong(self, pair):
        native, ours = pair
        outcomes = set()
        with torch.no_grad():
            for frames in (1, 2, 3, 4, 5, 8):
                clip = make_clip(1, frames, 3, 24, 24)
                expected = ours(clip).logits
                try:
                    same = torch.allclose(native(clip).logits, expected, atol=1e-4)
                except RuntimeError:
                    outcomes.add("error")
                else:
                    assert same == (frames == TINY["num_frames"]), frames
                    outcomes.add("right" if same else "wrong")
        assert outcomes == {"error", "right", "wrong"}

    def test_it_does_not_know_the_authors_names(self):
        checkpoint = torch.load(REPOSITORY / "tests" / "golden" / "divided_space_time.pyth", weights_only=True)
        names = {name.removeprefix("model.") for name in checkpoint["model_state"]}
        native = set(NativeClassifier(NativeConfig(**TINY)).state_dict())
        assert names & native == set()
        folder = Path(inspect.getfile(NativeConfig)).parent
        assert [path.name for path in folder.glob("convert*")] == []

    def test_its_pipeline_decodes_by_torchcodec(self, monkeypatch):
        monkeypatch.setattr("transformers.video_processing_utils.is_torchcodec_usable", lambda **_: False)
        with pytest.raises(ImportError, match="torchcodec"):
            NativeVideoProcessor()(str(SAMPLE), num_frames=8, do_sample_frames=True)

    def test_its_processor_has_no_views(self):
        fields = set(NativeVideoProcessor.valid_kwargs.__annotations__) | set(vars(NativeVideoProcessor()))
        assert not fields & {"num_clips", "num_crops", "views"}

    def test_it_has_no_data_set_of_videos(self):
        assert [name for name in dir(transformers) if "Video" in name and "Dataset" in name] == []

    def test_its_maps_are_of_space_alone(self, pair):
        outputs = pair[0](make_clip(1, 4, 3, 24, 24), output_attentions=True)
        assert {tuple(maps.shape) for maps in outputs.attentions} == {(4, 4, 1 + 9, 1 + 9)}

    def test_its_pipeline_has_no_windows(self):
        parameters = set(inspect.signature(VideoClassificationPipeline._sanitize_parameters).parameters)
        assert parameters == {"self", "top_k", "num_frames", "frame_sampling_rate", "function_to_apply"}

    def test_an_export_has_one_number_of_frames(self, pair):
        def export(axis: int) -> torch.export.ExportedProgram:
            clip = make_clip(2, 4, 3, 24, 24)
            shapes = {"pixel_values": {axis: torch.export.Dim("n", min=2, max=64)}}
            return torch.export.export(pair[0], (), {"pixel_values": clip}, dynamic_shapes=shapes)

        export(axis=0)
        with pytest.raises(Exception, match=r"[Cc]onstraints violated|specialized|not all values"):
            export(axis=1)


def test_a_timeline_has_ten_formats(tmp_path):
    with pytest.raises(ValueError, match="must end in") as error:
        check_timeline_file(tmp_path / "film.nothing")
    assert str(error.value).count(".") >= 10
    for ending in ("json", "labelstudio.json", "csv", "srt", "vtt", "edl", "otio", "eaf", "png", "mp4"):
        check_timeline_file(tmp_path / f"film.{ending}")


def test_it_runs_with_these_releases(pair):
    """Those of tests/constraints.txt, which continuous integration installs."""
    clip = make_clip(1, 4, 3, 24, 24)
    with torch.no_grad():
        assert all(model(clip).logits.isfinite().all() for model in pair)


def test_what_the_authors_code_imports_is_gone():
    """In timesformer/models/resnet_helper.py at a5ef29a; see its issue 63 and pull request 127, which are open."""
    with pytest.raises(ImportError):
        from torch.nn.modules.linear import _LinearWithBias  # noqa: F401


def test_video_transformers_wants_an_older_hub():
    """Its METADATA asks for huggingface-hub below 0.12, and transformers for a newer one."""
    needed = [Requirement(line) for line in requires("transformers")]
    (hub,) = [item for item in needed if item.name.replace("_", "-") == "huggingface-hub" and item.marker is None]
    assert not hub.specifier.contains("0.11.1")


def test_the_licence_of_transformers():
    assert "Apache" in (metadata("transformers")["License"] or metadata("transformers")["License-Expression"])
