"""The pages of the API reference: what is public, by topic, for mkdocstrings to fill in."""

from public_names import PublicName, folder_title, public_names


# The order in which a reader meets the topics. New ones come at the end.
_FIRST = ("model", "video", "inference", "timeline", "explanation", "data", "training", "evaluation", "checkpoints")


def topics() -> dict[str, list[PublicName]]:
    """The topics in the order of the page, each with its names in the order of the alphabet."""
    found = {}
    for name in sorted(public_names(), key=lambda name: name.name.lower()):
        found.setdefault(name.topic, []).append(name)
    order = [topic for topic in _FIRST if topic in found]
    return {topic: found[topic] for topic in [*order, *sorted(found.keys() - set(order))]}


def overview() -> str:
    """A table for each topic: its names, which lead to its page, and what each one is or does."""
    lines = []
    for topic, names in topics().items():
        lines += ["", f"## {_heading(topic)}", "", f"{folder_title(topic)}.", "", "| name | |", "|---|---|"]
        for name in names:
            summary = name.summary.replace("|", "\\|")
            lines.append(f"| [`{name.name}`](api/{topic}.md#{name.identifier}) | {summary} |")
    return "\n".join([*lines, ""])


def topic_page(topic: str) -> str:
    """The page of a topic: a directive of mkdocstrings for each name."""
    lines = [f"# {_heading(topic)}", "", f"{folder_title(topic)}. Import the names from `timesformer_hf`."]
    for name in topics()[topic]:
        lines += ["", f"::: {name.identifier}"]
    return "\n".join([*lines, ""])


def _heading(topic: str) -> str:
    return topic.replace("_", " ").capitalize()
