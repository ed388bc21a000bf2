"""Time to read, check and split tables of growing size:

python benchmarks/data_growth.py [--rows 10000 100000 1000000] [--near-duplicates]

Each table has a text, one of eight languages, and a source for every row (or several rows), which is what makes
splitting by group slow. Times are CPU seconds of this process, which other jobs on the machine do not change.
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from hf_fer.data.check import print_findings
from hf_fer.data.copies import drop_copies
from hf_fer.data.loading import LoadedData, check_groups, group_disjoint_split, take_subset, to_splits
from hf_fer.models.language_id.train.text import TextFormat, canonical_labels, clean, read_texts
from hf_fer.models.language_id.train.text_splits import drop_near_duplicates
from hf_fer.models.multimodal_fer.train.clips import without_unusable

LANGUAGES = ("en", "vi", "de", "fr", "es", "it", "nl", "pt")


def write_table(path: Path, count: int, rows_per_source: int) -> None:
    """A CSV of texts of twelve invented words each."""
    generator = np.random.default_rng(0)
    words = np.array(["".join(generator.choice(list("aeioubdfgklmnprst"), 6)) for _ in range(5000)])
    texts = [" ".join(row) for row in words[generator.integers(0, len(words), (count, 12))]]
    sources = [f"source {row // rows_per_source}" for row in range(count)]
    labels = generator.choice(LANGUAGES, count)
    pd.DataFrame({"text": texts, "label": labels, "source": sources}).to_csv(path, index=False)


def measure(path: Path, near_duplicates: bool) -> dict[str, float]:
    """CPU seconds of each step."""
    seconds, last = {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal last
        now = time.process_time()
        seconds[name], last = now - last, now

    rows = canonical_labels(read_texts(str(path), TextFormat())[0])
    lap("read")
    rows, _ = clean(rows, min_letters=2)
    lap("clean")
    rows["split"] = group_disjoint_split(rows, label="label", group="source", seed=0)
    lap("split")
    check_groups(rows, group="source")
    lap("check groups")
    take_subset(rows, label="label", seed=0, train_fraction=0.5)
    lap("subset")
    rows, _ = drop_copies(rows, (), text_columns=("text",))
    lap("copies")
    labels = rows["label"].map({name: index for index, name in enumerate(LANGUAGES)})
    LoadedData(to_splits(rows.assign(labels=labels)), list(LANGUAGES), "disjoint").counts()
    lap("counts")
    without_unusable(*clips_with_reasons(len(rows)), keep_parts=False)
    lap("unusable clips")
    print_findings(rows.assign(group=rows["source"], modality="audio"), [], [])
    lap("check's counts")
    if near_duplicates:
        drop_near_duplicates(rows, 0.8)
        lap("near-duplicates")
    return seconds


def clips_with_reasons(count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As many clips with sound, each hundredth of which does not decode."""
    rows = pd.DataFrame({"audio": [f"{row}.wav" for row in range(count)], "video": None})
    bad = pd.DataFrame({"audio": ["broken" if row % 100 == 0 else None for row in range(count)]}, dtype=object)
    return rows, bad


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rows-per-source", type=int, default=1)
    parser.add_argument("--near-duplicates", action="store_true", help="also look for them: slow by its nature")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for count in args.rows:
            path = Path(folder, f"{count}.csv")
            write_table(path, count, args.rows_per_source)
            with contextlib.redirect_stdout(io.StringIO()):
                seconds = measure(path, args.near_duplicates)
            steps = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
            print(f"{count:>9} rows: {sum(seconds.values()):.1f} s ({steps})", flush=True)


if __name__ == "__main__":
    main()
