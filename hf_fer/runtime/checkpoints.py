"""Checkpoints that are whole: a manifest, written last, says so."""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_fer.data.loading import write_json_atomically
from hf_fer.recipe.arguments import RecipeError, TrainingArguments
from hf_fer.weights.whole import whole_loads

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CHUNK = 2**22


def checkpoint_folder(output_dir: str | Path, step: int) -> Path:
    """Where the Trainer puts the checkpoint of a step."""
    return Path(output_dir, f"{PREFIX_CHECKPOINT_DIR}-{step}")


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """All checkpoints of a run, whole or not, by step."""
    found = [
        path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()
    ]
    return sorted(found, key=lambda path: int(path.name.split("-")[-1]))


def has_folds(folder: str | None) -> bool:
    """Whether a folder is that of a cross-validation, with a model per fold."""
    return folder is not None and any(Path(folder).glob("fold_[0-9]*"))


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def load_weights(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """
    Give a model all its weights from a checkpoint; one of adapters has none, and changes nothing.

    Raises:
        RecipeError: the weights do not fit the model.
    """
    path = Path(folder, SAFE_WEIGHTS_NAME)
    if path.is_file():
        with whole_loads(model):
            model.load_state_dict(load_file(path))
    return model


def start_anew(*heads: nn.Module) -> None:
    """Draw the layers of heads whose classes are others; of as many classes they would load without a word."""
    for head in heads:
        for part in head.modules():
            if isinstance(part, nn.Linear | nn.Conv1d):
                part.reset_parameters()


def write_manifest(folder: Path, processes: int | None = None) -> None:
    """
    Declare a checkpoint whole: every file with its size and xxh3-64, once all of them are on the disk.

    Args:
        folder: The checkpoint.
        processes: How many train the model.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "xxh3_64": _digest(path)}
    write_json_atomically(folder / MANIFEST, {"completed": time.time(), "processes": processes, "files": files})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A checkpoint's manifest; `None` where there is none that can be read."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def damage(folder: Path) -> str | None:
    """What keeps a checkpoint from being whole, or `None`."""
    manifest = read_manifest(folder)
    if manifest is None:
        return f"no {MANIFEST}"
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size} of {facts['bytes']} bytes"
        if _digest(path) != facts["xxh3_64"]:
            return f"{name} has changed"
    return None


def declared(output_dir: str | Path) -> list[Path]:
    """The checkpoints that have a manifest, in the order in which they were completed."""
    manifests = {folder: read_manifest(folder) for folder in checkpoint_folders(output_dir)}
    return sorted((folder for folder, found in manifests.items() if found), key=lambda f: manifests[f]["completed"])


def newest_whole(output_dir: str | Path) -> Path | None:
    """
    The checkpoint that was completed last and is whole; others are named in a warning and passed over.

    Raises:
        RecipeError: all there is are checkpoints of the stock Trainer, without a manifest, which may be whole.
    """
    undeclared = [folder for folder in checkpoint_folders(output_dir) if read_manifest(folder) is None]
    for folder in undeclared:
        logger.warning("%s is passed over: no %s, which is written when a checkpoint is whole.", folder, MANIFEST)
    for folder in reversed(declared(output_dir)):
        reason = damage(folder)
        if reason is None:
            return folder
        logger.warning("%s is passed over: %s.", folder, reason)
    for folder in filter(is_foreign, undeclared):
        raise RecipeError(
            f"{folder} has no {MANIFEST}: it was not written by this version, which cannot tell whether it is whole. "
            f"Name it, --resume_from_checkpoint {folder}, or take it away."
        )
    return None


def is_foreign(folder: Path) -> bool:
    """Whether a run without `WholeCheckpoints` wrote it; the state is what the Trainer writes last."""
    try:
        state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return "NonFiniteGuard" not in (state.get("stateful_callbacks") or {})


def check_named(folder: Path) -> None:
    """
    Look at a checkpoint that a recipe names.

    Raises:
        RecipeError: it is no checkpoint, or not what its manifest says.
    """
    if not (folder / TRAINER_STATE_NAME).is_file():
        raise RecipeError(f"resume_from_checkpoint: {folder} is not a whole checkpoint: no {TRAINER_STATE_NAME}.")
    reason = damage(folder)
    if reason and read_manifest(folder) is not None:
        raise RecipeError(f"resume_from_checkpoint: {folder} is not whole: {reason}.")
    if reason:
        logger.warning("%s has no %s: nothing says that it is whole.", folder, MANIFEST)


def check_processes(folder: Path, processes: int) -> None:
    """Raises `RecipeError` where a checkpoint's manifest says that it is of another number of processes."""
    before = (read_manifest(folder) or {}).get("processes")
    if before is not None and before != processes:
        raise RecipeError(
            f"resume_from_checkpoint: {folder} is of a run of {before} processes, this one has {processes}: batches, "
            "the order of examples and random numbers would be others than those it began with. Resume with "
            f"{before}, or start anew in another output_dir (--model_name_or_path takes its weights)."
        )


def best_steps(args: TrainingArguments, state: TrainerState) -> list[int] | None:
    """Steps of the `save_top_k` best evaluations so far, the best first, or `None` where a recipe asks for none."""
    if args.save_top_k is None:
        return None
    name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
    scores = {entry["step"]: entry[name] for entry in state.log_history if name in entry}
    return sorted(scores, key=scores.get, reverse=bool(args.greater_is_better))[: args.save_top_k]


class WholeCheckpoints(TrainerCallback):
    """
    Declares each checkpoint whole when all processes have written their part, and only then deletes older ones.

    The Trainer would delete them first. Put it after every callback that writes into a checkpoint, and use
    `with checkpoints.kept(trainer)` around `trainer.train`.
    """

    def __init__(self):
        self.limit: int | None = None

    @contextmanager
    def kept(self, trainer: Trainer) -> Iterator[None]:
        """Take `save_total_limit` out of the Trainer's hands, and clear away a checkpoint whose saving fails."""
        args = trainer.args
        self.limit, args.save_total_limit = args.save_total_limit, None
        try:
            yield
        except Exception:
            folder = checkpoint_folder(args.output_dir, trainer.state.global_step)
            if args.should_save and folder.is_dir() and read_manifest(folder) is None and not is_foreign(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            args.save_total_limit = self.limit

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The Trainer forgets a best checkpoint whose path has changed since, as in a copied output folder.
        if state.best_global_step and state.best_model_checkpoint is None:
            best = checkpoint_folder(args.output_dir, state.best_global_step)
            state.best_model_checkpoint = str(best) if damage(best) is None else None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        args.distributed_state.wait_for_everyone()
        if args.should_save:
            write_manifest(checkpoint_folder(args.output_dir, state.global_step), args.world_size)
            self.delete_older(args.output_dir, state.best_model_checkpoint, best_steps(args, state))
        args.distributed_state.wait_for_everyone()  # a launcher ends the others as soon as one has ended

    def delete_older(self, output_dir: str, best: str | None, top: list[int] | None = None) -> None:
        """
        Keep the newest whole checkpoints up to the limit, the best one among them, and nothing cut short.

        Args:
            output_dir: Of the run.
            best: The best checkpoint so far.
            top: Steps of the best ones where `save_top_k` asks for them: they and the newest stay, and no other.
        """
        for folder in checkpoint_folders(output_dir):
            if read_manifest(folder) is None and not is_foreign(folder):
                shutil.rmtree(folder, ignore_errors=True)
        folders = declared(output_dir)
        protected = {folders[-1].resolve()} | ({Path(best).resolve()} if best else set())
        if top is not None:
            protected |= {checkpoint_folder(output_dir, step).resolve() for step in top}
            excess = len(folders)
        elif not self.limit or self.limit < 0:
            return
        else:
            excess = len(folders) - max(self.limit, len(protected))
        for folder in [folder for folder in folders if folder.resolve() not in protected][: max(excess, 0)]:
            shutil.rmtree(folder, ignore_errors=True)
