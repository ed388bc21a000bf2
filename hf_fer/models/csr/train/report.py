"""Figures of csr's report: concepts, classes, the Pointing Game, prototypes, and an expert's corrections."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, softmax
from torch import Tensor
from transformers import EvalPrediction

from hf_fer.data.loading import DataError
from hf_fer.data.remarks import class_order
from hf_fer.metrics.classification import classification_metrics
from hf_fer.metrics.localization import pointing_game
from hf_fer.metrics.multilabel import multilabel_metrics
from hf_fer.metrics.prototypes import prototype_diversity
from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.task.scoring import with_extra

from ..configuration_csr import PROTOTYPES, TASK, CsrConfig
from ..losses_csr import IGNORED
from ..modeling_csr import REPLACEMENTS, CsrForImageClassification
from .concepts import ConceptData

NO_CONCEPTS = "The data has no concept labels: the report leaves out scores of concepts and effects of corrections."


@dataclass
class Scored:
    """
    A split's predictions by name; outputs that the stage does not compute are `None`.

    Args:
        stage: Stage of the model.
        labels: Class indices `(n,)`, or targets `(n, classes)`; -100 marks an image that could not be read.
        concept_labels: `(n, K)`; a row of -100 marks an image that could not be read or has no concept labels.
        concept_logits, concept_peaks: `(n, K)` and `(n, K, 2)`.
        logits, similarities, similarity_peaks: `(n, classes)`, `(n, K, M)`, `(n, K, M, 2)`.
    """

    stage: int
    labels: np.ndarray
    concept_labels: np.ndarray
    concept_logits: np.ndarray
    concept_peaks: np.ndarray
    logits: np.ndarray | None = None
    similarities: np.ndarray | None = None
    similarity_peaks: np.ndarray | None = None

    @classmethod
    def of(cls, prediction: EvalPrediction, config: CsrConfig) -> "Scored":
        """From the Trainer's tuples, which are in the order of `CsrOutput` and of `forward`."""
        names = ["concept_logits", "concept_peaks"]
        if config.stage == TASK:
            names = ["logits", *names, "similarities", "similarity_peaks"]
        return cls(config.stage, *prediction.label_ids, **dict(zip(names, prediction.predictions, strict=True)))

    @property
    def readable(self) -> np.ndarray:
        """False for images that could not be read, `(n,)`."""
        return (self.labels != IGNORED).reshape(len(self.labels), -1).any(axis=1)

    @property
    def has_concepts(self) -> bool:
        """Whether any image has concept labels."""
        return bool((self.concept_labels != IGNORED).all(axis=1).any())


@dataclass
class Head:
    """A classifier as it was before this run: weight `(classes, K * M)`, bias, and kept prototypes `(K, M)`."""

    weight: Tensor
    bias: Tensor
    kept: Tensor

    @classmethod
    def of(cls, model: CsrForImageClassification, config: CsrConfig) -> "Head":
        """The classifier of a model, with the pruning of the configuration that it came with."""
        kept = torch.ones(config.num_concepts, config.num_prototypes, dtype=torch.bool)
        for concept, index in config.pruned_prototypes:
            kept[config.concepts.index(concept), index] = False
        return cls(model.classifier.weight.detach().cpu().clone(), model.classifier.bias.detach().cpu().clone(), kept)

    def logits(self, similarities: Tensor, kept: Tensor) -> np.ndarray:
        """Class scores of similarities `(n, K, M)` with these prototypes kept."""
        return ((similarities * kept).flatten(1) @ self.weight.T + self.bias).numpy()


def select_concepts(source: ConceptData, names: list[str]) -> ConceptData:
    """The same images with these concepts in this order; boxes of other concepts are dropped."""
    chosen = [source.concepts.index(name) for name in names]
    place = {old: new for new, old in enumerate(chosen)}
    rows = source.rows.assign(
        concept_labels=[[values[index] for index in chosen] for values in source.rows["concept_labels"]],
        boxes=[[[place[int(k)], *box] for k, *box in boxes if int(k) in place] for boxes in source.rows["boxes"]],
    )
    return dataclasses.replace(source, rows=rows, concepts=list(names))


