"""
The table of features in README.md and docs/comparison.md, with the evidence for each cell.

    python docs/tools/comparison.py

writes both anew. Evidence is a test of this repository, as `tests/file.py::Class::test`, or the place where something
was read.
"""

import re
from dataclasses import dataclass
from pathlib import Path


REPOSITORY = Path(__file__).parents[2]
START, END = "<!-- written by: python docs/tools/comparison.py -->\n", "<!-- end of the table -->\n"
COLUMNS = (
    "timesformer_hf",
    "transformers",
    "authors' code",
    "mmaction2",
    "video-transformers",
    "OpenVINO, optimum",
)


def release(name: str) -> str:
    """The newest release of a package that the tests have passed with, as 2.14."""
    return re.search(rf"^{name}==(\d+\.\d+)", (REPOSITORY / "tests" / "constraints.txt").read_text(), re.MULTILINE)[1]


@dataclass(frozen=True)
class Cell:
    """What a cell says, and why that is true."""

    text: str
    evidence: str


AUTHORS = "facebookresearch/TimeSformer at a5ef29a: "
MMACTION = "mmaction2 1.2.0 (wheel): "
VIDEO_TRANSFORMERS = "video-transformers 0.0.9 (wheel): "
OPTIMUM = "optimum 2.3.0, optimum-intel 2.2.0, optimum-onnx 0.1.0 (wheels): "
BUILT_IN = "tests/test_comparison.py::TestBuiltIn::"

ROWS: dict[str, tuple[Cell, ...]] = {
    "the paper's attention schemes": (
        Cell("all 5", "tests/model/test_attention_schemes.py::test_equals_the_masked_twin"),
        Cell("3, of which 1 is broken", BUILT_IN + "test_space_only_answers_for_each_frame"),
        Cell("3", AUTHORS + "the names that `Block` in timesformer/models/vit.py accepts"),
        Cell("3", MMACTION + "`supported_attention_types` in mmaction/models/backbones/timesformer.py"),
        Cell("those of transformers", VIDEO_TRANSFORMERS + "backbones/transformers.py loads `AutoModel`"),
        Cell("those exported", OPTIMUM + "no file names TimeSformer; OpenVINO runs what it is given"),
    ),
    "frames or sizes other than the checkpoint's": (
        Cell("resized", "tests/model/test_loading.py::TestResizingOnLoad::test_equals_resizing_in_the_forward_pass"),
        Cell("an error, or wrong", BUILT_IN + "test_another_number_of_frames_fails_or_is_wrong"),
        Cell("resized", AUTHORS + "`forward_features` in timesformer/models/vit.py interpolates both tables"),
        Cell("no", MMACTION + "`forward` in timesformer.py adds `pos_embed` and `time_embed` as they are"),
        Cell("an error", VIDEO_TRANSFORMERS + "backbones/transformers.py raises ValueError for other frames"),
        Cell("those exported", "tests/inference/test_exported_models.py::test_an_export_is_a_classifier"),
    ),
    "reads checkpoints of": (
        Cell(
            "the Hub, authors, mmaction2, image ViTs",
            "tests/checkpoints/test_golden.py::test_outputs_are_those_of_the_foreign_code",
        ),
        Cell("the Hub", BUILT_IN + "test_it_does_not_know_the_authors_names"),
        Cell("authors, image ViTs", AUTHORS + "README.md and `load_pretrained` in timesformer/models/helpers.py"),
        Cell(
            "mmaction2, image ViTs", MMACTION + "`init_weights` in timesformer.py, and the weights in its metafile.yml"
        ),
        Cell("the Hub", VIDEO_TRANSFORMERS + "`from_transformers` and `_from_pretrained` in modeling.py"),
        Cell("exports", "tests/inference/test_exported_models.py::test_an_export_is_a_classifier"),
    ),
    "labels of a file": (
        Cell("a command, `pipeline`, a page", "tests/test_readme.py::test_the_first_command_prints_what_is_shown"),
        Cell("`pipeline`, with torchcodec", BUILT_IN + "test_its_pipeline_decodes_by_torchcodec"),
        Cell("a list and a config", AUTHORS + '"Inference" in README.md'),
        Cell("in Python", MMACTION + "`MMAction2Inferencer` in mmaction/apis/inferencers"),
        Cell("in Python", VIDEO_TRANSFORMERS + "`predict` in predict.py"),
        Cell("decode it yourself", OPTIMUM + "no class for video classification (searched for `VideoClassification`)"),
    ),
    "the paper's test views": (
        Cell("yes", "tests/video/test_multi_view.py::TestPixelValues::test_paper_views_are_the_twins"),
        Cell("no", BUILT_IN + "test_its_processor_has_no_views"),
        Cell("yes", AUTHORS + "TEST.NUM_ENSEMBLE_VIEWS and TEST.NUM_SPATIAL_CROPS in the configs"),
        Cell("yes", MMACTION + "`ThreeCrop` in .mim/configs/recognition/timesformer"),
        Cell("clips, no crops", VIDEO_TRANSFORMERS + "`mode` in predict.py, CenterCrop in data.py"),
        Cell("no", OPTIMUM + "no class for video classification"),
    ),
    "fine-tuning": (
        Cell(
            "a command and a folder",
            "tests/commands/test_finetune_command.py::TestWholeRuns::test_bright_and_dark_clips_are_told_apart",
        ),
        Cell("`Trainer` and your loader", BUILT_IN + "test_it_has_no_data_set_of_videos"),
        Cell("lists and a config", AUTHORS + '"Finetuning" in README.md'),
        Cell("lists and a config", MMACTION + ".mim/tools/train.py and .mim/configs/recognition/timesformer"),
        Cell("in Python, from a folder", VIDEO_TRANSFORMERS + "trainer.py and data.py"),
        Cell("no", OPTIMUM + "no class for video classification"),
    ),
    "what the model looks at": (
        Cell("maps of each label", "tests/explanation/test_relevance.py::test_another_class_has_another_map"),
        Cell("attention in space", BUILT_IN + "test_its_maps_are_of_space_alone"),
        Cell("no", AUTHORS + "`Attention` in timesformer/models/vit.py returns no map"),
        Cell("Grad-CAM of convolutions", MMACTION + "`GradCAM` in mmaction/utils/gradcam_utils.py"),
        Cell("no", VIDEO_TRANSFORMERS + "searched for gradcam, rollout, saliency and output_attentions"),
        Cell("no", OPTIMUM + "no class for video classification"),
    ),
    "long videos, live streams": (
        Cell("timelines in 10 formats", "tests/test_comparison.py::test_a_timeline_has_ten_formats"),
        Cell("no", BUILT_IN + "test_its_pipeline_has_no_windows"),
        Cell("no", AUTHORS + "tools/ has run_net.py, train_net.py, test_net.py, submit.py and benchmark.py"),
        Cell("demo scripts", "open-mmlab/mmaction2, demo/README.md: long_video_demo.py and webcam_demo.py"),
        Cell("no", VIDEO_TRANSFORMERS + "searched for stream, rtsp and webcam"),
        Cell("no", OPTIMUM + "no class for video classification"),
    ),
    "one export for any batch, frames, size": (
        Cell(
            "ONNX and 3 others",
            "tests/inference/test_export.py::TestEveryScheme::test_onnx_equals_the_model_at_every_shape",
        ),
        Cell("any batch", BUILT_IN + "test_an_export_has_one_number_of_frames"),
        Cell("no", AUTHORS + "tools/ has no exporter"),
        Cell("of other models", MMACTION + ".mim/tools/deployment has gcn, posec3d and stdet alone"),
        Cell("any batch", VIDEO_TRANSFORMERS + "deployment/onnx.py exports the model of transformers"),
        Cell("reads our ONNX", "tests/inference/test_exported_models.py::test_an_export_is_a_classifier"),
    ),
    f"runs with torch {release('torch')}, transformers {release('transformers')}": (
        Cell("yes", "tests/test_comparison.py::test_it_runs_with_these_releases"),
        Cell("yes", "tests/test_comparison.py::test_it_runs_with_these_releases"),
        Cell("no", "tests/test_comparison.py::test_what_the_authors_code_imports_is_gone"),
        Cell("not tried", MMACTION + "mmaction/__init__.py wants mmcv below 2.2"),
        Cell("no", "tests/test_comparison.py::test_video_transformers_wants_an_older_hub"),
        Cell("OpenVINO yes, optimum no", OPTIMUM + "METADATA: transformers below 5.6 and below 4.58"),
    ),
    "licence": (
        Cell("Apache-2.0", "tests/test_community_files.py::test_the_citation_is_the_package_and_the_paper"),
        Cell("Apache-2.0", "tests/test_comparison.py::test_the_licence_of_transformers"),
        Cell("CC-BY-NC 4.0", AUTHORS + "LICENSE"),
        Cell("Apache-2.0", MMACTION + "METADATA"),
        Cell("MIT", VIDEO_TRANSFORMERS + "METADATA"),
        Cell("Apache-2.0", OPTIMUM + "METADATA"),
    ),
}


