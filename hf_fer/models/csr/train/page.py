"""csr's tab: an image's classes, the concepts behind them as maps, and a person's corrections."""

import asyncio
from typing import Any

import gradio
import numpy as np
from PIL import Image

from hf_fer.task.page import as_shares, choose_model, embedded, figures, told
from hf_fer.task.service import Host

from ..overlay_csr import overlay
from .box_canvas import box_canvas, drawn_boxes

SHOWN = 6
"""Concepts whose maps are shown."""
CANVAS = (1024, 1024)
"""Largest width and height of the image that boxes are drawn on, in pixels."""


def add_tab(host: Host, limit: Any) -> None:
    """Add the components of the tab, and their actions."""
    gradio.Markdown(
        "Classifies an image and explains the class by concepts. Correct the model and see how the class changes: "
        "drag over the image to draw a box where it should look, or should not, or reject a concept."
    )
    model = choose_model(host)
    with gradio.Row():
        with gradio.Column():
            image = gradio.File(label="Image, DICOM too")
            canvas = box_canvas()
            button = gradio.Button("Diagnose", variant="primary")
        with gradio.Column():
            labels = gradio.Label(label="Diagnosis", num_top_classes=5)
            rejected = gradio.CheckboxGroup([], label="Concepts that are not there")
    maps = gradio.HTML()

    @told
    async def show(name: str, path: str | None) -> gradio.HTML:
        pixels = await host.model(name).read(path) if path else None
        return await asyncio.to_thread(new_canvas, pixels)

    @told
    async def diagnose(name: str, path: str | None, reject: list[str], drawing: Any) -> tuple:
        if path is None:
            raise gradio.Error("Give an image first.", print_exception=False)
        hosted = host.model(name)
        boxes = drawn_boxes(drawing)
        pixels = await hosted.read(path)
        found = await hosted.ask(pixels, reject=reject, **boxes)
        names = sorted(one["concept"] for one in found["concepts"])
        pictures = await asyncio.to_thread(drawn, pixels, found["concepts"][:SHOWN])
        return as_shares(found["labels"]), gradio.CheckboxGroup(names, value=reject), pictures

    given, shown = [model, image, rejected, canvas], [labels, rejected, maps]
    settings = {"concurrency_limit": limit, "api_visibility": "private"}
    button.click(diagnose, given, shown, **settings)
    for correction in (rejected, canvas):  # the last correction counts, so the answer to it comes last
        correction.input(diagnose, given, shown, trigger_mode="always_last", **settings)
    image.change(
        lambda: ({}, gradio.CheckboxGroup([], value=[]), ""), None, shown, queue=False, api_visibility="private"
    )
    image.change(show, [model, image], canvas, **settings)


def new_canvas(pixels: np.ndarray | None) -> gradio.HTML:
    """A canvas with an image `(height, width, 3)` in [0, 1] and without boxes; hidden if there is no image."""
    if pixels is None:
        return box_canvas()
    height, width = pixels.shape[:2]
    picture = Image.fromarray((pixels * 255).round().astype(np.uint8))
    return box_canvas(embedded(picture, CANVAS, "JPEG"), width, height)


def drawn(pixels: np.ndarray, concepts: list[dict[str, Any]]) -> str:
    """Concept maps over their image `(height, width, 3)` as HTML."""
    pictures = [(overlay(pixels, one["map"]), f"{one['concept']}: {one['share']:+.2f}") for one in concepts]
    return figures("Where the concepts are, and what they add to the logit", pictures)
