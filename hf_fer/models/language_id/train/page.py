"""language_id's tab: a text with its spans in the colours of their languages."""

from typing import Any

import gradio

from hf_fer.task.page import as_shares, choose_model, told
from hf_fer.task.service import Host

TOP = 5


def add_tab(host: Host, limit: Any) -> None:
    """Add the tab's components and the function behind its button."""
    gradio.Markdown("Identifies the language of a text, and the language of each span in a mixed text.")
    model = choose_model(host)
    text = gradio.Textbox(label="Text", lines=5, max_length=host.limits.max_characters)
    button = gradio.Button("Identify", variant="primary")
    languages = gradio.Label(label="Languages", num_top_classes=TOP)
    spans = gradio.HighlightedText(label="Spans", combine_adjacent=False, show_legend=True)

    @told
    async def identify(name: str, given: str) -> tuple[dict[str, float], list]:
        found = (await host.model(name).ask([given], spans=True, top_k=TOP))[0]
        return as_shares(found["languages"]), coloured(given, found["spans"])

    button.click(identify, [model, text], [languages, spans], concurrency_limit=limit, api_visibility="private")


def coloured(text: str, spans: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    """A text in pieces, each with its language, or `None` between spans."""
    pieces, end = [], 0
    for span in spans:
        if span["start"] > end:
            pieces.append((text[end : span["start"]], None))
        pieces.append((text[span["start"] : span["end"]], span["label"]))
        end = span["end"]
    return [*pieces, (text[end:], None)] if end < len(text) else pieces
