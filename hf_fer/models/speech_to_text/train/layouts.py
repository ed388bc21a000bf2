"""Reads recordings with transcripts in common layouts: tables, Common Voice, VIVOS, Kaldi, NeMo and LJSpeech."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from hf_fer.data.loading import SPLIT_ALIASES, SPLITS, DataError
from hf_fer.data.names import clean_names
from hf_fer.data.tables import PathFinder, TableFormat, decode, find_column, is_table, need_column, read_table

from .recordings import SOUND_COLUMNS, SPEAKER_COLUMNS, TRANSCRIPT_COLUMNS

OPTIONAL_COLUMNS = {
    "duration": ("duration", "seconds"),
    "split": ("split",),
    "accent": ("accent", "accents", "region"),
}
COLUMNS = ("file_path", "transcript", "duration", "split", "speaker_id", "accent", "source")
LAYOUTS = ("table", "common_voice", "vivos", "kaldi", "nemo", "ljspeech")


def read_recordings(
    path: str | Path, layout: str | None = None, form: TableFormat | None = None
) -> tuple[pd.DataFrame, str]:
    """
    Read the recordings of a table or corpus.

    Args:
        path: A table, or a corpus's folder.
        layout: One of `LAYOUTS`; found from the files if unset.
        form: Encoding and delimiter of tables.

    Returns:
        A row per recording with `COLUMNS`, `None` where a value is unknown; `source` names its file and line. And the
        name of the layout.

    Raises:
        DataError: the path does not exist, has no known layout, or does not parse; the message names file and line.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: file or folder not found.")
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"layout must be one of {list(LAYOUTS)}, got {layout!r}.")
    layout = layout or find_layout(path, form)
    rows = READERS[layout](path, form or TableFormat())
    if rows.empty:
        raise DataError(f"{path}: has no recordings ({layout} layout).")
    rows = rows.reindex(columns=list(COLUMNS)).astype(object)
    rows = rows.where(rows.notna(), None).reset_index(drop=True)
    for column in ("split", "speaker_id", "accent"):
        rows[column] = clean_names(rows[column])
    rows["split"] = [_split(name, source) for name, source in zip(rows["split"], rows["source"], strict=True)]
    return rows, layout


def find_layout(path: Path, form: TableFormat | None = None) -> str:
    """Finds the layout of a folder by its files, of a table by its columns; raises DataError if none fits."""
    if path.is_dir():
        signs = {
            "kaldi": [path / "wav.scp"],
            "vivos": [path / "prompts.txt", *path.glob("*/prompts.txt")],
            "ljspeech": [path / "wavs"],
            "common_voice": [path / "clips"],
        }
        for layout, files in signs.items():
            if any(file.exists() for file in files):
                return layout
        raise DataError(
            f"{path}: no corpus of a known layout ({', '.join(LAYOUTS[1:])}). Give a table with the columns "
            "file_path and transcript."
        )
    if path.name == "prompts.txt":
        return "vivos"
    if path.name in ("wav.scp", "text"):
        return "kaldi"
    if path.suffix.lower() == ".json":
        return "nemo"
    if not is_table(path):
        raise DataError(f"{path}: is neither a table (CSV, TSV, JSONL or Parquet) nor of another known layout.")
    if path.suffix.lower() == ".csv" and (path.parent / "wavs").is_dir() and _has_no_header(path, form):
        return "ljspeech"
    columns = read_table(path, form, may_be_empty=True).columns
    if {"audio_filepath", "text"} <= set(columns):
        return "nemo"
    return "common_voice" if {"client_id", "path", "sentence"} <= set(columns) else "table"


def _has_no_header(path: Path, form: TableFormat | None) -> bool:
    first = _lines(path, form or TableFormat())[:1]
    return bool(first) and first[0][1].count("|") in (1, 2) and (path.parent / "wavs").is_dir()


def _split(name: str | None, source: str) -> str | None:
    if name is None:
        return None
    usual = SPLIT_ALIASES.get(name.lower(), name.lower())
    if usual not in SPLITS:
        raise DataError(f"{source}: split {name!r} is not known; use one of {list(SPLITS)}, or leave the column out.")
    return usual


def _table(path: Path, form: TableFormat, folder: Path | None = None) -> pd.DataFrame:
    table = read_table(path, form, may_be_empty=True)  # Common Voice has splits without rows
    found = {
        "file_path": need_column(table, SOUND_COLUMNS, "file", str(path)),
        "transcript": need_column(table, TRANSCRIPT_COLUMNS, "transcript", str(path)),
        "speaker_id": find_column(table, SPEAKER_COLUMNS),
    }
    found |= {role: find_column(table, names) for role, names in OPTIONAL_COLUMNS.items()}
    rows = pd.DataFrame({role: table[name] for role, name in found.items() if name}, dtype=object)
    finder = PathFinder(folder or path.parent)
    rows["file_path"] = [None if name is None else finder.find(str(name)) for name in rows["file_path"]]
    return rows.assign(source=[f"{path.name} row {number}" for number in range(1, len(rows) + 1)])


