"""
What mkdocs must know about this repository: the pages of `docs/` link to files outside `docs/`.

Each such file becomes a page of the site, below `files/`. So a link works on the site and in the repository alike, and
the site needs nothing from elsewhere:

- Markdown stays Markdown. What it links to becomes pages too.
- A picture or a notebook is copied.
- A folder shows its README, or else all its files.
- Other files are shown as code.

`api.md` gets the tables of all public names, and a page for each topic. `messages.md` gets all messages of the code.

mkdocs calls the functions `on_...`.
"""

import os
import re
from pathlib import Path, PurePosixPath

import messages
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify


_REPOSITORY = Path(__file__).parents[2]
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)")
_CODE = re.compile(r"^(```+|~~~+).*?^\1", re.DOTALL | re.MULTILINE)
# `name`, `timesformer_hf.name` or `name(...)` that is no link yet, and not in a heading.
_NAME = re.compile(r"(?<!\[)(?<!^### )(?<!^## )`(?:timesformer_hf\.)?(\w+)(?:\([^`]*\))?`(?!\])", re.MULTILINE)
_COPIED = {".gif", ".ipynb", ".jpg", ".png", ".svg", ".webp"}
_LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml"}
_FENCE = "~" * 12  # longer than any in a file that is shown

# The file that each Markdown page is made from, as the path from the repository.
_source_of: dict[str, PurePosixPath] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside `docs/` that the pages link to, directly or through other pages."""
    _source_of.clear()
    _source_of.update({file.src_uri: PurePosixPath("docs", file.src_uri) for file in files.documentation_pages()})
    waiting = list(_source_of.values())
    known = set()
    while waiting:
        source = waiting.pop()
        for path in _links((_REPOSITORY / source).read_text()):
            target = _file_meant(_join(source, path))
            if target is None or target in known or target.is_relative_to("docs"):
                continue
            known.add(target)
            if target.suffix in _COPIED:
                files.append(File.generated(config, _page(target), abs_src_path=str(_REPOSITORY / target)))
            elif target.suffix == ".md":
                content = (_REPOSITORY / target).read_text()
                files.append(File.generated(config, _page(target), content=content))
                _source_of[_page(target)] = target
                waiting.append(target)
            else:
                files.append(File.generated(config, _page(target), content=_as_code(target)))
    for topic in reference.topics():
        files.append(File.generated(config, f"api/{topic}.md", content=reference.topic_page(topic)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files outside `docs/` lead to their pages, and public names to the reference."""
    if page.file.src_uri == "api.md":
        return markdown + reference.overview()
    if page.file.src_uri == "messages.md":
        return markdown + messages.overview(_explained())
    source = _source_of.get(page.file.src_uri)
    if source is None:
        return markdown

    def changed(link: re.Match) -> str:
        target = _file_meant(_join(source, link[1]))
        if target is None:
            return link[0]  # mkdocs says that the link leads nowhere
        return "](" + os.path.relpath(_page(target), PurePosixPath(page.file.src_uri).parent)

    names = {name.name: f"{name.topic}.md#{name.identifier}" for name in reference.public_names()}
    api = os.path.relpath("api", PurePosixPath(page.file.src_uri).parent)

    def linked(code: re.Match) -> str:
        target = names.pop(code[1], None)  # only the first one of a page
        return f"[{code[0]}]({api}/{target})" if target else code[0]

    return _outside_code(markdown, lambda text: _NAME.sub(linked, _LINK.sub(changed, text)))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show docstrings in the form of transformers without its own marks: "[`Name`]", and "`int`" as a type."""
    if not page.file.src_uri.startswith("api/"):
        return html
    html = re.sub(r"\[<code>~?(?:timesformer_hf\.|transformers\.)?([^<]*)</code>\]", r"<code>\1</code>", html)
    return re.sub(r"<code>([^<]*`[^<]*)</code>", lambda code: f"<code>{code[1].replace('`', '')}</code>", html)


def _explained() -> dict[str, str]:
    """The messages that docs/troubleshooting.md explains, and the anchors there."""
    page = (_REPOSITORY / "docs" / "troubleshooting.md").read_text()
    headings = [text for _, text in re.findall(r"^### (`+) ?(.*?) ?\1$", page, re.MULTILINE)]
    return {messages.join_gaps(text): slugify(case="lower")(text, "-") for text in headings}


def _outside_code(markdown: str, change) -> str:
    """Markdown in which `change` has changed everything but the blocks of code."""
    parts, end = [], 0
    for block in _CODE.finditer(markdown):
        parts += [change(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(markdown[end:])])


def _links(markdown: str) -> list[str]:
    return _LINK.findall(_CODE.sub("", markdown))


def _join(source: PurePosixPath, link: str) -> PurePosixPath:
    """The path from the repository to what a file links to."""
    return PurePosixPath(os.path.normpath(source.parent / link))


def _file_meant(target: PurePosixPath) -> PurePosixPath | None:
    """A file or folder of the repository; the README of a folder that has one; None if there is no such file."""
    path = _REPOSITORY / target
    if path.is_dir() and (path / "README.md").exists():
        return target / "README.md"
    return target if path.exists() else None


def _page(target: PurePosixPath) -> str:
    """The page of the site that shows a file of the repository."""
    if target.is_relative_to("docs"):
        return str(target.relative_to("docs"))
    visible = PurePosixPath("files", *(part.lstrip(".") for part in target.parts))  # mkdocs leaves out hidden files
    return str(visible) if target.suffix in {*_COPIED, ".md"} else f"{visible}.md"


def _as_code(target: PurePosixPath) -> str:
    """A page that shows a file, or the files of a folder, as code. The search leaves it out."""
    path = _REPOSITORY / target
    shown = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    lines = ["---", "search: {exclude: true}", "---", f"# `{target}`", ""]
    for file in shown:
        if path.is_dir():
            lines += [f"## `{file.name}`", ""]
        lines += [_FENCE + _LANGUAGES.get(file.suffix, "text"), file.read_text().rstrip("\n"), _FENCE, ""]
    return "\n".join(lines)
