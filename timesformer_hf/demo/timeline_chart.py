"""The timeline as a chart in HTML. A click, or the Enter key, makes the player jump to that moment."""

import math
from html import escape

import numpy as np

from ..timeline.video_timeline import Timeline
from ..video.printable import printable


_ROWS = 8
_FEWEST_ROWS = 3  # with fewer labels that have a segment, the next best labels have a row too,
_SEEN = 0.05  # if they have such a score somewhere
_COLUMNS = 400  # points of a curve
_TICKS = 6
_SHORT = 60  # seconds: shorter clips have times with tenths
_STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds between ticks

STYLE = """
.timeline { color: var(--body-text-color); font-size: 14px; padding: 4px 8px; }
.timeline-name { margin-top: 10px; overflow-wrap: anywhere; }
.timeline-track { background: var(--background-fill-secondary); border: 1px solid #767676; border-radius: 4px;
  cursor: pointer; height: 42px; overflow: hidden; position: relative; }
.timeline-track:has(button) { height: 76px; }
.timeline-track svg { display: block; height: 40px; width: 100%; }
.timeline-track path { fill: #3590cf; }
.timeline-track button { background: #00507d; border: 1px solid white; border-radius: 3px; color: white;
  font-size: 13px; height: 32px; min-width: 24px; overflow: hidden; position: absolute; bottom: 1px;
  white-space: nowrap; }
.timeline-track button:hover { background: #003d61; }
.timeline-track button:focus-visible { outline: 3px solid #d55e00; outline-offset: -3px; }
.timeline-now { background: #d55e00; display: none; height: 100%; pointer-events: none; position: absolute; top: 0;
  width: 3px; }
.timeline-ticks { height: 20px; position: relative; }
.timeline-ticks span { position: absolute; transform: translateX(-50%); }
.timeline-ticks span:first-child { transform: none; }
"""

SCRIPT = """
<script>
(() => {
  const findPlayer = () => document.querySelector("#clip video");
  const jump = (seconds, text) => {
    const player = findPlayer(), said = document.querySelector(".timeline-said");
    if (!player) return;
    player.currentTime = seconds;
    player.scrollIntoView({ block: "nearest" });
    if (said) said.textContent = text;
  };
  const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".timeline-track button"), track = event.target.closest(".timeline-track");
    if (button) return jump(Number(button.dataset.seconds), `The player is at ${button.dataset.clock}.`);
    if (!track) return;
    const box = track.getBoundingClientRect();
    const seconds = (event.clientX - box.left) / box.width * Number(track.dataset.duration);
    jump(seconds, `The player is at ${clock(seconds)}.`);
  });
  const mark = (event) => {
    if (event.target !== findPlayer()) return;
    for (const now of document.querySelectorAll(".timeline-now")) {
      now.style.display = "block";
      now.style.left = `${100 * event.target.currentTime / Number(now.parentElement.dataset.duration)}%`;
    }
  };
  document.addEventListener("timeupdate", mark, true);
  document.addEventListener("seeked", mark, true);
})();
</script>
"""


def draw_chart(timeline: Timeline) -> str:
    """
    Return a timeline as HTML: a row for each label, with the scores of the windows as a curve and segments as buttons.

    It has at most 8 rows, those of the labels that hold longest. It needs `STYLE` and `SCRIPT` on the same page, and a
    player in the element `clip`.
    """
    rows = "".join(_row(timeline, label) for label in choose_labels(timeline))
    if timeline.segments:
        note = "A click makes the player jump there."
    else:
        note = "No label is sure for long enough to be a segment. A click makes the player jump there."
    long = _clock(timeline.duration, timeline.duration < _SHORT)
    return (
        f'<div class="timeline" role="group" aria-label="Timeline, {long} long">'
        f"<p>Light areas: the scores, from 0 to 100 %. Dark bars: when a label holds. {note}</p>"
        f'{rows}{_ticks(timeline.duration)}<p class="timeline-said" role="status"></p></div>'
    )


def choose_labels(timeline: Timeline) -> list[str]:
    """Return the labels that have a row: those that hold longest first, then those with the highest score."""
    held = dict.fromkeys(timeline.labels, 0.0)
    for segment in timeline.segments:
        held[segment.label] += segment.end - segment.start
    best = dict(zip(timeline.labels, np.max([window.scores for window in timeline.windows], axis=0), strict=True))
    labels = sorted(held, key=lambda label: (-held[label], -best[label]))
    holding = sum(seconds > 0 for seconds in held.values())
    others = [label for label in labels[max(holding, 1) : _FEWEST_ROWS] if best[label] >= _SEEN]
    return [*labels[: max(holding, 1)], *others][:_ROWS]


def _row(timeline: Timeline, label: str) -> str:
    duration, shown, tenths = timeline.duration, escape(printable(label)), timeline.duration < _SHORT
    buttons = []
    for segment in timeline.segments:
        if segment.label != label:
            continue
        left, width = 100 * segment.start / duration, 100 * (segment.end - segment.start) / duration
        start, end = _clock(segment.start, tenths), _clock(segment.end, tenths)
        buttons.append(
            f'<button type="button" data-seconds="{segment.start:.3f}" data-clock="{start}" '
            f'style="left: min({left:.3f}%, calc(100% - 24px)); width: {width:.3f}%" '
            f'aria-label="{shown} from {start} to {end}, score {segment.score:.0%}. Jump there." '
            f'title="{shown}, {start} to {end}, {segment.score:.0%}">{segment.score:.0%}</button>'
        )
    curve = _curve(timeline, timeline.labels.index(label))
    return (
        f'<div class="timeline-name" aria-hidden="true">{shown}</div>'
        f'<div class="timeline-track" data-duration="{duration:.3f}">'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{curve}"/></svg>{"".join(buttons)}<div class="timeline-now"></div></div>'
    )


def _curve(timeline: Timeline, index: int) -> str:
    """Return the area below the scores of a label, as a path in a box of 100 x 100. Each point is a local maximum."""
    places = np.array([100 * window.middle / timeline.duration for window in timeline.windows])
    scores = np.array([window.scores[index] for window in timeline.windows])
    parts = np.array_split(np.arange(len(scores)), min(len(scores), _COLUMNS))
    points = [(float(places[part].mean()), 100 - 100 * float(scores[part].max())) for part in parts]
    points = [(0.0, points[0][1]), *points, (100.0, points[-1][1])]
    return f"M0,100{''.join(f'L{x:.2f},{y:.2f}' for x, y in points)}L100,100Z"


def _ticks(duration: float) -> str:
    step = next((step for step in _STEPS if duration / step <= _TICKS), 3600 * math.ceil(duration / 3600 / _TICKS))
    spans = "".join(
        f'<span style="left: {100 * time / duration:.2f}%">{_clock(time, tenths=step < 1)}</span>'
        for time in np.arange(0, 0.97 * duration, step).tolist()
    )
    return f'<div class="timeline-ticks" aria-hidden="true">{spans}</div>'


def _clock(seconds: float, tenths: bool) -> str:
    """Return a time as m:ss or h:mm:ss, or with tenths of a second."""
    seconds = round(seconds, 1) if tenths else int(seconds)
    rest = f"{seconds % 60:04.1f}" if tenths else f"{seconds % 60:02d}"
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"