def feature_table() -> str:
    """The table of README.md."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {feature} | " + " | ".join(cell.text for cell in cells) + " |" for feature, cells in ROWS.items()]
    return "\n".join(lines) + "\n"


def comparison_page() -> str:
    """The text of docs/comparison.md."""
    parts = [
        "# Beside other code for TimeSformer\n",
        f"{START}\n{feature_table()}",
        "## How each cell is known\n",
        "The tests run in continuous integration. Everything else was read in November 2026, in the released wheel or\n"
        "in the repository at GitHub. The column transformers is about its built-in TimeSformer.\n"
        "[Differences](differences.md) compares it in detail, [performance](performance.md) compares speed.\n",
    ]
    for feature, cells in ROWS.items():
        parts.append(f"### {feature[0].upper()}{feature[1:]}\n")
        lines = [
            f"- {column}: {cell.text}. {shown(cell.evidence)}" for column, cell in zip(COLUMNS, cells, strict=True)
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def shown(evidence: str) -> str:
    """Evidence as Markdown: a test in code type."""
    return f"Test: `{evidence}`" if evidence.startswith("tests/") else f"Read in {evidence}"


def with_table(readme: str) -> str:
    """README.md with the present table between its two marks."""
    before, rest = readme.split(START)
    return before + START + feature_table() + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    page = REPOSITORY / "README.md"
    page.write_text(with_table(page.read_text()))
    (REPOSITORY / "docs" / "comparison.md").write_text(comparison_page())
