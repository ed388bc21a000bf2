"""Reads a manifest of recordings, measures their files, and turns rows into batches."""

import json
import math
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import ProcessorMixin

from hf_fer.data.augment import AudioAugmenter, Augmentation, EpochClock, seeded
from hf_fer.data.loading import (
    DataError,
    cache_dir,
    digest,
    file_facts,
    group_column,
    normalize_splits,
    write_json_atomically,
)
from hf_fer.data.manifest import AUDIO_COLUMNS, FILE_COLUMNS, GROUP_COLUMNS
from hf_fer.data.progress import progress
from hf_fer.data.skipped import SkippedFile
from hf_fer.data.tables import PathFinder, TableFormat, find_column, need_column, read_table

from ..sound_speech_to_text import MediaLimits, UnusableMediaError, load_audio, open_media, sound_track
from .cache import DecodedRecordings
from .joining import Companions
from .model import mel_hertz
from .preprocessing import MIN_SECONDS, SoundSettings
from .vocabulary import encode

SOUND_COLUMNS = ("file_path", *AUDIO_COLUMNS, *FILE_COLUMNS, "audio_filepath", "video")
TRANSCRIPT_COLUMNS = ("transcript", "transcription", "text", "sentence", "normalized_text", "raw_transcription")
ACCENT_COLUMNS = ("accent", "accents", "dialect", "region")
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id", *GROUP_COLUMNS)
LOOKED_AT = 1000
PAUSE = 0.2
"""Longest silence between joined recordings, in seconds."""

# Marks between letters or digits belong to the word: don't, mother-in-law, 3.5.
_PUNCTUATION = re.compile(r"(?<!\w)[^\w\s]+|[^\w\s]+(?!\w)")


def plain(transcript: str) -> str:
    """The transcript in lower case, without punctuation around words; no word is deleted."""
    return " ".join(_PUNCTUATION.sub(" ", transcript.lower()).split())


def written(transcript: str, form: str) -> str:
    """The transcript to learn: NFC with single spaces, and `plain` if the form is `plain`."""
    text = " ".join(unicodedata.normalize("NFC", transcript).split())
    return plain(text) if form == "plain" else text


def read_recordings(
    path: str | Path,
    form: TableFormat | None = None,
    *,
    file_column: str | None = None,
    transcript_column: str | None = None,
    speaker_column: str | None = None,
) -> pd.DataFrame:
    """
    Read a manifest of recordings; relative paths in it are relative to its own folder.

    Args:
        path: CSV, TSV, JSONL or Parquet.
        form: Encoding and delimiter.
        file_column, transcript_column, speaker_column: Names of columns; found by the usual names if `None`.

    Returns:
        `audio`, `transcript` as written, and `group`, `accent` and `split` where the manifest has speakers, accents
        and splits.

    Raises:
        DataError: a column is missing, a row names no file, or only some rows have a speaker or split.
    """
    table, source = read_table(path, form), str(path)

    def column(given: str | None, usual: Iterable[str], what: str) -> str:
        return need_column(table, (given,) if given else usual, what, source)

    files = table[column(file_column, SOUND_COLUMNS, "file")]
    texts = table[column(transcript_column, TRANSCRIPT_COLUMNS, "transcript")]
    if files.isna().any():
        raise DataError(
            f"{source}: row {int(files.isna().to_numpy().argmax()) + 1} names no file ({int(files.isna().sum())} such "
            "rows): fill it in, or remove the row."
        )
    finder = PathFinder(Path(path).parent)
    rows = pd.DataFrame(
        {
            "audio": [finder.find(str(name)) for name in files],
            "transcript": ["" if text is None else str(text) for text in texts],
        },
        dtype=object,
    )
    speaker = speaker_column or find_column(table, SPEAKER_COLUMNS)
    if speaker:
        groups = group_column(table[column(speaker_column, SPEAKER_COLUMNS, "speaker")], source)
        rows = rows if groups is None else rows.assign(group=groups)
    accent = find_column(table, ACCENT_COLUMNS)
    if accent:
        rows = rows.assign(accent=table[accent].fillna("").astype(str).to_numpy())
    split = find_column(table, ("split",))
    splits = normalize_splits(table[split], source) if split else None
    return rows if splits is None else rows.assign(split=splits)


def seconds_of(path: str, sampling_rate: int, load: Callable[[str], np.ndarray]) -> float | str:
    """Length in seconds of the sound that `load` gives for a file, or why it cannot be used."""
    try:
        samples = load(path)
    except UnusableMediaError as error:
        return error.reason
    if len(samples) < MIN_SECONDS * sampling_rate:
        return f"is only {len(samples) / sampling_rate:.3f} s long"
    return "is silent from start to end" if not np.ptp(samples) else len(samples) / sampling_rate


def measure(
    paths: Iterable[str], settings: SoundSettings, workers: int, load: Callable[[str], np.ndarray] | None = None
) -> dict[str, float | str]:
    """
    `seconds_of` each file, decoded once and remembered until the file changes.

    Args:
        paths: The files.
        settings: Rate and limits of their sound.
        workers: Number of threads.
        load: Gives a file's samples, or raises `UnusableMediaError`; decodes the file if `None`.
    """
    load = load or (lambda path: load_audio(path, settings.sampling_rate, settings.limits))
    paths = list(dict.fromkeys(paths))
    memory_file = cache_dir() / "seconds.json"
    try:
        memory = json.loads(memory_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        memory = {}
    keys = {path: (facts := file_facts(path)) and digest([*facts, settings.check_key]) for path in paths}
    found = {path: memory[key] for path, key in keys.items() if key in memory}
    unknown = [path for path in paths if path not in found]
    with ThreadPoolExecutor(workers) as pool:
        lengths = pool.map(lambda path: seconds_of(path, settings.sampling_rate, load), unknown)
        found |= zip(unknown, progress(lengths, "Checking files", len(unknown)), strict=True)
    new = {keys[path]: found[path] for path in unknown if keys[path] and isinstance(found[path], float)}
    if new:
        write_json_atomically(memory_file, memory | new)
    return found


def rates_of(paths: Sequence[str], workers: int, most: int = LOOKED_AT) -> list[int]:
    """Sampling rates in Hz from the headers of the files, or of at most `most` of them, evenly spread."""

    def rate(path: str) -> int:
        with open_media(path) as container:
            track = sound_track(container)
            return track.rate if track else 0

    paths = paths[:: math.ceil(len(paths) / most) or 1]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(rate, paths))


