"""
Predictions as tasks for annotation tools: people see what a model says of a video, and correct it.

Each tool gets a folder with all that it imports:

- Label Studio: `tasks.json`, the videos with their predictions, and `interface.xml`, the labelling interface.
- CVAT: `labels.json`, the labels of a project or task, and `annotations/`, a file for each video in the format "CVAT
  1.1", which has the predicted label as a tag of the first frame; `videos.csv` says which file belongs to which video.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

from ..output.atomic import output_folder
from ..output.parquet import import_pyarrow
from ..video.printable import printable
from ..video.video_sources import is_url


_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2
_ALLOWED = (
    "lines of `timesformer-hf classify --json` (.jsonl), a table of `timesformer-hf classify --out` (.parquet), or the "
    "label_errors.csv of `timesformer-hf evaluate`"
)


@dataclass(frozen=True)
class PredictedVideo:
    """
    A video and what a model says of it.

    Attributes:
        video: the path or URL.
        predictions: labels with their scores, the likeliest first.
        label: the label that the video has so far, if it has one.
    """

    video: str
    predictions: tuple[tuple[str, float], ...]
    label: str | None = None


def read_predictions(path: str | os.PathLike) -> tuple[list[PredictedVideo], int]:
    """
    Read predictions of videos.

    Args:
        path: lines of `timesformer-hf classify --json` (.jsonl, .json), a table of `timesformer-hf classify --out`
            (.parquet), or the label_errors.csv of `timesformer-hf evaluate` (.csv), whose suggestions are the
            predictions.

    Returns:
        the videos, and how many others the file has, which failed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file has another form. The message says where.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}")
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: predictions are {_ALLOWED}")
    try:
        videos = [_as_video(place, row) for place, row in read(path)]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{printable(path)} can't be read: {reason}. Predictions are {_ALLOWED}") from error
    predicted = [video for video in videos if video is not None]
    if not predicted:
        raise ValueError(f"{printable(path)} has no prediction")
    return predicted, len(videos) - len(predicted)


