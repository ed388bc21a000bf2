"""The report as one HTML file with embedded pictures, to open in a browser or to send to somebody."""

import base64
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hf_fer.reporting import report

TEMPLATES = Path(__file__).parent / "templates"
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}


def data_uri(path: Path) -> str:
    """A picture's bytes as a `data:` URI, which embeds it in the page."""
    encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{PICTURES[path.suffix]};base64,{encoded}"


def html_table(table: pd.DataFrame) -> str:
    """A data frame as an HTML table with escaped text; numbers are written by `report.cell`."""
    texts = table.map(report.cell).astype(object)
    return texts.to_html(index=False, border=0, escape=True)


def write_html(folder: Path, metrics: dict[str, Any], headline: str | None, captions: dict[str, str]) -> None:
    """
    Write `report.html`.

    Args:
        folder: The report's folder, with the files of `captions`.
        metrics: Content of `metrics.json`.
        headline: The main score with its interval, or `None` where nothing was evaluated.
        captions: File name -> caption; pictures are embedded in the page.
    """
    results = report.evaluated(metrics)
    breakdown = report.breakdown_table(results)
    counts = report.counts_table(metrics["data"]["counts"])
    # Subfolders hold pictures of single examples, which may show people and must not be sent along.
    pictures = [name for name in captions if Path(name).suffix in PICTURES and Path(name).name == name]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("report.html.jinja").render(
        title=f"{metrics['task']}, protocol {metrics['protocol']}",
        headline=headline,
        notes=[*metrics["data"]["notes"], *report.remarks(results, "warnings")],
        absent=metrics["data"]["absent"],
        results=html_table(report.results_table(results)) if results else None,
        remarks=report.remarks(results),
        breakdown=html_table(breakdown) if len(breakdown) else None,
        pictures=[(captions[name], data_uri(folder / name)) for name in pictures],
        counts=html_table(counts),
        skipped=metrics["data"]["skipped"],
        runtime=html_table(pd.DataFrame(metrics["runtime"].items(), columns=["measure", "value"])),
        files=captions,
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
