"""Loads speech_to_text's data: recordings whose transcripts fit into the frames of their sound."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from hf_fer.data.augment import EpochClock
from hf_fer.data.loading import (
    SPLITS,
    DataError,
    LoadedData,
    cache_dir,
    check_groups,
    is_leaky,
    to_splits,
    warned,
)
from hf_fer.data.remarks import with_remarks
from hf_fer.data.skipped import enforce_skip_limit
from hf_fer.task.base import Task
from hf_fer.task.steps import SplitRows, leave_out, split_by_protocol, without_copies

from .arguments import TRAINING_TRANSCRIPTS, SpeechToTextDataArguments, is_recordings
from .batches import SecondsBatches, alike, batches_by_length
from .building import processor_for, samples_of_frame
from .cache import decoded_recordings
from .demo import DEMO_NOTICE, make_demo
from .preprocessing import SoundSettings
from .recordings import measure, rates_of, read_recordings, written
from .vocabulary import encode, frames_needed, outside_vocabulary

LENGTHS_PER_SECOND = 100
LISTED_CHARACTERS = 20


def load_recordings(task: Task) -> LoadedData:
    """The splits, with `transcript`, `seconds` and `length`."""
    args, settings = task.data_args, SoundSettings.of(task)
    rows, notes = read_rows(args)
    total = len(rows)
    decoded = None if task.training_args.dry_run else decoded_recordings(task)
    if decoded:
        decoded.fill(rows["audio"])
    rows, skipped = drop_unusable(rows, settings, args.check_workers, decoded and decoded.load)
    if rows.empty:
        enforce_skip_limit(skipped, total, args.max_skipped_fraction)
        raise DataError(f"{args.dataset}: no usable recordings are left.")
    found = without_copies(task, split_data_sets(task, rows))
    rows, misfits, vocabulary_notes = fit_transcripts(task, found.rows)
    skipped += misfits
    leave_out(task, skipped, total)
    rows["length"] = (rows["seconds"] * LENGTHS_PER_SECOND).round().astype(int)
    hours = rows.groupby("split", sort=False)["seconds"].sum() / 3600
    spoken = ", ".join(f"{split} {value:.2f}" for split, value in hours.items())
    if args.batch_seconds is not None and "per_device_train_batch_size" in task.given:
        notes.append(
            f"Training batches hold up to {args.batch_seconds:g} s of sound; per_device_train_batch_size is not used."
        )
    notes += [
        *found.notes,
        f"Hours of sound: {spoken}.",
        *vocabulary_notes,
        *rate_notes(task, rows),
        *batch_notes(task, rows),
    ]
    data = LoadedData(to_splits(rows), [], found.protocol, skipped, notes, found.absent, own=decoded)
    return with_remarks(data, learns_classes=False)


def split_data_sets(task: Task, rows: pd.DataFrame) -> SplitRows:
    """
    Split each data set by itself; one that is for training alone stays in training.

    Raises:
        DataError: a speaker is in two splits, or a data set cannot be split.
    """
    if "corpus" not in rows:
        return split_by_protocol(task, rows)
    parts = []
    for name, part in rows.groupby("corpus", sort=False):
        part = part.dropna(axis=1, how="all")
        if set(part.get("split", [None])) == {"train"}:
            parts.append(SplitRows(part, "training only", [f"All recordings of {name} are in training."]))
        else:
            parts.append(split_by_protocol(task, part))
    joined = pd.concat([part.rows for part in parts], ignore_index=True).astype({"seconds": float})
    joined = joined.where(joined.notna(), None)
    protocol = " + ".join(dict.fromkeys(part.protocol for part in parts))
    if "group" in joined and not is_leaky(protocol):
        check_groups(joined[joined["group"].notna()], group="group")
    notes = [
        f"{name}: {note}" for name, part in zip(rows["corpus"].unique(), parts, strict=True) for note in part.notes
    ]
    present = set(joined["split"])
    absent = {name: "none of the data sets has it" for name in SPLITS[1:] if name not in present}
    return SplitRows(joined, protocol, notes, absent)


def rate_notes(task: Task, rows: pd.DataFrame) -> list[str]:
    """A note if a new model's sampling rate is higher than that of every training recording; empty otherwise."""
    wanted, train = task.data_args.sampling_rate, list(rows["audio"][rows["split"] == "train"])
    if task.model_args.model_name_or_path or not train:
        return []
    highest = max(rates_of(train, task.data_args.check_workers))
    if not 0 < highest < wanted:
        return []
    return warned(
        f"The training recordings have sampling rates of at most {highest} Hz, below the model's {wanted} Hz: they "
        f"have no sound above {highest // 2} Hz. Set --sampling_rate {highest}."
    )


def batch_notes(task: Task, rows: pd.DataFrame) -> list[str]:
    """A note if training batches are of similar length and hold few different transcripts; empty otherwise."""
    args, train = task.training_args, rows[rows["split"] == "train"]
    seconds, by_length = task.data_args.batch_seconds, args.train_sampling_strategy == "group_by_length"
    if train.empty or not (args.do_train and (seconds or by_length)):
        return []
    if seconds:
        batches = list(SecondsBatches(train["seconds"].to_numpy(), seconds, args.seed, EpochClock()))
        remedy = "leave batch_seconds out, and set --train_sampling_strategy random"
    else:
        batches = batches_by_length(train["length"].tolist(), args.per_device_train_batch_size, args.seed)
        remedy = "set --train_sampling_strategy random"
    counts = alike(batches, train["transcript"].tolist(), args.seed)
    if counts is None:
        return []
    return warned(
        f"A training batch holds {counts[0]:.1f} different transcripts on average, and would hold {counts[1]:.1f} in "
        "random order, because recordings of one length say the same. A model can learn slowly from such "
        f"batches, and be worse in evaluation than in training: {remedy}."
    )


