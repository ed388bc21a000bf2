"""95% intervals of scores: the uncertainty from the sample of speakers (groups) that was recorded."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

DRAWS = 2000


def bootstrap_intervals(
    predictions: np.ndarray,
    references: np.ndarray,
    groups: Sequence[Any] | None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """
    95% intervals of accuracy and UAR by the Bayesian bootstrap (Rubin 1981, doi 10.1214/aos/1176345338) over groups.

    Clips of one speaker are alike, so speakers get random weights, not clips. Weights alone give an interval of width
    0 where every answer is correct, or where one class is always predicted. Therefore the lower end is computed on
    the data plus one wrong example, the upper end on the data plus one correct example; that example is divided among
    the classes by their frequency. For the accuracy of examples without groups this is the exact interval of Clopper
    & Pearson 1934 (doi 10.1093/biomet/26.4.404). With few groups the intervals are too narrow (Cameron, Gelbach &
    Miller 2008, doi 10.1162/rest.90.3.414): read them as a lower bound of the uncertainty.

    Args:
        predictions, references: Class indices `(n,)`.
        groups: Group of each example, or `None` where the data has none; then every example is its own group.
        draws: Number of random weightings.
        seed: Seed of the random weights.

    Returns:
        `accuracy_ci95` and `uar_ci95`, each `[low, high]`, and `bootstrap` with `unit` (`"group"` or `"example"`),
        `units`, `draws` and `seed`. With a single unit there is no interval, and only `bootstrap` is returned.
    """
    hits = predictions == references
    facts = {"unit": "example", "units": len(references)}
    if groups is None:
        # Examples of one class and outcome are interchangeable: they form one unit with the sum of their weights.
        unit_of, names = pd.factorize(2 * references + hits)
        sizes = np.bincount(unit_of).astype(float)
    else:
        unit_of, names = pd.factorize(np.asarray(groups))
        sizes = np.ones(len(names))
        facts = {"unit": "group", "units": len(names)}
    if facts["units"] < 2:
        return {"bootstrap": facts}
    counts = _counts(unit_of, references, hits) / (sizes[:, None] if groups is None else 1)
    rng = np.random.default_rng(seed)
    blocks = np.array_split(np.arange(draws), 1 + draws * len(sizes) // 10_000_000)
    # Gamma weights are Dirichlet weights times a factor, which cancels in ratios.
    drawn = [rng.standard_gamma(sizes, size=(len(block), len(sizes))) @ counts for block in blocks]
    support, right = np.split(np.concatenate(drawn), 2, axis=1)
    added = rng.standard_gamma(1.0, size=(draws, 1)) * np.bincount(references) / len(references)
    low, high = _scores(support + added, right), _scores(support + added, right + added)
    intervals = {
        f"{name}_ci95": [float(np.quantile(low[name], 0.025)), float(np.quantile(high[name], 0.975))] for name in low
    }
    return {**intervals, "bootstrap": {**facts, "draws": draws, "seed": seed}}


def _counts(unit_of: np.ndarray, references: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Number of examples by class, then of correct examples by class, of each unit: `(units, 2 * classes)`."""
    classes = int(references.max()) + 1
    counts = np.zeros((unit_of.max() + 1, 2 * classes))
    np.add.at(counts, (unit_of, references), 1)
    np.add.at(counts, (unit_of, references + classes), hits)
    return counts


def _scores(support: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy and UAR `(draws,)` of weighted counts `(draws, classes)`; the UAR averages over classes that occur."""
    recall = np.divide(right, support, out=np.full_like(right, np.nan), where=support > 0)
    return {"accuracy": right.sum(axis=1) / support.sum(axis=1), "uar": np.nanmean(recall, axis=1)}


def interval_metrics(predictions: np.ndarray, references: np.ndarray, groups: pd.Series | None) -> dict[str, Any]:
    """
    `bootstrap_intervals` with `remarks`, a list of one sentence that describes them.

    Args:
        predictions, references: Class indices `(n,)`.
        groups: Group of each example; `None`, or a column with missing values, counts as no groups.
    """
    known = groups if groups is not None and groups.notna().all() else None
    found = bootstrap_intervals(predictions, references, known)
    return {**found, "remarks": [describe_bootstrap(found["bootstrap"])]}


def describe_bootstrap(bootstrap: dict[str, Any]) -> str:
    """A sentence that says how the intervals were computed, or why there are none."""
    units = {"group": "groups (speakers)", "example": "single examples, because the data has no groups"}
    if bootstrap["units"] < 2:
        return f"No intervals: one {bootstrap['unit']} does not tell how much others would differ."
    narrow = {
        "group": " With few groups they are too narrow." if bootstrap["units"] < 30 else "",
        "example": " Where speakers repeat, they are too narrow.",
    }
    return (
        f"95% intervals are from {bootstrap['draws']:,} draws (seed {bootstrap['seed']}) of a Bayesian bootstrap over "
        f"{bootstrap['units']:,} {units[bootstrap['unit']]}; each end allows for one more wrong or correct "
        f"example.{narrow[bootstrap['unit']]}"
    )
