"""How run.py trains multimodal_fer: its recipe fields, data, model and report."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, SiglipImageProcessor, TrainerCallback

from hf_fer.arguments import DataArguments, ModelArguments, RecipeError, check_choice, json_object
from hf_fer.callbacks import EpochCallback
from hf_fer.data import manifest, ravdess
from hf_fer.data.augment import AudioAugmenter, Augmentation, EpochClock, VideoAugmenter, seeded
from hf_fer.data.demo import DEMO_NOTICE, make_demo_ravdess
from hf_fer.data.loading import (
    DataError,
    FileCheck,
    LoadedData,
    append_skipped,
    cache_dir,
    enforce_skip_limit,
    take_subset,
    to_splits,
)
from hf_fer.task import ClassificationTask

from .configuration_multimodal_fer import MODALITIES, MultimodalFerConfig
from .decoding_multimodal_fer import UnusableMediaError, open_media
from .modeling_multimodal_fer import MultimodalFerForEmotionClassification
from .processing_multimodal_fer import MultimodalFerFeatureExtractor, MultimodalFerProcessor

logger = logging.getLogger(__name__)

PARAKEET_PREEMPHASIS = 0.97

CLIP_SUFFIXES = (".mp4", ".mpg", ".mov", ".avi", ".mkv", ".webm", ".wav", ".flac", ".mp3", ".ogg", ".m4a")


@dataclass
class MultimodalFerModelArguments(ModelArguments):
    """Where the model comes from."""

    model_size: Literal["tiny", "light", "full"] = field(
        default="light", metadata={"help": "Preset that a new model is built from."}
    )
    balance_classes: bool = field(
        default=False, metadata={"help": "Weight classes in the loss by the inverse of their training counts."}
    )


@dataclass
class MultimodalFerDataArguments(DataArguments):
    """Which clips, which of their modalities, and how they are decoded and augmented."""

    modalities: list[str] = field(default_factory=lambda: list(MODALITIES), metadata={"help": "audio, video or both."})
    missing_modality: Literal["skip", "keep"] = field(
        default="skip", metadata={"help": "Clips that lack one of several modalities: skip, or keep what they have."}
    )
    channel: Literal["speech", "song", "both"] = field(default="speech", metadata={"help": "RAVDESS vocal channel."})
    num_frames: int = field(default=16, metadata={"help": "Frames sampled from a clip."})
    image_size: int = field(default=224, metadata={"help": "Side of the frames the model sees, in pixels."})
    face_crop: Literal["none", "center", "yunet"] = field(default="center", metadata={"help": "Where the face is."})
    yunet_path: str | None = field(default=None, metadata={"help": "YuNet's ONNX file; from the Hub if unset."})
    audio_normalization: Literal["global", "utterance"] = field(
        default="global", metadata={"help": "Log-mel normalisation; pretrained Parakeet encoders need utterance."}
    )
    trim_silence_db: float | None = field(
        default=None, metadata={"help": "Cut silent ends of the sound, this many dB below its peak; unset keeps them."}
    )
    augment: bool = field(default=True, metadata={"help": "Augment the training split."})
    augmentation: dict | str | None = field(
        default=None, metadata={"help": "JSON object of strengths that replace those of hf_fer.data.augment."}
    )

    def __post_init__(self):
        for modality in self.modalities:
            check_choice("modality", modality, MODALITIES)
        overrides = json_object("augmentation", self.augmentation)
        for name in overrides:
            check_choice("augmentation", name, (item.name for item in dataclasses.fields(Augmentation)))
        self.augmentation = overrides


def new_processor(args: MultimodalFerDataArguments) -> MultimodalFerProcessor:
    """A processor as the recipe wants it."""
    return MultimodalFerProcessor(
        MultimodalFerFeatureExtractor(
            normalize=args.audio_normalization,
            trim_db=args.trim_silence_db,
            preemphasis=PARAKEET_PREEMPHASIS if args.audio_normalization == "utterance" else None,
        ),
        SiglipImageProcessor(size={"height": args.image_size, "width": args.image_size}),
        num_frames=args.num_frames,
        face_crop=args.face_crop,
        yunet_path=args.yunet_path,
    )


def unusable_reason(processor: MultimodalFerProcessor, path: str, modality: str) -> str | None:
    """Why a modality of a file cannot be loaded as training will load it, or `None`."""
    try:
        processor.load_audio(path) if modality == "audio" else processor.load_video(path)
    except UnusableMediaError as error:
        return error.reason
    return None


class ClipTransform:
    """
    Turns rows of paths into model inputs when they are read.

    A file that went bad since it was checked is written to `skipped_file`, and its example comes out without
    features and with label -100, which neither loss nor metrics count.

    Args:
        processor: Decodes and converts.
        modalities: What to load; the others are treated as absent.
        skipped_file: Where files that fail are listed.
        augmentation: Strengths, or `None` outside training.
        seed, clock: With the row's index they decide all of its augmentation.
    """

    def __init__(
        self,
        processor: MultimodalFerProcessor,
        modalities: list[str],
        skipped_file: Path,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        clock: EpochClock | None = None,
    ):
        self.processor = processor
        self.modalities = modalities
        self.skipped_file = skipped_file
        self.seed = seed
        self.clock = clock
        self.audio_augmenter = augmentation and AudioAugmenter(augmentation, processor.sampling_rate)
        self.video_augmenter = augmentation and VideoAugmenter(augmentation)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        examples = [self.example(row) for row in rows]
        return {
            name: [example.get(name) for example in examples] for name in ("input_features", "pixel_values", "labels")
        }

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        """One row to `input_features (mel_frames, mel_bins)`, `pixel_values (F, 3, H, W)` and `labels`."""
        try:
            with seeded(self.seed, self.clock.epoch if self.clock else 0, row["index"]):
                features = {}
                if "audio" in self.modalities and row["audio"]:
                    features["input_features"] = self.audio(row["audio"])
                if "video" in self.modalities and row["video"]:
                    features["pixel_values"] = self.video(row["video"])
        except UnusableMediaError as error:
            append_skipped(self.skipped_file, [{"path": error.path, "reason": error.reason}])
            return {"labels": -100}
        return {**features, "labels": row["labels"]}

    def audio(self, path: str) -> torch.Tensor:
        """A file's sound as log-mel features, augmented in training."""
        samples = self.processor.load_audio(path)
        if not self.audio_augmenter:
            return self.processor.audio_features(samples)
        return self.audio_augmenter.features(self.processor.audio_features(self.audio_augmenter.waveform(samples)))

    def video(self, path: str) -> torch.Tensor:
        """A file's frames as pixels, augmented in training."""
        frames = torch.from_numpy(self.processor.load_video(path).copy()).permute(0, 3, 1, 2)
        if self.video_augmenter:
            frames = self.video_augmenter(frames)
        return self.processor.video_features(frames)


