"""
The table of what `timesformer-hf bench` measures. It is plain data: nothing here imports torch.

A row of `CASES` is a case. Its `kind` names the module that prepares it. Its `paths` are the ways to compute it: names
in the table `PATHS` of that module. To add a case, add a row here. To add a path, add it to the `PATHS` of its kind and
add its name to the cases that it can compute.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


QUICK = "quick"
# kind -> the module with its `PATHS` and `make_workload`
KINDS = {
    "inference": "inference",
    "joint": "inference",
    "training": "training",
    "decode": "videos",
    "file-to-label": "labels",
    "files-to-labels": "files",
    "import": "imports",
}


@dataclass(frozen=True)
class Clip:
    """
    A video to generate, with 25 frames a second.

    Attributes:
        width: in pixels.
        height: in pixels.
        seconds: the duration.
        encoding: a name in `ENCODINGS` of `videos.py`.
    """

    width: int
    height: int
    seconds: int
    encoding: str = "H.264"


@dataclass(frozen=True)
class Case:
    """
    A row of the table: one piece of work that several paths do.

    Attributes:
        name: the unique name.
        kind: a name in `KINDS`.
        about: a phrase that describes the work.
        tags: words that `--cases` can choose it by, besides its name and its kind.
        paths: names in the `PATHS` of its kind, in the order in which they take turns.
        config: fields of the `TimesformerConfig` that differ from the default, which is ViT-Base.
        batch_size: number of clips in a forward pass.
        dtype: a name in `DTYPES`.
        clip: the video to decode, where there is one.
        last_seconds: the frames are taken from this many seconds at the end of the video; 0 stands for the whole video.
        num_files: number of video files.
        memory: whether peak memory is measured too.
    """

    name: str
    kind: str
    about: str
    tags: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    config: dict = field(default_factory=dict)
    batch_size: int = 1
    dtype: str = "fp32"
    clip: Clip | None = None
    last_seconds: int = 0
    num_files: int = 1
    memory: bool = False

    @property
    def labels(self) -> set[str]:
        """The words that select this case."""
        return {self.name, self.kind, *self.tags}


_VARIANTS = {"base": (8, 224), "hr": (16, 448), "l": (96, 224)}  # frames, side in pixels (paper, Section 4.3)
_BATCH_SIZES = (1, 8, 32)
_JOINT_FRAMES = (8, 16, 32, 64, 96)
DTYPES = ("fp32", "bf16", "fp16", "int8", "fp8")
QUANTIZED = ("int8", "fp8")
# The shape of the camera-motion model that this package ships
_SMALL_MODEL = {"num_frames": 8, "image_size": 64, "hidden_size": 192, "intermediate_size": 768}
_SMALL_MODEL |= {"num_hidden_layers": 4, "num_attention_heads": 4, "num_labels": 10}
_MANY, _SHORT_CLIP = 200, Clip(320, 240, 2)
_CLIPS = {"small": Clip(320, 240, 10), "1080p": Clip(1920, 1080, 60)}
# Clips that are only decoded, to check that decoding is never slower than the peers': with a single group of pictures,
# where no frame can be passed over, with other codecs, and in a container without an index.
_OTHER_CLIPS = {
    "one-group": Clip(1280, 720, 8, "H.264, one group"),
    "short-groups": Clip(1280, 720, 8, "H.264, short groups"),
    "stream": Clip(1280, 720, 8, "H.264, transport stream"),
    "avi": Clip(1280, 720, 8, "H.264, AVI"),
    "hevc": Clip(1280, 720, 8, "HEVC"),
    "vp9": Clip(1280, 720, 8, "VP9"),
    "av1": Clip(1280, 720, 8, "AV1"),
    "mpeg4": Clip(1280, 720, 8, "MPEG-4"),
    "mpeg2": Clip(1280, 720, 8, "MPEG-2"),
    "large-many-threads": Clip(3840, 2160, 4),
}
_LATE = Clip(640, 360, 300, "H.264, Matroska")
_NUM_LABELS = 400

_OUR_PATHS = ("ours", "ours-compiled", "ours-optimized", "ours-optimized-compiled")
_MODEL_PATHS = (
    *_OUR_PATHS,
    "ours-optimized-graphs",
    "built-in",
    "built-in-compiled",
    "built-in-graphs",
    "built-in-max-autotune",
    "tensorrt",
    "onnxruntime",
    "openvino",
    "matrix-products",
)
_QUANTIZED_PATHS = (
    *_OUR_PATHS,
    "built-in",
    "built-in-compiled",
    "built-in-unquantized",
    "onnxruntime",
    "openvino",
    "matrix-products",
)
_TRAINING_PATHS = (
    "ours",
    "ours-checkpointed",
    "ours-compiled",
    "built-in",
    "built-in-checkpointed",
    "built-in-compiled",
    "matrix-products",
)
_DECODE_PATHS = ("ours", "pyav-sequential", "torchcodec", "torchcodec-threads", "full-decode")
_LABEL_PATHS = ("ours", "ours-optimized", "built-in-torchcodec", "built-in-pyav", "full-decode-and-products")
FILES_PATHS = (
    "ours",
    "ours-optimized",
    "ours-serial",
    "built-in-pipeline",
    "built-in-torchcodec",
    "built-in-pyav",
    "matrix-products",
)


def quick(condition: bool) -> tuple[str, ...]:
    """Return the tag of the short default run if the condition is true, else no tag."""
    return (QUICK,) if condition else ()


def _model_config(frames: int, side: int) -> dict:
    return {"num_frames": frames, "image_size": side, "num_labels": _NUM_LABELS}


def _inference_case(variant: str, batch_size: int, dtype: str) -> Case:
    frames, side = _VARIANTS[variant]
    is_large = (batch_size, dtype) == (1, "fp32") and variant != "base"
    return Case(
        name=f"inference-{variant}-b{batch_size}-{dtype}",
        kind="inference",
        about=f"forward pass of {variant} ({frames} x {side} x {side}), batch of {batch_size}, {dtype}",
        tags=(
            *(variant, f"b{batch_size}", dtype, *quick((variant, batch_size, dtype) == ("base", 1, "fp32"))),
            *(["memory"] if is_large else []),
        ),
        paths=_QUANTIZED_PATHS if dtype in QUANTIZED else _MODEL_PATHS,
        config=_model_config(frames, side),
        batch_size=batch_size,
        dtype=dtype,
        memory=is_large,
    )


def _training_case(batch_size: int, dtype: str) -> Case:
    frames, side = _VARIANTS["base"]
    precision = dtype if dtype == "fp32" else f"{dtype} (autocast; weights in fp32)"
    return Case(
        name=f"training-base-b{batch_size}-{dtype}",
        kind="training",
        about=f"training step of base ({frames} x {side} x {side}) with AdamW, batch of {batch_size}, {precision}",
        tags=("base", f"b{batch_size}", dtype, "memory"),
        paths=_TRAINING_PATHS,
        config=_model_config(frames, side),
        batch_size=batch_size,
        dtype=dtype,
        memory=True,
    )


def _joint_case(frames: int, dtype: str) -> Case:
    return Case(
        name=f"joint-{frames}f-{dtype}",
        kind="joint",
        about=f"joint attention, forward pass of {frames} x 224 x 224, {dtype}: {1 + 196 * frames} tokens",
        tags=(f"{frames}f", dtype, "memory"),
        paths=(*_OUR_PATHS, "built-in", "built-in-compiled", "matrix-products"),
        config=_model_config(frames, 224) | {"attention_type": "joint_space_time"},
        dtype=dtype,
        memory=True,
    )


def _clip_text(clip: Clip) -> str:
    return f"{clip.seconds} s of {clip.width} x {clip.height} {clip.encoding}"


CASES: tuple[Case, ...] = (
    *(_inference_case(variant, size, dtype) for variant in _VARIANTS for dtype in DTYPES for size in _BATCH_SIZES),
    *(_training_case(size, dtype) for dtype in ("fp32", "bf16") for size in _BATCH_SIZES),
    *(_joint_case(frames, dtype) for dtype in ("fp32", "bf16") for frames in _JOINT_FRAMES),
    *(
        Case(
            name=f"decode-{name}",
            kind="decode",
            about=f"8 frames spread over {_clip_text(clip)}, as RGB",
            tags=(name, *quick(name == "small")),
            paths=_DECODE_PATHS,
            clip=clip,
        )
        for name, clip in (_CLIPS | _OTHER_CLIPS).items()
    ),
    Case(
        name="decode-mkv-late",
        kind="decode",
        about=f"8 frames of the last 4 seconds of {_clip_text(_LATE)}, as RGB",
        tags=("mkv-late",),
        paths=_DECODE_PATHS,
        clip=_LATE,
        last_seconds=4,
    ),
    *(
        Case(
            name=f"file-to-label-{name}-{dtype}",
            kind="file-to-label",
            about=f"from {_clip_text(clip)} to labels, base, {dtype}",
            tags=("base", name, dtype),
            paths=_LABEL_PATHS,
            config=_model_config(*_VARIANTS["base"]),
            dtype=dtype,
            clip=clip,
        )
        for name, clip in _CLIPS.items()
        for dtype in ("fp32", "bf16")
    ),
    *(
        Case(
            name=f"classify-{_MANY}-{name}-{dtype}",
            kind="files-to-labels",
            about=f"from {_MANY} files, each {_clip_text(_SHORT_CLIP)}, to labels, {name}, {dtype}, batches of 8",
            tags=(name, dtype),
            paths=FILES_PATHS,
            config=config,
            batch_size=8,
            dtype=dtype,
            clip=_SHORT_CLIP,
            num_files=_MANY,
        )
        for name, config, dtype in (
            ("small-model", _SMALL_MODEL, "fp32"),
            ("base", _model_config(*_VARIANTS["base"]), "bf16"),
        )
    ),
    Case(
        name="import-package",
        kind="import",
        about="import the package in a fresh interpreter; the limit is an interpreter that does nothing",
        tags=(QUICK,),
        paths=("ours", "transformers", "interpreter"),
    ),
    Case(
        name="import-model",
        kind="import",
        about="import the classifier's class in a fresh interpreter; the limit is importing torch",
        paths=("ours-model", "transformers-model", "torch"),
    ),
    Case(
        name="first-label",
        kind="import",
        about="classify the sample clip in a fresh interpreter; the limit is importing torch",
        paths=("ours-label", "torch"),
    ),
)


def select_cases(selectors: Sequence[str] = ()) -> list[Case]:
    """
    Return the cases that at least one selector chooses, in the order of the table.

    Args:
        selectors: for example `"inference+base+b1"`. Each is a name, a kind or a tag, in which * stands for any text,
            or several of them joined by +, which must all match. Without selectors, the cases tagged quick are chosen.

    Raises:
        ValueError: where a selector chooses no case. The message lists the kinds and tags.
    """
    chosen = set()
    for selector in selectors or [QUICK]:
        found = [case.name for case in CASES if all(matches(part, case) for part in selector.split("+"))]
        if not found:
            raise ValueError(
                f"No case is {selector!r}. Kinds and tags, which + joins: {', '.join(all_labels(CASES))}. "
                "Names: timesformer-hf bench --list"
            )
        chosen |= set(found)
    return [case for case in CASES if case.name in chosen]


def matches(pattern: str, case: Case) -> bool:
    """Return whether the pattern, in which * stands for any text, matches the name, the kind or a tag of the case."""
    return any(fnmatchcase(label, pattern) for label in case.labels)


def all_labels(cases: Iterable[Case]) -> list[str]:
    """Return the kinds and tags of the cases, without their names."""
    return list(dict.fromkeys(label for case in cases for label in (case.kind, *case.tags)))
