"""
The page in a real browser without a window: clips, messages, keyboard, a phone's width, and that nothing leaves.

Set `TIMESFORMER_HF_SCREENSHOTS` to a folder to keep pictures of it.
"""

import ipaddress
import os
import re
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from clips import moving_pattern, write_video
from repository import SAMPLE
from tiny_models import save_classifier


pytest.importorskip("gradio", reason="the page needs gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser")
pytest.importorskip("matplotlib", reason="draws the film")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (Debian: apt-get install chromium)"),
]

HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{7*7}}"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 60_000  # milliseconds, for a slow machine


@pytest.fixture(scope="module")
def asked() -> set:
    """The hosts to which this process connects, or whose names it looks up, while the page is served."""
    return set()


@pytest.fixture(scope="module")
def address(asked, tmp_path_factory):
    """The page, with a model whose label is markup. Anything but the loopback is out of reach."""
    from timesformer_hf.demo.server import serving

    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def watched_connect(self, to):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            asked.add(to[0])
        return connect(self, to)

    def watched_look_up(host, *args, **settings):
        asked.add(host)
        return look_up(host, *args, **settings)

    names = {0: HOSTILE, 1: "b", 2: "c", 3: "d", 4: "e"}
    hostile = save_classifier(
        tmp_path_factory.mktemp("hostile"), id2label=names, label2id={name: i for i, name in names.items()}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched_connect)
        patch.setattr(socket, "getaddrinfo", watched_look_up)
        from timesformer_hf import CAMERA_MOTION

        with serving([CAMERA_MOTION, hostile], max_megabytes=1) as address:
            yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """A function that opens the page in a window of a size. What the page requests is in `page.requested`."""
    pages = []

    def open_it(size: dict = DESKTOP):
        page = browser.new_page(viewport=size)
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        page.requested = []
        page.on("filechooser", lambda chooser: None)  # the driver watches for them from here on, not some time later
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(address)
        page.get_by_role("button", name="Look at the clip").wait_for()
        return page

    yield open_it
    for page in pages:
        page.close()


def upload(page, file: str | os.PathLike) -> None:
    page.locator("#clip input[type=file]").set_input_files(str(file))


def wait_for_results(page) -> None:
    page.locator("#timeline .timeline").wait_for()
    page.wait_for_function("document.querySelector('#film video')?.readyState >= 2")


def moment(page) -> float:
    """Where the player of the clip is, in seconds, once it has moved."""
    page.wait_for_function("document.querySelector('#clip video').currentTime > 0")
    return page.evaluate("document.querySelector('#clip video').currentTime")


def keep_picture(page, name: str) -> None:
    if folder := os.environ.get("TIMESFORMER_HF_SCREENSHOTS"):
        page.screenshot(path=Path(folder, name), full_page=True)