class ClipCollator:
    """Pads examples into a batch that has every modality of the model, absent or not."""

    def __init__(self, processor: MultimodalFerProcessor, modalities: list[str]):
        self.processor = processor
        self.modalities = modalities

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.processor.pad(examples, self.modalities)
        return {**batch, "labels": torch.tensor([example["labels"] for example in examples])}


def media_files(path: Path) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """
    The files of a RAVDESS folder, a manifest or any folder of clips, and those whose name is out of pattern.

    The column `must_have` has the modalities that a file's name or manifest row promises.
    """
    if path.is_file():
        rows, _ = manifest.assign_protocol(manifest.read_manifest(path), "manifest", seed=0)
        long = rows.melt([name for name in rows if name not in MODALITIES], list(MODALITIES), "kind", "path")
        files = long.dropna(subset="path")
        return files.assign(must_have=[{kind} for kind in files["kind"]]).drop(columns="kind"), []
    try:
        files, unusable = ravdess.scan(path, "both")
    except DataError:
        found = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in CLIP_SUFFIXES)
        if not found:
            raise
        return pd.DataFrame({"path": found, "must_have": [set()] * len(found)}), []
    promise = {"01": {"audio", "video"}, "02": {"video"}, "03": {"audio"}}
    files = files.assign(
        label=[ravdess.EMOTIONS[int(code) - 1] for code in files["emotion"]],
        must_have=[promise[code] for code in files["modality"]],
        actor=files["actor"].astype(int),
    )
    rows, _ = ravdess.assign_protocol(files, ravdess.PROTOCOLS[0], fold=0, seed=0)
    return rows[["path", "label", "actor", "split", "must_have"]], unusable


