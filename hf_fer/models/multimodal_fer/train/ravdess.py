"""RAVDESS (Livingstone & Russo 2018, https://doi.org/10.1371/journal.pone.0196391): files, names and protocols."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from hf_fer.data.files import CLIP_SUFFIXES, visible_files
from hf_fer.data.loading import DataError, fold_splits, optional_column, random_split, warned
from hf_fer.data.tables import is_table

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
LOSSLESS = (".wav", ".flac")

NAME = re.compile(
    r"(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])"
    r"-(?P<statement>0[12])-(?P<repetition>0[12])-(?P<actor>0[1-9]|1\d|2[0-4])"
)

# Columns by which scores are broken down.
FACTORS = ("sex", "intensity", "statement")

PROTOCOLS = ("actors_16_4_4", "luna_5fold", "random_leaky")

# Luna-Jimenez et al. 2021 (https://doi.org/10.3390/app12010327), five subject-wise folds.
LUNA_FOLDS = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))

LEAKY_NOTE = (
    "LEAKY SPLIT: the same actors are in training and test. These scores are inflated and only comparable with "
    "published numbers on random splits."
)


def scan(root: str | Path, channel: str = "speech") -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """
    Find recordings below a folder, at any depth.

    Args:
        root: Folder with `Actor_XX` folders at any depth.
        channel: `"speech"`, `"song"` or `"both"`.

    Returns:
        One row per file, and the files whose name does not match RAVDESS's as `{"path", "reason"}`.

    Raises:
        DataError: the folder does not exist or holds no recording.
    """
    root = Path(root)
    if is_table(root):
        raise DataError(f"{root}: file not found.")
    if not root.is_dir():
        raise DataError(
            f"{root}: folder not found. Download RAVDESS (zenodo record 1188976), unpack it, and give the folder "
            "that holds Actor_01 ... Actor_24, or use --dataset demo."
        )
    files = [path for path in visible_files(root) if path.suffix.lower() in CLIP_SUFFIXES]
    rows, skipped = [], []
    for path in files:
        match = NAME.fullmatch(path.stem)
        if match is None:
            skipped.append({"path": str(path), "reason": "file name is not MM-CC-EE-II-SS-RR-AA"})
        else:
            rows.append({"path": str(path), "suffix": path.suffix.lower(), **match.groupdict()})
    if not rows:
        raise DataError(
            f"{root}: no RAVDESS recordings below it (names like Actor_01/01-01-05-01-01-01-01.mp4), and no clips in "
            "one subfolder per class. Give one of these, the folder of another corpus, or a table of clips."
        )
    table = pd.DataFrame(rows)
    wanted = {"speech": ["01"], "song": ["02"], "both": ["01", "02"]}[channel]
    table = table[table["channel"].isin(wanted)]
    if table.empty:
        raise DataError(f"{root}: has recordings, but none of channel {channel!r}; change channel.")
    return table, skipped


def is_ravdess(root: Path) -> bool:
    """Whether a folder has a recording with RAVDESS's name somewhere below it."""
    return any(NAME.fullmatch(path.stem) for path in root.rglob("*"))


def performances(files: pd.DataFrame, modalities: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """
    One row per performance.

    The official archives have each performance as an audio-visual file (01), as video only (02) and as audio only
    (03). With video, 01 is used if it exists, else 02 paired with 03; for audio alone, 03 is preferred to 01.

    Args:
        files: Rows of `scan`.
        modalities: `["audio"]`, `["video"]` or both.

    Returns:
        Columns `clip`, `video`, `audio` (paths, or `None`), `label`, `group`, `actor`, `sex`, `emotion`,
        `intensity`, `statement`, `repetition`, `channel`; and notes on files that are not used.

    Raises:
        DataError: no recording has any of the modalities.
    """
    key = ["channel", "emotion", "intensity", "statement", "repetition", "actor"]
    files = files.assign(lossy=~files["suffix"].isin(LOSSLESS)).sort_values([*key, "modality", "lossy", "path"])
    copies = files.duplicated([*key, "modality"])
    rows = []
    for _, group in files[~copies].groupby(key, sort=True):
        by_modality = dict(zip(group["modality"], group["path"], strict=True))
        video, audio = _choose(by_modality, modalities)
        if video or audio:
            rows.append(_performance(group.iloc[0], video, audio))
    if not rows:
        raise DataError(f"None of the {len(files)} RAVDESS recordings has {' or '.join(modalities)}.")
    notes = []
    if copies.any():
        notes.append(f"{int(copies.sum())} files are further copies of a recording and are not used.")
    unused = len(files) - int(copies.sum()) - sum(len({row["video"], row["audio"]} - {None}) for row in rows)
    if unused:
        notes.append(f"{unused} files repeat a performance in another modality and are not used.")
    table = pd.DataFrame(rows)
    for modality in ("video", "audio"):
        table[modality] = optional_column(table[modality], table.index)
    return table, notes


def _choose(by_modality: dict[str, str], modalities: list[str]) -> tuple[str | None, str | None]:
    full, silent, sound = (by_modality.get(code) for code in ("01", "02", "03"))
    if "video" not in modalities:
        return None, sound or full
    video = full or silent
    if "audio" not in modalities:
        return video, None
    return video, full or sound


def _performance(row: pd.Series, video: str | None, audio: str | None) -> dict[str, object]:
    actor = int(row["actor"])
    return {
        "clip": Path(video or audio).stem,
        "video": video,
        "audio": audio,
        "label": EMOTIONS[int(row["emotion"]) - 1],
        "group": f"{actor:02d}",
        "actor": actor,
        "sex": "male" if actor % 2 else "female",
        "intensity": "normal" if row["intensity"] == "01" else "strong",
        "statement": STATEMENTS[row["statement"]],
        "repetition": int(row["repetition"]),
        "channel": "speech" if row["channel"] == "01" else "song",
    }


def assign_protocol(rows: pd.DataFrame, protocol: str, *, fold: int, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """
    Add the `split` column.

    Args:
        rows: Rows of `performances`.
        protocol: `actors_16_4_4` (actors 1-16 / 17-20 / 21-24), `luna_5fold` (test is fold `fold`, validation the
            next one, the other three train) or `random_leaky` (random clips, so actors are in several splits).
        fold: 0 to 4, for `luna_5fold`.
        seed: Seed of `random_leaky`.

    Returns:
        The rows with their split, and notes for the report.

    Raises:
        DataError: the protocol or the fold is unknown.
    """
    if protocol == "random_leaky":
        return rows.assign(split=random_split(rows, label="label", seed=seed)), warned(LEAKY_NOTE)
    if protocol == "actors_16_4_4":
        sizes = {"train": 16, "validation": 4, "test": 4}
        split_of = dict(enumerate((name for name, size in sizes.items() for _ in range(size)), start=1))
    elif protocol == "luna_5fold":
        fold_of = {actor: number for number, actors in enumerate(LUNA_FOLDS) for actor in actors}
        return rows.assign(split=fold_splits(rows["actor"].map(fold_of), fold, len(LUNA_FOLDS))), []
    else:
        raise DataError(f"Unknown protocol {protocol!r} for RAVDESS; choose one of {list(PROTOCOLS)}.")
    return rows.assign(split=rows["actor"].map(split_of)), []


def absent_splits(rows: pd.DataFrame) -> dict[str, str]:
    """Why a split has no clips, by the split's name."""
    present = Counter(rows["split"])
    actors = ", ".join(str(actor) for actor in sorted(set(rows["actor"])))
    return {
        split: f"the folder has none of the protocol's {split} actors (it has actors {actors})"
        for split in ("train", "validation", "test")
        if not present[split]
    }
