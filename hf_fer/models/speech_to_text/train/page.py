"""speech_to_text's tab: a recording's transcript with the times of its words."""

from typing import Any

import gradio

from hf_fer.task.page import choose_model, told
from hf_fer.task.service import Host


def add_tab(host: Host, limit: Any) -> None:
    """Add the components of the tab, and their actions."""
    gradio.Markdown("Transcribes a recording, with the times of its words.")
    model = choose_model(host)
    sound = gradio.Audio(label="Recording", sources=["upload", "microphone"], type="filepath", buttons=[])
    button = gradio.Button("Transcribe", variant="primary")
    text = gradio.Textbox(label="Transcript", lines=3, interactive=False, buttons=["copy"])
    words = gradio.Dataframe(
        headers=["word", "start, s", "end, s", "confidence"], label="Words", interactive=False, wrap=True
    )

    @told
    async def transcribe(name: str, path: str | None) -> tuple[str, list[list[Any]]]:
        if path is None:
            raise gradio.Error("Give a recording first.", print_exception=False)
        hosted = host.model(name)
        found = await hosted.ask(await hosted.read(path))
        rows = [
            [one["word"], round(one["start"], 2), round(one["end"], 2), round(one["confidence"], 3)]
            for one in found["words"]
        ]
        return found["text"], rows

    button.click(transcribe, [model, sound], [text, words], concurrency_limit=limit, api_visibility="private")