def check_class_folder(folder: str, stage: int, test_dataset: str | None, best: str | None) -> None:
    """Raises `DataError` where a folder of class subfolders lacks what the recipe needs."""
    if stage != TASK:
        raise DataError(
            f"{folder}: a folder has no concept labels, which stages 1 and 2 learn from. Give a table with an image "
            "column and a column per concept, named by --concepts. A folder with one subfolder per class is enough "
            "for stage 3, which starts from a model that stage 2 has trained."
        )
    if test_dataset:
        raise DataError(f"test_dataset goes with a table: put the test images of {folder} in {folder}/test/CLASS/.")
    if best and best.removeprefix("eval_").startswith("concept_"):
        raise DataError(f"{folder}: a folder has no concept labels: metric_for_best_model cannot be {best}.")


def with_unknown_concepts(source: ConceptData, names: list[str]) -> ConceptData:
    """The same images with labels of -100 for these concepts, which no loss and no metric counts."""
    unknown = [[float(IGNORED)] * len(names) for _ in source.rows.index]
    return dataclasses.replace(source, rows=source.rows.assign(concept_labels=unknown), concepts=list(names))


def order_classes(source: ConceptData, known: list[str], training: bool) -> ConceptData:
    """
    The same images with classes in a checkpoint's order; see `class_order`.

    In multi-label data, classes of the checkpoint that the data lacks get targets of -100, which no loss and no metric
    counts.
    """
    order = class_order(source.classes, known, training)
    if order == source.classes:
        return source
    if source.multi_label:
        places = [source.classes.index(name) if name in source.classes else None for name in order]
        targets = [
            [float(IGNORED) if place is None else values[place] for place in places]
            for values in source.rows["targets"]
        ]
    else:
        targets = [order.index(source.classes[target]) for target in source.rows["targets"]]
    rows = source.rows.assign(targets=pd.Series(targets, index=source.rows.index, dtype=object))
    if not source.multi_label:
        rows["targets"] = rows["targets"].astype(int)
    return dataclasses.replace(source, rows=rows, classes=order)


def concept_metrics(scored: Scored, concepts: list[str]) -> dict[str, Any]:
    """AUROC and F1 of the concepts; empty where no image has concept labels."""
    if scored.readable.any() and not scored.has_concepts:
        return {}
    found = multilabel_metrics(expit(scored.concept_logits), scored.concept_labels, concepts)
    return {
        "concept_auroc": found["macro_auroc"],
        "concept_f1": found["macro_f1"],
        "concepts_scored": found["labels_scored"],
        "per_concept": found["per_label"],
    }


def class_metrics(logits: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, Any]:
    """AUROC (one class against the rest), F1 and other multi-label or single-label metrics; logits `(n, classes)`."""
    if labels.ndim == 2:
        spoken_of = (labels != IGNORED).any(axis=0)
        if spoken_of.any():
            logits, labels = logits[:, spoken_of], labels[:, spoken_of]
            names = [name for name, counts in zip(names, spoken_of, strict=True) if counts]
        found = multilabel_metrics(expit(logits), labels, names)
        found["class_auroc"], found["per_class"] = found.pop("macro_auroc"), found.pop("per_label")
        return found
    metrics = classification_metrics(logits.argmax(axis=1), labels, names)
    read = labels != IGNORED
    one_hot = np.eye(len(names), dtype=int)[labels[read]]
    auroc = multilabel_metrics(softmax(logits[read], axis=1), one_hot, names)["macro_auroc"]
    return {"class_auroc": auroc, **metrics}


def all_metrics(scored: Scored, model: CsrForImageClassification, labels: list[str]) -> dict[str, Any]:
    """All metrics that the predictions of the model's stage allow."""
    metrics = concept_metrics(scored, model.config.concepts)
    if scored.stage >= PROTOTYPES:
        metrics |= diversity(model)
    if scored.stage == TASK:
        metrics |= class_metrics(scored.logits, scored.labels, labels)
    return metrics


