"""The site that mkdocs makes of docs/: its pages, and what .ci/run checks after it was built."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repository import REPOSITORY, load_file

import timesformer_hf


DOCS = REPOSITORY / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
NAVIGATION = (REPOSITORY / "mkdocs.yml").read_text().partition("\nnav:\n")[2]


def test_the_navigation_has_every_page_once():
    found = re.findall(r": ([\w/]+\.md)$", NAVIGATION, re.MULTILINE)
    assert sorted(found) == PAGES


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"index.md"}))
def test_the_first_page_leads_to_every_page(page):
    assert f"({page})" in (DOCS / "index.md").read_text()


def test_the_first_page_shows_what_the_first_command_prints():
    """As the README does, whose text is compared with what is printed (tests/test_readme.py)."""
    (shown,) = re.findall(r"```text\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    assert shown in (REPOSITORY / "README.md").read_text()


def test_code_in_lists_is_indented_as_both_github_and_the_site_need_it():
    """With four spaces. With fewer, the site ends the list there, and the next number is 1 again."""
    pages = [*DOCS.glob("*.md"), *(REPOSITORY / ".github").glob("*.md")]
    assert [page.name for page in pages if re.search(r"^ {1,3}```", page.read_text(), re.MULTILINE)] == []


@pytest.fixture(scope="module")
def pictures():
    return load_file(DOCS / "tools" / "make_pictures.py")


@pytest.mark.parametrize("name", ["checkpoint.svg", "clip.svg"])
def test_the_pictures_are_those_of_the_imports(pictures, name):
    """As `python docs/tools/make_pictures.py` draws them."""
    assert (DOCS / name).read_text() == pictures.picture(pictures.PICTURES[name])


def make_package(folder: Path, imports: dict[str, str]) -> Path:
    for file, line in imports.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(line)
    return folder


def test_arrows_are_imports_through_files_that_are_left_out(pictures, monkeypatch, tmp_path):
    imports = {
        "video/a.py": "",
        "video/hidden.py": "from .a import x",
        "model/b.py": "def f():\n    from ..video.hidden import x",
        "model/c.py": "from . import b\nfrom ..video.a import x",
    }
    monkeypatch.setattr(pictures, "_PACKAGE", make_package(tmp_path, imports))
    shown = dict.fromkeys(["video/a.py", "model/b.py", "model/c.py"], "data")
    assert pictures.arrows(shown) == [("video/a.py", "model/b.py"), ("model/b.py", "model/c.py")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["model/b.py", "video/a.py"], "model/b.py imports video/a.py, which must stand above it"),
        (["video/a.py", "model/b.py", "model/alone.py"], "no arrow leads to or from model/alone.py"),
        (["video/a.py", "model/gone.py"], "model/gone.py doesn't exist"),
    ],
)
def test_a_picture_that_contradicts_the_code_is_an_error(pictures, monkeypatch, tmp_path, files, message):
    imports = {"video/a.py": "", "model/b.py": "from ..video.a import x", "model/alone.py": ""}
    monkeypatch.setattr(pictures, "_PACKAGE", make_package(tmp_path, imports))
    with pytest.raises(ValueError, match=re.escape(message)):
        pictures.arrows(dict.fromkeys(files, "data"))


def test_arrows_in_one_lane_do_not_meet(pictures):
    lanes = pictures._lanes([(0, 5), (1, 4), (2, 3), (4, 8), (0, 9), (5, 6)])
    assert lanes[2, 3] == lanes[5, 6] == 0
    assert len({lanes[0, 5], lanes[1, 4], lanes[0, 9]}) == 3
    assert lanes[1, 4] == lanes[4, 8]


@pytest.fixture(scope="module")
def messages():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / "tools")
        return load_file(DOCS / "tools" / "messages.py")


def test_the_page_of_messages_has_every_error(messages):
    """An error that passes on a text of elsewhere must be in `PASSED_ON`, with the place of its text."""
    assert messages.without_text() == []
    assert len(messages.messages()) > 350


def test_the_page_of_messages_has_what_troubleshooting_explains(messages):
    """All of these are errors or warnings, but for one line that a training prints."""
    page = (DOCS / "troubleshooting.md").read_text()
    explained = {messages.join_gaps(text) for _, text in re.findall(r"^### (`+) ?(.*?) ?\1$", page, re.MULTILINE)}
    listed = {messages.first_line(message.text) for message in messages.messages()}
    assert len(explained & listed) > len(explained) * 0.8, explained - listed
    overview = messages.overview(dict.fromkeys(explained, "anchor"))
    assert overview.count("[What to do](troubleshooting.md#anchor)") >= len(explained & listed)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            'raise ValueError(f"{name} has {count} frames; " "give more")',
            [("ValueError", "... has ... frames; give more")],
        ),
        ("warnings.warn(TEXT, stacklevel=2)", [("warning", "The clip is short")]),
        ('error = VideoReadError("can\'t be read: " + reason)', [("VideoReadError", "can't be read: ...")]),
        ("raise OSError(other)", [("OSError", "")]),
        ("raise OSError(str(outcome.exception()))", []),
        ("raise StopIteration", []),
        ("try:\n    pass\nexcept OSError as error:\n    raise ValueError(str(error))", []),
        (
            'def reason(x):\n    "Say why."\n    return f"{x} is too short"\nraise OSError(reason(1))',
            [("error", "... is too short")],
        ),
        (
            'def make():\n    "Make it."\n    return X(f"It is {1} too old")\nraise make()',
            [("error", "It is ... too old")],
        ),
        (
            'def gone(x):\n    "Say which."\n    return {x: f"{x} is not there"}\ng = gone(1)\nraise OSError(g[1])',
            [("error", "... is not there")],
        ),
    ],
)
def test_how_messages_are_found(messages, monkeypatch, tmp_path, code, expected):
    make_package(tmp_path, {"video/a.py": f'TEXT = "The clip is short"\n{code}\n'})
    monkeypatch.setattr(messages, "_PACKAGE", tmp_path)
    found = [message for message, _ in messages._all()]
    assert [(message.kind, message.text) for message in found] == expected
    assert messages.without_text() == ["video/a.py:2 OSError"] * (expected == [("OSError", "")])


@pytest.fixture(scope="module")
def check():
    return load_file(DOCS / "tools" / "check_site.py")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('<a href="https://arxiv.org">the paper</a>', None),
        ('<link rel="next" href="https://example.org">', None),
        ('<img src="picture.svg" srcset="picture.svg 1x, picture.svg 2x"><img src="data:image/png;base64,xyz">', None),
        ('<script src="/site.js"></script>', None),
        ('<img src="missing.svg">', "page.html: missing.svg is not in the site"),
        ('<script src="https://unpkg.com/x"></script>', "page.html: https://unpkg.com/x is loaded from elsewhere"),
        ('<link rel="stylesheet" href="//fonts.net/a.css">', "page.html: //fonts.net/a.css is loaded from elsewhere"),
        (
            "<style>@import url(http://fonts.net/b.css);</style>",
            "page.html: http://fonts.net/b.css is loaded from elsewhere",
        ),
    ],
)
def test_what_a_page_loads_is_checked(check, tmp_path, line, fault):
    (tmp_path / "page.html").write_text(line)
    (tmp_path / "picture.svg").write_text("<svg/>")
    (tmp_path / "site.js").write_text("")
    assert check.faults(tmp_path) == ([fault] if fault else [])


def test_style_sheets_are_checked_too(check, tmp_path):
    (tmp_path / "page.html").write_text("<p>")
    (tmp_path / "site.css").write_text('a { background: url("https://cdn.net/a.png") url(data:image/png;base64,x) }')
    assert check.faults(tmp_path) == ["site.css: https://cdn.net/a.png is loaded from elsewhere"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason='the site needs `pip install ".[docs]"`')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(site, check):
    assert check.faults(site) == []
    assert {path.name.removesuffix(".html") + ".md" for path in site.glob("*.html")} - {"404.md"} == set(PAGES)


@pytest.mark.slow
def test_lists_and_tables_are_read_as_on_github(site):
    """Where the site reads Markdown otherwise, its marks are left in a paragraph."""
    found = []
    for path in [*site.glob("*.html"), *(site / "files").rglob("index.html")]:
        article = re.search(r"<article.*?</article>", path.read_text(), re.DOTALL)[0]
        text = re.sub(r"<pre.*?</pre>|<code>.*?</code>", "", article, flags=re.DOTALL)
        marks = re.compile(r"(^|\n)\s*([-*] |\d+\. |\|)|```|\]\(|\*\*")
        found += [f"{path.name}: {part}" for part in re.findall(r"<p>(.*?)</p>", text, re.DOTALL) if marks.search(part)]
    assert found == []


@pytest.mark.slow
def test_the_reference_has_every_public_name(site):
    text = "".join(path.read_text() for path in (site / "api").glob("*.html"))
    names = set(timesformer_hf.__all__) - {"__version__"}
    assert {name for name in names if not re.search(rf'id="timesformer_hf\.[\w.]+\.{name}"', text)} == set()
    assert {name for name in names if f"<code>{name}</code>" not in (site / "api.html").read_text()} == set()


@pytest.mark.slow
def test_names_lead_to_the_reference_once_on_a_page(site):
    text = (site / "speed.html").read_text()
    assert text.count('href="api/inference.html#timesformer_hf.inference.folding.optimize_for_inference"') == 1


@pytest.mark.slow
def test_files_outside_the_documentation_are_pages_too(site):
    shown = (site / "files" / "examples" / "evaluate.py.html").read_text()
    assert "argparse" in shown
    assert 'href="files/examples/evaluate.py.html"' in (site / "evaluation.html").read_text()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="opens the pages: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("opens the pages: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
def test_every_page_fits_a_phone_and_a_desk(site, browser):
    """Opened from the folder, without a server: nothing is fetched, no script fails, nothing is too wide."""
    page = browser.new_page()
    found = []
    page.on("request", lambda request: request.url.startswith(("http:", "https:")) and found.append(request.url))
    page.on("console", lambda message: message.type == "error" and found.append(message.text))
    for path in sorted({*site.glob("*.html"), *site.glob("api/*.html")} - {site / "404.html"}):
        page.goto(path.as_uri())
        for width in (390, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            if page.evaluate("document.documentElement.scrollWidth") > width:
                found.append(f"{path.name} is wider than {width} pixels")
    page.close()
    assert found == []


@pytest.mark.slow
def test_the_search_works_without_a_server(site, browser):
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.click("input.md-search__input")
    page.keyboard.type("frame_sampling_rate")
    page.wait_for_selector(".md-search-result__item")
    assert "8x32" in page.inner_text(".md-search-result__list")
    page.close()