def is_here(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def test_a_clip_gets_its_label_film_and_timeline_and_nothing_leaves(open_page, address, asked):
    page = open_page()
    upload(page, SAMPLE)
    wait_for_results(page)
    assert page.locator("#labels").get_by_role("heading").inner_text() == "pan_right"
    assert page.locator("#labels").get_by_role("meter").count() == 5
    assert page.evaluate("document.querySelector('#film video').duration") == pytest.approx(4, abs=0.3)
    assert page.get_by_role("button", name="pan_right from 0:00.0 to 0:05.3").is_visible()
    assert page.evaluate("document.fonts.size") == 0
    hosts = {urlsplit(url).netloc for url in page.requested if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(address).netloc}
    assert len(page.requested) > 20
    assert all(is_here(host) for host in asked)
    assert asked
    keep_picture(page, "desktop.png")


def test_a_browser_would_refuse_to_load_from_elsewhere(open_page):
    page = open_page()
    refused = "fetch('https://example.org/').then(() => 'loaded', (error) => String(error))"
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        assert "Failed to fetch" in page.evaluate(refused)


def test_a_click_makes_the_player_jump(open_page):
    page = open_page()
    upload(page, SAMPLE)
    wait_for_results(page)
    track = page.locator(".timeline-track").first
    box = track.bounding_box()
    track.click(position={"x": box["width"] / 2, "y": 10})
    assert moment(page) == pytest.approx(5.28 / 2, abs=0.05)
    assert page.locator(".timeline-said").inner_text() == "The player is at 0:02."
    left = page.evaluate("parseFloat(document.querySelector('.timeline-now').style.left)")
    assert left == pytest.approx(50, abs=1)


def test_the_keyboard_is_enough(open_page):
    page = open_page()

    def focus(name: str) -> None:
        """Press Tab until the element of that name has the focus."""
        for _ in range(60):
            page.keyboard.press("Tab")
            label = "document.activeElement.ariaLabel || document.activeElement.innerText"
            if name in (page.evaluate(label) or ""):
                return
        raise AssertionError(f"no Tab leads to {name}")

    focus("Drop a video file here to upload")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(SAMPLE)
    wait_for_results(page)
    focus("pan_right from 0:00.0")  # on the way, a Tab on the player's own button makes it play
    page.evaluate(
        "const player = document.querySelector('#clip video'); player.currentTime = 4;"
        "player.onseeking = () => { window.sought = player.currentTime }"
    )
    page.keyboard.press("Enter")
    page.wait_for_function("window.sought < 0.5")


def nameless(page) -> list[str]:
    """What can be used on the page but has no name, in the browser's tree for screen readers."""
    roles = "button|link|combobox|textbox|slider|checkbox"
    return re.findall(rf'^\s*- (?:{roles})\b(?! ").*$', page.locator("body").aria_snapshot(), re.MULTILINE)


def test_a_screen_reader_finds_names(open_page):
    page = open_page()
    assert nameless(page) == []
    upload(page, SAMPLE)
    wait_for_results(page)
    assert nameless(page) == []
    tree = page.locator("body").aria_snapshot()
    for heading in ("TimeSformer", "Labels", "What the model looks at", "What happens when"):
        assert f'- heading "{heading}"' in tree
    assert '- combobox "Model"' in tree
    assert '- group "Timeline, 0:05.3 long"' in tree
    assert page.evaluate("document.documentElement.lang") == "en"


def test_a_phone(open_page):
    page = open_page(PHONE)
    page.get_by_role("button", name="Camera pan").click()  # the example
    wait_for_results(page)
    assert page.locator("#labels").get_by_role("heading").inner_text() == "pan_right"
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for element in ("#clip", "#labels", "#film", ".timeline-track"):
        box = page.locator(element).first.bounding_box()
        assert box["x"] >= 0
        assert box["width"] > 0.6 * PHONE["width"]
        assert box["x"] + box["width"] <= PHONE["width"]
    keep_picture(page, "phone.png")


def test_clips_that_can_not_be_used(open_page, corrupt, tmp_path):
    page = open_page()
    page.get_by_role("button", name="Look at the clip").click()
    alert = page.locator("#message").get_by_role("alert")
    assert alert.inner_text() == "Drop a clip on the page or choose one first."
    upload(page, corrupt)
    page.get_by_text("it is truncated, damaged or not a video").wait_for()
    assert alert.inner_text().startswith("corrupt.mp4: can't be decoded")
    assert page.locator("#labels").get_by_role("meter").count() == 0
    keep_picture(page, "corrupt.png")


def test_a_clip_that_is_too_large(open_page, tmp_path):
    large = tmp_path / "large.mp4"
    large.write_bytes(Path(SAMPLE).read_bytes() + bytes(2**20))
    page = open_page()
    upload(page, large)
    page.get_by_text('File(s) exceed the maximum allowed size of 1.0 Mb: "large.mp4"').wait_for()
    assert page.locator("#labels").get_by_role("meter").count() == 0
    upload(page, SAMPLE)  # and the page goes on
    wait_for_results(page)


def test_a_label_is_no_markup(open_page, tmp_path):
    page, dialogs = open_page(), []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option").nth(1).click()
    upload(page, write_video(tmp_path / "clip<b>.mp4", moving_pattern(50)))
    wait_for_results(page)
    page.wait_for_timeout(500)
    assert dialogs == []
    assert page.get_by_text(HOSTILE, exact=True).count() >= 1