def read_rows(args: SpeechToTextDataArguments) -> tuple[pd.DataFrame, list[str]]:
    """Rows of the manifests, with transcripts in the recipe's form; and notes for the report."""
    notes, parts = [], {}
    for name, dataset in [("dataset", args.dataset), *(("more_datasets", more) for more in args.more_datasets or [])]:
        path = dataset
        if path == "demo":
            path, notes = str(make_demo(cache_dir("demo", "speech_to_text"))), [DEMO_NOTICE]
        elif not is_recordings(path):
            raise DataError(f"{name}: {path} is not a table of recordings; give a CSV, TSV, JSONL or Parquet file.")
        columns = {name: getattr(args, name) for name in ("file_column", "transcript_column", "speaker_column")}
        parts[dataset] = read_recordings(path, args.form, **columns)
    rows, repeated = joined_data_sets(parts)
    notes += repeated
    changed = rows["transcript"].map(lambda text: written(text, args.transcript_form))
    different = int((changed != rows["transcript"]).sum())
    if different:
        notes.append(
            f"{different} of {len(rows)} transcripts were changed by transcript_form {args.transcript_form!r}."
        )
    return rows.assign(transcript=changed), notes


def joined_data_sets(parts: dict[str, pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    """
    Data sets as one table, whose column `corpus` names them; of recordings that several have, the first one's row.

    Args:
        parts: Path of each data set -> its rows.

    Returns:
        The rows, and notes for the report. A single data set is returned as it is.
    """
    if len(parts) == 1:
        return next(iter(parts.values())), []
    rows = pd.concat(
        [part.assign(corpus=name) for name, part in zip(names_of(list(parts)), parts.values(), strict=True)]
    )
    rows = rows.astype(object).where(rows.notna(), None).reset_index(drop=True)
    first = rows.groupby(rows["audio"].map(os.path.realpath))["corpus"].transform("first")
    repeated = first != rows["corpus"]
    notes = []
    if repeated.any():
        notes = warned(
            f"{int(repeated.sum())} recordings are in several data sets; those of the first one are used, with its "
            "transcripts."
        )
    return rows[~repeated].reset_index(drop=True), notes


def names_of(paths: list[str]) -> list[str]:
    """Names of data sets: their files' stems, with the folder's name or else a number before stems that are equal."""
    stems = [Path(path).stem for path in paths]
    longer = [f"{Path(path).absolute().parent.name}/{stem}" for path, stem in zip(paths, stems, strict=True)]
    numbered = [f"{number} {stem}" for number, stem in enumerate(stems, 1)]
    return next(names for names in (stems, longer, numbered) if len(set(names)) == len(names))


def drop_unusable(
    rows: pd.DataFrame, settings: SoundSettings, workers: int, load: Callable[[str], np.ndarray] | None
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """The rows that can be used, with `seconds`, and why the others cannot."""
    found = measure(rows["audio"], settings, workers, load)
    reasons = []
    for path, transcript in zip(rows["audio"], rows["transcript"], strict=True):
        reason = found[path] if isinstance(found[path], str) else None
        if reason is None and not transcript:
            reason = "its transcript is empty"
        reasons.append(reason)
    good = np.array([reason is None for reason in reasons], dtype=bool)
    skipped = [{"path": path, "reason": reason} for path, reason in zip(rows["audio"], reasons, strict=True) if reason]
    rows = rows[good].reset_index(drop=True)
    return rows.assign(seconds=[float(found[path]) for path in rows["audio"]]), skipped


def fit_transcripts(task: Task, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]], list[str]]:
    """
    Drop training rows whose transcript needs more frames than their sound has; also returns these rows, and notes.

    Such rows of other splits are kept, and words that cannot be recognised count as errors.
    """
    is_train = (rows["split"] == "train").to_numpy()
    if task.data_args.lm == TRAINING_TRANSCRIPTS and not is_train.any():
        raise DataError(f"lm {TRAINING_TRANSCRIPTS!r}: there is no training split.")
    processor = processor_for(task, list(rows["transcript"][is_train]))
    ratio = samples_of_frame(task.model_args, processor.feature_extractor)
    frames = np.ceil(rows["seconds"] * processor.feature_extractor.sampling_rate / ratio).to_numpy()
    needed = np.array([frames_needed(encode(processor.tokenizer, text)) for text in rows["transcript"]])
    misfit, notes = needed > frames, []
    skipped = [
        {
            "path": rows["audio"].iloc[index],
            "reason": f"its transcript needs {needed[index]} frames, and its sound has {int(frames[index])}",
        }
        for index in np.flatnonzero(misfit & is_train)
    ]
    if (others := int((misfit & ~is_train).sum())) > 0:
        notes += warned(f"{others} scored transcripts need more frames than their sound has.")
    lacking = outside_vocabulary(rows["transcript"][~is_train], processor.tokenizer)
    if lacking:
        named = ", ".join(f"{letter!r} ({count})" for letter, count in lacking.most_common(LISTED_CHARACTERS))
        notes += warned(
            f"{len(lacking)} characters of scored transcripts are not in the vocabulary of the training split and "
            f"count as errors: {named}."
        )
    return rows[~(misfit & is_train)].reset_index(drop=True), skipped, notes
