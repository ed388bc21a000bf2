"""Corpora of emotional speech, read from their own folders and file names.

Labels become the names that RAVDESS uses, so that one model can be trained and scored on several corpora; classes
that RAVDESS lacks keep a name of their own. A speaker's group begins with the corpus, because `03` is a different
person in each corpus.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from hf_fer.data.files import CLIP_SUFFIXES, SOUND_SUFFIXES, visible_files
from hf_fer.data.loading import DataError, optional_column
from hf_fer.data.tables import TableFormat, need_column, read_table

SENTENCES_OF_MELD = {"train_sent_emo": "train", "dev_sent_emo": "validation", "test_sent_emo": "test"}
LINE_OF_IEMOCAP = re.compile(r"\[[\d. -]+\]\t(?P<clip>\w+)\t(?P<emotion>\w{3})\t")
FEMALE_IN_EMODB = ("08", "09", "13", "14", "16")
LEVELS_OF_CREMA_D = {"LO": "low", "MD": "medium", "HI": "high"}


@dataclass(frozen=True)
class Corpus:
    """
    A corpus whose file names give speaker and emotion.

    Args:
        name: Name of the corpus, with which its groups begin.
        source: Publication that describes the corpus.
        name_pattern: Pattern of `<folder>/<file name without ending>`. The groups `speaker` and `emotion` are needed;
            other groups become columns.
        emotions: Code of an emotion in the file name -> label.
        more: Function that makes further columns of the pattern's named groups.
    """

    name: str
    source: str
    name_pattern: re.Pattern[str]
    emotions: dict[str, str]
    more: Callable[[dict[str, str]], dict[str, Any]] = field(default=lambda parts: {})

    def parse(self, file: Path) -> dict[str, str] | None:
        """The named groups of a file's name, or `None` if the file is not of this corpus."""
        match = self.name_pattern.fullmatch(f"{file.parent.name}/{file.stem}")
        return match and match.groupdict()


def _names(pattern: str) -> re.Pattern[str]:
    """A pattern that matches a file name in any folder."""
    return re.compile(rf"[^/]*/{pattern}")


