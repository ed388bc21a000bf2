"""How far a score may be off because other speakers might have been recorded: bootstrap intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

RESAMPLES = 2000


def bootstrap_intervals(
    predictions: np.ndarray,
    references: np.ndarray,
    groups: Sequence[Any] | None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """
    95% percentile intervals of accuracy and UAR (Efron & Tibshirani 1993, chapter 13), drawn over whole groups.

    Clips of one speaker are alike, so it is speakers that are drawn with replacement, not clips. With few groups
    such intervals are too narrow (Cameron, Gelbach & Miller 2008, doi 10.1162/rest.90.3.414): read them as a lower
    bound of the uncertainty.

    Args:
        predictions, references: Class indices `(n,)`.
        groups: Group of each example, or `None` where the data has none; then examples are drawn.
        resamples: Number of draws.
        seed: Of the draws.

    Returns:
        `accuracy_ci95` and `uar_ci95`, each `[low, high]`, and `bootstrap` with `unit` (`"group"` or `"example"`),
        `units`, `resamples` and `seed`. With a single unit there is no interval, and only `bootstrap` is returned.
    """
    hits = predictions == references
    # To the scores, examples of one class and outcome are the same: they are drawn as one, that much likelier.
    unit_of, names = pd.factorize(2 * references + hits if groups is None else np.asarray(groups))
    likelihood = np.bincount(unit_of) / len(references) if groups is None else np.full(len(names), 1 / len(names))
    facts = {"unit": "example", "units": len(references)}
    if groups is not None:
        facts = {"unit": "group", "units": len(names)}
    if facts["units"] < 2:
        return {"bootstrap": facts}
    num_classes = int(references.max()) + 1
    counts = np.zeros((len(names), 2 * num_classes))  # of each unit: examples by class, then right ones by class
    np.add.at(counts, (unit_of, references), 1)
    np.add.at(counts, (unit_of, references + num_classes), hits)
    if groups is None:
        counts /= np.bincount(unit_of)[:, None]
    rng = np.random.default_rng(seed)
    blocks = np.array_split(np.arange(resamples), 1 + resamples * len(names) // 10_000_000)
    drawn = [rng.multinomial(facts["units"], likelihood, size=len(block)) @ counts for block in blocks]
    support, right = np.split(np.concatenate(drawn), 2, axis=1)
    recall = np.divide(right, support, out=np.full_like(right, np.nan), where=support > 0)
    scores = {"accuracy": right.sum(axis=1) / support.sum(axis=1), "uar": np.nanmean(recall, axis=1)}
    intervals = {f"{name}_ci95": np.quantile(values, [0.025, 0.975]).tolist() for name, values in scores.items()}
    return {**intervals, "bootstrap": {**facts, "resamples": resamples, "seed": seed}}


def interval_metrics(predictions: np.ndarray, references: np.ndarray, groups: pd.Series | None) -> dict[str, Any]:
    """
    `bootstrap_intervals`, with a sentence on them as `remarks`.

    Args:
        predictions, references: Class indices `(n,)`.
        groups: Column of the groups; `None`, or one in which any is missing, counts as no groups.
    """
    known = groups if groups is not None and groups.notna().all() else None
    found = bootstrap_intervals(predictions, references, known)
    return {**found, "remarks": [describe_bootstrap(found["bootstrap"])]}


def describe_bootstrap(bootstrap: dict[str, Any]) -> str:
    """A sentence on how the intervals were drawn, or why there are none."""
    units = {"group": "groups (speakers)", "example": "single examples, because the data has no groups"}
    if bootstrap["units"] < 2:
        return f"No intervals: {bootstrap['units']} {bootstrap['unit']} cannot be resampled."
    narrow = {
        "group": "With few groups they are too narrow." if bootstrap["units"] < 30 else "",
        "example": "Where speakers repeat, they are too narrow.",
    }
    return (
        f"95% intervals are percentiles of {bootstrap['resamples']:,} bootstrap resamples (seed {bootstrap['seed']}) "
        f"of {bootstrap['units']:,} {units[bootstrap['unit']]}. {narrow[bootstrap['unit']]}"
    ).rstrip()
