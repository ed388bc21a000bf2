"""Splits recordings by hours, with each speaker, or each transcript, in one split."""

import hashlib

import pandas as pd

from hf_fer.data.loading import SPLITS, DataError

from .prepare_checks import Findings

TOO_LARGE = 2.0
"""A group larger than this many times a held-out split's hours is not put into it if a smaller one exists."""


def assign_splits(
    rows: pd.DataFrame,
    findings: Findings,
    *,
    validation_fraction: float,
    test_fraction: float,
    disjoint_transcripts: bool,
    seed: int,
) -> pd.DataFrame:
    """
    Keep the given splits, or draw them by hours.

    Speakers are drawn as groups if there are at least two; else transcripts if they shall be disjoint; else single
    recordings. A group's split depends on a hash of its name, so that new data moves few others.

    Args:
        rows: Rows with `duration`, `speaker_id`, `transcript`, `digest` and `split`.
        findings: Notes are added to it.
        validation_fraction, test_fraction: Shares of the hours.
        disjoint_transcripts: Whether equal transcripts are kept in one split.
        seed: Seed of the draw.

    Raises:
        DataError: the fractions leave no training split, only some rows have a split, or there are too few groups.
    """
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise DataError(
            f"--validation_fraction {validation_fraction:g} and --test_fraction {test_fraction:g} must not be "
            "negative, and must leave something to train on."
        )
    known = rows["split"].notna()
    if known.any():
        if not known.all():
            first = rows[~known].iloc[0]["source"]
            raise DataError(
                f"{first}: has no split, but others have ({int((~known).sum())} such rows). Fill it in for all, or "
                "give --splits new to draw all of them."
            )
        absent = [name for name in SPLITS[:2] if not (rows["split"] == name).any()]
        findings.notes += [f"The given splits have no {name}." for name in absent]
        return rows
    groups = _groups(rows, findings, disjoint_transcripts)
    return rows.assign(split=_draw(groups, rows["duration"], validation_fraction, test_fraction, seed))


def _groups(rows: pd.DataFrame, findings: Findings, disjoint_transcripts: bool) -> pd.Series:
    speakers = rows["speaker_id"]
    if speakers.isna().any() and speakers.notna().any():
        first = rows[speakers.isna()].iloc[0]["source"]
        raise DataError(
            f"{first}: has no speaker_id, but others have ({int(speakers.isna().sum())} such rows). Fill it in for "
            "all, or leave the column out."
        )
    if speakers.nunique() > 1:
        return speakers
    who = "has one speaker" if speakers.nunique() == 1 else "names no speakers"
    findings.notes.append(
        f"The data {who}: training and validation may share voices, and scores say nothing about new speakers."
    )
    return rows["transcript"] if disjoint_transcripts else rows["digest"]


def _draw(
    groups: pd.Series, seconds: pd.Series, validation_fraction: float, test_fraction: float, seed: int
) -> pd.Series:
    sizes = seconds.groupby(groups).sum()
    wanted = {name: share for name, share in (("test", test_fraction), ("validation", validation_fraction)) if share}
    if len(sizes) <= len(wanted):
        raise DataError(
            f"{len(sizes)} speakers or recordings are too few for training and {' and '.join(wanted)}; set "
            "--test_fraction 0, or give a split column."
        )
    order = sorted(sizes.index, key=lambda name: hashlib.sha256(f"{seed}\t{name}".encode()).digest())
    side, total = dict.fromkeys(order, "train"), float(sizes.sum())
    for number, (split, share) in enumerate(wanted.items()):
        free = [name for name in order if side[name] == "train"]
        spare = len(free) - (len(wanted) - number)  # one group stays for training and for each later split
        small = [name for name in free if sizes[name] <= TOO_LARGE * share * total] or [min(free, key=sizes.get)]
        taken = 0.0
        for name in small[: max(spare, 1)]:
            if taken and taken + sizes[name] / 2 > share * total:
                break
            side[name] = split
            taken += float(sizes[name])
    return groups.map(side)
