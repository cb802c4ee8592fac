"""The page, as Gradio Blocks. It loads nothing from the network: no fonts, no scripts, no telemetry."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path

from ..shipped_models import CAMERA_MOTION, SAMPLE_CLIP
from .analysis import SHOWN_LABELS, Analyst, ClipError
from .timeline_chart import SCRIPT, STYLE, draw_chart


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported
import gradio as gr  # noqa: E402


HUB_MODELS = ("facebook/timesformer-base-finetuned-k400", "facebook/timesformer-base-finetuned-ssv2")
EXPLANATION = (
    "The bars say what the model takes the clip for, and how sure it is. The film shows on which places and moments "
    "this answer depends: yellow counts most, and dark blue hardly at all."
)
_FONTS = ("system-ui", "sans-serif")
_WAITING = 20  # clips in the queue
_MINUTES_KEPT = 60

PAGE = {
    "theme": gr.themes.Default(font=list(_FONTS), font_mono=["monospace"]),
    "css": STYLE,
    "head": SCRIPT,
    "footer_links": ["gradio", "settings"],
}
"""Arguments of `Blocks.launch` for how the page looks."""


def build_page(analyst: Analyst, models: Sequence[str], max_megabytes: int) -> gr.Blocks:
    """
    Return the page. Clips wait in a queue, and the models work on one at a time.

    Args:
        analyst: answers for each clip.
        models: folders or names on the Hub that can be chosen, besides the shipped model and two on the Hub. The first
            is chosen at the start.
        max_megabytes: the largest clip, which the page tells.
    """
    choices = {name: Path(name).name or name for name in (*models, CAMERA_MOTION)}
    choices |= {name: f"{name} (from the Hub)" for name in HUB_MODELS if name not in models}
    choices[CAMERA_MOTION] = "camera motion (in the package)"

    def label(clip: str | None, model: str):
        _check_clip(clip)
        with _shown_errors():
            scores, notes = analyst.label(model, clip)
        return scores, "".join(f"<p>Note: {escape(note)}</p>" for note in notes), None, ""

    def explain(clip: str, model: str):
        with tempfile.TemporaryDirectory() as folder, _shown_errors():
            film = os.path.join(folder, "overlay.mp4")
            analyst.explain(model, clip, film)
            yield film  # gradio copies it before it goes on

    def find_times(clip: str, model: str, progress: gr.Progress = gr.Progress()):  # noqa: B008: gradio's way
        with _shown_errors():
            return draw_chart(analyst.find_times(model, clip, lambda done, text: progress(done, desc=text)))

    age = _MINUTES_KEPT * 60
    with gr.Blocks(title="TimeSformer", analytics_enabled=False, delete_cache=(age, age)) as page:
        gr.Markdown(f"# TimeSformer\n{EXPLANATION}")
        with gr.Row():
            with gr.Column():
                clip = gr.Video(
                    label=f"Clip (at most {max_megabytes} MB)", sources=["upload"], include_audio=True, elem_id="clip"
                )
                model = gr.Dropdown(
                    [(text, name) for name, text in choices.items()], value=next(iter(choices)), label="Model"
                )
                button = gr.Button("Look at the clip", variant="primary")
                examples = gr.Examples([[SAMPLE_CLIP]], [clip], label="Example clip: the camera pans")
            with gr.Column():
                labels = gr.Label(label="Labels", num_top_classes=SHOWN_LABELS, elem_id="labels")
                notes = gr.HTML(elem_id="notes")
                film = gr.Video(
                    label="What the model looks at", interactive=False, elem_id="film", buttons=["download"]
                )
        timeline = gr.HTML(label="What happens when", show_label=True, container=True, elem_id="timeline")

        settings = {"inputs": [clip, model], "concurrency_id": "models", "api_visibility": "private"}
        for event in (button.click, clip.upload, examples.load_input_event.then):
            done = event(label, outputs=[labels, notes, film, timeline], **settings)
            done.success(explain, outputs=film, **settings).success(find_times, outputs=timeline, **settings)
    return page.queue(max_size=_WAITING, default_concurrency_limit=1)


def _check_clip(clip: str | None) -> None:
    if clip is None:
        raise gr.Error("Drop a clip on the page or choose one first.", duration=None, print_exception=False)


@contextmanager
def _shown_errors() -> Iterator[None]:
    """In the block, a `ClipError` becomes a message on the page, which stays until it is closed."""
    try:
        yield
    except ClipError as error:
        raise gr.Error(escape(str(error)), duration=None, print_exception=False) from error
