"""Shared building blocks of the systems' tabs on the served page: error messages, labels, segments, pictures."""

import base64
import functools
import html
import io
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import gradio
from fastapi import HTTPException
from matplotlib import colormaps, colors
from PIL import Image

from hf_fer.task.service import Host

THUMBNAIL = (240, 240)
"""Largest width and height of a picture on the page, in pixels."""

Handler = Callable[..., Awaitable[Any]]


def told(handler: Handler) -> Handler:
    """Wrap a handler so that the page shows its `HTTPException` as a message."""

    @functools.wraps(handler)
    async def wrapped(*args: Any) -> Any:
        try:
            return await handler(*args)
        except HTTPException as error:
            raise gradio.Error(str(error.detail), print_exception=False) from error

    return wrapped


def choose_model(host: Host) -> gradio.Dropdown:
    """A dropdown to choose the model; hidden where there is only one."""
    names = host.names()
    return gradio.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1)


def as_shares(scores: Sequence[Any]) -> dict[str, float]:
    """Scores, as dictionaries or `Score` objects, in the form that `gradio.Label` takes: label -> score."""
    pairs = (one if isinstance(one, dict) else one.model_dump() for one in scores)
    return {one["label"]: one["score"] for one in pairs}


def strip(title: str, segments: Sequence[dict[str, Any]]) -> str:
    """HTML of a strip that colours segments (in seconds) by label, with title and legend; empty without segments."""
    if not segments:
        return ""
    labels = list(dict.fromkeys(one["label"] for one in segments))
    shades = {label: colors.to_hex(colormaps["tab10"](number % 10)) for number, label in enumerate(labels)}
    parts, end = [], segments[0]["start"]
    for one in segments:
        if one["start"] > end:
            parts.append(f'<div style="flex:{one["start"] - end:.3f}"></div>')
        end = one["end"]
        said = html.escape(f"{one['label']}, {one['start']:.1f} to {end:.1f} s, {one['score']:.0%}", quote=True)
        width = max(end - one["start"], 0.001)
        parts.append(f'<div title="{said}" style="flex:{width:.3f};background:{shades[one["label"]]}"></div>')
    legend = "".join(
        f'<span style="margin-right:1em"><span style="color:{shade}">&#9632;</span> {html.escape(label)}</span>'
        for label, shade in shades.items()
    )
    first, last = f"{segments[0]['start']:.1f} s", f"{end:.1f} s"
    return (
        f"<div>{html.escape(title)}</div>"
        f'<div style="display:flex;height:2em;overflow:hidden;border-radius:4px">{"".join(parts)}</div>'
        f'<div style="display:flex;justify-content:space-between"><span>{first}</span><span>{last}</span></div>'
        f"<div>{legend}</div>"
    )


def embedded(picture: Image.Image, size: tuple[int, int] = THUMBNAIL, form: str = "PNG") -> str:
    """A picture as `data:` address, reduced to at most this width and height; `form` is a format of Pillow's."""
    picture = picture.copy()
    picture.thumbnail(size)
    target = io.BytesIO()
    picture.save(target, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(target.getvalue()).decode()}"


def figures(title: str, pictures: Sequence[tuple[Image.Image, str]]) -> str:
    """HTML of captioned pictures side by side, wrapped to the width of the page."""
    parts = []
    for picture, said in pictures:
        text = html.escape(said, quote=True)
        parts.append(
            f'<figure style="width:140px;margin:0"><img src="{embedded(picture)}" alt="{text}" style="width:100%">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    return f'<div>{html.escape(title)}</div><div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(parts)}</div>'
