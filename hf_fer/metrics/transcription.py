"""Errors of a speech recogniser: error rates as jiwer defines them, confusions of words, and intervals."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np
import pandas as pd

from hf_fer.metrics.intervals import DRAWS, describe_bootstrap

NOTHING = "∅"
"""Stands for the missing side of a deletion or insertion."""


@dataclass
class Errors:
    """
    Edits that turn references into hypotheses. The units that are compared are words or characters.

    Args:
        table: One row per utterance: `units` of its reference, `substitutions`, `deletions` and `insertions`.
        pairs: (reference unit, hypothesis unit) -> how often they were aligned, equal ones included; `NOTHING` is
            one side of deletions and insertions.
    """

    table: pd.DataFrame
    pairs: Counter[tuple[str, str]]

    @property
    def edits(self) -> pd.Series:
        """Number of edits in each utterance."""
        return self.table[["substitutions", "deletions", "insertions"]].sum(axis=1)

    @property
    def rate(self) -> float:
        """Error rate: the number of edits divided by the number of units of the references."""
        return float(self.edits.sum() / max(self.table["units"].sum(), 1))

    def confusions(self) -> pd.DataFrame:
        """`reference`, `hypothesis` and `count` of aligned units that differ, most frequent first."""
        rows = [(*pair, count) for pair, count in self.pairs.most_common() if pair[0] != pair[1]]
        return pd.DataFrame(rows, columns=["reference", "hypothesis", "count"])


def count_errors(references: Sequence[str], hypotheses: Sequence[str], *, characters: bool = False) -> Errors:
    """
    Align references with hypotheses and count the edits.

    Args:
        references: Correct transcripts; none is empty.
        hypotheses: Recognised transcripts, in the same order.
        characters: Whether to count characters, spaces included, instead of words.
    """
    process = jiwer.process_characters if characters else jiwer.process_words
    rows, pairs = [], Counter()
    if not references:
        return Errors(pd.DataFrame(columns=["units", "substitutions", "deletions", "insertions"], dtype=int), pairs)
    found = process(list(references), list(hypotheses))
    for reference, hypothesis, chunks in zip(found.references, found.hypotheses, found.alignments, strict=True):
        counts = Counter()
        for chunk in chunks:
            said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
            heard = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            longest = max(len(said), len(heard))
            counts[chunk.type] += longest
            pairs.update(zip(said or [NOTHING] * longest, heard or [NOTHING] * longest, strict=True))
        rows.append((len(reference), counts["substitute"], counts["delete"], counts["insert"]))
    return Errors(pd.DataFrame(rows, columns=["units", "substitutions", "deletions", "insertions"]), pairs)


def right_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[bool]]:
    """For each word of each hypothesis, whether it equals the word of the reference that it is aligned with."""
    if not references:
        return []
    found = jiwer.process_words(list(references), list(hypotheses))
    marks = []
    for hypothesis, chunks in zip(found.hypotheses, found.alignments, strict=True):
        right = [False] * len(hypothesis)
        for chunk in chunks:
            if chunk.type == "equal":
                right[chunk.hyp_start_idx : chunk.hyp_end_idx] = [True] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
        marks.append(right)
    return marks


def error_interval(errors: Errors, groups: pd.Series | None, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """
    95% interval of an error rate by the Bayesian bootstrap over groups, see `metrics.intervals`.

    The lower end is computed on the data plus one correct unit, the upper end on the data plus one wrong unit.

    Args:
        errors: Errors on one split.
        groups: Speaker of each utterance. With `None`, or a column with missing values, each utterance is its own
            group.
        draws: Number of random weightings.
        seed: Seed of the random weights.

    Returns:
        `interval`, `[low, high]`, or `None` with a single group; `bootstrap`, its settings; `remark`, a sentence
        that describes it.
    """
    known = groups is not None and groups.notna().all()
    names = np.asarray(groups) if known else np.arange(len(errors.table))
    codes, units = pd.factorize(names)
    facts = {"unit": "group" if known else "example", "units": len(units)}
    if len(units) < 2:
        return {"interval": None, "bootstrap": facts, "remark": describe_bootstrap(facts)}
    edits = np.bincount(codes, errors.edits)
    sizes = np.bincount(codes, errors.table["units"])
    rng = np.random.default_rng(seed)
    weights = rng.standard_gamma(1.0, size=(draws, len(units)))
    extra = rng.standard_gamma(1.0, size=draws)
    wrong, total = weights @ edits, weights @ sizes + extra
    facts |= {"draws": draws, "seed": seed}
    interval = [float(np.quantile(wrong / total, 0.025)), float(np.quantile((wrong + extra) / total, 0.975))]
    return {"interval": interval, "bootstrap": facts, "remark": describe_bootstrap(facts)}
