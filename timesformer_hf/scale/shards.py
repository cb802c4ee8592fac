"""
Labelled videos packed into shards: WebDataset tars, which a training reads as a stream.

A shard has for each video `KEY.mp4` (or another extension), `KEY.cls` with the number of its class (or
`KEY.labels.json` with several), and `KEY.json` with the path that it came from. `KEY` is its row in the list of videos.
`README.md` names the splits and the classes for the library `datasets`.

Every shard is written as a whole, checked and moved to its place. The list of videos and the settings are in a hidden
folder until all shards are there. So a run that was killed is continued by the same command.
"""

import contextlib
import csv
import io
import json
import os
import tarfile
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from ..output.atomic import alone_in, output_file, output_folder, remove_folder, remove_leftovers
from ..video.printable import printable
from ..video.video_downloads import read_limited
from ..video.video_errors import VideoReadError
from ..video.video_options import VideoOptions
from ..video.video_sources import open_source
from .remote_files import opened_video, without_secrets
from .shard_list import ShardList, write_list


LEFT_OUT_FILE = "_left_out.csv"
_WORK = ".unfinished"
_SETTINGS = "settings.json"


class ShardError(OSError):
    """A shard is not what was written. The message names it."""


@dataclass(frozen=True)
class Shards:
    """
    What is in a folder of shards.

    Attributes:
        videos: for each split, the number of its videos.
        shards: for each split, the number of its shards.
        left_out: the path of each video that couldn't be read, and the reason.
    """

    videos: dict[str, int]
    shards: dict[str, int]
    left_out: list[tuple[str, str]]


@dataclass(frozen=True)
class _Shard:
    """A shard to write: its file, and the rows of its videos in the list."""

    path: Path
    rows: np.ndarray


