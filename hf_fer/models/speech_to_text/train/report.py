"""What the report of a recogniser says: errors of words, letters and tones, by length and by speaker."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_fer.metrics.transcription import NOTHING, Errors, count_errors, error_interval
from hf_fer.reporting.report import plot_confusion_matrix

from .tones import LEVEL, TONES, base_letters, is_vietnamese, tones

SECONDS = (1, 2, 5, 10, 20)
WORST = 10
MOST_CONFUSED = 100


@dataclass
class Recognised:
    """
    A split after evaluation.

    Args:
        rows: `transcript`, `recognised`, `audio`, `seconds` and, where the data has speakers, `group`.
        words, letters: Errors of each row.
        tones: Errors of the words' tones; `None` where the transcripts are not Vietnamese.
    """

    rows: pd.DataFrame
    words: Errors
    letters: Errors
    tones: Errors | None

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "Recognised":
        """A split from its rows."""
        said, heard = list(rows["transcript"]), list(rows["recognised"])
        toned = count_errors([*map(tones, said)], [*map(tones, heard)]) if is_vietnamese(said) else None
        return cls(rows, count_errors(said, heard), count_errors(said, heard, characters=True), toned)

    def metrics(self) -> dict[str, Any]:
        """Rates and counts; those of tones and base letters for Vietnamese."""
        totals = self.words.table.sum()
        found = {"wer": self.words.rate, "cer": self.letters.rate}
        found |= {name: int(totals[name]) for name in ("substitutions", "deletions", "insertions")}
        found["words"] = int(totals["units"])
        if self.tones is not None:
            said, heard = (self.rows[name].map(base_letters) for name in ("transcript", "recognised"))
            found["tone_error_rate"] = self.tones.rate
            found["base_letter_error_rate"] = count_errors([*said], [*heard], characters=True).rate
        return found

    def intervals(self) -> dict[str, Any]:
        """Intervals of both rates, and a sentence on them as `remarks`."""
        groups = self.rows.get("group")
        drawn = {name: error_interval(errors, groups) for name, errors in (("wer", self.words), ("cer", self.letters))}
        found = {f"{name}_ci95": part["interval"] for name, part in drawn.items() if part["interval"]}
        return {**found, "bootstrap": drawn["wer"]["bootstrap"], "remarks": [drawn["wer"]["remark"]]}

    def by(self, column: pd.Series, name: str) -> pd.DataFrame:
        """`utterances`, `words` and `wer` by the values of a column."""
        table = pd.DataFrame({name: column.to_numpy(), "words": self.words.table["units"], "edits": self.words.edits})
        grouped = table.groupby(name, sort=True, observed=True).agg(
            utterances=("words", "size"), words=("words", "sum"), edits=("edits", "sum")
        )
        return grouped.assign(wer=grouped["edits"] / grouped["words"]).reset_index()

    def table(self) -> pd.DataFrame:
        """Each utterance with its edits and WER."""
        errors = self.words.table
        return self.rows.assign(edits=self.words.edits.to_numpy(), wer=(self.words.edits / errors["units"]).to_numpy())


def length_buckets(seconds: pd.Series) -> pd.Series:
    """`up to 1 s`, ..., `over 20 s`, in this order."""
    names = [f"up to {bound} s" for bound in SECONDS] + [f"over {SECONDS[-1]} s"]
    return pd.cut(seconds, [0, *SECONDS, np.inf], labels=names)


def tone_matrix(errors: Errors) -> tuple[np.ndarray, list[str]]:
    """Counts of each tone recognised as each, of words that were recognised as a word; and the tones' names."""
    names = [LEVEL, *TONES.values()]
    matrix = np.zeros((len(names), len(names)), dtype=int)
    for (said, heard), count in errors.pairs.items():
        if NOTHING not in (said, heard):
            matrix[names.index(said), names.index(heard)] += count
    return matrix, names


def write_tables(folder: Path, recognised: dict[str, Recognised]) -> dict[str, str]:
    """
    Write tables and plots of the last split that was evaluated, and the utterances of all.

    Returns:
        File name -> caption.
    """
    split = list(recognised)[-1]
    last = recognised[split]
    parts = [part.table().assign(split=name) for name, part in recognised.items()]
    tables = {
        "utterances.csv": (pd.concat(parts), "What was recognised of every utterance."),
        "worst_utterances.csv": (
            last.table().sort_values(["wer", "edits"], ascending=False).head(WORST),
            f"The {WORST} utterances of {split} with the highest WER.",
        ),
        "word_confusions.csv": (last.words.confusions().head(MOST_CONFUSED), f"Words taken for others on {split}."),
        "letter_confusions.csv": (
            last.letters.confusions().head(MOST_CONFUSED),
            f"Letters taken for others on {split}, most frequent first; {NOTHING} is none.",
        ),
        "errors_by_length.csv": (
            last.by(length_buckets(last.rows["seconds"]), "length"),
            f"WER on {split} by the length of the recording.",
        ),
    }
    if "group" in last.rows:
        tables["errors_by_speaker.csv"] = (last.by(last.rows["group"], "speaker"), f"WER on {split} by speaker.")
    for name, (table, _) in tables.items():
        table.to_csv(folder / name, index=False, float_format="%.4f")
    captions = {name: caption for name, (_, caption) in tables.items()}
    if last.tones is not None:
        matrix, names = tone_matrix(last.tones)
        plot_confusion_matrix(folder / "tones.png", matrix, names, percent=True, split=split)
        captions["tones.png"] = f"Tones of {split} as they were recognised."
    return captions
