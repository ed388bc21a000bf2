"""Prediction on a Ray cluster: Ray Data distributes shards to actors, and this process writes the rows they return."""

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
    Result of an actor for one shard.

    Args:
        rows: Rows of its inputs, in order.
        schema: Columns and types of the rows.
        unseen: Input files that do not exist on the actor's machine.
        machine: Address of the actor's machine.
        failure: Error that stops the actor on every shard; there are then no rows.
    """

    rows: list[dict[str, Any]]
    schema: pa.Schema | None
    unseen: list[str]
    machine: str
    failure: Exception | None = None


class ShardPredictor:
    """Predicts shards in one actor; the model is loaded once, at the first shard."""

    def __init__(self, work: Work):
        self.work = work
        self.predictor: Predictor | None = None

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Predict a shard: `number` and pickled `inputs` -> `number` and a pickled `ShardAnswer` as `answer`."""
        return {"number": shard["number"], "answer": pickle.dumps(self._answer(pickle.loads(shard["inputs"])))}

    def _answer(self, inputs: list[Input]) -> ShardAnswer:
        from ray.util import get_node_ip_address

        machine = get_node_ip_address()
        try:
            self.predictor = self.predictor or self.work.load()
            rows = answer(self.predictor, inputs, self.work.batch_size or self.predictor.batch_size)
        except (RecipeError, RunError) as error:  # Ray would restart an actor that raises, again and again
            return ShardAnswer([], None, [], machine, type(error)(str(error)))
        bad = [given for given, row in zip(inputs, rows, strict=True) if row["error"] is not None]
        files = [str(file) for given in bad for file in files_of(given.value, type(self.predictor))]
        unseen = [file for file in files if not os.path.exists(file)]
        return ShardAnswer(rows, schema_of(self.predictor, self.work.with_target), unseen, machine)


def check_installed() -> None:
    """Raises `RecipeError` if Ray is not installed."""
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
    Predict shards on the actors of a Ray cluster, and write each on this machine when it is returned.

    Inputs, the model and this package must exist on every machine, under the same paths. If a machine is lost, other
    machines predict its shards.

    Args:
        work: Model and settings of every actor.
        shards: Shards to write, on this machine.
        parts: Number of a shard -> its inputs.
        done: Function that is called with the number of inputs of each shard once it is written.
        address: Address of the cluster, or `auto` for the one that this machine belongs to; `None` starts Ray on this
            machine alone.
        actors: Number of actors, each with one GPU if the cluster has any, else with one core.

    Raises:
        RecipeError: there is no cluster at the address, or one of its machines cannot load the model.
        RunError: a machine cannot read the inputs, or the cluster is lost. Shards that were written are kept.
    """
    with _connected(address) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
        room = int(ray.cluster_resources().get(kind, 0))
        if room < actors:
            logger.warning(
                f"--num_processes {actors}: the cluster has {room} {kind}s, so {room} actors run at a time."
            )
        given = [{"number": number, "inputs": pickle.dumps(inputs)} for number, inputs in parts.items()]
        answers = ray.data.from_items(given, override_num_blocks=len(given)).map(
            ShardPredictor,
            fn_constructor_args=(work,),
            # With a minimum of 1, Ray does not wait for the actors of a lost machine.
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
            raise RunError(f"Ray failed ({reason}). Finished shards are kept; the same command resumes.") from error


def check_answer(found: ShardAnswer) -> None:
    """Raises the error that stopped an actor, or `RunError` if its machine lacks a file that exists on this one."""
    if found.failure is not None:
        raise type(found.failure)(f"{found.failure} (on {found.machine})") from found.failure
    missing = next((file for file in found.unseen if os.path.exists(file)), None)
    if missing is not None:
        raise RunError(
            f"{missing} is on this machine, and not on {found.machine} of the cluster. Put inputs where every machine "
            "finds them under the same path: on a shared file system, or in a bucket that each machine has mounted."
        )


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Connect to a cluster or start Ray on this machine; a Ray that already runs in this process is kept."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)  # INFO logs its execution plan
    # Its warning says that the progress bar is off.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
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
