"""Finds and checks clips, and turns their rows into batches of multimodal_fer."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hf_fer.data import manifest
from hf_fer.data.augment import AudioAugmenter, Augmentation, EpochClock, VideoAugmenter, seeded
from hf_fer.data.cache import ArrayCache
from hf_fer.data.files import CLIP_SUFFIXES, IMAGE_SUFFIXES, class_folders, visible_files
from hf_fer.data.loading import DataError, FileCheck, optional_column
from hf_fer.data.skipped import SkippedFile
from hf_fer.data.tables import TableFormat

from ..configuration_multimodal_fer import MODALITIES
from ..decoding_multimodal_fer import (
    UnusableMediaError,
    is_feature_reference,
    load_visual_features,
    media_tracks,
)
from ..processing_multimodal_fer import MultimodalFerProcessor
from . import ravdess
from .corpora import read_corpus
from .preprocessing import check_key


def unusable_reason(processor: MultimodalFerProcessor, path: str, modality: str) -> str | None:
    """Why a modality of a file cannot be loaded as training will load it, or `None`."""
    try:
        if is_feature_reference(path):
            load_visual_features(path)
        elif modality == "audio":
            processor.load_audio(path)
        else:
            processor.load_video(path)
    except UnusableMediaError as error:
        return error.reason
    return None


def clip_check(processor: MultimodalFerProcessor, workers: int = 4) -> FileCheck:
    """The check that `(path, modality)` can be loaded as training will load it."""
    return FileCheck(partial(unusable_reason, processor), check_key(processor), workers)


class ClipTransform:
    """
    Turns rows of paths into model inputs when they are read.

    A file that can no longer be read since it was checked is listed in `skipped_file`. Its example has no features and
    has label -100, which neither loss nor metrics count.

    Args:
        processor: Decodes files and computes features.
        modalities: Modalities to load; the others are treated as absent.
        skipped_file: File that lists clips which cannot be read.
        augmentation: Strengths, or `None` outside training.
        seed, clock: Seed and epoch, which determine a row's augmentation together with its index.
        caches: Caches that are read in place of files, by kind; see the module `cache`.
    """

    def __init__(
        self,
        processor: MultimodalFerProcessor,
        modalities: list[str],
        skipped_file: SkippedFile,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        clock: EpochClock | None = None,
        caches: dict[str, ArrayCache] | None = None,
    ):
        self.processor = processor
        self.modalities = modalities
        self.skipped_file = skipped_file
        self.seed = seed
        self.clock = clock
        self.caches = caches or {}
        self.audio_augmenter = augmentation and AudioAugmenter(augmentation, processor.sampling_rate)
        self.video_augmenter = augmentation and VideoAugmenter(augmentation)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        examples = [self.example(row) for row in rows]
        names = ("input_features", "audio_hidden_states", "pixel_values", "visual_features", "labels")
        return {name: [example.get(name) for example in examples] for name in names}

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        """Turns a row into the outputs of `audio` and `video`, and `labels`."""
        try:
            with seeded(self.seed, self.clock.epoch if self.clock else 0, row["index"]):
                features = {}
                if "audio" in self.modalities and row["audio"]:
                    features.update(self.audio(row["audio"]))
                if "video" in self.modalities and row["video"]:
                    features.update(self.video(row["video"]))
        except UnusableMediaError as error:
            self.skipped_file.append([{"path": error.path, "reason": error.reason}])
            return {"labels": -100}
        return {**features, "labels": row["labels"]}

    def audio(self, path: str) -> dict[str, torch.Tensor]:
        """A file's sound as `input_features (mel_frames, mel_bins)`, augmented, or as `audio_hidden_states (T, D)`."""
        states = self.cached("audio_hidden_states", path)
        if states is not None:
            return {"audio_hidden_states": torch.from_numpy(states)}
        samples = self.cached("audio_samples", path)
        if samples is None:
            samples = self.processor.load_audio(path)
        if self.audio_augmenter:
            samples = self.audio_augmenter.waveform(samples)
        features = self.processor.audio_features(samples)
        return {"input_features": self.audio_augmenter.features(features) if self.audio_augmenter else features}

    def video(self, path: str) -> dict[str, torch.Tensor]:
        """
        A file's frames as `pixel_values (F, 3, H, W)`, or its `visual_features (F, N, dim)`; augmented.

        Cached outputs of an encoder are not augmented.
        """
        if is_feature_reference(path):
            features = self.processor.visual_features(path)
            return {"visual_features": self.video_augmenter.features(features) if self.video_augmenter else features}
        features = self.cached("visual_features", path)
        if features is not None:
            return {"visual_features": torch.from_numpy(features)}
        frames = self.cached("video_frames", path)
        if frames is None:
            pixels = torch.from_numpy(self.processor.load_video(path).copy()).permute(0, 3, 1, 2)
        else:
            pixels = torch.from_numpy(frames)
        if self.video_augmenter:
            pixels = self.video_augmenter(pixels)
        return {"pixel_values": self.processor.video_features(pixels)}

    def cached(self, name: str, path: str) -> np.ndarray | None:
        """
        A copy of a file's array in a cache; `None` if there is no such cache.

        Raises:
            UnusableMediaError: the cache has no array of this file, because it could not be computed.
        """
        cache = self.caches.get(name)
        if cache is None:
            return None
        if path not in cache:
            raise UnusableMediaError(path, f"it has no {name}")
        return cache[path].copy()


