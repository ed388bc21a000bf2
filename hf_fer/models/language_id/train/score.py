"""language_id's report of a split, and the temperature and threshold that are fitted on validation."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import expit
from transformers import PreTrainedTokenizerBase

from hf_fer.metrics import calibration
from hf_fer.metrics.scored import Scored
from hf_fer.reporting.confidence import fitted_temperature
from hf_fer.runtime.evaluation_order import evaluation_order
from hf_fer.task.base import Task
from hf_fer.task.classification import ClassificationReport, add_predictions, report_of_classes
from hf_fer.task.scoring import Evaluation, with_extra

from ..pipeline_language_id import TextLanguageIdentificationPipeline
from ..windows_language_id import familiarity, pool_windows, typical_margins
from . import report as findings
from .preprocessing import WindowSettings
from .texts import cut_words, evaluation_windows

MAX_WINDOWS = 64
WORD_VIEWS = {"single_words": 1, "word_pairs": 2}


@dataclass
class Fitted:
    """
    Settings of the pipeline that were fitted on validation texts.

    Args:
        settings: Fields of `config.language_id`.
        remarks: How temperature and threshold were fitted.
        warnings: Reason why no threshold was fitted.
    """

    settings: dict[str, Any]
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class LanguageReport(ClassificationReport):
    """
    The report of one split, with results that the reports of later splits use again.

    Args:
        fitted: Temperature and threshold, if this run fitted them.
    """

    fitted: Fitted | None = None


def windows(
    texts: list[str], labels: list[int], tokenizer: PreTrainedTokenizerBase, settings: WindowSettings
) -> Dataset:
    """The windows that the model is evaluated on."""
    return evaluation_windows(
        texts,
        labels,
        tokenizer,
        max_length=settings.max_length,
        overlap=settings.overlap,
        max_windows=MAX_WINDOWS,
    )


def score_split(task: Task, evaluation: Evaluation) -> LanguageReport:
    """Score whole texts, pooled over their windows; on validation, fit temperature and unknown threshold."""
    labels, config = evaluation.data.labels, evaluation.model.config
    scored = pooled(task, evaluation)
    fitted = fit(scored, evaluation, task.data_args.accepted_fraction)
    found = report_of_texts(evaluation.split, scored, labels, fitted)
    settings = config.language_id
    found.figures = with_extra(found.figures, task.training_args, scored.predicted, scored.labels)
    found.figures |= length_figures(scored) | {"samples": len(scored.labels)}  # texts, not windows
    found.figures["calibration"] = calibration.calibration_report(
        scored.log_probs, scored.labels, settings["temperature"]
    )
    found.figures["unknown"] = unknown_metrics(scored, evaluation)
    focus = [code for code in task.data_args.codes("focus_languages") if code in labels]
    if focus:
        found.figures["focus"] = findings.focus_metrics(scored, labels, focus)
    add_predictions(found, labels, settings["temperature"])
    found.tables |= findings.tables(
        evaluation.split, scored, labels, settings["temperature"], task.data_args.noise_confidence
    )
    found.views = {view: evaluation.look(view, inputs) for view, inputs in short_texts(task, evaluation).items()}
    return found


def report_of_texts(split: str, scored: Scored, labels: list[str], fitted: Fitted | None) -> LanguageReport:
    """Scores by language with confidence intervals over sources, and remarks on temperature and threshold."""
    classes = report_of_classes(split, scored, labels, scored.rows.get("source"))
    found = LanguageReport(**vars(classes), fitted=fitted)
    if fitted:
        found.remarks += fitted.remarks
        found.warnings += fitted.warnings
    return found


def pooled(task: Task, evaluation: Evaluation) -> Scored:
    """The split's texts with scores pooled over windows, after undoing the order of length-grouped evaluation."""
    inputs, prediction = evaluation.inputs, evaluation.prediction
    order = evaluation_order(task.training_args, list(inputs["length"]))
    if not np.array_equal(np.array(inputs["labels"])[order], prediction.label_ids):
        raise RuntimeError("The Trainer evaluated in an order that is not LengthGroupedSampler's.")
    logits = np.empty_like(prediction.predictions)
    logits[order] = prediction.predictions
    rows = evaluation.rows.to_pandas()
    log_probs = pool_windows(logits, np.array(inputs["text"]), np.array(inputs["length"]), len(rows))
    return Scored(rows, rows["labels"].to_numpy(), log_probs)


