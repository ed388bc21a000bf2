"""How run.py trains csr: its data, model, metrics and report, stage by stage."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback, ViTImageProcessor
from transformers.utils import IMAGE_PROCESSOR_NAME

from hf_fer.data.augment import EpochClock
from hf_fer.data.copies import drop_copies
from hf_fer.data.loading import (
    DataError,
    LoadedData,
    is_leaky,
    to_splits,
)
from hf_fer.data.remarks import with_remarks
from hf_fer.data.sources import check_on_hub
from hf_fer.data.tables import TableFormat
from hf_fer.metrics.intervals import interval_metrics
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.reporting.report import CLASS_FIGURES, write_class_scores
from hf_fer.runtime.callbacks import EpochCallback
from hf_fer.runtime.checkpoints import has_folds, start_anew
from hf_fer.task.base import Task
from hf_fer.task.steps import leave_out, split_by_protocol, subset
from hf_fer.weights.starting_points import load_model, read

from ..backbone_csr import PRETRAINED, can_checkpoint
from ..configuration_csr import CONCEPTS, PROTOTYPES, TASK, TIMM, CsrConfig
from ..decoding_csr import IMAGE_SUFFIXES
from ..modeling_csr import BackboneKeysError, CsrForImageClassification
from ..pipeline_csr import ConceptImageClassificationPipeline
from ..processing_csr import CsrProcessor
from . import atlas
from . import report as findings
from .arguments import CsrDataArguments, CsrModelArguments
from .backbones import check_backbone, timm_statistics
from .class_images import read_class_images
from .concepts import ConceptData, read_concepts
from .demo import demo_data
from .demo_images import DEMO_IMAGES_NOTICE
from .explanations import ExplanationPage
from .image_augment import ImageAugmentation
from .images import ImageCollator, ImageTransform, Steering, drop_unusable, inspect_images, is_image, pixel_limit
from .start import check_sizes

logger = logging.getLogger(__name__)

MAX_POS_WEIGHT = 20.0

BEST_METRICS = {CONCEPTS: "concept_auroc", PROTOTYPES: "loss", TASK: "class_auroc"}

STAGE_METRICS = {
    CONCEPTS: ("concept_auroc", "concept_f1"),
    PROTOTYPES: ("prototype_cosine", "concept_auroc"),
    TASK: ("class_auroc", "macro_f1", "concept_auroc"),
}


def positive_weights(labels: np.ndarray) -> list[float]:
    """Negatives over positives of each concept, `(n, K)`, at most `MAX_POS_WEIGHT`; soft labels count as shares."""
    positives = labels.sum(axis=0)
    return np.minimum((len(labels) - positives) / positives, MAX_POS_WEIGHT).tolist()


class CsrTask(Task):
    """Concept-based similarity reasoning."""

    model_type = CsrConfig.model_type
    model_arguments = CsrModelArguments
    data_arguments = CsrDataArguments
    primary_metric = "class_auroc"
    hub_task = "image-classification"
    own_loss = "csr's losses have no smoothing"
    file_columns = ("path",)
    input_fields = (
        *("dataset", "image_folder", "boxes", "image_labels", "backbone_weights"),
        *("test_dataset", "test_image_folder", "test_boxes", "test_image_labels"),
    )
    file_fields = tuple(name for name in input_fields if name not in ("dataset", "backbone_weights"))
    pipeline_task = "concept-image-classification"
    shareable = (*Task.shareable, "per_concept.csv", *CLASS_FIGURES)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.metric_names = STAGE_METRICS[self.model_args.stage]
        self.clock = EpochClock()
        self.source: ConceptData | None = None
        self.model: CsrForImageClassification | None = None
        self.processor: CsrProcessor | None = None
        self.training_images: Dataset | None = None
        self.survey: atlas.Survey | None = None
        self.earlier_head: findings.Head | None = None

    @property
    def pipeline_tag(self) -> str | None:
        """Only stage 3 gives classes."""
        return self.hub_task if self.model_args.stage == TASK else None

    @classmethod
    def best_metric(cls, given: Callable[[str], Any]) -> str:
        stages = {str(stage): metric for stage, metric in BEST_METRICS.items()}
        return stages.get(str(given("stage") or CONCEPTS), cls.primary_metric)

    @classmethod
    def inspect(cls, path: str, form: TableFormat | None = None) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        return inspect_images(path, form)

    def check_arguments(self) -> None:
        super().check_arguments()
        args, stage = self.model_args, self.model_args.stage
        check_backbone(args)
        if args.model_name_or_path is None:
            if stage != CONCEPTS:
                raise RecipeError(
                    f"Stage {stage} starts from a stage-{stage - 1} checkpoint: set model_name_or_path to the "
                    "output_dir of the recipe before it."
                )
            return
        if self.data_args.fold == "all" and has_folds(args.model_name_or_path):
            return
        if self.data_args.fold == "all" and stage != CONCEPTS:
            raise RecipeError(
                f"Stage {stage} of fold 'all' starts each fold from the stage before of the same fold, and "
                f"{args.model_name_or_path} has no fold_0: a model of all the data has seen what it would be tested "
                "on. Run the stage before it with fold 'all', too."
            )
        if args.backbone_weights:
            raise RecipeError("backbone_weights is for a new model; model_name_or_path brings its own.")
        found = self.checkpoint_config().stage
        allowed = {stage, max(stage - 1, 1)} if self.training_args.do_train else {stage}
        if found not in allowed:
            raise RecipeError(
                f"Stage {stage} cannot start from {args.model_name_or_path}, a stage-{found} checkpoint: "
                + findings.WHY_NOT.get((stage, found), "it has come further already.")
            )

    def checkpoint_config(self) -> CsrConfig:
        """The configuration of `model_name_or_path`; raises RecipeError where there is none."""
        path = self.model_args.model_name_or_path
        check_on_hub("model_name_or_path", path)
        try:
            # A folder without config.json would come out as the defaults.
            found = CsrConfig.get_config_dict(path)[0].get("model_type")
            if found == CsrConfig.model_type:
                return read(CsrConfig.from_pretrained, path)
        except (OSError, ValueError) as error:
            raise RecipeError(f"model_name_or_path: {path} has no csr model ({error}).") from error
        raise RecipeError(f"model_name_or_path: {path} has no csr model, but {found or 'no config.json'}.")

    def can_checkpoint(self) -> bool:
        start = self.model_args.model_name_or_path
        of_all_data = start and not has_folds(start)
        return can_checkpoint(self.checkpoint_config().backbone if of_all_data else self.model_args.backbone)

    def read_source(self) -> tuple[ConceptData, str, list[str]]:
        """Rows with a `split` column, the protocol's name, and notes."""
        args = self.data_args
        path, form, notes = args.dataset, args.form, []
        if args.dataset == "demo":
            (path, form), notes = demo_data(), [DEMO_IMAGES_NOTICE]
        if Path(path).is_dir():
            best = self.training_args.metric_for_best_model
            findings.check_class_folder(path, self.model_args.stage, args.test_dataset, best)
            self.metric_names = tuple(name for name in self.metric_names if not name.startswith("concept_"))
            data = read_class_images(Path(path), is_image)
        else:
            data = read_concepts(path, form, IMAGE_SUFFIXES)
        found = split_by_protocol(self, data.rows)
        data.rows = found.rows
        return data, found.protocol, [*notes, *data.notes, *found.notes]

    def starting_points(self) -> list[str]:
        weights = self.model_args.backbone_weights
        return [*super().starting_points(), *([weights] if weights and weights != PRETRAINED else [])]

    def load_data(self) -> LoadedData:
        args = self.data_args
        source, protocol, notes = self.read_source()
        rows, copies = drop_copies(source.rows, self.file_columns, leaky=is_leaky(protocol))
        rows = subset(self, rows)
        total = len(rows)
        rows, skipped, depths = drop_unusable(rows, source.concepts, args.check_workers, self.max_pixels)
        leave_out(self, skipped, total)
        if rows.empty:
            raise DataError(f"{args.dataset}: no usable images are left.")
        source = dataclasses.replace(source, rows=rows)
        if self.model_args.model_name_or_path:
            known = list(self.checkpoint_config().id2label.values())
            source = findings.order_classes(source, known, self.training_args.do_train)
        self.source, dropped = self.choose_concepts(source)
        notes += [note for note in (*copies, depths, dropped) if note]
        absent = {name: "the table has none" for name in ("validation", "test") if name not in set(rows["split"])}
        rows = self.source.rows.rename(columns={"targets": "labels"})
        data = LoadedData(to_splits(rows), self.source.classes, protocol, skipped, notes, absent)
        return with_remarks(data, learns_classes=self.model_args.stage == TASK and not source.multi_label)

    def choose_concepts(self, source: ConceptData) -> tuple[ConceptData, str | None]:
        """
        The concepts of the checkpoint, or those with enough training images, and a note on those dropped.

        Raises:
            DataError: the data lacks a concept of the checkpoint, or one has no positive or no negative to learn from.
        """
        if not source.knows_concepts:
            return findings.with_unknown_concepts(source, self.checkpoint_config().concepts), findings.NO_CONCEPTS
        if self.model_args.model_name_or_path:
            known = self.checkpoint_config().concepts
            missing = [name for name in known if name not in source.concepts]
            if missing:
                raise DataError(
                    f"{self.data_args.dataset}: has no labels for {missing}, which "
                    f"{self.model_args.model_name_or_path} was trained on."
                )
            return findings.select_concepts(source, known), None
        train = source.rows[source.rows["split"] == "train"]
        if train.empty:
            return source, None
        labels = np.array(train["concept_labels"].tolist())
        counts = dict(zip(source.concepts, (labels >= 0.5).sum(axis=0).tolist(), strict=True))
        least = self.data_args.min_concept_images
        rare = [name for name, count in counts.items() if count < least]
        kept = [name for name in source.concepts if name not in rare]
        useless = [name for name in kept if counts[name] in (0, len(train))]
        if useless or not kept:
            raise DataError(
                f"{self.data_args.dataset}: {useless or rare} cannot be learnt: of {len(train)} training images, "
                f"{[counts[name] for name in useless or rare]} show it. Leave it out of --concepts, or have rare ones "
                "dropped by --min_concept_images."
            )
        note = f"Dropped, with fewer than {least} training images: " + ", ".join(f"{n} ({counts[n]})" for n in rare)
        return findings.select_concepts(source, kept), f"{note}." if rare else None

    @property
    def max_pixels(self) -> int:
        return pixel_limit(self.data_args.max_pixels, self.model_args.model_name_or_path)

    def build_processor(self, data: LoadedData) -> CsrProcessor:
        """The checkpoint's processor, which knows how its model was trained, or a new one."""
        if self.model_args.model_name_or_path:
            return self.checkpoint_processor(self.model_args.model_name_or_path)
        side = self.data_args.image_size
        images = ViTImageProcessor(size={"height": side, "width": side}, **self.channel_statistics())
        return CsrProcessor(images, self.max_pixels)

    def checkpoint_processor(self, path: str) -> CsrProcessor:
        """The checkpoint's; raises `RecipeError` where the recipe asks for other pixels."""
        processor = CsrProcessor.from_pretrained(path)
        processor.max_pixels = self.max_pixels
        images = processor.image_processor
        stored = {
            "image_size": images.size["height"],
            "image_mean": list(images.image_mean),
            "image_std": list(images.image_std),
        }
        self.check_settled(path, stored)
        return processor

    def channel_statistics(self) -> dict[str, list[float]]:
        """`image_mean` and `image_std` of the recipe, or else of the pretrained backbone's own folder, or of timm."""
        args, found = self.data_args, {}
        if self.model_args.backbone_weights:
            weights = Path(self.model_args.backbone_weights)
            beside = (weights if weights.is_dir() else weights.parent) / IMAGE_PROCESSOR_NAME
            if beside.is_file():
                found = json.loads(beside.read_text(encoding="utf-8"))
            elif self.model_args.backbone.startswith(TIMM):
                found = timm_statistics(self.model_args.backbone)
        given = {"image_mean": args.image_mean, "image_std": args.image_std}
        chosen = {name: value or found.get(name) for name, value in given.items()}
        return {name: value for name, value in chosen.items() if value}

    def build_model(self, data: LoadedData, processor: CsrProcessor) -> PreTrainedModel:
        args = self.model_args
        valid = {item.name for item in dataclasses.fields(CsrConfig)}
        for name in args.config_overrides:
            check_choice("config_overrides field", name, valid)
        config = self.make_config(data)
        if args.model_name_or_path:
            self.model = self.load(config, data.labels)
        else:
            self.model = self.new_model(config)
        for part in args.freeze or []:
            check_choice("freeze part", part, dict(self.model.named_children()))
            getattr(self.model, part).requires_grad_(False)
        self.model.train(self.model.training)
        return self.model

    def make_config(self, data: LoadedData) -> CsrConfig:
        """The checkpoint's configuration or a new one, with what the recipe and the data say."""
        args = self.model_args
        names = dict(enumerate(data.labels))
        fields: dict[str, Any] = {
            "id2label": names,
            "label2id": {name: index for index, name in names.items()},
            "problem_type": f"{'multi' if self.source.multi_label else 'single'}_label_classification",
            "stage": args.stage,
            **({"attn_implementation": args.attn_implementation} if args.attn_implementation else {}),
            **args.config_overrides,
        }
        if args.model_name_or_path:
            before = self.checkpoint_config().to_dict()
            check_sizes(args.model_name_or_path, before, args.config_overrides)
            fields = {**before, **fields, "backbone_config": before["backbone_config"]}
        else:
            sized = {} if args.backbone == "resnet50" else {"image_size": self.data_args.image_size}
            fields |= {"backbone": args.backbone, "concepts": self.source.concepts}
            fields["backbone_config"] = {**sized, **fields.get("backbone_config", {})}
        if args.stage == CONCEPTS and "train" in data.splits:
            fields["pos_weight"] = positive_weights(np.array(data.splits["train"]["concept_labels"]))
        try:
            return CsrConfig(**fields)
        except (StrictDataclassError, ValueError, TypeError) as error:
            raise RecipeError(f"config_overrides: {error}") from error

    def new_model(self, config: CsrConfig) -> CsrForImageClassification:
        """A new model, its backbone pretrained where the recipe says so."""
        if self.model_args.backbone_weights is None:
            return CsrForImageClassification(config)
        try:
            return CsrForImageClassification.from_backbone_pretrained(self.model_args.backbone_weights, config)
        except BackboneKeysError as error:
            raise RecipeError(f"backbone_weights: {error}") from error

    def load(self, config: CsrConfig, labels: list[str]) -> CsrForImageClassification:
        """The checkpoint's model; its classifier starts anew where the classes are others and it is to be trained."""
        path, before = self.model_args.model_name_or_path, self.checkpoint_config()
        known = list(before.id2label.values())
        if known != labels and not self.training_args.do_train:
            raise DataError(f"{path} knows the classes {known}, the data has {labels}: it cannot be scored on them.")
        if known != labels:
            logger.warning(
                "%s knows the classes %s, the data has %s: its classifier starts anew.", path, known, labels
            )
        # What stage 1 does not train may have another size from stage 2 on.
        later = {"prototypes", "projector", "classifier"}
        heads = later if before.stage == CONCEPTS else {"classifier"} if known != labels else set()
        model = load_model(
            CsrForImageClassification,
            path,
            config=config,
            anew=lambda name: name.partition(".")[0] in heads,
        )
        if known != labels:
            start_anew(model.classifier)
        if before.stage == TASK and known == labels and self.training_args.do_train:
            self.earlier_head = findings.Head.of(model, before)
        return model

    def with_transforms(self, splits: DatasetDict, processor: CsrProcessor) -> DatasetDict:
        args, self.processor = self.data_args, processor
        plain = ImageTransform(processor, self.skipped_file)
        augmentation = ImageAugmentation(**args.augmentation) if args.augment else None
        augmented = ImageTransform(processor, self.skipped_file, augmentation, self.training_args.seed, self.clock)
        if "train" in splits and self.source.knows_concepts:
            self.training_images = splits["train"].with_transform(plain)
        return DatasetDict(
            {split: data.with_transform(augmented if split == "train" else plain) for split, data in splits.items()}
        )

    def collator(self, processor: CsrProcessor) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return ImageCollator(processor)

    def callbacks(self) -> list[TrainerCallback]:
        return [EpochCallback(self.clock)]

    def evaluation_views(self, data: Dataset) -> dict[str, Dataset]:
        """In stage 3, where there are boxes: the same images looked at inside these, and without what they cover."""
        if self.model_args.stage != TASK or not any(data.with_format(None)["boxes"]):
            return {}
        processor = data.format["format_kwargs"]["transform"].processor
        size = processor.image_processor.size
        grid = self.model.grid(size["height"], size["width"])
        return {
            f"{kind}_boxes": data.with_transform(
                ImageTransform(processor, self.skipped_file, steering=Steering(kind, grid))
            )
            for kind in ("positive", "negative")
        }

    def full_metrics(self, prediction: EvalPrediction, labels: list[str]) -> dict[str, Any]:
        scored = findings.Scored.of(prediction, self.model.config)
        metrics = findings.concept_metrics(scored, self.model.config.concepts)
        if scored.stage >= PROTOTYPES:
            metrics |= findings.diversity(self.model)
        if scored.stage == TASK:
            metrics |= findings.class_metrics(scored.logits, scored.labels, labels)
        return metrics

    def detail_metrics(
        self, split: str, rows: Dataset, prediction: EvalPrediction, model: PreTrainedModel
    ) -> dict[str, Any]:
        """Intervals over patients of what single-label classes score."""
        scored = findings.Scored.of(prediction, self.model.config)
        if scored.stage != TASK or scored.labels.ndim > 1:
            return {}
        read, table = scored.readable, rows.to_pandas()
        groups = table["group"][read] if "group" in table else None
        return interval_metrics(scored.logits.argmax(axis=1)[read], scored.labels[read], groups)

    def split_metrics(
        self, split: str, data: Dataset, prediction: EvalPrediction, labels: list[str]
    ) -> dict[str, Any]:
        """Also the Pointing Game where there are boxes, and in stage 3 what an expert's corrections would change."""
        scored = findings.Scored.of(prediction, self.model.config)
        metrics = self.full_metrics(prediction, labels)
        metrics |= findings.pointing(scored, list(data.with_format(None)["boxes"]), self.model)
        if scored.stage >= PROTOTYPES:
            self.take_survey()
        if scored.stage == TASK and scored.has_concepts:
            metrics |= findings.intervention_metrics(scored, self.model, labels, self.earlier_head)
        return metrics

    def take_survey(self) -> None:
        """Look once through images that this run trained on with their concepts, for atlas and training means."""
        if self.survey is None and self.training_args.do_train and self.training_images is not None:
            self.survey = atlas.survey(self.model, self.training_images, self.training_args.per_device_eval_batch_size)
            self.model.config.similarity_means = self.survey.means()
            self.model.config.atlas = self.survey.atlas()

    def write_artifacts(self, folder: Path, data: LoadedData, results: dict[str, dict[str, Any]]) -> dict[str, str]:
        captions = {}
        if results:
            findings.write_per_concept(folder / "per_concept.csv", results)
            captions["per_concept.csv"] = "AUROC, F1, support and Pointing Game by split and concept."
        if any("confusion_matrix" in metrics for metrics in results.values()):
            captions |= write_class_scores(folder, results, data.labels)
        if self.survey is not None:
            self.model.config.save_pretrained(self.training_args.output_dir)
            atlas.write_page(folder / "atlas", self.model, self.survey, self.processor.max_pixels)
            captions["atlas/index.html"] = "Each prototype beside the training patch that is most similar to it."
        if results and self.model_args.stage == TASK:
            split = "test" if "test" in results else "validation"
            self.write_explanations(folder, split, data.splits[split])
            captions["explanations/index.html"] = f"Why the model answers as it does, for images of the {split} split."
        return captions

    def write_explanations(self, folder: Path, split: str, rows: Dataset) -> None:
        """The page of a split's explanations, in a folder of its own."""
        model = self.model.eval()
        explain = ConceptImageClassificationPipeline(model=model, processor=self.processor, device=model.device)
        # Without a survey of this run, the training images of these names may be others.
        sources = folder / "atlas" if self.survey is not None else None
        ExplanationPage(folder / "explanations", explain, sources, self.skipped_file).write(split, rows)

    def card_example(self, repo_id: str) -> str:
        return (
            "import hf_fer  # or pass trust_remote_code=True to pipeline\n"
            "from transformers import pipeline\n\n"
            f'explain = pipeline("concept-image-classification", model="{repo_id}")\n'
            'answer = explain("image.png", top_concepts=3)\n'
            'explain("image.png", reject=[answer["concepts"][0]["concept"]])  # what if it is not there?'
        )
