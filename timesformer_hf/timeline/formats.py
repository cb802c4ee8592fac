"""Timelines as files for editors, annotation tools, players and spreadsheets. The name of a file says its format."""

import csv
import itertools
import json
import mimetypes
import os
from collections.abc import Callable
from pathlib import Path

from ..output.atomic import check_output_file, output_file
from ..output.extras import check_packages
from ..output.figures import check_can_plot
from ..video.video_sources import VideoSource
from .burning import write_film
from .drawing import draw_timeline
from .segments import Segment
from .video_timeline import Timeline


_EDL_START = 3600  # seconds: where a timeline of DaVinci Resolve begins by default
_EDL_COLOURS = ("Blue", "Yellow", "Pink", "Green", "Cyan", "Red", "Purple", "Lavender")


def write_timeline(
    path: str | os.PathLike[str], timeline: Timeline, video: VideoSource | None = None, overwrite: bool = False
) -> None:
    """
    Write a timeline to a file, completely or not at all.

    The ending of the name chooses the format:

    - `.json`: ActivityNet's form, with the windows
    - `.csv`: a row for each segment
    - `.srt`, `.vtt`: subtitles for players
    - `.edl`: markers for DaVinci Resolve
    - `.otio`: a clip with markers, for editors that read OpenTimelineIO
    - `.eaf`: annotations for ELAN
    - `.labelstudio.json`: pre-annotations for Label Studio
    - `.png`: a picture of the labels over time
    - `.mp4`: the film with its labels in the picture, without sound

    Args:
        video: the video itself, which only `.mp4` needs.
        overwrite: replace the file if it exists.

    Raises:
        ValueError, ImportError, FileExistsError, NotADirectoryError: as in [`check_timeline_file`].
    """
    check_timeline_file(path, overwrite)
    with output_file(path, overwrite) as temporary:
        if _ending(path) == ".mp4":
            if video is None:
                raise ValueError(f"{path}: a film needs the video; give it as video=...")
            write_film(temporary, timeline, video)
        else:
            _WRITERS[_ending(path)](temporary, timeline)


def check_timeline_file(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """
    Check that a timeline can be written to a file of that name. Call it before long work, so that the work is not lost.

    Raises:
        ValueError: if the ending of the name is no format.
        ImportError: if the format needs a package that is missing.
        FileExistsError, NotADirectoryError: if the file can't be written.
    """
    ending = _ending(path)
    packages = {".otio": "opentimelineio", ".eaf": "pympi"}
    if ending in packages:
        check_packages(f"a file {ending}", [packages[ending]], "timeline")
    if ending == ".png":
        check_can_plot(path)
    check_output_file(path, overwrite)


def _ending(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path).lower()
    for ending in (".labelstudio.json", *_WRITERS, ".mp4"):
        if name.endswith(ending):
            return ending
    endings = ", ".join((*_WRITERS, ".mp4"))
    raise ValueError(f"{path}: the name of a timeline's file must end in one of {endings}")


def _write_json(path: Path, timeline: Timeline) -> None:
    path.write_text(json.dumps(timeline.to_dict(), allow_nan=False, indent=1) + "\n")


def _write_csv(path: Path, timeline: Timeline) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["start", "end", "label", "score"])
        rows.writerows([f"{s.start:.3f}", f"{s.end:.3f}", s.label, f"{s.score:.6f}"] for s in timeline.segments)


def _write_srt(path: Path, timeline: Timeline) -> None:
    cues = [
        f"{number}\n{_clock(s.start, ',')} --> {_clock(s.end, ',')}\n{_caption(s)}\n"
        for number, s in enumerate(timeline.segments, 1)
    ]
    path.write_text("\n".join(cues), encoding="utf-8")


def _write_vtt(path: Path, timeline: Timeline) -> None:
    cues = [
        f"{_clock(s.start, '.')} --> {_clock(s.end, '.')}\n"
        + _caption(s).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        for s in timeline.segments
    ]
    path.write_text("\n\n".join(["WEBVTT", *cues]) + "\n", encoding="utf-8")


def _caption(segment: Segment) -> str:
    """Return the label and the score on one line, without the arrow that separates times."""
    return f"{_one_line(segment.label).replace('-->', '->')} {segment.score:.0%}"


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "?"