class Recordings(Dataset):
    """
    A data set whose column `length` can be read without its transform.

    The Trainer reads it to group batches by length; with the transform, that would decode every file.
    """

    @classmethod
    def of(cls, data: Dataset) -> "Recordings":
        """The same rows, without a transform."""
        return cls(data.data, info=data.info, split=data.split)

    def __getitem__(self, key: Any) -> Any:
        return self.data["length"].to_pylist() if key == "length" else super().__getitem__(key)


class RecordingTransform:
    """
    Turns rows of paths into model inputs when they are read.

    A file that can no longer be read since it was checked is listed in `skipped_file`. Its example is a moment of
    silence without a transcript, which metrics do not count.

    Args:
        processor: Its `feature_extractor` and `tokenizer` are used.
        skipped_file: File that lists recordings which cannot be read.
        max_seconds: Largest length of a recording.
        augmentation: Strengths, or `None` outside training.
        seed, clock: Seed and epoch, which determine a row's augmentation together with its index.
        companions: Draws the recordings that follow a row's, or `None`.
        decoded: Cache that is read in place of the files, or `None`.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        skipped_file: SkippedFile,
        max_seconds: float,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        clock: EpochClock | None = None,
        companions: Companions | None = None,
        decoded: DecodedRecordings | None = None,
    ):
        self.extractor, self.tokenizer = processor.feature_extractor, processor.tokenizer
        self.input_name = self.extractor.model_input_names[0]
        self.skipped_file, self.limits = skipped_file, MediaLimits(max_seconds)
        self.seed, self.clock, self.companions, self.decoded = seed, clock, companions, decoded
        self.augmenter = None
        if augmentation:
            hertz = mel_hertz(self.extractor) if hasattr(self.extractor, "mel_filters") else None
            self.augmenter = AudioAugmenter(augmentation, self.extractor.sampling_rate, hertz)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        examples = [self.example(row) for row in rows]
        return {name: [example[name] for example in examples] for name in ("inputs", "attention_mask", "labels")}

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        """Turns a row into `inputs`, `attention_mask` and `labels`, the tokens of its transcript."""
        with seeded(self.seed, self.clock.epoch if self.clock else 0, row["index"]):
            samples, transcript = self.said(row)
            if not len(samples):
                silence = np.zeros(self.extractor.sampling_rate // 10, np.float32)
                return {**self.features(silence), "labels": []}
            if self.augmenter:
                samples = self.augmenter.waveform(samples)
            example = self.features(samples)
            if self.augmenter and example["inputs"].ndim == 2:
                example["inputs"] = self.augmenter.features(example["inputs"])
        return {**example, "labels": encode(self.tokenizer, transcript)}

    def said(self, row: dict[str, Any]) -> tuple[np.ndarray, str]:
        """Samples and transcript of a row and its companions, with pauses, without those whose file went bad."""
        sounds, transcripts, rate = [], [], self.extractor.sampling_rate
        for part in [row, *(self.companions.draw(row) if self.companions else [])]:
            try:
                samples = self.load(part["audio"])
            except UnusableMediaError as error:
                self.skipped_file.append([{"path": error.path, "reason": error.reason}])
            else:
                pause = random.uniform(0, PAUSE) if sounds else 0
                sounds += [np.zeros(round(pause * rate), np.float32), samples]
                transcripts.append(part["transcript"])
        return np.concatenate([np.zeros(0, np.float32), *sounds]), " ".join(transcripts)

    def load(self, path: str) -> np.ndarray:
        """A file's samples; raises `UnusableMediaError` where it cannot be used."""
        if self.decoded:
            return self.decoded.load(path)
        return load_audio(path, self.extractor.sampling_rate, self.limits)

    def features(self, samples: np.ndarray) -> dict[str, torch.Tensor]:
        """Turns samples `(samples,)` into the model's inputs, without a batch dimension."""
        rate = self.extractor.sampling_rate
        made = self.extractor(samples, sampling_rate=rate, return_attention_mask=True, return_tensors="pt")
        return {"inputs": made[self.input_name][0], "attention_mask": made["attention_mask"][0]}


class RecordingCollator:
    """
    Pads examples at their end to the longest of the batch.

    Args:
        input_name: Name of the model's input.
        masked: Whether the model takes `attention_mask`; some wav2vec2 models were trained without it.
    """

    def __init__(self, input_name: str, masked: bool):
        self.input_name, self.masked = input_name, masked

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        padded = torch.nn.utils.rnn.pad_sequence
        batch = {self.input_name: padded([example["inputs"] for example in examples], batch_first=True)}
        if self.masked:
            masks = [torch.as_tensor(example["attention_mask"]).bool() for example in examples]
            batch["attention_mask"] = padded(masks, batch_first=True)
        labels = [torch.tensor(example["labels"], dtype=torch.long) for example in examples]
        return {**batch, "labels": padded(labels, batch_first=True, padding_value=-100)}