def write_shards(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    shard_size: int = 1000,
    seed: int = 0,
    validation_share: float = 0.0,
    label_names: Sequence[str] | None = None,
    num_workers: int = 4,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Shards:
    """
    Write the videos of a folder or table into shards, or continue a run that was interrupted.

    The videos of each split are shuffled. Its shards differ by one video at most, except for videos that can't be read.

    Args:
        source: a folder with a folder for each class, or a .csv, .tsv, .txt or .parquet table with the columns `path`
            and `label`, and optionally `group` and `split`. A path may be a URL of http(s), or of a store as `s3://`.
        folder: the folder of the shards.
        shard_size: the most videos in a shard.
        seed: seed of the order, and of what is held out.
        validation_share: the share of the groups for the split `validation`, if the source has no splits.
        label_names: names of all classes, in order. Labels that are whole numbers are then indices into it.
        num_workers: the number of shards that are written at a time.
        report: function that is called with the number of finished shards and the number of all.

    Raises:
        BlockingIOError: if another run writes into this folder.
        FileExistsError: if the folder has finished shards or other files in it.
        FileNotFoundError, ValueError: if the source can't be used, or the run was begun with other settings.
        OSError: if a shard can't be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings_of(source) | {"shard_size": shard_size, "seed": seed, "validation_share": validation_share}
    settings |= {"label_names": None if label_names is None else list(label_names)}
    with alone_in(folder):
        remove_leftovers(folder)
        work = folder / _WORK
        if not work.exists():
            _check_empty(folder)
            with output_folder(work) as new:
                (new / _SETTINGS).write_text(json.dumps(settings))
                write_list(source, new, label_names, validation_share, seed)
        _check_settings(work, settings)
        return _go_on(folder, shard_size, seed, num_workers, report)


def _settings_of(source: str | os.PathLike[str]) -> dict:
    """Return what tells a source from others, and a table from its earlier and later versions."""
    path = Path(source).absolute()
    about = path.stat() if path.is_file() else None
    return {"source": str(path), "bytes": about and about.st_size, "modified": about and about.st_mtime_ns}


def _check_empty(folder: Path) -> None:
    if found := sorted(path.name for path in folder.iterdir()):
        what = "has finished shards" if "README.md" in found else f"is not empty: it has {', '.join(found[:5])}"
        raise FileExistsError(f"{folder} {what}; give another folder for the shards")


def _check_settings(work: Path, settings: dict) -> None:
    before = json.loads((work / _SETTINGS).read_text())
    changed = [f"{name} was {before[name]}, now {value}" for name, value in settings.items() if before[name] != value]
    if changed:
        raise ValueError(
            f"{work.parent} has unfinished shards with other settings: {'; '.join(changed)}. Give the same ones to go "
            "on, or another folder"
        )


def _go_on(folder: Path, shard_size: int, seed: int, num_workers: int, report: Callable[[int, int], None]) -> Shards:
    """Write the shards that are not there yet, and then the files beside them."""
    work = folder / _WORK
    videos = ShardList(work)
    plan = {split: _plan(folder, split, rows, shard_size, seed) for split, rows in videos.splits.items()}
    shards = [shard for of_split in plan.values() for shard in of_split]
    left = [shard for shard in shards if not shard.path.exists()]
    _write_all(left, videos, num_workers, lambda done: report(len(shards) - len(left) + done, len(shards)))
    left_out = {shard.path: _read_left_out(shard) for shard in shards}
    if reasons := [row for of_shard in left_out.values() for row in of_shard]:
        with output_file(folder / LEFT_OUT_FILE, overwrite=True) as new:
            _write_csv(new, [("path", "reason"), *reasons])
    counts = {
        split: sum(len(shard.rows) - len(left_out[shard.path]) for shard in of_split)
        for split, of_split in plan.items()
    }
    if not any(counts.values()):
        raise ValueError(f"None of the videos can be read, for example {': '.join(reasons[0])}")
    sizes = {split: sum(shard.path.stat().st_size for shard in of_split) for split, of_split in plan.items()}
    with output_file(folder / "README.md", overwrite=True) as new:
        new.write_text(_card(videos, counts, sizes), encoding="utf-8")
    remove_folder(work)
    return Shards(counts, {split: len(of_split) for split, of_split in plan.items()}, reasons)


def _plan(folder: Path, split: str, rows: np.ndarray, shard_size: int, seed: int) -> list[_Shard]:
    """Return the shards of a split, whose videos are in random order."""
    rows = np.random.default_rng((seed, zlib.crc32(split.encode()))).permutation(rows)
    count = max(1, -(-len(rows) // shard_size))
    return [
        _Shard(folder / f"{split}-{number:05d}-of-{count:05d}.tar", part)
        for number, part in enumerate(np.array_split(rows, count))
    ]


def _write_all(shards: list[_Shard], videos: ShardList, num_workers: int, report: Callable[[int], None]) -> None:
    """Write several shards at a time. After an error or a signal no other shard is begun."""
    stop = threading.Event()
    with ThreadPoolExecutor(num_workers) as executor:
        futures = [executor.submit(_write_shard, shard, videos, stop) for shard in shards]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                report(done)
        except BaseException:
            stop.set()
            executor.shutdown(cancel_futures=True)
            raise


class _StoppedError(Exception):
    """Another shard has failed, or the run is interrupted."""


def _write_shard(shard: _Shard, videos: ShardList, stop: threading.Event) -> None:
    """Write a shard, check it, note the videos that couldn't be read, and move it to its place."""
    left_out: list[tuple[str, str]] = []
    written: dict[str, int] = {}
    with output_file(shard.path) as new:
        with tarfile.open(new, "w") as tar:
            for row, (path, classes) in zip(shard.rows, videos.read(shard.rows), strict=True):
                if stop.is_set():
                    raise _StoppedError
                try:
                    content = _read(path)
                except (VideoReadError, OSError) as error:
                    left_out.append((without_secrets(path), without_secrets(str(error))))
                    continue
                key = f"{row:09d}"
                written |= {
                    f"{key}.{videos.extension}": _add(tar, f"{key}.{videos.extension}", content),
                    **_add_labels(tar, key, classes, videos.multi_label),
                    f"{key}.json": _add(tar, f"{key}.json", json.dumps({"path": without_secrets(path)}).encode()),
                }
        _check_written(new, written, shard.path)
        with output_file(_left_out_path(shard), overwrite=True) as table:
            _write_csv(table, left_out)


def _read(path: str) -> bytes:
    """
    Return the content of a video.

    Raises:
        VideoReadError, OSError: if it can't be read, or has more bytes than are allowed.
    """
    options = VideoOptions()
    with opened_video(path, options) as source:
        file = open_source(source, options)
        with open(file, "rb") if isinstance(file, str) else contextlib.nullcontext(file) as opened:
            return read_limited(opened.read, printable(without_secrets(path)), options.max_bytes).getvalue()


def _add_labels(tar: tarfile.TarFile, key: str, classes: list[int], multi_label: bool) -> dict[str, int]:
    name, text = (f"{key}.labels.json", json.dumps(classes)) if multi_label else (f"{key}.cls", str(classes[0]))
    return {name: _add(tar, name, text.encode())}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a file to a tar and return the checksum of its content."""
    about = tarfile.TarInfo(name)
    about.size = len(content)
    tar.addfile(about, io.BytesIO(content))
    return zlib.crc32(content)


def _check_written(path: Path, written: dict[str, int], name: Path) -> None:
    """
    Check that a tar has these files with these checksums.

    Raises:
        ShardError: if not.
    """
    try:
        with tarfile.open(path) as tar:
            found = {about.name: zlib.crc32(tar.extractfile(about).read()) for about in tar}
    except tarfile.TarError as error:
        raise ShardError(f"{name} can't be read after it was written ({error}); check the disk") from error
    if found != written:
        raise ShardError(f"{name} doesn't contain what was written to it; check the disk")


def _left_out_path(shard: _Shard) -> Path:
    return shard.path.parent / _WORK / f"{shard.path.stem}.csv"


def _write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        csv.writer(file).writerows(rows)


def _read_left_out(shard: _Shard) -> list[tuple[str, str]]:
    with _left_out_path(shard).open(newline="", encoding="utf-8") as file:
        return [(path, reason) for path, reason in csv.reader(file)]


def _card(videos: ShardList, counts: dict[str, int], sizes: dict[str, int]) -> str:
    """Return the data set's card, by which `datasets` knows its splits and classes without reading a shard."""
    classes = {"class_label": {"names": {str(number): name for number, name in enumerate(videos.label_names)}}}
    label = {"name": "labels.json", "sequence": classes} if videos.multi_label else {"name": "cls", "dtype": classes}
    about = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}-*.tar"} for split in counts],
            }
        ],
        "dataset_info": {
            "features": [{"name": videos.extension, "dtype": "video"}, label],
            "splits": [
                {"name": split, "num_bytes": sizes[split], "num_examples": count} for split, count in counts.items()
            ],
        },
    }
    lines = [f"| {split} | {count:,} |" for split, count in counts.items()]
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---",
            "",
            "Labelled videos in WebDataset shards, written by `timesformer-hf shard`.",
            "",
            "| split | videos |",
            "|---|---|",
            *lines,
            "",
        ]
    )
