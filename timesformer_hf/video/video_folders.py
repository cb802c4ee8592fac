"""The search for video files in folders."""

import os
from collections.abc import Iterable
from pathlib import Path

from .video_sources import is_url


# A search finds files with these extensions. A file that the user names may have any extension. (".ts" is not here,
# because such files are more often TypeScript than videos.)
VIDEO_EXTENSIONS = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov"),
    *(".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"),
)


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
    paths = [path for path in Path(folder).rglob("*") if path.suffix.lower() in VIDEO_EXTENSIONS and path.is_file()]
    hidden = [path for path in paths if any(part.startswith(".") for part in path.relative_to(folder).parts)]
    videos = sorted(set(paths) - set(hidden))
    if not videos:
        raise ValueError(
            f"There is no video in the folder {folder}. A video ends in one of {' '.join(VIDEO_EXTENSIONS)}"
        )
    return list(map(str, videos))