def _clock(seconds: float, mark: str) -> str:
    """Return hours, minutes, seconds and milliseconds, for example 01:02:03.456."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def _write_edl(path: Path, timeline: Timeline) -> None:
    """Write markers as DaVinci Resolve exports and imports them: events of one frame, with a comment for each."""
    rate = max(1, round(timeline.fps))
    colours = _number_labels(timeline)

    def timecode(frame: int) -> str:
        seconds, frames = divmod(frame + _EDL_START * rate, rate)
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frames:02}"

    lines = [f"TITLE: {_one_line(Path(timeline.video).stem)}", "FCM: NON-DROP FRAME", ""]
    for number, segment in enumerate(timeline.segments, 1):
        first, last = round(segment.start * timeline.fps), round(segment.end * timeline.fps)
        times = [timecode(first), timecode(first + 1)]
        colour = _EDL_COLOURS[colours[segment.label] % len(_EDL_COLOURS)]
        name = _one_line(segment.label).replace("|", "/")
        lines += [
            f"{number:03}  001      V     C        {' '.join(times)} {' '.join(times)}  ",
            f"score {segment.score:.0%} |C:ResolveColor{colour} |M:{name} |D:{max(1, last - first)}",
            "",
        ]
    path.write_text("\n".join(lines), encoding="utf-8")


def _write_otio(path: Path, timeline: Timeline) -> None:
    """Write one clip, the whole video, with a marker for each segment."""
    import opentimelineio as otio

    def time_range(start: float, end: float):
        first, last = round(start * timeline.fps), round(end * timeline.fps)
        times = otio.opentime.RationalTime
        return otio.opentime.TimeRange(times(first, timeline.fps), times(max(1, last - first), timeline.fps))

    whole = time_range(0, timeline.duration)
    clip = otio.schema.Clip(
        name=Path(timeline.video).name,
        media_reference=otio.schema.ExternalReference(target_url=timeline.video, available_range=whole),
        source_range=whole,
    )
    names = ("BLUE", "ORANGE", "BLACK", "PINK", "GREEN", "CYAN", "RED", "PURPLE")
    colours = _number_labels(timeline)
    for segment in timeline.segments:
        clip.markers.append(
            otio.schema.Marker(
                name=segment.label,
                marked_range=time_range(segment.start, segment.end),
                color=getattr(otio.schema.MarkerColor, names[colours[segment.label] % len(names)]),
                metadata={"timesformer_hf": {"score": segment.score}},
            )
        )
    track = otio.schema.Track(name="video", kind=otio.schema.TrackKind.Video, children=[clip])
    result = otio.schema.Timeline(name=Path(timeline.video).stem)
    result.tracks.append(track)
    otio.adapters.write_to_file(result, str(path))


def _write_eaf(path: Path, timeline: Timeline) -> None:
    """Write a tier of annotations, or where segments overlap, a tier for each label."""
    from pympi.Elan import Eaf

    document = Eaf(author="timesformer_hf")
    kind = mimetypes.guess_type(timeline.video)[0] or "video/*"
    source = timeline.video if "://" in timeline.video else Path(timeline.video).absolute().as_uri()
    document.add_linked_file(source, relpath=Path(timeline.video).name, mimetype=kind)
    overlapping = any(one.end > other.start for one, other in itertools.pairwise(timeline.segments))
    for segment in timeline.segments:
        tier = _one_line(segment.label) if overlapping else "label"
        if tier not in document.get_tier_names():
            document.add_tier(tier)
        start, end = round(segment.start * 1000), round(segment.end * 1000)
        document.add_annotation(tier, start, max(end, start + 1), segment.label)
    if timeline.segments:
        document.remove_tier("default")
    document.to_file(str(path))


def _write_labelstudio(path: Path, timeline: Timeline) -> None:
    """Write a task with a prediction. Label Studio counts frames from 1."""
    results = []
    for number, segment in enumerate(timeline.segments, 1):
        first = round(segment.start * timeline.fps) + 1
        last = max(first, round(segment.end * timeline.fps))
        results.append(
            {
                "id": f"segment-{number}",
                "type": "timelinelabels",
                "from_name": "label",
                "to_name": "video",
                "score": segment.score,
                "value": {"ranges": [{"start": first, "end": last}], "timelinelabels": [segment.label]},
            }
        )
    scores = [segment.score for segment in timeline.segments]
    mean = sum(scores) / len(scores) if scores else 0.0
    prediction = {"model_version": "timesformer_hf", "score": mean, "result": results}
    path.write_text(json.dumps([{"data": {"video": timeline.video}, "predictions": [prediction]}], indent=1) + "\n")


def _number_labels(timeline: Timeline) -> dict[str, int]:
    """Return a number for each label that occurs, in the order of the model's labels."""
    there = {segment.label for segment in timeline.segments}
    return {label: number for number, label in enumerate(filter(there.__contains__, dict.fromkeys(timeline.labels)))}


_WRITERS: dict[str, Callable[[Path, Timeline], None]] = {
    ".json": _write_json,
    ".csv": _write_csv,
    ".srt": _write_srt,
    ".vtt": _write_vtt,
    ".edl": _write_edl,
    ".otio": _write_otio,
    ".eaf": _write_eaf,
    ".labelstudio.json": _write_labelstudio,
    ".png": draw_timeline,
}
