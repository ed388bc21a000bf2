"""The page in a real browser: every tab, with a real upload and a real answer, wide and narrow, and a bad file."""

import os
import shutil
from pathlib import Path

import pytest
from inference.serve.conftest import LIMITS, running
from media import talking_clip
from models.csr.test_csr_pipeline import CONCEPTS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PICTURES = "HF_FER_PAGE_PICTURES"
"""Environment variable with a folder for screenshots, to be looked at."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_server(hosts, server):
    with running(hosts, LIMITS, with_page=True) as found:
        yield found


def take_picture(page, name: str) -> None:
    """A screenshot at both widths; nothing of the page may be wider than the window."""
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(1000 if os.environ.get(PICTURES) else 100)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if os.environ.get(PICTURES):
            page.screenshot(path=str(Path(os.environ[PICTURES]) / f"{name}_{width}.png"), full_page=True)
    page.set_viewport_size({"width": 1280, "height": 900})


def visit(page, tab: str, path: Path | None, button: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()
    if path is not None:
        upload(page, path)
    page.get_by_role("button", name=button, exact=True).click()


def upload(page, path: Path) -> None:
    with page.expect_response(lambda answer: "/upload" in answer.url and answer.ok):
        page.locator("input[type=file]:visible, [role=tabpanel]:visible input[type=file]").first.set_input_files(path)
    page.wait_for_timeout(300)


def wait(page, condition) -> None:
    for _ in range(100):
        if condition():
            return
        page.wait_for_timeout(100)
    assert condition()


def test_every_tab_answers_a_real_upload(browser, page_server, systems, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(30_000)
    outside = []
    page.on("request", lambda request: None if page_server.url in request.url else outside.append(request.url))
    page.goto(page_server.url)

    clip = talking_clip(tmp_path / "clip.mp4", seconds=3.0)
    visit(page, "Emotion", clip, "Judge")
    page.get_by_text("%").first.wait_for()
    page.get_by_text("Over time").first.wait_for()
    page.get_by_text("3.0 s").first.wait_for()
    take_picture(page, "emotion")

    page.get_by_role("tab", name="Language", exact=True).click()
    page.get_by_role("textbox", name="Text", exact=True).fill(
        "Guten Morgen, wie geht es dir? Good morning, my friend."
    )
    page.get_by_role("button", name="Identify", exact=True).click()
    page.locator("[role=tabpanel]:visible").get_by_text("%").first.wait_for()
    take_picture(page, "language")

    visit(page, "Concepts", systems["csr"].files[0], "Diagnose")
    panel = page.locator("[role=tabpanel]:visible")
    wait(page, lambda: "%" in (now := panel.inner_text()) and "processing" not in now)
    before = panel.inner_text()
    panel.get_by_role("checkbox", name=CONCEPTS[0]).check()
    wait(page, lambda: "%" in (now := panel.inner_text()) and "processing" not in now and now != before)
    take_picture(page, "concepts")

    visit(page, "Speech", systems["speech_to_text"].files[0], "Transcribe")
    panel = page.locator("[role=tabpanel]:visible")
    panel.get_by_text("confidence").first.wait_for()
    wait(page, lambda: panel.locator("textarea").first.input_value())
    take_picture(page, "speech")

    assert not outside
    page.close()


def test_a_bad_file_has_its_message(browser, page_server, systems):
    page = browser.new_page()
    page.set_default_timeout(30_000)
    page.goto(page_server.url)
    visit(page, "Concepts", systems["csr"].bad, "Diagnose")
    page.get_by_text("its format is not accepted").first.wait_for()
    take_picture(page, "bad_file")
    page.close()


def test_the_page_serves_no_file_of_the_machine(page_server):
    for path in ("/etc/passwd", "../../etc/passwd", str(Path(__file__).resolve())):
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"):
            assert page_server.client.get(f"{route}{path}").status_code in (403, 404), route + path
