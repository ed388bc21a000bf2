"""csr's tab: an image's classes, the concepts behind them as maps, and a person's corrections."""

import asyncio
from typing import Any

import gradio
import numpy as np

from hf_fer.task.page import as_shares, choose_model, figures, told
from hf_fer.task.service import Host

from ..overlay_csr import overlay
from .service import read_box

SHOWN = 6
"""Concepts whose maps are shown."""


def add_tab(host: Host, limit: Any) -> None:
    """Add the tab's components and what they do."""
    gradio.Markdown(
        "Classifies an image and explains the class by concepts. Reject a concept to see how the class changes."
    )
    model = choose_model(host)
    with gradio.Row():
        with gradio.Column():
            image = gradio.File(label="Image, DICOM too")
            box = gradio.Textbox(label="Where to look: x0,y0,x1,y1 in pixels", placeholder="the whole image")
            button = gradio.Button("Diagnose", variant="primary")
        with gradio.Column():
            labels = gradio.Label(label="Diagnosis", num_top_classes=5)
            rejected = gradio.CheckboxGroup([], label="Concepts that are not there")
    maps = gradio.HTML()

    @told
    async def diagnose(name: str, path: str | None, reject: list[str], look: str) -> tuple:
        if path is None:
            raise gradio.Error("Give an image first.", print_exception=False)
        hosted = host.model(name)
        boxes = [read_box(look)] if look.strip() else []
        pixels = await hosted.read(path)
        found = await hosted.ask(pixels, reject=reject, positive_boxes=boxes)
        names = sorted(one["concept"] for one in found["concepts"])
        pictures = await asyncio.to_thread(drawn, pixels, found["concepts"][:SHOWN])
        return as_shares(found["labels"]), gradio.CheckboxGroup(names, value=reject), pictures

    given, shown = [model, image, rejected, box], [labels, rejected, maps]
    settings = {"concurrency_limit": limit, "api_visibility": "private"}
    button.click(diagnose, given, shown, **settings)
    rejected.input(diagnose, given, shown, **settings)
    image.clear(lambda: ({}, gradio.CheckboxGroup([], value=[]), ""), None, shown, api_visibility="private")


def drawn(pixels: np.ndarray, concepts: list[dict[str, Any]]) -> str:
    """Concept maps over their image `(height, width, 3)` as HTML."""
    pictures = [(overlay(pixels, one["map"]), f"{one['concept']}: {one['share']:+.2f}") for one in concepts]
    return figures("Where the concepts are, and what they add to the logit", pictures)