class ClipCollator:
    """Pads examples into a batch that has every modality of the model, absent or not."""

    def __init__(self, processor: MultimodalFerProcessor, modalities: list[str]):
        self.processor = processor
        self.modalities = modalities

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.processor.pad(examples, self.modalities)
        return {**batch, "labels": torch.tensor([example["labels"] for example in examples])}


def media_files(path: Path, form: TableFormat | None = None) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """
    The files of RAVDESS, another corpus, a manifest or any folder of clips, and those whose name is out of pattern.

    The column `must_have` has the modalities that a file's name or manifest row states.
    """
    if path.is_file():
        rows, skipped = manifest.complete_rows(manifest.read_manifest(path, form), str(path))
        try:
            rows, _ = manifest.assign_protocol(rows, "manifest", seed=0)
        except DataError as error:  # training would stop, but the files are worth a look all the same
            skipped.append({"path": str(path), "reason": str(error).removeprefix(f"{path}: ")})
        return one_row_a_file(rows), skipped
    if path.is_dir() and not ravdess.is_ravdess(path) and (corpus := read_corpus(path, form)) is not None:
        return one_row_a_file(corpus.rows), corpus.skipped
    try:
        files, unusable = ravdess.scan(path, "both")
    except DataError:
        present = {file.suffix.lower() for file in visible_files(path)}
        endings = CLIP_SUFFIXES if present & {*CLIP_SUFFIXES} else IMAGE_SUFFIXES
        found = sorted(str(file) for file in visible_files(path) if file.suffix.lower() in endings)
        if not found:
            raise
        files = class_folders(path, lambda file: file.suffix.lower() in endings)
        files = pd.DataFrame({"path": found}) if files is None else files
        return files.assign(must_have=[set() for _ in files.index]), []
    promise = {"01": {"audio", "video"}, "02": {"video"}, "03": {"audio"}}
    files = files.assign(
        label=[ravdess.EMOTIONS[int(code) - 1] for code in files["emotion"]],
        must_have=[promise[code] for code in files["modality"]],
        actor=files["actor"].astype(int),
    )
    rows, _ = ravdess.assign_protocol(files, ravdess.PROTOCOLS[0], fold=0, seed=0)
    return rows[["path", "label", "actor", "split", "must_have"]], unusable


def one_row_a_file(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each file of clips with columns `audio` and `video`, with `must_have` and its clip's `example`."""
    rows = rows.assign(example=range(len(rows)))
    long = rows.melt([name for name in rows if name not in MODALITIES], list(MODALITIES), "kind", "path")
    files = long.dropna(subset="path")
    return files.assign(must_have=[{kind} for kind in files["kind"]]).drop(columns="kind")


def tracks(path: str) -> tuple[str, ...]:
    """The modalities of a file; `("audio",)` where it does not open, so that the check reports the error."""
    try:
        return media_tracks(path)
    except UnusableMediaError:
        return ("audio",)


def with_wanted_modalities(rows: pd.DataFrame, wanted: list[str], source: str) -> pd.DataFrame:
    """
    The rows of a manifest; if it has no audio files, each video's own sound track is used.

    Args:
        rows: Rows read by `manifest`.
        wanted: Modalities that the recipe needs.
        source: Name of the manifest.

    Raises:
        DataError: no row has a file of a wanted modality; the message has the remedy.
    """
    if "audio" in wanted and not rows["audio"].notna().any():
        rows = manifest.with_soundtracks(rows)
    there = [kind for kind in MODALITIES if rows[kind].notna().any()]
    lacking = [kind for kind in wanted if kind not in there]
    if lacking:
        raise DataError(
            f"{source}: has no {' and no '.join(lacking)} file in any row. Pass --modalities {' '.join(there)} to "
            f"train without, or add a column {' and '.join(map(repr, lacking))} with the files."
        )
    return rows


def without_unusable(
    rows: pd.DataFrame, reasons: pd.DataFrame, keep_parts: bool
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """
    Drop rows without usable files of the modalities that the recipe needs.

    Args:
        rows: One row per clip, with a path or `None` per modality.
        reasons: For the same rows, why each wanted modality cannot be used, or `None`.
        keep_parts: Whether a clip with one usable modality is kept, with `None` for the other.

    Returns:
        The remaining rows, and the dropped ones as `{"path", "reason"}`.
    """
    bad = reasons.notna()
    lost = bad.all(axis=1) if keep_parts else bad.any(axis=1)
    kept = rows[~lost].copy()
    for kind in reasons if keep_parts else ():
        kept[kind] = optional_column(kept[kind].where(~bad[kind][~lost]), kept.index)
    places = [kind for kind in (*reasons, "clip", *MODALITIES) if kind in rows]
    left_out = (rows.index[lost], reasons[lost].to_numpy(), rows.loc[lost, places].to_numpy())
    skipped = []
    for index, why, names in zip(*left_out, strict=True):
        # `names` begins with the files of the wanted modalities; the clip is named after an unusable one.
        bad_files = [name for name, reason in zip(names, why, strict=False) if isinstance(reason, str)]
        reason = "; ".join(dict.fromkeys(reason for reason in why if isinstance(reason, str)))
        skipped.append({"path": clip_name([*bad_files, *names[len(why) :]], index), "reason": reason})
    return kept, skipped


def clip_name(names: list[Any], index: int) -> str:
    """The name of a dropped clip: the first of its files and names that is not empty, or else its row number."""
    return next((name for name in names if isinstance(name, str) and name), f"row {index + 1}")
