"""Figures, tables and plots of a recogniser's report: errors of words, letters and tones, by length and speaker."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pandas as pd

from hf_fer.metrics.calibration import risk_coverage
from hf_fer.metrics.transcription import NOTHING, Errors, count_errors, error_interval
from hf_fer.reporting.confidence import plot_risk_coverage
from hf_fer.reporting.report import plot_confusion_matrix
from hf_fer.task.scoring import Plot, Table

from .listening import Heard
from .tones import LEVEL, TONES, base_letters, is_vietnamese, tones
from .word_confidence import WordCalibration, WordConfidence, buckets, word_figures

SECONDS = (1, 2, 5, 10, 20)
WORST = 10
MOST_CONFUSED = 100
SHOWN = 10


@dataclass
class Recognised:
    """
    A split with its recognised texts and their errors.

    Args:
        rows: `transcript`, `recognised`, `audio`, `seconds` and, if the data has them, `group` and `accent`.
        words, letters: Errors of each row.
        tones: Errors of the words' tones; `None` if the transcripts are not Vietnamese.
        heard: Output of each decoder on the recordings, one by one.
        calibration: Temperature and abstention threshold of the words' confidences.
    """

    rows: pd.DataFrame
    words: Errors
    letters: Errors
    tones: Errors | None
    heard: dict[str, Heard] = field(default_factory=dict)
    calibration: WordCalibration = field(default_factory=WordCalibration)

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "Recognised":
        """Counts the errors of a split's rows."""
        said, heard = list(rows["transcript"]), list(rows["recognised"])
        toned = count_errors([*map(tones, said)], [*map(tones, heard)]) if is_vietnamese(said) else None
        return cls(rows, count_errors(said, heard), count_errors(said, heard, characters=True), toned)

    def metrics(self) -> dict[str, Any]:
        """Error rates and counts, for Vietnamese also of tones and base letters."""
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
        """Confidence intervals of WER and CER, and a sentence about them as `remarks`."""
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
        """Each utterance with its edits, WER and, if recordings were decoded one by one, confidence."""
        errors = self.words.table
        rows = self.rows.assign(edits=self.words.edits.to_numpy(), wer=(self.words.edits / errors["units"]).to_numpy())
        return rows.assign(confidence=self.utterance_confidence()) if self.heard else rows

    def by_decoder(self) -> dict[str, dict[str, Any]]:
        """Decoder -> `metrics` of its texts, and its real-time factor on one recording after another."""
        seconds = float(self.rows["seconds"].sum())
        return {
            name: {
                **Recognised.of(self.rows.assign(recognised=heard.texts)).metrics(),
                "real_time_factor": heard.seconds / seconds,
            }
            for name, heard in self.heard.items()
        }

    def word_confidence(self, temperature: float | None = None) -> WordConfidence:
        """Word confidences of greedy decoding, at the fitted temperature unless another is given."""
        heard, chosen = self.heard["greedy"], self.calibration.temperature if temperature is None else temperature
        return WordConfidence.of(list(self.rows["transcript"]), heard.texts, heard.evidence, chosen)

    def word_figures(self) -> dict[str, Any]:
        """Figures of the word confidences before and after the temperature."""
        return word_figures(self.word_confidence(1.0), self.word_confidence(), self.calibration)

    def utterance_confidence(self) -> list[float]:
        """Confidence of each recording's words together, by greedy decoding."""
        return self.heard["greedy"].evidence.utterances(self.calibration.temperature)

    def alignments(self) -> str:
        """The ten worst and the ten median utterances, each with its transcript above the recognised text."""
        order = self.table().sort_values(["wer", "edits"], ascending=False, kind="stable").index
        middle = max((len(order) - SHOWN) // 2, 0)
        parts = {f"The {SHOWN} worst": order[:SHOWN], f"The {SHOWN} median": order[middle : middle + SHOWN]}
        return "\n".join(f"{title}\n{'=' * len(title)}\n\n{self.aligned(places)}" for title, places in parts.items())

    def aligned(self, places: pd.Index) -> str:
        """Utterances by index, each with its file and its transcript above the recognised text."""
        blocks = []
        for row in self.table().loc[places].itertuples():
            lines = jiwer.visualize_alignment(
                jiwer.process_words([row.transcript], [row.recognised]), show_measures=False, skip_correct=False
            )
            shown = [line for line in lines.splitlines() if line.startswith(("REF", "HYP", "   "))]
            blocks.append("\n".join([f"{row.audio}  WER {row.wer:.3f}", *shown, ""]))
        return "\n".join(blocks)


def length_buckets(seconds: pd.Series) -> pd.Series:
    """The bucket of each length: `up to 1 s`, ..., `over 20 s`, as an ordered category."""
    names = [f"up to {bound} s" for bound in SECONDS] + [f"over {SECONDS[-1]} s"]
    return pd.cut(seconds, [0, *SECONDS, np.inf], labels=names)


def tone_matrix(errors: Errors) -> tuple[np.ndarray, list[str]]:
    """Confusion matrix `(tones, tones)` of words that were recognised as a word, and the tones' names."""
    names = [LEVEL, *TONES.values()]
    matrix = np.zeros((len(names), len(names)), dtype=int)
    for (said, heard), count in errors.pairs.items():
        if NOTHING not in (said, heard):
            matrix[names.index(said), names.index(heard)] += count
    return matrix, names


def tables_of_hearing(last: Recognised, split: str) -> dict[str, Table]:
    """Tables of decoders and confidences, from recordings decoded one by one."""
    decoders = pd.DataFrame(last.by_decoder()).T.rename_axis("decoder").reset_index()
    utterances = buckets(last.utterance_confidence())
    return {
        "decoders.csv": Table(decoders, f"Scores of each decoder on {split}, on the same frames.", every_split=False),
        "word_confidence.csv": Table(
            last.word_confidence().table(),
            f"Share of right words of {split}, by their confidence.",
            every_split=False,
        ),
        "errors_by_confidence.csv": Table(
            last.by(utterances, "confidence"),
            f"WER on {split} by the confidence of the utterance.",
            every_split=False,
        ),
    }


def tables_of(split: str, found: Recognised) -> dict[str, Table]:
    """The tables of a split's report, by file name."""
    answers = found.table()
    tables = {
        "utterances.csv": Table(answers, "Recognised text and errors of every utterance."),
        "worst_utterances.csv": Table(
            answers.sort_values(["wer", "edits"], ascending=False).head(WORST),
            f"The {WORST} utterances of {split} with the highest WER.",
            every_split=False,
        ),
        "word_confusions.csv": Table(
            found.words.confusions().head(MOST_CONFUSED), f"Words mistaken for others on {split}.", every_split=False
        ),
        "letter_confusions.csv": Table(
            found.letters.confusions().head(MOST_CONFUSED),
            f"Letters mistaken for others on {split}, most frequent first; {NOTHING} is no letter.",
            every_split=False,
        ),
        "errors_by_length.csv": Table(
            found.by(length_buckets(found.rows["seconds"]), "length"),
            f"WER on {split} by the length of the recording.",
            every_split=False,
        ),
    }
    for column, name in (("group", "speaker"), ("accent", "accent"), ("corpus", "corpus")):
        if column in found.rows:
            by_value = found.by(found.rows[column], name)
            tables[f"errors_by_{name}.csv"] = Table(by_value, f"WER on {split} by {name}.", every_split=False)
    return {**tables, **tables_of_hearing(found, split)} if found.heard else tables


def plots_of(recognised: dict[str, Recognised]) -> dict[str, Plot]:
    """The plots of the last split's report, and the page of its alignments, by file name."""
    split, last = list(recognised.items())[-1]
    caption = f"The {SHOWN} worst and the {SHOWN} median utterances of {split}, aligned."
    plots = {"alignments.txt": Plot(partial(write_alignments, last), caption)}
    sure = {name: part.word_confidence() for name, part in recognised.items() if part.heard}
    if sure and all(len(words.confidence) for words in sure.values()):
        curves = {name: risk_coverage(words.confidence, words.right) for name, words in sure.items()}
        plots["word_risk_coverage.png"] = Plot(
            partial(plot_risk_coverage, curves=curves),
            "Error rate of words if only the most confident ones are kept.",
        )
    if last.tones is not None:
        matrix, names = tone_matrix(last.tones)
        draw = partial(plot_confusion_matrix, matrix=matrix, labels=names, percent=True, split=split)
        plots["tones.png"] = Plot(draw, f"Tones of {split} as they were recognised.")
    return plots


def write_alignments(found: Recognised, path: Path) -> None:
    """Write `Recognised.alignments`."""
    path.write_text(found.alignments(), encoding="utf-8")
