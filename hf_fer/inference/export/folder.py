"""The folder of an export: its contents, and a check that they are unchanged since they were written."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors.torch import load_file
from transformers import AutoConfig

import hf_fer
from hf_fer.data.loading import write_json_atomically
from hf_fer.inference.export.graphs import FORMATS, load_graph
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.export import ExportedModel, TensorSpec, exporters
from hf_fer.weights.starting_points import read

MANIFEST = "export.json"
KEPT = "kept.safetensors"
"""File of the weights that a pipeline needs beside the graph."""
REMEDY = "Export the model again."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """
    Contents of `export.json`, which describes an export.

    Args:
        pipeline_task: Pipeline task of the model's system.
        form, dtype: Format of the graph, and type of its weights.
        inputs: Name -> type and shape of each input of the graph, in order.
        outputs: Names of the graph's outputs, in order.
        accepted: Reasons to refuse the export that the user overrode.
        files: Name -> SHA-256 digest of every other file in the folder.
        hf_fer: Version of hf_fer that wrote the export.
    """

    pipeline_task: str
    form: str
    dtype: str
    inputs: dict[str, TensorSpec]
    outputs: list[str]
    accepted: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    hf_fer: str = hf_fer.__version__

    def write(self, folder: Path) -> None:
        """Write the manifest, with the digests of all other files in the folder."""
        files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
        write_json_atomically(folder / MANIFEST, {**asdict(self), "files": files}, indent=2)


def is_export(path: str | Path) -> bool:
    """Whether a path is an export's folder."""
    return (Path(path) / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """
    Read `export.json` of an export.

    Raises:
        RecipeError: the file cannot be read, or names a system or a format that this version does not have.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["inputs"] = {name: TensorSpec(**spec) for name, spec in found["inputs"].items()}
        manifest = Manifest(**found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecipeError(f"{path} cannot be read ({error}). {REMEDY}") from error
    if manifest.pipeline_task not in exporters() or manifest.form not in FORMATS:
        raise RecipeError(
            f"{path}: this version of hf_fer cannot load {manifest.pipeline_task} as {manifest.form}. {REMEDY}"
        )
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises `RecipeError` if a file of the export is missing or does not have the digest in the manifest."""
    if FORMATS[manifest.form] not in manifest.files:
        raise RecipeError(f"{folder / MANIFEST} does not name {FORMATS[manifest.form]}. {REMEDY}")
    for name, known in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise RecipeError(f"{path} is missing: the export is incomplete. {REMEDY}")
        if sha256(path) != known:
            raise RecipeError(
                f"{path} differs from the file that was exported ({path.stat().st_size} bytes, and not the SHA-256 "
                f"that {MANIFEST} has): it is truncated, or belongs to another export. {REMEDY}"
            )


def load_export(folder: Path, manifest: Manifest | None = None) -> ExportedModel:
    """
    Load the stand-in for the exported model.

    Args:
        folder: Folder of the export.
        manifest: Manifest of the folder, if it has been read already; the files are then not checked again.

    Raises:
        RecipeError: a file is missing or has changed, or the runtime is not installed.
    """
    if manifest is None:
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        if manifest.accepted:
            logger.warning("%s was exported in spite of this: %s", folder, " ".join(manifest.accepted))
    exporter = exporters()[manifest.pipeline_task]
    kept = folder / KEPT
    return exporter.stand_in(
        read(AutoConfig.from_pretrained, str(folder)),
        str(folder),
        load_graph(folder, manifest.form, list(manifest.inputs), manifest.outputs),
        manifest.inputs,
        exporter.output_class,
        weights=load_file(kept) if kept.is_file() else {},
    )


def sha256(path: Path) -> str:
    """SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
