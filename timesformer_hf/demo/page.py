"""The page, as Gradio Blocks. It loads nothing from the network: no fonts, no scripts, no telemetry."""

import os
import tempfile
from collections.abc import Sequence
from html import escape

from ..shipped_models import CAMERA_MOTION, SAMPLE_CLIP
from .analysis import SHOWN_LABELS, Analyst, ClipError
from .timeline_chart import SCRIPT, STYLE, draw_chart


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported
import gradio as gr


HUB_MODELS = ("facebook/timesformer-base-finetuned-k400", "facebook/timesformer-base-finetuned-ssv2")
EXPLANATION = (
    "The bars say what the model takes the clip for, and how sure it is. The film shows on which places and moments "
    "this answer depends: yellow counts most, and dark blue hardly at all."
)
_WAITING = 20  # clips in the queue
_MINUTES_KEPT = 60

_ALERT_STYLE = """
#message p { border-left: 4px solid #d55e00; overflow-wrap: anywhere; padding: 4px 10px; }
"""

PAGE = {
    "theme": gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    "css": STYLE + _ALERT_STYLE,
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
    choices = {name: name for name in (*models, CAMERA_MOTION)} | {CAMERA_MOTION: "camera motion (in the package)"}
    choices |= {name: f"{name} (from the Hub)" for name in HUB_MODELS if name not in models}

    def label(clip: str | None, model: str):
        try:
            scores, notes = analyst.label(model, clip)
        except ClipError as error:
            return None, _alert(error), None, "", False
        told = "".join(f"<p>Note: {escape(note)}</p>" for note in notes)
        return scores, gr.HTML(told, visible=bool(notes)), None, "", True

    def explain(clip: str, model: str, is_labelled: bool):
        if not is_labelled:
            yield gr.skip()
            return
        with tempfile.TemporaryDirectory() as folder:
            film = os.path.join(folder, "overlay.mp4")
            try:
                analyst.explain(model, clip, film)
            except ClipError as error:
                yield None, _alert(error)
            else:
                yield film, gr.skip()  # gradio copies the film before it goes on

    def find_times(clip: str, model: str, is_labelled: bool, progress=gr.Progress()):  # noqa: B008
        if not is_labelled:
            return gr.skip()
        try:
            found = analyst.find_times(model, clip, lambda done, text: progress(done, desc=text))
        except ClipError as error:
            return "", _alert(error)
        return draw_chart(found), gr.skip()

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
                message = gr.HTML(elem_id="message", visible=False)
                examples = gr.Examples(
                    [[SAMPLE_CLIP]], [clip], label="Or take an example", example_labels=["Camera pan"]
                )
            with gr.Column():
                gr.Markdown("## Labels")
                labels = gr.Label(label="Labels", show_label=False, num_top_classes=SHOWN_LABELS, elem_id="labels")
                gr.Markdown("## What the model looks at")
                film = gr.Video(
                    label="What the model looks at",
                    show_label=False,
                    interactive=False,
                    elem_id="film",
                    buttons=["download"],
                )
        gr.Markdown("## What happens when")
        timeline = gr.HTML(label="What happens when", elem_id="timeline", min_height=80)
        is_labelled = gr.State(False)

        settings = {"concurrency_id": "models", "concurrency_limit": 1, "api_visibility": "private"}
        inputs = [clip, model, is_labelled]
        for event in (button.click, clip.upload, examples.load_input_event.then):
            outputs = [labels, message, film, timeline, is_labelled]
            step = event(label, [clip, model], outputs, show_progress_on=labels, **settings)
            step = step.success(explain, inputs, [film, message], show_progress_on=film, **settings)
            step.success(find_times, inputs, [timeline, message], show_progress_on=timeline, **settings)
    return page.queue(max_size=_WAITING)


def _alert(error: ClipError):
    """Return a message for the page, which a screen reader reads at once."""
    return gr.HTML(f'<p role="alert">{escape(str(error))}</p>', visible=True)
