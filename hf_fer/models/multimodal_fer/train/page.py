"""multimodal_fer's tab: a clip's emotion, also by its sound and its pictures alone, and the emotion over time."""

import asyncio
from typing import Any

import gradio
import numpy as np
from PIL import Image

from hf_fer.task.page import as_shares, choose_model, figures, strip, told
from hf_fer.task.service import Host

from ..patches_multimodal_fer import fade
from .service import judge

SHOWN = 6
"""Frames that are shown with their kept patches."""


def add_tab(host: Host, limit: Any) -> None:
    """Add the components of the tab, and their actions."""
    gradio.Markdown("Recognises the emotion of a clip from its sound, its pictures or both.")
    model = choose_model(host)
    with gradio.Row():
        camera = gradio.WebcamOptions(mirror=False)  # mirroring would decode the clip here
        video = gradio.Video(label="Video", sources=["upload", "webcam"], webcam_options=camera)
        sound = gradio.Audio(label="or sound alone", sources=["upload", "microphone"], type="filepath", buttons=[])
    button = gradio.Button("Judge", variant="primary")
    with gradio.Row():
        labels = gradio.Label(label="Emotion")
        alone = {name: gradio.Label(label=said) for name, said in (("audio", "Sound"), ("video", "Pictures"))}
    line = gradio.HTML()
    patches = gradio.HTML()
    note = gradio.Markdown()

    @told
    async def judge_clip(name: str, film: str | None, recording: str | None) -> tuple:
        path = film or recording
        if path is None:
            raise gradio.Error("Give a video or a sound first.", print_exception=False)
        hosted = host.model(name)
        clip = await hosted.read(path)
        options = {"kept_patches": True, **hosted.service.options(None)}
        found, whole = await judge(hosted, clip, by_modality=True, sound_timeline=True, **options)
        parts = [as_shares((found.modalities or {}).get(part, [])) or None for part in alone]
        segments = [one.model_dump() for one in found.sound_timeline or ()]
        said = "The model is not sure: no label reaches its threshold." if found.abstained else ""
        over_time = strip("Over time, by the sound", segments)
        pictures = await asyncio.to_thread(drawn, whole["frames"], whole["kept_patches"])
        return as_shares(found.labels), *parts, over_time, pictures, said

    shown = [labels, *alone.values(), line, patches, note]
    button.click(judge_clip, [model, video, sound], shown, concurrency_limit=limit, api_visibility="private")


def drawn(frames: np.ndarray | None, kept: np.ndarray | None) -> str:
    """Some frames `(F, height, width, 3)` with all but their kept patches `(F, rows, columns)` covered, as HTML."""
    if frames is None:
        return ""
    count = len(frames)
    chosen = np.unique(np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)).tolist()
    pictures = [(Image.fromarray(fade(frames[i], kept[i])), f"frame {i + 1} of {count}") for i in chosen]
    if kept.all():
        return figures("The frames as the model sees them; it keeps all of their patches", pictures)
    share = f"{kept[0].sum()} of {kept[0].size}"
    return figures(f"Where the model looks: of each frame it keeps the clear patches, {share}", pictures)
