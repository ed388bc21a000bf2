"""How run.py trains multimodal_fer: its data, model and report."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel, TrainerCallback

from hf_fer.data import manifest
from hf_fer.data.augment import Augmentation, EpochClock
from hf_fer.data.copies import drop_copies
from hf_fer.data.loading import (
    DataError,
    FileCheck,
    LoadedData,
    cache_dir,
    enforce_skip_limit,
    is_leaky,
    read_skipped,
    to_splits,
)
from hf_fer.data.remarks import class_order, with_remarks
from hf_fer.data.tables import TableFormat
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.reporting.sharing import DataFacts
from hf_fer.runtime.callbacks import EpochCallback
from hf_fer.task.classification import ClassificationTask
from hf_fer.task.steps import leave_out, protocol_name, split_by_protocol, subset

from ..backbones_multimodal_fer import PARTS, encoder_config
from ..configuration_multimodal_fer import MODALITIES, MultimodalFerConfig
from ..decoding_multimodal_fer import UnusableMediaError, feature_archive, is_feature_reference, load_visual_features
from ..modeling_multimodal_fer import MultimodalFerForEmotionClassification
from ..processing_multimodal_fer import MultimodalFerProcessor
from . import ravdess, visual_features
from .arguments import MultimodalFerDataArguments, MultimodalFerModelArguments, new_processor
from .cache import DecodedClips, EncodedClips
from .clips import (
    CLIP_SUFFIXES,
    ClipCollator,
    ClipTransform,
    clip_check,
    media_files,
    tracks,
    with_wanted_modalities,
    without_unusable,
)
from .demo import DEMO_NOTICE, make_demo_ravdess
from .facts import card_example, data_facts
from .start import check_adapter_base, check_face_detector, checkpoint_model, checkpoint_processor, known_classes

logger = logging.getLogger(__name__)


class MultimodalFerTask(ClassificationTask):
    """Audio-visual emotion recognition."""

    model_type = MultimodalFerConfig.model_type
    model_arguments = MultimodalFerModelArguments
    data_arguments = MultimodalFerDataArguments
    hub_task = "video-classification"
    pipeline_tag = None  # the stock pipeline of that name takes frames alone, without sound, faces and calibration
    own_loss = "set label_smoothing in config_overrides"
    file_columns = MODALITIES
    input_fields = ("dataset", "visual_features", "audio_backbone", "vision_backbone", "fusion_backbone")
    file_fields = ("visual_features", "yunet_path")
    pipeline_task = "audio-visual-emotion-recognition"
    searched_fields = ("model_size", "balance_classes")
    unfreezable = ("audio", "vision", "fusion")
    lora_targets = (
        r"model\.fusion\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|conv\.(in|out)_proj|feed_forward\.w[123])"
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.clock = EpochClock()
        self.decoded: DecodedClips | None = None
        self.encoded: EncodedClips | None = None

    def check_arguments(self) -> None:
        self.let_protocol_follow_data()
        super().check_arguments()
        if self.data_args.cache == "features" and self.training_args.hp_trials:
            raise RecipeError(
                "cache 'features' does not go with hp_trials: the trials' models differ, and one model's features are "
                "cached. Set cache to 'decoded'."
            )
        if self.data_args.cache == "features" and not self.frozen_encoders():
            raise RecipeError(
                "cache 'features' keeps what frozen encoders compute, and none is frozen: add vision or audio to "
                "freeze, or set cache to 'decoded'."
            )

    def let_protocol_follow_data(self) -> None:
        """
        Leave out a RAVDESS protocol of the recipe where the data is a manifest; it is about RAVDESS' actors.

        Raises:
            RecipeError: it was asked for on the command line.
        """
        protocol = self.data_args.protocol
        is_table = self.data_args.is_table or self.data_args.is_on_hub
        if not is_table or protocol in manifest.PROTOCOLS or protocol not in ravdess.PROTOCOLS:
            return
        if "protocol" in self.on_command_line:
            raise RecipeError(
                f"protocol {protocol!r} is about RAVDESS' actors, and {self.data_args.dataset} is a manifest: leave "
                f"it out, or choose one of {', '.join(manifest.PROTOCOLS)}."
            )
        self.data_args.protocol = None
        self.recipe.pop("protocol", None)

    def frozen_encoders(self) -> set[str]:
        """Encoders that the recipe freezes for good; their outputs can be cached."""
        return {"audio", "vision"} & (set(self.model_args.freeze or []) - self.model_args.unfreeze.keys())

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

    def read_source(self) -> tuple[pd.DataFrame, list[dict[str, str]], list[str], list[str], str, dict[str, str]]:
        """Rows with a `split` column, files left out, notes, class names, protocol, absent splits."""
        args = self.data_args
        path = Path(args.dataset)
        if args.is_table:
            return self._from_manifest(manifest.read_manifest(path, TableFormat(args.encoding, args.delimiter)))
        if args.is_on_hub:
            return self._from_manifest(manifest.read_hub_dataset(args.dataset))
        notes = []
        if args.dataset != "demo" and path.is_dir() and not ravdess.is_ravdess(path):
            rows = manifest.read_class_folder(path, CLIP_SUFFIXES)
            if rows is not None:
                return self._from_manifest(rows)
        if args.dataset == "demo":
            path, notes = make_demo_ravdess(cache_dir() / "demo"), [DEMO_NOTICE]
        protocol = args.protocol or ravdess.PROTOCOLS[0]
        files, skipped = ravdess.scan(path, args.channel)
        rows, pairing = ravdess.performances(
            # Features that take the place of video may be those of clips of which only the sound is there.
            files,
            list(MODALITIES) if args.visual_features else args.modalities,
        )
        self.breakdown_columns = ravdess.FACTORS
        rows, leaks = ravdess.assign_protocol(rows, protocol, fold=args.fold, seed=args.split_seed)
        notes += [*pairing, *leaks]
        name = protocol_name(self, protocol)
        return rows, skipped, notes, list(ravdess.EMOTIONS), name, ravdess.absent_splits(rows)

    def _from_manifest(self, rows: pd.DataFrame) -> tuple:
        args = self.data_args
        wanted = [kind for kind in args.modalities if kind == "audio" or not args.visual_features]
        rows = with_wanted_modalities(rows, wanted, args.dataset)
        found = split_by_protocol(self, rows)
        return found.rows, [], found.notes, sorted(set(found.rows["label"])), found.protocol, found.absent

    def starting_points(self) -> list[str]:
        return [*super().starting_points(), *self.model_args.backbones.values()]

    def num_folds(self) -> int:
        return {"luna_5fold": len(ravdess.LUNA_FOLDS), "group_kfold": self.data_args.num_folds}.get(
            self.data_args.protocol, 0
        )

    def load_data(self) -> LoadedData:
        args = self.data_args
        rows, skipped, notes, labels, protocol, absent = self.read_source()
        if args.breakdown is not None:
            for column in args.breakdown:
                check_choice("breakdown column", column, rows.columns)
            self.breakdown_columns = tuple(args.breakdown)
        if args.visual_features:
            rows = self.with_visual_features(rows)
        if self.model_args.model_name_or_path:
            labels = class_order(
                labels, known_classes(self.model_args.model_name_or_path), self.training_args.do_train
            )
        rows, copies = drop_copies(rows, self.file_columns, leaky=is_leaky(protocol))
        notes = [*notes, *copies]
        rows = rows.assign(labels=rows["label"].map({name: index for index, name in enumerate(labels)}))
        rows = subset(self, rows)
        total = len(rows) + len(skipped)
        rows, unusable = self.drop_unusable(rows)
        skipped = [*skipped, *unusable]
        leave_out(self, skipped, total)
        if rows.empty:
            raise DataError(f"{args.dataset}: no usable clips are left.")
        return with_remarks(LoadedData(to_splits(rows), labels, protocol, skipped, notes, absent))

    def with_visual_features(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The recipe's archive of features in the place of video files; raises `DataError` where none fits."""
        path = self.data_args.visual_features
        try:
            names, _ = feature_archive(path)
        except UnusableMediaError as error:
            raise DataError(f"visual_features: {error}") from error
        rows = visual_features.attach(rows, path, names)
        if not rows["video"].notna().any():
            raise DataError(
                f"{path}: has features of none of the {len(rows)} clips; its first is {next(iter(names))!r}."
            )
        return rows

    def drop_unusable(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        """Decode every file as training will, and leave out rows that lack what the recipe needs."""
        args = self.data_args
        check = self.file_check()
        answers = iter(check.reasons([(p, kind) for kind in args.modalities for p in rows[kind] if p]))
        reasons = pd.DataFrame(
            {
                kind: [next(answers) if path else f"has no {kind} file" for path in rows[kind]]
                for kind in args.modalities
            },
            index=rows.index,
            dtype=object,
        )
        return without_unusable(rows, reasons, keep_parts=args.missing_modality == "keep")

    def file_check(self) -> FileCheck | DecodedClips:
        """What finds out whether files can be used; where the recipe has a cache, it is filled by that."""
        args, processor = self.data_args, self.base_processor()
        if "video" in args.modalities and not args.visual_features:
            check_face_detector(processor)
        if args.cache != "none" and not self.training_args.dry_run:
            self.decoded = self.decoded_clips(processor)
            return self.decoded
        return clip_check(processor, args.check_workers)

    def decoded_clips(self, processor: MultimodalFerProcessor) -> DecodedClips:
        """The caches of decoded media."""
        args = self.training_args
        return DecodedClips(
            processor,
            workers=self.data_args.check_workers,
            main_process=args.local_process_index == 0,
            disable_tqdm=args.disable_tqdm,
        )

    def encoded_clips(
        self, model: PreTrainedModel, processor: MultimodalFerProcessor, decoded: DecodedClips
    ) -> EncodedClips:
        """The caches of frozen encoders' outputs."""
        return EncodedClips(model, processor, decoded, self.training_args, self.skipped_file)

    def media_paths(self, data: LoadedData) -> dict[str, list[str]]:
        """Every split's media files, by modality."""
        return {
            modality: [
                path
                for split in data.splits.values()
                for path in split[modality]
                if path and not is_feature_reference(path)
            ]
            for modality in self.data_args.modalities
        }

    def fill_caches(
        self, data: LoadedData, new_model: Callable[[], PreTrainedModel], processor: MultimodalFerProcessor
    ) -> None:
        if self.data_args.cache != "features":
            return
        self.encoded = self.encoded_clips(new_model(), processor, self.decoded)
        self.encoded.fill(self.media_paths(data))
        data.notes.extend(self.augmentation_notes(self.encoded))
        total = sum(len(split) for split in data.splits.values()) + len(data.skipped)
        enforce_skip_limit(read_skipped(self.skipped_file), total, self.data_args.max_skipped_fraction)

    def cache_plan(self, data: LoadedData, model: PreTrainedModel, processor: MultimodalFerProcessor) -> list[str]:
        if self.data_args.cache == "none":
            return []
        paths, decoded = self.media_paths(data), self.decoded_clips(processor)
        if self.data_args.cache == "decoded":
            return decoded.plan(paths)
        encoded = self.encoded_clips(model, processor, decoded)
        return [*decoded.plan(paths), *encoded.plan(paths), *self.augmentation_notes(encoded)]

    def augmentation_notes(self, encoded: EncodedClips) -> list[str]:
        """What of the recipe's augmentation cannot apply, because encoders' outputs are read from a cache."""
        if not (self.data_args.augment and self.training_args.do_train):
            return []
        lost = {"audio": "sound (gain, noise, shift, stretch, masks)", "video": "pictures (flip, colour, crop)"}
        return [
            f"No augmentation of {lost[modality]}: the frozen encoder's outputs were computed once and cached."
            for modality in encoded.caches
        ]

    def base_processor(self) -> MultimodalFerProcessor:
        """The checkpoint's processor, or a new one."""
        path = self.model_args.model_name_or_path
        if not path:
            return self.new_processor()
        processor, settled = checkpoint_processor(path, self.data_args.modalities)
        self.check_settled(path, settled)
        for name, value in {"yunet_path": self.data_args.yunet_path, **self.data_args.limits}.items():
            setattr(processor, name, value)
        return processor

    def build_processor(self, data: LoadedData) -> MultimodalFerProcessor:
        """The base processor, which learns the scale of visual features from the training split."""
        processor = self.base_processor()
        if self.model_args.model_name_or_path:
            return processor
        features = self.feature_sources(data)
        if features:
            mean, std, tokens = visual_features.statistics(features, load_visual_features)
            processor.visual_feature_mean, processor.visual_feature_std = mean, std
            processor.visual_feature_tokens = tokens
        return processor

    def new_processor(self) -> MultimodalFerProcessor:
        """A processor as the recipe, and the checkpoint that the audio encoder starts from, want it."""
        if not self.model_args.audio_backbone:
            return new_processor(self.data_args)
        try:
            mel_bins = encoder_config("audio", self.model_args.audio_backbone).num_mel_bins
        except (OSError, ValueError) as error:
            raise RecipeError(f"audio_backbone: {error}") from error
        return new_processor(self.data_args, mel_bins, default_normalization="utterance")

    def feature_sources(self, data: LoadedData) -> list[str]:
        """
        The training clips' visual features, where features take the place of video.

        Raises:
            DataError: some clips have features and some have files.
        """
        if "video" not in self.data_args.modalities or "train" not in data.splits:
            return []
        sources = [source for split in data.splits.values() for source in split["video"] if source]
        kinds = [is_feature_reference(source) for source in sources]
        if any(kinds) and not all(kinds):
            raise DataError(
                f"{sources[kinds.index(False)]} is a file and {sources[kinds.index(True)]} are features: the 'video' "
                "column must hold one or the other."
            )
        return [source for source in data.splits["train"]["video"] if source] if any(kinds) else []

    def build_model(self, data: LoadedData, processor: MultimodalFerProcessor) -> PreTrainedModel:
        args = self.model_args
        valid = {item.name for item in dataclasses.fields(MultimodalFerConfig)}
        for name in args.config_overrides:
            check_choice("config_overrides field", name, valid)
        overrides = dict(args.config_overrides)
        if args.balance_classes:
            overrides["class_weights"] = self.balanced_weights(data)
        if args.attn_implementation:
            overrides["attn_implementation"] = args.attn_implementation
        labels = dict(enumerate(data.labels))
        naming = {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}
        if args.model_name_or_path:
            training = self.training_args.do_train
            model = checkpoint_model(args.model_name_or_path, data.labels, {**overrides, **naming}, training)
        else:
            if processor.visual_feature_mean is not None:
                overrides["visual_feature_size"] = len(processor.visual_feature_mean)
            model = self.new_model(self.new_config(overrides, naming))
        for part in (*(args.freeze or []), *args.unfreeze):
            check_choice("part to freeze", part, model.encoders())
        model.freeze(args.freeze or [])
        model.unfreeze(args.unfreeze)
        if self.training_args.do_train and self.lora and self.lora.save == "adapter":
            check_adapter_base(model, args.model_name_or_path, args.backbones)
        return model

    def new_model(self, config: MultimodalFerConfig) -> PreTrainedModel:
        """A model of this configuration, its encoders from the recipe's checkpoints, or `RecipeError`."""
        args = self.model_args
        if not args.backbones:
            return MultimodalFerForEmotionClassification(config)
        try:
            return MultimodalFerForEmotionClassification.from_backbones_pretrained(
                config, **args.backbones, fusion_num_layers=args.fusion_num_layers
            )
        except (OSError, ValueError) as error:
            raise RecipeError(f"Pretrained parts: {error}") from error

    def new_config(self, overrides: dict[str, Any], naming: dict[str, Any]) -> MultimodalFerConfig:
        """The preset with the recipe's sizes and overrides."""
        for part in self.model_args.backbones:
            name = PARTS[part][0]
            shape = [key for key in overrides.get(name, {}) if "dropout" not in key and key != "layerdrop"]
            if shape:
                raise RecipeError(
                    f"config_overrides: {name}.{shape[0]} is that of {part}_backbone; only dropouts change."
                )
        vision = {"image_size": self.data_args.image_size, **overrides.pop("vision_config", {})}
        try:
            return MultimodalFerConfig.from_preset(
                self.model_args.model_size,
                **{
                    "modalities": self.data_args.modalities,
                    "num_frames": self.data_args.num_frames,
                    "vision_config": vision,
                    **overrides,
                    **naming,
                },
            )
        except (StrictDataclassError, ValueError, TypeError) as error:
            raise RecipeError(f"config_overrides: {error}") from error

    def balanced_weights(self, data: LoadedData) -> list[float]:
        """Class weights inverse to the training counts, with a mean of 1 over the training examples."""
        counts = data.counts()["train"]
        if 0 in counts.values():
            raise DataError(f"balance_classes needs training clips of every class; counts are {counts}.")
        return [sum(counts.values()) / (len(counts) * count) for count in counts.values()]

    def with_transforms(self, splits: DatasetDict, processor: MultimodalFerProcessor) -> DatasetDict:
        args = self.data_args
        stages = [stage.caches.values() for stage in (self.decoded, self.encoded) if stage]
        caches = {cache.kind: cache for stage in stages for cache in stage}
        plain = ClipTransform(processor, args.modalities, self.skipped_file, caches=caches)
        augmentation = Augmentation(**args.augmentation) if args.augment else None
        augmented = ClipTransform(
            processor, args.modalities, self.skipped_file, augmentation, self.training_args.seed, self.clock, caches
        )
        return DatasetDict(
            {split: data.with_transform(augmented if split == "train" else plain) for split, data in splits.items()}
        )

    def evaluation_views(self, data: Dataset) -> dict[str, Dataset]:
        """The same clips with one modality withheld, where the model has two."""
        if len(self.data_args.modalities) < 2:
            return {}
        plain = data.format["format_kwargs"]["transform"]
        return {
            f"{modality}_only": data.with_transform(
                ClipTransform(plain.processor, [modality], self.skipped_file, caches=plain.caches)
            )
            for modality in self.data_args.modalities
        }

    def collator(self, processor: MultimodalFerProcessor) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return ClipCollator(processor, self.data_args.modalities)

    def memory_hints(self) -> list[str]:
        args, hints = self.data_args, []
        if self.model_args.model_name_or_path:  # clips are what the checkpoint was trained on
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

    def callbacks(self) -> list[TrainerCallback]:
        return [EpochCallback(self.clock)]

    def data_facts(self, data: LoadedData) -> DataFacts:
        return data_facts(self.data_args.dataset, data)

    def card_example(self, repo_id: str) -> str:
        return card_example(repo_id, adapter=self.lora is not None and self.lora.save == "adapter")
