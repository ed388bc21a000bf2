"""Prediction into a file: shards are divided among processes, resumed after a kill, and joined at the end."""

import hashlib
import multiprocessing
import os
import queue
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from hf_fer.data.loading import digest, file_facts
from hf_fer.data.tables import TableFormat
from hf_fer.inference import cluster
from hf_fer.inference.inputs import Input, files_of, groups, read_sources
from hf_fer.inference.loading import FoundModel, find_model, load_predictor
from hf_fer.inference.outputs import Shards, check_apart, check_output, schema_of
from hf_fer.inference.predict import Work, answer
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.recipe.ranges import out_of_range
from hf_fer.runtime.failures import RunError
from hf_fer.task.predictor import Predictor

SHOWN_ERRORS = 3
ENGINES = ("processes", "ray")
START_METHOD = "spawn"
"""Start method of worker processes: an accelerator that the parent has used does not survive a fork."""


@dataclass(frozen=True)
class Settings:
    """
    One call of `hf-fer predict`.

    Args:
        model: Folder of a saved model, or its name on the Hub.
        sources: Files, folders, tables and Hub data sets.
        output: File to write; its ending chooses the format.
        probabilities, timeline, batch_size, options: See `hf_fer.predict`.
        shard_size: Number of inputs per shard; a killed process loses at most one shard.
        num_processes: Number of processes, each with its own copy of the model, on its own accelerator if there are
            several.
        engine: `processes` starts them on this machine, `ray` on a cluster.
        address: Address of the Ray cluster; see `hf_fer.inference.cluster.run`.
        form: Encoding and delimiter of tables.
        overwrite: Whether to replace an existing output.
        backend: Backend that the model must be for; see `find_model`.
    """

    model: str
    sources: Sequence[str]
    output: str
    probabilities: bool = False
    timeline: bool = False
    batch_size: int | None = None
    shard_size: int = 256
    num_processes: int = 1
    engine: str = "processes"
    address: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    form: TableFormat = field(default_factory=TableFormat)
    overwrite: bool = False
    backend: str | None = None

    def __post_init__(self):
        for name in ("batch_size", "shard_size", "num_processes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise RecipeError(f"--{name} must be at least 1, got {value}.")
        check_choice("--engine", self.engine, ENGINES)
        if self.engine == "ray":
            cluster.check_installed()
        elif self.address is not None:
            raise RecipeError(f"--address {self.address} names a Ray cluster: add --engine ray.")
        for name in ("encoding", "delimiter"):
            if problem := out_of_range(name, getattr(self.form, name)):
                raise RecipeError(problem)


def predict_to_file(settings: Settings) -> dict[str, Any]:
    """
    Predict all inputs of a call.

    Returns:
        `inputs` (their number), `errors` (reason -> count), and `metrics` where inputs have a true answer.

    Raises:
        RecipeError, DataError: model, inputs or output cannot be used.
        RunError: a process ended; finished shards are kept.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RecipeError("predict starts its own processes: run it without a launcher, with --num_processes N.")
    if Path(settings.output).exists() and not settings.overwrite:
        raise RecipeError(f"{settings.output} exists already; give another --output, or --overwrite to replace it.")
    model = find_model(settings.model, settings.backend)
    inputs = read_sources(settings.sources, model.predictor, settings.form)
    check_apart(settings.output, input_files(settings.sources, inputs, model.predictor))
    check_output(settings.output, inputs, model.predictor, settings.timeline, settings.options)
    if not inputs:
        raise RecipeError("the inputs have no rows.")
    parts = list(groups(inputs, settings.shard_size))
    shards = Shards(settings.output, len(parts))
    lock = shards.open(fingerprint(settings, model, inputs), overwrite=settings.overwrite)
    try:
        wanted = {number: parts[number] for number in shards.missing()}
        finished = len(inputs) - sum(map(len, wanted.values()))
        with tqdm(total=len(inputs), initial=finished, unit=" inputs", desc="Predicting", smoothing=0.05) as bar:
            _run(settings, model, shards, wanted, bar.update, any(given.has_target for given in inputs))
        summary = summarise(shards, model)
        shards.join(model.predictor)
        shards.remove()
    finally:
        lock.release()
    return summary


def input_files(sources: Iterable[str], inputs: Iterable[Input], predictor: type[Predictor]) -> Iterator[str | Path]:
    """The files that a call reads: the sources themselves, and those that tables and folders name."""
    yield from sources
    for given in inputs:
        yield from files_of(given.value, predictor)


def fingerprint(settings: Settings, model: FoundModel, inputs: Sequence[Input]) -> str:
    """Digest of model, settings and inputs, which identifies the shards of a call."""
    given = [getattr(settings, name) for name in ("probabilities", "timeline", "batch_size", "shard_size", "options")]
    facts = [model.facts, given]
    seen = hashlib.sha256(digest(facts).encode())
    for given in inputs:
        facts = [file_facts(file) for file in files_of(given.value, model.predictor)]
        seen.update(repr([given, facts]).encode("utf-8", "backslashreplace"))
    return seen.hexdigest()


def _run(
    settings: Settings,
    model: FoundModel,
    shards: Shards,
    parts: dict[int, list[Input]],
    done: Callable[[int], Any],
    with_target: bool,
) -> None:
    """Predict the missing shards: in this process, in worker processes, or on a cluster."""
    if not parts:
        return
    load = partial(
        load_predictor,
        model,
        probabilities=settings.probabilities,
        timeline=settings.timeline,
        options=settings.options,
    )
    work = Work(load, settings.batch_size, with_target)
    count = min(settings.num_processes, len(parts))
    if settings.engine == "ray":
        cluster.run(work, shards, parts, done, address=settings.address, actors=count)
    elif count == 1:
        predict_shards(work, shards, parts, done)
    else:
        _run_processes(count, work, shards, parts, done)


def _run_processes(
    count: int, work: Work, shards: Shards, parts: dict[int, list[Input]], done: Callable[[int], Any]
) -> None:
    """Predict shards in worker processes."""
    context = multiprocessing.get_context(START_METHOD)
    progress = context.Queue()
    numbers = list(parts)
    workers = []
    for rank in range(count):
        own = {number: parts[number] for number in numbers[rank::count]}
        threads = max(torch.get_num_threads() // count, 1)
        given = (rank, threads, progress, work, shards, own)
        workers.append(context.Process(target=_worker, args=given, daemon=True))
    try:
        for worker in workers:
            worker.start()
        _watch(workers, progress, done)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
            if worker.pid:
                worker.join()


def _watch(workers: list[Any], progress: Any, done: Callable[[int], Any]) -> None:
    """Report progress until all workers have finished; raises `RunError` when one fails."""
    while True:
        alive = any(worker.is_alive() for worker in workers)
        try:
            found = progress.get(timeout=0.2)
            if isinstance(found, Exception):
                raise found
            done(found)
        except queue.Empty:
            if not alive:
                break
        failed = next((worker for worker in workers if worker.exitcode not in (None, 0)), None)
        if failed and progress.empty():
            raise RunError(
                f"a process ended with status {failed.exitcode} (-9 usually means out of memory). Finished shards are "
                "kept: run the same command to continue; lower --num_processes or --batch_size if memory ran out."
            )


def _worker(rank: int, threads: int, progress: Any, work: Work, shards: Shards, parts: dict[int, list[Input]]) -> None:
    """Main function of a worker process; it sends an error that ends it to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    torch.set_num_threads(threads)
    try:
        predict_shards(work, shards, parts, progress.put, rank)
    except (RecipeError, RunError) as error:
        progress.put(type(error)(str(error)))
        progress.close()
        progress.join_thread()
        sys.exit(1)


def predict_shards(
    work: Work, shards: Shards, parts: dict[int, list[Input]], done: Callable[[int], Any], rank: int = 0
) -> None:
    """Predict shards in this process, and write each when it is complete."""
    predictor = work.load(rank=rank)
    schema = schema_of(predictor, work.with_target)
    parent = multiprocessing.parent_process()
    for number, inputs in parts.items():
        if parent is not None and not parent.is_alive():
            os._exit(1)  # the parent was killed, so nobody waits for this worker
        rows = answer(predictor, inputs, work.batch_size or predictor.batch_size, done)
        shards.write(number, rows, schema)


def summarise(shards: Shards, model: FoundModel) -> dict[str, Any]:
    """Summarise the rows of all shards; see `predict_to_file`."""
    errors: Counter[str] = Counter()
    count, unanswered, said, scored = 0, 0, [], []
    for row in shards.rows():
        count += 1
        if row["error"] is not None:
            errors[row["error"]] += 1
            unanswered += row.get("target") is not None
        elif row.get("target") is not None:
            said.append(row["target"])
            scored.append({name: row.get(name) for name in ("label", "text")})
    if not said:
        return {"inputs": count, "errors": dict(errors)}
    metrics = model.predictor.score(said, scored, model.labels)
    metrics["not_scored"] += unanswered
    return {"inputs": count, "errors": dict(errors), "metrics": metrics}


def print_summary(summary: dict[str, Any], output: str) -> None:
    """Print the number of inputs, the most frequent errors and the metrics of a call."""
    errors = Counter(summary["errors"])
    print(f"{output}: {summary['inputs']} inputs, {errors.total()} without an answer")
    for reason, count in errors.most_common(SHOWN_ERRORS):
        print(f"  {count} x {reason}")
    for name, value in summary.get("metrics", {}).items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
