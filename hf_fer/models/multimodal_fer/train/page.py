"""multimodal_fer's tab: a clip's emotion, also by its sound and its pictures alone, and the emotion over time."""

from typing import Any

import gradio

from hf_fer.task.page import as_shares, choose_model, strip, told
from hf_fer.task.service import Host

from .service import judge


def add_tab(host: Host, limit: Any) -> None:
    """Add the tab's components and what they do."""
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
    note = gradio.Markdown()

    @told
    async def judge_clip(name: str, film: str | None, recording: str | None) -> tuple:
        path = film or recording
        if path is None:
            raise gradio.Error("Give a video or a sound first.", print_exception=False)
        hosted = host.model(name)
        clip = await hosted.read(path)
        found = await judge(hosted, clip, by_modality=True, sound_timeline=True, **hosted.service.options(None))
        parts = [as_shares((found.modalities or {}).get(part, [])) or None for part in alone]
        segments = [one.model_dump() for one in found.sound_timeline or ()]
        said = "The model is not sure: no label reaches its threshold." if found.abstained else ""
        return as_shares(found.labels), *parts, strip("Over time, by the sound", segments), said

    shown = [labels, *alone.values(), line, note]
    button.click(judge_clip, [model, video, sound], shown, concurrency_limit=limit, api_visibility="private")
