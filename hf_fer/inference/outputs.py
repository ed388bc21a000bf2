"""Output files of predictions: finished shards beside the output, and the one file that they are joined to."""

import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from hf_fer.data.captions import lines_of_words, srt, vtt
from hf_fer.data.loading import DataError, write_json_atomically
from hf_fer.inference.plots import PLOTS, plot_timeline
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.task.predictor import Predictor

SUBTITLES = {".srt": srt, ".vtt": vtt}
ENDINGS = (".parquet", ".csv", ".jsonl", ".json", *SUBTITLES, *PLOTS)


class Shards:
    """
    The shards of one output, in the folder `<output>.parts` beside it until they are joined.

    A shard is written to a temporary file and renamed when it is complete, so that a killed process leaves no partial
    shard.

    Args:
        output: File to write.
        count: Number of shards.
    """

    def __init__(self, output: str | Path, count: int):
        self.output = Path(output)
        self.folder = self.output.with_name(f"{self.output.name}.parts")
        self.count = count

    def open(self, fingerprint: str, *, overwrite: bool) -> FileLock:
        """
        Lock the folder and check that its shards belong to this run.

        Args:
            fingerprint: Digest of model, inputs and settings; only shards with the same one are continued.
            overwrite: Whether to remove shards with another fingerprint.

        Returns:
            The lock, which keeps other processes out until it is released or its process ends.

        Raises:
            RecipeError: the shards are of another model, other inputs or other settings, another process uses them, or
                the folder cannot be written to.
        """
        lock = FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RecipeError(f"another process is writing {self.output}; wait for it to end.") from error
        except OSError as error:
            raise RecipeError(f"{self.output} cannot be written ({error.strerror}); give another --output.") from error
        known = self.folder / "run.json"
        if known.exists() and json.loads(known.read_text(encoding="utf-8")) != fingerprint:
            if not overwrite:
                lock.release()
                raise RecipeError(
                    f"{self.folder} has shards of another model, other inputs or other settings; give the same ones "
                    "to continue, or --overwrite to start over."
                )
            for shard in self.folder.glob("*.parquet"):
                shard.unlink()
        write_json_atomically(known, fingerprint)
        return lock

    def path(self, number: int) -> Path:
        """Path of a shard, whether it exists or not."""
        return self.folder / f"{number:06d}.parquet"

    def missing(self) -> list[int]:
        """Numbers of the shards that are not finished."""
        return [number for number in range(self.count) if not self.path(number).exists()]

    def write(self, number: int, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        """Write a shard atomically."""
        part = self.folder / f"{number:06d}.{os.getpid()}.tmp"
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)
        os.replace(part, self.path(number))

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows in order, with one shard in memory at a time."""
        for number in range(self.count):
            yield from pq.read_table(self.path(number)).to_pylist()

    def join(self, predictor: type[Predictor]) -> None:
        """Join the shards to the output; raises `DataError` if the only input of a plot or subtitles has an error."""
        ending = self.output.suffix.lower()
        joined = self.folder / f"joined{ending}"
        if ending in (*SUBTITLES, *PLOTS):
            write = _write_subtitles if ending in SUBTITLES else plot_timeline
            row = next(self.rows())
            if row["error"]:
                raise DataError(f"{row['input']}: {row['error']}")
            write(joined, row, predictor)
        else:
            {".parquet": self._parquet, ".csv": self._csv, ".jsonl": self._jsonl, ".json": self._json}[ending](joined)
        os.replace(joined, self.output)

    def remove(self) -> None:
        """Remove the shards."""
        shutil.rmtree(self.folder)

    @property
    def schema(self) -> pa.Schema:
        """Columns and types, which all shards share."""
        return pq.read_schema(self.path(0))

    def _parquet(self, path: Path) -> None:
        with pq.ParquetWriter(path, self.schema) as writer:
            for number in range(self.count):
                writer.write_table(pq.read_table(self.path(number)))

    def _csv(self, path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.schema.names)
            writer.writeheader()
            for row in self.rows():
                writer.writerow({name: _cell(value) for name, value in row.items()})

    def _json(self, path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            for number, row in enumerate(self.rows()):
                file.write((",\n" if number else "[\n") + json.dumps(row, ensure_ascii=False))
            file.write("\n]\n")

    def _jsonl(self, path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            for row in self.rows():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_subtitles(path: Path, row: dict[str, Any], predictor: type[Predictor]) -> None:
    lines = lines_of_words(row["segments"]) if predictor.joins_segments else row["segments"]
    path.write_text(SUBTITLES[path.suffix](lines), encoding="utf-8")


def _cell(value: Any) -> Any:
    """A value of a CSV field: text and `None` as they are, JSON for other values."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def schema_of(predictor: Predictor, with_target: bool) -> pa.Schema:
    """Columns and types of a run's rows."""
    target = {"target": pa.string()} if with_target else {}
    return pa.schema({"input": pa.string(), **predictor.fields, **target, "error": pa.string()})


def check_apart(output: str | Path, files: Iterable[str | Path]) -> None:
    """Raises `RecipeError` where the output would replace one of the inputs' files."""
    if not os.path.exists(output):
        return
    target = os.path.realpath(output)
    for file in files:
        if os.path.realpath(file) == target:
            raise RecipeError(f"{output} is an input, too, and would be lost; give another --output.")


def check_output(
    output: str | Path, inputs: Sequence[Any], predictor: type[Predictor], timeline: bool, options: dict[str, Any]
) -> None:
    """Raises `RecipeError` where the answers cannot be written in the format of the output's ending."""
    ending = Path(output).suffix.lower()
    check_choice("ending of --output", ending, ENDINGS)
    if ending not in (*SUBTITLES, *PLOTS):
        return
    if ending in SUBTITLES and not predictor.in_seconds:
        raise RecipeError(f"{output}: answers of {predictor.pipeline_task} have no times, which subtitles need.")
    if not predictor.gives_segments(timeline, options):
        remedy = "" if predictor.timeline_options is None else "; give --timeline"
        raise RecipeError(f"{output}: answers of {predictor.pipeline_task} have no segments{remedy}.")
    if len(inputs) != 1:
        raise RecipeError(f"{output}: takes one input, and there are {len(inputs)}; give .jsonl for several.")
