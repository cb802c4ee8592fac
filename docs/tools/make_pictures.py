"""
Draw the pictures of docs/architecture.md from the imports of the package: `python docs/tools/make_pictures.py`.

A picture is a list of files in the order in which data go through them, with what each one makes. The arrows are the
imports: an arrow leads from a file to each file that imports it, directly or through files that the picture leaves out,
unless a longer way leads there. If the code imports in another order than that of the list, drawing is an error.
"""

import ast
from pathlib import Path
from xml.sax.saxutils import escape


_DOCS = Path(__file__).parents[1]
_PACKAGE = _DOCS.parent / "timesformer_hf"

CLIP = {
    "video/video_sources.py": "a path, URL or bytes -> a file that can seek",
    "video/safe_opening.py": "a file -> an open container, within limits",
    "video/picture_order.py": "coded pictures -> the order in which they are shown",
    "video/video_packets.py": "packets -> the frames that they promise",
    "video/video_stream.py": "a container -> its stream, rate and times",
    "video/decoding_plan.py": "wanted frames -> stretches to decode, and threads",
    "video/decoder_output.py": "decoded frames -> checked against the promise",
    "video/video_decoding.py": "a file -> frames (frames, height, width, 3)",
    "video/video_sampling.py": "a number of frames -> the indices of a clip",
    "video/multi_view.py": "a video -> its clips and crops; their scores -> one",
    "video/clip_processing.py": "frames -> resized, cropped, normalised",
    "video/video_processing_timesformer.py": "a video -> pixel_values",
    "model/attention_schemes.py": "tokens -> the groups that attend, and back",
    "model/configuration_timesformer.py": "config.json -> checked settings",
    "model/backends.py": "queries, keys, values -> attention, by a kernel",
    "model/embedding_tables.py": "embeddings -> embeddings of another size",
    "model/modeling_timesformer.py": "pixel_values -> logits (batch, labels)",
    "inference/encoder.py": "tokens -> the same tokens, faster",
    "inference/folding.py": "a model -> the same model for inference",
    "inference/pipeline_timesformer.py": "videos -> labels and scores",
    "inference/file_classification.py": "names of files -> labels or an error for each",
    "commands/classify.py": "the command line -> lines of labels",
}

CHECKPOINT = {
    "checkpoints/limits.py": "a file -> allowed, or refused for its size",
    "checkpoints/files.py": "a file, folder or name -> names and tensors",
    "checkpoints/keys.py": "another format's names -> names of parameters here",
    "checkpoints/formats.py": "names -> which format it is",
    "model/attention_schemes.py": "names of attentions -> which scheme it is",
    "model/configuration_timesformer.py": "values -> a checked config",
    "checkpoints/structure.py": "config.json, names and shapes -> the config",
    "checkpoints/image_vit.py": "an image ViT -> weights to start from",
    "model/loading_checks.py": "weights and config -> they fit, or an error",
    "model/modeling_timesformer.py": "config and weights -> the model",
    "model/masked_attention.py": "a scheme -> its definition as masks",
    "checkpoints/parity.py": "the model and a twin -> their difference",
    "checkpoints/processors.py": "what is known of the pixels -> processor files",
    "checkpoints/model_card.py": "source, licence, checks -> README.md",
    "output/atomic.py": "what is to be written -> all of it, or nothing",
    "checkpoints/conversion.py": "a source -> a folder of transformers",
    "commands/convert.py": "the command line -> what was assumed and checked",
}

PICTURES = {"clip.svg": CLIP, "checkpoint.svg": CHECKPOINT}

_COLOURS = {
    "video": "#1d5f8a",
    "model": "#7a3b8f",
    "inference": "#00695c",
    "checkpoints": "#8a4b08",
    "output": "#5d5d5d",
    "commands": "#37474f",
}
_LINE = "#8a8f98"  # is seen on white and on black
_FONT, _NAME_SIZE, _TEXT_SIZE = "system-ui, sans-serif", 15, 14
_BOX_WIDTH, _BOX_HEIGHT, _GAP, _LANE, _MARGIN = 430, 48, 16, 9, 12


