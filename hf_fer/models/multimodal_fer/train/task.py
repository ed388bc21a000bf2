"""How run.py trains multimodal_fer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from hf_fer.data import manifest
from hf_fer.data.augment import Augmentation, EpochClock
from hf_fer.data.loading import LoadedData
from hf_fer.data.tables import TableFormat
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.base import Task
from hf_fer.task.classification import ClassificationReport, ClassificationTask
from hf_fer.task.scoring import Evaluation
from hf_fer.task.settings import lora_settings, skipped_file

from ..configuration_multimodal_fer import MODALITIES, MultimodalFerConfig
from ..processing_multimodal_fer import MultimodalFerProcessor
from . import ravdess
from .arguments import MultimodalFerDataArguments, MultimodalFerModelArguments
from .building import make_model, make_processor
from .cache import ClipCaches
from .clips import ClipCollator, ClipTransform, clip_check, media_files, tracks
from .facts import card_example
from .preprocessing import new_processor
from .source import load_clips


def let_protocol_follow_data(task: Task) -> None:
    """
    Drop a RAVDESS protocol of the recipe if the data is not RAVDESS, because it is defined by RAVDESS' actors.

    Raises:
        RecipeError: the protocol was given on the command line.
    """
    args = task.data_args
    if args.protocol in manifest.PROTOCOLS or args.protocol not in ravdess.PROTOCOLS:
        return
    path = Path(args.dataset)
    other = args.is_table or args.is_on_hub or (path.is_dir() and not ravdess.is_ravdess(path))
    if not other:
        return
    if "protocol" in task.on_command_line:
        raise RecipeError(
            f"protocol {args.protocol!r} is for RAVDESS' actors, and {args.dataset} is "
            f"{'a folder of other clips' if path.is_dir() else 'a manifest'}: leave it out, or choose one of "
            f"{', '.join(manifest.PROTOCOLS)}."
        )
    args.protocol = None
    task.recipe.pop("protocol", None)


def frozen_encoders(args: MultimodalFerModelArguments) -> set[str]:
    """Encoders that the recipe freezes for the whole training; their outputs can be cached."""
    return {"audio", "vision"} & (set(args.freeze or []) - args.unfreeze.keys())


class MultimodalFerTask(ClassificationTask):
    """Audio-visual emotion recognition."""

    model_type = MultimodalFerConfig.model_type
    model_arguments = MultimodalFerModelArguments
    data_arguments = MultimodalFerDataArguments
    hub_task = "video-classification"
    # No pipeline_tag: the stock pipeline of that name takes only frames, without sound, face crop and calibration.
    own_loss = "set label_smoothing in config_overrides"
    file_columns = MODALITIES
    weight_fields = ("audio_backbone", "vision_backbone", "fusion_backbone")
    fixed_folds: ClassVar[dict[str, int]] = {"luna_5fold": len(ravdess.LUNA_FOLDS)}
    input_fields = ("dataset", "visual_features", "audio_backbone", "vision_backbone", "fusion_backbone")
    file_fields = ("visual_features", "yunet_path")
    foreign_data_fields: ClassVar[dict[str, str]] = {"unknown_classes": "leave_out"}
    pipeline_task = "audio-visual-emotion-recognition"
    searched_fields = ("model_size", "balance_classes")
    unfreezable = ("audio", "vision", "fusion")
    lora_targets = (
        r"model\.fusion\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|conv\.(in|out)_proj|feed_forward\.w[123])"
    )

    def check_arguments(self) -> None:
        let_protocol_follow_data(self)
        super().check_arguments()
        if self.data_args.cache == "features" and self.training_args.hp_trials:
            raise RecipeError(
                "cache 'features' does not go with hp_trials: trials have different models, and features of only one "
                "are cached. Set cache to 'decoded'."
            )
        if self.data_args.cache == "features" and not frozen_encoders(self.model_args):
            raise RecipeError(
                "cache 'features' stores outputs of frozen encoders, and none is frozen: add vision or audio to "
                "freeze, or set cache to 'decoded'."
            )

    @classmethod
    def inspect(cls, path: str, form: TableFormat | None = None) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        files, unusable = media_files(Path(path), form)
        processor = new_processor(MultimodalFerDataArguments(face_crop="none"))
        found = files["path"].map(tracks)
        wanted = [sorted(must | set(has)) for must, has in zip(files["must_have"], found, strict=True)]
        items = [(file, modality) for file, names in zip(files["path"], wanted, strict=True) for modality in names]
        reasons = clip_check(processor).reasons(items)
        bad = {file: reason for (file, _), reason in zip(items, reasons, strict=True) if reason}
        unusable += [{"path": file, "reason": reason} for file, reason in bad.items()]
        modality = ["-".join(sorted(names)) or "none" for names in found]
        return files.assign(modality=modality).drop(columns="must_have"), unusable

    def load_data(self) -> LoadedData:
        return load_clips(self)

    def build_processor(self, data: LoadedData) -> MultimodalFerProcessor:
        return make_processor(self, data)

    def build_model(self, data: LoadedData, processor: MultimodalFerProcessor) -> PreTrainedModel:
        return make_model(self, data, processor)

    def caches(self, data: LoadedData, processor: MultimodalFerProcessor) -> ClipCaches | None:
        return None if self.data_args.cache == "none" else ClipCaches(self, data, processor)

    def with_transforms(self, data: LoadedData, processor: MultimodalFerProcessor, clock: EpochClock) -> DatasetDict:
        args, skipped, caches = self.data_args, skipped_file(self), data.own.by_kind()
        plain = ClipTransform(processor, args.modalities, skipped, caches=caches)
        augmentation = Augmentation(**args.augmentation) if args.augment else None
        augmented = ClipTransform(
            processor, args.modalities, skipped, augmentation, self.training_args.seed, clock, caches
        )
        return DatasetDict(
            {
                split: rows.with_transform(augmented if split == "train" else plain)
                for split, rows in data.splits.items()
            }
        )

    def collator(self, processor: MultimodalFerProcessor) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return ClipCollator(processor, self.data_args.modalities)

    def score(self, evaluation: Evaluation) -> ClassificationReport:
        found = super().score(evaluation)
        found.views = {view: evaluation.look(view, inputs) for view, inputs in self._one_modality(evaluation).items()}
        return found

    def _one_modality(self, evaluation: Evaluation) -> dict[str, Dataset]:
        """The same clips with one modality withheld, where the model has two."""
        modalities, caches = self.data_args.modalities, evaluation.data.own.by_kind()
        if len(modalities) < 2:
            return {}
        return {
            f"{modality}_only": evaluation.rows.with_transform(
                ClipTransform(evaluation.processor, [modality], skipped_file(self), caches=caches)
            )
            for modality in modalities
        }

    def memory_hints(self) -> list[str]:
        args, hints = self.data_args, []
        if self.model_args.model_name_or_path:  # the checkpoint fixes the size of clips
            frozen = self.model_args.freeze or []
            parts = {"vision": "video" in args.modalities, "fusion": True, "audio": "audio" in args.modalities}
            free = [part for part, there in parts.items() if there and part not in frozen]
            return [f"--freeze {' '.join([*frozen, free[0]])} (now {' '.join(frozen) or 'none'})"] if free else []
        if "video" in args.modalities and args.num_frames > 1:
            hints.append(f"--num_frames {args.num_frames // 2} (now {args.num_frames})")
        if "video" in args.modalities and args.image_size >= 128:
            hints.append(f"--image_size {args.image_size // 2} (now {args.image_size})")
        if self.model_args.model_size != "tiny":
            smaller = {"full": "light", "light": "tiny"}[self.model_args.model_size]
            hints.append(f"--model_size {smaller} (now {self.model_args.model_size})")
        return hints

    def card_example(self, repo_id: str) -> str:
        lora = lora_settings(self)
        return card_example(repo_id, adapter=lora is not None and lora.save == "adapter")
