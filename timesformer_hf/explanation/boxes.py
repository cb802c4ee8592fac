"""Where the objects of videos are: `boxes.csv` in a folder of videos, a row for each box in a frame."""

import csv
import math
from pathlib import Path

from ..video.printable import printable


_FILE_NAME = "boxes.csv"
_COLUMNS = ("video", "frame", "left", "top", "right", "bottom")

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the video
Boxes = dict[Path, dict[int, list[Box]]]  # video -> frame -> its boxes


def read_boxes(folder: Path) -> Boxes:
    """
    Return the boxes in `boxes.csv` of a folder, or none if it has no such file.

    The file has the columns `video` (a path below the folder), `frame` (counted from 0), `left`, `top`, `right` and
    `bottom` (in pixels of the upright video). A frame may have several boxes or none.

    Raises:
        ValueError: if a column is missing, a number is not one, or a video doesn't exist. The message names the row.
    """
    path = folder / _FILE_NAME
    if not path.exists():
        return {}
    found: Boxes = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(
                f"{printable(path)} lacks the columns {', '.join(missing)}; it needs {', '.join(_COLUMNS)}"
            )
        for number, row in enumerate(reader, start=2):
            video, frame, box = _read_row(row, f"{printable(path)}, line {number}")
            if not (folder / video).is_file():
                raise ValueError(
                    f"{printable(path)}, line {number}: there is no video {printable(video)} in the folder"
                )
            found.setdefault((folder / video).resolve(), {}).setdefault(frame, []).append(box)
    return found


def _read_row(row: dict, place: str) -> tuple[str, int, Box]:
    try:
        frame, box = int(row["frame"]), tuple(float(row[name]) for name in _COLUMNS[2:])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: frame must be an integer, and the four sides of a box numbers ({error})") from error
    left, top, right, bottom = box
    if frame < 0 or not all(map(math.isfinite, box)) or right <= left or bottom <= top:
        raise ValueError(f"{place}: frame {frame}, box {box}: needs a frame from 0 on, left < right and top < bottom")
    return row["video"], frame, box