def fit(scored: Scored, evaluation: Evaluation, accepted: float) -> Fitted | None:
    """Fits temperature and threshold on validation, once per model, and stores them in its configuration."""
    for earlier in evaluation.earlier.values():
        return earlier.fitted
    config = evaluation.model.config
    if evaluation.split != "validation" or config.language_id["typical_margins"] is not None:
        return None
    fitted = calibrate(scored, accepted)
    config.language_id = {**config.language_id, **fitted.settings}
    return fitted


def calibrate(scored: Scored, accepted: float) -> Fitted:
    """
    Fit temperature and unknown threshold.

    Args:
        scored: Validation texts.
        accepted: Fraction of texts in known languages that should pass the threshold.
    """
    temperature, origin = fitted_temperature(scored)
    settings = {"temperature": temperature, "typical_margins": typical_margins(scored.log_probs)}
    texts, needed = len(scored.labels), calibration.examples_for_threshold(accepted)
    if texts < needed:
        warning = (
            f"No unknown threshold: {texts} validation texts are too few to fit one that {accepted:.0%} of texts "
            f"pass; {needed} are needed. The pipeline answers with a language even for a text in none of them."
        )
        return Fitted({**settings, "unknown_threshold": 0.0}, [origin], [warning])
    known = familiarity(scored.log_probs, scored.predicted, settings["typical_margins"])
    threshold = float(expit(calibration.acceptance_threshold(known, accepted)))
    how = (
        f"The unknown threshold ({threshold:.3f}) was fitted on {texts:,} validation texts, of which "
        f"{accepted:.0%} pass it."
    )
    return Fitted({**settings, "unknown_threshold": threshold}, [origin, how])


def length_figures(scored: Scored) -> dict[str, Any]:
    """Number of texts, and accuracy and number of texts by length in characters."""
    lengths = findings.accuracy_by_length(scored)
    return {
        "texts": len(scored.rows),
        "by_length": dict(zip(lengths["characters"], lengths["accuracy"], strict=True)),
        "texts_by_length": dict(zip(lengths["characters"], lengths["texts"], strict=True)),
    }


def unknown_metrics(scored: Scored, evaluation: Evaluation) -> dict[str, Any]:
    """Fraction of known texts that pass the threshold, and how well held-out languages are told from known ones."""
    settings, held_out = evaluation.model.config.language_id, evaluation.data.own
    threshold, typical = settings["unknown_threshold"], settings["typical_margins"]
    known = expit(familiarity(scored.log_probs, scored.predicted, typical))
    metrics = {"threshold": threshold, "accepted": float((known >= threshold).mean())}
    if held_out.empty:
        return metrics
    identify = TextLanguageIdentificationPipeline(model=evaluation.model, tokenizer=evaluation.processor)
    log_probs = identify.log_probs(list(held_out["text"]))
    unknown = expit(familiarity(log_probs, log_probs.argmax(axis=1), typical))
    metrics |= {
        "auroc": calibration.unknown_auroc(known, unknown),
        "rejected_held_out": float((unknown < threshold).mean()),
    }
    for code, places in held_out.groupby("label").indices.items():
        metrics[f"auroc_{code}"] = calibration.unknown_auroc(known, unknown[places])
    return metrics


def short_texts(task: Task, evaluation: Evaluation) -> dict[str, Dataset]:
    """Single words and pairs of words of the same texts, drawn with `split_seed`."""
    rows, views, settings = evaluation.rows, {}, WindowSettings.of(task)
    for view, count in WORD_VIEWS.items():
        rng = random.Random(f"{task.data_args.split_seed} {view}")
        cut = [cut_words(text, count, rng) for text in rows["text"]]
        views[view] = windows(cut, list(rows["labels"]), evaluation.processor, settings)
    return views
