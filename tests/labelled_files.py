"""Folders of files that stand for labelled videos, for tests that decode none."""

from pathlib import Path


def touch(folder: Path, *names: str) -> Path:
    """Files whose content is their name; no test that uses them decodes."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def listing(videos) -> list[tuple[str, tuple[str, ...]]]:
    """File names and labels of labelled videos, in their order."""
    return [(Path(video.name).name, video.labels) for video in videos]