def arrows(files: dict[str, str]) -> list[tuple[str, str]]:
    """
    The arrows of a picture, from a file to a file that imports it, without those that a longer way replaces.

    Raises:
        ValueError: a file doesn't exist, imports one that stands below it, or has no arrow.
    """
    order = list(files)
    used_by = {file: _shown_imports(file, files) for file in order}
    for file, imported in used_by.items():
        if late := [other for other in imported if order.index(other) > order.index(file)]:
            raise ValueError(f"{file} imports {', '.join(late)}, which must stand above it in the picture")
    # In this order every file's ways are known before those of the files that import it.
    behind: dict[str, set[str]] = {}
    found = []
    for file in order:
        direct = [other for other in order if other in used_by[file]]
        behind[file] = set(direct).union(*(behind[other] for other in direct))
        found += [(other, file) for other in direct if not any(other in behind[nearer] for nearer in direct)]
    if lonely := set(order) - {file for arrow in found for file in arrow}:
        raise ValueError(f"no arrow leads to or from {', '.join(sorted(lonely))}")
    return found


def _shown_imports(file: str, shown) -> set[str]:
    """The files of a picture that a file imports, directly or through files that the picture leaves out."""
    found, seen, waiting = set(), {file}, [file]
    while waiting:
        for imported in _imports(waiting.pop()) - seen:
            seen.add(imported)
            if imported in shown:
                found.add(imported)
            else:
                waiting.append(imported)
    return found


def _imports(file: str) -> set[str]:
    """The files of the package that a file imports relatively, inside functions too."""
    path = _PACKAGE / file
    if not path.exists():
        raise ValueError(f"timesformer_hf/{file} doesn't exist")
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1]
            names = [node.module.replace(".", "/")] if node.module else [alias.name for alias in node.names]
            targets = [folder / f"{name}.py" for name in names]
            found |= {target.relative_to(_PACKAGE).as_posix() for target in targets if target.exists()}
    return found


def picture(files: dict[str, str]) -> str:
    """A picture as SVG: a box for each file, one below the other, and the arrows on their left."""
    order = list(files)
    lanes = _lanes([(order.index(start), order.index(end)) for start, end in arrows(files)])
    left = _MARGIN + _LANE * (max(lanes.values()) + 2)
    width, height = left + _BOX_WIDTH + _MARGIN, _MARGIN * 2 + len(order) * (_BOX_HEIGHT + _GAP) - _GAP
    top = [_MARGIN + row * (_BOX_HEIGHT + _GAP) for row in range(len(order))]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="{_FONT}">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{_LINE}"/></marker></defs>',
    ]
    for (start, end), lane in sorted(lanes.items()):
        if end == start + 1:
            x = left + _BOX_WIDTH / 2
            path = f"M{x} {top[start] + _BOX_HEIGHT}V{top[end] - 1}"
        else:
            x, out, into = left - _LANE * (lane + 1), top[start] + _BOX_HEIGHT * 0.7, top[end] + _BOX_HEIGHT * 0.3
            path = f"M{left} {out:g}H{x + 5}q-5 0 -5 5V{into - 5:g}q0 5 5 5H{left - 1}"
        lines.append(f'<path d="{path}" fill="none" stroke="{_LINE}" stroke-width="1.6" marker-end="url(#head)"/>')
    for file, y in zip(order, top, strict=True):
        colour = _COLOURS[file.split("/")[0]]
        lines += [
            f'<rect x="{left}" y="{y}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="7" fill="{colour}"/>',
            f'<text x="{left + 14}" y="{y + 20}" fill="#fff" font-size="{_NAME_SIZE}" font-weight="600">{file}</text>',
            f'<text x="{left + 14}" y="{y + 38}" fill="#fff" font-size="{_TEXT_SIZE}">{_text(files[file])}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _text(words: str) -> str:
    return escape(words.replace("->", "→"))


def _lanes(spans: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """A lane for each arrow, counted from the boxes: arrows in a lane don't meet. Those to the next box need none."""
    lanes: dict[tuple[int, int], int] = {}
    for start, end in sorted(spans, key=lambda span: (span[1] - span[0], span)):
        taken = {lane for (first, last), lane in lanes.items() if first < end and start < last and last > first + 1}
        lanes[start, end] = 0 if end == start + 1 else next(lane for lane in range(len(spans) + 1) if lane not in taken)
    return lanes


def main() -> None:
    """Write all pictures into docs/."""
    for name, files in PICTURES.items():
        (_DOCS / name).write_text(picture(files))
        print(f"docs/{name}")


if __name__ == "__main__":
    main()
