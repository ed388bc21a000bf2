"""csr's report of a split: figures, the atlas of the prototypes, and explanations of answers."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import Dataset

from hf_fer.metrics.intervals import interval_metrics
from hf_fer.task.base import Task
from hf_fer.task.classification import add_class_scores
from hf_fer.task.scoring import Evaluation, Plot, SplitReport, Table
from hf_fer.task.settings import skipped_file

from ..configuration_csr import PROTOTYPES, TASK
from ..modeling_csr import CsrForImageClassification
from ..pipeline_csr import ConceptImageClassificationPipeline
from ..processing_csr import CsrProcessor
from . import atlas
from . import report as findings
from .explanations import ExplanationPage
from .images import ImageTransform, Steering
from .start import checkpoint_config


@dataclass(kw_only=True)
class CsrReport(SplitReport):
    """
    The report of one split, with results that the reports of later splits use again.

    Args:
        survey: Survey of this run's training images, if it trained prototypes.
        earlier_head: The classifier that a retraining started from.
    """

    survey: atlas.Survey | None = None
    earlier_head: findings.Head | None = None


def score_split(task: Task, evaluation: Evaluation) -> CsrReport:
    """Figures of concepts and classes, the Pointing Game where there are boxes, atlas and explanations."""
    model, labels = evaluation.model, evaluation.data.labels
    scored = findings.Scored.of(evaluation.prediction, model.config)
    found = start_report(task, scored, evaluation)
    metrics = findings.all_metrics(scored, model, labels)
    found.figures |= findings.with_added(metrics, scored, task.training_args)
    found.figures |= findings.pointing(scored, list(evaluation.rows["boxes"]), model)
    if scored.stage == TASK and scored.has_concepts:
        found.figures |= findings.intervention_metrics(scored, model, labels, found.earlier_head)
    if scored.stage == TASK and scored.labels.ndim == 1:
        add_intervals(found, scored, evaluation.rows)
    if len(table := findings.concept_table(found.figures)):
        found.tables["per_concept.csv"] = Table(table, "AUROC, F1, support and Pointing Game by split and concept.")
    if "confusion_matrix" in found.figures:
        add_class_scores(found, evaluation.split, labels)
    add_pages(task, found, evaluation)
    if scored.stage == TASK and any(evaluation.rows["boxes"]):
        found.views = {name: evaluation.look(name, inputs) for name, inputs in steered(task, evaluation).items()}
    return found


def start_report(task: Task, scored: findings.Scored, evaluation: Evaluation) -> CsrReport:
    """A report with the survey and the earlier classifier, taken from an earlier split's report if there is one."""
    for earlier in evaluation.earlier.values():
        return CsrReport(figures={}, survey=earlier.survey, earlier_head=earlier.earlier_head)
    survey = take_survey(task, evaluation) if scored.stage >= PROTOTYPES else None
    return CsrReport(figures={}, survey=survey, earlier_head=retrained_head(task, evaluation))


def take_survey(task: Task, evaluation: Evaluation) -> atlas.Survey | None:
    """Compare this run's training images with the prototypes, once, for the atlas and the training means."""
    data, model = evaluation.data, evaluation.model
    if not (task.training_args.do_train and "train" in data.splits and data.own.knows_concepts):
        return None
    images = data.splits["train"].with_transform(ImageTransform(evaluation.processor, skipped_file(task)))
    survey = atlas.survey(model, images, task.training_args.per_device_eval_batch_size)
    model.config.similarity_means = survey.means()
    model.config.atlas = survey.atlas()
    return survey


def retrained_head(task: Task, evaluation: Evaluation) -> findings.Head | None:
    """The classifier of the stage-3 checkpoint that this run continued, if it has the same classes."""
    path = task.model_args.model_name_or_path
    if not (path and task.training_args.do_train):
        return None
    before = checkpoint_config(path)
    if before.stage != TASK or list(before.id2label.values()) != evaluation.data.labels:
        return None
    return findings.Head.of(CsrForImageClassification.from_pretrained(path), before)


def add_intervals(found: CsrReport, scored: findings.Scored, rows: Dataset) -> None:
    """Adds confidence intervals over patients, for single-label classes."""
    read, table = scored.readable, rows.to_pandas()
    groups = table["group"][read] if "group" in table else None
    drawn = interval_metrics(scored.logits.argmax(axis=1)[read], scored.labels[read], groups)
    found.remarks += drawn.pop("remarks")
    found.figures |= drawn


def add_pages(task: Task, found: CsrReport, evaluation: Evaluation) -> None:
    """The atlas of prototypes and, in stage 3, explanations, each in its own folder."""
    if found.survey is not None:
        found.plots["atlas/index.html"] = Plot(
            partial(draw_atlas, found.survey, evaluation.model, evaluation.processor),
            "Each prototype beside the training patch that is most similar to it.",
        )
    if evaluation.model.config.stage == TASK:
        found.plots["explanations/index.html"] = Plot(
            partial(draw_explanations, evaluation, found.survey is not None, skipped_file(task)),
            f"Why the model answers as it does, for images of the {evaluation.split} split.",
        )


def draw_atlas(survey: atlas.Survey, model: CsrForImageClassification, processor: CsrProcessor, path: Path) -> None:
    """The page of prototypes, with its pictures beside it."""
    atlas.write_page(path.parent, model, survey, processor.max_pixels)


def draw_explanations(evaluation: Evaluation, has_atlas: bool, skipped: Path, path: Path) -> None:
    """The page of a split's explanations, with its pictures beside it."""
    model = evaluation.model.eval()
    explain = ConceptImageClassificationPipeline(model=model, processor=evaluation.processor, device=model.device)
    # Without a survey of this run, the atlas in the folder may be of another run.
    sources = path.parents[1] / "atlas" if has_atlas else None
    ExplanationPage(path.parent, explain, sources, skipped).write(evaluation.split, evaluation.rows)


def steered(task: Task, evaluation: Evaluation) -> dict[str, Dataset]:
    """The same images, with the model steered to the inside of their boxes and to the outside."""
    processor = evaluation.processor
    size = processor.image_processor.size
    grid = evaluation.model.grid(size["height"], size["width"])
    return {
        f"{kind}_boxes": evaluation.rows.with_transform(
            ImageTransform(processor, skipped_file(task), steering=Steering(kind, grid))
        )
        for kind in ("positive", "negative")
    }
