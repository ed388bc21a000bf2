"""Progress bars of long preparations: on a terminal only, and not where a recipe says `disable_tqdm`."""

from collections.abc import Iterable

from huggingface_hub.utils import disable_progress_bars, tqdm

GROUP = "hf_fer"
SHOWN_FROM = 50
"""Fewer items are done before anybody reads the bar."""


def progress(items: Iterable, title: str, total: int, shown_from: int = SHOWN_FROM) -> tqdm:
    """The items, with a bar of that title; no bar where `total` is less than `shown_from`."""
    return tqdm(items, title, total, name=GROUP, disable=total < shown_from or None)


def without_bars() -> disable_progress_bars:
    """Context in which `progress` shows no bar."""
    return disable_progress_bars(GROUP)
