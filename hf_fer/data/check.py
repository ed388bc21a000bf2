"""Show what is in a folder or manifest, and what is wrong with it:

python -m hf_fer.data.check PATH [--task multimodal_fer]

The exit status is 0 if every file can be used, 1 if one cannot, and 2 if the data cannot be read.
"""

import argparse
import errno
import hashlib
import os
import sys
from pathlib import Path

import pandas as pd

from hf_fer import models
from hf_fer.data.loading import DataError
from hf_fer.data.names import look_alikes
from hf_fer.data.tables import TableFormat
from hf_fer.recipe.arguments import RecipeError
from hf_fer.recipe.ranges import out_of_range

COUNTED = ("split", "label", "actor", "group", "modality")


def exact_duplicates(paths: list[str]) -> list[list[str]]:
    """Groups of files with the same bytes; only files of equal size are read."""
    groups: dict[object, list[str]] = {}
    for path in paths:
        groups.setdefault(Path(path).stat().st_size, []).append(path)
    same: dict[object, list[str]] = {}
    for path in (path for group in groups.values() if len(group) > 1 for path in group):
        same.setdefault(hashlib.sha256(Path(path).read_bytes()).hexdigest(), []).append(path)
    return [group for group in same.values() if len(group) > 1]


def one_row_a_clip(files: pd.DataFrame) -> pd.DataFrame:
    """
    Merge the rows of files that belong to one example, where the table has a column `example`.

    The modalities of an example's files are joined with hyphens.
    """
    if "example" not in files:
        return files
    joined = {
        column: (lambda values: "-".join(sorted({name for value in values for name in value.split("-")})))
        if column == "modality"
        else "first"
        for column in files.columns.drop("example")
    }
    return files.groupby("example", sort=False).agg(joined).reset_index(drop=True)


def check_name(path: str) -> None:
    """Raises `DataError` for a path that is empty (it would be the current folder) or too long for the system."""
    if not path.strip():
        raise DataError("the path is empty; give a folder, a table, or '.' for the current folder.")
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise DataError(f"{path[:60]}...: no file can have so long a name; give a folder or a table.") from error


def print_findings(files: pd.DataFrame, unusable: list[dict[str, str]], duplicates: list[list[str]]) -> None:
    """Print counts, names that look alike, duplicates and unusable files."""
    rows = one_row_a_clip(files)
    print(f"{len(rows)} examples in {files['path'].nunique()} files")
    for column in (name for name in COUNTED if name in files):
        counts = rows[column].value_counts(sort=False).sort_index()
        print(f"by {column}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    for column in (name for name in ("label", "group") if name in files):
        for first, second in look_alikes(rows[column].dropna().astype(str).unique()):
            print(f"  {column} {first!r} and {second!r} look alike: write them the same if they mean the same")
    print(f"{len(duplicates)} sets of exact duplicates")
    for group in duplicates:
        print("  same bytes: " + ", ".join(group))
    print(f"{len(unusable)} unusable files")
    for entry in unusable:
        print(f"  {entry['path']}: {entry['reason']}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    # Imported here, because this room is below the systems and must not import them at the top.
    from hf_fer.task.find import load_task

    parser = argparse.ArgumentParser(prog="python -m hf_fer.data.check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", help="RAVDESS folder, any folder of clips, or a manifest file")
    parser.add_argument("--task", default=models.FLAGSHIP, help="system that the data is for")
    parser.add_argument("--encoding", default="utf-8", help="encoding of a table or texts")
    parser.add_argument("--delimiter", help="column delimiter of a CSV; detected from the header line if unset")
    args = parser.parse_args(argv)
    try:
        for name in ("encoding", "delimiter"):
            if problem := out_of_range(name, getattr(args, name)):
                raise DataError(problem)
        check_name(args.path)
        files, unusable = load_task(args.task).inspect(args.path, TableFormat(args.encoding, args.delimiter))
    except (DataError, RecipeError) as error:
        print(f"hf_fer: error: {error}", file=sys.stderr)
        return 2
    duplicates = exact_duplicates([path for path in files["path"].unique() if os.path.isfile(path)])
    print_findings(files, unusable, duplicates)
    return 1 if unusable else 0


if __name__ == "__main__":
    sys.exit(main())
