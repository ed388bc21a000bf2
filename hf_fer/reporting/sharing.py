"""Uploads to the Hub: the files that may leave the machine, and commits that retry."""

import json
import logging
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.dynamic_module_utils import custom_object_save
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy

from hf_fer.data.loading import write_json_atomically
from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.recipe.paths import without_folders

logger = logging.getLogger(__name__)

WAITS = (1.0, 4.0, 16.0, 60.0)
"""Seconds to wait before each retry of an upload."""
CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2")
"""HTTP clients of huggingface_hub; their errors without a response are network errors."""

MODEL_FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    "provenance.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
)
"""Glob patterns of a saved model's files, relative to its folder; `*` and `?` do not cross a `/`."""


def shared_files(folder: str | Path, patterns: Iterable[str]) -> list[str]:
    """Files in a folder that match a glob pattern, as sorted relative POSIX paths; symbolic links are left out."""
    folder = Path(folder)
    found = (path for pattern in patterns for path in folder.glob(pattern) if path.is_file() and not path.is_symlink())
    return sorted({path.relative_to(folder).as_posix() for path in found})


def upload(
    folder: str | Path,
    repo_id: str,
    token: str | None,
    patterns: Iterable[str],
    message: str,
    path_in_repo: str | None = None,
    waits: Sequence[float] | None = None,
) -> None:
    """
    Upload the files of a folder that match the patterns in one commit.

    Args:
        folder: Folder of the model or of one of its checkpoints.
        repo_id: Name of a model repository that exists.
        token: Hub token with write access; the stored one if `None`.
        patterns: Glob patterns relative to the folder.
        message: Commit message.
        path_in_repo: Folder of the repository to upload to; its root if `None`.
        waits: See `create_commit`.
    """
    operations = [
        CommitOperationAdd("/".join(filter(None, (path_in_repo, name))), shared_content(Path(folder, name)))
        for name in shared_files(folder, patterns)
    ]
    create_commit(HfApi(token=token), repo_id, operations, message, waits=waits)


def create_commit(
    api: HfApi,
    repo_id: str,
    operations: list[CommitOperationAdd],
    message: str,
    repo_type: str = "model",
    waits: Sequence[float] | None = None,
) -> None:
    """
    Create a commit, and retry it after transient errors of the Hub or the network.

    A retry does not upload large files again that have already arrived. Every other error, and that of the last try,
    is raised.

    Args:
        api: Client with the token.
        repo_id: Name of a repository that exists.
        operations: Files to add; the client leaves out those that have not changed.
        message: Commit message.
        repo_type: `model`, `dataset` or `space`.
        waits: Seconds to wait before each retry; `WAITS` if `None`.
    """
    for wait in (*(WAITS if waits is None else waits), None):
        try:
            api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type)
            return
        except Exception as error:  # its class depends on the HTTP client of the installed huggingface_hub
            if wait is None or not passes(error):
                raise
            logger.warning("The upload failed (%s); it is retried in %g s.", " ".join(str(error).split()), wait)
            time.sleep(wait)


def passes(error: Exception) -> bool:
    """Whether an error is transient: a server error, status 429 (too many requests) or a network error."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code == 429 or response.status_code >= 500
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.partition(".")[0] in CLIENTS


def shared_content(path: Path) -> str | bytes:
    """A file's path, or the bytes of a JSON file from which the folders of this machine were removed."""
    if path.suffix != ".json" or path.name == "tokenizer.json":
        return str(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    told = without_folders(content, lambda folder: folder.exists())
    return str(path) if told == content else json.dumps(told, indent=2, ensure_ascii=False).encode()


class UploadCheckpoints(TrainerCallback):
    """
    Uploads the model of each checkpoint during training.

    By the recipe's `hub_strategy`, `every_save` uploads to the root of the repository, `checkpoint` to
    `last-checkpoint/`, and `all_checkpoints` to `checkpoint-<step>/`. A failed upload is only a warning, because the
    model is uploaded again after training.

    Args:
        repo_id: Name of a repository that exists.
        patterns: Glob patterns of the files that may be uploaded.
    """

    def __init__(self, repo_id: str, patterns: Iterable[str]):
        self.repo_id = repo_id
        self.patterns = tuple(patterns)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        places = {HubStrategy.CHECKPOINT: f"last-{PREFIX_CHECKPOINT_DIR}", HubStrategy.ALL_CHECKPOINTS: name}
        if not state.is_world_process_zero:
            return
        try:
            upload(
                Path(args.output_dir, name),
                self.repo_id,
                args.hub_token,
                self.patterns,
                f"Model after step {state.global_step}",
                places.get(args.upload_strategy),
                waits=(),  # no retries: training must not wait, and the next checkpoint is uploaded anyway
            )
        except Exception as error:  # no network error may end hours of training
            reason = re.sub(r"\s+", " ", str(error))
            logger.warning("The model of step %d was not uploaded (%s); training goes on.", state.global_step, reason)


def add_pipeline(folder: str | Path, pipeline_task: str) -> None:
    """
    Save a registered pipeline's code with a model and name it in `config.json`, as `Pipeline.save_pretrained` does.

    `pipeline(pipeline_task, model=folder, trust_remote_code=True)` then works where hf_fer is not installed.
    """
    path = Path(folder, "config.json")
    registered = PIPELINE_REGISTRY.supported_tasks[pipeline_task]
    pipeline_class = registered["impl"]
    entry = {
        "impl": f"{pipeline_class.__module__.rpartition('.')[2]}.{pipeline_class.__name__}",
        "pt": [model_class.__name__ for model_class in registered["pt"]],
        "type": registered["type"],
    }
    config = json.loads(path.read_text(encoding="utf-8"))
    config["custom_pipelines"] = {pipeline_task: entry}
    write_json_atomically(path, config, indent=2)
    custom_object_save(pipeline_class, folder)
