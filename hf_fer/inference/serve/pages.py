"""The page for browsers, mounted at `/`, with one tab for each served system."""

import os
from collections.abc import Sequence

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # Gradio reads this when it is imported

import gradio
from fastapi import FastAPI

from hf_fer.inference.serve.hosting import SystemHost
from hf_fer.task.service import Limits

KEPT_SECONDS = 3600
"""How long Gradio keeps uploads, so that the page can show them."""
FONTS = ("system-ui", "sans-serif")
"""Fonts of the browser; Gradio's own fonts are loaded from a server of Google."""


def mount_page(app: FastAPI, hosts: Sequence[SystemHost], limits: Limits) -> FastAPI:
    """Mount the page at `/`; the application's routes take precedence."""
    with gradio.Blocks(title="hf_fer", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gradio.Markdown("# hf_fer")
        with gradio.Tabs():
            for host in hosts:
                with gradio.Tab(host.service.title):
                    host.service.add_tab(host, limits.queue)
    page.queue(max_size=limits.queue, api_open=False)
    mono = ("ui-monospace", "monospace")
    return gradio.mount_gradio_app(
        app,
        page,
        path="/",
        theme=gradio.themes.Default(font=FONTS, font_mono=mono),
        footer_links=[],
        max_file_size=limits.max_bytes,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
    )
