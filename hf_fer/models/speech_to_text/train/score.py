"""speech_to_text's report of a split."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from transformers import EvalPrediction, PreTrainedTokenizerBase

from hf_fer.runtime.evaluation_order import evaluation_order
from hf_fer.task.base import Task
from hf_fer.task.scoring import Evaluation, SplitReport, with_extra
from hf_fer.task.settings import report_folder

from ..alignment_speech_to_text import text_of
from ..recognition_speech_to_text import Search
from .arguments import TRAINING_TRANSCRIPTS
from .blanks import advice, is_stuck
from .listening import listen
from .ngram import build_model, write_arpa
from .report import Recognised, plots_of, tables_of
from .vocabulary import encode
from .word_confidence import WordCalibration


@dataclass(frozen=True)
class Answers:
    """
    A model's texts and the transcripts, as far as the vocabulary can write them; both are empty for an unread file.

    Args:
        said, heard: Transcript and recognised text of each recording, in the order of evaluation.
        blank_share: Share of frames without padding whose best token is the blank.
    """

    said: list[str]
    heard: list[str]
    blank_share: float

    @classmethod
    def of(cls, prediction: EvalPrediction, tokenizer: PreTrainedTokenizerBase) -> "Answers":
        """Decodes the best token of each frame and the labels, `(recordings, frames)`; negative ones are padding."""
        frames, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        heard = [text_of(row[row >= 0], tokenizer) for row in frames]
        said = [tokenizer.decode(row[row >= 0].tolist(), group_tokens=False).strip() for row in labels]
        return cls(said, heard, float((frames[frames >= 0] == tokenizer.pad_token_id).mean()))

    def readable(self) -> "Answers":
        """The answers for files that could be read."""
        pairs = [pair for pair in zip(self.said, self.heard, strict=True) if pair[0]]
        return replace(self, said=[said for said, _ in pairs], heard=[heard for _, heard in pairs])

    def metrics(self) -> dict[str, Any]:
        """Error rates against the transcripts as far as the vocabulary can write them."""
        rows = pd.DataFrame({"transcript": self.said, "recognised": self.heard})
        return {**Recognised.of(rows).metrics(), "blank_share": self.blank_share}


@dataclass(kw_only=True)
class SpeechReport(SplitReport):
    """
    The report of one split, with results that the reports of later splits use again.

    Args:
        recognised: The recordings with their recognised texts.
    """

    recognised: Recognised


def score_split(task: Task, evaluation: Evaluation) -> SpeechReport:
    """Scores against the full transcripts, in which characters that the vocabulary lacks count as errors."""
    split, tokenizer = evaluation.split, evaluation.processor.tokenizer
    answers = Answers.of(evaluation.prediction, tokenizer)
    recognised = recognised_rows(task, evaluation, answers)
    drawn, seconds = recognised.intervals(), float(recognised.rows["seconds"].sum())
    found = SpeechReport(
        figures={**recognised.metrics(), "blank_share": answers.blank_share},
        remarks=drawn.pop("remarks"),
        recognised=recognised,
    )
    found.figures["real_time_factor"] = evaluation.prediction.metrics[f"{split}_runtime"] / seconds
    found.figures |= drawn
    rows = recognised.rows
    found.figures = with_extra(found.figures, task.training_args, rows["recognised"], rows["transcript"])
    if task.training_args.should_save:  # the first process writes the report
        add_hearing(task, found, evaluation)
    if is_stuck(answers.blank_share, recognised.words.rate):
        found.warnings.append(advice(answers.blank_share))
    found.tables = tables_of(split, recognised)
    earlier = {name: report.recognised for name, report in evaluation.earlier.items()}
    found.plots = plots_of({**earlier, split: recognised})
    return found


def add_hearing(task: Task, found: SpeechReport, evaluation: Evaluation) -> None:
    """Recognise the recordings one by one; adds each decoder's scores, and the confidence of words."""
    recognised = found.recognised
    recognised.heard = listen(
        evaluation.model,
        evaluation.processor,
        recognised.rows["audio"],
        searches(task, evaluation),
        task.data_args.max_seconds,
    )
    recognised.calibration = calibration_of(task, recognised, evaluation)
    found.remarks.append(recognised.calibration.remark)
    decoders = recognised.by_decoder()
    found.figures["inference_real_time_factor"] = decoders.pop("greedy")["real_time_factor"]
    found.figures |= decoders
    found.figures["word_confidence"] = recognised.word_figures()


def calibration_of(task: Task, recognised: Recognised, evaluation: Evaluation) -> WordCalibration:
    """
    Calibration of word confidences: fitted on the validation split of a training run, otherwise the stored one.

    A fitted calibration is written into the model's configuration.
    """
    earlier = evaluation.earlier.get("validation")
    if earlier is not None:
        return earlier.recognised.calibration
    if evaluation.split != "validation" or not task.training_args.do_train:
        return WordCalibration.stored(evaluation.model.config)
    right = recognised.word_confidence(1.0).right
    fitted = WordCalibration.fit(recognised.heard["greedy"].evidence, right, task.data_args.abstention_risk)
    fitted.put(evaluation.model.config)
    return fitted


def searches(task: Task, evaluation: Evaluation) -> dict[str, Search]:
    """The decoders that the report compares; with lm 'train', it first writes the language model."""
    path, args = report_folder(task) / "train.arpa", task.data_args
    if args.lm == TRAINING_TRANSCRIPTS:
        path.parent.mkdir(parents=True, exist_ok=True)
        spoken = [text.split() for text in evaluation.data.splits["train"]["transcript"]]
        write_arpa(build_model(spoken, args.lm_order), path)
    return args.searches(path)


def recognised_rows(task: Task, evaluation: Evaluation, answers: Answers) -> Recognised:
    """The recordings that could be read, with their recognised texts, in the order of the data."""
    rows = evaluation.inputs.with_format(None).to_pandas()
    order = evaluation_order(task.training_args, list(rows["length"]))
    said = np.array(answers.said)
    rows = rows.iloc[order].reset_index(drop=True).assign(recognised=answers.heard)
    read = said != ""
    check_order(rows["transcript"][read], said[read], evaluation.processor.tokenizer)
    return Recognised.of(rows[read].sort_values("index").reset_index(drop=True))


def check_order(transcripts: pd.Series, said: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `RuntimeError` if predictions belong to other rows than those they are compared with."""
    expected = [tokenizer.decode(encode(tokenizer, text), group_tokens=False).strip() for text in transcripts]
    if expected != list(said):
        raise RuntimeError("The Trainer evaluated in another order than that of the data.")