def with_added(metrics: dict[str, Any], scored: Scored, args: TrainingArguments) -> dict[str, Any]:
    """
    Metrics with the recipe's `extra_metrics`.

    Raises:
        DataError: there are `extra_metrics`, and the data is multi-label.
    """
    if not args.extra_metrics:
        return metrics
    if scored.labels.ndim > 1:
        raise DataError("extra_metrics need one class per image; leave them out for multi-label data.")
    read = scored.readable
    return with_extra(metrics, args, scored.logits.argmax(axis=1)[read], scored.labels[read])


def diversity(model: CsrForImageClassification) -> dict[str, float]:
    """How similar the prototypes of a concept are to each other."""
    return prototype_diversity(model.prototypes.detach().float().cpu().numpy())


def pointing(scored: Scored, boxes: list[list[list[float]]], model: CsrForImageClassification) -> dict[str, Any]:
    """
    The Pointing Game with the concept maps, and in stage 3 with the map of each concept's most similar prototype.

    Args:
        boxes: Boxes of each image, maybe none: (concept index, x0, y0, x1, y1), shares of the image.
    """
    boxes = [own if read else [] for own, read in zip(boxes, scored.readable, strict=True)]
    concepts = model.config.concepts
    with_maps = pointing_game(scored.concept_peaks, boxes, concepts)
    if with_maps is None:
        return {}
    metrics = {
        "pointing_game": with_maps["pointing_game"],
        "pointing_per_concept": {
            name: counts["hits"] / counts["maps"] for name, counts in with_maps["per_category"].items()
        },
    }
    if scored.stage == TASK:
        kept = model.kept.cpu().numpy()
        best = np.where(kept, scored.similarities, -np.inf).argmax(axis=-1)
        peaks = np.take_along_axis(scored.similarity_peaks, best[..., None, None], axis=2)[:, :, 0]
        metrics["prototype_pointing_game"] = pointing_game(peaks, boxes, concepts)["pointing_game"]
    return metrics


@torch.no_grad()
def intervention_metrics(
    scored: Scored, model: CsrForImageClassification, names: list[str], earlier: Head | None
) -> dict[str, Any]:
    """
    Class metrics after an expert's corrections, to compare with the report's metrics without corrections.

    `reject_*` rejects each concept that the model sees and the experts do not, `confirm` also confirms each that the
    experts see and the model does not. `earlier_*` are figures of the classifier that a retraining started from, with
    the prototypes that it kept and with those that are kept now.
    """
    seen, true = scored.concept_logits > 0, scored.concept_labels >= 0.5
    reject, confirm = (torch.from_numpy(mask) for mask in (seen & ~true, true & ~seen))
    similarities = torch.from_numpy(scored.similarities).float()

    def changed(reject: Tensor, confirm: Tensor | None, replacement: str) -> np.ndarray:
        device = model.classifier.weight.device
        moved = [None if tensor is None else tensor.to(device) for tensor in (similarities, reject, confirm)]
        return model.classify(model.intervene(*moved, replacement)).float().cpu().numpy()

    variants: dict[str, np.ndarray] = {}
    if model.config.similarity_means is not None:
        variants = {f"reject_{kind}": changed(reject, None, kind) for kind in REPLACEMENTS}
        variants["confirm"] = changed(reject, confirm, "absent")
    else:
        variants["reject_zero"] = changed(reject, None, "zero")
    if earlier is not None:
        variants["earlier_classifier"] = earlier.logits(similarities, earlier.kept)
        variants["earlier_classifier_pruned"] = earlier.logits(similarities, model.kept.cpu())
    numbers = {}
    for variant, logits in variants.items():
        found = class_metrics(logits, scored.labels, names)
        numbers[variant] = {name: found[name] for name in ("macro_f1", "class_auroc")}
    counted = torch.from_numpy(scored.readable)
    return {
        **numbers,
        "concepts_rejected": int(reject[counted].sum()),
        "concepts_confirmed": int(confirm[counted].sum()),
    }


def concept_table(figures: dict[str, Any]) -> pd.DataFrame:
    """One row per concept, with its scores and Pointing Game."""
    pointed = figures.get("pointing_per_concept", {})
    return pd.DataFrame(
        [
            {"concept": name, **scores, "pointing_game": pointed.get(name)}
            for name, scores in figures.get("per_concept", {}).items()
        ]
    )
