"""Shards over the machines of a Ray cluster: Ray Data hands them to actors, and their rows come back to one writer."""

import importlib.util
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from hf_fer.inference.inputs import Input, files_of
from hf_fer.inference.outputs import Shards, schema_of
from hf_fer.inference.predict import Work, answer
from hf_fer.recipe.arguments import RecipeError
from hf_fer.runtime.failures import RunError
from hf_fer.task.predictor import Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardAnswer:
    """
    What an actor sends back for one shard.

    Args:
        rows: Of its inputs, in order.
        schema: Their columns.
        unseen: Files of inputs that are not there on the actor's machine.
        machine: Address of that machine.
        failure: Why there are no rows: what ended the actor's work, and would end it for every shard.
    """

    rows: list[dict[str, Any]]
    schema: pa.Schema | None
    unseen: list[str]
    machine: str
    failure: Exception | None = None


class ShardPredictor:
    """What one actor does; it loads the model once, at its first shard."""

    def __init__(self, work: Work):
        self.work = work
        self.predictor: Predictor | None = None

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """From `number` and pickled `inputs` of a shard to `number` and its pickled `answer`."""
        return {"number": shard["number"], "answer": pickle.dumps(self._answer(pickle.loads(shard["inputs"])))}

    def _answer(self, inputs: list[Input]) -> ShardAnswer:
        from ray.util import get_node_ip_address

        machine = get_node_ip_address()
        try:
            self.predictor = self.predictor or self.work.load()
            rows = answer(self.predictor, inputs, self.work.batch_size or self.predictor.batch_size)
        except (RecipeError, RunError) as error:  # an actor that raised would be started again and again
            return ShardAnswer([], None, [], machine, type(error)(str(error)))
        bad = [given for given, row in zip(inputs, rows, strict=True) if row["error"] is not None]
        files = [str(file) for given in bad for file in files_of(given.value, type(self.predictor))]
        unseen = [file for file in files if not os.path.exists(file)]
        return ShardAnswer(rows, schema_of(self.predictor, self.work.with_target), unseen, machine)


def check_installed() -> None:
    """Raises `RecipeError` where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise RecipeError("--engine ray needs the extra `ray`: pip install 'hf_fer[ray]'.")


def run(
    work: Work,
    shards: Shards,
    parts: dict[int, list[Input]],
    done: Callable[[int], Any],
    *,
    address: str | None,
    actors: int,
) -> None:
    """
    Predict shards on the actors of a Ray cluster, and write each here as it comes back.

    Inputs, the model and this package must be there on every machine, under the same names. A shard whose machine is
    lost is given to another one.

    Args:
        work: What each actor does.
        shards: Where the rows are written, on this machine.
        parts: The inputs of the shards, by their numbers.
        done: Called with the number of inputs of each shard that was written.
        address: Of the cluster, or `auto` for the one that this machine is part of; `None` starts Ray here alone.
        actors: How many, each with one GPU where the cluster has any, else with one core.

    Raises:
        RecipeError: there is no cluster at the address, or a machine of it cannot load the model.
        RunError: a machine does not see the inputs, or the cluster is lost. Shards that were written are kept.
    """
    with _connected(address) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
        room = int(ray.cluster_resources().get(kind, 0))
        if room < actors:
            logger.warning(f"--num_processes {actors}: the cluster has {room} {kind}s, so {room} run at a time.")
        given = [{"number": number, "inputs": pickle.dumps(inputs)} for number, inputs in parts.items()]
        answers = ray.data.from_items(given, override_num_blocks=len(given)).map(
            ShardPredictor,
            fn_constructor_args=(work,),
            # From 1 on: actors of a machine that is lost are not waited for.
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=max(min(actors, room), 1)),
            **({"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}),
        )
        try:
            for found in answers.iter_rows():
                one: ShardAnswer = pickle.loads(found["answer"])
                check_answer(one)
                shards.write(found["number"], one.rows, one.schema)
                done(len(one.rows))
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[-500:]
            raise RunError(f"Ray gave up ({reason}). Finished shards are kept: the same command goes on.") from error


def check_answer(found: ShardAnswer) -> None:
    """Raises what ended an actor's work, and `RunError` where its machine lacks a file that is there on this one."""
    if found.failure is not None:
        raise type(found.failure)(f"{found.failure} (on {found.machine})") from found.failure
    missing = next((file for file in found.unseen if os.path.exists(file)), None)
    if missing is not None:
        raise RunError(
            f"{missing} is on this machine, and not on {found.machine} of the cluster. Put inputs where every machine "
            "finds them under one name: a file system that they share, or a bucket that each has mounted."
        )


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster or started on this machine; left as it was found where it ran here already."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)  # else it tells its plan
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # else it tells that it has no bar
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RecipeError(
            f"--address {address}: {' '.join(str(error).split())} Start a cluster with `ray start --head` on one "
            "machine and `ray start --address=...` on the others, or leave --address out to use this machine alone."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
