"""A page of near-duplicates, with a picture of each video: one HTML file that loads nothing else."""

import base64
import html
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from ..video.decoding_plan import count_cores
from ..video.printable import printable
from ..video.video_decoding import decode_frames
from ..video.video_errors import VideoReadError
from .labelled_videos import LabelledVideo


_WIDTH, _HEIGHT = 240, 135  # of a picture, at most
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Near-duplicates</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 82rem; padding: 0 1rem; color: #1b1b1b;
  background: #fff }}
h1 {{ font-size: 1.5rem; margin-bottom: .25rem }}
h2 {{ font-size: 1rem; margin: 2rem 0 .5rem }}
h2 b {{ background: #d55e00; color: #fff; border-radius: 1rem; padding: .1rem .6rem; margin-left: .5rem;
  font-size: .8rem; font-weight: 600 }}
ul {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; list-style: none;
  margin: 0; padding: 0 }}
li {{ border: 1px solid #d5d5d5; border-radius: .4rem; padding: .5rem; overflow-wrap: anywhere }}
img, .none {{ width: 100%; aspect-ratio: 16 / 9; object-fit: contain; background: #eee; display: block }}
.none {{ display: grid; place-items: center; color: #666; font-size: .85rem; text-align: center }}
p {{ margin: .3rem 0 0 }}
small {{ color: #555 }}
@media (prefers-color-scheme: dark) {{ body {{ color: #eee; background: #161616 }} li {{ border-color: #444 }}
  small {{ color: #aaa }} img, .none {{ background: #262626; color: #aaa }} }}
</style>
</head>
<body>
<h1>Near-duplicates</h1>
<p>{heading}.</p>
<p><small>Each video has the frame from its middle, and the cosine to the video that is most like it.{cut}</small></p>
{groups}
</body>
</html>
"""


@dataclass(frozen=True)
class PageVideo:
    """A video of a group, and the cosine to the video that is most like it."""

    video: LabelledVideo
    cosine: float


@dataclass(frozen=True)
class PageGroup:
    """
    A group of near-duplicates on the page.

    Attributes:
        videos: those that are shown.
        total: how many there are.
        notes: what is wrong with the group.
    """

    videos: list[PageVideo]
    total: int
    notes: list[str]


def write_page(path: Path, groups: Sequence[PageGroup], heading: str, total: int) -> None:
    """
    Write the page.

    Args:
        groups: the groups that are shown.
        heading: what the page is about, in one line.
        total: how many groups there are.
    """
    with ThreadPoolExecutor(count_cores()) as pool:
        pictures = iter(list(pool.map(_picture, (shown.video for group in groups for shown in group.videos))))
    parts = [
        _render_group(number, group, [_render_video(shown, next(pictures)) for shown in group.videos])
        for number, group in enumerate(groups, start=1)
    ]
    cut = f" The first {len(groups)} of {total} groups are shown." if len(groups) < total else ""
    path.write_text(_PAGE.format(heading=_escape(heading), cut=cut, groups="\n".join(parts)), encoding="utf-8")


def _render_group(number: int, group: PageGroup, cards: list[str]) -> str:
    size = f"{group.total} videos" if group.total == len(cards) else f"{len(cards)} of {group.total} videos"
    notes = "".join(f"<b>{_escape(note)}</b>" for note in group.notes)
    return f"<h2>Group {number}: {size}{notes}</h2>\n<ul>\n" + "\n".join(cards) + "\n</ul>"


def _render_video(shown: PageVideo, picture: str) -> str:
    about = [f"{shown.cosine:.4f}", shown.video.split or "", "|".join(shown.video.labels)]
    text = " &middot; ".join(_escape(word) for word in about if word)
    return f"<li>{picture}<p>{text}</p><p><small>{_escape(shown.video.name)}</small></p></li>"


def _escape(text: str) -> str:
    """Return text for HTML, in which neither markup nor characters of control have an effect."""
    return html.escape(printable(text))


def _picture(video: LabelledVideo) -> str:
    """Return the frame in the middle of a video as an element, or where it is unreadable, why."""
    try:
        (frame,), _ = decode_frames(video.source, lambda about: [about.total_num_frames // 2])
    except (VideoReadError, OSError) as error:
        return f'<div class="none">{_escape(str(error))}</div>'
    picture, file = PIL.Image.fromarray(frame), io.BytesIO()
    picture.thumbnail((_WIDTH, _HEIGHT))
    picture.save(file, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'
