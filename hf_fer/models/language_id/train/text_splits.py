"""Splits texts so that each source is in one split, and drops near-duplicates across splits."""

import hashlib

import pandas as pd
import xxhash
from datasketch import MinHash, MinHashLSH

from hf_fer.data.loading import DataError, check_groups, group_disjoint_split, warned
from hf_fer.data.progress import progress

PROTOCOLS = ("disjoint", "given_leaky", "random_leaky")
LEAKY_NOTE = "LEAKY SPLIT: one source, or copies of one text, may be in training and test. These scores are inflated."
NO_SOURCE_NOTE = (
    "The data has no source column, so sentences of one site or document may be in training and in test; exact and "
    "near-duplicates are kept apart."
)
SHINGLE = 5
SHINGLED_CHARACTERS = 20_000
PERMUTATIONS = 64
SHOWN_FROM = 5000  # texts; comparing so many takes about two seconds


def assign_splits(
    rows: pd.DataFrame, *, protocol: str, seed: int, validation_fraction: float, test_fraction: float
) -> tuple[pd.DataFrame, list[str]]:
    """
    Keep or make the `split` column.

    Args:
        rows: Cleaned rows with `text`, `label`, and maybe `source` and `split`.
        protocol: `disjoint` (given splits, checked to share no source, or new splits that share none), `given_leaky`
            (given splits, unchecked) or `random_leaky` (drawn without regard to sources).
        seed: Seed of splits that are drawn.
        validation_fraction, test_fraction: Sizes of splits that are drawn.

    Returns:
        The rows with their split, and notes for the report.

    Raises:
        DataError: the protocol is unknown, `given_leaky` lacks a given split, a source is in two splits, or there are
            too few sources.
    """
    if protocol not in PROTOCOLS:
        raise DataError(f"Unknown protocol {protocol!r} for texts; choose one of {list(PROTOCOLS)}.")
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise DataError(
            f"validation_fraction {validation_fraction:g} and test_fraction {test_fraction:g} must not be negative, "
            "and must leave something to train on."
        )
    has_source = "source" in rows
    if protocol == "given_leaky":
        if "split" not in rows:
            raise DataError("protocol 'given_leaky' needs a 'split' column or folders train/, validation/ and test/.")
        return rows, warned(LEAKY_NOTE)
    if protocol == "random_leaky" or ("split" not in rows and not has_source):
        notes = warned(LEAKY_NOTE) if protocol == "random_leaky" else [NO_SOURCE_NOTE]
        return rows.assign(split=draw_splits(rows, seed, validation_fraction, test_fraction)), notes
    if "split" not in rows:
        folds = round(1 / max(test_fraction, validation_fraction, 0.02))
        return rows.assign(
            split=group_disjoint_split(rows, label="label", group="source", seed=seed, num_folds=folds)
        ), []
    if has_source:
        check_groups(rows, group="source", leaky_protocol="given_leaky")
    return rows, [] if has_source else [NO_SOURCE_NOTE]


def draw_splits(rows: pd.DataFrame, seed: int, validation_fraction: float, test_fraction: float) -> pd.Series:
    """
    Draw a split of each label, by a hash of seed, label and text.

    The split of a text depends only on the order of the hashes within its label, so adding, removing or moving rows of
    the file changes the split of few others. A label with very few texts has all of them in training.
    """
    keys = [
        hashlib.blake2b(f"{seed}\t{label}\t{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for label, text in zip(rows["label"], rows["text"], strict=True)
    ]
    order = pd.Series(keys, index=rows.index).sort_values().index
    labels = rows["label"].loc[order]
    rank = labels.groupby(labels).cumcount()
    size = labels.map(labels.value_counts())
    tests = (size * test_fraction).round()
    split = pd.Series("train", index=order)
    split[rank < tests + (size * validation_fraction).round()] = "validation"
    split[rank < tests] = "test"
    return split.loc[rows.index]


def shingles(text: str) -> set[bytes]:
    """Runs of five letters or digits in the first 20,000 characters; case and other characters are ignored."""
    letters = "".join(filter(str.isalnum, text[:SHINGLED_CHARACTERS].casefold())) or text[:SHINGLED_CHARACTERS]
    return {
        letters[i : i + SHINGLE].encode("utf-8", "surrogatepass") for i in range(max(len(letters) - SHINGLE, 0) + 1)
    }


def drop_near_duplicates(rows: pd.DataFrame, threshold: float) -> tuple[pd.DataFrame, dict[str, int]]:
    """
    Drop near-duplicates of validation and test texts from training, and of test texts from validation.

    Texts are near-duplicates when the Jaccard similarity of their `shingles`, estimated by MinHash (datasketch, 64
    permutations), is at least `threshold`, whatever their labels.

    Returns:
        The remaining rows, and how many were dropped from each split.
    """
    index, seen = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS), {}
    dropped, counts = [], {}
    for split in ("test", "validation", "train"):
        part = rows[rows["split"] == split]
        texts = progress(part["text"], f"Comparing texts of {split}", len(part), SHOWN_FROM)
        found = MinHash.generator(map(shingles, texts), num_perm=PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)
        signatures = dict(zip(part.index, found, strict=True))
        near = [
            row
            for row, signature in signatures.items()
            if any(seen[key].jaccard(signature) >= threshold for key in index.query(signature))
        ]
        counts[split] = len(near)
        dropped += near
        if split != "train":
            seen |= signatures
            for row, signature in signatures.items():
                index.insert(row, signature)
    return rows.drop(index=dropped), counts
