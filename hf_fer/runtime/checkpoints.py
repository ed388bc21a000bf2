"""Complete checkpoints: a manifest, which is written last, lists and verifies their files."""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
    """Folder in which the Trainer saves the checkpoint of a step."""
    return Path(output_dir, f"{PREFIX_CHECKPOINT_DIR}-{step}")


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """All checkpoints of a run, complete or not, in the order of their steps."""
    found = [
        path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()
    ]
    return sorted(found, key=lambda path: int(path.name.split("-")[-1]))


def has_folds(folder: str | None) -> bool:
    """Whether a folder is the output of a cross-validation, with a model per fold."""
    return folder is not None and any(Path(folder).glob("fold_[0-9]*"))


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def load_weights(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """
    Load all weights of a model from a checkpoint; a checkpoint of adapters has no such file and changes nothing.

    Raises:
        RecipeError: the weights do not fit the model.
    """
    path = Path(folder, SAFE_WEIGHTS_NAME)
    if path.is_file():
        with whole_loads(model):
            model.load_state_dict(load_file(path))
    return model


def start_anew(*heads: nn.Module) -> None:
    """
    Reset the layers of heads at the start from a checkpoint with other classes.

    With the same number of classes the old head's weights would load silently.
    """
    for head in heads:
        for part in head.modules():
            if isinstance(part, nn.Linear | nn.Conv1d):
                part.reset_parameters()


def write_manifest(folder: Path, processes: int | None = None) -> None:
    """
    Write the manifest of a complete checkpoint, with size and xxh3-64 of every file, after flushing files to disk.

    Args:
        folder: Folder of the checkpoint.
        processes: Number of processes that train the model.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "xxh3_64": _digest(path)}
    write_json_atomically(folder / MANIFEST, {"completed": time.time(), "processes": processes, "files": files})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A checkpoint's manifest; `None` where it is missing or unreadable."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def damage(folder: Path) -> str | None:
    """Why a checkpoint is incomplete or damaged, or `None` if every file matches the manifest."""
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
    """The checkpoints with a manifest, in the order in which they were completed."""
    manifests = {folder: read_manifest(folder) for folder in checkpoint_folders(output_dir)}
    return sorted((folder for folder, found in manifests.items() if found), key=lambda f: manifests[f]["completed"])


def newest_whole(output_dir: str | Path) -> Path | None:
    """
    The newest complete checkpoint; incomplete ones are skipped with a warning.

    Raises:
        RecipeError: there are only checkpoints of the stock Trainer, which have no manifest and may be complete.
    """
    undeclared = [folder for folder in checkpoint_folders(output_dir) if read_manifest(folder) is None]
    for folder in undeclared:
        logger.warning("%s is skipped: no %s, which is written when a checkpoint is complete.", folder, MANIFEST)
    for folder in reversed(declared(output_dir)):
        reason = damage(folder)
        if reason is None:
            return folder
        logger.warning("%s is skipped: %s.", folder, reason)
    for folder in filter(is_foreign, undeclared):
        raise RecipeError(
            f"{folder} has no {MANIFEST}: this version did not write it and cannot tell whether it is complete. "
            f"Name it with --resume_from_checkpoint {folder}, or remove it."
        )
    return None


def is_foreign(folder: Path) -> bool:
    """Whether a run without `WholeCheckpoints` wrote a checkpoint; the Trainer writes its state file last."""
    try:
        state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return "NonFiniteGuard" not in (state.get("stateful_callbacks") or {})


def check_named(folder: Path) -> None:
    """
    Check a checkpoint that a recipe names.

    Raises:
        RecipeError: the folder is no checkpoint, or its files do not match the manifest.
    """
    if not (folder / TRAINER_STATE_NAME).is_file():
        raise RecipeError(f"resume_from_checkpoint: {folder} is not a complete checkpoint: no {TRAINER_STATE_NAME}.")
    reason = damage(folder)
    if reason and read_manifest(folder) is not None:
        raise RecipeError(f"resume_from_checkpoint: {folder} is not complete: {reason}.")
    if reason:
        logger.warning("%s has no %s, so it cannot be verified that it is complete.", folder, MANIFEST)


def check_processes(folder: Path, processes: int) -> None:
    """Raises `RecipeError` where a checkpoint's manifest has another number of processes."""
    before = (read_manifest(folder) or {}).get("processes")
    if before is not None and before != processes:
        raise RecipeError(
            f"resume_from_checkpoint: {folder} is of a run of {before} processes, this one has {processes}: batches, "
            "the order of examples and random numbers would change. Resume with "
            f"{before}, or start a new run in another output_dir (--model_name_or_path takes its weights)."
        )


def best_steps(args: TrainingArguments, state: TrainerState) -> list[int] | None:
    """Steps of the `save_top_k` best evaluations so far, the best first; `None` if `save_top_k` is unset."""
    if args.save_top_k is None:
        return None
    name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
    scores = {entry["step"]: entry[name] for entry in state.log_history if name in entry}
    return sorted(scores, key=scores.get, reverse=bool(args.greater_is_better))[: args.save_top_k]


class WholeCheckpoints(TrainerCallback):
    """
    Writes the manifest of each checkpoint when all processes have saved theirs, and only then deletes older ones.

    The Trainer would delete them first. Add this callback after all callbacks that write into a checkpoint, and use
    `with checkpoints.kept(trainer)` around `trainer.train`.
    """

    def __init__(self):
        self.limit: int | None = None

    @contextmanager
    def kept(self, trainer: Trainer) -> Iterator[None]:
        """Disable the Trainer's `save_total_limit`, and remove a checkpoint whose saving fails."""
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
        # Checkpoints name the best one by its step alone, and the Trainer forgets a path that has changed.
        if state.best_global_step and state.best_model_checkpoint is None:
            best = checkpoint_folder(args.output_dir, state.best_global_step)
            state.best_model_checkpoint = str(best) if damage(best) is None else None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        args.distributed_state.wait_for_everyone()
        if args.should_save:
            folder = checkpoint_folder(args.output_dir, state.global_step)
            # Saved files name no folder of the machine; `best_global_step` says which checkpoint it is.
            replace(state, best_model_checkpoint=None).save_to_json(folder / TRAINER_STATE_NAME)
            write_manifest(folder, args.world_size)
            self.delete_older(args.output_dir, state.best_model_checkpoint, best_steps(args, state))
        args.distributed_state.wait_for_everyone()  # a launcher ends all processes as soon as one has ended

    def delete_older(self, output_dir: str, best: str | None, top: list[int] | None = None) -> None:
        """
        Delete incomplete checkpoints and, beyond the limit, the oldest; the newest and the best are kept.

        Args:
            output_dir: Output folder of the run.
            best: Folder of the best checkpoint so far.
            top: With `save_top_k`, steps of the best checkpoints; only these, the best and the newest are kept.
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
