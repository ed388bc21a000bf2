"""Plots of timelines: segments with their confidence, and curves of the class probabilities."""

from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from hf_fer.task.predictor import Predictor

PLOTS = (".png", ".svg", ".pdf")
CURVE = "p_"
"""Prefix of the class names in a curve."""


def plot_timeline(path: Path, row: dict[str, Any], predictor: type[Predictor]) -> None:
    """
    Draw the segments of a row as bars whose height is their confidence, below the curves of the classes if it has any.

    Args:
        path: Picture to write; its ending chooses the format.
        row: Row with `segments` and, optionally, `curve`.
        predictor: Predictor class of the system.
    """
    curve, segments = row.get("curve") or [], row["segments"] or []
    names = [name.removeprefix(CURVE) for name in curve[0] if name.startswith(CURVE)] if curve else []
    labels = list(dict.fromkeys([*names, *(() if predictor.joins_segments else (one["label"] for one in segments))]))
    colours = dict(zip(labels, (colormaps["tab20"](number % 20) for number in range(len(labels))), strict=True))
    figure = Figure(figsize=(11, 6 if curve else 3.2), layout="constrained")
    axes = figure.subplots(2 if curve else 1, 1, sharex=True, squeeze=False)[:, 0]
    for name in names:
        axes[0].stairs(
            [moment[CURVE + name] for moment in curve],
            [*(moment["start"] for moment in curve), curve[-1]["end"]],
            baseline=None,
            color=colours[name],
        )
    bars, widths = [one["start"] for one in segments], [one["end"] - one["start"] for one in segments]
    shades = [colours.get(one["label"], "tab:blue") for one in segments]
    axes[-1].bar(
        bars, [one["score"] for one in segments], widths, align="edge", color=shades, edgecolor="white", linewidth=0.5
    )
    for ax, what in zip(axes, ("probability", "confidence")[-len(axes) :], strict=True):
        ax.set(ylim=(0, 1), xmargin=0, ylabel=what)
        ax.grid(axis="y", alpha=0.3)
    axes[-1].set_xlabel("time, minutes:seconds" if predictor.in_seconds else "characters")
    if predictor.in_seconds:
        axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: minutes(seconds)))
    axes[0].set_title(Path(row["input"]).name, loc="left")
    if labels:
        patches = [Patch(color=colours[label], label=label) for label in labels]
        figure.legend(handles=patches, loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)


def minutes(seconds: float) -> str:
    """A time as minutes, seconds and tenths."""
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"