BY_NAME = (
    Corpus(
        "crema_d",
        "Cao et al. 2014, https://doi.org/10.1109/TAFFC.2014.2336244",
        _names(r"(?P<speaker>1\d{3})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<intensity>LO|MD|HI|XX|X)"),
        {"ANG": "angry", "DIS": "disgust", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad"},
        lambda parts: {"intensity": LEVELS_OF_CREMA_D.get(parts["intensity"], "unspecified")},
    ),
    Corpus(
        "emodb",
        "Burkhardt et al. 2005, https://doi.org/10.21437/Interspeech.2005-446",
        _names(r"(?P<speaker>\d{2})(?P<sentence>[ab]\d{2})(?P<emotion>[WLEAFTN])(?P<take>[a-z])"),
        {
            **{"W": "angry", "L": "bored", "E": "disgust", "A": "fearful", "F": "happy"},
            **{"T": "sad", "N": "neutral"},
        },
        lambda parts: {"sex": "female" if parts["speaker"] in FEMALE_IN_EMODB else "male"},
    ),
    Corpus(
        "savee",
        "Haq & Jackson 2010, http://kahlan.eps.surrey.ac.uk/savee",
        re.compile(r"(?:[^/]*/)?(?P<speaker>DC|JE|JK|KL)[_/](?P<emotion>a|d|f|h|n|sa|su)(?P<sentence>\d{2})"),
        {
            **{"a": "angry", "d": "disgust", "f": "fearful", "h": "happy", "n": "neutral"},
            **{"sa": "sad", "su": "surprised"},
        },
    ),
    Corpus(
        "tess",
        "Pichora-Fuller & Dupuis 2020, https://doi.org/10.5683/SP2/E8H2MF",
        _names(r"(?P<speaker>OAF?|YAF)_(?P<sentence>[A-Za-z]+)_(?P<emotion>[a-z]+)"),
        {
            **{name: name for name in ("angry", "disgust", "happy", "neutral", "sad")},
            **{"fear": "fearful", "ps": "surprised", "surprise": "surprised"},
        },
        # The name of one file begins with OA instead of OAF.
        lambda parts: {"speaker": "YAF" if parts["speaker"] == "YAF" else "OAF", "sex": "female"},
    ),
)
"""Corpora whose file names give speaker and emotion."""

MELD = {
    **{"anger": "angry", "disgust": "disgust", "fear": "fearful", "joy": "happy", "neutral": "neutral"},
    **{"sadness": "sad", "surprise": "surprised"},
}
IEMOCAP = {
    **{"ang": "angry", "hap": "happy", "sad": "sad", "neu": "neutral", "fru": "frustrated", "exc": "excited"},
    **{"fea": "fearful", "sur": "surprised", "dis": "disgust", "oth": None, "xxx": None},
}


@dataclass
class Found:
    """
    The clips of a corpus.

    Args:
        rows: One row per clip, with `clip`, `audio` and `video` (paths, or `None`), `label`, `group`, `corpus` and
            the corpus's further columns.
        skipped: `path` and `reason` of files with another name, and of clips without a file or an agreed label.
    """

    rows: pd.DataFrame
    skipped: list[dict[str, str]]


def read_corpus(root: Path, form: TableFormat | None = None) -> Found | None:
    """
    The clips of a folder that has the layout of a known corpus, at any depth; `None` if it matches no corpus.

    Args:
        root: Folder to read.
        form: Encoding and delimiter of the corpus's tables.

    Raises:
        DataError: none of the clips that the corpus's tables name exists, or a table names an unknown emotion.
    """
    if tables := {split: file for file in sorted(root.rglob("*.csv")) if (split := SENTENCES_OF_MELD.get(file.stem))}:
        return read_meld(root, tables, form)
    if evaluations := sorted(root.rglob("dialog/EmoEvaluation/*.txt")):
        return read_iemocap(root, evaluations)
    files = sorted(file for file in visible_files(root) if file.suffix.lower() in CLIP_SUFFIXES)
    counts = {corpus.name: sum(corpus.parse(file) is not None for file in files) for corpus in BY_NAME}
    best = max(BY_NAME, key=lambda corpus: counts[corpus.name])
    return read_by_name(best, files) if 2 * counts[best.name] > len(files) else None


def read_by_name(corpus: Corpus, files: list[Path]) -> Found:
    """The clips whose names fit a corpus; a sound file and a video of one name, in any folders, are one clip."""
    clips: dict[str, dict[str, Any]] = {}
    skipped = []
    for file in files:
        parts = corpus.parse(file)
        if parts is None or parts["emotion"] not in corpus.emotions:
            skipped.append({"path": str(file), "reason": f"the file name does not fit {corpus.name}"})
            continue
        parts |= corpus.more(parts)
        label, speaker = corpus.emotions[parts.pop("emotion")], parts.pop("speaker")
        clip = f"{speaker}_{file.stem}" if speaker not in file.stem else file.stem
        row = clips.setdefault(clip, {"clip": clip, "label": label, **_whose(corpus.name, speaker), **parts})
        row["audio" if file.suffix.lower() in SOUND_SUFFIXES else "video"] = str(file)
    return Found(_table(clips.values()), skipped)


def read_meld(root: Path, tables: dict[str, Path], form: TableFormat | None = None) -> Found:
    """
    MELD (Poria et al. 2019, https://doi.org/10.18653/v1/P19-1050): utterances of a TV series, with its own splits.

    Its speakers occur in all of these splits, which therefore need a leaky protocol.

    Args:
        root: Folder with one folder of clips `dia<n>_utt<m>.mp4` per split.
        tables: Split -> path of its `*_sent_emo.csv`.
        form: Encoding and delimiter of the tables.

    Raises:
        DataError: no clip of the tables exists, or a table names an unknown emotion.
    """
    rows, skipped = [], []
    for split, table in tables.items():
        folder = {"train": "train", "validation": "dev", "test": "test"}[split]
        clips = {file.stem: str(file) for file in root.rglob("dia*_utt*.mp4") if folder in str(file.parent).lower()}
        for clip, label, speaker in _utterances_of_meld(table, form):
            if clip in clips:
                person = _whose("meld", speaker)
                rows.append({"clip": clip, "video": clips[clip], "label": label, **person, "split": split})
            else:
                skipped.append({"path": f"{table}: {clip}", "reason": f"there is no {clip}.mp4 in {folder}"})
    if not rows:
        raise DataError(f"{root}: has MELD's tables, but none of their clips (dia0_utt0.mp4 in a folder per split).")
    return Found(_table(rows), skipped)


def _utterances_of_meld(path: Path, form: TableFormat | None) -> Iterator[tuple[str, str, str]]:
    """Clip, label and speaker of each row of a table."""
    table = read_table(path, form)
    names = ("dialogue_id", "utterance_id", "emotion", "speaker")
    columns = [table[need_column(table, (name,), name, str(path))] for name in names]
    for number, (dialogue, utterance, emotion, speaker) in enumerate(zip(*columns, strict=True), start=1):
        if str(emotion).lower() not in MELD:
            raise DataError(f"{path}: row {number} has the emotion {emotion!r}; MELD's are {', '.join(MELD)}.")
        yield f"dia{dialogue}_utt{utterance}", MELD[str(emotion).lower()], str(speaker)


def read_iemocap(root: Path, evaluations: list[Path]) -> Found:
    """
    IEMOCAP (Busso et al. 2008, https://doi.org/10.1007/s10579-008-9076-6): the sound of each utterance.

    Its videos show whole dialogues with both speakers, and are not used. Utterances whose judges did not agree (`xxx`)
    or named another emotion (`oth`) are left out.

    Args:
        root: Folder that contains `Session1` ... `Session5`.
        evaluations: Paths of the sessions' `dialog/EmoEvaluation/*.txt`.

    Raises:
        DataError: no utterance of the evaluations can be used.
    """
    sounds = {file.stem: str(file) for file in root.rglob("sentences/wav/*/*") if not file.name.startswith(".")}
    rows, skipped = [], []
    for evaluation in evaluations:
        for match in LINE_OF_IEMOCAP.finditer(evaluation.read_text(encoding="utf-8", errors="replace")):
            clip, label = match["clip"], IEMOCAP.get(match["emotion"])
            if label is None or clip not in sounds:
                why = "its judges agreed on no class" if clip in sounds else "there is no such file in sentences/wav"
                skipped.append({"path": sounds.get(clip, f"{evaluation}: {clip}"), "reason": why})
                continue
            speaker = clip[:5] + clip.rsplit("_", 1)[1][0]
            person = _whose("iemocap", speaker) | {"sex": "female" if speaker[-1] == "F" else "male"}
            rows.append({"clip": clip, "audio": sounds[clip], "label": label, **person})
    if not rows:
        raise DataError(f"{root}: has IEMOCAP's evaluations, but none of their files in sentences/wav.")
    return Found(_table(rows), skipped)


def _whose(corpus: str, speaker: str) -> dict[str, str]:
    return {"group": f"{corpus}-{speaker}", "corpus": corpus}


def _table(rows: Any) -> pd.DataFrame:
    """The rows with both columns of paths; a clip without a sound file later gets the sound of its video."""
    table = pd.DataFrame(list(rows))
    for kind in ("audio", "video"):
        table[kind] = optional_column(table.get(kind, pd.Series(index=table.index, dtype=object)), table.index)
    return table
