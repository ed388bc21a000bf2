"""What one process does for a long list of clips, however many machines answer it: read, check, hand out, write.

python benchmarks/predict_list.py [--clips 100000] [--shard_size 256] [--engine ray]

The clips are empty files that a Parquet table names; the model answers at once, so that what is left is the work of
the process that was started: reading the list, the state of each file, handing out shards, writing and joining them.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import psutil
from tqdm.auto import tqdm

from hf_fer.inference import cluster, jobs
from hf_fer.inference.inputs import groups, read_sources
from hf_fer.inference.outputs import Shards
from hf_fer.inference.predict import Work
from hf_fer.task.predictor import ClassPredictor, file_length


class Instant(ClassPredictor):
    """Answers without a model."""

    pipeline_task = "instant"
    endings = (".wav",)
    columns = {"audio": ("audio",)}
    target_columns = ("label",)

    @classmethod
    def length(cls, value: Any) -> float:
        """As the systems of sounds have it."""
        return file_length(value)

    def row(self, answer: Any) -> dict[str, Any]:
        """One label for all."""
        return self.ranked(answer, None)


def load(rank: int = 0) -> Instant:
    """The predictor."""
    return Instant(lambda values, batch_size: [[{"label": "calm", "score": 0.5}] for _ in values])


def make_clips(folder: Path, count: int) -> Path:
    """A table of empty files, of which a folder has 1,000."""
    names = [f"{number // 1000:06d}/{number:09d}.wav" for number in range(count)]
    for name in names:
        if name.endswith("000.wav"):
            (folder / name).parent.mkdir()
        (folder / name).touch()
    pd.DataFrame({"audio": names}).to_parquet(folder / "clips.parquet")
    return folder / "clips.parquet"


@contextmanager
def timed(found: dict[str, float], name: str) -> Iterator[None]:
    """Seconds, and MiB by which this process grew."""
    process, begun = psutil.Process(), time.perf_counter()
    before = process.memory_info().rss
    yield
    found[f"{name}: seconds"] = round(time.perf_counter() - begun, 2)
    found[f"{name}: MiB more"] = round((process.memory_info().rss - before) / 2**20)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--shard_size", type=int, default=256)
    parser.add_argument("--engine", choices=jobs.ENGINES, default="processes")
    args = parser.parse_args()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        table, output = make_clips(Path(name), args.clips), Path(name) / "out.parquet"
        settings = jobs.Settings("instant", [str(table)], str(output), shard_size=args.shard_size)
        model = SimpleNamespace(predictor=Instant, facts=[], labels=["calm"])
        with timed(found, "reading the list"):
            inputs = read_sources(settings.sources, Instant)
        with timed(found, "state of each file"):
            jobs.fingerprint(settings, model, inputs)
        parts = dict(enumerate(groups(inputs, args.shard_size)))
        shards = Shards(output, len(parts))
        shards.open("benchmark", overwrite=True).release()
        work, bar, first = Work(load, None, False), tqdm(total=args.clips), []

        def done(count: int) -> None:
            first[:] = first or [time.perf_counter()]
            bar.update(count)

        with timed(found, "answers"):
            if args.engine == "ray":
                cluster.run(work, shards, parts, done, address=None, actors=1)
            else:
                jobs.predict_shards(work, shards, parts, done)
        found["answers: seconds from the first to the last"] = round(time.perf_counter() - first[0], 2)
        with timed(found, "joining"):
            jobs.summarise(shards, model)
            shards.join(Instant)
        found |= {"shards": len(parts), "MiB of the output": round(output.stat().st_size / 2**20, 1)}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
