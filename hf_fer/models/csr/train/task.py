"""How run.py trains csr, stage by stage."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from datasets import DatasetDict
from transformers import EvalPrediction, PreTrainedModel

from hf_fer.data.augment import EpochClock
from hf_fer.data.loading import LoadedData
from hf_fer.data.tables import TableFormat
from hf_fer.runtime.checkpoints import has_folds
from hf_fer.task.base import Task
from hf_fer.task.classification import CLASS_FILES
from hf_fer.task.scoring import Evaluation, Trained
from hf_fer.task.settings import skipped_file

from ..backbone_csr import PRETRAINED, can_checkpoint
from ..configuration_csr import CONCEPTS, PROTOTYPES, TASK, CsrConfig
from ..processing_csr import CsrProcessor
from . import report as findings
from .arguments import CsrDataArguments, CsrModelArguments
from .building import make_model
from .image_augment import ImageAugmentation
from .images import ImageCollator, ImageTransform, inspect_images
from .preprocessing import make_processor
from .prototype_start import start_prototypes
from .score import CsrReport, score_split
from .source import load_images
from .start import check_start, checkpoint_config

BEST_METRICS = {CONCEPTS: "concept_auroc", PROTOTYPES: "loss", TASK: "class_auroc"}

STAGE_METRICS = {
    CONCEPTS: ("concept_auroc", "concept_f1"),
    PROTOTYPES: ("prototype_cosine", "concept_auroc"),
    TASK: ("class_auroc", "macro_f1", "concept_auroc"),
}


class CsrTask(Task):
    """Concept-based similarity reasoning."""

    model_type = CsrConfig.model_type
    model_arguments = CsrModelArguments
    data_arguments = CsrDataArguments
    primary_metric = BEST_METRICS[TASK]
    hub_task = "image-classification"
    own_loss = "csr's losses have no smoothing"
    file_columns = ("path",)
    weight_fields = ("backbone_weights",)
    input_fields = (
        *("dataset", "image_folder", "boxes", "image_labels", "backbone_weights"),
        *("test_dataset", "test_image_folder", "test_boxes", "test_image_labels"),
    )
    file_fields = tuple(name for name in input_fields if name not in ("dataset", "backbone_weights"))
    pipeline_task = "concept-image-classification"
    shareable = (*Task.shareable, "per_concept.csv", *CLASS_FILES)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        stage = self.model_args.stage
        self.metric_names = STAGE_METRICS[stage]
        self.primary_metric = BEST_METRICS[stage]
        self.pipeline_tag = self.hub_task if stage == TASK else None  # only stage 3 gives classes
        if self.model_args.backbone_weights == PRETRAINED:
            self.weight_fields = ()  # timm's default weights have no folder

    @classmethod
    def inspect(cls, path: str, form: TableFormat | None = None) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        return inspect_images(path, form)

    def check_arguments(self) -> None:
        super().check_arguments()
        check_start(self)

    def load_data(self) -> LoadedData:
        return load_images(self)

    def build_processor(self, data: LoadedData) -> CsrProcessor:
        return make_processor(self)

    def build_model(self, data: LoadedData, processor: CsrProcessor) -> PreTrainedModel:
        model = make_model(self, data)
        start_prototypes(self, data, processor, model)
        return model

    def with_transforms(self, data: LoadedData, processor: CsrProcessor, clock: EpochClock) -> DatasetDict:
        args, skipped = self.data_args, skipped_file(self)
        plain = ImageTransform(processor, skipped)
        augmentation = ImageAugmentation(**args.augmentation) if args.augment else None
        augmented = ImageTransform(processor, skipped, augmentation, self.training_args.seed, clock)
        return DatasetDict(
            {
                split: rows.with_transform(augmented if split == "train" else plain)
                for split, rows in data.splits.items()
            }
        )

    def collator(self, processor: CsrProcessor) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return ImageCollator(processor)

    def compute_metrics(self, prediction: EvalPrediction, trained: Trained) -> dict[str, float]:
        """The stage's metrics that the data allows: a folder of class subfolders has no concept labels."""
        scored = findings.Scored.of(prediction, trained.model.config)
        metrics = findings.all_metrics(scored, trained.model, trained.data.labels)
        logged = {name: metrics[name] for name in self.metric_names if name in metrics}
        return findings.with_added(logged, scored, self.training_args)

    def score(self, evaluation: Evaluation) -> CsrReport:
        return score_split(self, evaluation)

    def can_checkpoint(self) -> bool:
        start = self.model_args.model_name_or_path
        of_all_data = start and not has_folds(start)
        return can_checkpoint(checkpoint_config(start).backbone if of_all_data else self.model_args.backbone)

    def card_example(self, repo_id: str) -> str:
        return (
            "import hf_fer  # or pass trust_remote_code=True to pipeline\n"
            "from transformers import pipeline\n\n"
            f'explain = pipeline("concept-image-classification", model="{repo_id}")\n'
            'answer = explain("image.png", top_concepts=3)\n'
            'explain("image.png", reject=[answer["concepts"][0]["concept"]])  # what if it is not there?'
        )
