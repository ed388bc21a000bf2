"""Checks of recordings: each check drops rows with a reason, or warns and keeps them."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pandas as pd

from hf_fer.data.loading import SPLITS
from hf_fer.data.names import look_alike_notes

from ..text_speech_to_text import to_units
from .sound import SoundFacts, all_sound_facts

CLIPPED_SHARE = 0.01
SILENT_SHARE = 0.8
FEATURES_PER_SECOND = 100
LATER_FIRST = ("test", "validation", "train")
"""Splits in the order in which they keep an example that occurs in several."""


@dataclass
class Findings:
    """
    Findings of the checks.

    Args:
        dropped: `path`, `source`, `kind`, `reason` and `transcript` of each dropped row.
        warnings: The same for each row that is kept with a warning.
        notes: Sentences about the data as a whole.
    """

    dropped: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, rows: pd.DataFrame, reasons: dict[Any, str], kind: str) -> pd.DataFrame:
        """Drop the rows of `reasons`, row label -> reason."""
        self.dropped += [_entry(rows.loc[label], kind, reason) for label, reason in reasons.items()]
        return rows.drop(index=list(reasons))

    def warn(self, row: pd.Series, kind: str, reason: str) -> None:
        """Record a warning about a row that is kept."""
        self.warnings.append(_entry(row, kind, reason))


def _entry(row: pd.Series, kind: str, reason: str) -> dict[str, Any]:
    return {
        "path": row["file_path"],
        "source": row["source"],
        "kind": kind,
        "reason": reason,
        "transcript": row["transcript"],
    }


def check_names(rows: pd.DataFrame, findings: Findings) -> pd.DataFrame:
    """Drop rows without a file or transcript, and repeated rows."""
    without = dict.fromkeys(rows.index[rows["file_path"].isna()], "the row names no file")
    rows = findings.leave_out(rows, without, "no file")
    blank = rows["transcript"].map(lambda text: not (text or "").strip())
    rows = findings.leave_out(rows, dict.fromkeys(rows.index[blank], "the transcript is empty"), "empty transcript")
    first = rows.drop_duplicates("file_path").set_index("file_path")["source"]
    again = rows[rows["file_path"].duplicated()]
    reasons = {label: f"the same file as {first[row['file_path']]}" for label, row in again.iterrows()}
    return findings.leave_out(rows, reasons, "same file twice")


def check_sound(
    rows: pd.DataFrame, findings: Findings, *, sampling_rate: int, min_seconds: float, max_seconds: float
) -> pd.DataFrame:
    """
    Drop files that do not decode, are silent, too short or too long; warn of clipping, low rates and wrong durations.

    Returns:
        The remaining rows, with measured `duration`, `sampling_rate`, `channels` and `digest`.
    """
    facts = dict(zip(rows.index, all_sound_facts(list(rows["file_path"])), strict=True))
    rows = findings.leave_out(
        rows, {label: found for label, found in facts.items() if isinstance(found, str)}, "unusable file"
    )
    silent = {
        label: f"silent: the loudest sample is {_decibels(facts[label].peak)} of full scale"
        for label in rows.index
        if facts[label].silent == 1.0
    }
    rows = findings.leave_out(rows, silent, "silence")
    lengths = {}
    for label in rows.index:
        seconds = facts[label].seconds
        if seconds < min_seconds:
            lengths[label] = f"{seconds:.3f} s is shorter than --min_seconds {min_seconds:g}"
        elif seconds > max_seconds:
            lengths[label] = f"{seconds:.1f} s is longer than --max_seconds {max_seconds:g}; cut it at silences"
    rows = findings.leave_out(rows, lengths, "duration")
    for label, row in rows.iterrows():
        _warn_of_sound(row, facts[label], findings, sampling_rate)
    measured = [facts[label] for label in rows.index]
    return rows.assign(
        duration=[found.seconds for found in measured],
        sampling_rate=[found.rate for found in measured],
        channels=[found.channels for found in measured],
        digest=[found.digest for found in measured],
    )


def _decibels(amplitude: float) -> str:
    return f"{20 * math.log10(amplitude):.0f} dB" if amplitude > 0 else "nothing"


def _warn_of_sound(row: pd.Series, facts: SoundFacts, findings: Findings, sampling_rate: int) -> None:
    if facts.clipped >= CLIPPED_SHARE:
        findings.warn(row, "clipping", f"{facts.clipped:.1%} of the samples are at full scale")
    if facts.silent >= SILENT_SHARE:
        findings.warn(row, "mostly silent", f"{facts.silent:.0%} of it is silence")
    if facts.rate < sampling_rate:
        findings.warn(
            row, "low sampling rate", f"{facts.rate} Hz, below {sampling_rate} Hz: high frequencies are missing"
        )
    if facts.channels > 1:
        findings.warn(row, "several channels", f"{facts.channels} channels, which are averaged")
    try:
        declared = None if row["duration"] is None else float(row["duration"])
    except ValueError:
        findings.warn(
            row, "declared duration", f"duration {row['duration']!r} is not a number; measured {facts.seconds:.2f} s"
        )
        return
    if declared is not None and abs(declared - facts.seconds) > max(0.1, 0.02 * facts.seconds):
        findings.warn(row, "declared duration", f"{declared:g} s in the table, {facts.seconds:.2f} s in the file")


def check_lengths(rows: pd.DataFrame, findings: Findings, *, units: str, subsampling: int) -> pd.DataFrame:
    """Drop transcripts that need more frames than CTC has: one per unit, and one between equal neighbours."""
    reasons = {}
    for label, row in rows.iterrows():
        spelled = to_units(row["transcript"], units)
        needed = len(spelled) + sum(first == second for first, second in pairwise(spelled))
        frames = math.ceil((int(row["duration"] * FEATURES_PER_SECOND) + 1) / subsampling)
        if needed > frames:
            reasons[label] = (
                f"the transcript needs {needed} frames ({len(spelled)} characters), and {row['duration']:.2f} s have "
                f"{frames}: it belongs to another recording, or the recording is cut"
            )
    return findings.leave_out(rows, reasons, "transcript too long")


def check_copies(rows: pd.DataFrame, findings: Findings) -> pd.DataFrame:
    """
    Drop copies of recordings by content; if copies have different transcripts, all of them are dropped.

    With given splits, a copy in test is kept rather than one in validation, and that rather than one in training.
    """
    order = rows["split"].map(lambda name: LATER_FIRST.index(name or "train"))
    reasons, disagreeing = {}, {}
    for _, group in rows.assign(order=order).sort_values("order", kind="stable").groupby("digest", sort=False):
        if len(group) == 1:
            continue
        if group["transcript"].nunique() > 1:
            texts = ", ".join(f"{row['source']}: {row['transcript']!r}" for _, row in group.head(3).iterrows())
            disagreeing |= dict.fromkeys(group.index, f"the same sound with different transcripts ({texts})")
            continue
        kept = group.iloc[0]
        for label, row in group.iloc[1:].iterrows():
            side = "" if row["split"] == kept["split"] else f", which is in {kept['split']}"
            reasons[label] = f"the same sound as {kept['source']} ({kept['file_path']}){side}"
    rows = findings.leave_out(rows, reasons, "duplicate")
    return findings.leave_out(rows, disagreeing, "same sound, other words")


def check_sides(rows: pd.DataFrame, findings: Findings, *, disjoint_transcripts: bool) -> pd.DataFrame:
    """Drop rows whose speaker, or on request whose transcript, also occurs in a later split (validation, test)."""
    columns = [("speaker_id", "speaker on both sides")]
    columns += [("transcript", "transcript on both sides")] if disjoint_transcripts else []
    for column, kind in columns:
        later: set[Any] = set()
        for split in LATER_FIRST:
            part = rows.loc[rows["split"] == split, column].dropna()
            shared = part[part.isin(later)]
            reasons = {
                label: f"{column} {value!r} of {split} is also in a later split" for label, value in shared.items()
            }
            later |= set(part)
            rows = findings.leave_out(rows, reasons, kind)
    findings.notes += look_alike_notes(rows["speaker_id"].dropna().unique(), "speaker_id")
    return rows


def check_characters(rows: pd.DataFrame, findings: Findings) -> None:
    """Note characters that the training split lacks, because a model trained on it cannot write them."""
    seen = set("".join(rows.loc[rows["split"] == "train", "transcript"]))
    for split in SPLITS[1:]:
        texts = rows.loc[rows["split"] == split, "transcript"]
        lacking = sorted(set("".join(texts)) - seen)
        if lacking:
            count = int(texts.map(lambda text, lacking=lacking: any(letter in text for letter in lacking)).sum())
            shown = " ".join(map(repr, lacking[:20]))
            findings.notes.append(
                f"Characters of {split} that training lacks, in {count} of {len(texts)} transcripts: {shown}. No "
                "model trained on this can write them."
            )
