"""`hf-fer push`: uploads a finished run to the Hub, as a model or as a Space that runs it."""

import ast
import importlib.metadata
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError

from hf_fer import models
from hf_fer.data.hub import unreachable
from hf_fer.inference.loading import find_model
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.reporting.sharing import create_commit, shared_content, shared_files
from hf_fer.runtime.failures import RunError
from hf_fer.runtime.messages import one_message
from hf_fer.task.base import task_names
from hf_fer.task.find import load_task
from hf_fer.task.predictor import Predictor, predictors
from hf_fer.task.settings import shared_patterns
from hf_fer.weights.starting_points import check_folder

CARD = "README.md"
SPACE_FILES = Path(__file__).parent / "space"
GRADIO = "6.31.0"
"""Gradio version of a Space; the same as in `constraints.txt`."""
OPTIONAL = ("flashlight", "kenlm")
"""Modules of the extra `lm`, which a Space's page does not use."""
SPACE_PACKAGE = b'"""The part of hf_fer that the model of this Space needs."""\n'
PINNED = ("torch", "torchaudio", "torchvision", "transformers")
"""Libraries whose version decides whether a model loads; the versions of others depend on the Space's Gradio."""


def main(model: str, repo_id: str, *, space: bool, private: bool) -> int:
    """Push and print the address; returns the exit status. Errors that the user can fix exit with status 2 or 3."""
    with one_message():
        print((push_space if space else push_model)(Path(model), repo_id, private=private or None))
    return 0


def push_model(folder: Path, repo_id: str, *, private: bool | None = None) -> str:
    """
    Upload the files of a finished run that may leave the machine; files that have not changed are not sent.

    Args:
        folder: Output folder of the run, with its model.
        repo_id: `owner/name`; the repository is created if it does not exist.
        private: Whether a new repository is private; the account's default if `None`.

    Returns:
        The repository's URL.

    Raises:
        RecipeError: the folder has no complete model, the Hub cannot be reached, or it refuses the account.
        RunError: the upload failed after all retries.
    """
    system = system_of(folder)
    files = {name: shared_content(folder / name) for name in shared_files(folder, shared_patterns(load_task(system)))}
    if CARD in files:
        files[CARD] = card_of(folder, repo_id)
    return _upload(repo_id, "model", files, {}, private)


def push_space(folder: Path, repo_id: str, *, private: bool | None = None) -> str:
    """
    Upload a Space with the model of a finished run, a page for it, and the code that it needs without hf_fer.

    Args, returns and errors are those of `push_model`; `RecipeError` is also raised where the system has no page.
    """
    system = system_of(folder)
    predictor = next((one for one in predictors().values() if system_name(one) == system), None)
    if predictor is None or predictor.page is None:
        raise RecipeError(f"{system} has no page for a Space; push the model without --space.")
    files = space_files(folder, system, predictor, repo_id)
    return _upload(repo_id, "space", files, {"space_sdk": "gradio"}, private)


def system_of(folder: Path) -> str:
    """
    The system of a finished run, read from its report or, without one, from its model.

    Raises:
        RecipeError: the folder does not exist, or has no complete model.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder}: there is no such folder; give the folder of a finished run.")
    report = folder / "report" / "metrics.json"
    if not report.is_file():
        return system_name(find_model(str(folder)).predictor)
    system = json.loads(report.read_text(encoding="utf-8"))["task"]
    check_choice(f"the task in {report}", system, task_names())
    check_folder(str(folder), load_task(system).model_type, task_names())
    return system


def system_name(predictor: type[Predictor]) -> str:
    """Name of a predictor's system, from the module that defines it."""
    return predictor.__module__.removeprefix(f"{models.__name__}.").partition(".")[0]


def card_of(folder: Path, name: str) -> bytes:
    """The model's card, with Python examples that load `name` instead of the run's folder."""
    card = (folder / CARD).read_text(encoding="utf-8")
    written = re.compile(rf'"(?:[^"\s]*/)?{re.escape(folder.resolve().name)}"')
    parts = re.split(r"(^```python\n.*?^```$)", card, flags=re.MULTILINE | re.DOTALL)
    return "".join(written.sub(f'"{name}"', part) if part.startswith("```python") else part for part in parts).encode()


def space_files(folder: Path, system: str, predictor: type[Predictor], repo_id: str) -> dict[str, str | bytes]:
    """Path in the Space -> local file or content; see `push_space`."""
    code = sorted(file for place in models.__path__ for file in Path(place, system).glob("*.py"))
    patterns = [
        pattern for pattern in shared_patterns(load_task(system)) if "/" not in pattern and not pattern.endswith(".py")
    ]
    settings = {"system": f"{models.__name__}.{system}", "task": predictor.pipeline_task, "input": predictor.page}
    title = repo_id.partition("/")[2] or repo_id
    card = (SPACE_FILES / "card.md").read_text(encoding="utf-8")
    package = models.__name__.split(".")
    folders = {"/".join([*package[: depth + 1], "__init__.py"]): SPACE_PACKAGE for depth in range(len(package))}
    return {
        **folders,
        "app.py": str(SPACE_FILES / "app.py"),
        "space.json": json.dumps({**settings, "title": title}, indent=2).encode(),
        "requirements.txt": "".join(f"{line}\n" for line in requirements(code)).encode(),
        CARD: card.format(title=title, system=system, gradio=GRADIO).encode(),
        **{"/".join([*package, system, file.name]): str(file) for file in code},
        **{f"model/{name}": shared_content(folder / name) for name in shared_files(folder, patterns) if name != CARD},
    }


def requirements(code: Iterable[Path]) -> list[str]:
    """Requirements of the files' imports; the installed version is pinned if it decides whether a model loads."""
    names = {"torch", "torchvision", "transformers"}  # image processors of transformers need torchvision
    for file in code:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    own = {models.__name__.partition(".")[0], *sys.stdlib_module_names, *OPTIONAL}
    known = importlib.metadata.packages_distributions()
    found = sorted({known[name][0] for name in names - own if name in known}, key=str.lower)
    return [f"{name}=={version(name)}" if name in PINNED else name for name in found]


def version(distribution: str) -> str:
    """The installed version without its local build label, such as `+cu126`."""
    return importlib.metadata.version(distribution).partition("+")[0]


def _upload(
    repo_id: str, kind: str, files: dict[str, str | bytes], options: dict[str, Any], private: bool | None
) -> str:
    if reason := unreachable():
        raise RecipeError(f"{reason}. Connect this machine.")
    api = HfApi()
    _told(api.whoami, "the Hub refuses this account ({}): run `hf auth login` with a write token.", RecipeError)
    try:
        made = _told(
            lambda: api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, **options),
            f"{repo_id} cannot be created or written to ({{}}).",
            RecipeError,
        )
    except HFValidationError as error:
        raise RecipeError(f"{repo_id}: not a valid repository name ({error}).") from error
    operations = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
    _told(
        lambda: create_commit(api, made.repo_id, operations, "Pushed by hf-fer", repo_type=kind),
        "the upload failed ({}). Files that were sent are kept: run the same command to continue.",
        RunError,
    )
    return str(made)


def _told(call: Callable[[], Any], message: str, kind: type[Exception]) -> Any:
    """The result of a call; its error is raised as `kind` with the message."""
    try:
        return call()
    except HFValidationError:
        raise
    except Exception as error:  # raised by the Hub client, the HTTP client or the disk
        raise kind(message.format(" ".join(str(error).split()) or type(error).__name__)) from error