def _common_voice(path: Path, form: TableFormat) -> pd.DataFrame:
    """A TSV, or the folder of a language with `train`, `dev` and `test` tables; sound files are in `clips`."""
    if path.is_file():
        clips = path.parent / "clips"
        return _table(path, form, clips if clips.is_dir() else None)
    tables = {name: path / f"{name}.tsv" for name in ("train", "dev", "test")}
    tables = {name: file for name, file in tables.items() if file.is_file()}
    if not tables:
        raise DataError(f"{path}: has no train.tsv, dev.tsv or test.tsv; give the TSV file itself.")
    return pd.concat([_table(file, form, path / "clips").assign(split=name) for name, file in tables.items()])


def _vivos(path: Path, form: TableFormat) -> pd.DataFrame:
    """`prompts.txt` with lines `SPEAKER_UTTERANCE words`, and `waves/SPEAKER/SPEAKER_UTTERANCE.wav` beside it."""
    prompts = [path] if path.is_file() else sorted({path / "prompts.txt", *path.glob("*/prompts.txt")})
    rows = []
    for file in (file for file in prompts if file.is_file()):
        name = file.parent.name.lower()
        split = SPLIT_ALIASES.get(name, name)
        for number, line in _lines(file, form):
            utterance, _, transcript = line.partition(" ")
            speaker = utterance.rpartition("_")[0] or None
            sound = file.parent / "waves" / (speaker or "") / f"{utterance}.wav"
            rows.append(
                {
                    "file_path": str(sound),
                    "transcript": transcript.strip() or None,
                    "speaker_id": speaker,
                    "split": split if split in SPLITS else None,
                    "source": f"{file.parent.name}/{file.name} line {number}",
                }
            )
    return pd.DataFrame(rows, dtype=object)


def _kaldi(path: Path, form: TableFormat) -> pd.DataFrame:
    """`wav.scp`, `text` and optionally `utt2spk`, each with lines `UTTERANCE value`."""
    folder = path if path.is_dir() else path.parent
    if (folder / "segments").is_file():
        raise DataError(
            f"{folder / 'segments'}: recordings cut by times are not supported; export one file per segment."
        )
    files = {name: _keyed_lines(folder / name, form) for name in ("wav.scp", "text")}
    speakers = _keyed_lines(folder / "utt2spk", form) if (folder / "utt2spk").is_file() else {}
    finder, rows = PathFinder(folder), []
    for utterance, (number, sound) in files["wav.scp"].items():
        if sound.endswith("|"):
            raise DataError(
                f"{folder / 'wav.scp'} line {number}: has a command, which is not run; give a file's path."
            )
        rows.append(
            {
                "file_path": finder.find(sound),
                "transcript": files["text"].get(utterance, (0, ""))[1] or None,
                "speaker_id": speakers.get(utterance, (0, None))[1],
                "source": f"wav.scp line {number}",
            }
        )
    return pd.DataFrame(rows, dtype=object)


def _nemo(path: Path, form: TableFormat) -> pd.DataFrame:
    """One JSON object per line with `audio_filepath` and `text`; NeMo names such files `.json`."""
    if path.suffix.lower() != ".json":
        return _table(path, form)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, f"{path.stem}.jsonl")
        shutil.copyfile(path, copy)
        try:
            return _table(copy, form, path.parent)
        except DataError as error:
            raise DataError(str(error).replace(str(copy), str(path))) from error


def _ljspeech(path: Path, form: TableFormat) -> pd.DataFrame:
    """`metadata.csv` without header, `NAME|transcript|transcript in words`, and `wavs/NAME.wav`."""
    file = path / "metadata.csv" if path.is_dir() else path
    rows = []
    for number, line in _lines(file, form):
        name, *texts = line.split("|")
        if not texts:
            raise DataError(f"{file} line {number}: has no '|'; expected NAME|transcript.")
        rows.append(
            {
                "file_path": str(file.parent / "wavs" / f"{name}.wav"),
                "transcript": texts[-1].strip() or texts[0].strip() or None,
                "source": f"{file.name} line {number}",
            }
        )
    return pd.DataFrame(rows, dtype=object)


def _lines(file: Path, form: TableFormat) -> list[tuple[int, str]]:
    """The non-blank lines of a text file, with their numbers."""
    if not file.is_file():
        raise DataError(f"{file}: file not found.")
    try:
        text = decode(file.read_bytes(), form)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _keyed_lines(file: Path, form: TableFormat) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for number, line in _lines(file, form):
        key, *value = line.split(maxsplit=1)
        if key in found:
            raise DataError(f"{file} line {number}: {key!r} occurs twice, first on line {found[key][0]}.")
        found[key] = (number, value[0] if value else "")
    return found


Reader = Callable[[Path, TableFormat], pd.DataFrame]
READERS: dict[str, Reader] = {
    "table": _table,
    "common_voice": _common_voice,
    "vivos": _vivos,
    "kaldi": _kaldi,
    "nemo": _nemo,
    "ljspeech": _ljspeech,
}
