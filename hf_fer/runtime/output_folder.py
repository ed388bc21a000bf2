"""Protects `output_dir`: a run replaces only files that a run wrote, and only once data and model have loaded."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate.utils import gather_object
from filelock import SoftFileLock, Timeout

from hf_fer import __version__
from hf_fer.data.loading import write_json_atomically
from hf_fer.recipe.arguments import RecipeError, TrainingArguments
from hf_fer.runtime.checkpoints import MANIFEST, checkpoint_folders, is_foreign

logger = logging.getLogger(__name__)

MARKER = ".hf_fer.json"
"""Marks a folder as the output of runs; its `files` lists the files that they wrote."""

LOCK = ".hf_fer.lock"
REPORT, NEW_REPORT, SKIPPED, STUDY = "report", "report.new", "skipped.jsonl", "study.db"
EVALUATION = "evaluation"
WEIGHTS = "*.safetensors"

# Glob patterns of files that a run writes, under names that a folder of the user's own files may have, too.
WRITTEN = (
    *(REPORT, NEW_REPORT, EVALUATION, "runs", "README.md", "trainer_state.json", "training_args.bin", "*config.json"),
    *("cross_validation.json", "best_recipe.json", "tokenizer*.json", "special_tokens_map.json", WEIGHTS),
    *("checkpoint-*", "fold_*"),
)
# Not listed in the marker: these have their own records, or are continued by the next run.
NOT_LISTED = (MARKER, LOCK, NEW_REPORT, EVALUATION, "runs", "checkpoint-*", "fold_*")


def read_marker(folder: Path) -> dict | None:
    """Content of the marker, or `None` where it is missing or unreadable."""
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_ours(folder: Path) -> bool:
    """Whether a run wrote the folder. Versions without the marker are recognised by manifest, report or study."""
    if read_marker(folder) is not None or (folder / STUDY).is_file():
        return True
    if any((path / MANIFEST).is_file() for path in checkpoint_folders(folder)):
        return True
    try:
        metrics = json.loads((folder / REPORT / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(metrics, dict) and {"task", "protocol"} <= metrics.keys()


def is_finished(folder: Path) -> bool:
    """Whether a run of hf_fer finished in the folder, leaving a model or a report, or a search left its study."""
    found = [*folder.glob(WEIGHTS), *folder.glob(f"{REPORT}/metrics.json"), *folder.glob(STUDY)]
    return bool(found) and is_ours(folder)


def check_ours(folder: Path) -> None:
    """Raises `RecipeError` where a run would overwrite files that no run wrote."""
    if not folder.is_dir() or is_ours(folder):
        return
    found = sorted(path.name for pattern in WRITTEN for path in folder.glob(pattern))
    if REPORT in found and {path.name for path in (folder / REPORT).iterdir()} <= {SKIPPED}:
        found.remove(REPORT)  # left by a run that found too many unusable files
    if found:
        raise RecipeError(
            f"output_dir: {folder} holds {', '.join(found[:5])}, which no run of hf_fer wrote and this one would "
            "overwrite. Give another --output_dir."
        )


def check_writable(folder: Path) -> None:
    """Create the folder if it does not exist; raises `RecipeError` where it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{LOCK}.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RecipeError(
            f"output_dir: {folder} cannot be written to ({error.strerror}). Give another --output_dir."
        ) from error


def evaluation_folder(args: TrainingArguments, dataset: str, fold: int | str | None) -> Path:
    """Folder for an evaluation: `output_dir`, or, to keep the report of a model there, a folder below it."""
    folder = Path(args.output_dir)
    if not any([*folder.glob(WEIGHTS), *folder.glob(f"fold_*/{WEIGHTS}"), *checkpoint_folders(folder)]):
        return folder
    name = Path(dataset).stem or "data"
    inside = folder / EVALUATION / (f"{name}-fold_{fold}" if isinstance(fold, int) and fold else name)
    logger.warning("%s holds a model: its card and report stay, the evaluation goes to %s.", folder, inside)
    return inside


@contextmanager
def locked(args: TrainingArguments) -> Iterator[None]:
    """
    Lock `output_dir` against other runs; the first process holds the lock for all processes of a run.

    The lock file has the owner's process id and host; if that process has ended, the lock is taken over.

    Raises:
        RecipeError: another run holds the lock, or the folder is not writable; every process raises it.
    """
    folder, lock, trouble = Path(args.output_dir), None, None
    if args.should_save:
        try:
            check_writable(folder)
            lock = SoftFileLock(folder / LOCK, timeout=3, poll_interval=0.05)
            lock.acquire()
        except Timeout:
            trouble = f"output_dir: {_owner(folder)} Wait for it, or give another --output_dir."
        except RecipeError as error:
            trouble = str(error)
    reasons = [reason for reason in gather_object([trouble]) if reason]
    try:
        if reasons:
            raise RecipeError(reasons[0])
        yield
    finally:
        if lock is not None:
            lock.release()
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _owner(folder: Path) -> str:
    pid, host = [*(folder / LOCK).read_text(encoding="utf-8").split(), "?", "?"][:2]
    return (
        f"another run, process {pid} on {host}, is writing to {folder}. (If that machine was lost with its run, "
        f"remove {folder / LOCK}.)"
    )


def clear(folder: Path) -> None:
    """
    Remove an earlier run: its checkpoints, and the files that its marker lists.

    A report without a marker is renamed to `report.earlier`, because it may hold files that no run wrote.
    """
    marker, report = read_marker(folder), folder / REPORT
    if marker is None and (report / "metrics.json").is_file():
        aside = next(path for n in range(10**6) if not (path := folder / f"report.earlier{n or ''}").exists())
        report.rename(aside)
        logger.warning("The report of the previous run was moved to %s.", aside)
    for path in checkpoint_folders(folder):
        if not is_foreign(path):
            shutil.rmtree(path, ignore_errors=True)
    for name in [*(marker or {}).get("files", []), STUDY, f"{REPORT}/{SKIPPED}"]:
        if (folder / name).resolve().is_relative_to(folder.resolve()):  # the list may have been edited
            (folder / name).unlink(missing_ok=True)
    for path in sorted((path for path in [report, *report.rglob("*")] if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


def discard_new_report(folder: Path) -> None:
    """Remove the folder of a new report, such as that of a run that failed before it replaced the earlier one."""
    shutil.rmtree(folder / NEW_REPORT, ignore_errors=True)


def begin(folder: Path) -> None:
    """Write the marker, and move the list of skipped examples from the new report's folder into the report."""
    files = (read_marker(folder) or {}).get("files", [])
    write_json_atomically(folder / MARKER, {"version": __version__, "files": files}, indent=2)
    fresh = folder / NEW_REPORT / SKIPPED
    if fresh.is_file():
        (folder / REPORT).mkdir(exist_ok=True)
        fresh.replace(folder / REPORT / SKIPPED)
    discard_new_report(folder)


def record(folder: Path) -> None:
    """List the files written since `begin` in the marker; a later run may replace only these."""
    marker = read_marker(folder)
    if marker is None:
        return
    began, before = (folder / MARKER).stat().st_mtime_ns, set(marker.get("files", []))
    left_out = {path for pattern in NOT_LISTED for path in folder.glob(pattern)}
    found = [path for top in folder.iterdir() if top not in left_out for path in (top, *top.rglob("*"))]
    names = {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in found if path.is_file()}
    files = sorted(name for name, changed in names.items() if changed >= began or name in before)
    write_json_atomically(folder / MARKER, {"version": __version__, "files": files}, indent=2)
