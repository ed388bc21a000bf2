"""Figures and tables of a language identifier's report: accuracy by length, confusions and suspected label noise."""

from typing import Any

import numpy as np
import pandas as pd

from hf_fer.metrics.scored import Scored
from hf_fer.task.scoring import Table

LENGTH_BOUNDS = (10, 20, 50, 100, 200)


def length_buckets(texts: pd.Series) -> pd.Series:
    """The bucket of each text by its characters: `up to 10`, `up to 20`, ..., `over 200`."""
    names = [f"up to {bound}" for bound in LENGTH_BOUNDS] + [f"over {LENGTH_BOUNDS[-1]}"]
    return pd.cut(texts.str.len(), [0, *LENGTH_BOUNDS, np.inf], labels=names)


def accuracy_by_length(scored: Scored) -> pd.DataFrame:
    """`characters`, `texts` and `accuracy` of each bucket that has texts."""
    table = pd.DataFrame(
        {"characters": length_buckets(scored.rows["text"]).to_numpy(), "right": scored.predicted == scored.labels}
    )
    grouped = table.groupby("characters", sort=False)["right"].agg(texts="size", accuracy="mean").reset_index()
    order = {name: rank for rank, name in enumerate(dict.fromkeys(length_buckets(scored.rows["text"]).cat.categories))}
    return grouped.sort_values("characters", key=lambda names: names.map(order)).reset_index(drop=True)


def confused_pairs(scored: Scored, names: list[str]) -> pd.DataFrame:
    """`true`, `predicted`, `texts` and `share` of the true language's texts, most frequent first."""
    wrong = scored.predicted != scored.labels
    pairs = pd.DataFrame(
        {
            "true": [names[index] for index in scored.labels[wrong]],
            "predicted": [names[index] for index in scored.predicted[wrong]],
        }
    )
    table = pairs.value_counts().rename("texts").reset_index()
    support = pd.Series([names[index] for index in scored.labels]).value_counts()
    return table.assign(share=table["texts"] / table["true"].map(support))


def suspected_noise(scored: Scored, names: list[str], temperature: float, min_confidence: float) -> pd.DataFrame:
    """Texts whose label the model contradicts with at least `min_confidence`, most confident first, for review."""
    confidence = scored.confidence(temperature)
    chosen = np.flatnonzero((scored.predicted != scored.labels) & (confidence >= min_confidence))
    rows = scored.rows.iloc[chosen]
    found = pd.DataFrame(
        {
            "path": rows["path"].to_numpy(),
            "label": rows["label"].to_numpy(),
            "predicted": [names[index] for index in scored.predicted[chosen]],
            "confidence": confidence[chosen],
            "text": rows["text"].str.slice(0, 300).to_numpy(),
        }
    )
    return found.sort_values("confidence", ascending=False)


def focus_metrics(scored: Scored, names: list[str], focus: list[str]) -> dict[str, Any]:
    """
    Accuracy on the texts of some languages, in total and by language; empty if there are no such texts.

    `accuracy` lets the model choose among all languages, `accuracy_restricted` only among these.
    """
    classes = [names.index(code) for code in focus]
    chosen = np.isin(scored.labels, classes)
    if not chosen.any():
        return {}
    truth, right = scored.labels[chosen], (scored.predicted == scored.labels)[chosen]
    restricted = np.array(classes)[scored.log_probs[chosen][:, classes].argmax(axis=1)]
    return {
        "texts": int(chosen.sum()),
        "accuracy": float(right.mean()),
        "accuracy_restricted": float((restricted == truth).mean()),
        **{
            code: float(right[truth == index].mean())
            for code, index in zip(focus, classes, strict=True)
            if index in truth
        },
    }


def tables(
    split: str, scored: Scored, names: list[str], temperature: float, min_confidence: float
) -> dict[str, Table]:
    """The tables of a split, by file name; see `suspected_noise` for the last two arguments."""
    return {
        "accuracy_by_length.csv": Table(
            accuracy_by_length(scored), f"Accuracy on {split} by length in characters.", every_split=False
        ),
        "confused_pairs.csv": Table(
            confused_pairs(scored, names),
            f"Languages mistaken for each other on {split}, most frequent first.",
            every_split=False,
        ),
        "suspected_label_noise.csv": Table(
            suspected_noise(scored, names, temperature, min_confidence),
            f"Texts whose label the model contradicts with a confidence of {min_confidence:g} or more.",
        ),
    }
