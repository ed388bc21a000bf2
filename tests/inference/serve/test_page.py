"""The page in a real browser: every tab, with a real upload and a real answer, wide and narrow, and a bad file."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from fastapi import HTTPException
from inference.serve.conftest import LIMITS, running
from media import talking_clip
from models.csr.test_csr_pipeline import CONCEPTS
from transformers import pipeline

from hf_fer.models.csr.train.box_canvas import drawn_boxes
from hf_fer.models.multimodal_fer.train.page import drawn

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
    page.get_by_text("frame 6 of 6", exact=True).wait_for()
    assert page.locator("[role=tabpanel]:visible figure img").count() == 6
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


def shares(page) -> list[str]:
    """The diagnosis that the page shows: percentages, largest first."""
    return [text for text in page.locator("[role=tabpanel]:visible dd").all_inner_texts() if "%" in text]


def wait_for_shares(page, expected: dict) -> None:
    """Wait until the page shows the scores of the pipeline's answer."""
    wait(page, lambda: shares(page) == [f"{100 * one['score']:.0f}%" for one in expected["labels"]])


def corner_on_screen(page, x: float, y: float) -> tuple[float, float]:
    """Where a place of the image, in pixels of the image, is on the screen."""
    image = page.get_by_role("img", name="The image").locator("image")
    area = image.bounding_box()
    width, height = (float(image.get_attribute(name)) for name in ("width", "height"))
    return area["x"] + x / width * area["width"], area["y"] + y / height * area["height"]


def drag(page, x0: float, y0: float, x1: float, y1: float) -> None:
    """Draw a box with the mouse, from one corner to the other."""
    page.get_by_role("img", name="The image").scroll_into_view_if_needed()
    start, end = corner_on_screen(page, x0, y0), corner_on_screen(page, x1, y1)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=5)
    page.mouse.up()


def swipe(page, x0: float, y0: float, x1: float, y1: float) -> None:
    """Draw a box with a finger."""
    page.get_by_role("img", name="The image").scroll_into_view_if_needed()
    start, end = corner_on_screen(page, x0, y0), corner_on_screen(page, x1, y1)
    session = page.context.new_cdp_session(page)
    for kind, at in (("touchStart", start), ("touchMove", end), ("touchEnd", None)):
        points = [{"x": at[0], "y": at[1]}] if at else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


FIRST, SECOND = (2.0, 3.0, 17.0, 22.0), (21.0, 8.0, 39.0, 39.0)
"""Boxes on the images of csr, which have 40 x 40 pixels."""


def test_boxes_drawn_with_the_mouse_change_the_diagnosis(browser, page_server, systems):
    pipe = pipeline("concept-image-classification", model=str(systems["csr"].model))
    image = systems["csr"].files[0]
    plain, steered = pipe(str(image)), pipe(str(image), positive_boxes=[FIRST])
    both = pipe(str(image), positive_boxes=[FIRST], negative_boxes=[SECOND])
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(30_000)
    page.goto(page_server.url)
    visit(page, "Concepts", image, "Diagnose")
    wait_for_shares(page, plain)
    drag(page, *FIRST)
    wait_for_shares(page, steered)
    page.get_by_role("button", name="Not here").click()
    drag(page, *SECOND[2:], *SECOND[:2])  # from the lower right corner to the upper left one
    wait_for_shares(page, both)
    take_picture(page, "boxes")
    assert page.locator("rect.positive").count() == page.locator("rect.negative").count() == 1
    drag(page, 5.0, 5.0, 5.0, 5.0)  # a click draws no box
    page.get_by_role("button", name="Remove boxes").click()
    wait_for_shares(page, plain)
    assert shares(page) != [f"{100 * one['score']:.0f}%" for one in both["labels"]]
    assert not page.locator("rect.positive, rect.negative").count()
    page.close()


def test_a_finger_draws_a_box_and_does_not_scroll_the_page(browser, page_server, systems):
    pipe = pipeline("concept-image-classification", model=str(systems["csr"].model))
    image = systems["csr"].files[1]
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.goto(page_server.url)
    visit(page, "Concepts", image, "Diagnose")
    wait_for_shares(page, pipe(str(image)))
    page.get_by_role("img", name="The image").scroll_into_view_if_needed()
    before = page.evaluate("window.scrollY")
    swipe(page, *SECOND)
    wait_for_shares(page, pipe(str(image), positive_boxes=[SECOND]))
    assert page.evaluate("window.scrollY") == before
    take_picture(page, "finger")
    context.close()


def test_a_model_that_keeps_all_patches_is_said_to():
    frames, kept = np.zeros((2, 16, 16, 3), np.uint8), np.ones((2, 2, 2), bool)
    assert "keeps all of their patches" in drawn(frames, kept)
    kept[0, 0, 0] = False
    assert "clear patches, 3 of 4" in drawn(frames, kept)
    assert drawn(None, None) == ""


@pytest.mark.parametrize(
    "value",
    [
        *("", None, {"sign": "positive"}, {"sign": "up", "boxes": []}),
        {"sign": "positive", "boxes": [{"sign": "positive", "box": [1, 2, 3]}]},
        {"sign": "positive", "boxes": [{"sign": "positive", "box": [0, 0, 1, 1]}] * 51},
    ],
)
def test_boxes_that_no_canvas_sends_are_refused(value):
    with pytest.raises(HTTPException, match="boxes"):
        drawn_boxes(value)


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
