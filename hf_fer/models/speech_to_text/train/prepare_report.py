"""The report of prepared recordings: one HTML file with its plots."""

import base64
import io
from collections import Counter
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hf_fer.data.loading import SPLITS

from .prepare_checks import Findings
from .text import TextChanges

TEMPLATE = "prepare.html.jinja"
EXAMPLES = 5
RARE = 5
"""Characters in fewer training transcripts than this are listed as rare."""


def write_report(path: Path, rows: pd.DataFrame, findings: Findings, changes: TextChanges, source: str) -> None:
    """
    Write the report.

    Args:
        path: Path of the HTML file.
        rows: Remaining rows, with `split`, `duration`, `speaker_id` and `transcript`.
        findings: Findings of the checks.
        changes: Changes of the transcripts.
        source: Name of the data that was prepared.
    """
    characters = character_table(rows)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template(TEMPLATE).render(
        source=source,
        splits=split_table(rows),
        notes=findings.notes,
        durations=durations_plot(rows),
        characters=characters,
        rare=[name for name, in_training, _ in characters if in_training < RARE],
        rare_limit=RARE,
        speakers=speaker_table(rows),
        dropped=by_kind(findings.dropped),
        dropped_count=len(findings.dropped),
        warnings=by_kind(findings.warnings),
        changes=[(kind, count, changes.examples[kind]) for kind, count in changes.counts.most_common()],
    )
    path.write_text(page, encoding="utf-8")


def split_table(rows: pd.DataFrame) -> list[tuple[str, int, str, int, int, int, str]]:
    """For each split: recordings, hours, speakers, words, different transcripts, seconds (min, median, max)."""
    table = []
    for split in SPLITS:
        part = rows[rows["split"] == split]
        if part.empty:
            continue
        seconds = part["duration"].astype(float)
        table.append(
            (
                split,
                len(part),
                f"{seconds.sum() / 3600:.2f}",
                part["speaker_id"].nunique(),
                sum(len(text.split()) for text in part["transcript"]),
                part["transcript"].nunique(),
                f"{seconds.min():.2f} / {seconds.median():.2f} / {seconds.max():.2f}",
            )
        )
    return table


def character_table(rows: pd.DataFrame) -> list[tuple[str, int, int]]:
    """Each character with the number of training and of other transcripts that have it, most frequent first."""
    training, others = Counter(), Counter()
    for split, text in zip(rows["split"], rows["transcript"], strict=True):
        (training if split == "train" else others).update(set(text))
    names = sorted(training | others, key=lambda name: (-training[name], name))
    return [("space" if name == " " else name, training[name], others[name]) for name in names]


def speaker_table(rows: pd.DataFrame) -> list[tuple[str, str, int, str]]:
    """Speaker, split, recordings and minutes, longest first."""
    known = rows.dropna(subset=["speaker_id"])
    table = known.groupby(["speaker_id", "split"])["duration"].agg(["count", "sum"]).reset_index()
    table = table.sort_values("sum", ascending=False)
    return [
        (row["speaker_id"], row["split"], int(row["count"]), f"{row['sum'] / 60:.1f}") for _, row in table.iterrows()
    ]


def by_kind(entries: list[dict]) -> list[tuple[str, int, list[dict]]]:
    """Each kind with its number and first examples, most frequent first."""
    kinds = Counter(entry["kind"] for entry in entries)
    return [
        (kind, count, [entry for entry in entries if entry["kind"] == kind][:EXAMPLES])
        for kind, count in kinds.most_common()
    ]


def durations_plot(rows: pd.DataFrame) -> str:
    """A histogram of durations by split, as a `data:` address of a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    present = [split for split in SPLITS if (rows["split"] == split).any()]
    axes.hist(
        [rows.loc[rows["split"] == split, "duration"].astype(float) for split in present],
        bins=30,
        stacked=True,
        label=present,
    )
    axes.set_xlabel("Seconds")
    axes.set_ylabel("Recordings")
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode('ascii')}"