def _read_lines(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield the objects of a file that has one a line, each with its place."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", json.loads(line)


def _read_parquet(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield the rows of a Parquet file, each with its place."""
    for number, row in enumerate(import_pyarrow().parquet.read_table(path).to_pylist(), start=1):
        yield f"row {number}", row


def _read_csv(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield the rows of a CSV file, each with its place."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            yield f"row {number}", row


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, dict]]]] = {
    ".jsonl": _read_lines,
    ".json": _read_lines,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}


def _as_video(place: str, row: dict) -> PredictedVideo | None:
    """
    Return a row as a video, or `None` if the video failed.

    Args:
        place: where the row is, for messages.

    Raises:
        KeyError, TypeError, ValueError: if the row has another form.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{place} is not an object but {row!r}")
    if row.get("error"):
        return None
    label = None
    if "suggestion" in row:  # of label_errors.csv
        name, label = row["path"], row["label"] or None
        found = [(row["suggestion"], float(row["suggestion_score"]))] if row["suggestion"] else []
    elif "predictions" in row:  # of classify --json
        name, found = row["video"], [(one["label"], float(one["score"])) for one in row["predictions"]]
    else:
        name, found = row["path"], list(zip(row["labels"], map(float, row["scores"]), strict=True))
    texts = [name, *(label for label, _ in found)]
    if not all(isinstance(text, str) and text for text in texts) or not all(0 <= score <= 1 for _, score in found):
        raise ValueError(f"{place} must have a path, labels, and scores from 0 to 1")
    return PredictedVideo(name, tuple(sorted(found, key=lambda one: -one[1])), label) if found or label else None


def collect_labels(videos: Iterable[PredictedVideo], given: Sequence[str] | None = None) -> list[str]:
    """
    Return the labels that an annotator can choose from: the given ones, or those that occur, sorted.

    Raises:
        ValueError: if a prediction is not among the given ones, or a label can't be written as XML.
    """
    used = {label for video in videos for label, _ in video.predictions}
    used |= {video.label for video in videos if video.label is not None}
    if given is not None and (unknown := sorted(used - set(given))):
        raise ValueError(
            f"{len(unknown)} labels of the predictions are not among the {len(given)} given ones: {unknown[0]}"
        )
    labels = sorted(used) if given is None else list(given)
    if wrong := next((label for label in labels if not label or _NOT_IN_XML.search(label)), None):
        raise ValueError(f"The label {printable(wrong)} has a character that XML does not allow; rename it")
    return labels


def write_label_studio(
    folder: str | os.PathLike,
    videos: Sequence[PredictedVideo],
    labels: Sequence[str],
    document_root: str | os.PathLike | None = None,
) -> None:
    """
    Write the tasks and the labelling interface for Label Studio, as a new folder.

    Args:
        document_root: the folder whose files Label Studio serves (its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT). The
            tasks then have the addresses of the files there. Without it, they have the paths as they are.

    Raises:
        ValueError: if a file is not in `document_root`.
        FileExistsError, NotADirectoryError, PermissionError: if the folder can't be written.
    """
    tasks = [_label_studio_task(video, document_root) for video in videos]
    with output_folder(folder) as new:
        (new / "tasks.json").write_text(json.dumps(tasks, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        view = ElementTree.Element("View")
        ElementTree.SubElement(view, "Video", name="video", value="$video")
        if any(video.label is not None for video in videos):
            ElementTree.SubElement(view, "Header", value="The label so far: $label")
        choices = ElementTree.SubElement(view, "Choices", name="label", toName="video", choice="single")
        for label in labels:
            ElementTree.SubElement(choices, "Choice", value=label)
        _write_xml(new / "interface.xml", view, declaration=False)  # which Label Studio refuses


def _label_studio_task(video: PredictedVideo, document_root: str | os.PathLike | None) -> dict:
    data = {"video": _label_studio_address(video.video, document_root), "path": video.video}
    if video.label is not None:
        data["label"] = video.label
    predictions = []
    for label, score in video.predictions[:1]:
        choice = {"id": "label", "from_name": "label", "to_name": "video", "type": "choices"}
        result = choice | {"value": {"choices": [label]}, "score": score}
        predictions.append({"model_version": "timesformer_hf", "score": score, "result": [result]})
    return {"data": data, "predictions": predictions}


def _label_studio_address(video: str, document_root: str | os.PathLike | None) -> str:
    if document_root is None or is_url(video):
        return video
    path, root = Path(os.path.abspath(video)), Path(os.path.abspath(document_root))
    if not path.is_relative_to(root):
        raise ValueError(f"{printable(video)} is not in the folder {root}, whose files Label Studio serves")
    return f"/data/local-files/?d={quote(path.relative_to(root).as_posix())}"


def write_cvat(folder: str | os.PathLike, videos: Sequence[PredictedVideo], labels: Sequence[str]) -> None:
    """
    Write the labels and the annotations of each video for CVAT, as a new folder.

    Raises:
        FileExistsError, NotADirectoryError, PermissionError: if the folder can't be written.
    """
    digits = len(str(len(videos)))
    with output_folder(folder) as new:
        (new / "labels.json").write_text(
            json.dumps([{"name": label, "type": "tag"} for label in labels], indent=1) + "\n", encoding="utf-8"
        )
        (new / "annotations").mkdir()
        with (new / "videos.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            table = csv.writer(file)
            table.writerow(["path", "annotations"])
            for number, video in enumerate(videos, start=1):
                name = f"annotations/{number:0{digits}d}.xml"
                table.writerow([video.video, name])
                _write_xml(new / name, _cvat_document(video, labels), declaration=True)


def _cvat_document(video: PredictedVideo, labels: Sequence[str]) -> ElementTree.Element:
    """Return the annotations of a video: its likeliest label as a tag of the first frame."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    listed = ElementTree.SubElement(task, "labels")
    for label in labels:
        entry = ElementTree.SubElement(listed, "label")
        ElementTree.SubElement(entry, "name").text = label
        ElementTree.SubElement(entry, "type").text = "tag"
        ElementTree.SubElement(entry, "attributes")
    frame = ElementTree.SubElement(root, "image", id="0", name="frame_000000")
    for label, _ in video.predictions[:1]:
        ElementTree.SubElement(frame, "tag", label=label, source="auto")
    return root


def _write_xml(path: Path, root: ElementTree.Element, declaration: bool) -> None:
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=declaration)
