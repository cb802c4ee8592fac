"""The search for video files in folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from .printable import printable
from .video_sources import is_url


# A search finds files with these extensions. A file that the user names may have any extension.
VIDEO_EXTENSIONS = (
    *(".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov"),
    *(".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
# Folders that systems make by themselves, in lower case.
_SYSTEM_FOLDERS = ("__macosx", "$recycle.bin", "system volume information", "lost+found", "@eadir", "recycler")
_TRANSPORT_PACKET, _SYNC_BYTE = 188, b"\x47"  # ITU-T H.222.0, 2.4.3.2


def find_videos(names: Iterable[str]) -> list[str]:
    """
    Return files, URLs and folders as a list of videos.

    A folder stands for all video files in it and below it, in the order of their paths, without hidden ones. A video
    that occurs twice is listed once.

    Raises:
        ValueError: if a folder contains no video.
    """
    videos = {}
    for name in names:
        for video in _videos_in_folder(name) if os.path.isdir(name) else [name]:
            videos.setdefault(video if is_url(video) else os.path.abspath(video), video)
    return list(videos.values())


def _videos_in_folder(folder: str) -> list[str]:
    videos = [
        Path(directory) / file
        for directory, files in walk_folder(folder, follow_links=False)
        for file in files
        if os.path.isfile(path := os.path.join(directory, file)) and is_video_file(path)
    ]
    if not videos:
        raise ValueError(
            f"There is no video in the folder {printable(folder)}. A video ends in one of {' '.join(VIDEO_EXTENSIONS)}"
        )
    return list(map(str, sorted(videos)))


def is_video_file(path: str | os.PathLike) -> bool:
    """Whether a file is a video by its extension. A .ts file must also look like one: most are TypeScript."""
    name = os.fspath(path).lower()
    return name.endswith(VIDEO_EXTENSIONS) and (not name.endswith(".ts") or _is_transport_stream(path))


def _is_transport_stream(path: str | os.PathLike) -> bool:
    """Whether the first bytes, and those a packet later, begin packets. A file that can't be read counts as one."""
    try:
        with open(path, "rb") as file:
            start = file.read(_TRANSPORT_PACKET + 1)
    except OSError:
        return True
    return start[:1] == _SYNC_BYTE and start[_TRANSPORT_PACKET:] in (b"", _SYNC_BYTE)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out of a search: it is hidden, or a system made it."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def walk_folder(folder: str | os.PathLike, follow_links: bool) -> Iterator[tuple[str, list[str]]]:
    """
    Yield every folder at or below `folder`, with the sorted names of its files. Hidden ones are left out.

    A folder is visited once, however many links lead to it. A link to a folder that contains `folder` is not followed.
    """
    visited = _identities_above(folder)
    for directory, subfolders, files in os.walk(folder, followlinks=follow_links):
        kept = []
        for name in sorted(name for name in subfolders if not is_hidden(name)):
            path = os.path.join(directory, name)
            if (follow_links or not os.path.islink(path)) and (identity := _identity(path)) not in visited:
                visited.add(identity)
                kept.append(name)
        subfolders[:] = kept
        yield directory, sorted(name for name in files if not is_hidden(name))


def contains(folder: str | os.PathLike, inner: str | os.PathLike) -> bool:
    """Whether a folder, or the folder that a link leads to, is `inner` or contains it."""
    return _identity(folder) in _identities_above(inner)


def _identities_above(folder: str | os.PathLike) -> set[tuple]:
    """Return what tells a folder and all folders that contain it from others."""
    path = Path(folder).resolve()
    return {_identity(parent) for parent in (path, *path.parents)}


def _identity(path: str | os.PathLike) -> tuple:
    """Return what tells a folder from all others, whatever its name. It is the path where there are no such numbers."""
    try:
        about = os.stat(path)
    except OSError:
        return (os.fspath(path),)
    return (about.st_dev, about.st_ino) if about.st_ino else (os.path.realpath(path),)