def tracks(path: str) -> tuple[str, ...]:
    """Which modalities a file has; none where it does not open."""
    try:
        with open_media(path) as container:
            return tuple(name for name in MODALITIES if getattr(container.streams, name))
    except UnusableMediaError:
        return ("audio",)


class MultimodalFerTask(ClassificationTask):
    """Audio-visual emotion recognition."""

    model_arguments = MultimodalFerModelArguments
    data_arguments = MultimodalFerDataArguments
    hub_task = "video-classification"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.clock = EpochClock()

    @classmethod
    def inspect(cls, path: str) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        files, unusable = media_files(Path(path))
        processor = new_processor(MultimodalFerDataArguments(face_crop="none"))
        found = files["path"].map(tracks)
        wanted = [sorted(must | set(has)) for must, has in zip(files["must_have"], found, strict=True)]
        items = [(file, modality) for file, names in zip(files["path"], wanted, strict=True) for modality in names]
        reasons = FileCheck(partial(unusable_reason, processor), settings={"face_crop": "none"}).reasons(items)
        bad = {file: reason for (file, _), reason in zip(items, reasons, strict=True) if reason}
        unusable += [{"path": file, "reason": reason} for file, reason in bad.items()]
        modality = ["-".join(sorted(names)) or "none" for names in found]
        return files.assign(modality=modality).drop(columns="must_have"), unusable

    def read_source(self) -> tuple[pd.DataFrame, list[dict[str, str]], list[str], list[str], str, dict[str, str]]:
        """Rows with a `split` column, files left out, notes, class names, protocol, absent splits."""
        args = self.data_args
        path = Path(args.dataset)
        if args.dataset != "demo" and (path.is_file() or path.suffix in (".csv", ".tsv", ".jsonl", ".parquet")):
            return self._from_manifest(manifest.read_manifest(path))
        if args.dataset != "demo" and not path.is_dir() and args.dataset.count("/") == 1 and not path.parent.is_dir():
            return self._from_manifest(manifest.read_hub_dataset(args.dataset))
        notes = []
        if args.dataset == "demo":
            path, notes = make_demo_ravdess(cache_dir() / "demo"), [DEMO_NOTICE]
        protocol = args.protocol or ravdess.PROTOCOLS[0]
        files, skipped = ravdess.scan(path, args.channel)
        rows, pairing = ravdess.performances(files, args.modalities)
        rows, leaks = ravdess.assign_protocol(rows, protocol, fold=args.fold, seed=args.split_seed)
        name = f"{protocol}, fold {args.fold}" if protocol == "luna_5fold" else protocol
        return rows, skipped, [*notes, *pairing, *leaks], list(ravdess.EMOTIONS), name, ravdess.absent_splits(rows)

    def _from_manifest(self, rows: pd.DataFrame) -> tuple:
        protocol = self.data_args.protocol or manifest.PROTOCOLS[0]
        rows, notes = manifest.assign_protocol(rows, protocol, seed=self.data_args.split_seed)
        absent = {
            split: "the manifest has none" for split in ("validation", "test") if split not in set(rows["split"])
        }
        return rows, [], notes, sorted(set(rows["label"])), protocol, absent

    def load_data(self) -> LoadedData:
        args = self.data_args
        rows, skipped, notes, labels, protocol, absent = self.read_source()
        rows = rows.assign(labels=rows["label"].map({name: index for index, name in enumerate(labels)}))
        rows = take_subset(
            rows,
            label="label",
            seed=args.split_seed,
            train_fraction=args.train_fraction,
            max_train_samples=args.max_train_samples,
            max_eval_samples=args.max_eval_samples,
        )
        total = len(rows) + len(skipped)
        rows, unusable = self.drop_unusable(rows)
        skipped = [*skipped, *unusable]
        if self.training_args.should_save and not self.training_args.dry_run:
            append_skipped(self.skipped_file, skipped)
        enforce_skip_limit(skipped, total, args.max_skipped_fraction)
        if rows.empty:
            raise DataError(f"{args.dataset}: no usable clips are left.")
        return LoadedData(to_splits(rows), labels, protocol, skipped, notes, absent)

    def drop_unusable(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        """Decode every file as training will, and leave out rows that lack what the recipe needs."""
        args = self.data_args
        processor = new_processor(args)
        check = FileCheck(
            partial(unusable_reason, processor),
            settings={"num_frames": args.num_frames, "face_crop": args.face_crop},
            workers=args.check_workers,
        )
        wanted = [(index, row[modality], modality) for index, row in rows.iterrows() for modality in args.modalities]
        present = [item for item in wanted if item[1]]
        answers = check.reasons([(path, modality) for _, path, modality in present])
        bad = {
            (index, modality): (path, reason)
            for (index, path, modality), reason in zip(present, answers, strict=True)
            if reason
        }
        bad |= {(index, modality): (None, f"has no {modality} file") for index, path, modality in wanted if not path}
        rows, skipped, dropped = rows.copy(), [], []
        for index in dict.fromkeys(index for index, _ in bad):
            reasons = {modality: bad[index, modality] for modality in args.modalities if (index, modality) in bad}
            if args.missing_modality == "keep" and len(reasons) < len(args.modalities):
                rows.loc[index, list(reasons)] = None
                continue
            dropped.append(index)
            path = next((path for path, _ in reasons.values() if path), None) or rows.at[index, "clip"]
            skipped.append({"path": str(path), "reason": "; ".join(dict.fromkeys(why for _, why in reasons.values()))})
        return rows.drop(index=dropped), skipped

    def build_processor(self, data: LoadedData) -> MultimodalFerProcessor:
        """The checkpoint's processor, which knows how its model was trained, or a new one."""
        if self.model_args.model_name_or_path:
            return MultimodalFerProcessor.from_pretrained(self.model_args.model_name_or_path)
        return new_processor(self.data_args)

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
            model = self._load(args.model_name_or_path, data.labels, {**overrides, **naming})
        else:
            model = MultimodalFerForEmotionClassification(self.new_config(overrides, naming))
        model.freeze(args.freeze or [])
        return model

    def new_config(self, overrides: dict[str, Any], naming: dict[str, Any]) -> MultimodalFerConfig:
        """The preset with the recipe's sizes and overrides."""
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
        except (ValueError, TypeError) as error:
            raise RecipeError(f"config_overrides: {error}") from error

    def _load(self, path: str, labels: list[str], overrides: dict[str, Any]) -> PreTrainedModel:
        known = list(MultimodalFerConfig.from_pretrained(path).id2label.values())
        if known != labels and not self.training_args.do_train:
            raise DataError(f"{path} knows the classes {known}, the data has {labels}: it cannot be scored on them.")
        if known != labels:
            logger.warning(
                "%s knows the classes %s, the data has %s: its classifier starts anew.", path, known, labels
            )
        return MultimodalFerForEmotionClassification.from_pretrained(
            path, ignore_mismatched_sizes=known != labels, **overrides
        )

    def balanced_weights(self, data: LoadedData) -> list[float]:
        """Class weights inverse to the training counts, with a mean of 1 over the training examples."""
        counts = data.counts()["train"]
        if 0 in counts.values():
            raise DataError(f"balance_classes needs training clips of every class; counts are {counts}.")
        return [sum(counts.values()) / (len(counts) * count) for count in counts.values()]

    def with_transforms(self, splits: DatasetDict, processor: MultimodalFerProcessor) -> DatasetDict:
        args = self.data_args
        plain = ClipTransform(processor, args.modalities, self.skipped_file)
        augmentation = Augmentation(**args.augmentation) if args.augment else None
        augmented = ClipTransform(
            processor, args.modalities, self.skipped_file, augmentation, self.training_args.seed, self.clock
        )
        return DatasetDict(
            {split: data.with_transform(augmented if split == "train" else plain) for split, data in splits.items()}
        )

    def evaluation_views(self, data: Dataset) -> dict[str, Dataset]:
        """The same clips with one modality withheld, where the model has two."""
        if len(self.data_args.modalities) < 2:
            return {}
        transform = data.format["format_kwargs"]["transform"]
        return {
            f"{modality}_only": data.with_transform(ClipTransform(transform.processor, [modality], self.skipped_file))
            for modality in self.data_args.modalities
        }

    def collator(self, processor: MultimodalFerProcessor) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return ClipCollator(processor, self.data_args.modalities)

    def callbacks(self) -> list[TrainerCallback]:
        return [EpochCallback(self.clock)]

    def card_example(self, repo_id: str) -> str:
        return (
            "import hf_fer  # or trust_remote_code=True\n"
            "from transformers import pipeline\n\n"
            f'classify = pipeline("audio-visual-emotion-recognition", model="{repo_id}")\n'
            'classify("clip.mp4", top_k=3)'
        )
