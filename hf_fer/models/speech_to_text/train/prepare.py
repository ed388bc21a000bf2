"""Checks recordings with transcripts, gives them one spelling and splits, and writes one table with a report:

python -m hf_fer.models.speech_to_text.train.prepare METADATA --output_dir DIR [--typing telex] [--splits new] ...

METADATA is a table with the columns file_path and transcript (and maybe duration, split, speaker_id), or a corpus in
the layout of Common Voice, VIVOS, Kaldi, NeMo or LJSpeech. DIR gets metadata.parquet, dropped.jsonl, warnings.jsonl
and report.html. The exit status is 0 if there are recordings to train on, 2 if not.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import pandas as pd

from hf_fer.data.loading import DataError
from hf_fer.data.tables import TableFormat, find_column, read_table

from ..text_speech_to_text import TONE_PLACEMENTS, TYPING_STYLES, UNITS
from .layouts import LAYOUTS, read_recordings
from .prepare_checks import (
    Findings,
    check_characters,
    check_copies,
    check_lengths,
    check_names,
    check_sides,
    check_sound,
)
from .prepare_report import write_report
from .prepare_splits import assign_splits
from .text import TextNormalizer

WRITTEN = ("metadata.parquet", "dropped.jsonl", "warnings.jsonl", "report.html")
COLUMNS = ("file_path", "transcript", "duration", "split", "speaker_id")
MORE_COLUMNS = ("accent", "written_transcript", "sampling_rate", "channels", "source")


def normalized(rows: pd.DataFrame, normalize: TextNormalizer, findings: Findings) -> pd.DataFrame:
    """The rows with normalised `transcript` and the original as `written_transcript`; empty results are dropped."""
    rows = rows.assign(written_transcript=rows["transcript"], transcript=rows["transcript"].map(normalize))
    nothing = dict.fromkeys(rows.index[rows["transcript"].map(len) == 0], "the transcript has punctuation only")
    return findings.leave_out(rows, nothing, "empty transcript")


def prepare(rows: pd.DataFrame, args: argparse.Namespace) -> tuple[pd.DataFrame, Findings, TextNormalizer]:
    """
    Run all checks, ordered so that each dropped row gets the most specific reason.

    Args:
        rows: Rows of `read_recordings`.
        args: Arguments of the command line.

    Raises:
        DataError: no row is left, or splits cannot be drawn.
        ValueError: num2words does not know the language.
    """
    findings = Findings()
    normalize = TextNormalizer(
        language=args.language,
        typing=args.typing,
        tone_placement=None if args.tone_placement == "as_is" else args.tone_placement,
        lowercase=not args.keep_case,
        punctuation=args.keep_punctuation,
        abbreviations=read_abbreviations(args.abbreviations) if args.abbreviations else None,
    )
    if args.splits == "new":
        rows = rows.assign(split=None)
    rows = check_names(rows, findings)
    rows = normalized(rows, normalize, findings)
    rows = check_sound(
        rows,
        findings,
        sampling_rate=args.sampling_rate,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
    )
    rows = check_lengths(rows, findings, units=args.units, subsampling=args.subsampling)
    rows = check_copies(rows, findings)
    if rows.empty:
        kinds = ", ".join(sorted({entry["kind"] for entry in findings.dropped}))
        raise DataError(f"no recording can be used ({kinds}); dropped.jsonl has the reason for each.", findings)
    rows = assign_splits(
        rows,
        findings,
        validation_fraction=args.validation_fraction,
        test_fraction=args.test_fraction,
        disjoint_transcripts=args.disjoint_transcripts,
        seed=args.seed,
    )
    rows = check_sides(rows, findings, disjoint_transcripts=args.disjoint_transcripts)
    if not (rows["split"] == "train").any():
        raise DataError("no recording is left for training; give --splits new to draw the splits.", findings)
    check_characters(rows, findings)
    return rows, findings, normalize


def read_abbreviations(path: str) -> dict[str, str]:
    """Reads a table with the columns `written` and `spoken`; raises DataError if it lacks one."""
    table = read_table(path)
    written, spoken = (find_column(table, (name,)) for name in ("written", "spoken"))
    if not written or not spoken:
        raise DataError(f"{path}: expected the columns 'written' and 'spoken', got {list(table)}.")
    return dict(zip(table[written].dropna(), table[spoken].dropna(), strict=True))


def write_lines(path: Path, entries: list[dict]) -> None:
    """Write JSON lines."""
    lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    path.write_text("".join(lines), encoding="utf-8")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="hf-fer prepare-speech", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("metadata", help="table, or folder of a corpus")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder to write; see --overwrite")
    parser.add_argument("--layout", choices=LAYOUTS, help="layout of the corpus; found from the files if not given")
    parser.add_argument("--encoding", default="utf-8", help="encoding of text tables (utf-8)")
    parser.add_argument("--delimiter", help="delimiter of columns; found from the header if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace files of an earlier call")
    text = parser.add_argument_group("transcripts")
    text.add_argument("--language", default="vi", help="language in which numbers are read (vi)")
    text.add_argument("--typing", choices=TYPING_STYLES, help="typing style of all transcripts")
    text.add_argument(
        "--tone_placement", choices=(*TONE_PLACEMENTS, "as_is"), default="new", help="new hoà or old hòa (new)"
    )
    text.add_argument("--keep_case", action="store_true", help="do not convert to lower case")
    text.add_argument("--keep_punctuation", action="store_true", help="do not replace punctuation by spaces")
    text.add_argument("--abbreviations", help="table of abbreviations with the columns written and spoken")
    sound = parser.add_argument_group("sound")
    sound.add_argument(
        "--sampling_rate", type=int, default=16000, help="sampling rate of the model, to warn of lower ones (16000)"
    )
    sound.add_argument("--min_seconds", type=float, default=0.1, help="drop shorter recordings (0.1)")
    sound.add_argument("--max_seconds", type=float, default=30.0, help="drop longer recordings (30)")
    sound.add_argument("--units", choices=UNITS, default="nfc", help="units of the model's vocabulary (nfc)")
    sound.add_argument("--subsampling", type=int, default=4, help="10 ms steps per frame of the model (4)")
    splits = parser.add_argument_group("splits")
    splits.add_argument(
        "--splits", choices=("given", "new"), default="given", help="keep splits of the data, if any, or draw new ones"
    )
    splits.add_argument("--validation_fraction", type=float, default=0.1, help="share of the hours (0.1)")
    splits.add_argument("--test_fraction", type=float, default=0.1, help="share of the hours (0.1)")
    splits.add_argument("--disjoint_transcripts", action="store_true", help="keep equal transcripts in one split")
    splits.add_argument("--seed", type=int, default=0, help="seed of the draw (0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = make_parser().parse_args(argv)
    try:
        existing = [name for name in WRITTEN if (args.output_dir / name).exists()]
        if existing and not args.overwrite:
            raise DataError(f"{args.output_dir}: has {existing[0]} already. Give another folder, or --overwrite.")
        rows, layout = read_recordings(args.metadata, args.layout, TableFormat(args.encoding, args.delimiter))
        total = len(rows)
        args.output_dir.mkdir(parents=True, exist_ok=True)
        rows, findings, normalize = prepare(rows, args)
    except (DataError, ValueError, OSError) as error:
        if len(error.args) > 1 and isinstance(error.args[1], Findings):
            write_lines(args.output_dir / "dropped.jsonl", error.args[1].dropped)
        print(f"hf_fer: error: {error.args[0] if error.args else error}", file=sys.stderr)
        return 2
    rows = rows.assign(file_path=rows["file_path"].map(os.path.abspath))
    rows[[*COLUMNS, *MORE_COLUMNS]].to_parquet(args.output_dir / "metadata.parquet", index=False)
    write_lines(args.output_dir / "dropped.jsonl", findings.dropped)
    write_lines(args.output_dir / "warnings.jsonl", findings.warnings)
    write_report(args.output_dir / "report.html", rows, findings, normalize.changes, f"{args.metadata} ({layout})")
    print_summary(args.output_dir, rows, findings, total)
    return 0


def print_summary(folder: Path, rows: pd.DataFrame, findings: Findings, total: int) -> None:
    """Print counts of recordings, drops and warnings."""
    hours = rows.groupby("split", sort=False)["duration"].agg(["count", "sum"])
    parts = [f"{split} {int(row['count']):,} ({row['sum'] / 3600:.2f} h)" for split, row in hours.iterrows()]
    print(f"{len(rows):,} of {total:,} recordings: {', '.join(parts)}")
    for name, entries in (("left out", findings.dropped), ("kept with a warning", findings.warnings)):
        kinds = pd.Series([entry["kind"] for entry in entries], dtype=object).value_counts()
        for kind, count in kinds.items():
            example = next(entry for entry in entries if entry["kind"] == kind)
            print(f"  {name}, {kind}: {count:,}, such as {example['source']}: {example['reason']}")
    for note in findings.notes:
        print(f"  {note}")
    print(f"{folder / 'metadata.parquet'} is for a recipe's `dataset`; {folder / 'report.html'} has all findings.")


if __name__ == "__main__":
    sys.exit(main())
